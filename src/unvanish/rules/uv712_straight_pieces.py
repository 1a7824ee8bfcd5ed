"""UV712: a second derivative of a network of straight pieces, which is zero everywhere."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import is_piecewise_linear
from unvanish.words.numbers import listing


@rule(
    "UV712",
    "dead",
    "second derivative of straight pieces",
    tier="dead_by_construction",
    levels=("error",),
    needs=("calls",),
    fires_on=("equation-relu", "equation-leaky-relu"),
    silent_on=(
        "equation", "equation-relu-first", "relu-he-20", "small-cnn", "small-gpt", "lstm", "dead-relu", "zero-head",
        "sine-siren", "generator-frozen-discriminator", "converged-digits",
    ),
)  # fmt: skip
def straight_pieces(flow: Flow) -> list[Statement]:
    """A second derivative is exactly zero, because the network is made of straight pieces.

    Example: a network of ReLU that is to solve u'' = f. Its derivative is a constant on each piece, the derivative of
    that is 0, and the residual is f at any weights.

    Why: ReLU, leaky ReLU and hardtanh bend in points alone, which no sample meets. What a loss asks of the second
    derivative reaches no weight; other terms of the loss, such as those of the boundary, go on and may look like a
    training that works.

    Evidence: ``autograd.grad`` of what an ``autograd.grad`` has given is zero in all entries, the first is not, and
    every activation before is of straight pieces. Derivatives taken by ``torch.func`` are not seen.

    What helps: an activation that bends everywhere: tanh, sine, softplus, SiLU.

    Source: Raissi, Perdikaris & Karniadakis 2019, Physics-informed neural networks; Sitzmann, Martel, Bergman, Lindell
    & Wetzstein 2020, Implicit neural representations with periodic activation functions (why ReLU has no second
    derivative to fit).
    """
    zero = next((c for c in flow.calls if c.derivative > 1 and c.log10_rms == -math.inf), None)
    if zero is None:
        return []
    before = flow.calls[: zero.index]
    bent = [c for c in before if c.role == "slopes" and c.inputs]
    first = any(c.derivative == 1 and c.log10_rms is not None and c.log10_rms > -math.inf for c in before)
    if not first or not bent or not all(map(is_piecewise_linear, bent)):
        return []
    names = listing(sorted({c.name.strip("_") for c in bent}))
    where = f" at {zero.source}" if zero.source else ""
    message = (
        f"A second derivative, by autograd.grad{where}, is exactly zero in every entry: the network is made of"
        f" straight pieces ({names}), whose slopes do not change with the inputs. What the loss asks of this derivative"
        " reaches no weight, whatever the weights are; other terms of the loss may fall all the same. Take an"
        " activation that bends everywhere, such as tanh, softplus or SiLU."
    )
    evidence = (Evidence(name="rms of the second derivative", value=0.0, relation="=", threshold=0.0),)
    return [Statement(cause=bent[-1].name, message=message, evidence=evidence)]

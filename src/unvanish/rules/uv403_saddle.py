"""UV403: several zero tensors in a row hold each other at zero."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import judged, names, sources, subject


@rule(
    "UV403",
    "saddle",
    "saddle of zero weights",
    tier="saddle",
    levels=("error",),
    needs=("zeros",),
    remedies=("zero-factors", "he-init", "orthogonal-init", "lsuv-init"),
    fires_on=("all-zero-weights",),
    silent_on=("zero-head", "rezero", "lora-zero-b", "dead-relu", "relu-he-20", "lstm", "dead-units"),
)
def saddle(flow: Flow) -> list[Statement]:
    """The gradient is exactly zero only because the weights are: no tensor gets the first push.

    Example: all weight matrices set to zero. The gradient of each is a product that contains another one, so every
    one of them is zero, and gradient descent never leaves the point.

    Why: at such a point the loss is flat to first order although better points lie next to it. One zero tensor alone is
    harmless (a zero head, LoRA's B): it has a gradient of its own and opens the way. Two in a row wait for each other.

    Evidence: log10 of the Jacobian norm is -inf; after the exactly-zero tensors were moved a little a gradient came
    back; and none of the zero tensors of other layers has a gradient now, so none can open the way.

    What helps: a random initialisation of the ordinary size for all but one tensor of each path.

    Source: Saxe, McClelland & Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks; Dauphin et al. 2014, Identifying and attacking the saddle point problem in high-dimensional non-convex
    optimization.
    """
    layers = judged(flow, "saddle")
    if not layers:
        return []
    message = (
        f"{subject(flow, layers, 'gets', 'get')} exactly no gradient because weights are zero, and none of those"
        f" that block the way has a gradient of its own; moved a little, they let the signal through.{sources(layers)}"
    )
    return [
        Statement(
            layers=names(layers),
            cause="zero weights",
            message=message,
            evidence=(Evidence(name="log10_jacobian_norm", value=-math.inf, relation="=", threshold=-math.inf),),
        )
    ]

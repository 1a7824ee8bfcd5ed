"""The time axis of a network: how much of the error signal reaches the inputs of each step of a sequence.

One more forward pass and one walk back from random cotangents of the last outputs, and from the loss. The gradient at
the inputs of each step is read on a log scale. For torch's LSTM, GRU and RNN a twin, unrolled in float64, shows the
signal at the state of each step too, however small.

Source: Hochreiter 1991, Untersuchungen zu dynamischen neuronalen Netzen; Bengio, Simard & Frasconi 1994, Learning
long-term dependencies with gradient descent is difficult; Pascanu, Mikolov & Bengio 2013, On the difficulty of training
recurrent neural networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.decide.reach import OUT_OF_REACH, THOUSANDTH
from unvanish.evidence.dependence import dependence, spread
from unvanish.evidence.moving import fresh
from unvanish.evidence.profile import Channel, below, gain_of, gradients, horizon_of, relative, without_rounding
from unvanish.evidence.sequences import Last, Strand, Taps, last_of, strands_of
from unvanish.evidence.twin import Twin, twin_of
from unvanish.flow.look import Look
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.records import TimeFacts
from unvanish.trace.capture import autocast
from unvanish.trace.scaled import LOG_ZERO, norm_of, normal_like
from unvanish.trace.structure import inner_loss, rebuild, tensors
from unvanish.words.numbers import SMALLEST_NORMAL

MOST_SHOWN = 96
"""Steps whose numbers are kept; of a longer sequence so many at even distances."""
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def time_facts(look: Look, cut: bool = False, states: bool = True) -> tuple[TimeFacts, ...]:
    """A record for each recurrent module of torch's that was called; where there is none, one for the inputs.

    Empty where nothing has a time axis. A module that could not be looked at has the reason in ``why``. ``cut``:
    whether a state is cut out of the graph between steps, which else are taken for nothing that belongs together.
    ``states``: whether those that a module keeps inside are looked at.
    """
    walks = look.capture.walks
    known = {name: module for name, module in look.model.named_modules() if isinstance(module, RECURRENT)}
    axes = [] if known or walks.attends else walks.axes()
    if not known and not axes:
        return ()
    taps = Taps(known, axes)
    why = "its calls were not seen"
    try:
        found = _looked(look, taps, known, cut, states)
    except Exception as error:  # whatever the program makes of a second pass, the rest of the check stands
        why = f"the pass along its steps raised {type(error).__name__}: {error}"
        found = [] if known else [TimeFacts(layer="", kind=axes[0].call, steps=axes[0].steps, why=why)]
    seen = {facts.layer for facts in found}
    missed = [TimeFacts(layer=n, kind=type(m).__name__, steps=0, why=why) for n, m in known.items() if n not in seen]
    return (*found, *missed)


def _looked(look: Look, taps: Taps, modules: Mapping[str, nn.Module], cut: bool, states: bool) -> list[TimeFacts]:
    problem, model, effort, seed = look.problem, look.model, look.effort, look.seed
    again = fresh(problem)
    with seeded(seed), torch.enable_grad(), autocast(problem, model):
        with taps.watching():
            object.__setattr__(again, "inputs", taps.tap_all(again.inputs))
            outputs = again.outputs(model)
        loss = again.loss(outputs)
    strands = strands_of(taps, modules)
    if not strands:
        return []
    own = None if not look.capture.own_loss else loss if isinstance(outputs, Tensor) else inner_loss(outputs)
    ends = [t for t in tensors(outputs) if t.is_floating_point() and not t.is_nested and t is not own]
    last = last_of(strands, problem.targets)
    asked = None if look.capture.own_loss else _asked(look, again, outputs, last)
    probe: Channel = [(t, _cotangent(t, last, seed + k)) for k, t in enumerate(ends) if t.grad_fn is not None]
    channels: list[Channel] = [probe or [(loss, torch.ones_like(loss))]]
    if effort != "quick":
        channels.append([(loss, torch.ones_like(loss))])
    leaves = [leaf for strand in strands for leaf in strand.leaves]
    del outputs, loss, ends, probe
    found = gradients(channels, leaves)
    channels.clear()
    strands = [each for each in strands if each.layer or cut or _heard(each, found[0]) > 1]
    facts = [_facts(strand, modules if states else {}, found, asked, effort, seed) for strand in strands]
    return [each for each in facts if each is not None]


def _heard(strand: Strand, found: Mapping[int, Any]) -> int:
    """How many steps get a signal: a single one stands among samples, or steps that nothing connects."""
    return sum(s > LOG_ZERO for s in strand.profile(found))


def _cotangent(output: Tensor, last: Last, seed: int) -> Tensor:
    """N(0, 1) / rms of the output at the last step where it has steps, and everywhere where it has none."""
    noise = normal_like(output.detach(), torch.Generator().manual_seed(seed))
    rms = norm_of(output.detach()) / math.sqrt(max(1, output.numel()))
    noise = noise / (rms if 0.0 < rms < math.inf else 1.0)
    there = last(output)
    if there is None:
        return noise
    mask = torch.zeros_like(noise)
    there(mask).fill_(1.0)
    return noise * mask


def _asked(look: Look, again: Problem, outputs: Any, last: Last) -> Callable[[int], Tensor | None]:
    """What the targets ask of the last outputs: the loss's derivative by outputs that are alike, (samples, …)."""
    free: list[Tensor] = []

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.is_nested:
            return tensor.detach()
        values = tensor.detach()
        alike = values.mean(tuple(range(max(1, values.ndim - 1))), keepdim=True) if values.ndim else values
        free.append(alike.expand_as(values).clone().requires_grad_())
        return free[-1]

    try:
        with seeded(look.seed), torch.enable_grad(), autocast(look.problem, look.model):
            loss = again.loss(rebuild(outputs, cut))
            wanted = torch.autograd.grad(loss, free, allow_unused=True)
    except Exception:  # a loss that refuses outputs without their graph
        wanted = ()
    parts = [(t, g) for t, g in zip(free, wanted, strict=False) if g is not None]

    def of(samples: int) -> Tensor | None:
        for tensor, gradient in parts:
            there = last(tensor)
            found = gradient if there is None else there(gradient)
            if found.ndim and len(found) == samples:
                return found.reshape(samples, -1)
        return None

    return of


def _facts(
    strand: Strand,
    modules: Mapping[str, nn.Module],
    found: Sequence[dict[int, Any]],
    asked: Callable[[int], Tensor | None] | None,
    effort: str,
    seed: int,
) -> TimeFacts | None:
    """The record of one sequence; None where the outputs do not depend on the inputs."""
    facts = TimeFacts(layer=strand.layer, kind=strand.kind, steps=strand.steps)
    smallest = SMALLEST_NORMAL.get(str(strand.dtype).removeprefix("torch."), SMALLEST_NORMAL["float32"])
    raw = [strand.profile(known) for known in found]
    if max(raw[0], default=LOG_ZERO) == LOG_ZERO:
        why = "no error signal comes back to its steps: the outputs do not depend on them"
        return facts.replace(why=why) if strand.layer else None
    if not all(s < math.inf for s in raw[0]):
        return facts.replace(why="the error signal at its steps is not finite")
    signals = [without_rounding(each, smallest) for each in raw]
    twin = _twin(strand, modules, found[0], effort)
    if isinstance(twin, Twin) and None in signals[0]:
        signals[0] = list(twin.inputs)
    signal = relative(signals[0])
    at = spread(strand.steps, MOST_SHOWN)
    gain = gain_of(signal)
    faint = below(signal, THOUSANDTH)
    eps = math.log10(torch.finfo(strand.dtype).eps)
    states = strand.states(found[0]) or (list(twin.states) if isinstance(twin, Twin) else [])
    facts = facts.replace(
        at=tuple(at),
        log10_signal=_at(at, signal),
        log10_loss_signal=_at(at, relative(signals[1])) if len(signals) > 1 else (),
        log10_state=_at(at, relative(states)) if states else (),
        log10_gain=gain,
        log10_rise=strand.rise(found[0]),
        horizon=horizon_of(signal, THOUSANDTH, gain),
        smallest_horizon=horizon_of(signal, smallest, gain),
        faint=len(faint),
        lost=sum(s is None or LOG_ZERO < s < eps for s in signal),
        states_unseen=twin if isinstance(twin, str) and not states else twin.left_out if isinstance(twin, Twin) else "",
    )
    out = below(signal, OUT_OF_REACH)
    wanted = None if asked is None or not out or effort == "quick" else asked(strand.samples)
    if wanted is None:
        return facts
    told = dependence(*strand.told_apart(out, wanted), seed)
    if told is None:
        return facts
    return facts.replace(**told._asdict())


def _at(places: Sequence[int], signal: Sequence[float | None]) -> tuple[float | None, ...]:
    return tuple(signal[place] for place in places)


def _twin(strand: Strand, modules: Mapping[str, nn.Module], found: dict[int, Any], effort: str) -> Twin | str:
    module = modules.get(strand.layer)
    if not isinstance(module, nn.RNNBase):
        return ""
    if effort == "quick":
        return "its states were not looked at with effort quick"
    return twin_of(module, strand, found)

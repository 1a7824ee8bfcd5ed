"""A look at an edited copy before it is trained: does every layer still reach the outputs?"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from unvanish.decide.limits import VANISHED
from unvanish.evidence.last import last_call, output_call
from unvanish.evidence.output_loss import OutputLoss, loss_of_outputs
from unvanish.flow.layers import owners
from unvanish.flow.transmission import Transmitted, output_cotangents
from unvanish.pipeline import diagnose, quick_look
from unvanish.preserve import untouched
from unvanish.problem import Problem
from unvanish.records import LayerFlow, UnvanishError
from unvanish.rules.conditions import TAKES_LOGITS
from unvanish.trace.calls import Capture, root_of
from unvanish.trace.capture import record
from unvanish.trace.scaled import LOG_ZERO
from unvanish.trace.structure import tensors
from unvanish.trials.train import Copy

EXCUSED = ("gated", "saddle", "frozen", "unused")
OF_THE_LAST_CALLS = {"UV701", "UV706"}
"""Findings that need a last call of a certain kind: one that limits the outputs."""
CLEAR = VANISHED + 0.3
"""A bound from here on is believed; below it a full walk decides."""
FAINT = -15.0
"""log10 of the largest T below which float32 may have lost part of it: no bound then."""


def transmission(problem: Problem, each: Copy, staying: Collection[str] = ()) -> float:
    """The lowest log10 transmission of a layer of the edited, untrained copy; 0 where it could not be looked at.

    −inf where one of the findings ``staying`` is still there. Layers that are closed on purpose do not count: a full
    report tells them, and is asked for only where nothing else decides. Where one plain backward pass shows that no
    layer can be cut off, what it shows is enough.
    """
    edited = replace(each.draft.problem, autocast=problem.autocast)
    try:
        if not staying or _are_gone(edited, staying):
            if (bound := _bound(edited)) is not None and bound > CLEAR:
                return bound
            if (found := _decided(quick_layers(edited))) is not None:
                return found
        report = diagnose(edited, effort="auto" if staying else "quick")
    except UnvanishError:
        return 0.0
    if any(finding.code in staying for finding in report.findings):
        return -math.inf
    return _lowest([layer for layer in report.layers if layer.verdict not in EXCUSED])


def _are_gone(problem: Problem, staying: Collection[str]) -> bool:
    """Whether the last calls alone rule all of these findings out, whatever the loss makes of them."""
    if not OF_THE_LAST_CALLS.issuperset(staying):
        return False
    model, _ = problem.build()
    with untouched(model, 0, problem.loss_fn):
        capture = record(problem, model)
        try:
            output_loss = loss_of_outputs(problem, capture)
            return isinstance(output_loss, str) or not any(code in staying for code in _possible(capture, output_loss))
        finally:
            capture.release()


def _possible(capture: Capture, output_loss: OutputLoss) -> Iterator[str]:
    """The findings about the last calls that their kinds and what they give now allow."""
    last, own = last_call(capture, output_loss), output_call(capture, output_loss)
    kind = "" if last is None else last.kind
    ahead = () if last is None else capture.calls[last.call.index + 1 :]
    logits = any(call.name in TAKES_LOGITS for call in ahead)
    if kind in ("bounded", "clipped") and not logits:
        yield "UV701"
    held = False
    if own is not None and own.kind == "clipped":
        held = bool((own.output_loss.now[0] == (own.high if own.low is None else own.low)).any())
    if kind == "normalised" or (kind and logits) or held:
        yield "UV706"


def _bound(problem: Problem) -> float | None:
    """What no layer's transmission lies below, up to what rounding and shared modules make; None where unknown.

    The same random output cotangents as in a walk, sent back by torch itself: T = ‖∂f/∂w‖ ‖w‖ of each layer against the
    largest of all layers, which is at least the largest behind it. A gradient out of its type's range only lowers it.
    """
    model, _ = problem.build()
    live = [p for p in model.parameters() if p.requires_grad]
    narrow = problem.autocast is not None or any(p.dtype not in (torch.float32, torch.float64) for p in live)
    if problem.loss_fn is None or narrow or any(map(is_parametrized, model.modules())):
        return None
    capture = Capture(model)
    try:
        with untouched(model, 0, problem.loss_fn), torch.enable_grad():
            outputs = [t for t in tensors(problem.outputs(model)) if t.is_floating_point() and t.requires_grad]
            capture.outputs = [root_of(t) for t in outputs]
            sent = [cotangent for _, cotangent in output_cotangents(capture, 0)]
            slopes = _log10_norms(live, torch.autograd.grad(outputs, live, sent))
        return _lowest_of(model, slopes, _log10_norms(live, live))
    except Exception:  # what fails here is told by the walk
        return None
    finally:
        capture.release()


def _log10_norms(parameters: Sequence[nn.Parameter], found: Sequence[Tensor]) -> dict[int, float]:
    norms = torch.stack([torch.linalg.vector_norm(t.detach()) for t in found]).tolist()
    logs = (math.log10(norm) if norm > 0.0 else LOG_ZERO for norm in norms)
    return dict(zip(map(id, parameters), logs, strict=True))


def _lowest_of(model: nn.Module, slopes: dict[int, float], norms: dict[int, float]) -> float | None:
    """The lowest transmission against the largest of all layers; None where a number is not finite."""
    owned = [{n: p for n, p in parameters.items() if p.requires_grad} for _, _, parameters in owners(model)]
    sent = [Transmitted.of(live, slopes, norms) for live in owned if live]
    largest, densest = max(each.own for each in sent), max(each.own - each.size for each in sent)
    if not largest > FAINT or not all(math.isfinite(each.full) for each in sent):
        return None
    return min(each.against(largest, densest) for each in sent)


def quick_layers(problem: Problem) -> tuple[LayerFlow, ...]:
    """The layers after one walk, without verdicts; none where loss or outputs are not finite or have no gradient."""
    model, _ = problem.build()
    with untouched(model, 0, problem.loss_fn):
        return quick_look(problem, model)[0]


def _decided(layers: Sequence[LayerFlow]) -> float | None:
    """The lowest transmission, where no verdict can change on which side of the veto it lies; else None."""
    low = [a for a in layers if a.log10_transmission is not None and a.log10_transmission < VANISHED]
    if not low:
        return _lowest(layers)
    # a layer is excused only for a gate, or for outputs that do not depend on it at all
    sure = [a for a in low if not a.gate and a.log10_jacobian_norm not in (None, LOG_ZERO)]
    return _lowest(sure) if sure else None


def _lowest(layers: Sequence[LayerFlow]) -> float:
    return min((a.log10_transmission for a in layers if a.log10_transmission is not None), default=0.0)

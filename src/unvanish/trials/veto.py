"""A look at an edited copy before it is trained: does every layer still reach the outputs?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from unvanish.decide.limits import VANISHED
from unvanish.flow.layers import owners
from unvanish.flow.transmission import Transmitted, output_cotangents
from unvanish.pipeline import diagnose, quick_look
from unvanish.preserve import untouched
from unvanish.problem import Problem
from unvanish.records import LayerFlow, UnvanishError
from unvanish.trace.calls import Capture, root_of
from unvanish.trace.scaled import LOG_ZERO
from unvanish.trace.structure import tensors
from unvanish.trials.outlasting import Ends, outlasts
from unvanish.trials.train import Copy

EXCUSED = ("gated", "saddle", "frozen", "unused")
CLEAR = VANISHED + 0.3
"""A bound from here on is believed; below it a full walk decides."""
FAINT = -15.0
"""log10 of the largest T below which float32 may have lost part of it: no bound then."""


def transmission(
    problem: Problem, each: Copy, staying: Collection[str] = (), ends: Callable[[], Ends | None] = lambda: None
) -> float:
    """The lowest log10 transmission of a layer of the edited, untrained copy; 0 where it could not be looked at.

    −inf where one of the findings ``staying`` is still there. Layers that are closed on purpose do not count: a full
    report tells them, and is asked for only where nothing else decides. Where one plain backward pass shows that no
    layer can be cut off, what it shows is enough. ``ends``: gives those of the network as it is.
    """
    edited = replace(each.draft.problem, autocast=problem.autocast)
    walked: list[LayerFlow] = []
    try:
        stays = outlasts(edited, staying, ends, walked.extend) if staying else False
        if stays:
            return -math.inf
        if stays is False:
            if walked and (lowest := _lowest(walked)) >= VANISHED:
                return lowest
            if (bound := _bound(edited)) is not None and bound > CLEAR:
                return bound
            if (decided := _decided(walked or quick_layers(edited))) is not None:
                return decided
        report = diagnose(edited, effort="auto" if staying else "quick")
    except UnvanishError:
        return 0.0
    if any(finding.code in staying for finding in report.findings):
        return -math.inf
    return _lowest([layer for layer in report.layers if layer.verdict not in EXCUSED])


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


def _log10_norms(parameters: Sequence[nn.Parameter], tensors: Sequence[Tensor]) -> dict[int, float]:
    norms = torch.stack([torch.linalg.vector_norm(t.detach()) for t in tensors]).tolist()
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
    if all(a.log10_jacobian_norm == LOG_ZERO for a in layers):
        return LOG_ZERO  # a layer is excused by what carries the signal in its place, and here nothing does
    # a layer is excused only for a gate, or for outputs that do not depend on it at all
    sure = [a for a in low if not a.gate and a.log10_jacobian_norm not in (None, LOG_ZERO)]
    return _lowest(sure) if sure else None


def _lowest(layers: Sequence[LayerFlow]) -> float:
    return min((a.log10_transmission for a in layers if a.log10_transmission is not None), default=0.0)

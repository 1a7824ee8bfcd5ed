"""A look at an edited copy before it is trained: does every layer still reach the outputs?"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from unvanish.backward import supported
from unvanish.capture import record
from unvanish.layers import layers_of
from unvanish.measure import measure
from unvanish.observe import observe
from unvanish.pipeline import diagnose
from unvanish.preserve import untouched
from unvanish.problem import Problem
from unvanish.records import LayerFlow, UnvanishError
from unvanish.structure import tensors
from unvanish.trials.train import Copy

VETO = -2.5
"""log10 of the relative transmission below which a layer counts as cut off."""
EXCUSED = ("gated", "saddle", "frozen", "unused")


def transmission(problem: Problem, each: Copy, staying: Collection[str] = ()) -> float:
    """The lowest log10 transmission of a layer of the edited, untrained copy; 0 where it could not be looked at.

    −inf where one of the findings ``staying`` is still there. Layers that are closed on purpose do not count: a full
    report tells them, and is asked for only where nothing else decides.
    """
    edited = replace(each.draft.problem, autocast=problem.autocast)
    try:
        if not staying and (found := _decided(_walked(edited))) is not None:
            return found
        report = diagnose(edited, effort="auto" if staying else "quick")
    except UnvanishError:
        return 0.0
    if any(finding.code in staying for finding in report.findings):
        return -math.inf
    return _lowest([layer for layer in report.layers if layer.verdict not in EXCUSED])


def _walked(problem: Problem) -> tuple[LayerFlow, ...]:
    """The layers after one walk, without verdicts; none where loss or outputs are not finite or have no gradient."""
    model, _ = problem.build()
    with untouched(model, 0, problem.loss_fn):
        capture = record(problem, model)
        try:
            outputs = (t for t in tensors(capture.values) if t.is_floating_point())
            finite = math.isfinite(capture.loss) and all(bool(torch.isfinite(t).all()) for t in outputs)
            if capture.loss_root is None or not finite:
                return ()
            layers = layers_of(capture)
            seen = observe(capture, layers, exact=not supported())
            return measure(capture, layers, seen, problem.batch_size)[0]
        finally:
            capture.release()


def _decided(layers: Sequence[LayerFlow]) -> float | None:
    """The lowest transmission, where no verdict can change on which side of the veto it lies; else None."""
    low = [a for a in layers if a.log10_transmission is not None and a.log10_transmission < VETO]
    if not low:
        return _lowest(layers)
    # a layer is excused only for a gate, or for outputs that do not depend on it at all
    sure = [a for a in low if not a.gate and a.log10_jacobian_norm not in (None, -math.inf)]
    return _lowest(sure) if sure else None


def _lowest(layers: Sequence[LayerFlow]) -> float:
    return min((a.log10_transmission for a in layers if a.log10_transmission is not None), default=0.0)

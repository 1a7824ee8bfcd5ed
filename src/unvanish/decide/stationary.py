"""Whether there is something left to gain: converged, flat, or at a point where the gradients cancel."""

from __future__ import annotations

import math

from unvanish.decide.limits import CONVERGED, FLAT, STATIONARY, SUSPECT, VANISHED
from unvanish.records import Flow, LossFacts


def gap_is_known(loss: LossFacts | None) -> bool:
    """Whether it was measured how far the loss can still be reduced."""
    return loss is not None and loss.relative_gap is not None and math.isfinite(loss.relative_gap)


def has_converged(loss: LossFacts | None) -> bool:
    """Whether less than CONVERGED of the achievable reduction of the loss is left."""
    return loss is not None and loss.relative_gap is not None and -math.inf < loss.relative_gap < CONVERGED


def floor_of(loss: LossFacts | None) -> float | None:
    """The lowest loss there is; None where the loss has no scale."""
    if loss is None or loss.reference is None or loss.relative_gap is None:
        return None
    return loss.value - loss.relative_gap * loss.reference


def constant_wins(loss: LossFacts | None) -> bool:
    """Whether the best constant output would have converged: then what remains tells nothing of what has been won.

    Such a loss, of masked samples or of one class alone, has no start to compare with: 0.002 may be all of it.
    """
    if loss is None or loss.best_constant is None or loss.relative_gap is None or loss.reference is None:
        return False
    gap = loss.relative_gap * loss.reference
    return loss.value - loss.best_constant > (1.0 - CONVERGED) * gap


def comes_through(flow: Flow) -> bool:
    """Whether real steps of the optimizer, tried and taken back, let the signal through to the layers it had lost.

    Or let those layers learn, or more and more of it through as far as they were taken. They would not if the weights
    stayed where they are; how the loss bends there says nothing about them.
    """
    step = flow.step
    if step is None or step.arrived is None:
        return False
    return step.arrived > VANISHED or step.learned is not None or step.arriving is not None


def steps_to_leave(pace: float) -> float:
    """In how many steps a signal that rises by ``pace`` decades a step comes through, if it goes on as it does.

    Every factor of a chain learns by the signal that reaches it, so the signal grows at a rate in proportion to itself:
    s' = c s² ends after 1/(c s) steps, one over its present rate. Of 13 chains of 11 and 12 sigmoids and 17 softplus
    that still rose after 800 steps of Adam, all left the plateau, after 1,400 to 7,000 steps in all; that was 0.45 to
    1.3 times the number told.
    """
    return 1.0 / (pace * math.log(10.0)) if pace > 0.0 else math.inf


def may_be_stationary(flow: Flow) -> bool:
    """Whether every layer that transmits has a gradient that cancels more than chance: then curvature must decide."""
    if comes_through(flow):
        return False
    seen = [
        layer.log10_alignment
        for layer in flow.layers
        if layer.log10_alignment is not None
        and layer.log10_transmission is not None
        and layer.log10_transmission > VANISHED
        and layer.log10_alignment > -math.inf
    ]
    return bool(seen) and max(seen) < SUSPECT


def falls(flow: Flow) -> bool:
    """Whether a multiple of the optimizer's next step, really tried, lowers the loss by STATIONARY of L_ref or more.

    Then the weights do not stand at a stationary point, whatever the curvature. No fall proves nothing.
    """
    return flow.step is not None and flow.step.lowered is not None and flow.step.lowered >= STATIONARY


def is_flat(flow: Flow) -> bool:
    """Whether the loss does not react to the outputs, and no step that was tried on the weights lowers it.

    The outputs are tried at moves of their own size; where the targets are 10^5 times larger only a step of many times
    the optimizer's own shows that there is something to gain.
    """
    if flow.loss is None or flow.loss.reacts is not False:
        return False
    step = flow.step
    if step is None:
        return True
    return not any(step.loss - value > FLAT * abs(step.loss) for _, value in step.ladder)


def is_stationary(flow: Flow) -> bool:
    """Whether the Gauss-Newton decrement says that no layer has anything to gain where the weights stand."""
    return flow.decrement is not None and flow.decrement < STATIONARY

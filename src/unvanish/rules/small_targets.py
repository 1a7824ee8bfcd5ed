"""Targets on a far smaller scale than the outputs and the steps: when that is so, and how bad it is."""

from __future__ import annotations

import math

from unvanish.decide.limits import FORWARD_GROWTH
from unvanish.records import Flow
from unvanish.rules.conditions import FAR, forward_growth_of, hindered, out_of_proportion, settled, takes_logits

BEYOND = 1e8
"""Times the best constant output's loss that is left after real steps, from which on more of them are no help. With 64
samples and 10^-6 of the usual targets, what 60 steps of Adam left at 2e8 to 3e9 times it was still at 5e4 to 6e5 times
after 6,000; with 10^-5, at 9e4 to 3e7 times, one in four was on its way there."""


def small_targets(flow: Flow, far: float = FAR) -> bool:
    """Whether the outputs are far larger than what the loss wants of them, as no layer's growth explains.

    And the loss is as far above that of one constant output: what tells the targets apart is then no part of it that
    a step could feel. A square, because a squared error is.
    """
    output, loss = flow.output, flow.loss
    if output is None or output.aim is None or output.rms is None or loss is None or settled(flow) or hindered(flow):
        return False
    grown = forward_growth_of(flow)
    by_layers = grown is not None and grown.decades > FORWARD_GROWTH
    far_off = far * output.aim < output.rms < math.inf and out_of_proportion(loss, far**2)
    return far_off and not by_layers and not takes_logits(flow)


def small_level(flow: Flow) -> str:
    """``error`` where the real steps of an optimizer that takes all of one length leave the loss BEYOND; else ``note``.

    Plain descent may come down by the same factor again and again, and be there within the training.
    """
    step, loss = flow.step, flow.loss
    if step is None or step.regained is None or loss is None or loss.best_constant is None:
        return "note"
    stays = BEYOND * loss.best_constant < step.regained < math.inf
    return "error" if stays and flow.setting.eps is not None else "note"

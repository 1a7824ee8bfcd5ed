"""What is found only over time, while a training is watched: codes, words and titles of the changes.

They are no rules, because a rule reads one look at a network; whoever watches compares several. See
``watching.history``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One kind of change, as ``explain`` shows it."""

    code: str
    verdict: str
    title: str
    doc: str
    level: str = "note"


EVENTS = {
    each.code: each
    for each in (
        Event("UV801", "vanished", "a layer's gradient has fallen against its own past", """
            The norm of the layer's gradient over the median of the layers of the same step has been at least a decade
            below its baseline, the median of its first samples, for three samples in a row.""",
        ),
        Event("UV802", "exploding", "a layer's gradient has grown against its own past", """
            The norm of the layer's gradient over the median of the layers of the same step has been at least a decade
            above its baseline for three samples in a row.""",
        ),
        Event("UV803", "dead", "units have died in training", """
            The share of the units of the layer's activation that are off for the whole batch has risen by at least
            half since the first samples.""",
        ),
        Event("UV804", "saturated", "an activation has saturated in training", """
            The share of saturated entries of the layer's activation has risen by at least half since the first
            samples.""",
        ),
        Event("UV805", "exploding", "the loss jumped", """
            The loss of one sampled step was at least ten times the running median of the last samples. A single batch
            can do that; where it comes back, look at the learning rate and at the data.""",
        ),
        Event("UV806", "plateau", "a layer has stopped moving", """
            The update of the layer relative to its weights, over the median of the layers of the same step, has been at
            least two decades below its baseline for three samples in a row. A whole network that comes to rest, at the
            end of its schedule or at its minimum, is none.""",
        ),
        Event("UV807", "plateau", "the learning rate has decayed to nothing", """
            The learning rate has fallen below a thousandth of its largest value while every layer's update is below a
            millionth of its weights: the training stands still. At the end of a training that is as it should be. It is
            an error once half of all steps were made so, the loss, one that is known, holds nine tenths of what there
            is to learn, and all steps laid end to end are less than a tenth of the weights' norm: the schedule was over
            before anything was learned. The largest rate is that of the run, whoever has set it.""",
        ),
        Event("UV808", "skipped", "steps were skipped because the scaled loss overflowed", """
            A GradScaler found gradients that are not finite after it had multiplied the loss by its scale, skipped the
            step and halved the scale. A few such steps at the start are how it finds its scale; that is no fault. Where
            the loss itself is not finite the finding says that instead.""",
        ),
        Event("UV809", "converged", "the training has converged", """
            The last eight sampled losses all were below a thousandth of what it began with (the least of the first
            three, as a training that only falls back from a blow-up has not converged), the same share as in a check.
            Small gradients are what is to be expected there, and no fault. A loss that cannot come near zero is not
            judged. Where a training begins far above what a constant output reaches, this is no measure of what is
            left to learn; unvanish check asks for that.""",
        ),
        Event("UV810", "wiped", "the gradient is gone before the step", """
            The backward pass left a gradient, and when the optimizer steps all of it is missing or exactly zero, in the
            first samples of a run or in three in a row. Mostly zero_grad() stands between backward() and step(). Or the
            gradients are finite, and so large that clip_grad_norm_ finds their norm infinite, because it adds up their
            squares in the number type of the weights: it then multiplies every one of them by zero, and with
            error_if_nonfinite=True it would say so. What the optimizer still does comes from its momentum and from
            weight decay, and not from the loss.""",
            level="error",
        ),
        Event("UV811", "added_up", "the gradients of all steps are added up", """
            When a backward pass begins, the gradient with which the optimizer has stepped is still there, so the new
            one is added to it, in the first samples of a run or in three in a row: zero_grad() is missing. Each step
            then goes by the sum of all gradients since the start, most of which were taken elsewhere, as with a
            momentum of 1: it swings, and the more so the longer it lasts. The parts of one accumulated batch are none:
            the first of them begins with nothing.""",
            level="error",
        ),
        Event("UV812", "outdated", "the network computes with weights of an earlier step", """
            torch.autocast keeps the low-precision copy of each weight until the outermost block ends, whatever the
            optimizer does to the weight meanwhile. Where one block stands around the training loop as a whole, or
            around all batches of an epoch, every forward pass goes by the weights of the first: the loss stands still
            while the weights run away. Shown by the graph: the copy that a layer's forward pass was made with is the
            one that an earlier sampled step had used, and a step has moved the layer since. Put autocast around each
            forward pass alone, as torch's documentation does, or give it cache_enabled=False.""",
            level="error",
        ),
        Event("UV813", "unmoved", "the steps move nothing from the first on", """
            From the first sample on 10,000 steps like these would move the weights by less than a thousandth of their
            norm, and lower the loss by less than a tenth; or an optimizer with an eps, as Adam, finds the gradient of
            every layer a hundred times below it. The rate is not rising, and not far below that of its schedule. And
            the loss has a slope: the norms of gradient and weights, multiplied, are more than a hundredth of it, which
            they are whatever unit it is measured in, and at a minimum are not. So it is its unit that is too small, as
            where it is divided by the number of samples twice; or clipping takes the gradient to nothing, if the steps
            would be long enough without. An error where the loss is one that is known and holds
            more than a thousandth of what there is to learn, else a note.""",
            level="error",
        ),
    )
}  # fmt: skip

"""Inputs and targets brought to a size that the network was made for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.anatomy import BETWEEN_LAYERS, Anatomy
from unvanish.remedies.draft import outputs_of

BOUNDS = {call: each.limits for call, each in BETWEEN_LAYERS.items() if each.bounded} | {"softmax": (0.0, 1.0)}
del BOUNDS["hardtanh"]  # nn.ReLU6 and others are hardtanhs with limits of their own, which the name does not tell
MARGIN = 0.1  # share of a bounded output's range that is left free on each side


@remedy(
    "standardise-inputs",
    "inputs brought to mean 0 and deviation 1",
    kind="data",
    answers=("UV304", "UV404", "UV501", "UV707"),
    cures_on=("unscaled-inputs",),
    no_help_on=("sigmoid-20", "lr-too-small"),
)
def standardise_inputs(draft: Draft) -> Change:
    """A module in front subtracts the mean of each feature and divides by its deviation.

    What: mean and deviation are taken from up to 4,096 training samples, by feature, or by channel of images. They are
    buffers of the model, so that what is saved with it is right for new data.
    Helps: inputs in the hundreds, features of different size, pixels from 0 to 255.
    Does not help: networks whose trouble is behind the first layer; tokens, for which it is refused.
    Source: LeCun, Bottou, Orr & Müller 1998, Efficient backprop, section 4.3.
    """
    sample = draft.sample_inputs
    if not isinstance(sample, Tensor) or not isinstance(draft.inputs, Tensor):
        raise Refused("the model takes something else than one tensor; standardise its parts where they are loaded")
    if not sample.is_floating_point():
        raise Refused(f"the inputs are whole numbers ({sample.dtype}): names of things, not quantities to be scaled")
    if sample.ndim < 2 or len(sample) < 2:
        raise Refused("there are no several samples of several features to take a mean over")
    if _is_standard(sample, _dims(draft)):
        raise Refused("the inputs have mean 0 and deviation 1 already")
    code = [f"model = nn.Sequential(Standardise(sample_inputs, {_dims(draft)}), model).train(model.training)"]
    sentence = f"inputs brought to mean 0 and deviation 1, as measured on {len(sample)} samples"
    return draft.apply(sentence, [surgery.Standardise], code, [""])


def _dims(draft: Draft) -> tuple[int, ...]:
    """The dimensions a mean is taken over: samples, and places where features stand in a channel of their own."""
    ndim = draft.sample_inputs.ndim
    first = next(iter(Anatomy.of(draft).layers), None)
    if ndim > 2 and first is not None and "input" in first.fed_by and not isinstance(first.module, nn.Linear):
        return (0, *range(2, ndim))
    return (0,) if ndim == 2 or first is None or first.ndim == 2 else tuple(range(ndim - 1))


def _is_standard(sample: Tensor, dims: tuple[int, ...]) -> bool:
    mean, deviation = sample.mean(dims), sample.std(dims, correction=0)
    return bool((mean.abs() < 0.1).all() and ((deviation - 1.0).abs() < 0.1).all())


@remedy(
    "scale-targets",
    "targets brought to the size of the outputs",
    kind="data",
    answers=("UV701", "UV702"),
    cures_on=("output-scale", "output-range"),
    no_help_on=("sigmoid-20", "lr-too-small"),
)
def scale_targets(draft: Draft) -> Change:
    """The loss compares outputs and targets in units of the targets' deviation; the model answers in the targets' own.

    What: a module at the end maps the outputs to the targets' units (mean and deviation; for a bounded output, its
    middle 80% to the targets' range), and the loss undoes that for outputs and targets alike. Metrics and predictions
    stay in the targets' units.
    Helps: regression on targets of hundreds or thousands, or outside the range of a bounded last activation.
    Does not help: classification (refused); trouble inside the network.
    Source: LeCun, Bottou, Orr & Müller 1998, Efficient backprop, section 4.5.
    """
    targets = draft.sample_targets
    if draft.loss_fn is None:
        raise Refused("the model computes its own loss; scale the targets where they are loaded")
    if not isinstance(targets, Tensor) or not targets.is_floating_point() or not isinstance(draft.targets, Tensor):
        raise Refused("the targets are not one tensor of real numbers: this is no regression")
    outputs = outputs_of(draft.model, draft.inputs)
    if not isinstance(outputs, Tensor) or outputs.shape != draft.targets.shape:
        raise Refused("outputs and targets do not have the same shape: this is no plain regression")
    if set(torch.unique(targets[:ROWS_LOOKED_AT]).tolist()) <= {0.0, 1.0}:
        raise Refused("the targets are zeros and ones: this is a classification")
    shift, scale, how = _units(draft, targets)
    if abs(shift) < 0.1 and abs(scale - 1.0) < 0.1:
        raise Refused("the targets are of the outputs' size already")
    code = [
        f"shift, scale = torch.tensor({shift!r}), torch.tensor({scale!r})  # {how}",
        "model = nn.Sequential(model, Rescale(shift, scale)).train(model.training)",
        "original_loss_fn = loss_fn",
        "",
        "",
        "def loss_fn(outputs, targets, unscaled=original_loss_fn, shift=shift, scale=scale):",
        "    shift, scale = shift.to(outputs), scale.to(outputs)",
        "    return unscaled((outputs - shift) / scale, (targets - shift) / scale)",
        "",
        "",
        "model = model.to(next(model.parameters()).device)",
    ]
    sentence = f"outputs given in the targets' units ({how}), and the loss taken in units of their spread"
    return draft.apply(sentence, [surgery.Rescale], code, [""])


ROWS_LOOKED_AT = 1000


def _units(draft: Draft, targets: Tensor) -> tuple[float, float, str]:
    """Shift, scale and how they were found."""
    site = Anatomy.of(draft).at_output
    low, high = float(targets.min()), float(targets.max())
    if site is not None and site.name in BOUNDS and high > low:
        start, end = BOUNDS[site.name]
        scale = (high - low) / ((end - start) * (1.0 - 2.0 * MARGIN))
        shift = (low + high) / 2.0 - scale * (start + end) / 2.0
        return float(f"{shift:.6g}"), float(f"{scale:.6g}"), f"the middle of {site.name} covers {low:.4g} to {high:.4g}"
    mean, deviation = float(targets.mean()), float(targets.std(correction=0))
    deviation = deviation if deviation > 0.0 else 1.0
    return float(f"{mean:.6g}"), float(f"{deviation:.6g}"), f"mean {mean:.4g}, deviation {deviation:.4g}"

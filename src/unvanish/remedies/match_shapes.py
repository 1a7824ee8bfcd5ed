"""Outputs and targets that the loss compares one with one."""

from __future__ import annotations

import torch
from torch import Tensor

from unvanish.preserve import untouched
from unvanish.remedies import Change, Draft, Refused, remedy, rewriting, surgery
from unvanish.remedies.draft import called
from unvanish.remedies.finite import owners
from unvanish.remedies.swap import traced
from unvanish.trace.calls import LOSS_CALLS

SUBTRACTIONS = ("sub", "rsub", "subtract", "isub")


@remedy(
    "match-shapes",
    "outputs in the shape of the targets",
    kind="data",
    answers=("UV402", "UV706", "UV708"),
    cures_on=("broadcast-loss",),
    no_help_on=("output-scale", "lr-too-small", "plateau"),
    only_for="fault",
)
def match_shapes(draft: Draft) -> Change:
    """The loss is given the outputs in the shape that the targets have.

    What: where outputs and targets hold as many numbers in different shapes that broadcast, such as (N, 1) and (N,), so
    that the loss compares each with each, the outputs are reshaped for the loss. The model and its metric stay. Where
    the model computes its own loss and a check has found that no output has a target of its own (UV708), the reshape
    goes into its forward, in front of the calls that compare.
    Helps: a regression whose loss stops at the variance of the targets, because the mean is the best answer to all of
    them at once.
    Does not help: shapes that are the same, or a loss that brings them together itself (refused).
    Source: Harris et al. 2020, Array programming with NumPy (broadcasting).
    """
    targets = draft.targets
    if draft.loss_fn is None and any(finding.code == "UV708" for finding in draft.findings):
        return _inside(draft)
    if draft.loss_fn is None or not isinstance(targets, Tensor):
        raise Refused("no loss function is given outputs and one tensor of targets; look at the shapes in the model")
    with untouched(draft.model, 0, draft.loss_fn):
        outputs = called(draft.model, draft.inputs)
        if not isinstance(outputs, Tensor) or outputs.numel() != targets.numel() or outputs.shape == targets.shape:
            raise Refused("outputs and targets have the same shape, or do not hold as many numbers")
        shapes = f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
        if outputs.numel() == 1 or not _compares_each_with_each(draft, outputs.detach()):
            raise Refused(f"the loss of shapes {shapes} is the same as that of equal shapes")
    code = [
        "original_loss_fn = loss_fn",
        "",
        "",
        "def loss_fn(outputs, targets, of_equal_shapes=original_loss_fn):",
        "    return of_equal_shapes(outputs.reshape(targets.shape), targets)",
        "",
        "",
    ]
    sentence = f"outputs in the shape of the targets for the loss: {shapes} were compared each with each"
    return draft.apply(sentence, (), code, ())


def _inside(draft: Draft) -> Change:
    """The same in a model that computes its own loss."""
    paths = owners(draft, LOSS_CALLS) or owners(draft, SUBTRACTIONS)
    if not paths:
        raise Refused("where outputs and targets meet in the model was not seen; give them the same shape by hand")
    for path in paths:
        traced(draft, path)
    code = [f"model = rewritten(model, {path!r}, compare_pairs)" for path in paths]
    parts = [surgery.put, surgery.trace, rewriting.rewritten, rewriting.compare_pairs]
    return draft.apply("outputs in the shape of the targets where the model compares them", parts, code, paths)


def _compares_each_with_each(draft: Draft, outputs: Tensor) -> bool:
    """Whether the shapes broadcast to more numbers than there are targets, and equal shapes give another loss."""
    loss_fn, targets = draft.loss_fn, draft.targets
    assert loss_fn is not None
    try:
        broadcast = torch.broadcast_shapes(outputs.shape, targets.shape)
        there, here = loss_fn(outputs, targets), loss_fn(outputs.reshape(targets.shape), targets)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return broadcast.numel() > outputs.numel() and not torch.allclose(there.float(), here.float(), rtol=1e-4)

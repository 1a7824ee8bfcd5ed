"""Running statistics that follow the training."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from unvanish.remedies import Change, Draft, Refused, remedy, surgery

USUAL, MOST = 0.1, 0.1


@remedy(
    "quick-statistics",
    "running statistics that follow the training",
    kind="normalisation",
    answers=("UV402",),
    cures_on=("slow-statistics",),
    no_help_on=("dead-relu", "lr-too-small", "relu-he-20"),
    only_for="fault",
)
def quick_statistics(draft: Draft) -> Change:
    """The running mean and variance of batch normalisation take a tenth of every batch's, torch's default.

    What: a momentum with which a tenth or more of the initial mean of 0 and variance of 1 is still there after all of
    the planned steps, (1 − momentum)^steps ≥ 0.1, becomes 0.1.
    Helps: a network that is good in training and no better than chance in evaluation, where these statistics are used:
    as with a momentum of 0.001 in a short training, or one that was given for what other frameworks call momentum.
    Does not help: training itself, which uses the statistics of the batch; statistics that have seen training are kept.
    Source: Ioffe & Szegedy 2015, Batch normalization, algorithm 2; PyTorch's documentation of BatchNorm (momentum).
    """
    if draft.pretrained:
        raise Refused("its normalisers have seen training, and their statistics are kept")
    found = {path: left for path, each in draft.model.named_modules() if (left := _left(each, draft.steps)) >= MOST}
    if not found:
        raise Refused("no running statistics are slower than the training is long")
    code = [f"model = set_momentum(model, {list(found)!r}, {USUAL!r})"]
    slow = f"of their initial values {max(found.values()):.0%} would be left after {draft.steps:,} steps"
    sentence = f"running statistics with a momentum of {USUAL:g} in {', '.join(found)}: {slow}"
    return draft.apply(sentence, [surgery.set_momentum], code, found)


def _left(module: nn.Module, steps: int | None) -> float:
    """The share of the initial statistics that is left after so many steps."""
    if not isinstance(module, _BatchNorm) or module.running_mean is None or module.momentum is None or steps is None:
        return 0.0
    return (1.0 - module.momentum) ** steps

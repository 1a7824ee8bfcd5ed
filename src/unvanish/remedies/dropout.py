"""Dropout that leaves something to learn from."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from unvanish.remedies import Change, Draft, Refused, remedy, surgery

STRONGEST, WEAK = 0.5, 0.1


@remedy(
    "weaker-dropout",
    "dropout of a tenth",
    kind="noise",
    answers=("UV402", "UV405"),
    cures_on=("dropout-90",),
    no_help_on=("dead-relu", "lr-too-small", "relu-he-20"),
    only_for="kind",
)
def weaker_dropout(draft: Draft) -> Change:
    """Dropout that zeroes more than half of what passes becomes one that zeroes a tenth.

    What: modules with p above 0.5, and recurrent and attention layers with such a dropout inside, get p = 0.1.
    Helps: several strong ones behind each other: p = 0.9 leaves one unit in ten, and what three of them pass on is more
    chance than signal; a probability of keeping that was given for one of dropping.
    Does not help: any other trouble; p up to 0.5 (refused); calls of F.dropout, whose p stands in the forward.
    Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, Dropout: a simple way to prevent neural
    networks from overfitting, section 7.3 (a plateau from 0.2 to 0.6 of units dropped, and worse beyond it).
    """
    found = {path: rate for path, each in draft.model.named_modules() if (rate := _rate(each)) > STRONGEST}
    if not found:
        raise Refused(f"no dropout module of the network zeroes more than {STRONGEST:g}")
    code = [f"model = set_dropout(model, {list(found)!r}, {WEAK!r})"]
    sentence = f"dropout of {WEAK:g} instead of {max(found.values()):g} in {', '.join(found)}"
    return draft.apply(sentence, [surgery.set_dropout], code, found)


def _rate(module: nn.Module) -> float:
    if isinstance(module, _DropoutNd):
        return module.p
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return float(module.dropout)
    return 0.0

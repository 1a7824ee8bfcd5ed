"""Recurrent layers and attention that go through each sample by itself."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from unvanish.evidence.over_batch import over_batch
from unvanish.flow.look import looking
from unvanish.preserve import untouched
from unvanish.problem import Problem
from unvanish.records import UnvanishError
from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.draft import called

LAYERS = (nn.RNNBase, nn.MultiheadAttention)


@remedy(
    "batch-first",
    "recurrent layers and attention that go through each sample by itself",
    kind="data",
    answers=("UV402", "UV709"),
    cures_on=("lstm-over-samples",),
    no_help_on=("lr-too-small", "lstm", "plateau"),
    only_for="fault",
)
def batch_first(draft: Draft) -> Change:
    """torch's recurrent layers and attention take the samples for the first axis: ``batch_first=True``.

    What: where the steps that such a layer goes along are the samples of the batch (one sample replaced by another
    changes the outputs of the others), all of them are set to take the samples first. Their weights stay.
    Helps: inputs of shape (samples, steps, features) in layers that were made for (steps, samples, features).
    Does not help: samples in pieces, as a ``view`` in the place of a transpose leaves them; layers that already go
    through each sample by itself (refused).
    Source: PyTorch documentation, torch.nn.LSTM and torch.nn.MultiheadAttention (batch_first).
    """
    paths = [path for path, each in draft.model.named_modules() if isinstance(each, LAYERS) and not each.batch_first]
    if not paths:
        raise Refused("no recurrent layer or attention of torch's takes the steps first")
    if not _along_samples(draft, draft.model):
        raise Refused("no layer was seen to take the samples of the batch for its steps")
    trial = surgery.set_batch_first(copy.deepcopy(draft.model), paths)
    if _shape(draft, draft.model) != _shape(draft, trial) or _along_samples(draft, trial) is not False:
        raise Refused("not all of its layers are given the samples first; swap the axes in the forward by hand")
    code = [f"model = set_batch_first(model, {paths!r})"]
    return draft.apply(f"the samples first in {', '.join(paths)}", [surgery.set_batch_first], code, paths)


def _shape(draft: Draft, model: nn.Module) -> tuple[int, ...] | None:
    with untouched(model, 0), torch.no_grad():
        try:
            outputs = called(model, draft.inputs)
        except Exception:  # whatever a forward makes of other axes
            return None
    return tuple(outputs.shape) if isinstance(outputs, Tensor) else None


def _along_samples(draft: Draft, model: nn.Module) -> bool | None:
    """Whether a layer takes the samples, each of them whole, for its steps; None where that cannot be told."""
    problem = Problem(model, draft.inputs, draft.targets, draft.loss_fn)
    try:
        with untouched(model, 0, draft.loss_fn, draft.inputs, draft.targets), looking(problem, model) as look:
            found = over_batch(look)
    except UnvanishError:
        return None
    return bool(found) and not any(facts.pieces for facts in found)

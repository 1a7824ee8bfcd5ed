"""Whether a draft's loss and gradient are finite, and which modules make certain calls on the way to it."""

from __future__ import annotations

from collections.abc import Collection

import torch

from unvanish.preserve import untouched
from unvanish.remedies.anatomy import Anatomy, plain
from unvanish.remedies.draft import Draft, Refused, called
from unvanish.trace.structure import inner_loss

CODES = ("UV501", "UV502")


def refuse_finite(draft: Draft) -> None:
    """Raise Refused where nothing is known to be infinite or not a number, neither now nor in what was found."""
    if not any(finding.code in CODES for finding in draft.findings) and _is_finite(draft):
        raise Refused("loss and gradient are finite on the batch")


def _is_finite(draft: Draft) -> bool:
    model = draft.model
    live = [p for p in model.parameters() if p.requires_grad]
    with untouched(model, 0, draft.loss_fn), torch.enable_grad():
        outputs = called(model, draft.inputs)
        loss = draft.loss_fn(outputs, draft.targets) if draft.loss_fn is not None else inner_loss(outputs)
        loss = outputs if loss is None else loss
        if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
            raise Refused("the loss does not depend on any weight")
        found = torch.autograd.grad(loss, live, allow_unused=True)
        return all(bool(torch.isfinite(each).all()) for each in (loss, *found) if each is not None)


def owners(draft: Draft, names: Collection[str]) -> list[str]:
    """The modules whose forward makes one of these calls, the inner ones first."""
    calls = [call for call in Anatomy.of(draft).calls if plain(call.name) in names and call.frames]
    return sorted(dict.fromkeys(call.frames[-1][0] for call in calls), key=len, reverse=True)

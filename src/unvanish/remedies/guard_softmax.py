"""A softmax that gives zeros where all of its row is masked."""

from __future__ import annotations

import math
from typing import Any

import torch

from unvanish.remedies import Change, Draft, Refused, remedy, rewriting, surgery
from unvanish.remedies.draft import outputs_of
from unvanish.remedies.finite import owners
from unvanish.remedies.swap import traced
from unvanish.trace.listening import Listening, name_of


@remedy(
    "guard-softmax",
    "zeros from a softmax whose row is masked whole",
    kind="numbers",
    answers=("UV501", "UV502"),
    cures_on=("masked-rows",),
    no_help_on=("where-exp", "dead-relu", "lr-too-small"),
    only_for="fault",
)
def guard_softmax(draft: Draft) -> Change:
    """A row of attention in which nothing may be attended to gives zeros.

    What: a softmax over a row of nothing but -inf is 0/0 = nan; it becomes zeros, without a gradient. Rows in which
    anything is left stay as they are.
    Helps: attention over padding with an empty text, or a first query with nothing before it; also where the nan is
    replaced later, which keeps the loss finite and the gradient nan.
    Does not help: other sources of nan. It is refused where no such row is seen on the batch, inside torch's own
    attention functions, and where torch.fx cannot read the forward.
    Source: Vaswani et al. 2017, Attention is all you need, section 3.2.3 (masking by -inf).
    """
    if not _sees_empty_rows(draft):
        raise Refused("no softmax of the batch has a row that is -inf throughout")
    paths = owners(draft, ("softmax",))
    if not paths:
        raise Refused("the softmax stands in none of the model's modules; put zeros for its empty rows by hand")
    for path in paths:
        traced(draft, path)
    code = [f"model = rewritten(model, {path!r}, guard_softmax)" for path in paths]
    parts = [surgery.put, surgery.trace, rewriting.rewritten, rewriting.softmax_of_some, rewriting.guard_softmax]
    return draft.apply("zeros from a softmax whose row is -inf throughout", parts, code, paths)


def _sees_empty_rows(draft: Draft) -> bool:
    """Whether a softmax is given a row of nothing but -inf."""
    seen = False

    def heard(func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        nonlocal seen
        if name_of(func) == "softmax":
            x = args[0] if args else kwargs["input"]
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            if isinstance(dim, int):
                seen |= bool((x.detach() == -math.inf).all(dim).any())

    with Listening(heard), torch.enable_grad():
        outputs_of(draft.model, draft.inputs)
    return seen

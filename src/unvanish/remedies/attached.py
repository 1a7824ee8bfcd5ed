"""A state that carries its gradient from one step of a loop to the next."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from unvanish.preserve import untouched
from unvanish.remedies import Change, Draft, Refused, remedy, rewriting, surgery
from unvanish.remedies.draft import called
from unvanish.remedies.swap import traced
from unvanish.trace.listening import Listening, name_of

AGAIN = 2
"""Times that one line detaches a tensor in one forward before it is taken for a step of a loop."""
NOT_THEIRS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


@remedy(
    "attached-state",
    "a state that is not detached between steps",
    kind="numbers",
    answers=("UV102",),
    cures_on=("detached-state",),
    no_help_on=("lstm", "dead-relu", "lr-too-small"),
    only_for="kind",
)
def attached_state(draft: Draft) -> Change:
    """The graph is no longer cut between two steps of a loop in the forward.

    What: ``detach()`` on a tensor that has a gradient is left out of the forward, where one line does it at least twice
    in one pass.
    Helps: a recurrent loop of one's own that detaches its state at every step, as is right between two batches: what an
    output needs from earlier steps is never learnt.
    Does not help: memories that fade by themselves. It is refused where nothing is detached and, with the line to
    change, where torch.fx cannot read the forward, as with a loop over the length of its input.
    Source: Werbos 1990, Backpropagation through time: what it does and how to do it.
    """
    lines = [line for line, count in _detached(draft).items() if count >= AGAIN]
    if not lines:
        raise Refused("no tensor with a gradient is detached again and again in the forward")
    by_hand = f"the state is detached at every step at {', '.join(lines)}: leave the detach() out there"
    paths: list[str] = []
    for path, _ in draft.model.named_modules():
        try:
            if any(node.target == "detach" for node in traced(draft, path).nodes):
                paths.append(path)
        except Refused:
            continue
    if not paths:
        raise Refused(f"{by_hand}; torch.fx cannot read this forward")
    code = [f"model = rewritten(model, {path!r}, keep_attached)" for path in sorted(paths, key=len, reverse=True)]
    parts = [surgery.put, surgery.trace, rewriting.rewritten, rewriting.keep_attached]
    return draft.apply(by_hand, parts, code, paths)


def _detached(draft: Draft) -> Counter[str]:
    """By the line of the user's program, the calls that take a tensor with a gradient out of the graph."""
    lines: Counter[str] = Counter()

    def heard(func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if name_of(func) == "detach" and args[0].requires_grad:
            frame = sys._getframe(1)
            while frame is not None and frame.f_code.co_filename.startswith(NOT_THEIRS):
                frame = frame.f_back
            if frame is not None:
                lines[f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"] += 1

    with untouched(draft.model, 0), torch.enable_grad(), Listening(heard):
        called(draft.model, draft.inputs)
    return lines

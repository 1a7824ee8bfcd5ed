"""Do real steps of the optimizer bring within reach what the targets ask of a sequence's early steps?

A profile at one point says how far back the signal reaches there, not whether it will stay so. Under Adam and its like
every weight moves by about the learning rate, however little of the gradient comes from afar: memories lengthen within
tens of steps where nothing else lowers the loss, and stay short where the near steps drown what the far ones say. A GRU
that is to copy what stood 20 or 30 steps back begins at 10^-6 and lets a tenth through after a hundred steps; on noise
of the same length it never does. The loss stands still meanwhile. So the steps are really taken, and taken back, and
the question is asked again where they lead.

They are taken on training batches alone. One batch can be learned by heart, by which memories lengthen too: on 64
samples an LSTM that is to return the first of 200 numbers came within reach, or nearer to it, with three seeds of five,
a plain RNN that is to return the first of 100 with all five.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from unvanish.decide.reach import OUT_OF_REACH, time_level
from unvanish.evidence.recovery import LARGE, WORK
from unvanish.evidence.step import batches_of, stepped
from unvanish.evidence.time_axis import time_facts
from unvanish.flow.look import Look
from unvanish.records import Flow, TimeFacts

TRIED = (30, 60, 100, 150, 200, 300, 400)
DOUBLED = (100, 200, 400)
"""Steps at whose end it is asked whether there is any use in as many more."""
FEWER = 0.9
"""Share of the steps out of reach half as many steps before, up to which fewer are on their way: of networks that
stayed where they were the reach moved by a step or two in fifty."""


def with_steps_in_time(look: Look, flow: Flow) -> Flow:
    """The flow with what real steps do to sequences that lose what their targets ask for.

    Two looks in a row at which it is within reach end the trial; so does the end of a doubling at which no more steps
    are in reach than before it. Where nothing at all comes back from afar, as through a cut or beyond a field of
    convolutions, no step changes that, and none is tried.
    """
    asked = [facts for facts in flow.time if time_level(flow, facts) == "error" and _may_come(facts)]
    if not asked or look.optimizer is None or look.effort == "quick" or look.problem.train_batches is None:
        return flow
    size = look.work * max(facts.steps for facts in asked)
    most = min(look.problem.steps or TRIED[-1], TRIED[0] if size > LARGE else max(DOUBLED[0], WORK / size))
    tried = [count for count in TRIED if count <= most] or [int(most)]
    seen: dict[int, Mapping[str, TimeFacts]] = {0: {facts.layer: facts for facts in asked}}

    def measured(taken: int) -> bool:
        if taken not in tried:
            return False
        seen[taken] = {facts.layer: facts for facts in time_facts(look, states=False)}
        if all(_in_reach(flow, facts.layer, seen) for facts in asked):
            return True
        return taken in DOUBLED and not any(_rises(facts.layer, seen) for facts in asked)

    batches = _training_batches(look, tried[-1])
    if not batches:
        return flow
    with stepped(
        dataclasses.replace(look.problem, train_batches=batches),
        look.model,
        look.optimizer,
        1.0,
        tried[-1],
        look.seed,
        measured,
    ):
        pass
    last = max(seen)
    if not last:
        return flow
    found = {facts.layer: _after(flow, facts, seen, last) for facts in asked}
    return flow.replace(time=tuple(found.get(facts.layer, facts) for facts in flow.time))


def _training_batches(look: Look, steps: int) -> list[Any]:
    """As many training batches as that; none where the model takes none, and its own would be learned by heart."""
    problem = look.problem
    found = [each for each in batches_of(problem, look.model, steps, look.seed) if each is not problem]
    return [each.inputs if problem.loss_fn is None else (each.inputs, each.targets) for each in found]


def _after(flow: Flow, facts: TimeFacts, seen: Mapping[int, Mapping[str, TimeFacts]], last: int) -> TimeFacts:
    come = _in_reach(flow, facts.layer, seen)
    return facts.replace(tried=last, in_reach=come, rising=not come and _rises(facts.layer, seen))


def _may_come(facts: TimeFacts) -> bool:
    return any(s is None or -math.inf < s < OUT_OF_REACH for s in facts.log10_signal)


def _in_reach(flow: Flow, layer: str, seen: Mapping[int, Mapping[str, TimeFacts]]) -> bool:
    """Whether at the last two looks nothing that is needed is lost any more."""
    looks = [facts.get(layer) for _, facts in sorted(seen.items())][-2:]
    return all(facts is not None and not facts.why and time_level(flow, facts) != "error" for facts in looks)


def _rises(layer: str, seen: Mapping[int, Mapping[str, TimeFacts]]) -> bool:
    """Whether clearly fewer steps are out of reach than half as many steps of training before."""
    last = max(seen)
    before, now = (_out_of_reach(seen[at].get(layer)) for at in (max(at for at in seen if 2 * at <= last), last))
    return now is not None and before is not None and now <= FEWER * before


def _out_of_reach(facts: TimeFacts | None) -> int | None:
    """How many of the steps shown are out of reach."""
    if facts is None or facts.why:
        return None
    return sum(s is None or s < OUT_OF_REACH for s in facts.log10_signal)

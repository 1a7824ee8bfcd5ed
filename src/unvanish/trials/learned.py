"""How much of what there is to learn a changed network has learnt, by its own loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unvanish.records import UnvanishError
from unvanish.trials.outlasting import Ends
from unvanish.trials.race import Race
from unvanish.trials.score import rows, take
from unvanish.trials.train import Candidate

HALF = 0.5
"""A network that has learnt less than this share of what there is has more to learn than it has learnt."""


FEWEST = 32
"""Samples from which on a batch shows what the best constant output is; two samples may be of one class."""


@dataclass(frozen=True)
class Learned:
    """What a judged change has learnt, as a mean over the seeds.

    ``share``: the way of its own loss from that of the best constant output to the lowest there is, on the data that
    judges or, where that is not known, in training; None where neither is known. ``training``: the same in training.
    ``falling``: the training loss still fell at the end.
    """

    share: float | None
    training: float | None
    falling: bool


def learned(race: Race, candidate: Candidate, seeds: Sequence[int], steps: int) -> Learned:
    """What it has learnt after so many steps, from measures that are there."""
    ends = ends_of(race, candidate)
    measures = [race.ledger.measures[candidate, seed, steps] for seed in seeds]
    training = _mean([share_won(ends, each.loss) for each in measures])
    judged = _mean([share_won(ends, each.judged_loss) for each in measures])
    falling = 2 * sum(each.falling for each in measures) > len(measures)
    return Learned(training if judged is None else judged, training, falling)


def has_learned(race: Race, candidate: Candidate) -> bool:
    """Whether half of what there is was learnt at its last measure, in training or judged, or is not known."""
    last = race.ledger.measures[candidate, race.seed, race.ledger.reached[candidate, race.seed]]
    ends = ends_of(race, candidate)
    shares = [share for loss in (last.loss, last.judged_loss) if (share := share_won(ends, loss)) is not None]
    return not shares or max(shares) >= HALF


def share_so_far(race: Race, candidate: Candidate) -> float | None:
    """The share that its training loss has won at its last measure with the first seed."""
    steps = race.ledger.reached[candidate, race.seed]
    return share_won(ends_of(race, candidate), race.ledger.measures[candidate, race.seed, steps].loss)


def ends_of(race: Race, candidate: Candidate) -> Ends | None:
    """The loss of the best constant output and the lowest one there is, for the loss that this candidate has."""
    draft = race.copies.fresh(candidate, race.seed).draft
    problem = replace(draft.problem, autocast=race.problem.autocast)
    if rows(problem.inputs) < FEWEST < rows(draft.sample_inputs):
        count = rows(draft.sample_inputs)
        inputs, targets = (take(each, range(FEWEST), count) for each in (draft.sample_inputs, draft.sample_targets))
        problem = replace(problem, inputs=inputs, targets=targets)
    try:
        return Ends.of(problem, draft.model)
    except UnvanishError:
        return None


def share_won(ends: Ends | None, loss: float | None) -> float | None:
    """The way of the loss from the best constant output's to the lowest there is; None where one is not known."""
    if ends is None or loss is None or ends.constant is None or ends.floor is None or not ends.constant > ends.floor:
        return None
    return (ends.constant - loss) / (ends.constant - ends.floor)


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [each for each in shares if each is not None]
    return sum(known) / len(known) if known and len(known) == len(shares) else None

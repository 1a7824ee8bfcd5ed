"""Whether a network that learns at first goes on to the end of its training: what a probe is too short to see."""

from __future__ import annotations

from dataclasses import replace

from unvanish.decide.stationary import has_converged
from unvanish.pipeline import diagnose
from unvanish.records import Finding, UnvanishError
from unvanish.trials.race import Race
from unvanish.trials.train import AS_IS, Candidate, title
from unvanish.trials.trial import Measure

IMPROVING = 0.03
"""A network that has won this share of the achievable reduction is improving."""
FALLEN = 0.1
"""A score that is so much lower than it was has fallen back, and not by chance."""


def lasts(race: Race) -> bool:
    """Whether the network as it is still stands after T steps, or as many as the budget carries.

    It does not where a step failed or the loss is no number any more, nor where the training loss has risen back to
    that of the best constant answer, or, where that is not known, to what it was at first.
    """
    known = race.ledger.reached[AS_IS, race.seed]
    end = max(known, min(race.plan.steps, known + race.ledger.left))
    for stop in (race.plan.rungs[-1], end):  # a race that follows begins with the last rung
        if known < stop <= end:
            race.reach(AS_IS, race.seed, stop, "as is, to the end")
    return _stands(race, race.ledger.measures[AS_IS, race.seed, race.ledger.reached[AS_IS, race.seed]])


def _stands(race: Race, measure: Measure) -> bool:
    loss = race.report.loss
    if measure.failure or measure.loss is None or loss is None:
        return False
    if loss.best_constant is None or has_converged(loss):
        return measure.fall > -IMPROVING
    scale = loss.reference if loss.reference else abs(loss.value)
    return measure.loss <= loss.best_constant - IMPROVING * scale


def lasting(race: Race, findings: tuple[Finding, ...]) -> tuple[tuple[Finding, ...], str]:
    """What is found where a healthy beginning ends badly, beside what was found before; and how it ends, "" if well.

    The network is checked as it stands then, with the batch on which its training failed.
    """
    first = race.ledger.reached[AS_IS, race.seed]
    if lasts(race):
        return findings, ""
    copy, end = race.copy(AS_IS, race.seed), race.ledger.reached[AS_IS, race.seed]
    measure = race.ledger.measures[AS_IS, race.seed, end]
    race.ledger.enter((AS_IS, race.seed, copy.steps), measure, 0)
    how = measure.failure or f"after {copy.steps:,} steps the training loss had risen again"
    why = f"as it is the training ends badly, of which its first {first:,} steps show nothing: {how}"
    problem = race.problem_of(copy, race.plan.steps)
    if copy.failed_on is not None:
        problem = replace(problem, inputs=copy.failed_on[0], targets=copy.failed_on[1])
    known = {finding.code for finding in findings}
    try:
        later = diagnose(problem, seed=race.seed).findings
    except UnvanishError as error:
        return findings, f"{why}; a check of it there: {error}"
    new = [f for f in later if f.code not in known]
    error = next((f"; a check of it there, {f.code}: {f.message}" for f in new if f.level == "error"), "")
    return (*findings, *new), why + error


def failed_late(race: Race) -> int:
    """The step at which the training as it is had ended badly, where that is later than a race can see; else 0."""
    end, rung = race.ledger.reached.get((AS_IS, race.seed), 0), race.plan.rungs[-1]
    began = race.ledger.measures.get((AS_IS, race.seed, rung))
    if end <= rung or began is None or not _stands(race, began):
        return 0
    return 0 if _stands(race, race.ledger.measures[AS_IS, race.seed, end]) else end


def survives(race: Race, candidate: Candidate) -> bool:
    """Whether that candidate is trained, and stands, where the network as it is ended badly later than a race can see.

    It stands where no step failed and its score has not fallen back since the last rung.
    """
    end = failed_late(race)
    if not end:
        return True
    if race.ledger.price(candidate, race.seed, end) > race.ledger.left:
        return False
    before = race.ledger.measures.get((candidate, race.seed, race.plan.rungs[-1]))
    measure = race.reach(candidate, race.seed, end, f"to where it ended badly as it is: {title(candidate)}")
    return not measure.failure and (before is None or measure.score >= before.score - FALLEN)

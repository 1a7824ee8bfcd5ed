"""From a race that is over to its answer: the trials in order, the code of the accepted one, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unvanish.pipeline import diagnose
from unvanish.records import Trial
from unvanish.report import Report
from unvanish.trials.fixes import Fixes
from unvanish.trials.judge import Judgement
from unvanish.trials.learned import HALF, Learned, learned
from unvanish.trials.patch import patch_of
from unvanish.trials.questions import Describe
from unvanish.trials.race import Race
from unvanish.trials.state import written
from unvanish.trials.train import AS_IS, Candidate, Copy, title


def answer(
    race: Race,
    verdict: str,
    chosen: Candidate | None,
    judgement: Judgement | None,
    remarks: Sequence[str],
    *,
    interrupted: bool = False,
) -> Fixes:
    """The Fixes of this race. ``verdict``: what to say where nothing was accepted, unless it is "no remedy found"."""
    race.expect_descriptions()
    trials = _trials(race, chosen, judgement)
    copy = None
    if chosen is not None and judgement is not None and judgement.accepted:
        copy = _as_judged(race, chosen, judgement.steps)
    remarks = list(remarks)
    if judgement is not None and len(judgement.scores) < race.plan.seeds and not interrupted:
        remarks.append(f"the budget carried {len(judgement.scores)} of {race.plan.seeds} seeds in the judgement")
    after = None if copy is None else _after(race, copy.candidate)
    learnt: Learned | None = None
    if judgement is not None:
        seeds = range(race.seed, race.seed + len(judgement.scores))
        learnt = learned(race, AS_IS if copy is None else copy.candidate, seeds, judgement.steps)
    patch, patched, why = "", "", ""
    if copy is not None and after is not None:
        patch, patched, why = patch_of(race.problem, copy, race.report, after)
    return Fixes(
        verdict=_verdict(after, learnt) if copy is not None else verdict or "no remedy found",
        trials=trials,
        best=None if copy is None else trials[0],
        model=None if copy is None else copy.model,
        code="" if copy is None else trials[0].code,
        before=race.report,
        after=after,
        as_is=_as_is(race, judgement),
        unit=race.copies.scale.unit,
        unseen=race.copies.scale.unseen,
        split=race.copies.scale.split,
        planned=race.plan.steps,
        budget=race.plan.budget,
        spent=race.ledger.spent,
        seeds=race.plan.seeds,
        refused=tuple(race.refused.items()),
        cut_off=tuple(title(c) for c in race.vetoed),
        remarks=tuple(remarks),
        interrupted=interrupted,
        patch=patch,
        patched=patched,
        patch_refused=why,
        state=written(race.ledger, race.identity),
        learned=None if learnt is None else learnt.share,
        learned_in_training=None if learnt is None else learnt.training,
        still_falling=learnt is not None and learnt.falling,
    )


def _verdict(after: Report | None, learnt: Learned | None) -> str:
    """Of a change that helps: repaired, unless a check still finds an error or less than half has been learnt."""
    errors = after is not None and any(finding.level == "error" for finding in after.findings)
    shares = () if learnt is None else (learnt.share, learnt.training)
    short = any(share is not None and share < HALF for share in shares)
    return "improved" if errors or short else "repaired"


def _as_judged(race: Race, chosen: Candidate, steps: int) -> Copy:
    """The copy of the first seed after exactly so many steps; made again where an interruption came in between."""
    each = race.copy(chosen, race.seed)
    if each.steps != steps:
        each = race.copies.fresh(chosen, race.seed)
        race.copies.train(each, steps)
    return each


def _trials(race: Race, chosen: Candidate | None, judgement: Judgement | None) -> tuple[Trial, ...]:
    trials: list[Trial] = []
    order = [c for _, _, c in race.ledger.standings() if c not in (AS_IS, chosen)]
    if chosen is not None:
        trials.append(_raced(race, chosen) if judgement is None else _judged(race, chosen, judgement))
    return (*trials, *(_raced(race, candidate) for candidate in order))


def _judged(race: Race, chosen: Candidate, judgement: Judgement) -> Trial:
    gain = judgement.score - judgement.baseline
    short = f"its gain of {gain:.3f} is not above the {judgement.needed:.3f} asked for"
    return _described(race, chosen).replace(
        score=_or_none(judgement.score),
        score_spread=_spread(judgement.scores),
        baseline=_or_none(judgement.baseline),
        steps=judgement.steps,
        seeds=len(judgement.scores),
        judged=True,
        needed=judgement.needed,
        helped=judgement.accepted,
        reason="" if judgement.accepted else short,
    )


def _raced(race: Race, candidate: Candidate) -> Trial:
    """A trial of one seed that was not judged: its score is that on the data that chose."""
    steps = next(s for s, _, c in race.ledger.standings() if c == candidate)
    measure = race.ledger.measures[candidate, race.seed, steps]
    base = race.ledger.measures.get((AS_IS, race.seed, steps))
    last = race.plan.rungs[-1]
    out = "was not chosen in the end" if steps >= last else f"was behind after {steps} steps"
    return _described(race, candidate).replace(
        score=_or_none(measure.score),
        score_spread=_spread((measure.score,)),
        baseline=None if base is None else _or_none(base.score),
        steps=steps,
        seeds=1,
        reason=measure.failure or out,
    )


def _described(race: Race, candidate: Candidate) -> Trial:
    """What the edits do, in words and code."""
    trial = race.ask(Describe(candidate, race.seed)).trial
    assert trial is not None
    return trial


def _as_is(race: Race, judgement: Judgement | None) -> Trial:
    if judgement is None:
        return _raced(race, AS_IS).replace(reason="") if race.ledger.standings() else Trial(remedy="as is", edits=())
    return Trial(
        remedy="as is",
        edits=(),
        change="nothing",
        score=_or_none(judgement.baseline),
        score_spread=_spread(judgement.baselines),
        baseline=_or_none(judgement.baseline),
        steps=judgement.steps,
        seeds=len(judgement.baselines),
        judged=True,
    )


def _after(race: Race, candidate: Candidate) -> Report:
    fresh = race.copies.fresh(candidate, race.seed)
    return diagnose(race.problem_of(fresh, race.problem.steps), seed=race.seed)


def _spread(scores: Sequence[float]) -> tuple[float, float] | None:
    finite = [score for score in scores if math.isfinite(score)]
    return (min(finite), max(finite)) if finite else None


def _or_none(score: float) -> float | None:
    return score if math.isfinite(score) else None

"""Remedies tried on copies, measured, and accepted only for what they are worth on data that did not choose them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from unvanish.decide.stationary import has_converged
from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.problem import Optimizer, Problem
from unvanish.records import DEFAULT_LENGTHS, Finding, UnvanishError
from unvanish.remedies import Remedy, remedies
from unvanish.remedies.thawed import as_drawn
from unvanish.report import Report
from unvanish.trials import state
from unvanish.trials.answer import answer
from unvanish.trials.candidates import answers_to, ordered
from unvanish.trials.crew import helpers
from unvanish.trials.fixes import Fixes
from unvanish.trials.judge import Judgement, confirm, judge
from unvanish.trials.lasting import IMPROVING, lasting
from unvanish.trials.ledger import Ledger, Standing
from unvanish.trials.plan import Plan
from unvanish.trials.questions import Describe
from unvanish.trials.race import Race
from unvanish.trials.search import search
from unvanish.trials.train import AS_IS, Candidate
from unvanish.trials.trial import Copies, Measure, Objective, measure
from unvanish.words.numbers import listing

__all__ = [
    "Fixes",
    "Measure",
    "Objective",
    "Plan",
    "Race",
    "Standing",
    "applicable",
    "begin",
    "fix",
    "in_doubt",
    "lasting",
    "measure",
    "open_race",
    "ordered",
    "probe",
    "search",
    "sees_a_fault",
]

NOTHING = "nothing to repair"
WORSE = 0.1
"""A network that is worse than the best constant answer by more than this share is not improving."""
CONDITIONAL = ("UV704",)
"""Findings that are trouble waiting for a condition, a larger learning rate: only training tells whether it comes."""


def fix(
    problem: Problem,
    *,
    budget: int | None = None,
    seeds: int = 3,
    on: str = "local",
    seed: int = 0,
    progress: Callable[[Standing], None] | None = None,
    resume: str | Path | Fixes | None = None,
    anyway: bool = False,
    pretrained: bool | None = None,
    workers: int = 1,
) -> Fixes:
    """Try remedies on copies of the network, measure them, and hand over the smallest change that repairs it.

    ``budget``: optimizer steps for all of it, kept exactly (default 3 × ``problem.steps``; one of the two is needed).
    ``seeds``: trainings that judge the chosen remedy and the network as it is. ``progress`` is called with a Standing
    after every measure. ``resume``: a file to keep the state of the search in and to go on from, or the Fixes of an
    interrupted search. ``anyway``: search also where nothing is wrong. ``pretrained``: the weights are worth keeping,
    so none is ever drawn anew (default: yes where optimizer or normalisation layers have seen training).

    ``workers``: processes of this machine that train, this one among them. ``on``: "ray" or "ray://HOST:PORT" to train
    on a cluster as well. The problem must be such that it can be sent there, with cloudpickle.

    The problem is left as it was: every training runs on a copy. The same problem, seed and budget give the same
    answer, by however many processes. Ctrl-C ends the search with the best so far. Raises UnvanishError where nothing
    can be tried.
    """
    plan = planned(problem, budget, seeds, seed)
    with torch.inference_mode(False), torch.enable_grad(), seeded(seed), helpers(on, workers) as crew:
        before = diagnose(problem, seed=seed)
        race = open_race(problem, plan, before, seed, progress, pretrained, resume)
        remarks = list(_remarks(problem, race))
        chosen: Candidate | None = None
        judgement: Judgement | None = None
        interrupted, healthy = False, False
        try:
            race.begin(early := crew(race.copies) if on == "local" else None)
            findings, catalogue, healthy, failure = begin(race, anyway=anyway)
            remarks += filter(None, [failure])
            if not catalogue:
                return answer(race, NOTHING, None, None, remarks)
            race.enlist(early or crew(race.copies))
            answers = answers_to(catalogue, findings)
            chosen = search(race, ordered(catalogue, findings, seed), remarks.append, answers)
            judgement = None if chosen is None else confirm(race, chosen)
            remarks += _seen_faults(race, catalogue, judgement)
            if healthy and not (judgement is not None and judgement.accepted):
                failure = lasting(race, findings)[1]
                healthy = not failure
                remarks += filter(None, [failure])
        except KeyboardInterrupt:
            interrupted = True
            chosen, judgement = _so_far(race, chosen)
        return answer(race, NOTHING if healthy else "", chosen, judgement, remarks, interrupted=interrupted)


def begin(race: Race, *, anyway: bool = False) -> tuple[tuple[Finding, ...], tuple[Remedy, ...], bool, str]:
    """What was found, the remedies to race, whether no fault was seen; and how a good beginning ends, "" if well.

    No remedies where there is nothing to repair: the network as it is was then trained to the end, or as far as the
    budget carries.
    """
    findings, improving = probe(race)
    healthy = improving and all(f.level != "error" for f in findings)
    catalogue, failure = _known(race, findings), ""
    if healthy and not anyway and not in_doubt(findings) and not sees_a_fault(catalogue):
        findings, failure = lasting(race, findings)
        if not failure:
            return findings, (), True, ""
        catalogue = _known(race, findings)
    return findings, catalogue, healthy and not failure, failure


def _known(race: Race, findings: tuple[Finding, ...]) -> tuple[Remedy, ...]:
    """The remedies that apply, told of these findings."""
    race.set_findings(findings)
    return applicable(race)


def applicable(race: Race) -> tuple[Remedy, ...]:
    """All remedies but those for a kind of network that this is not, or for a fault that it does not have."""
    return tuple(each for each in remedies() if not each.only_for or race.applies((each.slug,)))


def sees_a_fault(catalogue: Sequence[Remedy]) -> bool:
    """Whether a remedy that looks for its fault has found it, though nothing else was seen to be wrong."""
    return any(each.only_for == "fault" for each in catalogue)


def in_doubt(findings: Sequence[Finding]) -> bool:
    """Whether a network without a fault is raced all the same: the probe is too short to see what was found coming."""
    return any(finding.code in CONDITIONAL for finding in findings)


def planned(problem: Problem, budget: int | None, seeds: int, seed: int) -> Plan:
    """The plan of a search. Raises UnvanishError where the numbers make no sense or do not reach for one rung."""
    if not isinstance(problem, Problem):
        raise UnvanishError(
            f"fix takes an unvanish.Problem, not a {type(problem).__name__}: Problem(model, inputs, targets, loss_fn,"
            " optimizer, train_batches=…, validation=…, metric=…, steps=…)"
        )
    for name, value, least in (("budget", budget, 1), ("seeds", seeds, 1), ("seed", seed, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UnvanishError(f"fix({name}={value!r}) must be a whole number, {least} at least")
    if budget is None and problem.steps is None:
        raise UnvanishError(
            "fix needs to know how long a training is: give Problem(steps=…), the planned number of optimizer steps, or"
            " fix(budget=…), three times as many"
        )
    length = problem.steps or max(1, (budget or 0) // DEFAULT_LENGTHS)
    plan = Plan(length, budget or DEFAULT_LENGTHS * length, seeds)
    if plan.budget < plan.least:
        raise UnvanishError(
            f"a budget of {plan.budget} steps is too small for one rung of trials: for a training of {length} steps at"
            f" least {plan.least} are needed, and {max(5 * plan.least, DEFAULT_LENGTHS * length)} are usual"
        )
    return plan


def open_race(
    problem: Problem,
    plan: Plan,
    before: Report,
    seed: int = 0,
    on_measure: Callable[[Standing], None] | None = None,
    pretrained: bool | None = None,
    resume: str | Path | Fixes | None = None,
) -> Race:
    """A race over the copies of one problem, with nothing measured yet but what ``resume`` holds."""
    identity = state.fingerprint(
        problem, {"budget": plan.budget, "steps": plan.steps, "seeds": plan.seeds, "seed": seed}
    )
    objective = Objective(
        problem,
        plan.steps,
        plan.rungs[-1],
        findings=before.findings,
        layers=before.layers,
        loss=before.loss,
        output=before.output,
        pretrained=_seen_training(problem, seed) if pretrained is None else pretrained,
        reference=None if before.loss is None else before.loss.reference,
    )
    race = Race(plan, Copies(objective, plan.start), Ledger(plan.budget, seed), before, on_measure or _silent, identity)
    if resume is not None:
        race.replay = state.load(resume.state if isinstance(resume, Fixes) else resume, identity)
    if isinstance(resume, (str, Path)):
        path = Path(resume)
        race.keep = lambda: state.save(path, state.written(race.ledger, identity))
    race.copies.set_start(seed)
    return race


def probe(race: Race) -> tuple[tuple[Finding, ...], bool]:
    """Train the network as it is for T/16 steps: what was found before and after, and whether it is improving.

    Improving: converged; or 3% of L_ref has been won, and the loss is at least that far below the best constant
    answer's. Where it is only near that answer, the training goes on to the last rung before it is judged: there a
    network that learns has left the constant behind, and one that is stuck has not. Findings of the start come first.
    """
    stops = sorted({rung for rung in race.plan.rungs if rung < race.plan.probe} | {race.plan.probe})
    for stop in stops:
        race.reach(AS_IS, race.seed, stop, "probe: as is")
    copy = race.copy(AS_IS, race.seed)
    first = race.report.findings
    if not copy.finite:
        return first, False
    later = diagnose(race.problem_of(copy, race.plan.steps), seed=race.seed).findings
    known = {finding.code for finding in first}
    findings = (*first, *(f for f in later if f.code not in known))
    improving = _improving(race)
    if improving is None and all(f.level != "error" for f in findings):
        race.reach(AS_IS, race.seed, race.plan.rungs[-1], "probe: as is")
        improving = _improving(race)
    return findings, bool(improving)


def _improving(race: Race) -> bool | None:
    """Whether the network as it is learns; None where its loss has come near that of the best constant answer.

    None, too, where in evaluation, on the data that judges, it still is worse than that answer: running statistics may
    follow slowly, and where they never do the training loss says nothing of what the network is worth.
    """
    loss, copy = race.report.loss, race.copy(AS_IS, race.seed)
    if loss is None or not copy.losses:
        return False
    if has_converged(loss):
        return True
    first, last = copy.loss_before, copy.loss_now
    scale = loss.reference if loss.reference else abs(first)
    if loss.best_constant is not None and last > loss.best_constant - IMPROVING * scale:
        return None if last < loss.best_constant + WORSE * scale else False
    unseen = race.ledger.measures[AS_IS, race.seed, race.ledger.reached[AS_IS, race.seed]].judged_loss
    if unseen is not None and loss.best_constant is not None and unseen > loss.best_constant + IMPROVING * scale:
        return None
    return first - last > IMPROVING * scale


def _seen_training(problem: Problem, seed: int) -> bool:
    """Whether optimizer or normalisation layers remember steps; a factory's networks are taken to be new."""
    if not isinstance(problem.model, nn.Module):
        return False
    model, optimizer = problem.build(seed)
    counted = (b for name, b in model.named_buffers() if name.endswith("num_batches_tracked"))
    return (isinstance(problem.optimizer, Optimizer) and bool(optimizer and optimizer.state)) or any(map(bool, counted))


def _seen_faults(race: Race, catalogue: Sequence[Remedy], judgement: Judgement | None) -> Iterator[str]:
    """What remedies that saw their fault would change, where nothing was accepted: it may show only later."""
    for each in catalogue if judgement is None or not judgement.accepted else ():
        described = race.ask(Describe((each.slug,), race.seed)).trial if each.only_for == "fault" else None
        if described is not None:
            yield f"{each.slug} sees its fault here, which may cost more in a longer training: {described.change}"


def _remarks(problem: Problem, race: Race) -> Iterator[str]:
    if race.copies.batches.only_the_batch:
        yield "no train_batches were given: every step was taken on the one batch of the problem"
    if not race.copies.scale.unseen:
        yield "no validation data were given: scores are training scores and say nothing about unseen data"
    elif race.copies.objective.whole:
        yield "the network takes no half of the validation data: the same data chose and judged"
    elif not race.copies.scale.split:
        yield "there are too few validation samples to split: the same ones chose and judged"
    if race.copies.objective.pretrained:
        yield "the weights have seen training, so no remedy drew them anew"
    if drawn := as_drawn(race.copies.copy(AS_IS, race.seed).model):
        yield (
            f"not trained, with weights as torch draws them: {listing(drawn)}; if that is not meant, call"
            " requires_grad_(True) and give them to the optimizer"
        )
    if isinstance(problem.model, nn.Module):
        yield "every training starts from the weights as given; seeds change the order of the batches and new weights"


def _so_far(race: Race, chosen: Candidate | None) -> tuple[Candidate | None, Judgement | None]:
    """The best of an interrupted search, judged on the longest training that it and the network as it is share."""
    race.enlist(None)
    ranked = [chosen] if chosen is not None else [c for _, _, c in race.ledger.standings() if c != AS_IS]
    for candidate in ranked[:3]:
        lengths = sorted({s for c, d, s in race.ledger.measures if c == candidate and d == race.seed}, reverse=True)
        for steps in lengths:
            every, known = range(race.seed, race.seed + race.plan.seeds), race.ledger.measures
            seeds = [d for d in every if (candidate, d, steps) in known and (AS_IS, d, steps) in known]
            if seeds and (judgement := judge(race, candidate, seeds, steps)) is not None:
                return candidate, judgement
    return None, None


def _silent(_: Standing) -> None:
    pass

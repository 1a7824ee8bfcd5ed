"""From many candidates to one: heats, the fewest edits, none missing or too many, the rate, and a second seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from unvanish.remedies import Refused, get
from unvanish.trials.candidates import in_order
from unvanish.trials.lasting import failed_late, survives
from unvanish.trials.learned import HALF, has_learned, share_so_far
from unvanish.trials.ledger import BudgetSpentError
from unvanish.trials.plan import QUARTER
from unvanish.trials.race import Race
from unvanish.trials.train import AS_IS, Candidate, title

CLOSE = 0.02
"""Scores this near to each other are taken for the same."""
LOWER_RATE = "lr-0.3"
FEWEST_RUNGS = 5
"""Trainings to the last rung that a search keeps back at the least: a second seed, a guard, and a judgement."""
HIGHER_RATES = ("lr-10", "lr-100")
COMPLETIONS = 3
"""Answers that are tried beside a choice that leaves a fault as it is."""


def search(
    race: Race, stream: Iterator[Candidate], remark: Callable[[str], None], answers: Sequence[str] = ()
) -> Candidate | None:
    """The candidate to be judged; None where nothing that was raced is better than the network as it is.

    Heats go on until one of them finds something or the budget for them is gone; then, or where what was found has
    learnt less than half of what there is, the ``answers`` to the findings get a longer try, and where that finds
    nothing either, heats go on, and at the end the first answer that removes its fault is judged all the same.
    ``remark`` is told which of the later checks the budget did not reach.
    """
    finalists: list[Candidate] = []
    reserve, tried_longer = race.plan.reserve, False
    while not finalists or not _better(race, finalists[0]):
        base = race.ledger.price(AS_IS, race.seed, race.plan.rungs[-1])
        count = race.plan.heat(race.ledger.left - reserve - base)
        field = race.admitted(stream, count if not finalists or count >= QUARTER else 0)
        if field:
            more = heat(race, field)
        elif tried_longer:
            return _cure(race, answers)
        else:  # what is kept back for judging is of no use without anything to judge
            more, tried_longer, reserve = late(race, answers), True, min(reserve, FEWEST_RUNGS * race.plan.rungs[-1])
        finalists = _lasting_ones(race, sorted([*finalists, *more], key=race.ledger.key, reverse=True))
    if not tried_longer and not has_learned(race, finalists[0]):
        longer = sorted([*finalists, *late(race, answers)], key=race.ledger.key, reverse=True)
        finalists = _lasting_ones(race, longer)
    race.expect_descriptions()
    chosen = smallest_of_the_best(race, finalists)
    chosen = chosen if survives(race, chosen) else finalists[0]
    try:
        chosen = minimised(race, completed(race, chosen, answers), answers)
    except BudgetSpentError:
        remark("the budget ended before every edit had been left out once")
    clean = race.veto and not race.leaves_a_fault(chosen)
    others = (c for c in finalists if not set(chosen) <= set(c) and not (clean and race.leaves_a_fault(c)))
    runner_up = next(others, None)
    try:
        return guarded(race, chosen, runner_up)
    except BudgetSpentError:
        remark("the budget ended before a smaller learning rate and a second seed had been tried")
    return chosen


def _cure(race: Race, answers: Sequence[str]) -> Candidate | None:
    """The first answer that sees its own fault, if the budget takes it further than the race did; None without one.

    Nothing else is left to spend it on. A network that has to learn what it could not read before may stand still for
    as long as the race lasts.
    """
    rung = race.plan.rungs[-1]
    for candidate in ((slug,) for slug in answers if get(slug).only_for == "fault"):
        further = race.ledger.price(candidate, race.seed, 2 * rung) + race.ledger.price(AS_IS, race.seed, 2 * rung)
        raced = (candidate, race.seed, rung) in race.ledger.measures
        if raced and race.ledger.key(candidate) > -math.inf and further <= race.ledger.left:
            return candidate
    return None


def _better(race: Race, candidate: Candidate) -> bool:
    return race.ledger.key(candidate) > race.ledger.key(AS_IS) + CLOSE


def _lasting_ones(race: Race, finalists: list[Candidate]) -> list[Candidate]:
    """The finalists from the first on that survives where the network as it is did not; best first, as they are."""
    first = next((place for place, each in enumerate(finalists) if survives(race, each)), len(finalists))
    return finalists[first:]


def _key(race: Race, candidate: Candidate) -> float:
    """Its key; that at the last rung, if it went further only for the sake of where the network as it is failed."""
    at_rung = race.ledger.measures.get((candidate, race.seed, race.plan.rungs[-1]))
    return at_rung.key if at_rung is not None and failed_late(race) else race.ledger.key(candidate)


def heat(race: Race, field: Sequence[Candidate]) -> list[Candidate]:
    """Race these candidates and the network as it is over the rungs; those that reach the last one, best first.

    A quarter of them goes on to the next rung, with the same batches and from where it stands.
    """
    left = list(field)
    for place, rung in enumerate(race.plan.rungs):
        stay = -(-len(left) // QUARTER)
        if place:
            left = sorted(left, key=race.ledger.key, reverse=True)[:stay]
        race.expect((candidate, race.seed, rung) for candidate in (*left, AS_IS))
        if rung == race.plan.rungs[-1] and left:
            fewer = without_one(left[0]).values()
            race.foresee([(each, race.seed) for each in fewer] or [(left[0], race.seed + 1)])
        race.reach(AS_IS, race.seed, rung, "as is")
        for count, candidate in enumerate(left, 1):
            race.reach(candidate, race.seed, rung, f"race to step {rung}: {title(candidate)}")
            if rung < race.plan.rungs[-1]:
                ahead = sorted(left[:count], key=race.ledger.key, reverse=True)
                race.forget([*ahead[: -(-len(left) // QUARTER)], *left[count:]])
    return sorted(left, key=race.ledger.key, reverse=True)


def late(race: Race, answers: Sequence[str]) -> list[Candidate]:
    """The answers to the findings that were behind on the short rungs, at the last one, best first.

    Some remedies help only later than a short rung can see, and the budget kept back for judging would be of no use to
    anyone. They get half of what is left of it, in the order in which they were due; the other half judges.
    """
    rung, share, field = race.plan.rungs[-1], race.ledger.left // 2, list[Candidate]()
    raced = {candidate for candidate, seed, _ in race.ledger.measures if seed == race.seed}
    for candidate in ((slug,) for slug in answers):
        price = race.ledger.price(candidate, race.seed, rung)
        if candidate in raced and 0 < price <= share and race.ledger.key(candidate) > -math.inf:
            field.append(candidate)
            share -= price
    race.expect((candidate, race.seed, rung) for candidate in field)
    for candidate in field:
        race.reach(candidate, race.seed, rung, f"a longer try to step {rung}: {title(candidate)}")
    return sorted(field, key=race.ledger.key, reverse=True)


def smallest_of_the_best(race: Race, finalists: Sequence[Candidate]) -> Candidate:
    """Of the finalists within 0.02 of the best the one with the fewest edits, of equals the one that was due first."""
    best = race.ledger.key(finalists[0])
    near = {c for c in finalists if race.ledger.key(c) >= best - CLOSE}
    due = dict.fromkeys(candidate for candidate, _, _ in race.ledger.measures if candidate in near)
    return min(due, key=len)


def completed(race: Race, chosen: Candidate, answers: Sequence[str]) -> Candidate:
    """The choice, with an answer to the fault that it would leave as it is, where it does no worse with it.

    So early a fault may cost less than it will, and what brings speed is ahead of what removes it. While the choice has
    learnt less than half of what there is, it is enough that as large a share of it is learnt with the answer, if any.
    """
    if not race.veto or not race.leaves_a_fault(chosen):
        return chosen
    kinds = {get(slug).kind for slug in chosen} - {"data"}
    beside = [slug for slug in answers if slug not in chosen and get(slug).kind not in kinds][:COMPLETIONS]
    for slug in beside:
        whole = in_order((*chosen, slug), {each: get(each) for each in (*chosen, slug)})
        if not race.applies(whole) or race.leaves_a_fault(whole):
            continue
        measure = race.reach(whole, race.seed, race.plan.rungs[-1], f"with {slug}: {title(whole)}")
        as_good = measure.key >= _key(race, chosen) - CLOSE or _learns_as_much(race, whole, chosen)
        if as_good and survives(race, whole):
            return whole
    return chosen


def _learns_as_much(race: Race, whole: Candidate, chosen: Candidate) -> bool:
    mine, theirs = share_so_far(race, whole), share_so_far(race, chosen)
    return mine is not None and theirs is not None and theirs < HALF and mine >= max(theirs - CLOSE, CLOSE)


def minimised(race: Race, chosen: Candidate, answers: Sequence[str] = ()) -> Candidate:
    """Drop edits one by one, as long as the score stays within 0.02 and no fault comes back."""
    goal = _key(race, chosen) - CLOSE
    rung = race.plan.rungs[-1]
    fewer = without_one(chosen)
    if race.veto and not race.leaves_a_fault(chosen):
        fewer = {out: smaller for out, smaller in fewer.items() if not race.leaves_a_fault(smaller)}
    every = fewer.values()
    race.foresee([*((smaller, race.seed) for smaller in every), *((each, race.seed + 1) for each in (*every, chosen))])
    for out, smaller in fewer.items():
        try:
            measure = race.reach(smaller, race.seed, rung, f"without {out}: {title(smaller)}")
            key = measure.key
            if key < goal and out in HIGHER_RATES and out not in answers:
                key = _caught_up(race, smaller, out)
        except Refused:
            continue
        if key >= goal and survives(race, smaller):
            return minimised(race, smaller, answers)
    return chosen


def without_one(candidate: Candidate) -> dict[str, Candidate]:
    """What is left without each of its edits; nothing of a single one."""
    return {out: tuple(edit for edit in candidate if edit != out) for out in candidate if len(candidate) > 1}


def _caught_up(race: Race, slower: Candidate, out: str) -> float:
    """Its key after half a training, and what is still to come: a higher rate that no finding asks for may be speed.

    Speed is of no use where there are steps enough without it. Twice the steps to T are left then: where the training
    loss still falls, they are taken to bring half of what the last doubling brought. But a judgement has few of those
    steps: what is no better than the network as it is after a quarter of them could not be shown to help. The steps
    that the guards and a second seed of the judgement need are kept back.
    """
    rung, further = race.plan.rungs[-1], max(race.plan.rungs[-1], race.plan.steps // 2)
    before, as_is = (race.ledger.measures.get((each, race.seed, rung)) for each in (slower, AS_IS))
    assert before is not None
    if as_is is not None and before.key <= as_is.key + CLOSE:
        return before.key
    if race.ledger.left - race.ledger.price(slower, race.seed, further) < 3 * rung:
        return before.key
    measure = race.reach(slower, race.seed, further, f"without {out}, for longer: {title(slower)}")
    doubled = measure.falling and further >= 2 * rung
    return measure.key + (max(0.0, measure.key - before.key) / 2.0 if doubled else 0.0)


def guarded(race: Race, chosen: Candidate, runner_up: Candidate | None) -> Candidate:
    """A second seed and a third of the learning rate: the worse of two seeds decides, else the runner-up.

    The smaller rate and the runner-up have to be better by 0.02.
    """
    rung, second = race.plan.rungs[-1], race.seed + 1

    def worse(candidate: Candidate) -> float:
        measure = race.reach(candidate, second, rung, f"a second seed: {title(candidate)}")
        return min(race.ledger.key(candidate), measure.key)

    rivals: list[Candidate] = [] if LOWER_RATE in chosen else [(*chosen, LOWER_RATE)]
    race.expect([(chosen, second, rung), *((rival, race.seed, rung) for rival in rivals)])
    race.foresee(((chosen, seed) for seed in range(second, race.seed + race.plan.seeds)), own=chosen)
    floor = worse(chosen)
    if runner_up is not None and floor < race.ledger.key(runner_up) - CLOSE:
        rivals.append(runner_up)
    for rival in rivals:
        try:
            race.reach(rival, race.seed, rung, f"learning rate guard: {title(rival)}")
            if race.ledger.key(rival) > floor + CLOSE and (key := worse(rival)) > floor + CLOSE:
                chosen, floor = (rival, key) if survives(race, rival) else (chosen, floor)
        except Refused:
            continue
    return chosen

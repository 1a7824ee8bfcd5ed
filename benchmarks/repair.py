"""How often a search repairs a faulty program within its budget, against three other ways to spend the same steps.

    python benchmarks/repair.py --seeds 20 21 22 --budgets 1 2 3 --save benchmarks/results/repair.json

Repaired: the chosen change, trained for the planned T steps, scores on held-out data that chose nothing within 0.05 of
the known fix. A budget is given in units of T. Not counted, it is what the search may spend, and the winner's own
training comes on top; counted, that training is part of it: a search of B counts as B + 1. The baselines use the same
copies, batches, scores and remedies: AutoTrainer's fixed order and a random order, each with full trainings, and racing
in random order without a diagnosis.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance
from repair_cases import cases

import unvanish
from unvanish.remedies import Refused, remedies
from unvanish.trials import begin, open_race, ordered, search
from unvanish.trials import trial as trial_module
from unvanish.trials.candidates import answers_to, at_random
from unvanish.trials.judge import confirm
from unvanish.trials.plan import Plan
from unvanish.trials.race import Race
from unvanish.trials.train import AS_IS, Candidate, Copy

NEAR = 0.05
STRATEGIES = ("diagnosis", "random raced", "random full", "fixed order")
FIXED_ORDER = (
    "activation-selu", "batchnorm", "residual", "clip-gradients", "he-init", "lr-0.1", "optimizer-adam", "lr-10",
)  # fmt: skip
"""AutoTrainer's solutions in the order in which it tries them. Source: Zhang et al. 2021, table 2."""


@dataclass(frozen=True)
class Row:
    """One search on one program. ``final``: the chosen change after T steps. ``accepted``: by the rule of fix.

    ``seconds``: of the search, checks and scoring included; ``plain_seconds``: of the training steps in it.
    """

    case: str
    seed: int
    strategy: str
    budget: float
    broken: bool
    control: bool
    repaired: bool
    as_is: float
    reference: float
    final: float
    chosen: tuple[str, ...]
    spent: int
    steps: int
    seconds: float
    plain_seconds: float
    accepted: bool = True


def diagnosed(race: Race) -> Candidate | None:
    """The package's own search: probe, candidates by the findings, racing."""
    findings, catalogue, _, _ = begin(race)
    if not catalogue:
        return AS_IS
    answers = answers_to(catalogue, findings)
    return search(race, ordered(catalogue, findings, race.seed), lambda _: None, answers)


def raced_at_random(race: Race) -> Candidate | None:
    """The same race over the same candidates in random order, with no look at the network."""
    race.veto = False
    race.reach(AS_IS, race.seed, race.plan.rungs[0], "as is")
    return search(race, at_random(remedies(), race.seed), lambda _: None)


def full_at_random(race: Race) -> Iterator[Candidate]:
    """Random candidates."""
    return at_random(remedies(), race.seed)


def fixed_order(race: Race) -> Iterator[Candidate]:
    """AutoTrainer's remedies one after the other."""
    known = {each.slug for each in remedies()}
    return iter([(slug,) for slug in FIXED_ORDER if slug in known])


RACED: dict[str, Callable[[Race], Candidate | None]] = {"diagnosis": diagnosed, "random raced": raced_at_random}
IN_FULL: dict[str, Callable[[Race], Iterator[Candidate]]] = {"random full": full_at_random, "fixed order": fixed_order}
"""What is trained for T steps each; the best on the data that chooses is taken."""


def trained(problem: unvanish.Problem, candidate: Candidate, seed: int) -> float:
    """The judged score of a candidate after T steps."""
    assert problem.steps is not None
    race = open_race(problem, Plan(problem.steps, problem.steps, 1), unvanish.diagnose(problem, seed=seed), seed)
    measure = race.reach(candidate, seed, problem.steps, "reference")
    return -math.inf if measure.failure else measure.judged[0]


@contextmanager
def training_time() -> Iterator[list[float]]:
    """Yields a list that gets the seconds of every stretch of plain training inside: forward, backward, step."""
    kept, found = trial_module.train, []

    def timed(each: Copy, problem: unvanish.Problem, to: int) -> None:
        started = time.perf_counter()
        kept(each, problem, to)
        found.append(time.perf_counter() - started)

    trial_module.train = timed
    try:
        yield found
    finally:
        trial_module.train = kept


@dataclass(frozen=True)
class Search:
    """What a strategy chose with a budget, and what that took."""

    strategy: str
    budget: float
    chosen: Candidate
    spent: int
    seconds: float
    plain_seconds: float
    accepted: bool = True


def raced(problem: unvanish.Problem, strategy: str, budget: float, seed: int) -> Search:
    """One search of its own, its choice judged with what is left of the budget."""
    steps = problem.steps or 1
    started = time.perf_counter()
    race = open_race(problem, Plan(steps, round(budget * steps), 1), unvanish.diagnose(problem, seed=seed), seed)
    with training_time() as plain:
        chosen = (RACED[strategy](race) if race.plan.budget >= race.plan.least else None) or AS_IS
        judgement = confirm(race, chosen) if chosen else None
    seconds, accepted = time.perf_counter() - started, judgement is not None and judgement.accepted
    return Search(strategy, budget, chosen, race.ledger.spent, seconds, sum(plain), accepted)


def in_full(problem: unvanish.Problem, strategy: str, budgets: Sequence[float], seed: int) -> list[Search]:
    """One row of full trainings, read off at every budget: a smaller one is where a larger one begins."""
    steps = problem.steps or 1
    started = time.perf_counter()
    race = open_race(problem, Plan(steps, round(max(budgets) * steps), 1), unvanish.diagnose(problem, seed=seed), seed)
    done: list[Search] = []
    best, key = AS_IS, -math.inf
    with training_time() as plain:
        for candidate in IN_FULL[strategy](race):
            before, spent = race.ledger.left, race.ledger.spent
            if before < steps:
                break
            try:
                race.reach(candidate, race.seed, steps, "full training")
            except Refused:
                continue
            finished = [b for b in budgets if spent + steps > round(b * steps)]
            done += [_at(strategy, b, best, spent, started, plain) for b in finished if b not in _budgets(done)]
            if race.ledger.key(candidate) > key:
                best, key = candidate, race.ledger.key(candidate)
    return done + [
        _at(strategy, b, best, race.ledger.spent, started, plain) for b in budgets if b not in _budgets(done)
    ]


def _budgets(found: Sequence[Search]) -> set[float]:
    return {each.budget for each in found}


def _at(strategy: str, budget: float, best: Candidate, spent: int, started: float, plain: Sequence[float]) -> Search:
    return Search(strategy, budget, best, spent, time.perf_counter() - started, sum(plain))


def rows(name: str, seed: int, strategies: Sequence[str], budgets: Sequence[float]) -> list[Row]:
    """Every strategy with every budget on one program."""
    torch.set_num_threads(1)
    case = cases()[name]
    problem = case.build("fault", seed)
    reference = trained(case.build("fix", seed), AS_IS, seed)
    as_is = trained(problem, AS_IS, seed)
    broken = not case.control and as_is < reference - NEAR
    searches = [raced(problem, s, b, seed) for s in strategies if s in RACED for b in budgets]
    for strategy in (s for s in strategies if s in IN_FULL and not case.control):  # it never leaves a network alone
        searches += in_full(problem, strategy, budgets, seed)
    finals = {AS_IS: as_is}
    for candidate in {each.chosen for each in searches} - {AS_IS}:
        finals[candidate] = trained(problem, candidate, seed)
    return [
        Row(
            case=name, seed=seed, strategy=each.strategy, budget=each.budget, broken=broken, control=case.control,
            repaired=broken and finals[each.chosen] >= reference - NEAR, as_is=as_is, reference=reference,
            final=finals[each.chosen], chosen=each.chosen, spent=each.spent, steps=problem.steps or 1,
            seconds=each.seconds, plain_seconds=each.plain_seconds, accepted=each.accepted,
        )
        for each in searches
    ]  # fmt: skip


def table(found: Sequence[Row]) -> list[str]:
    """Repair rates by strategy and budget, edits, harm to controls, and wall time over plain training."""
    lines = [
        "| strategy | budget | seeds | broken | repaired | and accepted | edits | controls harmed | wall / plain |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for strategy in dict.fromkeys(row.strategy for row in found):
        for budget in dict.fromkeys(row.budget for row in found):
            mine = [row for row in found if (row.strategy, row.budget) == (strategy, budget)]
            if not mine:
                continue
            broken = [row for row in mine if row.broken]
            repaired = [row for row in broken if row.repaired]
            controls = [row for row in mine if row.control]
            harm = sum(row.accepted and row.final < row.as_is - NEAR for row in controls)
            harmed = f"{harm} of {len(controls)}" if controls else "–"
            edits = statistics.mean(len(row.chosen) for row in repaired) if repaired else math.nan
            plain = sum(row.plain_seconds for row in mine)
            ratio = sum(row.seconds for row in mine) / plain if plain else math.nan
            rate = len(repaired) / max(1, len(broken))
            kept = f"{sum(r.accepted for r in repaired) / max(1, len(broken)):.2f}" if strategy in RACED else "–"
            seeds = len({row.seed for row in mine})
            lines.append(
                f"| {strategy} | {budget:g}T | {seeds} | {len(broken)} | {rate:.2f} | {kept} | {edits:.2f} | {harmed} |"
                f" {ratio:.2f} |"
            )
    return lines


def paired(found: Sequence[Row], budget: float, other: str = "random raced") -> str:
    """The difference in repair rate to another strategy on the same programs and seeds, with its 95% interval."""
    index = {(r.case, r.seed, r.strategy): r.repaired for r in found if r.broken and r.budget == budget}
    keys = [(c, s) for c, s, strategy in index if strategy == "diagnosis" and (c, s, other) in index]
    if len(keys) < 2:
        return f"{budget:g}T: {other} was not run on the same programs"
    gains = [int(index[c, s, "diagnosis"]) - int(index[c, s, other]) for c, s in keys]
    half = 1.96 * statistics.stdev(gains) / math.sqrt(len(gains))
    mean = statistics.mean(gains)
    interval = f"95% {mean - half:+.3f} … {mean + half:+.3f}, n = {len(gains)}"
    return f"{budget:g}T: diagnosis − {other} = {mean:+.3f} ({interval})"


def saved(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    plain = json.loads(path.read_text())["rows"]
    return [
        Row(**{k: -math.inf if v is None else tuple(v) if isinstance(v, list) else v for k, v in row.items()})
        for row in plain
    ]


def page(found: Sequence[Row], lines: Sequence[str]) -> str:
    """The tables with what they mean, and every search that did not repair."""
    seeds = ", ".join(str(seed) for seed in sorted({row.seed for row in found}))
    failed = [row for row in found if row.broken and not row.repaired]
    score = "{:.2f}".format
    listed = [
        f"| {r.case} | {r.seed} | {r.strategy} | {r.budget:g}T | {score(r.as_is)} | {score(r.final)} |"
        f" {score(r.reference)} | {' + '.join(r.chosen) or 'nothing'} |"
        for r in failed
    ]
    return "\n".join(
        [
            "# How often a search repairs",
            "",
            f"Written by `benchmarks/repair.py`: {len({r.case for r in found})} programs, seeds {seeds}.",
            "Repaired: the chosen change, trained for the planned T steps, comes within 0.05 of the known fix",
            "on data that chose nothing. The winner's own training is not counted; counted, a search of 1T",
            "costs 2T. Broken: the program as it is ends more than 0.05 below the known fix with that seed.",
            "And accepted: with what was left of the budget the change was judged on those data, with one seed,",
            "and would have been handed over. Controls are programs without a fault; harmed: an accepted change",
            "ends more than 0.05 below the program as it is. The last column is the time of the whole searches",
            "over that of the training steps in them.",
            "",
            *lines,
            "",
            "## Searches that did not repair",
            "",
            "| program | seed | strategy | budget | as it is | changed | known fix | chosen |",
            "|---|---|---|---|---|---|---|---|",
            *listed,
            "",
        ]
    )


def main() -> None:
    known = cases()
    parser = argparse.ArgumentParser(description="How often a search repairs a faulty program within its budget.")
    parser.add_argument("--cases", nargs="+", default=list(known), choices=list(known), metavar="CASE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[20, 21, 22])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--budgets", nargs="+", type=float, default=[1.0, 2.0, 3.0], help="in full trainings")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save", type=Path, help="write every row and the table as JSON")
    parser.add_argument("--read", type=Path, nargs="+", default=[], help="take the rows of saved runs, and run nothing")
    parser.add_argument("--page", type=Path, help="write the tables as a page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [row for path in args.read for row in saved(path)]
    jobs = [(name, seed, args.strategies, args.budgets) for name in args.cases for seed in args.seeds]
    jobs = [] if args.read else jobs
    with ProcessPoolExecutor(args.workers) as pool:
        done_jobs = pool.map(rows, *zip(*jobs, strict=True)) if jobs else ()
        for job, done in zip(jobs, done_jobs, strict=True):
            found += done
            for row in done:
                state = "repaired" if row.repaired else "not repaired" if row.broken else "not broken"
                print(
                    f"{job[0]} {job[1]} {row.strategy} {row.budget:g}T: {state}, {row.as_is:.3f} → {row.final:.3f}"
                    f" (fix {row.reference:.3f}) by {' + '.join(row.chosen) or 'nothing'}, {row.seconds:.1f} s",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
    lines = [*table(found), "", *(paired(found, budget) for budget in dict.fromkeys(row.budget for row in found))]
    print("\n".join(lines))
    if args.page:
        args.page.write_text(page(found, lines))
    if args.save:
        plain = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(r).items()}
            for r in found
        ]
        parts = [json.loads(path.read_text())["command"] for path in args.read]
        data = {**provenance(1), **({"parts": parts} if parts else {}), "rows": plain, "table": lines}
        args.save.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()

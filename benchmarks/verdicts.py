"""How often the verdict is right: real faulty programs, their repaired versions and healthy controls, looked at live.

    python benchmarks/verdicts.py --save benchmarks/results/verdicts.json --page docs/benchmarks/verdicts.md

Every program is trained by its own loop and looked at before its first step, after 10% of the planned steps and at
its end. The programs, what their faults do and which codes name them lie in the shared zoo, beside this checkout.
Whether a run was harmed is told by its own end, since rounding alone sends some of these trainings elsewhere.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance
from repaired import failed
from rivals import RIVALS, ask, could_mean, installed

import unvanish
from unvanish import zoo
from unvanish.records import to_builtins

ZOO = Path(__file__).resolve().parents[2] / "shared" / "zoo"
TUNING_SEEDS = (*range(8), 10, 11, 12, *range(20, 32))
EVALUATION_SEEDS = (32, 33, 34)
LOOKS = ("step 0", "10%", "end")
SAMPLES = 512  # a look sees up to so many training samples
HARM = 0.05  # a run is harmed if it ends this far below the repaired program's mean score, or is not finite
SEED_DEPENDENT = ("at_circle_46edb7df", "at_mnist_relu20")  # only some seeds are harmed, so these count by themselves
OURS = "unvanish"


@dataclass(frozen=True)
class Look:
    """One check: findings by level, each code with its evidence, and the alarms of the rivals."""

    when: str
    verdict: str
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evidence: dict[str, dict[str, float | None]] = field(default_factory=dict)
    seconds: float = 0.0
    alarms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    vanished: bool = False


@dataclass(frozen=True)
class Run:
    """One training of one program. ``score`` is accuracy, or R² for a regression, on the training data."""

    id: str
    variant: str
    seed: int
    score: float
    finite: bool
    looks: tuple[Look, ...]
    seconds: float = 0.0


Own = tuple[str, int, Look]  # a network of the project's own zoo, the seed, and what was seen


@dataclass(frozen=True)
class Accepted:
    """The codes, by prefix, that name a fault, and the looks one of which must. ``aside``: counted by itself."""

    codes: tuple[str, ...]
    looks: tuple[str, ...]
    flow_in_order: bool = False
    aside: bool = False


def harmed(run: Run, repaired: float) -> bool:
    return not run.finite or not run.score >= repaired - HARM


def named(look: Look, checker: str, accepted: Accepted) -> bool:
    """Whether the checker names the fault at this look, by an error of ours or an alarm of a rival's."""
    if checker == OURS:
        return any(code.startswith(accepted.codes) for code in look.errors)
    return could_mean(look.alarms.get(checker, ()), accepted.codes)


def flagged(look: Look, checker: str) -> bool:
    return bool(look.errors if checker == OURS else look.alarms.get(checker, ()))


def credit(run: Run, checker: str, accepted: Accepted) -> float:
    """1 for a fault named at one of its looks; a half for silence where nothing is wrong with the gradient; else 0."""
    if any(named(look, checker, accepted) for look in run.looks if look.when in accepted.looks):
        return 1.0
    refused = any(look.verdict == "crashed" for look in run.looks)
    silent = not refused and not any(flagged(look, checker) for look in run.looks)
    return 0.5 if accepted.flow_in_order and silent else 0.0


def majority(credits: Sequence[float]) -> float:
    """The credit that more than half of the runs reach: 1, a half or nothing."""
    return next((c for c in (1.0, 0.5) if sum(x >= c for x in credits) * 2 > len(credits)), 0.0)


def extras(run: Run, accepted: Accepted) -> tuple[str, ...]:
    """Codes of errors at any look that do not name the fault, each once."""
    return tuple(sorted({c for look in run.looks for c in look.errors if not c.startswith(accepted.codes)}))


def tally(runs: list[Run], accepted: dict[str, Accepted], repaired: dict[str, float], checker: str) -> dict[str, Any]:
    """The counts of one checker: faults named (over the harmed runs), healthy runs flagged, and extra errors."""
    faults: dict[str, list[float]] = {}
    healthy: dict[str, list[bool]] = {}
    aside: list[float] = []
    extra = 0
    for run in runs:
        if run.variant == "fix":
            healthy.setdefault(run.id, []).append(any(flagged(look, checker) for look in run.looks))
        elif run.id in accepted and harmed(run, repaired[run.id]):
            wanted = accepted[run.id]
            (aside if wanted.aside else faults.setdefault(run.id, [])).append(credit(run, checker, wanted))
            extra += len(extras(run, wanted)) if checker == OURS else 0
    return {
        "faults": len(faults),
        "faults_named": sum(map(majority, faults.values())),
        "harmed_runs": sum(map(len, faults.values())),
        "harmed_runs_named": sum(map(sum, faults.values())),
        "seed_dependent_runs": len(aside),
        "seed_dependent_runs_named": sum(aside),
        "healthy_programs": len(healthy),
        "healthy_programs_flagged": sum(sum(f) * 2 > len(f) for f in healthy.values()),
        "healthy_runs": sum(map(len, healthy.values())),
        "healthy_runs_flagged": sum(map(sum, healthy.values())),
        "extra_errors": extra,
    }


def worst_errors(runs: Iterable[Run], repaired: dict[str, float]) -> dict[str, list[str]]:
    """A healthy net called vanished, and a stuck one called converged: the two answers that mislead most."""
    seen = [(run, look, f"{run.id}, seed {run.seed}, {look.when}") for run in runs for look in run.looks]
    stuck = [x for x in seen if x[0].variant == "fault" and harmed(x[0], repaired[x[0].id])]
    return {
        "healthy_called_vanished": [place for run, look, place in seen if run.variant == "fix" and look.vanished],
        "stuck_called_converged": [place for _, look, place in stuck if "UV401" in (*look.errors, *look.notes)],
    }


@functools.cache
def programs(folder: str) -> Any:
    """The shared zoo's module ``cases``."""
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("cases")
    except ModuleNotFoundError as error:
        hint = "name the shared zoo's folder by --zoo" if error.name == "cases" else "pip install numpy scikit-learn"
        raise SystemExit(f"the programs need {error.name}, which is not there: {hint}") from None


def check(problem: unvanish.Problem, when: str, seed: int, rivals: bool) -> Look:
    start = time.perf_counter()
    try:
        report = unvanish.diagnose(problem, seed=seed)
    except Exception as error:  # one crash must not hide the other thousand answers; it is counted
        return Look(when, "crashed", evidence={f"{type(error).__name__}: {error}": {}})
    seconds = time.perf_counter() - start
    alarms = ask(problem.model, problem.optimizer, problem.loss_fn, problem.inputs, problem.targets) if rivals else {}
    return Look(
        when=when,
        verdict=report.verdict,
        errors=tuple(dict.fromkeys(f.code for f in report.findings if f.level == "error")),
        notes=tuple(dict.fromkeys(f.code for f in report.findings if f.level == "note")),
        evidence={f.code: {e.name: e.value for e in f.evidence} for f in reversed(report.findings)},
        seconds=seconds,
        alarms=alarms,
        vanished=report.verdict == "vanished" or any(layer.verdict == "vanished" for layer in report.layers),
    )


def train(folder: str, id: str, variant: str, seed: int, looking: bool = True) -> tuple[Run, Any]:
    """The program's own training, with looks between its steps; also what it measured itself and the final weights."""
    cases = programs(folder)
    setup = cases.build(id, variant, seed)
    planned = setup.epochs * -(-len(setup.X) // setup.batch)
    tenth = max(1, round(planned / 10))
    looks: list[Look] = []
    live: list[torch.optim.Optimizer] = []

    def look(when: str) -> None:
        if looking:
            batch = setup.X[:SAMPLES], setup.y[:SAMPLES]
            problem = unvanish.Problem(setup.model, *batch, setup.loss_fn, live[0], steps=planned)
            looks.append(check(problem, when, seed, rivals=True))

    def optimizer() -> torch.optim.Optimizer:
        live.append(make())
        look("step 0")
        return live[0]

    make, setup.opt = setup.opt, optimizer
    start = time.perf_counter()
    facts = cases.train(setup, seed, cb=lambda _, step, __: look("10%") if step == tenth else None)
    look("end")
    finite = facts["nan_at"] is None and facts["loss1"] == facts["loss1"]
    run = Run(id, variant, seed, facts["train"], finite, tuple(looks), time.perf_counter() - start)
    return run, (facts["loss1"], facts["train"], [p.detach().clone() for p in setup.model.parameters()])


def untouched_by_looks(folder: str) -> None:
    """Training ends in the same bits with and without looks; a program with dropout and RMSprop shows it."""
    ends = [train(folder, "so_31880720", "fix", 0, looking)[1] for looking in (True, False)]
    same = all(torch.equal(a, b) for a, b in zip(ends[0][2], ends[1][2], strict=True))
    if ends[0][:2] != ends[1][:2] or not same:
        raise SystemExit(f"a look changed the training: loss {ends[0][0]!r} with looks, {ends[1][0]!r} without")


def one_run(task: tuple[str, str, str, int]) -> Run:
    return train(*task)[0]


def own_zoo(task: tuple[str, int]) -> Own:
    return *task, check(zoo.get(task[0]).build(task[1]), "as built", task[1], rivals=False)


def spread(job: Callable[[Any], Any], tasks: Sequence[Any], jobs: int) -> list[Any]:
    """The jobs' results in the order of the tasks, whatever the order they end in."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(job, tasks))


def summary(runs: list[Run], own: list[Own], folder: Path) -> dict[str, Any]:
    accepted, repaired = references(folder)
    lost, hand = failed(runs, folder, HARM), (OURS, *installed())
    right = [look.verdict in zoo.get(name).expects for name, _, look in own]
    every = [look for run in runs for look in run.looks] + [look for _, _, look in own]
    runs = [run for run in runs if run not in lost]
    return {
        "checkers": {name: tally(runs, accepted, repaired, name) for name in hand},
        "not_installed": sorted(set(RIVALS) - set(hand)),
        **worst_errors(runs, repaired),
        "failed_repaired": [f"{run.id}, seed {run.seed}, {run.score:.2f}" for run in lost],
        "own_zoo": {"checks": len(right), "right": sum(right)},
        "crashed": sum(look.verdict == "crashed" for look in every),
        "median_seconds_a_look": statistics.median(look.seconds for look in every),
    }


def references(folder: Path) -> tuple[dict[str, Accepted], dict[str, float]]:
    """What is accepted for each scored fault, and the mean score of each program once repaired."""
    table, truth = (json.loads((folder / f"{name}.json").read_text()) for name in ("accepted", "truth"))
    rows = {id: row for id, row in table.items() if not id.startswith("_")}
    accepted = {id: Accepted(tuple(r["codes"]), tuple(r["looks"]), r["flow_in_order"]) for id, r in rows.items()}
    accepted |= {id: Accepted(("UV1", "UV3", "UV402"), LOOKS, aside=True) for id in SEED_DEPENDENT}
    return accepted, {id: row["fixed"]["train"] for id, row in truth.items()}


def page(data: dict[str, Any], runs: list[Run], own: list[Own], folder: Path) -> str:
    total, versions = data["summary"], data["versions"]
    seeds, tuned = (", ".join(map(str, each)) for each in (data["seeds"], TUNING_SEEDS))
    return "\n".join(
        [
            "# How often the verdict is right",
            "",
            f"Written by `{data['command']}`",
            f"with unvanish {versions['unvanish']}, torch {versions['torch']}, seeds {seeds} (rules tuned on {tuned}).",
            "A fault counts as named where more than half of its harmed runs are. A rival's alarm is a hit wherever it",
            "could have meant the fault (`NAMES` in `benchmarks/rivals.py`), and a false alarm on a healthy run.",
            "Silence is half a point where nothing is wrong with the gradient (a learning rate, a loss).",
            "",
            *_checkers(total),
            "",
            f"- A healthy net called vanished: {_list(total['healthy_called_vanished'])}",
            f"- A stuck net called converged: {_list(total['stuck_called_converged'])}",
            f"- Repaired, failed all the same, and not counted as healthy: {_list(total['failed_repaired'])}",
            "- The project's own zoo: {right} of {checks} verdicts as expected".format(**total["own_zoo"]),
            f"- Crashed checks: {total['crashed']}; median time of a check: {total['median_seconds_a_look']:.2f} s",
            *("", "## Faults", "", *_faults(runs, folder)),
            *("", "## False alarms", "", *_false_alarms(runs, folder)),
            *("", "## Own zoo: other than expected", "", *_unexpected(own), ""),
        ]
    )


def _table(head: str, rows: Iterable[str]) -> list[str]:
    return [f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {row} |" for row in rows)]


def _checkers(total: dict[str, Any]) -> list[str]:
    rows = [
        f"{name} | {t['faults_named']:g} of {t['faults']} | {t['harmed_runs_named']:g} of {t['harmed_runs']}"
        f" | {t['seed_dependent_runs_named']:g} of {t['seed_dependent_runs']}"
        f" | {t['healthy_programs_flagged']} of {t['healthy_programs']}"
        f" | {t['healthy_runs_flagged']} of {t['healthy_runs']} | {t['extra_errors'] if name == OURS else '–'}"
        for name, t in total["checkers"].items()
    ]
    rows += [f"{name} | not installed | | | | |" for name in total["not_installed"]]
    head = "checker | faults named | harmed runs named | seed-dependent, named | healthy programs flagged"
    return _table(f"{head} | healthy runs flagged | extra errors", rows)


def _faults(runs: list[Run], folder: Path) -> list[str]:
    (accepted, repaired), rows = references(folder), []
    for run in (r for r in runs if r.variant == "fault"):
        told = {look.when: " ".join(look.errors) or f"({look.verdict})" for look in run.looks}
        score = f"{run.score:.2f} ({repaired[run.id]:.2f})"
        cells = [run.id, str(run.seed), score, _credit(run, accepted, repaired), *(told.get(w, "–") for w in LOOKS)]
        rows.append(" | ".join(cells))
    return _table("program | seed | end score (repaired) | credit | step 0 | 10% | end", rows)


def _false_alarms(runs: list[Run], folder: Path) -> list[str]:
    lost = failed(runs, folder, HARM)
    healthy = [(run, look) for run in runs if run.variant == "fix" and run not in lost for look in run.looks]
    rows = (f"{run.id} | {run.seed} | {look.when} | {' '.join(look.errors)}" for run, look in healthy if look.errors)
    return _table("program | seed | look | errors", rows)


def _unexpected(own: list[Own]) -> list[str]:
    seen = [(name, seed, look.verdict, zoo.get(name).expects) for name, seed, look in own]
    rows = (f"{name} | {seed} | {word} | {' or '.join(right)}" for name, seed, word, right in seen if word not in right)
    return _table("network | seed | verdict | expected", rows)


def _credit(run: Run, accepted: dict[str, Accepted], repaired: dict[str, float]) -> str:
    if run.id not in accepted:
        return "not scored"
    if not harmed(run, repaired[run.id]):
        return "not harmed"
    wanted = accepted[run.id]
    told = [f"{credit(run, OURS, wanted):g}", *(f"extra {code}" for code in extras(run, wanted))]
    noted = {code for look in run.looks for code in look.notes if code.startswith(wanted.codes)}
    return ", ".join([*told, *(f"only noted {code}" for code in sorted(noted) if told[0] != "1")])


def _list(places: Sequence[str]) -> str:
    return f"{len(places)} ({'; '.join(places)})" if places else "never"


def as_json(data: dict[str, Any], runs: list[Run], own: list[Own]) -> str:
    """The summary indented, then one run a line. Numbers that are not finite are strings."""
    own_rows = [{"network": name, "seed": seed, **to_builtins(look)} for name, seed, look in own]
    parts = [json.dumps(data, indent=1, allow_nan=False).removesuffix("\n}")]
    for key, rows in (("runs", map(to_builtins, runs)), ("own_zoo", own_rows)):
        parts.append(f' "{key}": [\n' + ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in rows) + "\n ]")
    return ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(EVALUATION_SEEDS))
    parser.add_argument("--zoo", type=Path, default=ZOO, help="folder of the shared zoo")
    parser.add_argument("--save", type=Path, help="write every look and the summary as JSON")
    parser.add_argument("--page", type=Path, help="write the tables as Markdown")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--only", nargs="+", metavar="ID", help="only these programs, or networks of the own zoo")
    args = parser.parse_args()
    cases = programs(str(args.zoo))
    start = time.perf_counter()
    torch.set_num_threads(1)
    untouched_by_looks(str(args.zoo))
    every = {*cases.CASES, *zoo.names()}
    wanted = set(args.only or every)
    if unknown := ", ".join(sorted(wanted - every)):
        raise SystemExit(f"neither a program nor a network of the own zoo: {unknown}")
    variants = {id: ("fix",) if case.control else ("fault", "fix") for id, case in cases.CASES.items() if id in wanted}
    tasks = [(str(args.zoo), id, v, seed) for id, vs in variants.items() for v in vs for seed in args.seeds]
    runs = spread(one_run, tasks, args.jobs)
    own = spread(own_zoo, [(n, seed) for n in zoo.names() if n in wanted for seed in args.seeds], args.jobs)
    data = {
        **provenance(1),
        "processes": args.jobs,
        "seeds": args.seeds,
        "tuning_seeds": TUNING_SEEDS,
        "rivals": {name: version for name, version in installed().items() if version},
        "seconds": round(time.perf_counter() - start, 1),
        "summary": summary(runs, own, args.zoo),
    }
    print(text := page(data, runs, own, args.zoo))
    if missing := data["summary"]["not_installed"]:
        hint = f"pip install {' '.join(missing)}"
        print(f"not asked, because not installed: {', '.join(missing)} ({hint})", file=sys.stderr)
    for path, content in ((args.save, as_json(data, runs, own)), (args.page, text)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)


if __name__ == "__main__":
    main()

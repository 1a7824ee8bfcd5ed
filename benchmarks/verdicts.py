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
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance
from rivals import ask, installed
from verdicts_counted import Look, Own, Run, summary
from verdicts_page import page

import unvanish
from unvanish import zoo
from unvanish.records import to_builtins

ZOO = Path(__file__).resolve().parents[2] / "shared" / "zoo"
TUNING_SEEDS = (*range(8), 10, 11, 12, *range(20, 32))
EVALUATION_SEEDS = (107, 108, 109)
SAMPLES = 512  # a look sees up to so many training samples


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

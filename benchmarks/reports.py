"""How far the change that fix finds goes towards the known cure of a reported program.

    python benchmarks/reports.py --seeds 0 1 2 --save benchmarks/results/reports.json

Each program is trained for its planned T steps as reported, with its known cure, and with the change that a search of
3 T steps hands over; all three are scored on the same validation data (its loss, negative, where there is no metric).
The share is (changed − reported) / (cured − reported); 0.9 and more counts as reached. Programs of the folder of shared
cases are taken in where it lies beside this checkout.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance
from report_cases import CASES

import unvanish
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.remedies import Draft, get

SHARED = Path(__file__).resolve().parents[2] / "shared" / "cases" / "public_reports.py"
REACHED = 0.9
NO_CURE = ("stale_optimizer",)
"""Programs for which an error is right: the optimizer holds none of the model's parameters."""


def score_of(parts: dict[str, Any], edits: tuple[str, ...], seed: int, findings: Any = ()) -> float:
    """The program after ``edits``, trained for its planned steps and scored on its validation data."""
    problem = Problem(**parts)
    model, optimizer = problem.build(seed)
    draft = Draft.of(problem, model, optimizer, seed=seed, findings=findings)
    draft.generator.manual_seed(seed)
    with seeded(seed):
        for name in edits:
            get(name).apply(draft)
        held = draft.recipe.build(list(draft.model.parameters()))
        rates = [group["lr"] for group in held.param_groups]
        given = list(parts["train_batches"])
        for step in range(parts["steps"]):
            for group, rate in zip(held.param_groups, rates, strict=True):
                group["lr"] = rate * draft.recipe.rate(step)
            held.zero_grad()
            loss = _loss(draft, given[step % len(given)])
            loss.backward()
            draft.recipe.clip_gradients(list(draft.model.parameters()))
            held.step()
        draft.model.eval()
        data = parts.get("validation", given[0])
        if parts.get("metric") is None:
            found = -float(_loss(draft, data).detach())
        else:
            with torch.no_grad():
                outputs = draft.model(data[0])
                outputs = outputs if draft.restore_outputs is None else draft.restore_outputs(outputs)
                found = float(parts["metric"](outputs, data[1]))
    return found


def _loss(draft: Draft, batch: Any) -> torch.Tensor:
    if draft.loss_fn is None:
        return draft.model(**batch) if isinstance(batch, dict) else draft.model(batch)
    return draft.loss_fn(draft.model(batch[0]), batch[1])


def row(name: str, build: Any, seed: int, lengths: int = 3) -> dict[str, Any]:
    """One program with one seed; ``lengths``: the steps of the search, in planned trainings."""
    reported, cured = build(seed)
    started = time.perf_counter()
    found: dict[str, Any] = {"case": name, "seed": seed}
    try:
        budget = lengths * reported["steps"]
        fixes = unvanish.fix(unvanish.Problem(**reported), budget=budget, seeds=3, seed=seed)
    except unvanish.UnvanishError as error:
        return {**found, "error": str(error)}
    edits = () if fixes.best is None else fixes.best.edits
    scores = {
        "reported": score_of(reported, (), seed),
        "cured": score_of(cured, (), seed),
        "changed": score_of(reported, edits, seed, fixes.before.findings),
    }
    way = scores["cured"] - scores["reported"]
    share = (scores["changed"] - scores["reported"]) / way if math.isfinite(way) and way > 0 else math.nan
    if not math.isfinite(scores["reported"]) and math.isfinite(scores["changed"]):
        share = math.nan
    return {
        **found, "verdict": fixes.verdict, "edits": " + ".join(edits), "share": share, **scores,
        "before": [each.code for each in fixes.before.findings], "spent": fixes.spent,
        "after": [] if fixes.after is None else [f"{each.code} {each.level}" for each in fixes.after.findings],
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def programs(wanted: list[str]) -> dict[str, Any]:
    """Name and builder of each program."""
    found: dict[str, Any] = dict(CASES)
    if SHARED.is_file():
        spec = importlib.util.spec_from_file_location("public_reports", SHARED)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= {name: each["build"] for name, each in module.CASES.items()}
    return {name: build for name, build in found.items() if not wanted or name in wanted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[], help="only these")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for name, build in programs(args.cases).items():
        for seed in args.seeds:
            rows.append(row(name, build, seed))
            print(json.dumps(rows[-1]), flush=True)
    judged = [each for each in rows if each["case"] not in NO_CURE]
    reached = sum(each.get("share", 0.0) >= REACHED for each in judged)
    print(f"{reached} of {len(judged)} reach {REACHED:.0%} of the way to the known cure")
    if args.save is not None:
        args.save.write_text(json.dumps({**provenance(1), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

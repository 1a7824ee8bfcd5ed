"""Two runs of one script against each other: seeds should not be told apart, another learning rate should.

python benchmarks/runs_apart.py [--steps 300] [-o FILE]

Each training of ``watch_healthy.py`` is run with three seeds, and with ten times the learning rate from half its steps
on, with the same seed and with another.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from machine import provenance
from watch_healthy import TRAININGS

import unvanish
from unvanish.watching.against import Against, against

EVERY = 5
FASTER = 10.0


def run(name: str, path: Path, steps: int, seed: int, faster: bool = False) -> Path:
    """Train and watch; ``faster``: with ten times the learning rate from half the steps on."""
    torch.manual_seed(seed)

    def watch(model: Any, optimizer: Any) -> Any:
        if faster:
            for each in optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]:
                _hasten(each, steps // 2)
        return unvanish.watch(model, optimizer, every=EVERY, to=path)

    TRAININGS[name](steps, watch)
    return path


def _hasten(optimizer: Any, begin: int) -> None:
    """Ten times the learning rate in each step from ``begin`` on, whatever a schedule does in between."""
    made = 0

    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= FASTER if made >= begin else 1.0

    def after(optimizer: Any, args: Any, kwargs: Any) -> None:
        nonlocal made
        for group in optimizer.param_groups:
            group["lr"] /= FASTER if made >= begin else 1.0
        made += 1

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def told(found: Against) -> dict[str, Any]:
    parting = found.parting
    where = {} if parting is None else {"step": parting.step, "quantity": parting.quantity, "layer": parting.layer}
    return {"answer": found.answer, **where}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("-o", "--output", type=Path, help="write the numbers as JSON")
    arguments = options.parse_args()
    logging.getLogger("unvanish").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    steps, found = arguments.steps, {}
    with tempfile.TemporaryDirectory() as home:
        for name in TRAININGS:
            paths = {
                what: run(name, Path(home) / f"{len(found)}-{what}.unvanish", steps, *how)
                for what, how in {
                    "base": (0,), "seed 1": (1,), "seed 2": (2,), "again": (0,),
                    "faster": (0, True), "faster, seed 1": (1, True),
                }.items()
            }  # fmt: skip
            base = unvanish.load_run(paths.pop("base"))
            found[name] = {what: told(against(base, unvanish.load_run(path))) for what, path in paths.items()}
            print(name, json.dumps(found[name]), flush=True)
    apart = [row[what]["answer"] == "differ" for row in found.values() for what in ("seed 1", "seed 2")]
    begin = steps // 2
    seen = {
        what: sum(row[what].get("step") in range(begin, begin + 2 * EVERY + 1) for row in found.values())
        for what in ("faster", "faster, seed 1")
    }
    same = sum(row["again"]["answer"] == "identical" for row in found.values())
    result = {**provenance(threads=1), "steps": steps, "trainings": len(found), "identical_when_repeated": same,
              "pairs_of_seeds": len(apart), "of_them_told_apart": sum(apart), "found_within_two_samples": seen,
              "each": found}  # fmt: skip
    print(json.dumps({key: value for key, value in result.items() if key != "each"}, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

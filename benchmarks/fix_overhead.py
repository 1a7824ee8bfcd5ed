"""What a search costs beside the training steps in it, and whether it still finds the same as another build.

python benchmarks/fix_overhead.py --beside OLD/src --save benchmarks/results/fix_overhead.json

Processor time of a whole search over that of forward, backward and optimizer's step in it, one thread, on programs of
the repair benchmark; checks, looks at candidates and scoring are the rest. With ``--beside`` the searches of another
build of the package run too, program by program in turn, and choice, acceptance and steps spent of both are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from machine import provenance  # noqa: E402

CASES = ("so_55328966", "so_48221692", "so_45442843", "so_31880720", "so_44066044", "at_blob_demo_act")
"""Those of the repair benchmark on which a search took most beside its steps."""
WANTED = {"1": 1.3, "2": 1.15, "3": 1.15}


def searched(case: str, seeds: Sequence[int], budgets: Sequence[float]) -> list[dict[str, Any]]:
    """The searches on one program, in this process."""
    import repair
    import torch
    from repair_cases import cases

    torch.set_num_threads(1)
    repair.time = type("Clock", (), {"perf_counter": staticmethod(time.process_time)})  # pyright: ignore
    known = cases()[case]
    repair.raced(known.build("fault", seeds[0]), "diagnosis", budgets[0], seeds[0])  # imports and first calls
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for budget in budgets:
            found = repair.raced(known.build("fault", seed), "diagnosis", budget, seed)
            rows.append(
                {
                    "case": case, "seed": seed, "budget": budget, "chosen": list(found.chosen), "spent": found.spent,
                    "accepted": found.accepted, "search_s": found.seconds, "steps_s": found.plain_seconds,
                }
            )  # fmt: skip
    return rows


def apart(source: Path, case: str, seeds: Sequence[int], budgets: Sequence[float]) -> list[dict[str, Any]]:
    """The same in a process of its own, with the package from ``source``."""
    given = [str(each) for each in ("--run", case, "--seeds", *seeds, "--budgets", *budgets)]
    done = subprocess.run(
        [sys.executable, __file__, *given], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return json.loads(done.stdout)


def share(rows: Sequence[dict[str, Any]], budget: float) -> float:
    """Processor time of all searches with that budget over that of the steps in them."""
    mine = [row for row in rows if row["budget"] == budget]
    return sum(row["search_s"] for row in mine) / sum(row["steps_s"] for row in mine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[80])
    parser.add_argument("--budgets", nargs="+", type=float, default=[1.0, 3.0])
    parser.add_argument("--beside", type=Path, metavar="SRC", help="the folder src of another build")
    parser.add_argument("--run", metavar="CASE", help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(searched(args.run, args.seeds, args.budgets)))
        return
    builds = {"this": HERE.parent / "src", **({"beside": args.beside} if args.beside else {})}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
    loads: list[float] = []
    for case in args.cases:
        loads.append(os.getloadavg()[0])
        for name, source in builds.items():
            rows[name] += apart(source, case, args.seeds, args.budgets)
            print(case, name, [round(r["search_s"] / r["steps_s"], 2) for r in rows[name][-2:]], file=sys.stderr)
        told = ("case", "seed", "budget", "chosen", "spent", "accepted")
        same = {name: [[row[key] for key in told] for row in found] for name, found in rows.items()}
        data: dict[str, Any] = {
            "wanted": WANTED, "load": loads, "rows": rows,
            "search_over_steps": {n: {f"{b:g}": share(found, b) for b in args.budgets} for n, found in rows.items()},
            "same_answers": same["this"] == same["beside"] if args.beside else None,
        }  # fmt: skip
        if args.save:
            args.save.write_text(json.dumps({**provenance(1), **data}, indent=1) + "\n")
    print(json.dumps({key: data[key] for key in ("search_over_steps", "same_answers")}))


if __name__ == "__main__":
    main()

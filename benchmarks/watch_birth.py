"""How long it takes from a number that stops being finite in the small GPT to the finding that names its call.

python benchmarks/watch_birth.py --save benchmarks/results/watch_birth.json

Counted from the beginning of the step with the fault until ``on_finding`` is called, by the clock and in processor
time, beside an ordinary step of the same training; each fault in a training of its own, first of all in a warm process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance
from networks import NETWORKS

import unvanish

GPT = "GPT 4 x 128, T 64, batch 16"
PLANTED = 13
"""The step with the fault: neither the first nor one that is sampled with every=10."""


class Faulty(nn.Module):
    """Passes on what it is given through a call that once is asked where it is not finite, or has no finite slope."""

    def __init__(self, call: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.call, self.on = call, 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.on)


FAULTS: dict[str, tuple[Callable[[Tensor, float], Tensor], str]] = {
    "logarithm of a negative": (lambda x, on: x + 1e-3 * torch.log(x.square() + 0.1 - 1e3 * on), "log"),
    "exponential overflows": (lambda x, on: x + 1e-3 * torch.exp(x.clamp(-5, 5) + 200.0 * on), "exp"),
    "zero over zero": (lambda x, on: x * (1.0 - on) / (1.0 - on), "div"),
    "slope of a root at zero": (lambda x, on: x + 1e-3 * torch.sqrt(x.square() * (1.0 - on) + 1e-6 * (1 - on)), "sqrt"),
    "softmax of a masked row": (lambda x, on: x + torch.softmax(x if not on else x * 0 - float("inf"), -1), "softmax"),
}


def measured(fault: str, every: int) -> dict[str, Any]:
    """Seconds until the call is named, and what was said."""
    call, name = FAULTS[fault]
    torch.manual_seed(0)
    problem: Any = NETWORKS[GPT]()
    faulty = Faulty(call)
    problem.model.blocks.insert(2, faulty)
    told: list[tuple[float, float, str]] = []

    def tell(finding: unvanish.Finding) -> None:
        told.append((time.perf_counter(), time.thread_time(), finding.message))

    steps: list[float] = []
    began = 0.0, 0.0
    with unvanish.watch(problem.model, problem.optimizer, every=every, to=tempfile.mkdtemp(), on_finding=tell):
        for step in range(PLANTED + 1):
            faulty.on = float(step == PLANTED)
            began = time.perf_counter(), time.thread_time()
            problem.optimizer.zero_grad()
            problem.loss(problem.outputs(problem.model)).backward()
            problem.optimizer.step()
            steps.append(time.thread_time() - began[1])
    found = [each for each in told if f"at step {PLANTED}:" in each[2]]
    if len(found) != 1:
        raise SystemExit(f"{fault}: {told}")
    clock, spent, message = found[0]
    return {
        "clock_s": clock - began[0], "processor_s": spent - began[1], "step_s": statistics.median(steps[:-1]),
        "named": f" from {name} in blocks.2 at " in message, "message": message,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("unvanish").setLevel(logging.CRITICAL)
    rows: dict[str, Any] = {}
    for fault in FAULTS:
        for every in (1, 10):
            row = rows[f"{fault}, every={every}"] = measured(fault, every)
            times = f"{row['clock_s']:5.2f} s ({row['processor_s']:.2f} s of processor; a step {row['step_s']:.2f} s)"
            print(f"{fault:26} every={every:<3} {times}  {row['message'].replace(os.getcwd() + '/', '')}", flush=True)
    for row in rows.values():  # where the repository lies is nobody's business
        row["message"] = row["message"].replace(f"{Path(__file__).parent.parent}/", "")
    if args.save:
        head = {**provenance(1), "network": GPT, "load": os.getloadavg()[0]}
        args.save.write_text(json.dumps({**head, "faults": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What it takes to write a report down: seconds a format, for 2,000 and 4,000 layers and for a very long name.

python benchmarks/writers.py --save benchmarks/results/writers.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

from unvanish.records import Evidence, Finding, Flow, LayerFlow, Setting
from unvanish.report import Report
from unvanish.report.formats import formats

DEPTHS = (2000, 4000)
LONG_NAME = 10_000
SETTING = Setting(
    model="Sequential", parameters=1, batch_size=64, dtype="float32", device="cpu", mode="train", effort="auto", seed=0
)


def one_fault(depth: int) -> Report:
    """The signal shrinks from layer to layer; one finding names nine tenths of the layers; one line calls them all."""
    return made([f"layers.{place}" for place in range(depth)], lambda place: place < 0.9 * depth, lambda _: "net.py:12")


def own_lines(depth: int) -> Report:
    """Every second layer is at fault, and each is called at a line of its own."""
    names = [f"fc{place}" for place in range(depth)]
    return made(names, lambda place: place % 2 == 0, lambda place: f"net.py:{place + 1}")


def many_findings(depth: int) -> Report:
    """As before, but with a finding for each of these layers."""
    whole = own_lines(depth)
    (one,) = whole.findings
    each = [one.replace(layers=(name,), message=f"{name} hardly learns.") for name in one.layers]
    return whole.replace(findings=tuple(each))


def long_name(length: int) -> Report:
    """Two layers with a name of ``length`` characters in parts, one of them without a dot."""
    names = [".".join(["block"] * (length // 6)), "x" * length]
    return made(names, lambda _: True, lambda _: "net.py:12")


CASES: dict[str, tuple[Callable[[int], Report], tuple[int, ...]]] = {
    "one fault": (one_fault, DEPTHS),
    "own lines": (own_lines, DEPTHS),
    "a finding a layer": (many_findings, DEPTHS),
    "a long name": (long_name, (LONG_NAME, 2 * LONG_NAME)),
}


def made(names: list[str], faulty: Callable[[int], bool], source: Callable[[int], str]) -> Report:
    """A report on layers of these names."""
    layers = tuple(
        LayerFlow(
            name=name, kind="Linear", source=source(place), parameters=4160, log10_signal=-0.01 * (len(names) - place),
            log10_grad_norm=-0.02 * (len(names) - place), log10_weight_norm=0.5, log10_curvature=-1.0, log10_gain=-0.01,
            log10_weight_gain=0.3, log10_slope_gain=-0.31, before=names[place - 1] if place else "",
            verdict="vanished" if faulty(place) else "healthy",
        )
        for place, name in enumerate(names)
    )  # fmt: skip
    lost = tuple(layer.name for layer in layers if layer.verdict == "vanished")
    finding = Finding(
        code="UV101", verdict="vanished", level="error", layers=lost, cause="slopes",
        message=f"{lost[0]} to {lost[-1]} hardly learn: the error signal shrinks. It starts at 1.",
        evidence=(Evidence(name="log10_transmission", value=-20.0, relation="<", threshold=-2.5),),
    )  # fmt: skip
    return Report.from_flow(Flow(setting=SETTING, layers=layers), [finding])


def seconds(write: Callable[[Report], object], report: Report, repeats: int) -> float:
    took: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        write(report)
        took.append(time.process_time() - start)
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for each in formats():
        each.write(one_fault(100))  # what is loaded once
    for case, (make, sizes) in CASES.items():
        for size in sizes:
            report = make(size)
            took = {each.name: round(seconds(each.write, report, args.repeats), 4) for each in formats()}
            rows.setdefault(case, {})[str(size)] = took
            print(f"{case}, {size:,}: " + ", ".join(f"{name} {value:.2f}" for name, value in took.items()), flush=True)
    if args.save:
        args.save.write_text(json.dumps({**provenance(1), "seconds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

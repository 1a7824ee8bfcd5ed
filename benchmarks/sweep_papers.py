"""What papers predict of deep random networks, beside what the sweeps of examples/ measure.

python benchmarks/sweep_papers.py --save benchmarks/results/sweep_papers.json --page docs/benchmarks/sweep_papers.md
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

import unvanish
from unvanish.theory import activation
from unvanish.theory.meanfield import fixed_point

EXAMPLES = Path(__file__).parents[1] / "examples"
LEARNED = 0.5
"""Accuracy from which a network counts as trained; chance is 0.135 on these images."""
Row = tuple[str, str, str, str, str]
HEADS = ("what", "where", "predicted", "measured", "in words")


def sweep(name: str) -> list[dict[str, Any]]:
    print(f"{name} …", file=sys.stderr, flush=True)
    return [dict(row) for row in unvanish.sweep(EXAMPLES / f"{name}.toml").points]


def tanh_limit() -> Iterator[Row]:
    """Schoenholz et al. 2017: plain networks train up to about six depth scales."""
    rows = sweep("phase_tanh")
    deepest = max(row["depth"] for row in rows)
    for weight in sorted({row["weight_variance"] for row in rows}):
        scale = fixed_point(activation("tanh"), weight, 0.05).depth_scale
        trained = [row["depth"] for row in rows if row["weight_variance"] == weight and row["accuracy"] >= LEARNED]
        limit, deepest_trained = 6 * scale, max(trained, default=0)
        limited = f"at most {limit:,.0f} layers" if limit < 1_000 else "more than 1,000 layers"
        word = "trains deeper" if deepest_trained > limit else "within the limit"
        if deepest_trained < min(limit, deepest) / 2:
            word = "fewer than half of it in 300 steps"
        yield "tanh, deepest trained", f"σ_w² = {weight:g}", limited, f"{deepest_trained} layers", word


def sigmoid_ratio() -> Iterator[Row]:
    """Schoenholz et al. 2017: the error signal changes by √χ₁ a layer."""
    for init, rows in grouped(sweep("sigmoid_depth"), "init"):
        for depth in (20, 200):
            some = [row for row in rows if row["depth"] == depth]
            expected = some[0]["predicted_log10_signal_ratio"]
            ratio = statistics.fmean(row["log10_signal_ratio"] for row in some)
            off = ratio - expected
            word = "agrees" if abs(off) < 0.3 else f"{abs(off):.1f} decades {'less' if off < 0 else 'more'}"
            yield "sigmoid, log10 of signal", f"{init}, {depth} layers", f"{expected:.2f}", f"{ratio:.2f}", word


def fluctuation() -> Iterator[Row]:
    """Hanin & Nica 2018: ln of the squared signal has variance 5 Σ 1/n in ReLU networks."""
    rows = sweep("fluctuation")
    for (width, depth), some in grouped(rows, "width", "depth"):
        signals = [
            2 * math.log(10) * row["log10_signal_ratio"] for row in some if row["log10_signal_ratio"] > -math.inf
        ]
        expected, spread = 5 * depth / width, statistics.variance(signals)
        error = spread * math.sqrt(2 / (len(signals) - 1))
        word = "agrees" if abs(spread - expected) < 3 * error + 0.1 * expected else f"×{spread / expected:.2f}"
        yield (
            "ReLU, variance of ln ‖δ‖²",
            f"{depth} × {width}",
            f"{expected:.2f}",
            f"{spread:.2f} ± {error:.2f}",
            word,
        )


def batchnorm() -> Iterator[Row]:
    """Yang et al. 2019: batch normalisation and ReLU multiply the error signal by 1.2112 a layer."""
    expected = math.sqrt(math.pi / (math.pi - 1))
    for batch, some in grouped(sweep("batchnorm"), "batch"):
        # the first layer's step is another one, for its inputs are no ReLU's; it is in both
        off = statistics.fmean(row["log10_signal_ratio"] - row["predicted_log10_signal_ratio"] for row in some)
        gain = expected * 10 ** (off / (some[0]["depth"] - 1))
        word = "agrees within 1%" if abs(gain / expected - 1) < 0.01 else f"{100 * (gain / expected - 1):+.0f}%"
        yield "batch norm and ReLU, gain a layer", f"batch {batch}", f"{expected:.4f}", f"{gain:.4f}", word


def residual() -> Iterator[Row]:
    """The depth at which residual branches stop helping; the prediction is that 1/√L keeps the signal at any depth."""
    for (phi, skip), some in grouped(sweep("residual"), "activation", "skip"):
        scores = {
            depth: statistics.fmean(row["accuracy"] for row in members) for depth, members in grouped(some, "depth")
        }  # fmt: skip
        trained = [depth for depth, score in scores.items() if score >= LEARNED]
        kept = "signal kept at any depth" if isinstance(skip, str) else "–"
        reach = f"trains up to {max(trained)} layers" if trained else "trains at no depth"
        deep = max(scores)
        yield f"{phi}, residual × {skip}", f"5 … {deep} layers", kept, reach, f"accuracy {scores[deep]:.2f} at {deep}"


def grouped(rows: list[dict[str, Any]], *names: str) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Rows with the same settings, in the order in which they come."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    for key, members in groups.items():
        yield (key if len(names) > 1 else key[0]), members


STUDIES = (tanh_limit, sigmoid_ratio, fluctuation, batchnorm, residual)


def page(studies: dict[str, list[Row]]) -> str:
    parts = [
        "# What papers predict, measured",
        "Written by `benchmarks/sweep_papers.py` from the grids in `examples/`. Where a sweep contradicts a paper's"
        " figure, the last column says by how much. Trained means an accuracy of at least"
        f" {LEARNED:g} on 200 MNIST digits after 300 steps on 600 others; the best constant answer has 0.135.",
    ]
    for title, rows in studies.items():
        parts.append(f"## {title}")
        lines = [HEADS, ("---",) * len(HEADS), *rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    parser.add_argument("--page", type=Path, help="write the tables as Markdown")
    args = parser.parse_args()
    studies = {(study.__doc__ or "").strip().rstrip("."): list(study()) for study in STUDIES}
    print(page(studies))
    if args.page:
        args.page.write_text(page(studies), encoding="utf-8")
    if args.save:
        rows = {title: [dict(zip(HEADS, row, strict=True)) for row in lines] for title, lines in studies.items()}
        args.save.write_text(json.dumps({**provenance(1), "studies": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The rows of benchmarks/deep_rescue.py, the file they are kept in, what is read off them, and the page."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from machine import provenance

DIGITS = "digits"
REACHED = 0.93
FOUND_AT = (20, 50, 100)
RESIDUAL = "residual, branch 1/√L"
TARGETS = (
    ("centred initialisation, Adam", 100, 0.93),
    (f"{RESIDUAL}, SGD", 100, 0.95),
    (f"{RESIDUAL}, 4 (σ − ½), SGD", 1000, 0.95),
)
"""Line, layers, and the accuracy it should have at least."""


@dataclass(frozen=True)
class Result:
    """One line at one depth.

    ``probes``: rate -> score on the choosing data + 0.05 × relative fall of the loss, after a third of the steps.
    ``scores``: a score on the judging data for each seed, None where the training left the numbers. ``step_ms``: of
    the trainings that are scored.
    """

    line: str
    data: str
    depth: int
    rate: float
    scores: tuple[float | None, ...]
    steps: int
    probes: dict[str, float | None]
    seconds: float
    step_ms: float


@dataclass(frozen=True)
class Search:
    """What ``unvanish.fix`` made of a default sigmoid network, and full trainings of what it chose.

    ``score``, ``as_is``: its own answer, after ``judged_at`` steps. ``full``: the chosen edits trained for the planned
    steps with several seeds, scored on the data that judged. ``seconds``: of fix alone.
    """

    depth: int
    optimizer: str
    rate: float
    seed: int
    verdict: str
    chosen: str
    score: float | None
    as_is: float | None
    judged_at: int
    spent: int
    budget: int
    full: tuple[float | None, ...]
    seconds: float


def as_json(results: Sequence[Result], searches: Sequence[Search], settings: dict[str, Any]) -> str:
    """Provenance, settings and targets indented, then one line a row."""
    head = {**provenance(1), **settings, "targets": targets(results, searches)}
    parts = [json.dumps(head, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")]
    for key, rows in (("results", results), ("searches", searches)):
        lines = ",\n".join(f"  {json.dumps(asdict(row), ensure_ascii=False, allow_nan=False)}" for row in rows)
        parts.append(f' "{key}": [\n{lines}\n ]')
    return ",\n".join(parts) + "\n}\n"


def read(data: dict[str, Any]) -> tuple[list[Result], list[Search]]:
    """The rows of a saved file."""
    results = [Result(**{**row, "scores": tuple(row["scores"])}) for row in data["results"]]
    return results, [Search(**{**row, "full": tuple(row["full"])}) for row in data["searches"]]


def mean(scores: Sequence[float | None]) -> float:
    """Over seeds; a training that left the numbers counts as 0."""
    return round(statistics.mean(score or 0.0 for score in scores), 4)


def targets(results: Sequence[Result], searches: Sequence[Search]) -> list[dict[str, Any]]:
    """What was aimed at, what came of it, and whether it holds (None: not measured)."""
    rows: list[dict[str, Any]] = []
    for name, depth, least in TARGETS:
        mine = [r for r in results if (r.line, r.depth, r.data) == (name, depth, DIGITS)]
        score = mean(mine[0].scores) if mine else None
        what = f"{name}, {depth:,} layers: {least:.2f} or better"
        rows.append({"what": what, "found": score, "holds": None if score is None else score >= least})
    for depth in FOUND_AT:
        mine = [s for s in searches if s.depth == depth]
        reached = sum(s.score is not None and s.score >= REACHED for s in mine)
        in_full = sum(bool(s.chosen) and mean(s.full) >= REACHED for s in mine)
        what = (
            f"fix, default sigmoid network of {depth} layers: {REACHED:.2f} or better within its budget, every search"
        )
        tally = f"{reached} of {len(mine)} searches ({in_full} where trained in full)" if mine else None
        rows.append({"what": what, "found": tally, "holds": reached == len(mine) if mine else None})
    return rows


PAGE = """\
# Deep sigmoid networks, brought back

Written by `{command}`
with unvanish {unvanish}, torch {torch}.

Sigmoid networks of width {width} on scikit-learn's digits, batches of {batch}, {steps} steps, float32. 1,200 images
are trained on, the other 597 are split in halves. On one the learning rate was chosen for each line and depth, with a
seed that is not scored: the two best after a third of the steps were trained to the end, and the smaller one was taken
unless the larger was better by more than 0.02. On the other half the accuracies below were taken, one a seed, with the
learning rate in brackets. At 500 and 1,000 layers there is one seed, and the rate is the better after a third of the
steps of the one chosen at 100 layers and the next smaller (a third of it, where it was the smallest). Chance is 0.10;
an empty cell was not tried. Depth counts
the sigmoids. Every edit is a remedy of the package but for one: `critical-init` refuses sigmoids, so the line of the
critical weights starts from them.

{rescues}

## Shallow reference and MNIST

Of the 1,000 images that come with the package 700 were trained on, 150 chose and 150 judged; of the 10,000 of the
test set 8,000, 1,000 and 1,000.

{others}

## Found by `fix` alone

`unvanish.fix` was given the default network, the optimizer in the table and {steps} planned steps, and had its default
budget. Its own answer is an accuracy after so many steps, beside that of the network as it is. Last column: what it
chose, trained for all planned steps with the seeds 0, 1 and 2 and scored on the half that did not choose.

{searches}

## Targets

{targets}
"""


def page(data: dict[str, Any], lines: Sequence[str]) -> str:
    """The tables as Markdown. ``lines``: names of the lines of the first table, in their order."""
    results, searches = read(data)
    settings = {name: data[name] for name in ("command", "width", "batch", "steps")}
    return PAGE.format(
        **settings,
        unvanish=data["versions"]["unvanish"],
        torch=data["versions"]["torch"],
        rescues=_rescues(results, lines),
        others=_others(results, lines),
        searches=_searches(searches),
        targets="\n".join(f"- {_holds(target)}" for target in targets(results, searches)),
    )


def cell(result: Result) -> str:
    """The scores and, in brackets, the learning rate."""
    return f"{_scores(result.scores)} ({result.rate:.2g})"


def _rescues(results: Sequence[Result], lines: Sequence[str]) -> str:
    mine = [r for r in results if r.data == DIGITS and r.line in lines]
    depths = sorted({r.depth for r in mine})
    rows: list[list[str]] = []
    for line in dict.fromkeys(line for line in lines if any(r.line == line for r in mine)):
        cells = {r.depth: cell(r) for r in mine if r.line == line}
        rows.append([line, *(cells.get(depth, "") for depth in depths)])
    return _table(["network", *(f"{depth:,} layers" for depth in depths)], rows)


def _others(results: Sequence[Result], lines: Sequence[str]) -> str:
    rows = [[r.data, r.line, str(r.depth), cell(r)] for r in results if r.data != DIGITS or r.line not in lines]
    return _table(["data", "network", "layers", "accuracy"], rows)


def _searches(searches: Sequence[Search]) -> str:
    head = ["layers", "trained by", "seed", "chosen", "own answer (as it is)", "steps spent", "trained in full"]
    return _table(head, map(search_row, searches))


def search_row(search: Search) -> list[str]:
    """The cells of one search in the table."""
    scores = ""
    if search.score is not None and search.as_is is not None:
        scores = f"{search.score:.2f} after {search.judged_at} ({search.as_is:.2f})"
    chosen = search.chosen or search.verdict
    trained = f"{search.optimizer} {search.rate:g}"
    spent = f"{search.spent:,} of {search.budget:,}"
    return [str(search.depth), trained, str(search.seed), chosen, scores, spent, _scores(search.full)]


def _scores(scores: Sequence[float | None]) -> str:
    return " ".join("diverged" if score is None else f"{score:.2f}" for score in scores)


def _holds(target: dict[str, Any]) -> str:
    if target["holds"] is None:
        return f"{target['what']}: not measured"
    score = target["found"] if isinstance(target["found"], str) else f"{target['found']:.3f}"
    return f"{target['what']}: {score}, {'holds' if target['holds'] else 'missed'}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))

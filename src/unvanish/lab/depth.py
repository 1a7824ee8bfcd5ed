"""Deeper is not better by itself: accuracy of 1 to 20 hidden layers, all trained alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Progress, Settings, Stopped, experiment
from unvanish.lab.parameters import TUNED_ON_DIGITS
from unvanish.lab.swept import held, refuse_others, swept
from unvanish.population.data import Images, chance, images, load
from unvanish.population.designs import Design
from unvanish.population.names import NAMES
from unvanish.population.threads import one_thread
from unvanish.population.tuning import tuned
from unvanish.records import UnvanishError

KINDS: dict[str, tuple[Design, str]] = {
    "sigmoid": (Design(1), "SGD"),
    "sigmoid, Adam": (Design(1), "Adam"),
    "sigmoid, centred init": (Design(1, init="centred"), "SGD"),
    "tanh, critical init": (Design(1, activation="tanh", init="critical"), "SGD"),
    "residual × 1/√L": (Design(1, skip=1.0), "SGD"),
    "batch norm": (Design(1, norm="batch"), "SGD"),
}
"""Each way to build a network of any depth, and the optimizer that trains it."""


@experiment(
    "depth",
    title="Deep networks that do no better than shallow ones",
    question="How does accuracy change with the number of hidden layers, as is and with a remedy?",
    sources=("001", "000"),
    settings=(
        Parameter("hidden", (1.0, 2.0, 3.0, 5.0, 10.0, 20.0), "numbers of hidden layers", 1, 100, most=20, quick=3),
        Parameter("width", 30, "units of each hidden layer", 4, 256, log=True),
        *TUNED_ON_DIGITS,
        Parameter("rates", 7, "learning rates tried for each network, over three decades", 1, 31, quick=4),
        Parameter("quick", False, "150 steps, 4 rates and 3 depths at most, whatever was set"),
        Parameter("seed", 0, "the first of the seeds", 0, 1_000_000),
        Parameter("sweep", "", "the .sqlite file of a sweep with training, to be shown instead", local=True),
    ),
    pace="long",
)
@one_thread()
def run(s: Settings, progress: Progress) -> Outcome:
    """Fully connected networks of equal width on digits, with 1 to 20 hidden layers.

    A plain sigmoid network, the same under Adam, and four remedies are trained at every depth with the same number of
    steps, on the same batches, from the same seeds. The learning rate is chosen for each kind and depth among the same
    number of rates over three decades, on images that take no part in the training; accuracy is that on images that
    took no part in the choice either.
    """
    if s.sweep:
        refuse_others(s, "depth")
        return _shown(s.sweep)
    data = images(s.data, s.folder, s.images)
    jobs = _jobs(s)
    weights = [hidden + 5 for _, hidden in jobs]  # the first layer and what surrounds a step weigh about five layers
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    try:
        for turn, (kind, hidden) in enumerate(jobs):
            begin, size = sum(weights[:turn]) / sum(weights), weights[turn] / sum(weights)
            tell = partial(_tell, progress, begin, size, f"{hidden} hidden layers, {kind}")
            rows.append(_row(kind, hidden, data, s, tell))
    except (Stopped, KeyboardInterrupt):
        notes.append(f"Stopped early: {len(rows)} of {len(jobs)} networks were trained to the end.")
    return Outcome(
        sentence=_sentence(rows),
        columns=COLUMNS,
        rows=tuple(rows),
        pictures=tuple(_drawings(rows, tuple(KINDS), chance(data), s.seeds)),
        checks=tuple(_checks(rows)) if s.steps >= 100 and s.rates >= 4 else (),
        notes=(*notes, f"The best constant answer is right on {100 * chance(data):.1f}% of the test images."),
    )


MOST_KINDS = 12
"""Lines that one picture can hold."""


def _shown(path: str) -> Outcome:
    """The same table and pictures of a sweep with training: of each kind and depth the rate that trained best."""
    grid, points, missing = swept(path, "depth")
    if not grid.train:
        raise UnvanishError(f"lab depth: {path!r} is a sweep without training; train = true in [run] gives accuracies")
    told = [name for name in grid.names if name not in ("depth", "lr")]
    best: dict[tuple[str, int], tuple[float, dict[str, Any]]] = {}
    for point in points:
        own = point.settings
        kind = ", ".join(f"{name.replace('_', ' ')} {own[name]}" for name in told) or str(own.get("activation", "tanh"))
        scores, loss = [row["accuracy"] for row in point.rows], point.mean("training_loss")
        rate = own.get("lr", NAMES["lr"].default)
        values = (kind, own["depth"], fmean(scores), min(scores), max(scores), rate)
        row = dict(zip((column.name for column in COLUMNS), values, strict=True))
        loss = math.inf if loss is None else loss
        if (kind, own["depth"]) not in best or loss < best[kind, own["depth"]][0]:
            best[kind, own["depth"]] = loss, row
    rows = sorted((row for _, row in best.values()), key=lambda row: row["hidden"])
    kinds = tuple(dict.fromkeys(row["kind"] for row in rows))
    constant = chance(load(grid.data))
    chosen = "Of several learning rates the one with the lowest training loss is shown." if "lr" in grid.names else ""
    few = len(kinds) <= MOST_KINDS
    crowded = "" if few else f"There are {len(kinds)} kinds of networks, and a picture holds {MOST_KINDS}."
    best_row = max(rows, key=lambda row: row["accuracy"])
    return Outcome(
        settings=held(path, grid, points),
        sentence=f"Of {len(rows)} kinds and depths {_layers(best_row['hidden'])} of {best_row['kind']} do best, with an"
        f" accuracy of {best_row['accuracy']:.2f}.",
        columns=COLUMNS,
        rows=tuple(rows),
        pictures=tuple(_drawings(rows, kinds, constant, grid.seeds)) if few else (),
        notes=tuple(filter(None, (f"The networks are those of {path}.", chosen, crowded, missing))),
    )


COLUMNS = (
    Column("kind", "", "how the network is built and trained"),
    Column("hidden", "layers", "number of hidden layers"),
    Column("accuracy", "", "share of right answers on the test images, mean over seeds, at the chosen rate"),
    Column("low", "", "of the worst seed"),
    Column("high", "", "of the best seed"),
    Column("rate", "", "the chosen learning rate"),
)


def _jobs(s: Settings) -> list[tuple[str, int]]:
    """Kind and depth of each network, the shallow ones first."""
    return [(kind, hidden) for hidden in sorted({int(each) for each in s.hidden}) for kind in KINDS]


def _tell(progress: Progress, begin: float, size: float, what: str, share: float) -> None:
    progress(begin + size * share, what)


def _row(kind: str, hidden: int, data: Images, s: Settings, tell: Callable[[float], None]) -> dict[str, Any]:
    design, optimizer = KINDS[kind]
    design = replace(design, hidden=hidden, width=s.width, skip=design.skip / math.sqrt(hidden))
    result = tuned(design, data, optimizer, rates=s.rates, seeds=s.seeds, steps=s.steps, seed=s.seed, progress=tell)
    return {
        "kind": kind,
        "hidden": hidden,
        "accuracy": fmean(result.scores),
        "low": min(result.scores),
        "high": max(result.scores),
        "rate": result.rate,
    }


def _sentence(rows: list[dict[str, Any]]) -> str:
    plain = [row for row in rows if row["kind"] == "sigmoid"]
    if not plain:
        return "Nothing was trained to the end before it was stopped."
    best, deepest = max(plain, key=lambda row: row["accuracy"]), plain[-1]
    text = (
        f"The plain sigmoid network does best with {_layers(best['hidden'])} ({best['accuracy']:.2f}) and reaches"
        f" {deepest['accuracy']:.2f} with {deepest['hidden']}"
    )
    deep = [row for row in rows if row["hidden"] == deepest["hidden"] and row["kind"] != "sigmoid"]
    if not deep:
        return f"{text}."
    saved = max(deep, key=lambda row: row["accuracy"])
    return f"{text}; the best of the others reaches {saved['accuracy']:.2f} there ({saved['kind']})."


def _layers(hidden: int) -> str:
    return f"{hidden} hidden layer{'' if hidden == 1 else 's'}"


def _checks(rows: list[dict[str, Any]]) -> Iterator[Check]:
    accuracy = {(row["kind"], row["hidden"]): row["accuracy"] for row in rows}
    depths = sorted({hidden for _, hidden in accuracy})
    if len(depths) < 2 or depths[-1] < 20 or ("sigmoid, centred init", depths[-1]) not in accuracy:
        return
    lost = accuracy["sigmoid", depths[0]] - accuracy["sigmoid", depths[-1]]
    kept = accuracy["sigmoid, centred init", depths[-1]] - accuracy["sigmoid", depths[-1]]
    what = f"accuracy a plain sigmoid network loses from {_layers(depths[0])} to {depths[-1]}"
    yield Check(what, "more than 0.5", round(lost, 3), lost > 0.5)
    what = f"accuracy that centred initialisation gives back at {depths[-1]}"
    yield Check(what, "more than 0.5", round(kept, 3), kept > 0.5)


def _drawings(
    rows: list[dict[str, Any]], kinds: tuple[str, ...], best_constant: float, seeds: int
) -> Iterator[Drawing]:
    depths = sorted({row["hidden"] for row in rows})
    if len(depths) > 1:
        yield _lines(rows, kinds, depths, best_constant, seeds)
    for hidden in dict.fromkeys([*depths[-1:], *depths[:1]]):
        group = sorted((row for row in rows if row["hidden"] == hidden), key=lambda row: -row["accuracy"])
        dots = [
            {
                "name": row["kind"],
                "score": row["accuracy"],
                "low": row["low"],
                "high": row["high"],
                "gain": None,
                "baseline": row["kind"] == "sigmoid",
            }
            for row in group
        ]
        as_is = next((row["accuracy"] for row in group if row["kind"] == "sigmoid"), None)
        yield Drawing.of(
            "remedies",
            f"What does a network with {_layers(hidden)} learn?",
            f"Accuracy of {len(group)} networks with {_layers(hidden)}: a dot for the mean over {seeds} seeds, a line"
            f" from the worst to the best, sorted; chance is {best_constant:.3g}.",
            dots,
            chance=best_constant,
            as_is=as_is,
        )


def _lines(
    rows: list[dict[str, Any]], kinds: tuple[str, ...], depths: list[int], best_constant: float, seeds: int
) -> Drawing:
    accuracy = {(row["kind"], row["hidden"]): row["accuracy"] for row in rows}
    scores = [[accuracy.get((kind, hidden), 0.0) for hidden in depths] for kind in kinds]
    return Drawing.of(
        "speeds",
        "Does accuracy survive more layers?",
        f"Accuracy over the number of hidden layers, on a logarithmic scale, a line for each of {len(kinds)} ways to"
        f" build and train a network; the mean over {seeds} seeds. The best constant answer has {best_constant:.3g}.",
        depths,
        list(kinds),
        [[math.log10(score) if score else None for score in of_kind] for of_kind in scores],
        quantity="accuracy",
        across="hidden layers",
    )

"""What brings the gradient back to a deep sigmoid network, and whether it then learns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch.nn.functional as F

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Progress, Settings, Stopped, experiment
from unvanish.lab.parameters import TUNED_ON_DIGITS, nearest
from unvanish.pipeline import diagnose
from unvanish.population.data import Images, chance, images
from unvanish.population.designs import Design
from unvanish.population.threads import one_thread
from unvanish.population.tuning import Tuned, tuned
from unvanish.problem import Problem
from unvanish.records import UnvanishError

RESCUED, PARTLY = 0.8, 0.2  # share of the way from the best constant answer to a network of one hidden layer


@dataclass(frozen=True)
class Remedy:
    """One row: a change to the deep sigmoid network. ``shrunk``: the residual branches are multiplied by 1/√L."""

    name: str
    design: Design
    optimizer: str = "SGD"
    shrunk: bool = False

    def at(self, hidden: int, width: int) -> Design:
        skip = 1 / math.sqrt(hidden) if self.shrunk else self.design.skip
        return replace(self.design, hidden=hidden, width=width, skip=skip)


def _of(activation: str = "sigmoid", **more: Any) -> Design:
    return Design(hidden=20, activation=activation, **more)


AS_IS, SHALLOW = "sigmoid as is", "one hidden layer"
REMEDIES = (
    Remedy(AS_IS, _of()),
    Remedy("momentum", _of(), "momentum"),
    Remedy("Adagrad", _of(), "Adagrad"),
    Remedy("RMSprop", _of(), "RMSprop"),
    Remedy("Adam", _of(), "Adam"),
    Remedy("Xavier init", _of(init="xavier")),
    Remedy("He init", _of(init="he")),
    Remedy("critical init", _of(init="critical")),
    Remedy("centred init", _of(init="centred")),
    Remedy("centred init, Adam", _of(init="centred"), "Adam"),
    Remedy("residual, sigmoid last", _of(after=True, skip=1.0)),
    Remedy("residual", _of(skip=1.0)),
    Remedy("residual × 1/√L", _of(skip=1.0), shrunk=True),
    Remedy("batch norm", _of(norm="batch")),
    Remedy("layer norm", _of(norm="layer")),
    Remedy("tanh", _of("tanh")),
    Remedy("tanh, Xavier init", _of("tanh", init="xavier")),
    Remedy("tanh, critical init", _of("tanh", init="critical")),
    Remedy("ReLU", _of("relu")),
    Remedy("ReLU, Xavier init", _of("relu", init="xavier")),
    Remedy("ReLU, He init", _of("relu", init="he")),
    Remedy("ReLU, He, residual × 1/√L", _of("relu", init="he", skip=1.0), shrunk=True),
)
HALF = (
    AS_IS, "Adagrad", "Adam", "Xavier init", "critical init", "centred init", "centred init, Adam",
    "residual, sigmoid last", "residual × 1/√L", "batch norm", "tanh", "tanh, critical init", "ReLU, He init",
)  # fmt: skip
"""What ``quick`` tries."""


@experiment(
    "remedies",
    title="What brings the gradient back",
    question="Which of the usual remedies lets a deep sigmoid network learn, each with its learning rate tuned alike?",
    sources=("004", "000"),
    settings=(
        Parameter("hidden", 20, "hidden layers", 2, 100, log=True),
        Parameter("width", 30, "units of each hidden layer", 4, 256, log=True),
        *TUNED_ON_DIGITS,
        Parameter("rates", 7, "learning rates tried for each remedy, over three decades", 1, 31, quick=4),
        Parameter("quick", False, "150 steps and 4 rates at most, and half of the remedies"),
        Parameter("only", "", "names of remedies with semicolons between; empty: all of them"),
        Parameter("seed", 0, "the first of the seeds", 0, 1_000_000),
    ),
    pace="long",
)
@one_thread()
def run(s: Settings, progress: Progress) -> Outcome:
    """The remedies of the documents and some others on one network: sigmoid layers of equal width on digits.

    For each remedy two things are measured: which share of the error signal at the last layer reaches the first one at
    the start, and how well the network does after training. Every remedy is trained at the same number of learning
    rates over three decades, from the same seeds, on the same batches. The rate is chosen on images that take no part
    in the training, and judged on others that took no part in the choice. A remedy has rescued the network if it comes
    80% of the way from the best constant answer to a network with one hidden layer tuned alike, partly if 20%.

    Batch norm takes its statistics from the images it is judged on.
    """
    data = images(s.data, s.folder, s.images)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    jobs = (Remedy(SHALLOW, Design(hidden=1)), *chosen(s.only, s.quick))
    shallow = math.nan
    try:
        for turn, remedy in enumerate(jobs):
            design = remedy.at(1 if not turn else s.hidden, s.width)
            tell = lambda share, turn=turn, name=remedy.name: progress((turn + share) / len(jobs), name)  # noqa: E731
            result = tuned(
                design, data, remedy.optimizer, rates=s.rates, seeds=s.seeds, steps=s.steps, seed=s.seed, progress=tell
            )
            shallow = fmean(result.scores) if not turn else shallow
            rows.append(_row(remedy, design, result, data, s, shallow))
    except (Stopped, KeyboardInterrupt):
        notes.append(f"Stopped early: {len(rows)} of {len(jobs)} rows were trained to the end.")
    rows.sort(key=lambda row: (-row["accuracy"], row["remedy"]))
    return Outcome(
        sentence=_sentence(rows, s),
        columns=COLUMNS,
        rows=tuple(rows),
        pictures=(_drawing(rows, chance(data), s),) if rows else (),
        checks=tuple(_checks(rows)) if s.hidden >= 20 and s.steps >= 100 and s.rates >= 4 else (),
        notes=(*notes, f"The best constant answer is right on {100 * chance(data):.1f}% of the test images."),
    )


COLUMNS = (
    Column("remedy", "", "what was changed in the sigmoid network, which else is torch's default under SGD"),
    Column("accuracy", "", "share of right answers on the test images, mean over seeds, at the chosen rate"),
    Column("low", "", "of the worst seed"),
    Column("high", "", "of the best seed"),
    Column("rescued", "", "yes, partly or no: how far from the best constant answer to one hidden layer"),
    Column("reaches", "log10", "error signal per sample at the first layer over that at the last one, before training"),
    Column("verdict", "", "what a check of the untrained network says"),
    Column("optimizer", "", ""),
    Column("rate", "", "the chosen learning rate"),
    Column("works_at", "", "at how many of the rates tried the remedy rescues, or does so partly"),
)


def chosen(only: str, quick: bool = False) -> tuple[Remedy, ...]:
    """The remedies of these names, or all, or a telling half; UnvanishError for a name that there is not."""
    by_name = {remedy.name: remedy for remedy in REMEDIES}
    names = [name.strip() for name in only.split(";") if name.strip()]
    for name in names:
        if name not in by_name:
            raise UnvanishError(f"lab remedies: there is no remedy {name!r}{nearest(name, tuple(by_name))}")
    return tuple(by_name[name] for name in dict.fromkeys(names)) or (
        tuple(by_name[name] for name in HALF) if quick else REMEDIES
    )


def _row(remedy: Remedy, design: Design, result: Tuned, data: Images, s: Settings, shallow: float) -> dict[str, Any]:
    reaches, verdict = _at_start(design, data, s)
    word = partial(_rescued, best_constant=chance(data), shallow=shallow)
    by_rate = [word(fmean(scores)) for scores in result.judged]
    return {
        "remedy": remedy.name,
        "accuracy": fmean(result.scores),
        "low": min(result.scores),
        "high": max(result.scores),
        "rescued": word(fmean(result.scores)),
        "reaches": reaches,
        "verdict": verdict,
        "optimizer": remedy.optimizer,
        "rate": result.rate,
        "works_at": f"{sum(each != 'no' for each in by_rate)} of {len(by_rate)}",
    }


def _rescued(score: float, best_constant: float, shallow: float) -> str:
    way = (score - best_constant) / (shallow - best_constant) if shallow > best_constant else 0.0
    return "yes" if way >= RESCUED else "partly" if way >= PARTLY else "no"


def _at_start(design: Design, data: Images, s: Settings) -> tuple[float, str]:
    """log10 of the share of the last layer's error signal that reaches the first, mean over seeds; the verdict."""
    inputs, labels = (part[:100] for part in data.train)
    shares: list[float] = []
    verdicts: list[str] = []
    for seed in range(s.seed, s.seed + s.seeds):
        network = design.build(data.inputs, data.classes, seed)
        report = diagnose(Problem(network, inputs, labels, F.cross_entropy), effort="auto", seed=seed)
        signals = {layer.name: layer.log10_signal for layer in report.layers}
        first, last = signals["0.linear"], signals[str(design.hidden)]
        shares.append(math.nan if first is None or last is None else first - last)
        verdicts.append(report.verdict)
    return fmean(shares), Counter(verdicts).most_common(1)[0][0]


def _sentence(rows: list[dict[str, Any]], s: Settings) -> str:
    words = {row["remedy"]: row["rescued"] for row in rows if row["remedy"] != SHALLOW}
    if not words:
        return "Nothing was trained to the end before it was stopped."
    by_word = {word: [name for name, rescued in words.items() if rescued == word] for word in ("yes", "partly", "no")}
    saved, partly, lost = by_word["yes"], by_word["partly"], sorted(by_word["no"], key=_place)
    ways = f"Of {len(words)} ways" if len(words) > 1 else "Of one way"
    comes = f"{len(saved) or 'none'} come{'' if len(saved) > 1 else 's'}"
    # names have commas of their own
    parts = [f"{ways} to train {s.hidden} hidden layers {comes} near a network with one{_listed(saved, ': ')}"]
    parts += [f"Part of the way{_listed(partly, ': ')}"] if partly else []
    parts += [f"Not rescued{_listed(lost, ': ')}"] if lost else []
    return f"{'. '.join(parts)}."


def _listed(names: list[str], before: str) -> str:
    return before + "; ".join(names) if names else ""


def _place(name: str) -> int:
    return [remedy.name for remedy in REMEDIES].index(name)


def _checks(rows: list[dict[str, Any]]) -> Iterator[Check]:
    rescued = {row["remedy"]: row["rescued"] for row in rows}
    lost = (AS_IS, "Xavier init", "Adagrad", "residual, sigmoid last")
    for name, word in (*((name, "no") for name in lost), ("centred init", "yes")):
        if name in rescued:
            yield Check(f"{name}: rescued", word, rescued[name], rescued[name] == word)


def _drawing(rows: list[dict[str, Any]], best_constant: float, s: Settings) -> Drawing:
    dots = [
        {
            "name": row["remedy"],
            "score": row["accuracy"],
            "low": row["low"],
            "high": row["high"],
            "gain": row["reaches"] if math.isfinite(row["reaches"]) else None,
            "baseline": row["remedy"] == AS_IS,
        }
        for row in rows
    ]
    as_is = next((row["accuracy"] for row in rows if row["remedy"] == AS_IS), None)
    return Drawing.of(
        "remedies",
        f"What helps {s.hidden} sigmoid layers?",
        f"Accuracy after training of {len(rows)} networks, a dot for the mean over {s.seeds} seeds and a line from the"
        f" worst to the best, sorted; beside each the share of the error signal that reaches its first layer.",
        dots,
        chance=best_constant,
        as_is=as_is,
    )

"""Layers learn at different speeds: the networks of Nielsen's chapter 5, on 1,000 digits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Progress, Settings, Stopped, experiment
from unvanish.lab.parameters import FOLDER
from unvanish.population.designs import Design
from unvanish.population.threads import one_thread
from unvanish.records import UnvanishError
from unvanish.zoo import mnist

WIDTH, CLASSES = 30, 10
BAND_SEEDS = 50  # untrained networks behind the 90% band at epoch 0: they cost next to nothing
FEWEST = 5  # seeds from which a spread is taken
SHOWN = (0, 1, 100, 499)
QUANTILES = torch.tensor([0.05, 0.5, 0.95])

# Norms of the averaged error signal per hidden layer, input side first, by number of hidden layers and epoch.
# Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 5; data files of the book's code (MIT licence).
PUBLISHED: dict[int, dict[int, tuple[float, ...]]] = {
    2: {
        0: (0.065741, 0.30922),
        1: (0.042966, 0.21697),
        100: (0.0014879, 0.0018570),
        499: (0.0034346, 0.0096304),
    },
    3: {
        0: (0.011838, 0.059965, 0.28314),
        1: (0.011183, 0.057165, 0.27820),
        100: (8.0527e-05, 2.8092e-04, 1.3845e-03),
        499: (8.5561e-05, 2.1816e-04, 1.2614e-03),
    },
    4: {
        0: (0.0029753, 0.017077, 0.069539, 0.28514),
        1: (0.0020164, 0.011886, 0.053677, 0.21309),
        100: (1.8335e-05, 4.2399e-05, 2.2150e-04, 9.5997e-04),
        499: (8.2121e-06, 2.6144e-05, 1.8253e-04, 9.2473e-04),
    },
}


@dataclass
class Networks:
    """``seeds`` networks 784-30-…-30-10 side by side: weights (seeds, fan_in, fan_out), biases (seeds, 1, fan_out).

    The first weight matrix is stored as (pixels, seeds · 30): all networks see the same images, so one product does.
    """

    weights: list[Tensor]
    biases: list[Tensor]

    @classmethod
    def drawn(cls, hidden: int, seeds: range, lit: Tensor) -> Networks:
        """Weights N(0, 1/fan in), biases N(0, 1). ``lit``: the pixels that are not black in every image.

        The weights of a black pixel are drawn like the others and left out: nothing ever depends on them.
        """
        design = Design(hidden, WIDTH, init="normal")
        networks = [design.build(len(lit), CLASSES, seed) for seed in seeds]
        layers = [[m for m in network.modules() if isinstance(m, nn.Linear)] for network in networks]
        places = range(hidden + 1)
        weights = [torch.stack([own[i].weight.detach().T for own in layers]) for i in places]
        biases = [torch.stack([own[i].bias.detach()[None] for own in layers]) for i in places]
        weights[0] = weights[0][:, lit].transpose(0, 1).reshape(int(lit.sum()), -1)
        return cls(weights, biases)

    def signals(self, images: Tensor, wanted: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Activations a of every layer and error signals δ = ∂C/∂z, (seeds, images, units), cross-entropy cost C.

        δ^L = (a^L − y) / n;  δ^l = (δ^{l+1} W^{l+1}) ⊙ σ′(z^l), with σ′ = a (1 − a).
        """
        first = (images @ self.weights[0]).unflatten(1, (-1, WIDTH)).transpose(0, 1)
        activations = [torch.sigmoid(first + self.biases[0])]
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            activations.append(torch.sigmoid(torch.baddbmm(bias, activations[-1], weight)))
        signals = [(activations[-1] - wanted) / len(images)]
        for weight, a in zip(self.weights[:0:-1], activations[-2::-1], strict=True):
            signals.append(torch.bmm(signals[-1], weight.transpose(1, 2)) * a * (1 - a))
        return activations, signals[::-1]

    def descend(
        self, images: Tensor, activations: list[Tensor], signals: list[Tensor], rate: float, decay: float
    ) -> None:
        """One step of gradient descent on the whole set: W ← (1 − rate · decay) W − rate aᵀδ,  b ← b − rate Σ δ."""
        flat = signals[0].transpose(0, 1).flatten(1)
        self.weights[0].mul_(1 - rate * decay).addmm_(images.T, flat, alpha=-rate)
        for weight, a, signal in zip(self.weights[1:], activations, signals[1:], strict=False):
            weight.mul_(1 - rate * decay).baddbmm_(a.transpose(1, 2), signal, alpha=-rate)
        for bias, signal in zip(self.biases, signals, strict=True):
            bias.sub_(rate * signal.sum(1, keepdim=True))


@torch.no_grad()
def norms(
    hidden: int, seeds: range, data: tuple[Tensor, Tensor], *, epochs: int, rate: float = 0.1, penalty: float = 5.0
) -> Iterator[Tensor]:
    """‖mean over the images of δ^l‖ for each seed and hidden layer, before each of ``epochs`` steps: (seeds, hidden).

    Batch gradient descent as in the book: one step an epoch, rate 0.1, L2 penalty 5 (a share of penalty / images of the
    weights is taken away each time). The norm is that of the gradient of the layer's biases.
    """
    images, labels = data
    lit = (images > 0).any(0)
    wanted = nn.functional.one_hot(labels, CLASSES).to(images.dtype)
    networks, images = Networks.drawn(hidden, seeds, lit), images[:, lit].contiguous()
    for _ in range(epochs):
        activations, signals = networks.signals(images, wanted)
        yield torch.stack([signal.sum(1).norm(dim=-1) for signal in signals[:-1]], dim=-1)
        networks.descend(images, activations, signals, rate, penalty / len(images))


@experiment(
    "speeds",
    title="Layers learn at different speeds",
    question="How large is the error signal of each layer while a digit classifier of 2 to 4 hidden layers learns?",
    sources=("001", "002"),
    settings=(
        Parameter("hidden", (2.0, 3.0, 4.0), "numbers of hidden layers, one network each", 2, 8, most=7),
        Parameter("epochs", 500, "steps of gradient descent, each on all images", 1, 5_000, log=True, quick=110),
        Parameter("images", 1_000, "how many digits to train on; more than 1,000 need a folder", 10, 70_000, log=True),
        Parameter("seeds", 10, "networks trained of each depth, from different weights", 1, 100, quick=3),
        Parameter("rate", 0.1, "learning rate", 1e-6, 100.0, log=True),
        Parameter("penalty", 5.0, "L2 penalty λ: rate · λ / images of each weight is taken away a step", 0.0, 1_000.0),
        FOLDER,
        Parameter("quick", False, "3 seeds and 110 epochs at most, whatever was set"),
        Parameter("seed", 0, "the first of the seeds", 0, 1_000_000),
    ),
    pace="long",
)
@one_thread()
def run(s: Settings, progress: Progress) -> Outcome:
    """Gradient descent on 1,000 digits with networks 784-30-…-30-10, all sigmoid, as in chapter 5 of Nielsen's book.

    The length of the averaged error signal ‖mean of δˡ‖ of each hidden layer is followed over 500 epochs and compared
    with the numbers that the book's figures were drawn from. The book trained on the first 1,000 images of the training
    set; here it is the 1,000 test images that come with the package. Both differ by their random weights too, so the
    book's numbers are compared with bands: at epoch 0 from the 5 to the 95% quantile of 50 seeds, later the mean of
    log10 over the seeds that were trained, ± 3 standard deviations.

    Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 5.
    """
    _possible(s)
    data = mnist.load(s.folder or None, s.images)
    runs, stopped = _follow(s, range(s.seed, s.seed + s.seeds), data, progress)
    rows = [row for hidden, run in runs.items() for row in _rows(hidden, run, data, s)]
    notes = ["Stopped early: what had been measured by then is shown."] if stopped else []
    if not _as_in_the_book(s):
        notes.append("Rate, penalty or number of images are not the book's, so that its numbers are left out.")
    return Outcome(
        sentence=_sentence(runs),
        columns=COLUMNS,
        rows=tuple(rows),
        pictures=tuple(_drawing(hidden, runs[hidden]) for hidden in sorted(runs, reverse=True)),
        checks=tuple(_checks(rows, runs)),
        notes=(*notes, *(_order(hidden, run) for hidden, run in runs.items())),
    )


COLUMNS = (
    Column("hidden", "layers", "hidden layers of the network"),
    Column("layer", "", "hidden layer, 1 is next to the input"),
    Column("epoch", "", "steps of gradient descent made before"),
    Column("published", "log10", "‖mean of δ‖ in the data behind the book's figures"),
    Column("median", "log10", "‖mean of δ‖ here, median over seeds"),
    Column("low", "log10", "at epoch 0 the 5% quantile over 50 seeds, later mean − 3 standard deviations"),
    Column("high", "log10", "at epoch 0 the 95% quantile over 50 seeds, later mean + 3 standard deviations"),
    Column("inside", "", "whether the published number lies between low and high"),
)


def _possible(s: Settings) -> None:
    if s.rate * s.penalty >= 2 * s.images:
        raise UnvanishError(
            f"lab speeds: rate {s.rate:g} with penalty {s.penalty:g} on {s.images:,} images takes"
            f" {s.rate * s.penalty / s.images:g} times the weights away a step, and they grow without end; below 2 they"
            " do not"
        )


def _as_in_the_book(s: Settings) -> bool:
    return (s.rate, s.penalty, s.images) == (0.1, 5.0, 1_000)


def _follow(
    s: Settings, seeds: range, data: tuple[Tensor, Tensor], progress: Progress
) -> tuple[dict[int, Tensor], bool]:
    """The norms (seeds, epochs, hidden) by number of hidden layers, and whether this was stopped before its end."""
    depths = sorted({int(each) for each in s.hidden})
    runs: dict[int, Tensor] = {}
    for turn, hidden in enumerate(depths):
        seen: list[Tensor] = []
        try:
            for now in norms(hidden, seeds, data, epochs=s.epochs, rate=s.rate, penalty=s.penalty):
                seen.append(now)
                if len(seen) % 10 == 0:
                    progress((turn + len(seen) / s.epochs) / len(depths), f"{hidden} hidden layers, epoch {len(seen)}")
        except (Stopped, KeyboardInterrupt):
            return {**runs, hidden: torch.stack(seen, dim=1)} if seen else runs, True
        runs[hidden] = torch.stack(seen, dim=1)
    return runs, False


def _rows(hidden: int, run: Tensor, data: tuple[Tensor, Tensor], s: Settings) -> Iterator[dict[str, Any]]:
    untrained = torch.cat(list(norms(hidden, range(s.seed, s.seed + BAND_SEEDS), data, epochs=1)))
    for epoch in (each for each in SHOWN if each < run.shape[1]):
        low, middle, high = _band(run[:, epoch].log10()) if epoch else untrained.log10().quantile(QUANTILES, dim=0)
        book = PUBLISHED.get(hidden, {}).get(epoch) if _as_in_the_book(s) else None
        for layer in range(hidden):
            published = None if book is None else math.log10(book[layer])
            bounds = float(low[layer]), float(high[layer])
            yield {
                "hidden": hidden,
                "layer": layer + 1,
                "epoch": epoch,
                "published": published,
                "median": float(middle[layer]),
                "low": bounds[0] if math.isfinite(bounds[0]) else None,
                "high": bounds[1] if math.isfinite(bounds[1]) else None,
                "inside": None if published is None or math.isnan(bounds[0]) else bounds[0] <= published <= bounds[1],
            }


def _band(logs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean − 3 standard deviations, median, mean + 3 standard deviations over seeds; nan below FEWEST seeds."""
    spread = 3 * logs.std(dim=0) if len(logs) >= FEWEST else torch.full_like(logs[0], math.nan)
    return logs.mean(0) - spread, logs.quantile(0.5, dim=0), logs.mean(0) + spread


def _sentence(runs: dict[int, Tensor]) -> str:
    if not runs:
        return "Nothing was measured before it was stopped."
    hidden, run = max(runs.items())
    first, last = (float((run[:, epoch, -1] / run[:, epoch, 0]).median()) for epoch in (0, -1))
    if hidden < 2:
        return "One hidden layer: there is no other to be slower than."
    return (
        f"With {hidden} hidden layers the last of them gets {first:.3g} times the error signal of the first before"
        f" training and {last:.3g} times after {run.shape[1] - 1} steps (medians of {len(run)} seeds)."
    )


def _order(hidden: int, run: Tensor) -> str:
    """How often each layer's norm lies above that of the layer before it."""
    kept = (run.diff(dim=2) > 0).all(dim=2)
    return (
        f"With {hidden} hidden layers the order (later layers larger) holds in every epoch in {int(kept.all(1).sum())}"
        f" of {len(run)} runs, and in {100 * float(kept.float().mean()):.1f}% of all epochs of all runs."
    )


def _checks(rows: list[dict[str, Any]], runs: dict[int, Tensor]) -> Iterator[Check]:
    for hidden, run in runs.items():
        if hidden > 1:
            kept = float((run.median(0).values.diff(dim=1) > 0).all(dim=1).float().mean())
            what = f"{hidden} hidden layers: share of epochs in which the median norms rise from layer to layer"
            yield Check(what, 1.0, kept, kept == 1.0)
        told = [row for row in rows if row["hidden"] == hidden and row["inside"] is not None]
        for when, mine in (
            (f"at epoch 0 inside the 90% band of {BAND_SEEDS} seeds", [r["inside"] for r in told if r["epoch"] == 0]),
            (f"later within 3 deviations of {len(run)} seeds", [r["inside"] for r in told if r["epoch"] > 0]),
        ):
            if mine:
                what = f"{hidden} hidden layers: published norms {when}"
                yield Check(what, f"{len(mine)} of {len(mine)}", f"{sum(mine)} of {len(mine)}", all(mine))


def _drawing(hidden: int, run: Tensor) -> Drawing:
    steps = sorted({round(place) for place in torch.linspace(0, run.shape[1] - 1, 501).tolist()})
    middle = run.median(0).values[steps].T
    names = [f"hidden layer {place + 1}" for place in range(hidden)]
    values = [[_log10(each) for each in own] for own in middle]
    return Drawing.of(
        "speeds",
        f"{hidden} hidden layers: how large is each layer's error signal as they learn?",
        f"Norm of the averaged error signal of each of {hidden} hidden layers over {run.shape[1] - 1} steps of gradient"
        f" descent, on a logarithmic scale; median of {len(run)} seeds.",
        steps,
        names,
        values,
        quantity="size of the error signal, averaged over the batch",
    )


def _log10(number: Tensor) -> float:
    value = float(number)
    return math.log10(value) if value > 0 else -math.inf if value == 0 else math.nan

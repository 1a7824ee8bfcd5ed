"""What brings deep sigmoid networks back: the package's own remedies on networks of 20 to 1,000 layers.

    python benchmarks/deep_rescue.py --save benchmarks/results/deep_rescue.json --page docs/benchmarks/deep_rescue.md

Multilayer perceptrons of width 32 on scikit-learn's digits (1,200 to train on) and on MNIST. The learning rate of a
line is chosen for each depth with a seed that is not scored, on half of the validation data. Scores are accuracies on
the other half. The file is written after every line, and a second run goes on from it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from deep_rescue_page import DIGITS, FOUND_AT, RESIDUAL, TARGETS, Result, Search, as_json, cell, page, read, search_row
from repair_cases import Shuffled

import unvanish
from unvanish.theory import activation
from unvanish.theory.meanfield import critical_with_bias
from unvanish.trials import Plan, Race, open_race
from unvanish.trials.search import CLOSE
from unvanish.zoo import mnist

MNIST = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"
WIDTH, BATCH, STEPS = 32, 64, 760
SEEDS, PROBE_SEED = (0, 1, 2), 100
RATES = {
    "SGD": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "Adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
USERS = (("Adam", 1e-3), ("SGD", 0.1))  # the optimizers of those who ask fix
USUAL, DEEP = FOUND_AT, (*FOUND_AT, 500, 1000)
VERY_DEEP = 500  # from here on one seed, and only two learning rates


@dataclass(frozen=True)
class Line:
    """One line of the table: edits made to the sigmoid network in this order, the optimizer, the depths."""

    name: str
    edits: tuple[str, ...]
    optimizer: str
    depths: tuple[int, ...] = USUAL
    start: str = "default"


LINES = (
    *(
        Line(f"{name} initialisation, {optimizer}", edits, optimizer, (20,))
        for name, edits in (
            ("default", ()), ("Xavier", ("xavier-init",)), ("He", ("he-init",)), ("LSUV", ("lsuv-init",))
        )
        for optimizer in RATES
    ),
    Line("critical weights (not a remedy), Adam", (), "Adam", (20, 50), "critical"),
    Line("centred initialisation, Adam", ("centred-init",), "Adam", (20, 50, 100, 500)),
    Line("centred initialisation, SGD", ("centred-init",), "SGD"),
    Line("4 (σ − ½), orthogonal, Adam", ("centred-sigmoid", "orthogonal-init"), "Adam", (20, 50, 100, 500)),
    Line("TAT sigmoid, orthogonal, SGD", ("tat",), "SGD", DEEP),
    Line("BatchNorm, SGD", ("batchnorm",), "SGD"),
    Line("LayerNorm, SGD", ("layernorm",), "SGD", (20,)),
    Line(f"{RESIDUAL}, SGD", ("residual",), "SGD", DEEP),
    Line(f"{RESIDUAL}, 4 (σ − ½), SGD", ("centred-sigmoid", "residual"), "SGD", DEEP),
    Line("ReZero, SGD", ("rezero",), "SGD"),
    Line("ReLU, He, SGD", ("activation-relu", "he-init"), "SGD", (20, 50)),
    Line("tanh, orthogonal, SGD", ("activation-tanh", "orthogonal-init"), "SGD"),
    Line("SELU, LeCun, SGD", ("activation-selu", "lecun-init"), "SGD"),
)  # fmt: skip
CENTRED = next(line for line in LINES if line.edits == ("centred-init",) and line.optimizer == "Adam")
SHALLOW = Line("shallow reference: 2 sigmoid layers, Adam", (), "Adam", (2,))


@dataclass(frozen=True)
class Data:
    """Inputs standardised by one mean and one deviation of the first ``train`` rows, which are those to train on."""

    inputs: Tensor
    targets: Tensor
    train: int


@cache
def load(name: str) -> Data:
    """The data called digits, MNIST 1,000 or MNIST 10,000, in a fixed random order."""
    if name == DIGITS:
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        images, labels = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
        train = 1200
    else:
        images, labels = mnist.load(None) if name == "MNIST 1,000" else mnist.load(MNIST, 10_000)
        train = 700 if name == "MNIST 1,000" else 8000
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return Data((images - images[:train].mean()) / images[:train].std(), labels, train)


def network(inputs: int, depth: int, start: str = "default") -> nn.Sequential:
    """So many Linear layers, each followed by a sigmoid, then the layer of the ten logits.

    ``start="critical"``: zero biases and normal weights of the variance at which χ₁ = 1, 103/fan_in.
    """
    sizes = [inputs, *[WIDTH] * depth]
    model = nn.Sequential()
    for fan_in, fan_out in pairwise(sizes):
        model.extend([nn.Linear(fan_in, fan_out), nn.Sigmoid()])
    model.append(nn.Linear(WIDTH, 10))
    if start == "critical":
        (point,) = critical_with_bias(activation("sigmoid"))
        layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        for layer in layers:
            variance = 1.0 if layer is layers[-1] else point.sigma_w2
            nn.init.normal_(layer.weight, std=math.sqrt(variance / layer.in_features))
            nn.init.zeros_(layer.bias)
    return model


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return (outputs.argmax(1) == targets).float().mean().item()


def problem(data: Data, line: Line, depth: int, rate: float, steps: int) -> unvanish.Problem:
    inputs, targets = data.inputs[: data.train], data.targets[: data.train]
    kind: Callable[..., torch.optim.Optimizer] = getattr(torch.optim, line.optimizer)
    return unvanish.Problem(
        lambda: network(inputs.shape[1], depth, line.start),
        inputs[:BATCH],
        targets[:BATCH],
        F.cross_entropy,
        lambda parameters: kind(parameters, lr=rate),
        Shuffled(inputs, targets, BATCH),
        (data.inputs[data.train :], data.targets[data.train :]),
        accuracy,
        steps,
    )


def race(given: unvanish.Problem, before: unvanish.Report) -> Race:
    """The package's own trials, with as many steps as they want."""
    steps = given.steps or 1
    return open_race(given, Plan(steps, 1000 * steps, 1), before)


def judged(given: Race, edits: tuple[str, ...], seed: int, steps: int) -> float | None:
    """The score on the half that chose nothing; None where the training left the numbers."""
    measure = given.reach(edits, seed, steps, "")
    return None if measure.failure or not math.isfinite(measure.judged[0]) else round(measure.judged[0], 4)


def measured(
    line: Line, depth: int, name: str, rates: Sequence[float], seeds: Sequence[int] = SEEDS, steps: int = STEPS
) -> Result:
    """Choose the learning rate, then train with every seed.

    The two rates that are best after a third of the steps go on to the end; the smaller one wins unless the larger is
    better by more than 0.02. From VERY_DEEP layers on the best after a third is taken.
    """
    started, data, before = time.perf_counter(), load(name), None
    short, races, probes = max(1, steps // 3), dict[float, Race](), dict[float, float]()
    for rate in rates:
        given = problem(data, line, depth, rate, steps)
        before = before or unvanish.diagnose(given)
        races[rate] = race(given, before)
        probes[rate] = races[rate].reach(line.edits, PROBE_SEED, short, "").key
    best, *others = sorted(rates, key=lambda rate: probes[rate], reverse=True)
    if others and depth < VERY_DEEP:
        low, high = sorted((best, others[0]))
        ends = {rate: races[rate].reach(line.edits, PROBE_SEED, steps, "").key for rate in (low, high)}
        best = high if ends[high] > ends[low] + CLOSE else low
    training = time.perf_counter()
    scores = tuple(judged(races[best], line.edits, seed, steps) for seed in seeds)
    ended = time.perf_counter()
    return Result(
        line=line.name, data=name, depth=depth, rate=best, scores=scores, steps=steps,
        probes={f"{rate:g}": round(key, 4) if math.isfinite(key) else None for rate, key in probes.items()},
        seconds=round(ended - started, 1), step_ms=round(1e3 * (ended - training) / steps / len(seeds), 2),
    )  # fmt: skip


def searched(depth: int, optimizer: str, rate: float, seed: int, steps: int = STEPS) -> Search:
    """Give the default network to ``fix`` with its default budget, and train what it chose in full."""
    given = problem(load(DIGITS), Line("", (), optimizer), depth, rate, steps)
    started = time.perf_counter()
    fixes = unvanish.fix(given, seed=seed)
    seconds = time.perf_counter() - started
    best, as_is = fixes.best, fixes.as_is.score
    edits = () if best is None else tuple(best.remedy.split(" + "))
    trials = race(given, fixes.before)
    return Search(
        depth=depth, optimizer=optimizer, rate=rate, seed=seed, verdict=fixes.verdict,
        chosen="" if best is None else best.remedy,
        score=None if best is None or best.score is None else round(best.score, 4),
        as_is=None if as_is is None else round(as_is, 4),
        judged_at=0 if best is None else best.steps, spent=fixes.spent, budget=fixes.budget,
        full=tuple(judged(trials, edits, each, steps) for each in SEEDS), seconds=round(seconds, 1),
    )  # fmt: skip


def jobs() -> list[tuple[Line, int, str]]:
    """Every line at every depth, those that decide about a target first, then by depth."""
    wanted = [(line, depth, DIGITS) for line in (SHALLOW, *LINES) for depth in line.depths]
    for name in ("MNIST 1,000", *(["MNIST 10,000"] if MNIST.is_dir() else [])):
        wanted += [(SHALLOW, 2, name), (CENTRED, 50, name)]
    return sorted(wanted, key=lambda job: (not decides(*job[:2]), job[1]))


def decides(line: Line, depth: int) -> bool:
    """Whether a target rests on this line at this depth; the rate at 100 layers says which are tried at 1,000."""
    return any(line.name == name and depth in (100, deep) for name, deep, _ in TARGETS)


def rates_for(line: Line, depth: int, known: Iterable[Result]) -> tuple[float, ...]:
    """All rates; from VERY_DEEP layers on the one that was chosen at 100 layers and the next smaller one."""
    at_100 = [r.rate for r in known if (r.line, r.depth, r.data) == (line.name, 100, DIGITS)]
    every = RATES[line.optimizer]
    if depth < VERY_DEEP or not at_100:
        return every
    return (next((rate for rate in reversed(every) if rate < at_100[0]), at_100[0] / 3.0), at_100[0])


def run(results: list[Result], searches: list[Search], only: Sequence[str]) -> Iterator[str]:
    """Add what is not there yet, and say what was added after every line and every search."""

    def lines(decisive: bool) -> Iterator[str]:
        for line, depth, data in jobs():
            known = any((r.line, r.depth, r.data) == (line.name, depth, data) for r in results)
            wanted = not only or any(part in line.name for part in only)
            if known or not wanted or decides(line, depth) != decisive:
                continue
            seeds = SEEDS if depth < VERY_DEEP else SEEDS[:1]
            results.append(result := measured(line, depth, data, rates_for(line, depth, results), seeds))
            yield f"{data}, {depth} layers, {line.name}: {cell(result)}, {result.seconds:g} s"

    yield from lines(decisive=True)
    for depth, (optimizer, rate), seed in product(FOUND_AT, USERS, SEEDS) if not only else ():
        if not any((s.depth, s.optimizer, s.seed) == (depth, optimizer, seed) for s in searches):
            searches.append(result := searched(depth, optimizer, rate, seed))
            yield f"fix: {', '.join(search_row(result))}, {result.seconds:g} s"
    yield from lines(decisive=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="JSON: gone on from where it exists, written after every line")
    parser.add_argument("--page", type=Path, help="write the tables as Markdown")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="lines with this in their name, no fix")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results, searches = read(json.loads(args.save.read_text())) if args.save and args.save.exists() else ([], [])
    settings = {"width": WIDTH, "batch": BATCH, "steps": STEPS, "probe_seed": PROBE_SEED}
    for done in chain(run(results, searches, args.only), ["done"]):
        print(done, file=sys.stderr, flush=True)
        if args.save:
            args.save.write_text(as_json(results, searches, settings))
    print(text := page(json.loads(as_json(results, searches, settings)), [line.name for line in LINES]))
    if args.page:
        args.page.parent.mkdir(parents=True, exist_ok=True)
        args.page.write_text(text)


if __name__ == "__main__":
    main()

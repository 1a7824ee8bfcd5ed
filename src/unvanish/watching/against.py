"""Two runs against each other: the first layer and step at which they differ by more than noise. Needs no torch.

For each layer the updates, the gradients and the error signals of the two runs are compared, as logarithms, at the
steps that both sampled. The noise of a layer is its own: the robust spread (1.4826 times the median absolute deviation)
of the changes from one sample to the next around that step, over √2, of both runs in quadrature. The limit holds for
all layers, quantities and samples together (Bonferroni, 1%), and must be passed in three samples in a row. Another run
of the script gets ahead or falls behind: a value counts only by its distance from all that the other run does within a
quarter of the steps.

Weights that were drawn anew have other norms and go other ways. The logarithm of the norm of a product of random layers
scatters with the variance 5/4 Σ 1/n over their widths n (Hanin and Nica 2020, Products of many large random matrices
and gradients in deep neural networks, theorem 1). So far as this explains it, the difference of the first samples is
taken off; for the ways that part from there, one standard deviation of it is added to the limit, and a quarter of the
way that both have gone.

Weights themselves are compared where both runs begin: n weights of one distribution have a norm that scatters by
1/√(2n), so that an initialisation that was changed is seen in the layer where it was, not in those it acts upon.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

from unvanish.records import Record, to_builtins
from unvanish.watching.run import Run
from unvanish.watching.run_file import Reader
from unvanish.watching.sample import FIELDS, SERIES, Column
from unvanish.words.markup import visible
from unvanish.words.numbers import amount, listing, number, times
from unvanish.words.spans import called

SCHEMA = "unvanish.against/1"
SURE = 0.01
"""The chance that two runs of one script are said to differ, were their noise Gaussian."""
HELD = 3
"""Samples in a row: a single batch can be odd."""
SLACK = 1.25
"""How far one run may be ahead of the other, as a factor of the steps; and of other weights, in the way they go."""
FEWEST = 8
"""Samples in common from which on a noise can be told."""
MOST = 600
"""Samples that are compared; of more, evenly spread ones."""
NEAR = 16
"""Samples on either side of a step whose changes make its noise."""
RESOLUTION = 1e-5
"""Decades: a run file holds seven digits."""
GAUSSIAN = 1.4826
"""A standard deviation over the median absolute deviation."""
FLUCTUATION = 5 / 4
"""Variance of the natural logarithm of a norm, for each layer of width 1."""

WEIGHTS = "log10_weight_norm"
QUANTITIES = {
    "update_to_weight_ratio": "the update over the weights",
    "log10_grad_norm": "the gradient's norm",
    "log10_signal": "the error signal",
    WEIGHTS: "the weights' norm",
}
"""What is compared. Weights only where both runs begin: later they have gone other ways, with hardly a noise."""
LATER = tuple(name for name in QUANTITIES if name != WEIGHTS)


class Parting(Record, frozen=True):
    """The first place where two runs differ beyond noise.

    ``one`` and ``other``: the logarithm of the quantity in each run at that step; ``noise``: standard deviation of
    their difference, in decades; ``limit``: what the difference had to pass; ``also``: layers that part there, too.
    """

    layer: str
    quantity: str
    step: int
    one: float
    other: float
    noise: float
    limit: float
    also: tuple[str, ...] = ()


class Against(Record, frozen=True, kw_only=True):
    """What came out. ``answer``: "identical", "within noise", "differ" or "undecided".

    ``noise``: the standard deviation of a difference, in decades, in the middle of all layers, quantities and steps.
    """

    schema: str = SCHEMA
    one: str
    other: str
    answer: str
    sentence: str
    parting: Parting | None = None
    noise: float | None = None
    layers: int = 0
    steps: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.one} against {self.other}", self.sentence, *(f"- {each}" for each in self.notes)])

    def to_json(self) -> str:
        """JSON for programs; numbers that are not finite are the strings "-inf", "inf" and "nan"."""
        return json.dumps(to_builtins(self), indent=1, allow_nan=False)


@dataclass(frozen=True)
class Half:
    """One of two runs, at the steps and in the layers that both have.

    ``values``: by quantity and layer, a logarithm for each step; ``series``: by name, a number for each step.
    """

    name: str
    steps: tuple[int, ...]
    columns: dict[str, Column]
    values: dict[tuple[str, str], list[float]]
    series: dict[str, list[float]]
    findings: dict[tuple[str, tuple[str, ...]], str]


def against(one: Run, other: Run) -> Against:
    """The first layer and step at which two runs differ by more than their own noise, if there is one."""
    files = Reader(one.path), Reader(other.path)
    known = [dict(file.typed("SELECT step, last FROM samples", (int, int))) for file in files]
    steps = sorted(step for step in known[0].keys() & known[1].keys() if known[0][step] == known[1][step])
    chosen = steps if len(steps) <= MOST else [steps[len(steps) * at // MOST] for at in range(MOST)]
    rows = [{each[0]: each[2:] for each in file.samples(_at(chosen))} for file in files]
    chosen = [step for step in chosen if all(step in each for each in rows)]  # a writer may have thinned meanwhile
    names = _names(one.path, other.path)
    halves = [_half(files[at], chosen, rows[at], names[at]) for at in (0, 1)]
    begin = bool(chosen) and all(min(each) == chosen[0] for each in known)
    return _compared(halves[0], halves[1], begin, same=known[0].keys() == known[1].keys())


def _names(one: Path, other: Path) -> tuple[str, str]:
    """What the two are called: by their files, with the folders where these have one name."""
    here, there = one, other
    if one.name != other.name or one.absolute() == other.absolute():
        here, there = Path(one.name), Path(other.name)
    return visible(str(here)), visible(str(there))


def _compared(one: Half, other: Half, begin: bool, same: bool) -> Against:
    """The answer for two runs; ``begin``: their first common step is the first of both, ``same``: all steps are."""
    layers = [name for name in one.columns if name in other.columns]
    told = Against(
        one=one.name, other=other.name, answer="undecided", sentence="", layers=len(layers), steps=len(one.steps),
        notes=(*_alone(one, other), *_rates(one, other), *_losses(one, other), *_findings(one, other)),
    )  # fmt: skip
    for each in (one, other):
        if not each.columns:
            return told.replace(sentence=f"No step of {each.name} was sampled.")
    if not one.steps or not layers:
        return told.replace(sentence=f"The two runs have no {'sampled step' if layers else 'layer'} in common.")
    count = f"{len(layers):,} {_plural('layer', layers)} at {len(one.steps):,} {_plural('step', one.steps)}"
    if _identical(one, other, layers):
        if same and list(one.columns) == list(other.columns):
            sentence = f"The two runs are identical: the same numbers for {count}."
            return told.replace(answer="identical", sentence=sentence)
        sentence = f"Where both were sampled, the two runs have the same numbers: {count}."
        return told.replace(answer="within noise", sentence=sentence)
    drawn = [name for name in layers if _drawn_anew(one, other, name)]
    scatter = _scatter([one.columns[name] for name in drawn])
    sure = _sure(len(layers) * len(LATER) * len(one.steps))
    lines = [Line(one, other, layer, name) for layer in layers for name in LATER]
    for line in lines:
        line.take_off(scatter, _sure(len(lines)))
    found = [each for name in drawn if begin for each in _weights(one, other, name, sure)]
    found += [each for line in lines for each in _later(line, sure, scatter)]
    noises = [each for line in lines for each in line.noise]
    told = told.replace(noise=median(noises) if noises else None)
    if found:
        _, first = min(found, key=lambda each: (each[1].step, each[1].quantity != WEIGHTS, -each[0]))
        there = (each.layer for _, each in found if each.step == first.step and each.layer != first.layer)
        first = first.replace(also=tuple(dict.fromkeys(there)))
        return told.replace(answer="differ", sentence=_said(first, one, other), parting=first)
    if len(one.steps) < FEWEST or told.noise is None:
        few = f"The two runs sampled {len(one.steps)} steps in common, and a noise is known from {FEWEST} on."
        return told.replace(sentence=few)
    middle, limit = _factor(told.noise), _factor(sure * told.noise + scatter + RESOLUTION)
    sentence = (
        f"The two runs do not differ beyond their noise: {count} were compared; the noise is a factor of {middle}, and"
        f" what counts begins at {limit}."
    )
    return told.replace(answer="within noise", sentence=sentence)


def _plural(word: str, of: Sequence[object]) -> str:
    return word if len(of) == 1 else f"{word}s"


def _at(steps: Sequence[int]) -> str:
    return f"WHERE step IN ({','.join(map(str, steps))})"


def _half(file: Reader, steps: Sequence[int], rows: Mapping[int, tuple[Any, Any, Any]], called: str) -> Half:
    """What a file, by the name it is ``called``, holds of these steps; of a thinned stretch the middle of its ends.

    ``rows``: series, lowest and highest numbers by step.
    """
    columns = file.columns()
    values: dict[tuple[str, str], list[float]] = {(name, each.name): [] for name in QUANTITIES for each in columns}
    series: dict[str, list[float]] = {name: [] for name in SERIES}
    for whole, low, high in (rows[step] for step in steps):
        for name, value in zip(SERIES, whole, strict=True):
            series[name].append(value)
        for name in QUANTITIES:
            place, as_log = FIELDS.index(name), name.startswith("log10_")
            lows, highs = low[place :: len(FIELDS)], high[place :: len(FIELDS)]
            for at, column in enumerate(columns):
                known = at < len(lows)
                middle = _middle(lows[at], highs[at]) if known else math.nan
                values[name, column.name].append(middle if as_log else _log10(middle))
    findings = {(each.code, each.layers): each.message for _, _, each in file.findings()}
    return Half(called, tuple(steps), {each.name: each for each in columns}, values, series, findings)


def _middle(low: float, high: float) -> float:
    return 0.5 * (low + high) if math.isfinite(low) and math.isfinite(high) else high


def _log10(value: float) -> float:
    return math.log10(value) if value > 0.0 and math.isfinite(value) else -math.inf if value == 0.0 else value


def _identical(one: Half, other: Half, layers: Sequence[str]) -> bool:
    """Whether all numbers of these layers, and those of the whole steps, are the same."""
    pairs = [(one.values[name, layer], other.values[name, layer]) for name in QUANTITIES for layer in layers]
    pairs += [(one.series[key], other.series[key]) for key in one.series]
    return all(a == b or (a != a and b != b) for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True))


def _drawn_anew(one: Half, other: Half, layer: str) -> bool:
    """Whether the weights of a layer differ where both runs begin."""
    a, b = one.values[WEIGHTS, layer][0], other.values[WEIGHTS, layer][0]
    return a != b and not (math.isnan(a) or math.isnan(b))


def _weights(one: Half, other: Half, layer: str, sure: float) -> Iterator[tuple[float, Parting]]:
    """That a layer begins with weights of another size than another draw would have."""
    a, b = one.values[WEIGHTS, layer][0], other.values[WEIGHTS, layer][0]
    count = max(min(half.columns[layer].parameters for half in (one, other)), 1)
    noise = math.log10(math.e) * math.sqrt(1.0 / count + 1.0 / count**2)
    gap = abs(a - b) if math.isfinite(a) and math.isfinite(b) else math.inf
    limit = sure * noise + RESOLUTION
    if gap > limit:
        yield gap / limit, Parting(layer, WEIGHTS, one.steps[0], a, b, noise, limit)


def _sure(count: int) -> float:
    """So many standard deviations are passed by chance once in a hundred times, in any of so many comparisons."""
    return NormalDist().inv_cdf(1.0 - SURE / (2.0 * count))


def _scatter(drawn: Sequence[Column]) -> float:
    """By how many decades the norms of two networks differ whose layers were drawn from one distribution."""
    # a square layer of so many parameters; a convolution is wider than that
    widths = (math.sqrt(max(each.parameters, 1)) for each in drawn)
    return math.log10(math.e) * math.sqrt(2.0 * FLUCTUATION * sum(1.0 / width for width in widths))


class Line:
    """A quantity of a layer in both runs, at the steps at which both have it, and the noise of its difference."""

    def __init__(self, one: Half, other: Half, layer: str, quantity: str) -> None:
        self.layer, self.quantity, self.off = layer, quantity, 0.0
        self.gone: list[float] = []  # how far both have moved from their first samples
        mine, theirs = one.values[quantity, layer], other.values[quantity, layer]
        known = [at for at in range(len(one.steps)) if not (math.isnan(mine[at]) or math.isnan(theirs[at]))]
        self.steps = [one.steps[at] for at in known]
        self.one, self.other = [mine[at] for at in known], [theirs[at] for at in known]
        self.noise = [math.hypot(x, y) for x, y in zip(_noise(self.one), _noise(self.other), strict=True)]

    def take_off(self, scatter: float, sure: float) -> None:
        """Take off the difference of the first samples, so far as other weights explain it."""
        first = [(x, y) for x, y in zip(self.one[:FEWEST], self.other[:FEWEST], strict=True) if math.isfinite(y - x)]
        self.gone = [0.0] * len(self.steps)
        if scatter and first:
            self.off = max(-sure * scatter, min(sure * scatter, median(y - x for x, y in first)))
            begin, there = (median(each) for each in zip(*first, strict=True))
            moved = (min(abs(x - begin), abs(y - there)) for x, y in zip(self.one, self.other, strict=True))
            self.gone = [each if math.isfinite(each) else 0.0 for each in moved]


def _later(line: Line, sure: float, scatter: float) -> Iterator[tuple[float, Parting]]:
    """The first step at which a quantity of a layer departs and stays away, and by how many limits."""
    a, b, steps = line.one, line.other, line.steps
    like = [each - line.off for each in b]
    gaps = [max(x, y) for x, y in zip(_beyond(a, like, steps), _beyond(like, a, steps), strict=True)]
    part = SLACK - 1.0
    limits = [sure * x + scatter + part * y + RESOLUTION for x, y in zip(line.noise, line.gone, strict=True)]
    broken = [math.inf in (x, y) and x != y for x, y in zip(a, b, strict=True)]
    away = [len(steps) >= FEWEST and gap > limit for gap, limit in zip(gaps, limits, strict=True)]
    for at, step in enumerate(steps):
        if broken[at] or (at + HELD <= len(steps) and all(away[at : at + HELD])):
            ratio = math.inf if broken[at] else gaps[at] / limits[at]
            yield ratio, Parting(line.layer, line.quantity, step, a[at], b[at], line.noise[at], limits[at])
            return


def _noise(values: Sequence[float]) -> list[float]:
    """At each place the standard deviation of a single value, from the changes between neighbours near it."""
    changes = [y - x if math.isfinite(x) and math.isfinite(y) else 0.0 for x, y in pairwise(values)]
    found: list[float] = []
    for start in range(0, len(values), NEAR):  # one for each block: it changes slowly
        near = changes[max(start - NEAR, 0) : start + 2 * NEAR]
        middle = median(near) if near else 0.0
        spread = GAUSSIAN * median(abs(each - middle) for each in near) if near else 0.0
        found += [spread / math.sqrt(2.0)] * min(NEAR, len(values) - start)
    return found


def _beyond(values: Sequence[float], others: Sequence[float], steps: Sequence[int]) -> list[float]:
    """How far each value lies outside of what the other run does near that step, as far as it may be ahead."""
    found: list[float] = []
    start = stop = 0
    for at, step in enumerate(steps):
        while (steps[start] + 1) * SLACK < step + 1:
            start += 1
        while stop < len(steps) and steps[stop] + 1 <= (step + 1) * SLACK:
            stop += 1
        first, last = max(start - 1, 0), min(stop + 1, len(steps))  # up to the next sample: steps lie apart
        near = others[first:last]
        low, high = min(near), max(near)
        missing = (step + 1) * SLACK - (steps[-1] + 1)
        if missing > 0 and last - first > HELD:  # it would have gone on as it did
            half = (last - first) // 2
            rise = median(near[-half:]) - median(near[:half])
            further = rise * missing / max((steps[last - 1] - steps[first]) / 2, 1) if math.isfinite(rise) else 0.0
            low, high = low + min(further, 0.0), high + max(further, 0.0)
        value = values[at]
        found.append(0.0 if low <= value <= high else low - value if value < low else value - high)
    return found


def _said(parting: Parting, one: Half, other: Half) -> str:
    a, b = amount(parting.one), amount(parting.other)
    what, layer = QUANTITIES[parting.quantity], called(visible(parting.layer))
    others = f" (and {len(parting.also):,} other layers)" if parting.also else ""
    values = f"{what} is {a} in {one.name}, {b} in {other.name}"
    said = f"They first differ at step {parting.step:,} in {layer}{others}: {values}"
    if not (math.isfinite(parting.one) and math.isfinite(parting.other)):
        return f"{said}."
    gap = times(abs(parting.one - parting.other))
    noise, limit = _factor(parting.noise), _factor(parting.limit)
    return f"{said}, a factor of {gap[1:]}; the noise there is a factor of {noise}, and what counts begins at {limit}."


def _factor(decades: float) -> str:
    return number(10.0**decades, 3) if decades < 2 else amount(decades)


def _alone(one: Half, other: Half) -> Iterator[str]:
    for half, rest in ((one, other), (other, one)):
        if alone := [name for name in half.columns if name not in rest.columns]:
            yield f"only {half.name} has {listing(map(visible, alone))}"
    sizes = [
        name for name, each in one.columns.items()
        if name in other.columns and other.columns[name].parameters != each.parameters
    ]  # fmt: skip
    if sizes:
        yield f"of another size in the two: {listing(map(visible, sizes))}"


def _rates(one: Half, other: Half) -> Iterator[str]:
    """Learning rates have no noise: the first step at which they differ."""
    pairs = zip(one.steps, one.series["learning_rate"], other.series["learning_rate"], strict=True)
    for step, a, b in pairs:
        if a != b and not (a != a or b != b):
            values = f"{number(a)} in {one.name}, {number(b)} in {other.name}"
            yield f"the learning rates differ from step {step:,} on: {values}"
            return


def _losses(one: Half, other: Half) -> Iterator[str]:
    if one.steps:
        a, b = one.series["loss"][-1], other.series["loss"][-1]
        yield f"loss at step {one.steps[-1]:,}, the last in common: {a:.4g} in {one.name}, {b:.4g} in {other.name}"


def _findings(one: Half, other: Half) -> Iterator[str]:
    for half, rest in ((one, other), (other, one)):
        for key, message in half.findings.items():
            if key not in rest.findings:
                yield f"found only in {half.name}: {key[0]} {visible(message)}"

"""The pictures of one report: which of its numbers each of them shows, and what it says in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from unvanish.charts import WIDTH, Chart, Tables, draw, factors, find, plane, staircase
from unvanish.charts import through_time as through_time_picture
from unvanish.charts.measure import shorten
from unvanish.decide.reach import THOUSANDTH
from unvanish.records import LayerFlow, UnvanishError
from unvanish.report import through_time
from unvanish.report.staircase import starts
from unvanish.report.table import FACTORS
from unvanish.words.numbers import amount, times

if TYPE_CHECKING:
    from unvanish.report import Report

LONGEST_NAME = 300
"""Pixels of a module name in a sentence."""


def chart(report: Report, name: str, *, title: str | None = None, width: int = WIDTH) -> Chart:
    """The picture of that name for this report: "staircase", "plane", "factors" or "through_time".

    ``title``: None for the picture's own question, "" for none. UnvanishError for another picture, or one whose numbers
    this report does not have.
    """
    if name not in _PICTURES:
        find(name)
        raise UnvanishError(
            f"drawing the picture {name!r} of a report: it is not made from a report; use {', '.join(_PICTURES)}"
        )
    if not report.layers:
        raise UnvanishError(f"drawing the picture {name!r} of a report: the report has no layers")
    tables, say = _PICTURES[name]
    question = find(name).question if title is None else title
    return draw(name, tables(report, width), title=question, description=say(report))


def relative_gradient(layer: LayerFlow) -> float | None:
    """log10 of ‖gradient‖ / ‖weights‖; None where one of them was not measured or the weights are zero."""
    gradient, weights = layer.log10_grad_norm, layer.log10_weight_norm
    return None if gradient is None or weights is None or weights == float("-inf") else gradient - weights


def _staircase(report: Report, width: int) -> Tables:
    layers = report.layers
    return staircase.tables(
        [each.name for each in layers],
        [each.log10_signal for each in layers],
        [each.log10_grad_norm for each in layers],
        report.setting.autocast or report.setting.dtype,
        [each.verdict for each in layers],
        starts=starts(layers),
        width=width,
    )


def _plane(report: Report, width: int) -> Tables:
    layers = report.layers
    return plane.tables(
        [each.name for each in layers],
        [each.log10_curvature for each in layers],
        [relative_gradient(each) for each in layers],
        [each.verdict for each in layers],
        width=width,
    )


def _factors(report: Report, width: int) -> Tables:
    layers = report.layers
    if all(each.log10_gain is None for each in layers):
        raise UnvanishError(
            "drawing the factors of a report: no layer lies behind another one on its way to the output, so that "
            "there is no step back to take apart; the staircase shows what was measured"
        )
    parts = {part: [getattr(each, field) for each in layers] for part, field in FACTORS.items()}
    return factors.tables([each.name for each in layers], parts, [each.log10_gain for each in layers], width=width)


def _through_time(report: Report, width: int) -> Tables:
    at, lines = through_time.lines(report.time)
    if not lines:
        raise UnvanishError("drawing the time axis of a report: the error signal was measured along no sequence")
    return through_time_picture.tables(at, list(lines), list(lines.values()), THOUSANDTH, width=width)


def _say_through_time(report: Report) -> str:
    said = [f"{name}: {sentence}" for name, _, sentence in through_time.shown(report.time, report.setting.dtype)]
    return ". ".join(said) + "."


def _say_staircase(layers: Sequence[LayerFlow]) -> str:
    known = [each for each in layers if each.log10_signal is not None]
    if not known:
        return "The error signal was not measured in any layer."
    first, last = known[0], known[-1]
    said = f"The error signal per sample is {amount(last.log10_signal)} at {_name(last)}, the layer next to the output"
    if first is not last:
        said += f", and {amount(first.log10_signal)} at {_name(first)}, next to the input"
    return f"{said}. {_verdicts(layers)}"


def _say_plane(layers: Sequence[LayerFlow]) -> str:
    known = [
        (gradient - each.log10_curvature, each)
        for each in layers
        if each.log10_curvature is not None and (gradient := relative_gradient(each)) is not None
    ]
    finite = [(distance, each) for distance, each in known if distance == distance]
    said = f"{len(known)} of {len(layers)} layers are placed by gradient and curvature"
    if finite:
        distance, layer = max(finite, key=lambda each: each[0])
        said += f"; the farthest is {_name(layer)}, {times(distance)} the size of its weights from its minimum"
    return f"{said}. {_verdicts(layers)}"


def _say_factors(layers: Sequence[LayerFlow]) -> str:
    known = [(gain, each) for each in layers if (gain := each.log10_gain) is not None and gain == gain]
    if not known:
        return "No step back has a gain that is a number."
    gain, layer = min(known, key=lambda each: each[0])
    parts = [(value, part) for part, field in FACTORS.items() if (value := getattr(layer, field)) not in (None, 0.0)]
    said = f"The step back that shrinks the signal most starts at {_name(layer)}: {times(gain)}"
    made = ", ".join(f"{part} {times(value)}" for value, part in parts if times(value) != "×1.0")
    return f"{said}, made of {made}." if made else f"{said}."


def _name(layer: LayerFlow) -> str:
    return shorten(layer.name, LONGEST_NAME)


def _verdicts(layers: Sequence[LayerFlow]) -> str:
    counts: dict[str, int] = {}
    for each in layers:
        counts[each.verdict] = counts.get(each.verdict, 0) + 1
    listed = ", ".join(f"{count:,} {word.replace('_', ' ')}" for word, count in counts.items())
    return f"Layers from the input: {listed}."


_PICTURES: dict[str, tuple[Callable[[Report, int], Tables], Callable[[Report], str]]] = {
    "staircase": (_staircase, lambda report: _say_staircase(report.layers)),
    "plane": (_plane, lambda report: _say_plane(report.layers)),
    "factors": (_factors, lambda report: _say_factors(report.layers)),
    "through_time": (_through_time, _say_through_time),
}

"""The pictures as a browser draws them: no two texts touch, nothing is cut off, and there is ink."""

from __future__ import annotations

import math
import random
from itertools import combinations
from typing import Any

import pytest

pytest.importorskip("altair", reason="pictures need the packages of unvanish[pictures]")
pytest.importorskip("vl_convert", reason="pictures need the packages of unvanish[pictures]")

from browser import open_page

from unvanish.charts import Chart, draw, factors, plane, staircase, theme

DEPTHS = (1, 5, 20, 50, 200, 1000)
WIDTHS = (360, 620, 1000)
LONG = "encoder.transformer_blocks.{}.feed_forward.intermediate_projection_with_a_long_name"
MEASURE = """() => [...document.querySelectorAll('svg')].map(svg => {
  const whole = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].filter(each => each.textContent.trim()).map(each => {
    const box = each.getBoundingClientRect();
    const {left, top} = whole;
    return [each.textContent, box.left - left, box.top - top, box.right - left, box.bottom - top];
  });
  const inked = [...svg.querySelectorAll('path[d], line, rect')].filter(each => {
    const box = each.getBoundingClientRect();
    return (each.getAttribute('stroke') || each.getAttribute('fill')) && box.width + box.height > 2;
  });
  return {width: whole.width, height: whole.height, texts, inked: inked.length};
})"""


def names(depth: int, pattern: str) -> list[str]:
    return [pattern.format(at) for at in range(depth)]


def walk(depth: int, seed: int, mean: float) -> list[float]:
    """Log10 of a signal that a random factor changes at each step back, the input first."""
    chance = random.Random(seed)
    steps = [chance.uniform(0.4, 1.6) * mean for _ in range(depth)]
    return [-1.5 + sum(steps[at:]) for at in range(depth)]


def a_staircase(depth: int, width: int, seed: int, pattern: str) -> Chart:
    signal: list[float | None] = list(walk(depth, seed, (-1.0, 0.7, -0.02)[seed % 3]))
    gradients = [-8 + random.Random(seed).uniform(-0.4, 0.4)] * depth
    verdicts = ["vanished" if (value or 0) < -4 else "exploding" if (value or 0) > 4 else "healthy" for value in signal]
    if depth > 4 and seed % 2:
        signal[1], signal[depth // 2], verdicts[1], verdicts[depth // 2] = None, -math.inf, "undecided", "dead"
    compare = [("with residuals", walk(depth, seed + 1, -0.01))] if seed == 2 else []
    tables = staircase.tables(names(depth, pattern), signal, gradients, "float32", verdicts, compare, width=width)
    return draw("staircase", tables, title="Where did the gradient go?")


def a_plane(depth: int, width: int, seed: int, pattern: str) -> Chart:
    chance = random.Random(seed)
    curvature: list[float | None] = [-2 - 16 * (1 - at / depth) + chance.uniform(-1, 1) for at in range(depth)]
    gradient: list[float | None] = [-8 + chance.uniform(-0.8, 0.8) for _ in range(depth)]
    if depth > 4 and seed % 2:
        curvature[1], gradient[1], curvature[2] = -math.inf, -math.inf, -math.inf
    far = [(two or 0) > (one or 0) for one, two in zip(curvature, gradient, strict=True)]
    verdicts = ["vanished" if each else "converged" for each in far]
    tables = plane.tables(names(depth, pattern), curvature, gradient, verdicts, width=width)
    return draw("plane", tables, title="Has it arrived, or is it stuck?")


def some_factors(depth: int, width: int, seed: int, pattern: str) -> Chart:
    chance = random.Random(seed)

    def drawn(low: float, high: float) -> list[float | None]:
        return [None, *(chance.uniform(low, high) for _ in range(depth - 1))]

    parts = {"weights": drawn(-0.6, 0.1), "slopes": drawn(-0.61, -0.6), "norms": drawn(-0.1, 0.4)}
    if seed % 2:
        parts["joins"] = drawn(0.0, 0.3)
    gains = [None, *(sum(values[at] or 0.0 for values in parts.values()) for at in range(1, depth))]
    if depth > 3 and seed % 2:
        gains[depth // 2] = parts["slopes"][depth // 2] = -math.inf
    tables = factors.tables(names(depth, pattern), parts, gains, width=width)
    return draw("factors", tables, title="Which factor is to blame?")


MAKE = {"staircase": a_staircase, "plane": a_plane, "factors": some_factors}


def faults(drawing: dict[str, Any]) -> list[str]:
    """What is wrong with a drawing: texts that overlap by more than half a pixel, or that leave it."""
    wrong: list[str] = []
    for one, two in combinations(drawing["texts"], 2):
        across = min(one[3], two[3]) - max(one[1], two[1])
        down = min(one[4], two[4]) - max(one[2], two[2])
        # the box of a line of text holds room above and below its letters
        if across > 0.5 and down > 2.0:
            wrong.append(f"{one[0]!r} touches {two[0]!r} by {across:.1f} × {down:.1f}")
    for text, left, top, right, bottom in drawing["texts"]:
        if left < -0.5 or top < -0.5 or right > drawing["width"] + 0.5 or bottom > drawing["height"] + 0.5:
            wrong.append(f"{text!r} leaves the picture: {left:.0f} {top:.0f} {right:.0f} {bottom:.0f}")
    return wrong


def looked_at(page: Any, charts: list[Chart]) -> list[dict[str, Any]]:
    drawn = "".join(f"<p>{chart.svg(f'c{at}')}</p>" for at, chart in enumerate(charts))
    page.set_content(f"<!doctype html><style>{theme.css()}</style>{drawn}")
    return page.evaluate(MEASURE)


@pytest.mark.parametrize("pattern", ["fc{}", LONG], ids=["short", "long"])
@pytest.mark.parametrize("name", MAKE)
def test_no_text_touches_another_or_is_cut_off(name: str, pattern: str) -> None:
    cases = [
        (depth, WIDTHS[(at + seed) % 3], seed) for at, depth in enumerate(DEPTHS) for seed in (at % 3, (at + 1) % 3)
    ]
    with open_page() as page:
        drawings = looked_at(page, [MAKE[name](*case, pattern) for case in cases])
    assert len(drawings) == len(cases)
    wrong = {case: faults(each) for case, each in zip(cases, drawings, strict=True)}
    assert not {case: each for case, each in wrong.items() if each}
    for (depth, width, _), each in zip(cases, drawings, strict=True):
        assert each["width"] == width
        assert each["inked"] >= min(depth, 2)


def test_the_measure_sees_an_overlap_and_a_cut() -> None:
    """The instrument itself: two texts on one spot, and one beyond the edge."""
    text = "<text x='{}' y='20' font-size='11'>{}</text>"
    inside = text.format(10, "one") + text.format(14, "two") + text.format(95, "outside")
    with open_page() as page:
        page.set_content(f"<svg width='100' height='40'>{inside}</svg>")
        wrong = faults(page.evaluate(MEASURE)[0])
    assert len(wrong) == 2
    assert "'one' touches 'two'" in wrong[0]
    assert "'outside' leaves" in wrong[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_one_drawing_follows_the_page(scheme: str) -> None:
    chart = a_staircase(5, 620, 0, "fc{}")
    with open_page(scheme=scheme) as page:
        page.set_content(f"<!doctype html><style>{theme.css()}</style>{chart.svg()}")
        script = "() => getComputedStyle([...document.querySelectorAll('text')].at(-1)).fill"
        red, green, blue = (int(theme.colour("fg", scheme)[at : at + 2], 16) for at in (1, 3, 5))
        assert page.evaluate(script) == f"rgb({red}, {green}, {blue})"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_drawn_over_a_rim_in_the_colour_of_the_ground(scheme: str) -> None:
    script = """() => [...document.querySelectorAll('text')].map(getComputedStyle).map(
      each => [each.paintOrder.split(' ')[0], each.stroke, each.strokeWidth].join(' '))"""
    with open_page(scheme=scheme) as page:
        page.set_content(f"<!doctype html><style>{theme.css()}</style>{a_plane(20, 620, 0, 'fc{}').svg()}")
        red, green, blue = (int(theme.colour("bg", scheme)[at : at + 2], 16) for at in (1, 3, 5))
        assert set(page.evaluate(script)) == {f"stroke rgb({red}, {green}, {blue}) 3px"}


def test_estimated_widths_are_not_below_real_ones() -> None:
    """Every character the pictures use, in the font they name first."""
    from unvanish.charts.measure import text_width

    samples = [
        "error at the output 10⁻¹⁸·²",
        "features.3.weight_Norm",
        "‖w‖ × ∞ … → ←",
        "MWmw@%#",
        "iIlj.,:|'",
        "0123456789",
    ]
    script = """([texts, bold]) => { const pen = document.createElement('canvas').getContext('2d');
      pen.font = `${bold ? 'bold ' : ''}11px "DejaVu Sans", system-ui, sans-serif`;
      return texts.map(text => pen.measureText(text).width); }"""
    with open_page() as page:
        for bold in (False, True):
            real = page.evaluate(script, [samples, bold])
            for text, width in zip(samples, real, strict=True):
                assert width <= text_width(text, bold=bold) + 2, text
                assert text_width(text, bold=bold) <= 1.35 * width, text

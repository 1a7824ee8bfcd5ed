"""How the work of the writers grows with the network: lines of the package that run, not seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from made_reports import flow, layer

import unvanish
from unvanish.records import Finding
from unvanish.report import Report
from unvanish.report.formats import Format, formats
from unvanish.words.spans import Order, span

SOURCE = str(Path(unvanish.__file__).parent)
DEPTHS = (100, 200, 400)


def report(depth: int) -> Report:
    """Every second layer is at fault; each has a finding of its own, and there is one more for all of them."""
    layers = [
        layer(f"fc{place}", -0.01 * place, source=f"net.py:{place + 1}", verdict=("vanished", "healthy")[place % 2])
        for place in range(depth)
    ]
    lost = tuple(each.name for each in layers if each.verdict == "vanished")
    whole = Finding(code="UV101", verdict="vanished", level="error", layers=lost, message=f"{lost[0]} hardly learns.")
    return Report.from_flow(flow(*layers), [whole, *(whole.replace(layers=(name,)) for name in lost)])


def work(write: Any, made: Report) -> int:
    """Lines of the package that run while the report is written; one line counts again for each turn of its loop."""
    count = 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(SOURCE) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        write(made)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("each", formats(), ids=lambda each: each.name)
def test_twice_the_layers_and_findings_are_twice_the_work(each: Format) -> None:
    each.write(report(30))  # what is made once is made now
    small, middle, large = (work(each.write, report(depth)) for depth in DEPTHS)
    assert large - middle <= 2.4 * (middle - small) + 100, (small, middle, large)


def test_a_span_is_the_same_with_an_order_made_before() -> None:
    names = [f"fc{place}" for place in range(40)]
    for wanted in (names, names[3:9], names[::2], [*names[:2], names[7], *names[9:14]], ["elsewhere"], [], names[::-1]):
        assert span(wanted, Order(names)) == span(wanted, names)
    assert span(["a", "c", "b", "e"], Order("abcdef")) == "a … c (3 layers), e"
    assert span("ab", Order("aab")) == "a … b (3 layers)"  # a name that stands twice is two layers

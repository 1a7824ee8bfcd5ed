"""The layers of one report by name, made once: what is said of a finding then takes as long as the finding is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from unvanish.records import Finding, LayerFlow
from unvanish.words.spans import Order, span

if TYPE_CHECKING:
    from unvanish.report import Report


class Index:
    """What the writers ask of a report again and again: its layers by name, and the finding its verdict rests on."""

    def __init__(self, report: Report) -> None:
        self.layers = report.layers
        self.order = Order(layer.name for layer in report.layers)
        errors = (finding for finding in report.findings if finding.level == "error")
        self.deciding: Finding | None = next(errors, next(iter(report.findings), None))

    def named(self, names: Iterable[str]) -> list[LayerFlow]:
        """The layers of these names, input side first."""
        return [self.layers[place] for place in self.order.sorted(names)]

    def span(self, finding: Finding) -> str:
        """The finding's layers in few words."""
        return span(finding.layers, self.order)


def index(report: Report) -> Index:
    """The index of a report, kept with it: one that goes through all layers for each finding would never come back."""
    kept = cast("dict[str, Index]", report.__dict__)
    if "index" not in kept:
        kept["index"] = Index(report)
    return kept["index"]

"""A single record as a notebook shows it: its fields, their values, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from unvanish.words.glossary import field_entry
from unvanish.words.markup import Child, Html, h

MOST = 20
"""Entries of a field that are listed; the calls of a deep network would fill the notebook."""


STYLE = ".uv-record.uv-record.uv-record :is(th,td,caption){text-align:left;vertical-align:top}"
"""The one thing it changes: notebooks set their tables flush right, which suits numbers but no sentences."""


def record_html(kind: str, fields: Iterable[tuple[str, Any]]) -> Html:
    """The fields of a record of class ``kind`` as a table.

    It has no colours or sizes of its own, so that it looks like the other tables of the notebook in every theme.
    """
    rows = [
        h("tr", h("th", name, scope="row"), h("td", _value(value)), h("td", field_entry(kind, name)))
        for name, value in fields
    ]
    heads = h("tr", [h("th", head, scope="col") for head in ("field", "value", "meaning")])
    table = h("table", h("caption", kind), h("thead", heads), h("tbody", rows))
    return h("div", h("style", Html(STYLE)), table, class_="uv-record")


def _value(value: Any) -> Child:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return _listed(cast("tuple[Any, ...]", value))
    names: tuple[str, ...] = getattr(value, "__struct_fields__", ())
    if not names:
        return str(value)
    fields = [(name, each) for name in names if (each := getattr(value, name)) not in (None, "", ())]
    return [[" · " if place else "", f"{name}: ", _value(each)] for place, (name, each) in enumerate(fields)]


def _listed(values: tuple[Any, ...]) -> Child:
    """Names in a row, anything larger one below the other; a long listing is cut, and says so."""
    if not values:
        return "none"
    between: Child = ", " if isinstance(values[0], str) else h("br")
    entries = [[between if place else "", _value(each)] for place, each in enumerate(values[:MOST])]
    rest = len(values) - MOST
    return [entries, [between, f"and {rest:,} more"] if rest > 0 else None]

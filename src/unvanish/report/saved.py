"""The form of a report in a file: flat, so that a program finds ``layers`` and ``verdict`` at the top of the JSON.

A Report holds its Flow as one part. In the file the Flow's fields stand beside the findings instead, all in one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from unvanish.records import SCHEMA, Finding, Flow, from_builtins, to_builtins

ALWAYS = ("layers", "undecided", "calls", "loss", "setting", "notes")
"""Fields of the Flow that no report goes without: a file that lacks one is refused."""

WHERE_NEEDED = (
    "decrement_refused", "nonfinite", "nonfinite_call", "next_step", "time", "unused", "asked", "pairs", "birth",
    "alike", "pinned", "across", "copies", "same", "functions",
    "labels", "bypassed", "stopped",
)  # fmt: skip
"""Fields that the JSON holds only where they say more than their default: programs that read reports have not seen them
before."""


DOC = """One check of one network. ``print(report)`` shows it; ``report.save("x.json")`` keeps it.

``verdict`` is the word of the first finding of level "error", else of the first note, else "healthy"; ``healthy``
says that no finding has level "error"; ``undecided`` holds pairs (what, why). It has every field of the Flow it is
about, so that it can be judged again from its file.
"""
"""For the schema, where a report has no part called flow."""


def _shape() -> type[msgspec.Struct]:
    fields: list[Any] = [
        ("schema", str, SCHEMA),
        ("verdict", str),
        ("healthy", bool),
        ("findings", tuple[Finding, ...]),
    ]
    for field in msgspec.structs.fields(Flow):
        default = () if field.required or field.name in ALWAYS else (field.default,)
        fields.append((field.name, field.type, *default))
    return msgspec.defstruct("Report", fields, namespace={"__doc__": DOC}, frozen=True, kw_only=True)


FLAT = _shape()
"""A record with the fields of the file, in their order."""

DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Flow)}

FIELDS: tuple[str, ...] = FLAT.__struct_fields__
"""Their names: each is an attribute of a Report, too."""


def flattened(report: Any) -> dict[str, Any]:
    """The object that the JSON of a report holds."""
    parts = {
        "schema": report.schema,
        "verdict": report.verdict,
        "healthy": report.healthy,
        "findings": [to_builtins(finding) for finding in report.findings],
        **to_builtins(report.flow),
    }
    return {name: parts[name] for name in FIELDS if name not in WHERE_NEEDED or getattr(report, name) != DEFAULTS[name]}


def parts_of(data: Any) -> tuple[Flow, Sequence[Finding]]:
    """The Flow and the findings of such an object; UnvanishError where it is none.

    Its verdict is not read: it follows from the findings.
    """
    flat: Any = from_builtins(data, FLAT)
    return Flow(**{name: getattr(flat, name) for name in Flow.__struct_fields__}), flat.findings

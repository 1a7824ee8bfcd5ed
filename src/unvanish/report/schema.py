"""The JSON Schema of a report, made from the records. ``python -m unvanish.report.schema`` prints it."""

from __future__ import annotations

import inspect
import json
from typing import Any, cast

import msgspec

from unvanish.records import SCHEMA, VERDICTS
from unvanish.report.saved import FLAT
from unvanish.words.glossary import field_entry

NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["-inf", "inf", "nan"]}]}


def report_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of ``Report.to_json``; a number may also be "-inf", "inf" or "nan"."""
    made = cast("dict[str, Any]", _numbers(msgspec.json.schema(FLAT)))
    for record, definition in made["$defs"].items():
        definition["description"] = inspect.cleandoc(definition["description"])
        for field, shape in definition["properties"].items():
            shape["description"] = field_entry(record, field) or ""
    report = made["$defs"]["Report"]
    report["properties"]["schema"] = {"const": SCHEMA, "description": report["properties"]["schema"]["description"]}
    report["required"].insert(0, "schema")
    made["$defs"]["Finding"]["properties"]["level"]["enum"] = ["error", "note"]
    made["$defs"]["LayerFlow"]["properties"]["verdict"]["enum"] = list(VERDICTS)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA.replace('/', ':')}", **made}


def to_text(schema: dict[str, Any]) -> str:
    """The schema as the shipped file holds it, with its closing newline."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _numbers(node: Any) -> Any:
    """The schema with every plain number widened by the three strings."""
    if isinstance(node, list):
        return [_numbers(each) for each in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    shape = {key: _numbers(value) for key, value in cast("dict[str, Any]", node).items()}
    if shape.get("type") == "number":
        del shape["type"]
        return {**NUMBER, **shape}
    return shape


if __name__ == "__main__":
    print(to_text(report_schema()), end="")

"""The part of the SARIF 2.1.0 schema that a report uses, written down by hand: nothing else may appear.

It refuses what the OASIS schema refuses of these objects (types, required members, enumerations, unknown members).
"""

from __future__ import annotations

from typing import Any


def _object(required: tuple[str, ...] = (), **members: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": members}


def _list(of: Any, unique: bool = False) -> dict[str, Any]:
    return {"type": "array", "items": of, "uniqueItems": unique}


TEXT = {"type": "string"}
BAG = {"type": "object"}
URI = {"type": "string", "format": "uri"}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
MESSAGE = _object(("text",), text=TEXT, markdown=TEXT)
RULE = _object(
    ("id",), id=TEXT, name=TEXT, shortDescription=MESSAGE, fullDescription=MESSAGE, help=MESSAGE, helpUri=URI,
    properties={"type": "object", "properties": {"tags": _list(TEXT, unique=True)}},
)  # fmt: skip
DRIVER = _object(
    ("name",), name=TEXT, semanticVersion=TEXT, informationUri=URI, rules=_list(RULE, unique=True)
)  # fmt: skip
ARTIFACT = _object(uri={"type": "string", "format": "uri-reference"}, uriBaseId=TEXT)
PHYSICAL = {
    **_object(artifactLocation=ARTIFACT, region=_object(startLine={"type": "integer", "minimum": 1})),
    "required": ["artifactLocation"],
}
LOGICAL = _object(fullyQualifiedName=TEXT, kind=TEXT)
LOCATION = _object(
    id={"type": "integer", "minimum": -1}, message=MESSAGE, physicalLocation=PHYSICAL,
    logicalLocations=_list(LOGICAL, unique=True),
)  # fmt: skip
RESULT = _object(
    ("message",), ruleId=TEXT, ruleIndex={"type": "integer", "minimum": -1}, level=LEVEL, message=MESSAGE,
    locations=_list(LOCATION), relatedLocations=_list(LOCATION, unique=True),
    partialFingerprints={"type": "object", "additionalProperties": TEXT}, properties=BAG,
)  # fmt: skip
INVOCATION = _object(
    ("executionSuccessful",), executionSuccessful={"type": "boolean"},
    toolExecutionNotifications=_list(_object(("message",), level=LEVEL, message=MESSAGE)),
)  # fmt: skip
RUN = _object(
    ("tool",), tool=_object(("driver",), driver=DRIVER), invocations=_list(INVOCATION),
    originalUriBaseIds={"type": "object", "additionalProperties": _object(description=MESSAGE)},
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]}, results=_list(RESULT), properties=BAG,
)  # fmt: skip
SARIF: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(("version", "runs"), **{"$schema": URI, "version": {"const": "2.1.0"}, "runs": _list(RUN)}),
}

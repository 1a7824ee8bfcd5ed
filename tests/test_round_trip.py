"""Any report at all comes back from its JSON as it was, and every machine format can hold it."""

from __future__ import annotations

import json
import math
import struct
import sys
from random import Random
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_reports import MADE, shipped_schema
from sarif_schema import SARIF

from unvanish import records
from unvanish.records import SCHEMA, VERDICTS, Flow, Record, UnvanishError, from_builtins, to_builtins
from unvanish.report import Report
from unvanish.report.formats import formats

KINDS = [
    kind
    for kind in vars(records).values()
    if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record
]
CHOSEN = {("Finding", "level"): ("error", "note"), ("LayerFlow", "verdict"): VERDICTS}
ODD_FLOATS = (0.0, -0.0, 0.1, 5e-324, sys.float_info.max, math.inf, -math.inf, math.nan)
# what markup, terminals, escapes and right-to-left script make of a name, and the half characters by which Python
# spells bytes of a file name that are no text
ODD_CHARACTERS = (
    "a0 \t\n\r\0\x1b\x7f\x85\u2028\u202e\ufeff\uffff<>&\"'`|*_[]{}\\/:;,=%#$-\u0301\u05d0\u4f60\U0001f600\udc80\udcff"
)


def made_up(hint: Any, chance: Random) -> Any:
    """Any value at all of a type that a record's field has."""
    if isinstance(hint, type) and issubclass(hint, Record):
        fields = {name: each for name, each in get_type_hints(hint).items() if name in hint.__struct_fields__}
        kept = {name: chance.choice(words) for (kind, name), words in CHOSEN.items() if kind == hint.__name__}
        return hint(**{name: made_up(each, chance) for name, each in fields.items()} | kept)
    if hint is str:
        return "".join(made_up_character(chance) for _ in range(chance.randrange(12)))
    if hint is float:
        (bits,) = struct.unpack("d", chance.randbytes(8))
        return chance.choice((bits, chance.gauss(0, 1), chance.choice(ODD_FLOATS)))
    if hint is int:
        return chance.choice((0, 1, -1, 2**63 - 1, -(2**63), chance.randint(-(2**63), 2**63 - 1)))
    if hint in (bool, NoneType):
        return chance.choice((True, False)) if hint is bool else None
    kinds = get_args(hint)
    if get_origin(hint) is not tuple:  # one of several types
        return made_up(chance.choice(kinds), chance)
    return tuple(made_up(kind, chance) for kind in (kinds[:1] * chance.randrange(4) if ... in kinds else kinds))


def made_up_character(chance: Random) -> str:
    half = range(0xD800, 0xE000)  # of a pair in UTF-16: beside those above no file name holds one
    code = chance.randrange(0x110000)
    return chance.choice(ODD_CHARACTERS) if code in half or chance.random() < 0.5 else chr(code)


def drawn(hint: Any) -> st.SearchStrategy[Any]:
    """By a number that Hypothesis draws: a report has too many fields for it to draw each of them."""
    return st.integers(0, 2**63).map(lambda seed: made_up(hint, Random(seed)))


TEXT = drawn(str)
REPORTS = drawn(Report).map(lambda report: report.replace(schema=SCHEMA))
# no shrinking: of two seeds none is the smaller report
SEEDS = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, where nan equals nan and the sign of a zero counts."""
    if isinstance(a, Record):
        return type(a) is type(b) and all(same(getattr(a, name), getattr(b, name)) for name in a.__struct_fields__)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return type(a) is type(b) and a == b


def test_what_is_compared_here_tells_apart_what_equality_does_not():
    assert same(math.nan, math.nan)
    assert not same(0.0, -0.0)
    assert not same(1.0, 1)
    assert not same(True, 1)
    assert not same(MADE["dead"], MADE["healthy"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@SEEDS
@given(data=st.data())
def test_every_record_survives_plain_data(kind, data):
    record = data.draw(drawn(kind))
    plain = to_builtins(record)
    assert same(from_builtins(json.loads(json.dumps(plain, allow_nan=False)), kind), record)


@SEEDS
@given(report=REPORTS)
def test_any_report_comes_back_from_its_json_and_follows_the_shipped_schema(report):
    for text in (report.to_json(), report.to_json(indent=None)):
        assert text.isascii()
        assert same(Report.from_json(text), report)
    schema, data = jsonschema.Draft202012Validator(json.loads(shipped_schema())), json.loads(text)
    assert [*schema.iter_errors(data)] == []
    assert [*schema.iter_errors({**data, "loss": "low"})] and [*schema.iter_errors({**data, "layers": 3})]


@pytest.mark.parametrize("value", [math.inf, -math.inf, 5e-324, -0.0, 1.7976931348623157e308, 0.1, None])
def test_a_number_comes_back_to_the_last_bit(value):
    made = MADE["healthy"]
    layers = tuple(layer.replace(log10_signal=value) for layer in made.layers)
    back = Report.from_json(made.replace(layers=layers).to_json())
    assert same(back.layers[0].log10_signal, value)


@SEEDS
@given(schema=TEXT.filter(lambda text: text != SCHEMA) | st.sampled_from(["unvanish.report/0", "unvanish.report/2"]))
def test_another_schema_is_refused_by_name(schema):
    data = {**json.loads(MADE["dead"].to_json()), "schema": schema}
    with pytest.raises(UnvanishError) as refused:
        Report.from_json(json.dumps(data))
    assert str(refused.value) == (
        f"reading a report: expected a JSON object of schema {SCHEMA!r}, but its schema is {schema!r}"
    )


def test_a_field_without_a_value_gets_its_default_and_a_field_from_later_is_passed_over():
    data = json.loads(MADE["dead"].to_json())
    older = {key: value for key, value in data.items() if key not in ("zeros", "step", "output", "inputs", "decrement")}
    assert Report.from_json(json.dumps(older)).to_json() == MADE["dead"].to_json()
    assert Report.from_json(json.dumps({**data, "weather": "fair"})).to_json() == MADE["dead"].to_json()


@SEEDS
@given(flow=drawn(Flow), findings=drawn(tuple[records.Finding, ...]))
def test_every_machine_format_can_hold_any_report(flow, findings):
    layers = tuple({layer.name: layer for layer in flow.layers}.values())
    report = Report.from_flow(flow.replace(layers=layers), findings)
    write = {each.name: each.write for each in formats()}
    log = json.loads(write["sarif"](report))
    assert [*jsonschema.Draft202012Validator(SARIF).iter_errors(log)] == []
    assert len(log["runs"][0]["results"]) == len(findings)
    suite = ET.fromstring(write["junit"](report))
    assert bool(suite.findall(".//failure")) == (not report.healthy)
    assert len(suite.findall(".//testcase")) == len(layers) + 1
    annotations = write["github"](report).split("\n")
    assert all(line.startswith(("::error ", "::notice ")) for line in annotations)
    assert sum(line.startswith("::error ") for line in annotations) == sum(each.level == "error" for each in findings)
    assert write["md"](report).startswith("## ")

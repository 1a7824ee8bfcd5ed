"""Any report at all comes back from its JSON as it was, and every machine format can hold it."""

from __future__ import annotations

import json
import math
from typing import Any, get_type_hints
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
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
# any character, and the half characters by which Python spells bytes of a file name that are no text
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.integers(0xDC80, 0xDCFF).map(chr), max_size=12)
FLOATS = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
CHOSEN = {
    ("Finding", "level"): st.sampled_from(["error", "note"]),
    ("LayerFlow", "verdict"): st.sampled_from(VERDICTS),
}
st.register_type_strategy(str, TEXT)
st.register_type_strategy(float, FLOATS)
st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))


def arbitrary(kind: type[Record]) -> st.SearchStrategy[Any]:
    fields = {
        name: CHOSEN.get((kind.__name__, name), st.from_type(hint))
        for name, hint in get_type_hints(kind).items()
        if name in kind.__struct_fields__
    }
    return st.builds(kind, **fields)


for each in KINDS:
    st.register_type_strategy(each, arbitrary)
REPORTS = arbitrary(Report).map(lambda report: report.replace(schema=SCHEMA))
# no shrinking: a smaller counterexample would take minutes, and the first one is readable enough
SLOW = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
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
@SLOW
@given(data=st.data())
def test_every_record_survives_plain_data(kind, data):
    record = data.draw(st.from_type(kind))
    plain = to_builtins(record)
    assert same(from_builtins(json.loads(json.dumps(plain, allow_nan=False)), kind), record)


@pytest.mark.slow
@SLOW
@given(report=REPORTS)
def test_any_report_comes_back_from_its_json_and_follows_the_shipped_schema(report):
    """Both in one: to make up a report takes ten times what either asks of it."""
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


@SLOW
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


@pytest.mark.slow
@SLOW
@given(flow=st.from_type(Flow), findings=st.lists(st.from_type(records.Finding), max_size=3))
def test_every_machine_format_can_hold_any_report(flow, findings):
    layers = tuple({layer.name: layer for layer in flow.layers}.values())
    report = Report.from_flow(flow.replace(layers=layers), findings)
    write = {each.name: each.write for each in formats()}
    log = json.loads(write["sarif"](report))
    jsonschema.validate(log, SARIF, jsonschema.Draft202012Validator)
    assert len(log["runs"][0]["results"]) == len(findings)
    suite = ET.fromstring(write["junit"](report))
    assert bool(suite.findall(".//failure")) == (not report.healthy)
    assert len(suite.findall(".//testcase")) == len(layers) + 1
    annotations = write["github"](report).split("\n")
    assert all(line.startswith(("::error ", "::notice ")) for line in annotations)
    assert sum(line.startswith("::error ") for line in annotations) == sum(each.level == "error" for each in findings)
    assert write["md"](report).startswith("## ")

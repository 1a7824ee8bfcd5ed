"""The report as a record: its verdict, its JSON and the schema of it, its files, and the glossary of its words."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import jsonschema
import made_reports
import pytest
from made_reports import shipped_schema

from unvanish import records
from unvanish.records import SCHEMA, VERDICTS, Finding, LayerFlow, Record, UnvanishError
from unvanish.report import Report, filter_findings, html
from unvanish.report.saved import FIELDS
from unvanish.report.schema import report_schema, to_text
from unvanish.words.glossary import GLOSSARY, PARTS, VERDICT_WORDS, field_entry

MADE = made_reports.MADE
ERROR = Finding(code="UV301", verdict="dead", level="error")
LATER = Finding(code="UV101", verdict="vanished", level="error")
NOTE = Finding(code="UV401", verdict="converged", level="note")


def report(*findings: Finding) -> Report:
    return Report.from_flow(made_reports.flow(), findings)


@pytest.mark.parametrize(
    ("findings", "verdict", "healthy"),
    [
        ((), "healthy", True),
        ((NOTE,), "converged", True),
        ((NOTE, ERROR), "dead", False),
        ((ERROR, LATER, NOTE), "dead", False),
        ((LATER, ERROR), "vanished", False),
    ],
)
def test_the_verdict_is_that_of_the_first_error_else_of_the_first_note(findings, verdict, healthy):
    made = report(*findings)
    assert (made.verdict, made.healthy) == (verdict, healthy)


@pytest.mark.parametrize(
    ("code", "level", "layers", "word"),
    [
        ("UV805", "note", "healthy", "Noted"),
        ("UV805", "error", "healthy", "Exploding"),
        ("UV805", "note", "vanished", "Exploding"),
        ("UV201", "note", "healthy", "Exploding"),
    ],
)
def test_a_note_on_the_trainings_own_past_is_no_verdict_on_healthy_layers(code, level, layers, word):
    finding = Finding(code=code, verdict="exploding", level=level, message="at step 5 the loss jumped.")
    flow = made_reports.flow(
        *(made_reports.layer(name, 0.0, verdict=layers if name == "b" else "healthy") for name in "ab")
    )
    made = Report.from_flow(flow, (finding,))
    assert made.verdict == "exploding"
    assert str(made).startswith(f"{word}: at step 5 the loss jumped.")
    assert f"<strong>{word}:</strong>" in html.write(made)


@pytest.mark.parametrize(
    ("select", "ignore", "codes", "verdict"),
    [
        ((), (), ["UV301", "UV101", "UV401"], "dead"),
        (("UV1",), (), ["UV101"], "vanished"),
        (("uv1", "UV401"), (), ["UV101", "UV401"], "vanished"),
        ((), ("UV3", "UV101"), ["UV401"], "converged"),
        (("UV1",), ("UV101",), [], "healthy"),
        (("UV301",), ("UV3",), ["UV301"], "dead"),
        (("UV3",), ("UV3",), [], "healthy"),
        ((), ("UV",), [], "healthy"),
    ],
)
def test_filtering_goes_by_the_longest_prefix_and_judges_anew(select, ignore, codes, verdict):
    left = filter_findings(report(ERROR, LATER, NOTE), select, ignore)
    assert [finding.code for finding in left.findings] == codes
    assert left.verdict == verdict
    assert left.healthy == (not {"UV301", "UV101"} & set(codes))


def test_the_keys_stand_in_the_order_of_the_contract():
    keys = list(json.loads(MADE["dead"].to_json()))
    assert keys == [
        "schema", "verdict", "healthy", "findings", "layers", "undecided", "calls", "loss", "setting", "notes",
        "zeros", "step", "output", "inputs", "decrement", "rates",
    ]  # fmt: skip


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_json_is_ascii_and_comes_back_the_same(made):
    for text in (made.to_json(), made.to_json(indent=None)):
        assert text.isascii()
        assert Report.from_json(text).to_json() == made.to_json()
    assert "\n" not in made.to_json(indent=None)


def test_numbers_that_are_not_finite_are_spelled():
    layers = json.loads(MADE["dead"].to_json())["layers"]
    assert layers[0]["log10_signal"] == "-inf"
    assert layers[1]["log10_gain"] == "nan"
    assert layers[0]["log10_gain"] is None
    back = Report.from_json(MADE["dead"].to_json()).layers
    assert back[0].log10_signal == -math.inf
    assert back[1].log10_gain is not None and math.isnan(back[1].log10_gain)
    assert json.loads(MADE["nonfinite"].to_json())["layers"][1]["log10_signal"] == "inf"


def test_a_file_name_that_is_no_unicode_survives():
    made = report().replace(notes=("net\udc80.py",))
    assert Report.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], "not valid JSON"),
        (lambda text: "[]", 'no "schema"'),
        (lambda text: text.replace(SCHEMA, "unvanish.report/99"), "unvanish.report/1.*unvanish.report/99"),
        (lambda text: text.replace('"-inf"', "-Infinity"), "Infinity is no JSON number"),
        (lambda text: text.replace('"parameters": 4160', '"parameters": "many"'), r"parameters.*layers\[0\]|int"),
        (lambda text: text.replace('"healthy": false', '"healthy": 3'), "healthy|bool"),
        (lambda text: text.replace('"findings"', '"finding"'), "findings"),
        (lambda text: "[" * 100_000, "not valid JSON"),
    ],
)
def test_what_is_no_report_is_refused(change, message):
    text = MADE["dead"].to_json()
    assert change(text) != text
    with pytest.raises(UnvanishError, match=message):
        Report.from_json(change(text))


def test_save_goes_by_the_suffix(tmp_path):
    made = MADE["vanishing-20"]
    made.save(tmp_path / "x.json")
    made.save(str(tmp_path / "x.TXT"))
    assert (tmp_path / "x.json").read_text() == made.to_json() + "\n"
    assert (tmp_path / "x.TXT").read_text(encoding="utf-8") == str(made) + "\n"


@pytest.mark.parametrize("name", ["x.doc", "x"])
def test_save_refuses_what_it_cannot_write(tmp_path, name):
    with pytest.raises(UnvanishError, match=r"\.json.*\.txt"):
        MADE["dead"].save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_save_says_where_it_cannot_write(tmp_path):
    with pytest.raises(UnvanishError, match=r"nowhere.*No such file"):
        MADE["dead"].save(tmp_path / "nowhere" / "x.json")


def test_the_shipped_schema_is_up_to_date():
    assert shipped_schema() == to_text(report_schema()), "run python -m unvanish.report.schema and keep what it prints"


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_reports_follow_the_schema(made):
    schema = json.loads(shipped_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(made.to_json()), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (SCHEMA, "unvanish.report/2"),
        ('"-inf"', '"minus infinity"'),
        ('"level": "error"', '"level": "fatal"'),
        ('"verdict": "dead"', '"verdict": "asleep"'),
        ('"notes"', '"remarks"'),
    ],
)
def test_the_schema_refuses_what_is_no_report(old, new):
    text = MADE["dead"].to_json()
    assert old in text
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(text.replace(old, new)), json.loads(shipped_schema()))


def test_every_number_of_the_schema_admits_what_is_not_finite():
    def numbers(node):
        if isinstance(node, dict):
            if node.get("type") == "number":
                yield node
            for value in node.values():
                yield from numbers(value)
        elif isinstance(node, list):
            for value in node:
                yield from numbers(value)

    schema = json.loads(shipped_schema())
    twins = shipped_schema().count('"-inf"')
    assert twins == len(list(numbers(schema))) > 30


def all_records():
    kinds = [kind for _, kind in inspect.getmembers(records, inspect.isclass) if issubclass(kind, Record)]
    return [kind for kind in [*kinds, Report] if kind is not Record]


def fields_of(kind):
    return {*kind.__struct_fields__, *(FIELDS if kind is Report else ())}


@pytest.mark.parametrize("kind", all_records(), ids=lambda kind: kind.__name__)
def test_the_glossary_has_every_field(kind):
    missing = [field for field in fields_of(kind) if not field_entry(kind.__name__, field)]
    assert not missing
    borrowed = [f for f in fields_of(kind) if f in VERDICT_WORDS and f"{kind.__name__}.{f}" not in GLOSSARY]
    assert not borrowed, "a field must not be explained by the verdict of the same name"


def test_no_word_of_the_glossary_stands_in_two_of_its_parts():
    keys = [key for part in PARTS for key in part]
    assert sorted(GLOSSARY) == sorted(keys)


def test_the_glossary_names_no_field_that_is_gone():
    fields = {(kind.__name__, field) for kind in all_records() for field in fields_of(kind)}
    stale = [key for key in GLOSSARY if "." in key and tuple(key.split(".")) not in fields]
    assert not stale


def test_the_glossary_has_every_verdict_of_a_layer_and_of_a_model():
    of_models = (
        "pairing input_scale saturated dead_units output_range output_scale flat_loss lr_too_large lr_too_small slow"
        " decay left_out collapsed identical uphill wiped added_up skipped outdated unmoved"
    )
    assert set(VERDICT_WORDS) == {*VERDICTS, *of_models.split()}


def test_the_schema_file_lies_in_the_package():
    assert (Path(inspect.getfile(Report)).parent / "report.schema.json").is_file()


def test_a_layer_that_is_called_again_is_of_the_same_module() -> None:
    first, again = (LayerFlow(name=name, kind="Linear", source="", parameters=6) for name in ("net.0", "net.0#2"))
    assert first.path == again.path == "net.0"

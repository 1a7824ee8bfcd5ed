"""A report that was saved holds all that it rests on: judged again, it says the same."""

from __future__ import annotations

import json

import jsonschema
import pytest
from made_reports import shipped_schema

from unvanish import zoo
from unvanish.decide import decide
from unvanish.pipeline import diagnose
from unvanish.records import Flow, UnvanishError
from unvanish.report import Report
from unvanish.report.saved import ALWAYS, FIELDS
from unvanish.rules import judge

NETWORKS = (
    "nonfinite-log", "overflow-exp", "nonfinite-sqrt0", "sigmoid-20", "dead-relu", "all-zero-weights", "zero-head",
    "chaotic-tanh-50", "converged-digits", "plateau", "clamped-loss", "unscaled-inputs", "double-softmax", "relu-he-20",
)  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_report_is_judged_again_with_the_same_result(name: str, seed: int) -> None:
    report = diagnose(zoo.get(name).build(seed), seed=seed)
    back = Report.from_json(report.to_json())
    assert judge(decide(back.flow)) == report.findings
    assert bool(report.nonfinite) == ("UV501" in (codes := {f.code for f in report.findings}) or "UV502" in codes)
    jsonschema.validate(json.loads(report.to_json()), json.loads(shipped_schema()))


def test_a_report_has_every_field_of_its_flow() -> None:
    report = diagnose(zoo.get("sigmoid-20").build(0), seed=0)
    for name in Flow.__struct_fields__:
        assert getattr(report, name) is getattr(report.flow, name), name
    assert set(FIELDS) == {"schema", "verdict", "healthy", "findings", *Flow.__struct_fields__}


def test_a_changed_report_changes_its_flow_and_its_verdict_follows_its_findings() -> None:
    report = diagnose(zoo.get("sigmoid-20").build(0), seed=0)
    changed = report.replace(layers=report.layers[:1], notes=("one",), findings=())
    assert changed.flow == report.flow.replace(layers=report.layers[:1], notes=("one",))
    assert (report.verdict, report.healthy, changed.verdict, changed.healthy) == ("vanished", False, "healthy", True)
    assert report.replace(flow=changed.flow, notes=()).flow == changed.flow.replace(notes=())
    with pytest.raises(TypeError):
        report.replace(verdict="healthy")
    # of a file edited by hand the findings count, not the word
    data = json.loads(report.to_json()) | {"verdict": "healthy", "healthy": True}
    assert Report.from_json(json.dumps(data)) == report


@pytest.mark.parametrize("name", ALWAYS)
def test_a_file_that_lacks_what_every_report_has_is_refused(name: str) -> None:
    data = json.loads(diagnose(zoo.get("chain-4").build(0), seed=0).to_json())
    del data[name]
    with pytest.raises(UnvanishError, match=f"reading a Report: .*{name}"):
        Report.from_json(json.dumps(data))


def test_why_there_is_no_decrement_is_kept_and_written_only_where_there_is_a_reason() -> None:
    report = diagnose(zoo.get("chain-4").build(0), seed=0)
    assert not {"decrement_refused", "nonfinite", "nonfinite_call"} & set(json.loads(report.to_json()))
    refused = Report.from_flow(report.flow.replace(decrement_refused="no second derivative"), ())
    back = Report.from_json(refused.to_json())
    assert back.flow == refused.flow
    assert back.flow.decrement_refused == "no second derivative"

"""A report that was saved holds all that it rests on: judged again, it says the same."""

from __future__ import annotations

import json

import jsonschema
import pytest

from unvanish import zoo
from unvanish.decide import decide
from unvanish.pipeline import diagnose
from unvanish.records import Flow
from unvanish.report import Report
from unvanish.report.schema import shipped_schema
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
    assert set(Flow.__struct_fields__) <= set(Report.__struct_fields__)


def test_why_there_is_no_decrement_is_kept_and_written_only_where_there_is_a_reason() -> None:
    report = diagnose(zoo.get("chain-4").build(0), seed=0)
    assert not {"decrement_refused", "nonfinite", "nonfinite_call"} & set(json.loads(report.to_json()))
    refused = Report.from_flow(report.flow.replace(decrement_refused="no second derivative"), ())
    back = Report.from_json(refused.to_json())
    assert back.flow == refused.flow
    assert back.flow.decrement_refused == "no second derivative"

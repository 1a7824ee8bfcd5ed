"""What a run tells programs: JSON after its schema, SARIF, JUnit, annotations, exit statuses; a workflow with them."""

from __future__ import annotations

import importlib.resources
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml
from sarif_schema import SARIF

from unvanish import Report, load_run
from unvanish.cli import _parsed, main

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / "examples" / "github_actions.yml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that has vanished, and one that is healthy."""
    folder = tmp_path_factory.mktemp("runs")
    made = {"vanished": ("Sigmoid", "12"), "healthy": ("ReLU", "2")}
    for name, (activation, depth) in made.items():
        words = [
            str(ROOT / "examples" / "train_plain.py"),
            "--activation",
            activation,
            "--depth",
            depth,
            "--steps",
            "30",
        ]
        assert main(["run", "-o", str(folder / f"{name}.unvanish"), "--every", "5", *words]) == 0
    return {name: folder / f"{name}.unvanish" for name in made}


def shown(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["show", str(path), *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["vanished", "healthy"])
def test_json_is_after_the_schema_that_is_shipped(
    name: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(runs[name], capsys, "--json")
    assert text == shown(runs[name], capsys, "--format", "json")
    schema = json.loads((importlib.resources.files("unvanish") / "report" / "report.schema.json").read_text())
    found = json.loads(text)
    jsonschema.validate(found, schema)
    report, run = Report.from_json(text), load_run(runs[name])
    assert report == run.last_report()
    assert found["verdict"] == name and found["healthy"] is (name == "healthy")
    assert [layer["name"] for layer in found["layers"]] == list(run.layers)


def test_sarif_has_a_result_a_finding_and_a_rule_for_each(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, wanted in (("vanished", ["UV101"]), ("healthy", [])):
        found = json.loads(shown(runs[name], capsys, "--format", "sarif"))
        jsonschema.validate(found, SARIF)
        (run,) = found["runs"]
        assert [result["ruleId"] for result in run["results"] if result["level"] == "error"] == wanted
        rules = run["tool"]["driver"]["rules"]
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
            report = load_run(runs[name]).last_report()
            finding = next(each for each in report.findings if each.code == result["ruleId"])
            named = [each["fullyQualifiedName"] for each in result["locations"][0]["logicalLocations"]]
            assert named == list(finding.layers)


def test_junit_has_a_case_a_layer_and_a_failure_for_each_that_an_error_names(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in runs:
        suite = ElementTree.fromstring(shown(runs[name], capsys, "--format", "junit")).find("testsuite")
        assert suite is not None
        report = load_run(runs[name]).last_report()
        cases = {case.get("name"): case for case in suite.iter("testcase")}
        assert set(cases) == {"the network as a whole", *(layer.name for layer in report.layers)}
        failed = {key for key, case in cases.items() if case.find("failure") is not None}
        named = {layer for finding in report.findings if finding.level == "error" for layer in finding.layers}
        assert failed == named and bool(named) == (name == "vanished")
        assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), str(len(failed)))


def test_the_exit_status_follows_fail_on_in_every_format(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for how in ([], ["--json"], ["--format", "sarif"], ["--format", "junit"], ["--format", "github"]):
        for name, wanted in (("vanished", 1), ("healthy", 0)):
            assert main(["show", str(runs[name]), "--fail-on", "error", *how]) == wanted
            assert main(["show", str(runs[name]), *how]) == 0
    capsys.readouterr()
    lines = shown(runs["vanished"], capsys, "--format", "github").splitlines()
    assert [line.split(" ")[0] for line in lines if line.startswith("::error")] == ["::error"]
    assert not shown(runs["healthy"], capsys, "--format", "github").startswith("::error")


def steps() -> list[dict[str, Any]]:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    return workflow["jobs"]["gradients"]["steps"]


def test_the_workflow_parses_and_each_of_its_commands_is_one() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert workflow[True] == ["push", "pull_request"]  # YAML 1.1 reads the word `on` as true, and so does GitHub
    assert all(("run" in step) != ("uses" in step) for step in steps())
    commands = [line for step in steps() for line in step.get("run", "").splitlines() if line.startswith("unvanish ")]
    assert len(commands) == 5
    for command in commands:
        _parsed(command.split(" >> ")[0].split()[1:])


@pytest.mark.parametrize(("depth", "status"), [(12, 1), (1, 0)])
def test_the_workflow_runs_and_fails_where_something_is_wrong(depth: int, status: int, tmp_path: Path) -> None:
    text = (ROOT / "examples" / "train_plain.py").read_text(encoding="utf-8")
    (tmp_path / "train.py").write_text(text.replace("default=12", f"default={depth}"), encoding="utf-8")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "unvanish").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unvanish "$@"\n')
    (tools / "unvanish").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }  # fmt: skip
    ended: list[int] = []
    for step in steps():
        if "run" in step and not step["run"].startswith("pip "):
            words = ["bash", "-e", "-c", step["run"]]
            ended.append(subprocess.run(words, cwd=tmp_path, env=environment, timeout=300).returncode)
    assert ended == [0, 0, status]
    kept = [step["with"]["path"].split() for step in steps() if step.get("uses", "").startswith("actions/upload")]
    assert all((tmp_path / name).stat().st_size for names in kept for name in names)
    assert (tmp_path / "summary.md").stat().st_size

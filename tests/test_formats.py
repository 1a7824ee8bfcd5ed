"""The machine formats: SARIF, JUnit XML, GitHub annotations and Markdown, of reports made by hand."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

import jsonschema
import made_reports
import pytest
from made_reports import MADE
from sarif_schema import SARIF

from unvanish.records import CallFlow, Finding, UnvanishError
from unvanish.report import Report, filter_findings, sarif
from unvanish.report.formats import COMMANDS, formats, names, writer
from unvanish.report.places import Place, lines, place
from unvanish.rules import rules

WRITE = {each.name: each.write for each in formats()}
ALL = pytest.mark.parametrize("made", MADE.values(), ids=MADE)


def sarif_run(report: Report) -> dict[str, Any]:
    log = json.loads(WRITE["sarif"](report))
    jsonschema.validate(log, SARIF, jsonschema.Draft202012Validator)
    return log["runs"][0]


def junit(report: Report) -> ET.Element:
    suite = ET.fromstring(WRITE["junit"](report)).find("testsuite")
    assert suite is not None
    return suite


def with_findings(*findings: Finding, **more: Any) -> Report:
    layers = (
        made_reports.layer("fc1", -9.0, source="net.py:3", verdict="vanished"),
        made_reports.layer("fc2", -4.0, source="nets/deep net.py:7", verdict="vanished"),
        made_reports.layer("fc3", -4.0, source="net.py:3", verdict="vanished"),
        made_reports.layer("head", 0.0, source=""),
        made_reports.layer("spare", None, verdict="undecided"),
    )
    return Report.from_flow(made_reports.flow(*layers).replace(**more), findings)


VANISHED = Finding(
    code="UV101", verdict="vanished", level="error", layers=("fc1", "fc2", "fc3"), message="50% of it, gone.",
    remedies=("centred-init", "batchnorm"),
)  # fmt: skip
WHOLE = Finding(code="UV705", verdict="lr_too_small", level="error", message="The steps are too short.")
NOTE = Finding(code="UV401", verdict="converged", level="note", layers=("head",), message="Nothing is left.")


def test_there_are_the_formats_of_the_command_line_and_each_says_what_it_is():
    assert {"text", "json", "sarif", "junit", "github", "md"} <= set(WRITE)
    assert all(each.doc.strip() for each in formats())
    suffixes = [each.suffix for each in formats() if each.suffix]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_names_read_from_the_source_are_those_of_the_registry(command):
    assert sorted(names(command)) == [each.name for each in formats(command)]
    assert names(command)[0] == "text"


@pytest.mark.parametrize(
    ("command", "of"), [("check", "check"), ("zoo", "check"), ("fix", "fix"), ("lab", "lab"), ("theory", "lab")]
)
def test_a_command_offers_the_formats_of_the_registry_and_no_other(command, of, monkeypatch):
    """Also one that was added a moment ago, so that a list written down anywhere else is found out."""
    assert choices(command) == names(of)
    for module in ("check", "fix", "lab"):
        monkeypatch.setattr(f"unvanish.cli.{module}.names", lambda of: (*names(of), f"new-of-{of}"))
    assert choices(command) == (*names(of), f"new-of-{of}")


def choices(command: str) -> tuple[str, ...]:
    from unvanish.cli import _parser

    (commands,) = [each for each in _parser()._actions if isinstance(each.choices, dict)]
    assert isinstance(commands.choices, dict)
    (option,) = [each for each in commands.choices[command]._actions if each.dest == "format"]
    return tuple(option.choices)


def test_a_new_file_with_a_writer_is_a_new_format(tmp_path):
    (tmp_path / "new.py").write_text(
        '@writer("words", suffix=".words")\ndef a(report): ...\n\n'
        '@writer(\n    "few",\n    of="lab",\n)\ndef b(o): ...\n'
        '# @writer("never")\n'
    )
    assert [names(command, tmp_path) for command in ("check", "fix", "lab")] == [("words",), (), ("few",)]


@pytest.mark.parametrize(
    ("name", "suffix", "doc", "message"),
    [
        ("sarif", ".new", "Text.", "'sarif' is registered twice"),
        ("new", ".md", "Text.", "'.md' is declared by the formats"),
        ("new", ".new", None, "'new' needs a docstring"),
        ("New words", ".new", "Text.", "cannot be typed behind --format: use small letters"),
        ("new", "new", "Text.", r"the suffix 'new' of the format 'new' needs a dot in front: '\.new'"),
    ],
)
def test_a_wrong_registration_is_refused(name, suffix, doc, message):
    def write(report: Report) -> str:
        return report.verdict

    write.__doc__ = doc
    with pytest.raises(ValueError, match=message):
        writer(name, suffix=suffix)(write)


def test_a_format_of_no_command_is_refused():
    with pytest.raises(ValueError, match="'new' is of 'chekc'; formats are of one of check, fix, lab"):
        writer("new", of="chekc")(lambda report: "")


@pytest.mark.parametrize("suffix", [".sarif", ".xml", ".md", ".json", ".txt"])
def test_save_writes_what_the_suffix_names(suffix, tmp_path):
    (write,) = [each.write for each in formats() if each.suffix == suffix]
    MADE["dead"].save(tmp_path / f"x{suffix}")
    assert (tmp_path / f"x{suffix}").read_text(encoding="utf-8") == write(MADE["dead"]) + "\n"


def test_save_names_every_suffix_it_knows(tmp_path):
    with pytest.raises(UnvanishError, match=r"'\.doc' names no known format; use one of ") as caught:
        MADE["dead"].save(tmp_path / "x.doc")
    listed = str(caught.value).partition("use one of ")[2].split(", ")
    assert listed == sorted(listed) and {each.suffix for each in formats() if each.suffix} <= set(listed)


@ALL
@pytest.mark.parametrize("name", WRITE)
def test_the_same_report_gives_the_same_text_without_control_characters(made, name):
    text = WRITE[name](made)
    assert text == WRITE[name](Report.from_json(made.to_json()))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not text.endswith("\n")


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("net.py:12", Place("net.py", 12)),
        ("C:\\nets\\a.py:3", Place("C:\\nets\\a.py", 3)),
        ("odd:name.py:1", Place("odd:name.py", 1)),
        ("", None),
        ("net.py", None),
        ("net.py:0", None),
        (":3", None),
    ],
)
def test_a_source_field_names_a_place(source, parts):
    assert place(source) == parts


def test_a_finding_about_the_whole_network_points_at_the_last_call_with_a_source():
    calls = [
        CallFlow(index=place, name="linear", module="", source=source, part="model", role="weights")
        for place, source in enumerate(["net.py:3", "net.py:9", ""])
    ]
    report = with_findings(WHOLE, calls=tuple(calls))
    assert lines(report, WHOLE) == [(Place("net.py", 9), ())]
    assert lines(report, NOTE) == [], "a layer without a source line must not borrow one"
    assert lines(with_findings(WHOLE), WHOLE) == []


@ALL
def test_sarif_follows_its_schema(made):
    run = sarif_run(made)
    assert [result["ruleId"] for result in run["results"]] == [finding.code for finding in made.findings]
    assert run["properties"]["verdict"] == made.verdict


def test_the_schema_of_these_tests_refuses_what_sarif_refuses():
    log = json.loads(WRITE["sarif"](with_findings(VANISHED)))
    result = log["runs"][0]["results"][0]
    for key, wrong in (("level", "fatal"), ("message", "text"), ("ruleIndex", -2), ("severity", "high")):
        with pytest.raises(jsonschema.ValidationError):
            kept = {**log, "runs": [{**log["runs"][0], "results": [{**result, key: wrong}]}]}
            jsonschema.validate(kept, SARIF, jsonschema.Draft202012Validator)


def test_sarif_explains_every_rule_in_its_own_words():
    listed = sarif_run(MADE["healthy"])["tool"]["driver"]["rules"]
    assert [each["id"] for each in listed] == [rule.code for rule in rules()]
    vanishing = next(each for each in listed if each["id"] == "UV101")
    assert vanishing["name"] == "VanishingGradient"
    assert vanishing["shortDescription"]["text"] == "Vanishing gradient."
    assert vanishing["fullDescription"]["text"].startswith("The first layers hardly learn:")
    assert "Glorot & Bengio 2010" in vanishing["help"]["text"]
    assert "**What helps:** for sigmoids" in vanishing["help"]["markdown"]
    assert "**" not in vanishing["help"]["text"]
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]+", each["name"]) for each in listed)


@ALL
def test_sarif_links_nowhere_but_to_its_own_schema(made):
    text = WRITE["sarif"](made)
    assert re.findall(r'https?://[^\s"]+', text) == [sarif.SCHEMA]
    assert "helpUri" not in text and "informationUri" not in text


def test_sarif_points_at_the_source_lines_of_the_layers():
    vanished, whole, note = sarif_run(with_findings(VANISHED, WHOLE, NOTE))["results"]
    (first,) = vanished["locations"]
    assert first["physicalLocation"] == {
        "artifactLocation": {"uri": "net.py", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 3},
    }
    assert [each["fullyQualifiedName"] for each in first["logicalLocations"]] == ["fc1", "fc2", "fc3"]
    (second,) = vanished["relatedLocations"]
    assert second["physicalLocation"]["artifactLocation"]["uri"] == "nets/deep%20net.py"
    assert second["message"]["text"] == "Also called here: fc2"
    assert "locations" not in whole
    assert "physicalLocation" not in note["locations"][0]
    assert [each["level"] for each in (vanished, whole, note)] == ["error", "error", "note"]
    assert vanished["ruleIndex"] == [rule.code for rule in rules()].index("UV101")


@pytest.mark.parametrize(
    ("file", "scheme", "path"),
    [
        ("nets/a b.py", "", "nets/a b.py"),
        ("größe:x.py", "", "größe:x.py"),
        ("/srv/a#1.py", "file", "/srv/a#1.py"),
        ("C:\\nets\\a.py", "file", "/C:/nets/a.py"),
        ("net\udc80.py", "", "net\\udc80.py"),
    ],
)
def test_sarif_uris_are_ascii_and_lead_back_to_the_path(file, scheme, path):
    made = with_findings(VANISHED)
    layers = tuple(layer.replace(source=f"{file}:5") for layer in made.layers)
    (result,) = sarif_run(made.replace(layers=layers))["results"]
    artifact = result["locations"][0]["physicalLocation"]["artifactLocation"]
    parts = urlsplit(artifact["uri"])
    assert artifact["uri"].isascii()
    assert (parts.scheme, parts.netloc, unquote(parts.path), parts.fragment) == (scheme, "", path, "")
    assert ("uriBaseId" in artifact) == (not scheme)


def test_a_sarif_fingerprint_outlives_moved_lines_and_new_numbers_but_not_other_layers():
    def fingerprint(report: Report) -> str:
        return sarif_run(report)["results"][0]["partialFingerprints"]["unvanishFinding/v1"]

    made = with_findings(VANISHED)
    moved = made.replace(layers=tuple(layer.replace(source="net.py:99") for layer in made.layers))
    assert fingerprint(made) == fingerprint(moved)
    assert fingerprint(made) == fingerprint(with_findings(VANISHED.replace(message="60% of it, gone.")))
    others = [VANISHED.replace(layers=("fc1",)), VANISHED.replace(code="UV201"), VANISHED.replace(cause="weights")]
    assert len({fingerprint(with_findings(each)) for each in (VANISHED, *others)}) == 4


def test_sarif_says_what_was_not_decided():
    (invocation,) = sarif_run(MADE["vanishing-20"])["invocations"]
    notices = [each["message"]["text"] for each in invocation["toolExecutionNotifications"]]
    assert "Not decided: whether the loss is flat: the loss was not tried on other outputs" in notices


@ALL
@pytest.mark.parametrize("ignore", [(), ("UV1",), ("UV",)])
def test_a_junit_case_fails_if_and_only_if_the_network_is_not_healthy(made, ignore):
    report = filter_findings(made, ignore=ignore)
    suite = junit(report)
    failures = suite.findall("testcase/failure")
    assert bool(failures) == (not report.healthy)
    assert suite.get("failures") == str(len(failures))
    assert suite.get("tests") == str(len(suite.findall("testcase"))) == str(len(report.layers) + 1)


def test_junit_has_a_case_a_layer_with_its_source_line():
    suite = junit(with_findings(VANISHED, NOTE))
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert list(cases) == ["the network as a whole", "fc1", "fc2", "fc3", "head", "spare"]
    failed = [name for name, case in cases.items() if case.find("failure") is not None]
    assert failed == ["fc1", "fc2", "fc3"]
    assert (cases["fc2"].get("file"), cases["fc2"].get("line")) == ("nets/deep net.py", "7")
    assert cases["head"].get("file") is None
    assert cases["spare"].find("skipped") is not None
    assert suite.get("skipped") == "1"
    full, short = (cases[name].findtext("failure") or "" for name in ("fc1", "fc3"))
    assert "worth trying: centred-init, batchnorm" in full
    assert short == "See the case of fc1."
    assert "UV401 converged (note): Nothing is left." in (cases["the network as a whole"].findtext("system-out") or "")


def test_junit_fails_the_network_as_a_whole_for_a_finding_that_names_no_layer():
    elsewhere = VANISHED.replace(layers=("gone",))
    for findings in ((WHOLE,), (elsewhere,), (WHOLE, elsewhere)):
        suite = junit(with_findings(*findings))
        (failed,) = (case for case in suite.findall("testcase") if case.find("failure") is not None)
        assert failed.get("name") == "the network as a whole"
        text = failed.findtext("failure") or ""
        assert all(finding.message in text for finding in findings)


def test_junit_is_ascii_and_spells_characters_xml_cannot_hold():
    text = WRITE["junit"](MADE["hostile"])
    assert text.isascii()
    names = [case.get("name") for case in ET.fromstring(text).iter("testcase")]
    assert names[1:6] == ["[red]x[/red]", "a\\nb", "\\x1b[31mred\\x1b[0m", "right\\u202eleft", "größe.层"]


def test_github_annotations_are_escaped_and_undone_by_the_rules_of_the_runner():
    odd = VANISHED.replace(message="50% gone:\nall, of it")
    report = with_findings(odd)
    layers = tuple(layer.replace(source="a,b:c%.py:4") for layer in report.layers)
    (line,) = WRITE["github"](report.replace(layers=layers)).splitlines()
    assert line.startswith(
        "::error file=a%2Cb%3Ac%25.py,line=4,title=UV101 vanishing gradient::50%25 gone:\\nall, of it"
    )
    command, _, text = line[2:].partition("::")
    properties = dict(pair.split("=", 1) for pair in command.partition(" ")[2].split(","))
    for escape, sign in (("%3A", ":"), ("%2C", ","), ("%0A", "\n"), ("%25", "%")):
        properties = {key: value.replace(escape, sign) for key, value in properties.items()}
        text = text.replace(escape, sign)
    assert properties == {"file": "a,b:c%.py", "line": "4", "title": "UV101 vanishing gradient"}
    assert text.splitlines() == ["50% gone:\\nall, of it", "worth trying: centred-init, batchnorm"]


def test_github_has_a_line_a_finding_and_one_where_there_is_none():
    commands = [line.partition(" ")[0] for line in WRITE["github"](with_findings(VANISHED, WHOLE, NOTE)).splitlines()]
    assert commands == ["::error", "::error", "::notice"]
    assert WRITE["github"](MADE["healthy"]) == (
        "::notice title=unvanish%3A healthy::no fault was found; the error signal reaches every layer at a usable size."
    )
    assert WRITE["github"](MADE["vanishing-20"]).splitlines()[-1].startswith("::notice title=unvanish%3A not decided::")


def test_markdown_holds_the_staircase_in_a_block_and_every_finding():
    text = WRITE["md"](MADE["vanishing-20"])
    block = re.findall(r"(?s)```text\n(.*?)\n```", text)
    assert len(block) == 1
    assert "fc20" in block[0]
    assert "10^-18.2" in block[0], "19 steps back of ×0.11"
    assert text.startswith("## Vanished: fc1 to fc17 hardly learn: the error signal shrinks at every step back.")
    assert "| UV101 | vanishing gradient | error | fc1 … fc17 (17 layers) |" in text
    assert "- measured: transmission: 10^-18.2 (log10\\_transmission, limit &lt; 10^-2.5)" in text
    assert "- worth trying: `centred-init`, `batchnorm`" in text
    assert "### Not decided" in text


def test_markdown_interprets_nothing_that_a_network_says():
    evil = "<script>|*x*|_y_ `z` [l](u) #1 &amp;"
    finding = VANISHED.replace(layers=(evil,), message=f"{evil} is gone", remedies=("a``b",))
    layers = (made_reports.layer(evil, -1.0), made_reports.layer("```", -1.0), made_reports.layer("- item", -1.0))
    text = WRITE["md"](Report.from_flow(made_reports.flow(*layers, notes=("1. one", "+ two")), [finding]))
    outside = re.sub(r"(?s)````text\n.*?\n````", "", text)
    assert outside != text, "the block must be fenced by more backticks than it holds"
    assert "<" not in outside
    plain = "&lt;script&gt;\\|\\*x\\*\\|\\_y\\_ \\`z\\` \\[l\\](u) \\#1 &amp;amp;"
    assert f"## Vanished: {plain} is gone" in outside
    assert f"| UV101 | vanishing gradient | error | {plain} |" in outside
    assert "```a``b```" not in outside
    assert "``` a``b ```" in outside
    assert "- 1\\. one\n- \\+ two" in outside

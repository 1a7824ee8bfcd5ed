"""JUnit XML, the test results that continuous integration systems read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

from unvanish.records import Finding, LayerFlow
from unvanish.report.formats import writer
from unvanish.report.index import index
from unvanish.report.places import place
from unvanish.report.sentences import checked, evidence_fact, headline, sentences, title, words
from unvanish.words.markup import visible

if TYPE_CHECKING:
    from unvanish.report import Report

WHOLE = "the network as a whole"


class Failure(NamedTuple):
    """What the cases of one finding say: its verdict, its first sentence, all of it, and the case that holds all."""

    verdict: str
    sentence: str
    details: str
    case: str


@writer("junit", suffix=".xml")
def write(report: Report) -> str:
    """JUnit XML: a test case a layer, and one for the network as a whole.

    A case fails if a finding of level "error" names its layer; that of the network if one names no layer. It is
    skipped where nothing could be decided. So a case fails if and only if the network is not healthy.
    """
    suite = ET.Element("testsuite", name="unvanish")
    told = ET.SubElement(suite, "properties")
    for name, value in (
        ("verdict", report.verdict),
        ("headline", headline(report)),
        ("checked", "; ".join(checked(report))),
    ):
        ET.SubElement(told, "property", name=name, value=visible(value))
    errors = [finding for finding in report.findings if finding.level == "error"]
    names = {layer.name for layer in report.layers}
    _whole(suite, report, [each for each in errors if not names.intersection(each.layers)])
    failing: dict[str, list[Failure]] = {}
    for finding in errors:
        failure = _failure(report, finding)
        for name in dict.fromkeys(finding.layers):
            failing.setdefault(name, []).append(failure)
    for layer in report.layers:
        _layer(suite, report, layer, failing.get(layer.name, []))
    for tag, counted in (("tests", "testcase"), ("failures", "testcase/failure"), ("skipped", "testcase/skipped")):
        suite.set(tag, str(len(suite.findall(counted))))
    suite.set("errors", "0")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    # written in ASCII, so that no encoding on the way can spoil it
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="us-ascii").decode("ascii")


def _whole(suite: ET.Element, report: Report, errors: Sequence[Finding]) -> None:
    case = ET.SubElement(suite, "testcase", classname=visible(report.setting.model), name=WHOLE)
    if errors:
        _fail(case, [_failure(report, each) for each in errors])
    open_questions = [f"not decided: {what}: {why}" for what, why in report.undecided]
    notes = [f"{f.code} {title(f)} ({f.level}): {f.message}" for f in report.findings if f.level != "error"]
    _output(case, [*notes, *open_questions, *report.notes])


def _layer(suite: ET.Element, report: Report, layer: LayerFlow, errors: Sequence[Failure]) -> None:
    case = ET.SubElement(suite, "testcase", classname=visible(report.setting.model), name=visible(layer.name))
    where = place(layer.source)
    if where is not None:
        case.set("file", visible(where.file))
        case.set("line", str(where.line))
    if errors:
        _fail(case, errors)
    elif layer.verdict == "undecided":
        ET.SubElement(case, "skipped", message="what was measured does not settle whether this layer is healthy")
    elif layer.verdict == "not_asked":
        ET.SubElement(case, "skipped", message="what would tell whether this layer is healthy was not asked for")
    if layer.verdict not in ("healthy", "undecided", "not_asked"):
        _output(case, [f"verdict: {words(layer.verdict)}"])


def _failure(report: Report, finding: Finding) -> Failure:
    named = index(report).named(finding.layers)
    return Failure(
        verdict=finding.verdict,
        sentence=f"{finding.code} {title(finding)}: {sentences(finding)[0]}",
        details="\n".join(map(visible, _details(report, finding))),
        case=named[0].name if named else WHOLE,
    )


def _fail(case: ET.Element, errors: Sequence[Failure]) -> None:
    """One failure a case, as the format wants it; the text of a finding stands in the first of its cases."""
    told, first = visible("; ".join(each.sentence for each in errors)), errors[0].case
    failure = ET.SubElement(case, "failure", type=visible(errors[0].verdict), message=told)
    if case.get("name") == visible(first):
        failure.text = "\n".join(each.details for each in errors)
    else:
        failure.text = visible(f"See the case of {first}.")


def _details(report: Report, finding: Finding) -> list[str]:
    facts = [f"{finding.code} {title(finding)}", finding.message]
    facts += [f"cause: {finding.cause}"] if finding.cause else []
    facts += [f"measured: {evidence_fact(each)}" for each in finding.evidence]
    return facts + ([f"worth trying: {', '.join(finding.remedies)}"] if finding.remedies else [])


def _output(case: ET.Element, said: Sequence[str]) -> None:
    if said:
        ET.SubElement(case, "system-out").text = "\n".join(visible(line) for line in said)

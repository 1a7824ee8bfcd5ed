"""SARIF 2.1.0, the exchange format of static analysis that code hosts and editors show at the source lines."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from unvanish.records import Finding, to_builtins
from unvanish.report.formats import writer
from unvanish.report.places import Place, lines
from unvanish.report.sentences import checked, headline
from unvanish.words.markup import visible

if TYPE_CHECKING:
    from unvanish.report import Report
    from unvanish.rules import Rule
    from unvanish.rules.events import Event

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
ROOT = "%SRCROOT%"
Json = dict[str, Any]


@writer("sarif", suffix=".sarif")
def write(report: Report) -> str:
    """SARIF 2.1.0: one result a finding, at the source lines its layers are called at, and every rule explained.

    Paths are relative to the folder the check ran in. Numbers that are not finite are strings. Fingerprints depend on
    the rule, the model and the layers, so that a moved line does not make an old finding new.
    """
    from unvanish.rules import rules
    from unvanish.rules.events import EVENTS

    said = {finding.code for finding in report.findings}
    known = (*rules(), *(each for each in EVENTS.values() if each.code in said))
    run: Json = {
        "tool": {"driver": _driver(known)},
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": list(_notifications(report))}],
        "originalUriBaseIds": {ROOT: {"description": {"text": "The folder the check ran in."}}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(report, finding, [rule.code for rule in known]) for finding in report.findings],
        "properties": {"verdict": report.verdict, "healthy": report.healthy, "setting": to_builtins(report.setting)},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, allow_nan=False)


def _driver(known: Iterable[Rule | Event]) -> Json:
    from unvanish import __version__

    return {"name": "unvanish", "semanticVersion": __version__, "rules": [_rule(rule) for rule in known]}


def _rule(rule: Rule | Event) -> Json:
    """What a rule says of itself: the first line of its documentation in short, all of it as help.

    There is no helpUri: the package has no site whose addresses would hold, and the help stands here in full.
    """
    # a paragraph with indented lines is a formula and stays as it is
    parts = [part if "\n " in part else part.replace("\n", " ") for part in inspect.cleandoc(rule.doc).split("\n\n")]
    text = "\n\n".join(parts)
    return {
        "id": rule.code,
        "name": "".join(re.findall(r"[A-Za-z0-9]+", rule.title.title().replace("'S", "s"))),
        "shortDescription": {"text": f"{rule.title[:1].upper()}{rule.title[1:]}."},
        "fullDescription": {"text": parts[0]},
        "help": {"text": text, "markdown": re.sub(r"(?m)^([A-Z][a-z]+(?: [a-z]+)?):", r"**\1:**", text)},
        "properties": {"tags": ["gradient", rule.verdict]},
    }


def _result(report: Report, finding: Finding, codes: list[str]) -> Json:
    evidence = [to_builtins(each) for each in finding.evidence]
    index = {"ruleIndex": codes.index(finding.code)} if finding.code in codes else {}
    called = lines(report, finding)
    layers = [{"fullyQualifiedName": name, "kind": "module"} for name in dict.fromkeys(map(visible, finding.layers))]
    first: Json = {"logicalLocations": layers} if layers else {}
    first |= {"physicalLocation": _physical(called[0][0])} if called else {}
    here = "Also called here" if called and called[0][1] else "Called here"
    related = [
        {
            "id": number,
            "message": {"text": visible(f"{here}: {', '.join(names)}")},
            "physicalLocation": _physical(where),
        }
        for number, (where, names) in enumerate(called[1:], start=1)
    ]
    return {
        "ruleId": finding.code,
        **index,
        "level": "error" if finding.level == "error" else "note",
        "message": {"text": visible(finding.message)},
        **({"locations": [first]} if first else {}),
        **({"relatedLocations": related} if related else {}),
        "partialFingerprints": {"unvanishFinding/v1": _fingerprint(report, finding)},
        "properties": {
            "verdict": finding.verdict,
            "cause": finding.cause,
            "evidence": evidence,
            "remedies": list(finding.remedies),
        },
    }


def _physical(where: Place) -> Json:
    file = where.file.replace("\\", "/")
    if where.absolute:
        artifact = {"uri": f"file://{'' if file.startswith('/') else '/'}{_quoted(file, ':/')}"}
    else:
        artifact = {"uri": _quoted(file, "/"), "uriBaseId": ROOT}
    return {"artifactLocation": artifact, "region": {"startLine": where.line}}


def _quoted(path: str, safe: str) -> str:
    return quote(path, safe=safe, errors="backslashreplace")


def _fingerprint(report: Report, finding: Finding) -> str:
    parts = json.dumps([finding.code, report.setting.model, finding.layers, finding.cause])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _notifications(report: Report) -> Iterable[Json]:
    """What was checked, what was not decided, and notes: nothing of it is a result about a source line."""
    said = [f"Checked: {'; '.join(checked(report))}", f"Verdict: {report.verdict}: {headline(report)}"]
    said += [f"Not decided: {what}: {why}" for what, why in report.undecided]
    for text in (*said, *report.notes):
        yield {"level": "note", "message": {"text": visible(text)}}

"""Annotations of GitHub Actions: lines on standard output that show up at the source lines of a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unvanish.records import Finding
from unvanish.report.formats import writer
from unvanish.report.places import lines
from unvanish.report.sentences import evidence_fact, headline, title
from unvanish.words.markup import visible

if TYPE_CHECKING:
    from unvanish.report import Report

COMMANDS = {"error": "error", "note": "notice"}


@writer("github")
def write(report: Report) -> str:
    """Workflow commands for GitHub Actions, one a finding, at the first source line it points at.

    Without findings there is one notice with the verdict. What was not decided is one more notice.
    """
    commands = [_finding(report, finding) for finding in report.findings]
    if not commands:
        commands.append(_command("notice", {"title": f"unvanish: {report.verdict}"}, [headline(report)]))
    if report.undecided:
        commands.append(
            _command("notice", {"title": "unvanish: not decided"}, [": ".join(pair) for pair in report.undecided])
        )
    return "\n".join(commands)


def _finding(report: Report, finding: Finding) -> str:
    properties = {"title": f"{finding.code} {title(finding)}"}
    called = lines(report, finding)
    if called:
        properties = {"file": called[0][0].file, "line": str(called[0][0].line), **properties}
    facts = [finding.message]
    facts += [f"measured: {evidence_fact(each)}" for each in finding.evidence]
    facts += [f"worth trying: {', '.join(finding.remedies)}"] if finding.remedies else []
    return _command(COMMANDS.get(finding.level, "notice"), properties, facts)


def _command(name: str, properties: dict[str, str], text: list[str]) -> str:
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {listed}::{'%0A'.join(_data(line) for line in text)}"


def _data(text: str) -> str:
    return visible(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

"""A report in a notebook: the verdict, the staircase and the findings, in the notebook's own colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unvanish.report.frame import cell, fresh_name
from unvanish.report.html import banner
from unvanish.report.html_findings import finding_article, prose
from unvanish.report.html_pictures import drawing
from unvanish.report.sentences import checked
from unvanish.words.markup import h

if TYPE_CHECKING:
    from unvanish.report import Report


def notebook_html(report: Report) -> str:
    """A compact form of the page for the output of a notebook's cell; its ids are new each time it is shown."""
    name = fresh_name()
    parts = [
        banner(report),
        h("ul", [h("li", prose(fact)) for fact in checked(report)], class_="checked"),
        drawing(report, "staircase", prefix=name).parts if report.layers else None,
        [finding_article(report, finding, brief=True) for finding in report.findings],
        h("p", "Every layer and all pictures: ", h("code", 'report.save("report.html")'), class_="more"),
    ]
    return cell("Gradient report", parts, name=name)

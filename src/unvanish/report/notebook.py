"""A report in a notebook: the verdict, the staircase and the findings, in the notebook's own colours."""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING

from unvanish.charts import theme
from unvanish.report.html import banner, style
from unvanish.report.html_findings import finding_article, prose
from unvanish.report.html_pictures import drawing
from unvanish.report.sentences import checked
from unvanish.words.markup import Html, h

if TYPE_CHECKING:
    from unvanish.report import Report

_SESSION = secrets.token_hex(3)
_shown = itertools.count()


def notebook_html(report: Report) -> str:
    """A compact form of the page for the output of a notebook's cell; its ids are new each time it is shown."""
    # a page may hold outputs of a session that has been restarted: the counter alone would begin again
    name = f"uv-{_SESSION}-{next(_shown)}"
    parts = [
        h("style", Html(theme.css(".uv.cell") + style("parts.css", "notebook.css"))),
        banner(report),
        h("ul", [h("li", prose(fact)) for fact in checked(report)], class_="checked"),
        drawing(report, "staircase", prefix=name).parts if report.layers else None,
        [finding_article(report, finding, brief=True) for finding in report.findings],
        h("p", "Every layer and all pictures: ", h("code", 'report.save("report.html")'), class_="more"),
    ]
    return h("section", parts, class_="uv cell", id=name, aria_label="Gradient report")

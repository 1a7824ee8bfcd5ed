"""The text report: the verdict in a sentence, the backward staircase, why, and what was not decided.

Everything that comes from the user's program (names, paths, messages) passes through ``Page.clean``: it is shown, never
interpreted. rich is imported when a report is rendered.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from unvanish.decide import span
from unvanish.records import Evidence, Finding, LayerFlow
from unvanish.report.page import ASCII, NARROWEST, QUIET, STRONG, Page, style_of
from unvanish.report.staircase import Scale, bar_scale, fold, marks, number, power
from unvanish.report.table import FACTORS, Column, draw, layout

if TYPE_CHECKING:
    from unvanish.report import Report


def render(report: Report, width: int = 80, color: bool = False, unicode: bool = True) -> str:
    """The report as lines of at most ``width`` cells (40 at least), without a newline at the end.

    ``color`` adds ANSI colours, which only repeat what the words say; without ``unicode`` the text is plain ASCII.
    """
    from rich.console import Console

    width, sheet = max(width, NARROWEST), io.StringIO()
    console = Console(
        file=sheet, width=width, force_terminal=color, color_system="256" if color else None, markup=False, emoji=False,
        highlight=False, legacy_windows=False, _environ={},
    )  # fmt: skip
    page = Page(console, width, unicode)
    for part in (_headline, _staircase, _findings, _undecided, _closing):
        part(report, page)
    text = "\n".join(line.rstrip() for line in sheet.getvalue().splitlines())
    return text if unicode else text.translate(ASCII)


def _headline(report: Report, page: Page) -> None:
    setting = report.setting
    word = report.verdict.replace("_", " ").capitalize()
    page.print((f"{word}: ", f"{STRONG} {style_of(report.verdict)}"), (page.clean(_sentence(report)), STRONG))
    page.line()
    samples = "1 sample" if setting.batch_size == 1 else f"{setting.batch_size:,} samples"
    facts = (
        f"{setting.model} with {setting.parameters:,} parameters, in {setting.mode} mode",
        f"{samples}, {setting.dtype} on {setting.device}",
        f"autocast {setting.autocast}" if setting.autocast else "",
        _loss(report),
        f"optimizer {setting.optimizer}" if setting.optimizer else "",
        f"effort {setting.effort}, seed {setting.seed}",
    )
    page.print(("Checked: " + page.clean(" · ".join(filter(None, facts))), QUIET))


def _sentence(report: Report) -> str:
    """The first sentence of the finding the verdict rests on; without one, what the absence of findings means."""
    first = _first(report)
    if first is not None:
        return _sentences(first)[0]
    unjudged = sum(layer.verdict == "undecided" for layer in report.layers)
    if not report.layers:
        return "nothing was found, but no layer was measured either."
    if unjudged:
        return f"no fault was found, but {unjudged:,} of {len(report.layers):,} layers could not be judged."
    return "no fault was found; the error signal reaches every layer at a usable size."


def _first(report: Report) -> Finding | None:
    """The finding the verdict rests on."""
    return next(iter([f for f in report.findings if f.level == "error"] or report.findings), None)


def _sentences(finding: Finding) -> list[str]:
    """The first sentence of the message, and the rest if there is one."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", finding.message, maxsplit=1)


def _beyond_headline(report: Report, finding: Finding) -> str:
    """The message, less the sentence that already stands at the top of the page."""
    return " ".join(_sentences(finding)[1:]) if finding is _first(report) else finding.message


def _loss(report: Report) -> str:
    if report.loss is None:
        return "loss not looked at"
    gap = report.loss.relative_gap
    left = "" if gap is None else f" ({number(100 * gap, 3)} % of what there was to gain is left)"
    return f"loss {number(report.loss.value)}{left}"


def _staircase(report: Report, page: Page) -> None:
    layers = report.layers
    if not layers:
        return
    page.title("The error signal on its way back, input side first")
    counts = Counter(layer.verdict.replace("_", " ") for layer in layers).most_common()
    tally = counts[0][0] if len(counts) == 1 else ", ".join(f"{count:,} {word}" for word, count in counts)
    page.print((f"{len(layers):,} {'layer' if len(layers) == 1 else 'layers'}: {page.clean(tally)}", QUIET))
    rows, scale = fold(layers), bar_scale(layers)
    columns, hidden, room = layout(page, rows, scale)
    scale = scale if room else None
    _legend(page, scale, columns)
    page.line()
    draw(page, rows, columns, scale, room)
    if hidden:
        page.title("Which factors make up a step back" if len(hidden) > 2 else "Where the layers are called")
        page.line()
        draw(page, [row for row in rows if isinstance(row, LayerFlow)], hidden, None, 0)


def _legend(page: Page, scale: Scale | None, columns: Sequence[Column]) -> None:
    """What the bars and the factors mean."""
    heads = [column.header for column in columns]
    factors = " × ".join(head for head in FACTORS if head in heads)
    if scale is not None:
        inside = ", ".join(f"{power(place)} {name}" for name, place in marks(scale))
        bars = f"log scale, empty at 10^{scale.low:.0f}, full at 10^{scale.high:.0f}"
        page.print((bars + (f"; ┊ smallest normal number: {inside}" if inside else ""), QUIET), label="bars: ")
    if "step back" in heads:
        step = "what the signal is multiplied by on its way to the layer before"
        page.print((step + (f", {factors}" if factors else ""), QUIET), label="step back: ")


def _findings(report: Report, page: Page) -> None:
    if not report.findings:
        return
    page.title("Why")
    sources = {layer.name: layer.source for layer in report.layers if layer.source}
    order = [layer.name for layer in report.layers]
    for finding in report.findings:
        page.line()
        word = finding.verdict.replace("_", " ")
        level = "" if finding.level == "error" else f" ({finding.level})"
        page.line((f"{finding.code}  ", STRONG), (page.clean(word + level), f"{STRONG} {style_of(finding.verdict)}"))
        message = _beyond_headline(report, finding)
        if message:
            page.print((page.clean(message), ""), label="  ")
        places = list(dict.fromkeys(sources[name] for name in finding.layers if name in sources))
        if places and places[0] in finding.message:
            places = []
        facts = [
            ("layers", span(finding.layers, order)),
            ("cause", finding.cause),
            *(("measured", _evidence(each)) for each in finding.evidence),
            ("called at", ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")),
            ("worth trying", ", ".join(finding.remedies)),
        ]
        before = ""
        for label, fact in facts:
            if fact:
                shown = "" if label == before else label
                page.print((page.clean(fact), ""), label=f"  {shown:<14}")
                before = label


def _evidence(evidence: Evidence) -> str:
    value = number(evidence.value) + ("" if evidence.error is None else f" ± {number(evidence.error, 2)}")
    limit = "" if evidence.threshold is None else f"{evidence.relation} {number(evidence.threshold)}".strip()
    limit = f" (limit: {limit})" if limit else ""
    return f"{evidence.name} = {value}{limit}"


def _undecided(report: Report, page: Page) -> None:
    for title, entries in (
        ("Not decided", [f"{what}: {why}" for what, why in report.undecided]),
        ("Notes", list(report.notes)),
    ):
        if entries:
            page.title(title)
            page.line()
        for entry in entries:
            page.print((page.clean(entry), ""), label="  - ")


def _closing(report: Report, page: Page) -> None:
    first = _first(report)
    topic = page.clean(first.code if first else report.verdict)
    page.line()
    page.line(("More: ", QUIET), (f"unvanish explain {topic}", STRONG))

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
from unvanish.report.staircase import Fold, Scale, bar_scale, fold, marks, number, percent, power, size
from unvanish.report.table import FACTORS, Column, draw, layout

if TYPE_CHECKING:
    from unvanish.report import Report

MOST_PLACES = 12
"""Source lines: more of them are a listing of the program, not an answer."""

WORDS = {
    "log10_transmission": "transmission",
    "log10_jacobian_norm": "dependence of the outputs on the weights",
    "log10_sensitivity_rise": "rise of the relative sensitivity",
    "underflow_fraction": "lost to underflow",
    "dead_fraction": "dead units",
    "saturated_fraction": "saturated entries",
    "saturated_fraction, standardised": "saturated entries with standardised inputs",
    "relative_gap": "loss still to gain",
    "decrement": "loss a quadratic model promises",
    "residual_norm": "norm of the loss's derivative with respect to the outputs",
    "largest log10_rms before it": "largest root mean square before it",
}
"""Names of evidence in words; the names of the others are words already."""
SHARES = {
    "underflow_fraction", "dead_fraction", "saturated_fraction", "saturated_fraction, standardised", "relative_gap",
    "decrement", "unreachable share of the loss",
}  # fmt: skip


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
    page.facts("Checked:", (page.clean(fact) for fact in facts if fact))


def _sentence(report: Report) -> str:
    """The first sentence of the finding the verdict rests on; without one, what the absence of findings means."""
    first = _first(report)
    if first is not None:
        return _sentences(report, first)[0]
    unjudged = sum(layer.verdict == "undecided" for layer in report.layers)
    if not report.layers:
        return "nothing was found, but no layer was measured either."
    if unjudged:
        return f"no fault was found, but {unjudged:,} of {len(report.layers):,} layers could not be judged."
    return "no fault was found; the error signal reaches every layer at a usable size."


def _first(report: Report) -> Finding | None:
    """The finding the verdict rests on."""
    return next(iter([f for f in report.findings if f.level == "error"] or report.findings), None)


def _sentences(report: Report, finding: Finding) -> list[str]:
    """The first sentence of the message, and the rest if there is one."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", _message(report, finding), maxsplit=1)


def _message(report: Report, finding: Finding) -> str:
    """The message; where it begins with layers called by bare numbers, it says that they are layers."""
    named = span(finding.layers, [layer.name for layer in report.layers])
    if named[:1].isdigit() and finding.message.startswith(f"{named} "):
        return f"{'layer' if len(finding.layers) == 1 else 'layers'} {finding.message}"
    return finding.message


def _beyond_headline(report: Report, finding: Finding) -> str:
    """The message, less the sentence that already stands at the top of the page."""
    return " ".join(_sentences(report, finding)[1:]) if finding is _first(report) else _message(report, finding)


def _loss(report: Report) -> str:
    if report.loss is None:
        return "loss not looked at"
    gap = report.loss.relative_gap
    left = "" if gap is None else f" ({percent(gap)} of what there was to gain is left)"
    return f"loss {number(report.loss.value)}{left}"


def _staircase(report: Report, page: Page) -> None:
    layers, setting = report.layers, report.setting
    if not layers:
        return
    page.title("The error signal on its way back, input side first")
    page.print((page.clean(_tally(layers)), QUIET))
    words = {layer.verdict for layer in layers}
    if len(words) == 1 and all(layer.log10_signal is None for layer in layers):
        return
    types = (setting.dtype, setting.autocast, *(layer.dtype for layer in layers))
    rows, scale = fold(layers), bar_scale(layers, tuple(dict.fromkeys(filter(None, types))))
    columns, hidden, room = layout(page, rows, scale)
    scale = scale if room else None
    _legend(page, scale, columns, rows)
    page.line()
    draw(page, rows, columns, scale, room)
    if report.healthy:
        return
    telling = [row for row in rows if isinstance(row, LayerFlow) and any(each.cell(row) for each in hidden[2:])]
    if telling:
        page.title("Which factors make up a step back")
        page.print((_factors(hidden, rows), QUIET))
        page.line()
        draw(page, telling, hidden, None, 0)
    if "called at" not in [column.header for column in columns]:
        _places(layers, page)


def _tally(layers: Sequence[LayerFlow]) -> str:
    """How many layers there are, and how many of each verdict: "20 Linear layers: 16 vanished, 4 healthy"."""
    counts = Counter(layer.verdict.replace("_", " ") for layer in layers).most_common()
    verdicts = counts[0][0] if len(counts) == 1 else ", ".join(f"{count:,} {word}" for word, count in counts)
    kinds = {layer.kind for layer in layers}
    kind = f"{kinds.pop()} " if len(kinds) == 1 else ""
    unmeasured = "" if any(layer.log10_signal is not None for layer in layers) else "; no error signal was measured"
    return f"{len(layers):,} {kind}{'layer' if len(layers) == 1 else 'layers'}: {verdicts}{unmeasured}"


def _legend(page: Page, scale: Scale | None, columns: Sequence[Column], rows: Sequence[LayerFlow | Fold]) -> None:
    """What the bars and the factors mean."""
    if scale is not None:
        inside = ", ".join(f"{power(place)} {name}" for name, place in marks(scale))
        bars = f"log scale, empty at 10^{scale.low:.0f}, full at 10^{scale.high:.0f}"
        page.print((bars + (f"; ┊ smallest normal number: {inside}" if inside else ""), QUIET), label="bars: ")
    if "step back" in [column.header for column in columns]:
        step = "what the signal is multiplied by on its way to the layer before"
        page.print((", ".join(filter(None, (step, _factors(columns, rows)))), QUIET), label="step back: ")


def _factors(columns: Sequence[Column], rows: Sequence[LayerFlow | Fold]) -> str:
    """What a step back is the product of, such as "weights × slopes"; "" where no factor is shown."""
    factors = [column for column in columns if column.header in FACTORS]
    layers = [row for row in rows if isinstance(row, LayerFlow) and row.log10_gain is not None]
    some_empty = any(not column.cell(layer) for column in factors for layer in layers)
    return " × ".join(column.header for column in factors) + (" (empty: ×1)" if some_empty else "")


def _places(layers: Sequence[LayerFlow], page: Page) -> None:
    """The source lines with the layers that are called there, neighbours folded."""
    order = [layer.name for layer in layers]
    called = {source: "" for layer in layers if (source := layer.source)}
    if not called:
        return
    page.title("Where the layers are called")
    page.line()
    for source in list(called)[:MOST_PLACES]:
        names = span((layer.name for layer in layers if layer.source == source), order)
        page.listed(page.clean(source), page.clean(names))
    if len(called) > MOST_PLACES:
        page.print((f"and {len(called) - MOST_PLACES} more lines", QUIET))


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
    """The number in words, with the field's name, and the limit it was held against."""
    name, value, limit = evidence.name, evidence.value, evidence.threshold
    words = WORDS.get(name, re.sub(r"^log10 (of )?", "", name))
    if evidence.relation == "of":
        return f"{words}: {number(value)} of {number(limit)}"
    say = size if "log10" in name else percent if name in SHARES else number
    error = "" if evidence.error is None else f" ± {number(evidence.error, 2)}{' decades' if say is size else ''}"
    aside = (
        name if words != name and name.isidentifier() else "",
        "" if limit is None or limit == value else f"limit {evidence.relation} {say(limit)}".replace("  ", " "),
    )
    asides = ", ".join(filter(None, aside))
    return f"{words}: {say(value)}{error}" + (f" ({asides})" if asides else "")


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

"""The answer of a search as one HTML page, and as the output of a notebook's cell: no scripts, nothing loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unvanish.records import Trial
from unvanish.report import frame
from unvanish.report.fix_text import Scale, advice, along, evidence, headline, scale_of
from unvanish.report.formats import writer
from unvanish.report.html_layers import disclosed, listing, scrolling
from unvanish.words.markup import Child, Html, h, prose
from unvanish.words.numbers import score

if TYPE_CHECKING:
    from unvanish.trials.fixes import Fixes

TONES = {"repaired": "fine", "improved": "quiet", "nothing to repair": "fine", "no remedy found": "fault"}
WIDE, HIGH, DOT = 240, 20, 4
"""Pixels of the drawing of a trial, and the radius of its dot."""


@writer("html", suffix=".html", of="fix", media="text/html; charset=utf-8")
def write(fixes: Fixes) -> str:
    """One self-contained page: the verdict, what to change, the trials as dots with ranges, the code, the cost."""
    word, _ = headline(fixes)
    model = fixes.before.setting.model
    return frame.page(
        f"{word}: search for a repair of {model}",
        h("header", h("h1", "Search for a repair of ", h("bdi", model))),
        h("main", _parts(fixes)),
    )


def notebook_html(fixes: Fixes) -> str:
    """The same, as the output of a notebook's cell."""
    return frame.cell("Search for a repair", _parts(fixes))


def _parts(fixes: Fixes) -> list[Child]:
    word, sentence = headline(fixes)
    facts = ["not counted: checks and scoring, which train nothing", *fixes.remarks]
    return [
        h(
            "div",
            h("p", h("strong", f"{word}:"), " ", prose(sentence), role="status"),
            class_=f"verdict {TONES.get(fixes.verdict, 'quiet')}",
        ),
        h("ul", [h("li", fact) for fact in evidence(fixes)], class_="checked"),
        _change(fixes),
        _listed("What to do next", list(advice(fixes))),
        _table(fixes),
        _listed("What does not apply", [f"{slug}: {reason}" for slug, reason in fixes.refused]),
        _listed(
            f"Spent: {fixes.spent:,} of {fixes.budget:,} optimizer steps (one full training: {fixes.planned:,})", facts
        ),
    ]


def _change(fixes: Fixes) -> Html | None:
    if fixes.best is None:
        return None
    return h(
        "section",
        h("h2", "What to change"),
        h("p", fixes.best.change),
        listing(fixes.patch.splitlines()) if fixes.patch else None,
        disclosed("The code, without unvanish", listing(fixes.code.splitlines())),
    )


def _table(fixes: Fixes) -> Html | None:
    trials = [trial for trial in (fixes.as_is, *fixes.trials) if trial.score is not None]
    if len(trials) < 2:
        return None
    scale = scale_of(trials)
    heads = [h("th", "change", scope="col")]
    heads += [h("th", name, scope="col", class_="n") for name in ("score", "as is", "steps")]
    heads += [h("th", name, scope="col") for name in ("from the lowest to the highest score", "")]
    rows = [
        h(
            "tr",
            h("th", trial.remedy, scope="row"),
            h("td", score(trial.score), class_="n", data_h="score"),
            h("td", "–" if trial.baseline is None else score(trial.baseline), class_="n", data_h="as is"),
            h("td", f"{trial.steps:,}", class_="n", data_h="steps"),
            h("td", _dots(trial, scale), class_="long"),
            h("td", "judged" if trial.judged and trial is not fixes.as_is else trial.reason, class_="long"),
        )
        for trial in trials
    ]
    note = "Dashed: the network as it is after as many steps. Not judged: one seed, on the data that chooses."
    return h(
        "section",
        h("h2", f"What was tried ({fixes.unit}, higher is better)"),
        h("p", note),
        scrolling("What was tried", h("thead", h("tr", heads)), h("tbody", rows), cards=True),
    )


def _dots(trial: Trial, scale: Scale) -> Html | None:
    """A trial on its row: a dot for its score, a line for the range of its seeds, dashes for the network as it is."""
    if trial.score is None:
        return None

    def place(at: float) -> str:
        return f"{DOT + (WIDE - 2 * DOT) * along(at, scale):.1f}"

    middle = HIGH // 2
    left, right = trial.score_spread or (trial.score, trial.score)
    marks = [
        None
        if trial.baseline is None
        else h("line", class_="base", x1=place(trial.baseline), x2=place(trial.baseline), y1=0, y2=HIGH),
        h("line", x1=place(left), x2=place(right), y1=middle, y2=middle),
        h("circle", cx=place(trial.score), cy=middle, r=DOT),
    ]
    return h("svg", marks, viewBox=f"0 0 {WIDE} {HIGH}", aria_hidden="true", class_="dots")


def _listed(title: str, lines: Sequence[str]) -> Html | None:
    return h("section", h("h2", title), h("ul", [h("li", line) for line in lines])) if lines else None

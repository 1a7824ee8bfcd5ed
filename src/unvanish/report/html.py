"""One HTML file about one check: the verdict, the pictures, why, every layer, and how to see it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from unvanish.report import frame
from unvanish.report.formats import writer
from unvanish.report.html_findings import finding_article
from unvanish.report.html_layers import PICTURES, layer_tables, listing, tone
from unvanish.report.html_pictures import drawing, question, time_axis
from unvanish.report.sentences import batch, called, checked, headline, looks_like, tally, words
from unvanish.report.through_time import TITLE
from unvanish.words.glossary import GLOSSARY
from unvanish.words.markup import Child, Html, h, prose

if TYPE_CHECKING:
    from unvanish.report import Report


class Section(NamedTuple):
    """One part of the page: where links to it lead, its heading, and what it holds."""

    anchor: str
    title: str
    parts: Child

    def markup(self) -> Html:
        """The section as an element, named by its heading."""
        return h("section", h("h2", self.title, id=self.anchor), self.parts, aria_labelledby=self.anchor)


@writer("html", suffix=".html", media="text/html; charset=utf-8")
def write(report: Report) -> str:
    """One self-contained page for people: pictures, findings and every number, without scripts."""
    sections = list(_sections(report))
    links = [h("li", h("a", each.title, href=f"#{each.anchor}")) for each in sections]
    word = called(report)
    return frame.page(
        f"{word}: gradient report on {report.setting.model}",
        h("a", "Skip to the report", href="#report", class_="skip"),
        h("header", h("h1", "Gradient report on ", h("bdi", report.setting.model))),
        h(
            "main",
            banner(report),
            h("ul", [h("li", prose(fact)) for fact in checked(report)], class_="checked"),
            h("nav", h("ul", links), aria_label="On this page"),
            [section.markup() for section in sections],
            id="report",
        ),
    )


def banner(report: Report) -> Html:
    """The verdict and the sentence it rests on."""
    levels = [finding.level for finding in report.findings]
    counts = [(levels.count(level), level) for level in ("error", "note") if level in levels]
    counted = ", ".join(f"{count} {level}" + "s" * (count > 1) for count, level in counts) or "no findings"
    aside = h("span", counted, class_="count")
    said = h("p", h("strong", f"{called(report)}:"), " ", prose(headline(report)), role="status")
    return h("div", said, aside, class_=f"verdict {tone(looks_like(report))}")


def _sections(report: Report) -> Iterator[Section]:
    """The parts of the page that have something to say."""
    yield from _pictures(report)
    if report.time:
        yield Section("time", TITLE, time_axis(report))
    if report.findings:
        yield Section("why", "Why?", [finding_article(report, finding) for finding in report.findings])
    if report.layers:
        yield Section("layers", "Every layer", [h("p", f"{tally(report.layers)}."), layer_tables(report.layers)])
    if report.undecided:
        entries = [[h("dt", what), h("dd", prose(why))] for what, why in report.undecided]
        yield Section("undecided", "What was not decided", h("dl", entries, class_="terms"))
    if report.notes:
        yield Section("notes", "Notes", h("ul", [h("li", prose(note)) for note in report.notes]))
    used = dict.fromkeys([report.verdict, *(f.verdict for f in report.findings), *(e.verdict for e in report.layers)])
    meant = [[h("dt", words(word)), h("dd", GLOSSARY[word])] for word in used if word in GLOSSARY]
    yield Section("words", "What the words mean", h("dl", meant, class_="terms"))
    yield Section("origin", "Where this comes from", _origin(report))


def _pictures(report: Report) -> Iterator[Section]:
    """The pictures, each with its reason where it cannot be drawn; a reason they share is given once."""
    if report.layers and all(layer.log10_signal is None for layer in report.layers):
        yield Section("staircase", question("staircase"), h("p", "No error signal was measured: nothing to draw."))
        return
    told: set[str] = set()
    for place, name in enumerate(PICTURES if report.layers else ()):
        drawn = drawing(report, name, prefix=f"uv{place}")
        if drawn.refusal not in told:
            yield Section(name, question(name), drawn.parts)
        if drawn.refusal:
            told.add(drawn.refusal)


def _origin(report: Report) -> list[Html]:
    """What was checked with what, and how to check it again."""
    setting = report.setting
    facts = (
        ("model", f"{setting.model}, {setting.parameters:,} parameters, in {setting.mode} mode"),
        ("batch", batch(setting.batch_size)),
        (
            "numbers",
            f"{setting.dtype} on {setting.device}" + (f", autocast {setting.autocast}" * bool(setting.autocast)),
        ),
        ("optimizer", setting.optimizer or "none was given"),
        ("effort and seed", f"{setting.effort}, {setting.seed}"),
        (
            "backward pass",
            "exact beyond the range of the number types"
            if setting.exact
            else "limited to the range of the number types",
        ),
        ("torch", setting.torch or "version not recorded"),
        ("schema", report.schema),
    )
    options = f"effort={setting.effort!r}, seed={setting.seed}"
    command = f"unvanish check FILE.py --effort {setting.effort} --seed {setting.seed} --format html -o report.html"
    return [
        h("dl", [[h("dt", label), h("dd", fact)] for label, fact in facts], class_="facts"),
        h("p", "To see it again, with the file or the problem that was checked:"),
        listing([command]),
        listing([f"report = unvanish.diagnose(problem, {options})", 'report.save("report.html")']),
    ]

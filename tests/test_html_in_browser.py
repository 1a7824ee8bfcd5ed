"""The HTML report in a real browser: nothing runs, nothing is fetched, nothing sticks out, and axe finds no fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import faults, open_page
from made_reports import MADE
from test_html import NAMES, PAGES, contrast, written

import unvanish
from unvanish import lab, zoo
from unvanish.charts import theme
from unvanish.report.formats import find
from unvanish.words.markup import visible

TOLD = "vanishing-20"
Show = Callable[..., AbstractContextManager[Any]]


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """``with show(html, width=…, scheme=…, media=…) as page`` opens the text as a file; it must be quiet to the end.

    A dialog, a request beyond the file and any message on the console are faults: a policy reports what it blocks.
    """

    @contextmanager
    def shown(html: str, width: int = 1200, scheme: str = "light", media: str = "screen") -> Iterator[Any]:
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        dialogs: list[str] = []
        with open_page(width=width, scheme=scheme) as page:
            page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
            page.emulate_media(media=media, color_scheme=scheme)
            page.goto(file.as_uri())
            yield page
            assert not dialogs

    return shown


def open_all(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")


SEEN = """() => ({
  clipped: [...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth + 1
    || each.scrollHeight > each.clientHeight + 1).map(each => each.getAttribute('aria-label')),
  pictures: [...document.querySelectorAll('figure svg')].map(each => each.getBoundingClientRect())
    .filter(box => box.width).map(box => box.width),
  letters: [...document.querySelectorAll('figure svg text')].filter(each => each.getBoundingClientRect().width)
    .map(each => parseFloat(getComputedStyle(each).fontSize) * each.getScreenCTM().a || 99),
})"""


@pytest.mark.parametrize("name", ["unstable", "phase", "ravine", "bottom", "report"])
@pytest.mark.parametrize(("width", "least"), [(420, 360), (1280, 800)])
def test_no_table_is_clipped_and_pictures_use_the_width(show: Show, name: str, width: int, least: int):
    html = written(TOLD) if name == "report" else lab.run(name).to_html()
    with show(html, width=width) as page:
        open_all(page)
        seen = page.evaluate(SEEN)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if width < 560:
            heads = page.locator(".scroll.cards thead").first
            assert heads.bounding_box()["width"] <= 2, "the heads stand beside each number instead"
    assert not seen["clipped"]
    assert seen["pictures"] and min(seen["pictures"]) >= least
    assert min(seen["letters"]) >= 10.5, "a picture is drawn for its width, not shrunk"


def test_a_table_of_every_column_and_long_places_fits_a_desktop(show: Show):
    """Of a check with an optimizer: all numbers of 20 layers, called in a file that stands far away."""
    report = unvanish.diagnose(zoo.get("sigmoid-20").build(0))
    far = "/home/someone/projects/networks/sources/deep_sigmoid.py:24"
    found = report.layers
    numbers = {"saturated_fraction": 0.1, "log10_curvature": -7.6, "newton_decrement": 0.63, "log10_join_gain": 3.5}
    layers = tuple(  # as many as a BERT has, folded, with every column that its report has
        found[at % len(found)].replace(
            source=far, name=f"bert.encoder.layer.{at}.attention.self.query", kind=f"{'Embedding' * (at % 2)}Linear",
            log10_signal=-4.4 + 0.03 * at, steps_to_learn=3_061_000.0, parameters=9_312_000, **numbers,
        )
        for at in range(102)
    )  # fmt: skip
    report = report.replace(layers=layers)
    with show(find("html").write(report), width=1280) as page:
        open_all(page)
        boxes = page.evaluate("[...document.querySelectorAll('.broad')].map(e => [e.scrollWidth, e.clientWidth])")
    assert boxes and all(inner <= outer + 1 for inner, outer in boxes)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_and_fits_every_screen(show: Show, name: str):
    with show(written(name)) as page:
        for width in (1200, 360):
            page.set_viewport_size({"width": width, "height": 800})
            open_all(page)
            inner, outer = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert inner <= outer, f"sticks out at {width} pixels"
            assert page.locator("p[role=status]").bounding_box()["y"] < 200


def test_names_are_words_and_not_elements(show: Show):
    with show(written("hostile names")) as page:
        open_all(page)
        assert page.evaluate("document.querySelectorAll('script, img, [onload], [onerror]').length") == 0
        assert page.evaluate("document.querySelectorAll('style').length") == 1
        text = page.evaluate("document.body.textContent")
        assert [name for name in NAMES if visible(name) not in text] == []
        names = page.locator("section[aria-labelledby=layers] tbody bdi").all_inner_texts()
        assert names == [visible(name) for name in NAMES]


@pytest.mark.parametrize(
    ("attack", "blocked"),
    [
        ("<script>document.title = 'attacked'</script>", "script-src"),
        ("<img src=x onerror=\"document.title = 'attacked'\">", "img-src"),
        ('<p style="display:none">x</p>', "style-src"),
        ('<iframe src="page.html"></iframe>', "frame-src"),
        ('<link rel="stylesheet" href="x.css">', "style-src"),
    ],
)
def test_the_policy_blocks_what_does_not_belong(show: Show, attack: str, blocked: str):
    page_with = written("healthy").replace("</main>", f"{attack}</main>")
    with pytest.raises(AssertionError, match=f"(?s)the console says.*{blocked}"), show(page_with) as page:
        assert "attacked" not in page.title()


def test_the_policy_lets_in_this_style_and_no_other(show: Show):
    width = "getComputedStyle(document.body).maxWidth"
    with show(written("healthy")) as page:
        assert page.evaluate(width) == "1280px"
    restyled = written("healthy").replace("max-width:80rem", "max-width:81rem", 1)
    with pytest.raises(AssertionError, match=r"the console says.*style-src"), show(restyled) as page:
        assert page.evaluate(width) == "none"


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [(TOLD, 1200, "light"), (TOLD, 420, "dark"), ("nonfinite", 420, "light"),
                                  ("hostile names", 1200, "dark")],
)  # fmt: skip
def test_axe_finds_no_fault(show: Show, name: str, width: int, scheme: str):
    with show(written(name), width=width, scheme=scheme) as page:
        open_all(page)
        assert faults(page) == []


def test_axe_finds_a_fault_where_there_is_one(show: Show):
    wrong = written("healthy").replace("</main>", '<h6></h6><a href="#report"></a></main>')
    with show(wrong) as page:
        assert {fault.split(":")[0] for fault in faults(page)} >= {"empty-heading", "link-name"}


@pytest.mark.parametrize(("scheme", "shades"), [("light", 0), ("dark", 1)])
def test_it_follows_the_readers_theme(show: Show, scheme: str, shades: int):
    with show(written(TOLD), scheme=scheme) as page:
        assert colours(page, "body") == (theme.TOKENS["fg"][shades], theme.TOKENS["bg"][shades])
        ink, _ = colours(page, ".verdict strong")
        assert contrast(ink, theme.TOKENS["even"][shades]) >= 4.5
        fills = page.evaluate("[...document.querySelectorAll('svg text')].map(each => getComputedStyle(each).fill)")
    assert len(fills) > 10
    for fill in set(fills):
        assert contrast(code(fill), theme.TOKENS["bg"][shades]) >= 4.5, fill


def colours(page: Any, selector: str) -> tuple[str, str]:
    """Text and ground of the first such element as hexadecimal codes."""
    read = "each => { const s = getComputedStyle(each); return [s.color, s.backgroundColor] }"
    ink, ground = page.locator(selector).first.evaluate(read)
    return code(ink), code(ground)


def code(colour: str) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour)[:3])


@pytest.mark.parametrize(
    ("width", "media", "size"), [(1200, "screen", "wide"), (420, "screen", "narrow"), (680, "print", "wide")]
)
def test_each_picture_is_drawn_once_in_a_size_that_fits(show: Show, width: int, media: str, size: str):
    with show(written(TOLD), width=width, media=media) as page:
        boxes = page.evaluate(
            "[...document.querySelectorAll('figure svg')].map(each => [each.parentElement.className,"
            " each.getBoundingClientRect().width, each.querySelectorAll('path, text').length])"
        )
        assert "curvature is measured by" in page.inner_text("section[aria-labelledby=plane]")
    drawn = [(kind, across, marks) for kind, across, marks in boxes if across > 0]
    assert [kind for kind, _, _ in drawn] == [size, size]  # no curvature was measured: no plane
    for _, across, marks in drawn:
        assert across >= 300
        assert marks > 20


def test_on_paper(show: Show):
    with show(written(TOLD), width=680, scheme="dark", media="print") as page:
        assert colours(page, "body") == (theme.TOKENS["fg"][2], theme.TOKENS["bg"][2])
        assert page.locator("nav").is_hidden()
        assert page.locator("section[aria-labelledby=layers] tbody tr").first.is_visible()


def test_the_keyboard_reaches_everything(show: Show):
    reached = []
    with show(written(TOLD)) as page:
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "(() => { const e = document.activeElement; e.dataset.reached = 1;"
                " return [e.tagName, e.className, e.getBoundingClientRect().left] })()"
            )
            reached.append(found)
            if found[0] == "BODY":
                break
        missed = "document.querySelectorAll(':is(a, summary, [tabindex]):not([data-reached], details :not(summary))')"
        assert page.evaluate(f"{missed}.length") == 0
    assert reached[0][:2] == ["A", "skip"]
    assert reached[0][2] >= 0, "the skip link stays out of sight"
    assert [found[0] for found in reached].count("SUMMARY") >= 4


@pytest.mark.parametrize(
    ("mark", "shades"),
    [('data-jp-theme-light="true"', 0), ('data-jp-theme-light="false"', 1), ('class="vscode-dark"', 1)],
)
def test_three_outputs_in_one_notebook(show: Show, mark: str, shades: int):
    reports = [MADE[TOLD], MADE[TOLD], MADE["dead"]]
    outputs = "".join(f'<div class="jp-RenderedHTMLCommon">{report._repr_html_()}</div>' for report in reports)
    records = MADE[TOLD].layers[0]._repr_html_() + MADE[TOLD].findings[0]._repr_html_()
    notebook = f'<!doctype html><meta charset="utf-8"><body {mark}>{outputs}{records}'
    # the reader's own setting is the other one: the notebook's theme decides
    with show(notebook, scheme="light" if shades else "dark") as page:
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
        referred = page.evaluate(
            "[...document.querySelectorAll('[clip-path^=url]')].map(each => each.getAttribute('clip-path'))"
        )
        assert page.locator(".uv.cell svg:visible").count() == 3
        assert colours(page, ".uv.cell") == (theme.TOKENS["fg"][shades], theme.TOKENS["bg"][shades])
    assert len(ids) == len(set(ids)) >= 3
    assert {each.removeprefix("url(#").removesuffix(")").strip("\"'") for each in referred} <= set(ids)

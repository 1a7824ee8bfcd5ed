"""The lab's page in a real browser: sliders, links, pictures, jobs, keyboard, themes, widths, and what axe finds."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from browser import faults, open_page

pytest.importorskip("uvicorn", reason="uvicorn is not installed: there is nothing to serve the page with")

import uvicorn

from unvanish import lab
from unvanish.server import listen
from unvanish.server.app import application
from unvanish.server.lab import site as lab_site

TOKEN = "the-token"
Visit = Callable[..., AbstractContextManager[Any]]
LATER = 20_000


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server in a thread; jobs end with it."""
    site = lab_site()
    site.warm()
    with listen() as listening:
        port = listening.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(application(site, TOKEN, port), log_level="error", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = True
        thread.join(5)


@pytest.fixture
def visit(address: str) -> Visit:
    """``with visit("#chain?…", width=…, scheme=…) as page`` opens the page and waits until something is shown."""

    @contextmanager
    def visited(place: str = "", state: str = "ready", **look: Any) -> Iterator[Any]:
        with open_page(**{"width": 1240, "height": 900, **look}) as page:
            page.goto(f"{address}?token={TOKEN}{place}")
            page.wait_for_selector(f"body[data-state={state}]", timeout=LATER)
            yield page

    return visited


def verdict(page: Any) -> str:
    return page.locator("#verdict").inner_text()


def until_shown(page: Any, act: Callable[[], Any]) -> None:
    """Do something and wait for the outcome it leads to."""
    before = int(page.locator("body").get_attribute("data-shown") or 0)
    act()
    end = time.monotonic() + 10
    while int(page.locator("body").get_attribute("data-shown") or 0) <= before:
        assert time.monotonic() < end, "nothing was shown"
        page.wait_for_timeout(20)
    page.wait_for_timeout(60)  # an answer to an earlier position may still be followed by the latest


def ink(page: Any, place: str = "#figures") -> list[int]:
    """For each picture how many of its marks have an extent; those outside the window are drawn a little later."""
    page.wait_for_timeout(400)
    return page.evaluate(
        """place => [...document.querySelectorAll(`${place} .picture`)].map(each =>
             [...each.querySelectorAll('svg path, svg line, svg text, svg rect')].filter(mark => {
               const box = mark.getBBox(); return mark.textContent || box.width + box.height > 0; }).length)""",
        place,
    )


def outlines(page: Any) -> str:
    return page.evaluate(
        "[...document.querySelectorAll('#figures .picture svg path')].map(p => p.getAttribute('d')).join()"
    )


def test_it_opens_with_the_chain_its_sentence_and_its_pictures(visit):
    with visit() as page:
        assert verdict(page) == lab.run("chain").sentence
        assert page.title().startswith("One neuron a layer")
        pictures = ink(page)
        assert len(pictures) == 3 and min(pictures) > 20
        page.wait_for_selector("body[data-beside]", timeout=LATER)
        assert min(ink(page, "#beside")) > 20
        assert page.locator("#beside a").get_attribute("href") == "#ravine"
        assert "token" not in page.url


def test_a_slider_moved_by_mouse_and_by_keyboard_changes_sentence_and_picture(visit):
    with visit() as page:
        slider = page.locator("#set-weight")
        old, drawn = verdict(page), outlines(page)
        box = slider.bounding_box()
        until_shown(page, lambda: page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2))
        assert verdict(page) != old and outlines(page) != drawn
        slider.focus()
        old, drawn, number = verdict(page), outlines(page), float(page.locator(".value").nth(2).input_value())
        until_shown(page, lambda: page.keyboard.press("ArrowRight"))
        assert float(page.locator(".value").nth(2).input_value()) > number
        assert verdict(page) != old and outlines(page) != drawn
        depth = page.locator("#set-depth")
        depth.focus()
        until_shown(page, lambda: page.keyboard.press("ArrowUp"))
        assert depth.get_attribute("aria-valuetext") == "21 layers"
        assert "21 layers" in verdict(page)
        page.wait_for_timeout(250)
        assert re.search(r"#chain\?v=1&.*depth=21", page.url)


def test_a_link_brings_back_a_setting_and_a_bad_one_is_clamped(visit):
    with visit("#chain?v=1&depth=50&weight=0.3&activation=tanh&residual=true") as page:
        assert verdict(page) == lab.run("chain", depth=50, weight=0.3, activation="tanh", residual=True).sentence
        assert page.locator("#set-residual").is_checked()
    clamped = "#chain?v=1&depth=1e99&weight=nan&activation=sigmiod&bias=-5000&nothing=1&input=2,1e9&rows=-3"
    with visit(clamped) as page:
        assert "100,000 layers" in verdict(page) or "grow beyond" in verdict(page)
        assert page.locator("#set-activation").input_value() == "sigmoid"
        assert page.locator("#code").inner_text().count("bias=-1000") == 1
        assert "input=(2.0, 1000000.0)" in page.locator("#code").inner_text()
    for other in ("#chain?v=2&depth=50", "#nothing?v=1&depth=3", "#%E0%A4%A", "#chain?v=1&depth="):
        with visit(other) as page:
            assert verdict(page) == lab.run("chain").sentence


def test_a_number_out_of_range_is_refused_in_the_words_of_the_command_line(visit):
    with visit() as page:
        page.locator(".value").first.fill("1e9")
        page.keyboard.press("Tab")
        message = page.locator("#problem").inner_text()
        assert message == "lab chain: depth is 1000000000; it takes a whole number from 1 to 100,000"
        until_shown(page, lambda: (page.locator(".value").first.fill("30"), page.keyboard.press("Tab")))
        assert "30 layers" in verdict(page) and page.locator("#problem").is_hidden()


@pytest.mark.parametrize("name", ["activations", "bottom", "phase", "ravine", "unstable", "whatif", "width"])
def test_every_quick_experiment_draws(visit, name):
    small = {
        "bottom": "?v=1&starts=3", "phase": "?v=1&networks=1&width=32&depth=6", "width": "?v=1&networks=1&widths=16,32",
    }  # fmt: skip
    with visit(f"#{name}{small.get(name, '')}") as page:
        assert ink(page) and min(ink(page)) > 10, name
        page.locator("figure details summary").first.click()
        page.wait_for_selector("figure details table tbody tr")
        assert page.locator("figure figcaption").first.inner_text()
        page.locator("#rows summary").click()
        page.wait_for_selector("#rows tbody tr")
        assert page.locator("#experiments a[aria-current]").inner_text() == name


def test_a_training_experiment_shows_its_progress_and_is_remembered(visit):
    with visit("#speeds?v=1&hidden=2&epochs=40&seeds=1&images=50", state="idle") as page:
        assert "press Run" in verdict(page)
        page.locator("#run").click()
        page.wait_for_selector("body[data-state=ready]", timeout=LATER)
        sentence = verdict(page)
        assert min(ink(page)) > 10
        page.reload()
        page.wait_for_selector("body[data-state=ready]", timeout=LATER)
        assert verdict(page) == sentence


def test_a_training_experiment_is_stopped_with_what_is_done(visit):
    with visit("#speeds?v=1&hidden=2&epochs=5000&seeds=2", state="idle") as page:
        page.locator("#run").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#doing:not(:empty)", timeout=LATER)
        assert page.locator("#bar").is_visible() and page.locator("#run").is_disabled()
        page.locator("#stop").click()
        page.wait_for_selector("body[data-state=ready], body[data-state=problem]", timeout=LATER)
        assert page.locator("#bar").is_hidden() and page.locator("#run").is_enabled()
        if page.locator("body").get_attribute("data-state") == "problem":
            assert "stopped" in page.locator("#problem").inner_text()


def test_a_report_is_opened_in_the_lab(visit, tmp_path):
    from unvanish import diagnose
    from unvanish.zoo import get

    report = diagnose(get("xavier-sigmoid-20").build(0), effort="quick")
    report.save(tmp_path / "mine.json")
    with visit("#whatif") as page:
        old = verdict(page)
        until_shown(page, lambda: page.locator("#report").set_input_files(tmp_path / "mine.json"))
        assert verdict(page) != old
        old = verdict(page)
        until_shown(page, lambda: page.locator("#set-activation").select_option("relu"))
        assert "relu" in verdict(page) and verdict(page) != old
        assert page.locator("#actions a").count() == 0  # the server does not keep what was sent


def test_the_claims_are_linked_to_what_shows_them(visit):
    with visit("#claims?v=1&document=003&trained=false", state="idle") as page:
        page.locator("#run").click()
        page.wait_for_selector("#rows td a", timeout=LATER)
        link = page.locator("#rows td a").first
        command = link.inner_text()
        name = command.split()[2]
        until_shown(page, link.click)
        settings = dict(re.findall(r"--(\S+) (\S+)", command))
        assert (
            verdict(page) == lab.run(name, **{key.replace("-", "_"): value for key, value in settings.items()}).sentence
        )


def test_predict_first_with_the_keyboard_alone(visit):
    with visit() as page:
        page.locator("#predict").focus()
        page.keyboard.press("Space")
        assert verdict(page) == "First your guess."
        assert page.locator("#figures").is_hidden() and page.locator("#numbers").is_hidden()
        assert page.evaluate("document.activeElement.id") == "power"
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        assert page.locator("#power").get_attribute("aria-valuetext") == "ten to the power of -7"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#guess", state="hidden")
        page.wait_for_timeout(200)
        assert verdict(page).startswith(
            "You guessed 10^-7; it is 10^-26.682, 20 powers of ten smaller. Through 20 layers"
        )
        assert page.evaluate("document.activeElement.id") == "verdict"
        assert page.locator("#figures").is_visible()


def test_what_is_copied_runs_and_gives_the_same(visit):
    with visit("#chain?v=1&depth=9&weight=-2.5&bias=0.5") as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy as Python").click()
        code = page.evaluate("navigator.clipboard.readText()")
        scope: dict[str, Any] = {}
        exec(code.replace("print(outcome)", ""), scope)
        assert scope["outcome"].sentence == verdict(page)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download CSV").click()
        assert download.value.suggested_filename == "chain.csv"
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Open this network in check").click()
        opened.value.wait_for_load_state()
        assert opened.value.locator("h1").count() == 1


def test_presets_start_from_a_documents_example(visit):
    with visit() as page:
        until_shown(page, lambda: page.get_by_role("button", name="50 layers, every weight 0.17").click())
        assert "Through 50 layers" in verdict(page) and "10^-67.856" in verdict(page)


def test_the_theme_can_be_switched_and_is_kept(visit):
    with visit() as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.locator("#theme").click()
        dark = page.evaluate(ground)
        assert dark != light and page.locator("#theme").get_attribute("aria-pressed") == "true"
        page.reload()
        page.wait_for_selector("body[data-state=ready]")
        assert page.evaluate(ground) == dark


@pytest.mark.parametrize("name", ["chain", "activations", "ravine", "whatif", "unstable"])
def test_a_phone_needs_no_sideways_scrolling(visit, name):
    with visit(f"#{name}", width=390, height=800) as page:
        page.wait_for_selector(".picture svg")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        sizes = page.evaluate(
            "[...document.querySelectorAll('.picture svg')].map(s => s.getBoundingClientRect().width)"
        )
        assert sizes and max(sizes) <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["#chain", "#speeds", "#whatif"])
def test_axe_finds_nothing(visit, place, scheme):
    with visit(place, state="idle" if place == "#speeds" else "ready", scheme=scheme) as page:
        if place == "#chain":
            page.wait_for_selector("body[data-beside]", timeout=LATER)
            page.locator("#predict").check()
            assert faults(page) == []
            page.locator("#predict").uncheck()
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        page.wait_for_timeout(100)
        assert faults(page) == []


def test_the_link_that_skips_to_the_result_stays_on_the_page(visit):
    with visit("#ravine?v=1&rate=0.25") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
        assert page.evaluate("document.activeElement.id") == "verdict"
        assert page.url.endswith("#ravine?v=1&rate=0.25")
        assert page.locator("h1").inner_text() == "A ravine"


def test_every_control_is_reached_with_the_tab_key(visit):
    with visit() as page:
        page.wait_for_selector("body[data-beside]", timeout=LATER)
        wanted = set(page.evaluate("[...document.querySelectorAll('#settings [id^=set-], #theme')]"
                                   ".filter(e => e.checkVisibility() && e.offsetParent && !e.id.endsWith('-help'))"
                                   ".filter(e => !e.closest('details:not([open])')).map(e => e.id)"))  # fmt: skip
        assert {"set-depth", "set-activation", "set-residual", "theme"} <= wanted
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert wanted <= reached

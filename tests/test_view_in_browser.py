"""The viewer's page in a real browser: live, late, reconnecting, compared; keyboard, themes, widths, and axe."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import faults, open_page
from run_files import begun, made, stepped, vanished

pytest.importorskip("uvicorn", reason="uvicorn is not installed: there is nothing to serve the page with")

import uvicorn

from unvanish import diagnose
from unvanish.server import listen
from unvanish.server.app import application
from unvanish.server.view import site as view_site
from unvanish.zoo import get

TOKEN = "the-token"
LATER = 20_000
Visit = Callable[..., AbstractContextManager[Any]]
HOSTILE = "<img src=x onerror=alert(1)>"


class Server:
    """The viewer in a thread; ``stop`` and ``start`` on the same port."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port
        self.start()

    def start(self) -> None:
        site = view_site(str(self.folder))
        site.warm()
        self.listening = listen(self.port)
        self.port = self.listening.getsockname()[1]
        config = uvicorn.Config(application(site, TOKEN, self.port), log_level="error", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.listening]), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(5)
        self.listening.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that end well and badly, alike and not."""
    home = tmp_path_factory.mktemp("runs")

    def dies(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        if step >= 60:
            rows[0][0] = -9.0

    made(home / "well.unvanish", 100, names=[f"blocks.{at}.linear" for at in range(6)])
    made(home / "again.unvanish", 100, names=[f"blocks.{at}.linear" for at in range(6)], seed=1)
    file = begun(home / "dies.unvanish", ("in", HOSTILE, "out"))
    chance = random.Random(0)
    for step in range(100):
        stepped(file, step, chance, dies)
    file.event(60, vanished())
    file.report(60, "nonfinite", diagnose(get("stuck-sigmoid-10").build(0), effort="quick").to_json(indent=None))
    file.close(steps=100)
    return home


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    found = Server(folder)
    yield found
    found.stop()


@pytest.fixture
def visit(server: Server) -> Visit:
    """``with visit("run=…", width=…, scheme=…) as page`` opens the page and waits until something is shown."""

    @contextmanager
    def visited(place: str = "run=well.unvanish", state: str = "ready", **look: Any) -> Iterator[Any]:
        with open_page(**{"width": 1240, "height": 900, **look}) as page:
            page.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}#v=1&{place}")
            page.wait_for_selector(f"body[data-state={state}]", timeout=LATER)
            yield page

    return visited


def until(page: Any, true: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 15
    while not true():
        assert time.monotonic() < end, what
        page.wait_for_timeout(20)


def text(page: Any, place: str) -> str:
    return page.locator(place).inner_text()


def ink(page: Any, place: str) -> list[int]:
    """For each picture how many of its marks have an extent."""
    return page.evaluate(
        """place => [...document.querySelectorAll(`${place} .picture`)].map(each =>
             [...each.querySelectorAll('svg path, svg line, svg text, svg rect')].filter(mark => {
               const box = mark.getBBox(); return mark.textContent || box.width + box.height > 0; }).length)""",
        place,
    )


def colours(page: Any, place: str = "#heat canvas") -> int:
    """How many different colours the map shows: one that drew nothing has one."""
    return page.evaluate(
        """place => { const canvas = document.querySelector(place);
             const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
             return new Set(new Uint32Array(data.buffer)).size; }""",
        place,
    )


def test_it_opens_with_the_verdict_the_staircase_and_the_whole_history(visit: Visit) -> None:
    with visit() as page:
        assert text(page, "#verdict").startswith("Healthy: ")
        assert "ended after 100 steps" in text(page, "#status")
        until(page, lambda: len(ink(page, "#results")) == 5 and min(ink(page, "#results")) > 10, "no picture was drawn")
        assert colours(page) > 5 and "token" not in page.url
        assert page.locator("#runs a").count() == 3
        page.locator("#stair summary").click()
        until(page, lambda: page.locator("#stair tbody tr").count() == 6, "a table is not shown")
        page.locator("#layers summary").click()
        until(page, lambda: page.locator("#layers tbody tr").count() == 6, "a table is not shown")
        page.locator("#heat summary").click()
        until(page, lambda: page.locator("#heat tbody tr").count() == 6, "a table is not shown")


def test_a_step_is_chosen_on_the_map_with_the_slider_and_by_number_and_stands_in_the_address(visit: Visit) -> None:
    with visit() as page:
        box = page.locator("#heat canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60)
        page.mouse.up()
        until(page, lambda: "staircase of step 4" in text(page, "#stair h2"), "the map does not choose a step")
        chosen = int(page.locator("#number").input_value())
        assert 30 < chosen < 60
        page.wait_for_timeout(200)
        assert f"step={chosen}" in page.url
        page.locator("#step").focus()
        page.keyboard.press("ArrowRight")
        until(page, lambda: f"step {chosen + 1}" in text(page, "#stair h2"), "the slider does not choose a step")
        assert page.locator("#step").get_attribute("aria-valuetext") == f"step {chosen + 1}"
        page.locator("#number").fill("7")
        page.keyboard.press("Enter")
        until(page, lambda: text(page, "#stair h2").endswith("step 7"), "the number does not choose a step")
        page.locator("#follow").click()
        until(page, lambda: text(page, "#stair h2").endswith("step 99"), "it does not go back to the newest")


def test_a_link_brings_back_what_was_shown_and_a_bad_one_does_no_harm(visit: Visit) -> None:
    with visit("run=dies.unvanish&step=30&map=update") as page:
        assert text(page, "#stair h2").endswith("step 30") and page.locator("#quantity").input_value() == "update"
        page.locator("#quantity").select_option("dead")
        until(page, lambda: "share of units" in text(page, "#heat figcaption"), "another map is not shown")
        page.wait_for_timeout(200)
        assert "map=dead" in page.url
        page.locator("#runs a", has_text="well.unvanish").click()
        until(page, lambda: text(page, "#title") == "well.unvanish", "another run is not shown")
    for bad in ("run=well.unvanish&step=x&map=nothing", "step=-4&run=well.unvanish"):
        with visit(bad) as page:
            assert text(page, "#stair h2").endswith("step 99")


def test_findings_stand_on_a_line_with_their_step_and_what_its_repetition_found(visit: Visit) -> None:
    with visit("run=dies.unvanish") as page:
        finding = page.locator("#findings li.error")
        assert "UV101" in finding.inner_text()
        left, width = page.evaluate(
            "(() => { const bar = document.querySelector('#findings .line span').getBoundingClientRect();"
            " const line = document.querySelector('#findings .line').getBoundingClientRect();"
            " return [(bar.left - line.left) / line.width, bar.width / line.width]; })()"
        )
        assert abs(left - 60 / 99) < 0.02 and abs(width - 39 / 99) < 0.02
        finding.get_by_role("button").click()
        until(page, lambda: text(page, "#stair h2").endswith("step 60"), "the step of a finding is not shown")
        with page.context.expect_page() as opened:
            finding.get_by_role("link", name="This step run again").click()
        opened.value.wait_for_load_state()
        assert "Gradient report on" in opened.value.locator("h1").inner_text()


def test_a_run_is_followed_while_it_is_written_and_a_closed_page_costs_nothing(
    visit: Visit, folder: Path, server: Server
) -> None:
    file = begun(folder / "live.unvanish")
    file.flush()
    chance = random.Random(0)
    try:
        with visit("run=live.unvanish", state="waiting") as page:
            assert "No step was sampled yet" in text(page, "#verdict")
            for step in range(12):
                stepped(file, step, chance)
                file.flush()
                if step == 5:
                    until(page, lambda: text(page, "#stair h2").endswith("step 5"), "it is not followed")
            until(page, lambda: text(page, "#stair h2").endswith("step 11"), "it is not followed")
            assert "running" in text(page, "#status")
            page.locator("#number").fill("3")
            page.keyboard.press("Enter")
            until(page, lambda: text(page, "#stair h2").endswith("step 3"), "a step is not held")
            stepped(file, 12, chance)
            file.flush()
            until(page, lambda: "sampled step 12" in text(page, "#status"), "the rest goes on")
            assert text(page, "#stair h2").endswith("step 3")
    finally:
        busy, _, _ = file.base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        file.close(steps=13)
        (folder / "live.unvanish").unlink()
    assert busy == 0


def test_it_goes_on_when_the_server_and_the_file_come_back(tmp_path: Path) -> None:
    made(tmp_path / "a.unvanish", 20)
    server = Server(tmp_path)
    with open_page() as page:
        page.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}#v=1&run=a.unvanish")
        page.wait_for_selector("body[data-state=ready]", timeout=LATER)
        (tmp_path / "a.unvanish").rename(tmp_path / "b.txt")
        page.wait_for_selector("#problem:not([hidden])", timeout=LATER)
        assert "there is no run 'a.unvanish'" in text(page, "#problem")
        (tmp_path / "b.txt").rename(tmp_path / "a.unvanish")
        page.wait_for_selector("#problem", state="hidden", timeout=LATER)
        page.evaluate("window.fetchOf = window.fetch; window.fetch = () => Promise.reject(new Error('away')); 0")
        page.wait_for_selector("#problem:not([hidden])", timeout=LATER)
        assert "trying again" in text(page, "#problem")
        server.stop()
        server.start()
        page.evaluate("window.fetch = window.fetchOf; 0")
        page.wait_for_selector("#problem", state="hidden", timeout=LATER)
        assert text(page, "#stair h2").endswith("step 19")
    server.stop()


def test_two_runs_are_compared(visit: Visit) -> None:
    with visit("run=well.unvanish&map=gradient&against=again.unvanish") as page:
        page.wait_for_selector("body[data-compared]", timeout=LATER)
        assert "do not differ beyond their noise" in text(page, "#parted")
        until(page, lambda: len(ink(page, "#both")) == 1 and len(ink(page, "#losses")) == 2, "no picture was drawn")
        assert colours(page, "#gap canvas") > 3
        page.locator("#other").select_option("")
        until(page, lambda: not text(page, "#parted"), "it still compares")
        assert page.locator("#gap").is_hidden()
        page.locator("#other").select_option("dies.unvanish")
        until(page, lambda: "no layer in common" in text(page, "#parted"), "another is not compared")


def test_names_from_a_model_are_texts(visit: Visit) -> None:
    with visit("run=dies.unvanish") as page:
        page.locator("#layers summary").click()
        page.locator("#heat summary").click()
        until(page, lambda: HOSTILE in text(page, "#layers tbody"), "the name is not shown")
        assert page.locator("main img").count() == 0


def test_the_layers_are_opened_in_the_lab(visit: Visit) -> None:
    with visit() as page:
        link = page.get_by_role("link", name="Open in the lab")
        assert link.get_attribute("target") == "_blank" and link.get_attribute("rel") == "noopener"
        # Not by a click: of pages without an opener the driver is told late, or never, while the machine is busy.
        lab = page.context.new_page()
        lab.goto(link.evaluate("link => link.href"))
        lab.wait_for_selector("body[data-state=ready]", timeout=LATER)
        until(lab, lambda: "last of 6 layers" in text(lab, "#verdict"), "the lab does not show the run's layers")
        assert "tanh" in text(lab, "#verdict")
        lab.locator("#set-activation").select_option("relu")
        until(lab, lambda: "relu" in text(lab, "#verdict"), "the lab does not change them")
        assert "last of 6 layers" in text(lab, "#verdict")


def test_what_is_saved_runs_no_script_and_looks_the_same(visit: Visit, tmp_path: Path) -> None:
    with visit("run=dies.unvanish&step=80") as page:
        sentence = text(page, "#verdict")
        with page.expect_download() as download:
            page.get_by_role("link", name="This page as one HTML file").click()
        assert download.value.suggested_filename == "dies.unvanish.html"
        download.value.save_as(tmp_path / "x.html")
    with open_page(scripts=False, width=420) as page:
        page.goto((tmp_path / "x.html").as_uri())
        assert page.locator("[role=status]").inner_text().split(":")[0] == sentence.split(":")[0]
        assert page.locator("svg:visible").count() == 6 and page.locator("table").count() > 5
        assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_the_theme_can_be_switched_and_the_map_follows(visit: Visit) -> None:
    with visit() as page:
        seen = "document.querySelector('#heat canvas').toDataURL()"
        light = page.evaluate(seen)
        page.locator("#theme").click()
        assert page.locator("#theme").get_attribute("aria-pressed") == "true"
        assert page.evaluate(seen) != light


@pytest.mark.parametrize("width", [420, 1280])
def test_no_width_needs_sideways_scrolling(visit: Visit, width: int) -> None:
    with visit("run=well.unvanish&against=again.unvanish", width=width) as page:
        page.wait_for_selector("body[data-compared]", timeout=LATER)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1280])
def test_axe_finds_nothing(visit: Visit, scheme: str, width: int) -> None:
    for place in ("run=well.unvanish&against=again.unvanish", "run=dies.unvanish"):
        with visit(place, scheme=scheme, width=width) as page:
            if "against" in place:
                page.wait_for_selector("body[data-compared]", timeout=LATER)
            page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
            page.wait_for_timeout(200)
            assert faults(page) == []


def test_every_control_is_reached_with_the_tab_key(visit: Visit) -> None:
    with visit("run=dies.unvanish&against=well.unvanish") as page:
        page.wait_for_selector("body[data-compared]", timeout=LATER)
        controls = "main a, main button, main input, main select, main summary, header a, header button"
        wanted = page.evaluate(
            "controls => [...document.querySelectorAll(controls)].filter(e => e.checkVisibility()).length", controls
        )
        page.evaluate("window.reached = new Set(); document.activeElement.blur()")
        for _ in range(4 * wanted):
            page.keyboard.press("Tab")
            page.evaluate(
                "c => { if (document.activeElement.matches(c)) window.reached.add(document.activeElement); }", controls
            )
        assert page.evaluate("window.reached.size") >= wanted


def test_the_link_that_skips_to_the_verdict_stays_on_the_page(visit: Visit) -> None:
    with visit("run=well.unvanish&step=10") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
        assert page.evaluate("document.activeElement.id") == "verdict"
        assert "step=10" in page.url


def test_on_a_narrow_page_the_run_that_is_shown_is_in_sight_in_the_list(tmp_path: Path) -> None:
    for at in range(8):
        made(tmp_path / f"run-{at}-{'n' * 60}.unvanish", 1 if at else 20)
    server = Server(tmp_path)
    with open_page(width=420) as page:
        for at in (0, 7):
            page.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}#v=1&run=run-{at}-{'n' * 60}.unvanish")
            page.reload()
            page.wait_for_selector("body[data-state=ready]", timeout=LATER)
            box = page.locator("#runs a[aria-current]").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 420 and box["height"] < 120
            assert ("ended after 20 steps" if at == 0 else "ended after 1 step ") in text(page, "#status")
    server.stop()


BUSY = "() => [...document.querySelectorAll('#series .picture')].map(each => each.ariaBusy === 'true')"
HIDDEN = """() => [...document.querySelectorAll('#series .picture')].map(each =>
  getComputedStyle(each.querySelector('svg')).visibility === 'hidden')"""
MARKS = "() => [...document.querySelectorAll('#series .picture svg')].map(each => each.innerHTML)"


@pytest.mark.parametrize("idle", [True, False])
def test_pictures_out_of_sight_are_never_those_of_the_run_before(server: Server, idle: bool) -> None:
    """Blank at once, drawn again in idle time, and where there is none before they are printed."""
    with open_page(width=1240, height=300) as page:
        page.add_init_script(
            "window.waiting = []; window.rests = false;"
            "window.requestIdleCallback ="
            " work => { window.rests ? setTimeout(work) : window.waiting.push(work); return 1; }"
        )
        page.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}#v=1&run=well.unvanish")
        page.wait_for_selector("body[data-state=ready]", timeout=LATER)
        until(page, lambda: len(page.evaluate(MARKS)) == 3, "no picture was drawn")
        before = page.evaluate(MARKS)
        page.evaluate("location.hash = '#v=1&run=dies.unvanish'; 0")
        until(page, lambda: text(page, "#title") == "dies.unvanish", "the other run is not shown")
        until(page, lambda: all(page.evaluate(BUSY)), "pictures of the run before are left")
        assert all(page.evaluate(HIDDEN))
        if idle:
            page.evaluate("window.rests = true; for (const each of window.waiting) each(); 0")
            until(page, lambda: not any(page.evaluate(BUSY)), "they are not drawn in idle time")
        else:
            page.wait_for_timeout(300)
            page.pdf()
            assert not any(page.evaluate(BUSY)), "they are printed blank"
        assert all(a != b for a, b in zip(before, page.evaluate(MARKS), strict=True))


def test_a_file_that_is_replaced_or_cut_off_leaves_nothing_of_its_run_on_the_page(tmp_path: Path) -> None:
    """Deleted, begun anew, begun anew at once, and cut off, while it is looked at."""
    path = tmp_path / "a.unvanish"
    made(path, 90, names=("old_in", "old_out"))
    made(tmp_path / "b.unvanish", 90, names=("old_in", "old_out"))
    server = Server(tmp_path)
    with open_page(width=1240, height=900) as page:
        page.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}#v=1&run=a.unvanish&step=60&against=b.unvanish")
        page.wait_for_selector("body[data-state=ready][data-compared]", timeout=LATER)
        assert text(page, "#stair h2").endswith("step 60") and page.locator("#news").is_hidden()

        path.unlink()
        page.wait_for_selector("body[data-state=problem]", timeout=LATER)
        assert "there is no run 'a.unvanish'" in text(page, "#problem")
        assert page.locator("#results").is_hidden() and not text(page, "#status")
        assert text(page, "#verdict") == "Nothing is shown of a run that cannot be read."

        file, chance = begun(path, ("new_in", "new_mid", "new_out")), random.Random(0)
        file.flush()
        page.wait_for_selector("body[data-state=waiting]", timeout=LATER)
        assert "Another run was begun in this file" in text(page, "#news") and page.locator("#results").is_hidden()
        for step in range(5):
            stepped(file, step, chance)
        file.flush()
        until(page, lambda: text(page, "#stair h2").endswith("step 4"), "the new run is not followed")
        page.locator("#heat summary").click()
        until(page, lambda: "new_mid" in text(page, "#heat table"), "the map is the old run's")
        assert page.locator("#follow").get_attribute("aria-pressed") == "true"
        assert "step=60" not in page.url and "against=b.unvanish" in page.url
        page.locator("#layers summary").click()
        assert not any("old" in text(page, place) for place in ("#now", "#map", "#found", "#figures", "#layers"))
        assert "have no layer in common" in text(page, "#against")
        file.close(steps=5)

        path.unlink()
        made(path, 8, names=("third",))
        until(page, lambda: text(page, "#stair h2").endswith("step 7"), "a run begun at once anew is not followed")
        until(page, lambda: "third" in text(page, "#heat table"), "the map is that of the run before")
        assert "ended after 8 steps" in text(page, "#status")

        whole = path.read_bytes()
        path.write_bytes(whole[:3_000])
        page.wait_for_selector("body[data-state=problem]", timeout=LATER)
        assert "cut off" in text(page, "#problem") and page.locator("#results").is_hidden()
        assert page.locator("#news").is_hidden()
        path.write_bytes(whole)
        page.wait_for_selector("body[data-state=ready]", timeout=LATER)
        assert page.locator("#problem").is_hidden() and page.locator("#news").is_hidden()

        (tmp_path / "b.unvanish").unlink()
        until(page, lambda: "there is no run 'b.unvanish'" in text(page, "#parted"), "the other run is not missed")
        assert page.locator("#gap").is_hidden() and not page.locator("#both svg").count()
    server.stop()

"""Draws the pictures of this folder anew: ``python docs/pictures/render.py``. Needs the extra "lab"; with playwright
and a Chromium on the path also the pages. ``python docs/pictures/render.py NAME`` draws only that picture's example.

What they show is measured when they are drawn: a network of the zoo with effort "full", and experiments of the lab.
A picture whose file has a function ``example(width)`` shows what that returns. NAME-narrow-THEME.svg is the same for a
narrow page, where a wide picture has to be scrolled; the site chooses.
"""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

import unvanish
from unvanish import lab, zoo
from unvanish.charts import WIDTH, Chart, draw, find, heat, pictures, speeds
from unvanish.report import Report
from unvanish.report.html_pictures import WIDTHS

HERE = Path(__file__).resolve().parent
THEMES = ("light", "dark")
PAGE_WIDTH, PAGE_HEIGHT = 1200, 900
NARROW = WIDTHS["narrow"]


def main(names: list[str]) -> None:
    """Draw what is named, or everything; the pages are left as they are where there is no browser."""
    for name in names or [each.name for each in pictures() if each.example]:
        by_example(name)
    if names:
        return
    vanished = unvanish.diagnose(zoo.get("sigmoid-20").build(0), effort="full")
    for name in ("staircase", "plane", "factors"):
        save(name, vanished.chart(name), vanished.chart(name, width=NARROW))
    from_the_lab()
    two_runs()
    save("map", unvanish.sweep(HERE.parents[1] / "examples" / "phase_tanh_signal.toml").chart())
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no chromium on the path: the pages are left as they are")
        return
    photograph(vanished, chromium)
    photograph_runs(chromium)


def by_example(name: str) -> None:
    """Draw the example in a picture's own file."""
    made = find(name)
    if made.example is None:
        raise SystemExit(f"the picture {name!r} has no example to draw: give its file a function example(width)")
    save(name, *(draw(name, made.example(width), title=made.question) for width in (WIDTH, NARROW)))


def from_the_lab() -> None:
    """The pictures of experiments, two of them of one training."""
    save_outcome("activations", lab.run("activations", names="sigmoid,tanh,relu"))
    save_outcome("paths", lab.run("ravine"))
    save_outcome("phase", lab.run("phase"))
    save_outcome("remedies", lab.run("remedies", quick=True))
    trained = lab.run("speeds", hidden="6", quick=True)
    save_outcome("speeds", trained)
    save("heat", *(changes(trained.pictures[0], width) for width in (WIDTH, NARROW)))


def save_outcome(name: str, outcome: lab.Outcome) -> None:
    """The first picture of an experiment, and its narrow form where it has one."""
    drawing = outcome.pictures[0]
    tables = drawing.narrow_tables
    save(name, outcome.chart(), draw(drawing.name, tables, title=drawing.title) if tables else None)


def two_runs() -> None:
    """The gradient of the first layer in the two trainings of the example, one of which has nothing left to learn."""
    example = runpy.run_path(str(HERE.parents[1] / "examples" / "two_runs.py"))
    norms = [example["train"](example["network"](kind)) for kind in (nn.Sigmoid, nn.ReLU)]
    quantity, title = "norm of the first layer's gradient", "Two trainings, one small gradient: what does it mean?"
    charts = [
        draw(
            "speeds", speeds.tables(range(example["STEPS"]), names, norms, quantity=quantity, width=width), title=title
        )
        for width, names in (
            (WIDTH, ["sigmoids: vanished", "ReLUs: converged"]),
            (NARROW, ["vanished", "converged"]),
        )
    ]
    save("two-runs", *charts)


def changes(drawing: lab.Drawing, width: float) -> Chart:
    """By what factor each layer's error signal has changed since the first step."""
    names = [key for key in drawing.data[0] if key != "step"]
    ratios = [[row[name] - drawing.data[0][name] for row in drawing.data] for name in names]
    layers = [name.removeprefix("log10 ") for name in names]
    steps, quantity = [row["step"] for row in drawing.data], "error signal, step 0 = ×1"
    tables = heat.tables(steps, layers, ratios, quantity=quantity, width=width)
    return draw("heat", tables, title="What becomes of each layer's error signal?")


def save(name: str, chart: Chart, narrow: Chart | None = None) -> None:
    for theme in THEMES:
        chart.save(HERE / f"{name}-{theme}.svg", theme=theme)
        if narrow is not None:
            narrow.save(HERE / f"{name}-narrow-{theme}.svg", theme=theme)


def photograph(report: Report, chromium: str) -> None:
    """The top of the HTML report and the output of a notebook's cell, as a browser shows them in both themes."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file, cell_file = Path(folder, "report.html"), Path(folder, "cell.html")
        report.save(page_file)
        cell = f'<!doctype html><meta charset="utf-8"><body style="margin:0">{report._repr_html_()}'
        cell_file.write_text(cell, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for theme in THEMES:
            for file, name, height in ((page_file, "report", PAGE_HEIGHT), (cell_file, "notebook", 720)):
                page = browser.new_page(color_scheme=theme, viewport={"width": PAGE_WIDTH, "height": height})
                page.goto(file.as_uri())
                page.screenshot(path=HERE / f"{name}-{theme}.png")
        browser.close()


def photograph_runs(chromium: str) -> None:
    """The viewer's page on a training whose gradient vanishes, on one that converges, and on two of those compared."""
    from playwright.sync_api import sync_playwright

    plain, converging = HERE.parents[1] / "examples" / "train_plain.py", HERE / "converging_run.py"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        for run, every, script, *words in (
            ("deep/relu", "2", plain, "--activation", "ReLU", "--steps", "600"),
            ("deep/sigmoid", "2", plain, "--activation", "Sigmoid", "--steps", "600"),
            ("two/today", "10", converging, "0.1"),
            ("two/yesterday", "10", converging),
        ):
            to = ["-o", f"{folder}/{run}.unvanish"]
            Path(to[1]).parent.mkdir(exist_ok=True)
            subprocess.run(
                [sys.executable, "-m", "unvanish", "run", "--every", every, *to, str(script), *words], check=True
            )
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with served(f"{folder}/deep/sigmoid.unvanish") as address:
            for theme in THEMES:
                page = opened(browser, address, theme, "ended after 600 steps, every 2")
                page.screenshot(path=HERE / f"view-{theme}.png")
        with served(f"{folder}/two/yesterday.unvanish") as address:
            for theme in THEMES:
                page = opened(browser, address, theme, "ended after 2,500 steps, every 10")
                page.screenshot(path=HERE / f"view-converged-{theme}.png")
                page.select_option("#other", "today.unvanish")
                page.wait_for_selector("body[data-compared] #gap canvas")
                page.wait_for_selector("#losses[data-whole]", state="attached")
                page.locator("#against").screenshot(path=HERE / f"view-compared-{theme}.png")
        browser.close()


@contextmanager
def served(place: str) -> Iterator[str]:
    """The viewer of a place, in a process of its own: its address."""
    command = [sys.executable, "-m", "unvanish", "view", place, "--no-browser"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        yield next(found[0] for line in server.stderr if (found := re.search(r"http://\S+", line)))
        server.terminate()


def opened(browser: Any, address: str, theme: str, status: str) -> Any:
    """The page, without what differs each time: the folder and the day."""
    page = browser.new_page(color_scheme=theme, viewport={"width": PAGE_WIDTH, "height": PAGE_HEIGHT})
    page.goto(address)
    page.wait_for_selector("body[data-state=ready]")
    page.evaluate("document.getElementById('folder').textContent = 'runs'")
    page.evaluate(f"document.getElementById('status').textContent = {status!r}")
    return page


if __name__ == "__main__":
    main(sys.argv[1:])

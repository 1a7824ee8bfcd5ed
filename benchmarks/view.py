"""How fast the viewer opens a long run, and how much work it is to follow one, in Chromium.

python benchmarks/view.py --save benchmarks/results/view.json

A run of 1,000,000 steps and 200 layers, as the file holds it after thinning, is opened in a fresh server. Then a run of
200 layers is followed while a process of its own writes five samples a second: the work of the page's main thread is
read off Chromium's trace, in whole and by frame; and how long the writer takes for a flush, with the page and without.
"""

from __future__ import annotations

import argparse
import array
import json
import math
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

from unvanish.watching.run_file import KEPT, THINNED, RunFile
from unvanish.watching.sample import Column

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
LAYERS, STEPS = 200, 1_000_000
SETTING = {"model": "Net", "parameters": 2_000_000, "batch_size": 64, "dtype": "float32", "device": "cpu",
           "mode": "train", "effort": "live", "seed": 0}  # fmt: skip
UPDATES = 100
PERIOD = 0.2
TRACED = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"]


def begun(path: Path, steps: int) -> RunFile:
    file = RunFile(path, {"every": 1, "setting": SETTING})
    file.layers([Column(f"blocks.{at}.linear", "Linear", 10_000) for at in range(LAYERS)])
    order = list(range(LAYERS))
    file.fact(order=order, groups=[order], steps=steps)
    return file


def row(chance: random.Random) -> bytes:
    """The numbers of 200 layers in one step."""
    numbers: list[float] = []
    for at in range(LAYERS):
        signal, update = -3.0 + 3.0 * at / LAYERS + chance.gauss(0.0, 0.1), 10.0 ** (-3.0 + chance.gauss(0.0, 0.1))
        numbers += [signal, -2.0 + chance.gauss(0.0, 0.1), 0.5, update, 0.1, 0.0, 0.0]
    return array.array("f", numbers).tobytes()


def series(step: int, chance: random.Random) -> bytes:
    loss = math.exp(-4.0 * step / STEPS) * (1.0 + 0.05 * chance.gauss(0.0, 1.0))
    return array.array("d", [loss, 1e-3, -1.0 + 0.1 * chance.gauss(0.0, 1.0), -1.2, math.nan]).tobytes()


def thinned(steps: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, level) of the rows that the file keeps of so many steps, as ``RunFile`` thins them."""
    count, level, end = steps, 0, steps
    while count >= 2 * KEPT:
        rounds = (count - KEPT) // KEPT  # so many times the older half of this thickness was made thinner
        left = count - rounds * KEPT
        size = THINNED**level
        yield from ((end - (left - at) * size, end - (left - at - 1) * size - 1, level) for at in range(left))
        end -= left * size
        count, level = rounds * KEPT // THINNED, level + 1
    size = THINNED**level
    yield from ((end - (count - at) * size, end - (count - at - 1) * size - 1, level) for at in range(count))


def long_run(path: Path) -> int:
    """Write the file of a long run; how many rows it has."""
    file, chance = begun(path, STEPS), random.Random(0)
    rows = [row(chance) for _ in range(64)]
    for at, (first, last, level) in enumerate(thinned(STEPS)):
        values = (first, last, level, series(last, chance), rows[at % 64], rows[(at + 1) % 64] if level else None)
        file.waiting.append(("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)", values))
    file.close()
    if file.broken:
        raise RuntimeError(file.broken)
    return at + 1


@contextmanager
def served(place: Path) -> Iterator[tuple[str, int]]:
    """``unvanish view`` in a process of its own: the address it says, and its process."""
    command = [sys.executable, "-m", "unvanish", "view", str(place), "--no-browser"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if address := re.search(r"http://\S+", line):
                yield address[0], process.pid
                break
        else:
            raise RuntimeError("the server said no address")
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()


def busy(process: int) -> float:
    """The processor seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def opened(browser: Any, place: Path) -> dict[str, float]:
    """Seconds until the whole history of a long run is shown, in a server that has seen nothing yet, and again."""
    with served(place) as (address, server):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        before, start = busy(server), time.perf_counter()
        page.goto(address)
        page.wait_for_selector("body[data-state=ready]", timeout=60_000)
        first, worked = time.perf_counter() - start, busy(server) - before
        page.evaluate("document.body.dataset.state = ''")
        start = time.perf_counter()
        page.reload()
        page.wait_for_selector("body[data-state=ready]", timeout=60_000)
        again = time.perf_counter() - start
        page.close()
    return {"first_s": round(first, 2), "again_s": round(again, 2), "processor_of_the_server_s": round(worked, 2)}


def write(path: str, seconds: float) -> None:
    """Five samples a second; prints the milliseconds of each flush."""
    file, chance = begun(Path(path), 0), random.Random(0)
    rows = [row(chance) for _ in range(64)]
    times: list[float] = []
    step, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        values = (step, step, 0, series(step, chance), rows[step % 64], None)
        file.waiting.append(("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)", values))
        start = time.perf_counter()
        file.flush()
        times.append(1e3 * (time.perf_counter() - start))
        step += 1
        time.sleep(PERIOD)
    print(json.dumps(times))


def followed(browser: Any, folder: Path) -> dict[str, Any]:
    """The work of the page for each update, and what the writer notices of it."""
    alone = _written(folder / "alone.unvanish", 5.0).communicate()[0]
    writer = _written(folder / "live.unvanish", UPDATES * PERIOD + 20.0)
    try:
        with served(folder) as (address, server):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"{address}#v=1&run=live.unvanish")
            page.wait_for_selector("body[data-state=ready]", timeout=60_000)
            page.wait_for_timeout(3_000)  # the drawings are compiled
            start, before = busy(server), int(page.evaluate("document.body.dataset.shown"))
            browser.start_tracing(page=page, categories=TRACED)
            page.wait_for_timeout(UPDATES * PERIOD * 1e3)
            trace = json.loads(browser.stop_tracing())
            shown = int(page.evaluate("document.body.dataset.shown")) - before
            worked = busy(server) - start
            page.close()
        with_page = writer.communicate(timeout=120)[0]
    finally:
        if writer.poll() is None:
            writer.kill()
    return {
        "updates_a_second": round(shown / (UPDATES * PERIOD), 2),
        "processor_of_the_server_ms_an_update": round(1e3 * worked / max(shown, 1), 1),
        **work(trace["traceEvents"], shown),
        "flush_ms": {"without": median_of(alone), "with_the_page": median_of(with_page)},
    }


def _written(path: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--write", str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def median_of(text: str) -> float:
    return round(statistics.median(json.loads(text)), 2)


def work(events: list[dict[str, Any]], updates: int) -> dict[str, Any]:
    """Processor time of the page's main thread: for each update, and for each of its tasks, of which a frame has one.

    Processor time, because on a shared machine a task also waits.
    """
    mains = {
        (e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
    }
    tasks = [e for e in events if e["name"].endswith("RunTask") and (e["pid"], e["tid"]) in mains and "tdur" in e]
    names = {e["name"] for e in tasks}  # one name for the tasks of the loop, one for what they are made of
    outer = max(names, key=lambda name: sum(e["tdur"] for e in tasks if e["name"] == name))
    totals: dict[int, float] = {}
    for each in tasks:
        totals[each["pid"]] = totals.get(each["pid"], 0.0) + each["tdur"]
    page = max(totals, key=totals.__getitem__)
    times = [e["tdur"] / 1e3 for e in tasks if e["name"] == outer and e["pid"] == page]
    felt = [each for each in times if each > 1.0]
    return {
        "work_an_update_ms": round(sum(times) / max(updates, 1), 1),
        "work_of_a_task_ms": {
            "median": round(percentile(felt, 0.5), 1), "p95": round(percentile(felt, 0.95), 1),
            "p99": round(percentile(felt, 0.99), 1), "most": round(max(felt, default=0.0), 1),
        },
    }  # fmt: skip


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--save", type=Path, help="write the numbers as JSON")
    options.add_argument("--write", nargs=2, metavar=("FILE", "SECONDS"), help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.write:
        write(arguments.write[0], float(arguments.write[1]))
        return
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as home, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        rows = long_run(Path(home) / "long.unvanish")
        long = {"steps": STEPS, "layers": LAYERS, "rows": rows, **opened(browser, Path(home) / "long.unvanish")}
        folder = Path(home) / "runs"
        folder.mkdir()
        numbers = {"open": long, "follow": {"layers": LAYERS, **followed(browser, folder)},
                   "browser": f"Chromium {browser.version}"}  # fmt: skip
        browser.close()
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    result = {**provenance(threads=1), "load_of_the_machine": round(os.getloadavg()[0], 1),
              "largest_child_mb": round(children), **numbers}  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.save:
        arguments.save.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""How fast the lab's page is in Chromium: from its address to the first picture, and from a slider to the paint.

python benchmarks/lab_page.py --save benchmarks/results/lab_page.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
DEPTHS = (20, 50, 100, 200)
EVENTS = 100
MOVE = """async ([events, seed]) => {
  const slider = document.getElementById('set-weight');
  const painted = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const shown = () => Number(document.body.dataset.shown);
  const times = [];
  for (let at = 0; at < events; at += 1) {
    slider.value = 0.05 + ((at * 37 + seed) % 100) / 50;
    const before = shown(), start = performance.now();
    slider.dispatchEvent(new Event('input', {bubbles: true}));
    while (shown() === before) await new Promise(done => setTimeout(done));
    await painted();
    times.push(performance.now() - start);
  }
  return times;
}"""


def server() -> tuple[subprocess.Popen[str], str, float]:
    """``unvanish lab`` in a process of its own: the address it says, and the seconds until it says it."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "unvanish", "lab", "--no-browser"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    for line in process.stderr:
        if address := re.search(r"http://\S+", line):
            return process, address[0], time.perf_counter() - start
    raise RuntimeError("the server said no address")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def measured(browser: Any, address: str) -> dict[str, Any]:
    page = browser.new_page(viewport={"width": 1240, "height": 900})
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("body[data-state=ready]")
    numbers: dict[str, Any] = {"ready_s": round(time.perf_counter() - start, 3), "slider_to_paint_ms": {}}
    page.wait_for_selector("body[data-beside]")
    for depth in DEPTHS:
        page.goto(f"{address.split('?')[0]}#chain?v=1&depth={depth}")
        page.wait_for_timeout(500)
        page.evaluate(MOVE, [10, 3])  # the first calls compile
        times = page.evaluate(MOVE, [EVENTS, 0])
        summary = {"median": statistics.median(times), "p95": percentile(times, 0.95), "most": max(times)}
        numbers["slider_to_paint_ms"][str(depth)] = {name: round(value, 1) for name, value in summary.items()}
    page.close()
    return numbers


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--save", type=Path, help="write the numbers as JSON")
    arguments = options.parse_args()
    from playwright.sync_api import sync_playwright

    process, address, until_said = server()
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            numbers = measured(browser, address)
            numbers["browser"] = f"Chromium {browser.version}"
            browser.close()
    finally:
        process.terminate()
        process.wait(10)
    load = os.getloadavg()[0]
    result = {**provenance(threads=1), "events": EVENTS, "load_of_the_machine": round(load, 1),
              "command_to_address_s": round(until_said, 2), **numbers}  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.save:
        arguments.save.write_text(text + "\n")


if __name__ == "__main__":
    main()

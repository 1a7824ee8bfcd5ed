"""One Chromium for all tests that need to see a page: ``with open_page() as page: page.set_content(…)``.

A test is skipped where playwright or Chromium is missing, and fails instead where UNVANISH_BROWSER=required.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@contextmanager
def open_page(*, width: int = 1100, height: int = 800, scheme: str = "light", scripts: bool = True) -> Iterator[Any]:
    """A fresh page in the shared browser; ``scheme``: "light" or "dark"; ``scripts``: whether the page may run any.

    At the end it fails if the page asked for anything that is neither a file, inline data nor on this machine, if
    the console showed an error, or if a script failed.
    """
    context = _chromium().new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=scripts
    )
    page = context.new_page()
    foreign: list[str] = []
    errors: list[str] = []

    def look_at(request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("file", "data", "about", "blob") and address.hostname not in LOOPBACK:
            foreign.append(request.url)

    page.on("request", look_at)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    try:
        yield page
        assert not foreign, f"the page asked for {foreign}"
        assert not errors, f"the console says {errors}"
    finally:
        context.close()


def faults(page: Any) -> list[str]:
    """What axe has to say, each with the element it is about."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        _without("the package axe-playwright-python is not installed")
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


@cache
def _chromium() -> Any:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _without("playwright is not installed")
    if not CHROMIUM.is_file():
        _without(f"there is no {CHROMIUM}")
    driver = sync_playwright().start()
    atexit.register(driver.stop)
    browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
    atexit.register(browser.close)
    return browser


def _without(reason: str) -> NoReturn:
    if os.environ.get("UNVANISH_BROWSER") == "required":
        pytest.fail(f"{reason}, and UNVANISH_BROWSER=required")
    pytest.skip(f"{reason}: nothing can be looked at")

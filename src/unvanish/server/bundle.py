"""The drawing library for the page, taken from the installed vl-convert and kept on disk by version."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGE = "vl-convert-python"
SNIPPET = "window.vegaEmbed = vegaEmbed;"


@cache
def bundle() -> str:
    """One JavaScript module that sets ``window.vegaEmbed``. Bundling takes a second, so the result is kept."""
    home = cache_folder() / f"vega-{version(PACKAGE)}.js"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return home.read_text(encoding="utf-8")
    import vl_convert

    text = vl_convert.javascript_bundle(SNIPPET)
    keep(home, text)
    return text


def keep(home: Path, text: str) -> None:
    """Write a file whole or not at all; without a place to keep it, it is made again next time."""
    with contextlib.suppress(OSError):
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=home.parent, delete=False, encoding="utf-8") as part:
            part.write(text)
        os.replace(part.name, home)


def cache_folder() -> Path:
    """Where this user's programs keep what they can make again."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", "~")).expanduser() / "unvanish"
    if sys.platform == "darwin":
        return Path("~/Library/Caches/unvanish").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unvanish"

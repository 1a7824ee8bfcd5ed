"""The compiled drawings for the page, without rows; kept on disk as long as nothing that makes them changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from unvanish.records import UnvanishError
from unvanish.server.bundle import PACKAGE, cache_folder, keep

_lock = threading.Lock()
_known: dict[str, dict[str, Any]] = {}


def drawn(name: str) -> dict[str, Any]:
    """The compiled drawing of one picture; UnvanishError if there is none of that name."""
    with _lock:
        if not _known:
            _known.update(_all())
    if name not in _known:
        raise UnvanishError(f"drawing the picture {name!r}: there is none of that name; there are {', '.join(_known)}")
    return _known[name]


def _all() -> dict[str, dict[str, Any]]:
    """Compiling takes a second or two, reading what was compiled before none."""
    home = cache_folder() / f"drawings-{_fingerprint()}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(home.read_text(encoding="utf-8"))
    from unvanish.charts import draw, pictures

    drawings = {each.name: draw(each.name, {table: [] for table in each.tables}).vega() for each in pictures()}
    for drawing in drawings.values():
        _lighten(drawing)
    keep(home, json.dumps(drawings))
    return drawings


def _lighten(part: dict[str, Any]) -> None:
    """Take out what no page needs, and each would pay for at every update.

    A picture is read as one image with its description; the parts of it have nothing to say by themselves. And the
    points of a line are numbers: nobody has to ask each of them.
    """
    for each in (*part.get("marks", ()), *part.get("axes", ()), *part.get("legends", ())):
        each["aria"] = False
        if each.get("type") == "line":
            each["encode"]["update"].pop("defined", None)
        _lighten(each)


def _fingerprint() -> str:
    """Of the versions of what compiles, of this file and of every one of the charts: yesterday's drawing is none."""
    digest = hashlib.sha256(f"{version(PACKAGE)} {version('altair')}".encode())
    digest.update(files("unvanish.server").joinpath("drawings.py").read_bytes())
    for file in sorted(files("unvanish.charts").iterdir(), key=lambda each: each.name):
        if file.name.endswith(".py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]

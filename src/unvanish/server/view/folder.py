"""The runs of a folder as they are now, and what is known of each without reading its history."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unvanish.records import UnvanishError
from unvanish.server.view.history import History, run_of
from unvanish.watching.alive import alive
from unvanish.watching.run_file import Reader
from unvanish.words.markup import visible

SUFFIX = ".unvanish"
MOST = 500
"""Runs that a page lists, the newest first."""


@dataclass
class Watched:
    """One run file and its history so far; at any number of threads, one at a time."""

    path: Path
    history: History = field(default_factory=History)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Folder:
    """The run files of one folder, found anew at each question; a name that is not listed is no path."""

    def __init__(self, place: str | Path) -> None:
        """``place``: a folder, or a run file in it, which comes first; UnvanishError where there is neither."""
        path = Path(place)
        if not path.exists():
            raise UnvanishError(
                f"there is no folder or run file {str(place)!r} to view; unvanish run SCRIPT.py writes one into runs/"
            )
        self.first = "" if path.is_dir() else path.name
        self.home = path if path.is_dir() else path.parent
        if self.first:
            Reader(path).base.close()
        self._watched: dict[str, Watched] = {}
        self._known: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The files, the one that was asked for first, then the newest."""
        try:
            found = [each for each in self.home.iterdir() if each.suffix == SUFFIX or each.name == self.first]
            dated = sorted(((each.stat().st_mtime, each.name) for each in found if each.is_file()), reverse=True)
        except OSError:
            return []
        names = [name for _, name in dated[:MOST]]
        return [name for name in names if name == self.first] + [name for name in names if name != self.first]

    def glances(self) -> list[dict[str, Any]]:
        """What the list of runs shows of each; what has ended is looked at again only where its file has changed."""
        found: list[dict[str, Any]] = []
        for name in self.names():
            stamp = _stamp(self.home / name)
            known = self._known.get(name)
            if known is None or known[0] != stamp or known[1]["state"] not in ("ended", "unreadable"):
                self._known[name] = known = (stamp, glance(self.home / name))
            found.append(known[1])
        return found

    def watched(self, name: str) -> Watched:
        """The run of that name; UnvanishError where the folder has none."""
        if name not in self.names():
            raise UnvanishError(f"there is no run {name!r} in {str(self.home)!r} (any more)")
        with self._lock:
            return self._watched.setdefault(name, Watched(self.home / name))


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when the file is written or replaced; 0, 0 where it has gone."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """The file, open for a moment: who reads on for long holds up the writer's clearing away."""
    file = Reader(path)
    with closing(file.base):
        try:
            yield file
        except sqlite3.Error as error:
            raise UnvanishError(f"reading {str(path)!r}: {error}") from None


def glance(path: Path) -> dict[str, Any]:
    """What the list of runs shows of a file; its fault, where it cannot be read."""
    try:
        with reading(path) as file:
            return {"name": path.name, **about(file)}
    except Exception as error:  # whatever a file holds: the others are shown
        return {"name": path.name, "title": visible(path.name), "state": "unreadable", "fault": visible(str(error))}


def about(file: Reader) -> dict[str, Any]:
    """When a run began, how far it is, and whether it goes on."""
    facts = file.facts
    last = newest(file)
    (errors,) = file.ask('SELECT COUNT(*) FROM events WHERE until IS NULL AND finding LIKE \'%"level":"error"%\'')[0]
    state = "ended" if "ended" in facts else "running" if alive(facts) else "lost"
    why, model = facts.get("failed") or facts.get("why") or "", (facts.get("setting") or {}).get("model", "")
    return {
        "state": state, "started": facts.get("started"), "began": date(facts.get("started")), "step": last,
        "ended": facts.get("ended"), "every": facts.get("every", 1), "why": visible(str(why)[:300]), "errors": errors,
        "model": visible(str(model)), "script": visible(str(facts.get("script", ""))), "title": visible(file.path.name),
        "steps": facts.get("steps"),
    }  # fmt: skip


def date(seconds: float | None) -> str:
    """The local date and time; "" where there is none."""
    if not seconds:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return ""


def newest(file: Reader) -> int | None:
    """The last sampled step."""
    rows = file.typed("SELECT last FROM samples ORDER BY step DESC LIMIT 1", (int,))
    return rows[0][0] if rows else None


def version(file: Reader) -> str:
    """Changes whenever something has been written that a page shows."""
    (events, over), (reports,) = (
        file.ask(f"SELECT {what}")[0] for what in ("COUNT(*), COUNT(until) FROM events", "COUNT(*) FROM reports")
    )
    return f"{run_of(file)}.{newest(file)}.{events}.{over}.{reports}.{about(file)['state']}"

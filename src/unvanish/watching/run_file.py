"""The file of a run: SQLite, written while the training runs, read by others meanwhile. Needs no torch.

Schema ``unvanish.run/1``. ``facts``: what was watched. ``layers``: a row a layer, in the order of the numbers.
``samples``: a sampled step a row; ``lowest`` and ``highest`` hold, layer after layer, the numbers of ``sample.FIELDS``
as little-endian float32 (``highest`` is NULL where the row is a single step), ``series`` those of ``sample.SERIES``.
``events`` and ``reports``: findings and full checks as JSON. Old samples are thinned: of sixteen neighbours the lowest
and the highest of each number stay, so that no peak is lost and the file stays small however long the run.
"""

from __future__ import annotations

import array
import contextlib
import json
import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from unvanish.records import Finding, Record, Setting, UnvanishError, from_builtins, to_builtins
from unvanish.watching.blobs import blob, extremes, numbers, series_of
from unvanish.watching.sample import FIELDS, NOTHING, SERIES, Column, Sample

SCHEMA = "unvanish.run/1"
FLUSH = 1.0
"""Seconds of samples that a kill may cost."""

KEPT = 2_048
"""Rows of one thickness; when there are twice as many, the older half is thinned."""
WIDTH = len(FIELDS)
THINNED = 16
"""Neighbouring rows that become one."""

TABLES = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE layers (at INTEGER PRIMARY KEY, name TEXT, kind TEXT, parameters INTEGER, frozen INTEGER);
CREATE TABLE samples (step INTEGER PRIMARY KEY, last INTEGER, level INTEGER, series BLOB, lowest BLOB, highest BLOB);
CREATE INDEX by_level ON samples (level, step);
CREATE TABLE events (id INTEGER PRIMARY KEY, step INTEGER, until INTEGER, code TEXT, layers TEXT, finding TEXT);
CREATE TABLE reports (id INTEGER PRIMARY KEY, step INTEGER, why TEXT, report TEXT);
"""


BACK = """
BEGIN IMMEDIATE;
DELETE FROM samples WHERE step >= {step};
UPDATE samples SET last = {step} - 1 WHERE last >= {step};
DELETE FROM events WHERE step >= {step};
UPDATE events SET until = NULL WHERE until >= {step};
DELETE FROM reports WHERE step >= {step};
DELETE FROM facts WHERE key IN ('ended', 'why', 'failed', 'steps');
COMMIT;
"""


class RunFile:
    """The one writer of a file. What cannot be written is dropped and ``broken`` says why; nothing raises later."""

    def __init__(self, path: Path | None, facts: Mapping[str, Any], from_step: int | None = None) -> None:
        """Make the file (without a path: in memory); UnvanishError where there is one already, or none can be made.

        ``from_step``: where there is a run, go on with it from this step; what it holds of later ones is given up.
        """
        self.path, self.broken, self.process = path, "", os.getpid()
        self.waiting: list[tuple[str, tuple[Any, ...]]] = []
        self.lock = threading.RLock()
        self.flushed = time.monotonic()
        self.counts: dict[int, int] = {}
        self.known, self.columns = list[Column](), 0
        before = Reader(path).facts if path is not None and from_step is not None and path.exists() else None
        if path is not None and before is None:
            _made(path)
        try:
            self._open(facts, before, from_step)
        except sqlite3.Error as error:
            if path is not None and before is None:
                with contextlib.suppress(OSError):
                    path.unlink()
            raise UnvanishError(f"cannot write the run file {str(path)!r}: {error}") from None

    def _open(self, facts: Mapping[str, Any], before: Mapping[str, Any] | None, from_step: int | None) -> None:
        self.base = sqlite3.connect(self.path or ":memory:", timeout=10, check_same_thread=False, isolation_level=None)
        weakref.finalize(self, self.base.close).atexit = False  # whoever stops without close still frees it
        self.base.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL")
        if before is None:
            self.base.executescript(f"BEGIN IMMEDIATE; {TABLES} COMMIT;")
            self.fact(schema=SCHEMA, started=time.time(), **facts)
        else:
            self._go_back(int(from_step or 0))
            self.fact(resumed=[*before.get("resumed", ()), from_step], **facts)
        self.inode = _inode(self.path)
        self.flush()

    def _go_back(self, step: int) -> None:
        """The training is again where it was before ``step``: what came later has not happened."""
        try:
            self.base.executescript(BACK.format(step=step))
        except sqlite3.Error as error:
            raise UnvanishError(f"cannot go on with the run file {str(self.path)!r}: {error}") from None
        self.counts = dict(self.base.execute("SELECT level, COUNT(*) FROM samples GROUP BY level"))

    def fact(self, **facts: Any) -> None:
        """Remember something of the whole run; numbers, strings and lists of them."""
        for key, value in facts.items():
            self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", key, json.dumps(value))

    def layers(self, columns: Sequence[Column]) -> None:
        """Write the layers that have come since, or are others."""
        if columns == self.known:
            return
        for at, each in enumerate(columns):
            if at >= len(self.known) or each != self.known[at]:
                row = (at, each.name, each.kind, int(each.parameters), int(each.frozen))
                self._write("INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?, ?)", *row)
        sources = [each.source for each in columns]
        if any(sources) and sources != [each.source for each in self.known]:
            self.fact(sources=sources)
        self.known, self.columns = list(columns), len(columns)

    def sample(self, sample: Sample) -> None:
        """Write a sampled step, now or with the next flush."""
        numbers = chain.from_iterable(sample.rows.get(at, NOTHING) for at in range(self.columns))
        series = blob([float(sample.series.get(name, math.nan)) for name in SERIES], "d")
        row = (int(sample.step), int(sample.step), 0, series, blob(numbers), None)
        self._write("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?, ?)", *row)
        self.counts[0] = self.counts.get(0, 0) + 1
        if time.monotonic() - self.flushed > FLUSH:
            self.flush()

    def event(self, step: int, finding: Finding) -> None:
        """Write a finding with the step at which it began; at once."""
        row = (int(step), finding.code, json.dumps(finding.layers), _json(finding))
        self._write("INSERT INTO events (step, code, layers, finding) VALUES (?, ?, ?, ?)", *row)
        self.flush()

    def over(self, step: int, code: str, layers: Sequence[str]) -> None:
        """A finding no longer holds since ``step``."""
        self._write(
            "UPDATE events SET until = ? WHERE until IS NULL AND code = ? AND layers = ?",
            int(step), code, json.dumps(list(layers)),
        )  # fmt: skip

    def report(self, step: int, why: str, text: str) -> None:
        """Keep a full report, as its JSON, and why it was made."""
        self._write("INSERT INTO reports (step, why, report) VALUES (?, ?, ?)", int(step), why, text)
        self.flush()

    def flush(self) -> None:
        """Write what waits, in one transaction, and thin what is old.

        It may be asked for by another thread than the training's, and be interrupted: then it waits again.
        """
        self.flushed = time.monotonic()
        if self.broken or self.process != os.getpid():  # a forked child leaves the file to its parent
            self.waiting.clear()
            return
        with self.lock:
            if self.base.in_transaction:  # a signal has come while this thread was writing: it goes on after it
                return
            waiting, self.waiting = self.waiting, []
            counts = dict(self.counts)
            try:
                self._commit(waiting)
            except BaseException as error:
                if self.base.in_transaction:  # else it was at its end
                    self.counts = counts
                    with contextlib.suppress(sqlite3.Error):  # what was committed before stays whole
                        self.base.execute("ROLLBACK")
                    self.waiting[:0] = waiting
                if not isinstance(error, sqlite3.Error):
                    raise
                self.broken = f"{type(error).__name__}: {error}"
                self.waiting.clear()

    def _commit(self, waiting: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        self.base.execute("BEGIN IMMEDIATE")
        for statement, values in waiting:
            self.base.execute(statement, values)
        for level in sorted(self.counts):
            if self.counts[level] >= 2 * KEPT:
                self._thin(level)
        self.base.execute("COMMIT")

    def close(self, **facts: Any) -> None:
        """Write the rest and fold it into the one file."""
        self.fact(ended=time.time(), **facts)
        self.flush()
        if self.process == os.getpid():
            try:
                self.base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                with contextlib.suppress(sqlite3.Error):  # somebody is reading: the log stays beside it
                    if _inode(self.path) == self.inode:  # else SQLite would delete the log of another's file
                        self.base.execute("PRAGMA journal_mode=DELETE")
                self.base.close()
            except (sqlite3.Error, OSError) as error:
                self.broken = self.broken or str(error)

    def _write(self, statement: str, *values: Any) -> None:
        if not self.broken and self.process == os.getpid():
            with self.lock:
                self.waiting.append((statement, values))

    def _thin(self, level: int) -> None:
        rows = self.base.execute(
            "SELECT step, last, series, lowest, highest FROM samples WHERE level = ? ORDER BY step LIMIT ?",
            (level, KEPT),
        ).fetchall()
        for at in range(0, len(rows) // THINNED * THINNED, THINNED):
            some = rows[at : at + THINNED]
            self.base.executemany("DELETE FROM samples WHERE step = ?", [(row[0],) for row in some])
            self.base.execute(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)",
                (some[0][0], some[-1][1], level + 1, some[-1][2], *extremes([(row[3], row[4]) for row in some])),
            )
        self.counts[level] -= len(rows) // THINNED * THINNED
        self.counts[level + 1] = self.counts.get(level + 1, 0) + len(rows) // THINNED


def _inode(path: Path | None) -> int:
    return path.stat().st_ino if path is not None and path.exists() else 0


def _made(path: Path) -> None:
    """An empty file that nobody else has."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        for left in ("-wal", "-shm"):  # of a run whose file was deleted: SQLite would take them for those of this one
            with contextlib.suppress(OSError):
                os.unlink(f"{path}{left}")
    except FileExistsError as error:
        if not path.exists():  # nor can it: its folder is a file
            raise UnvanishError(f"cannot make the run file {str(path)!r}: {str(path.parent)!r} is no folder") from error
        raise UnvanishError(
            f"there is a file {str(path)!r} already, and a run never writes into another's; name a new one"
        ) from None
    except OSError as error:
        raise UnvanishError(f"cannot make the run file {str(path)!r}: {error.strerror or error}") from None


def _json(record: Record) -> str:
    return json.dumps(to_builtins(record), separators=(",", ":"))


class Facts(msgspec.Struct):
    """What readers take from ``facts``, by its type; a file may hold more."""

    started: float | None = None
    ended: float | None = None
    every: int = 1
    steps: int | None = None
    process: int | None = None
    order: list[int] = []
    groups: list[list[int]] = []
    before: list[tuple[int, int]] = []
    gone: list[int] = []
    setting: Setting | None = None
    notes: list[str] = []
    failed: str | None = None
    why: str | None = None
    script: str | None = None


class Reader:
    """An open run file, read only; every question is a short transaction, so that the writer is never held up."""

    def __init__(self, path: str | Path) -> None:
        """UnvanishError where there is no run of ours."""
        self.path = Path(path)
        try:
            if not self.path.is_file():
                raise UnvanishError(f"there is no run file {str(path)!r}")
        except OSError as error:  # the name is too long, or the folder may not be looked into
            raise UnvanishError(f"cannot read the run file {str(path)[:200]!r}: {error.strerror or error}") from None
        try:
            address = f"{self.path.absolute().as_uri()}?mode=ro"
            self.base = sqlite3.connect(address, uri=True, timeout=10, check_same_thread=False)
            weakref.finalize(self, self.base.close).atexit = False  # from whichever thread collects it
            self.facts = {key: json.loads(value) for key, value in self.base.execute("SELECT key, value FROM facts")}
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            raise UnvanishError(
                f"{str(path)!r} is no run file of unvanish, or is cut off ({error}); its -wal belongs beside it"
            ) from None
        if self.facts.get("schema") != SCHEMA:
            raise UnvanishError(f"{str(path)!r} has the schema {self.facts.get('schema')!r}, and this is {SCHEMA!r}")
        try:
            msgspec.convert(self.facts, Facts)
        except msgspec.ValidationError as error:
            raise self._damaged(f"its facts: {error}") from None

    def ask(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows; UnvanishError where the file is damaged."""
        try:
            return self.base.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise UnvanishError(f"reading {str(self.path)!r}: {error}") from None

    def typed(self, query: str, kinds: Sequence[Any], values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows, each cell of the type that stands for it in ``kinds``: SQLite takes anything in any column."""
        rows = self.ask(query, values)
        if not all(all(map(isinstance, row, kinds)) for row in rows):
            raise self._damaged("a value of another type than that of its column")
        return rows

    def _numbers(self, data: object, kind: str = "f") -> array.array[float]:
        size = 8 if kind == "d" else 4 * WIDTH
        if not isinstance(data, bytes) or len(data) % size:
            raise self._damaged("a sample is no list of numbers")
        return numbers(data, kind)

    def _damaged(self, what: object) -> UnvanishError:
        return UnvanishError(f"reading {str(self.path)!r}: it is damaged, or was not written by unvanish ({what})")

    def columns(self) -> list[Column]:
        kinds = (str, str, int, int)
        found = self.typed("SELECT name, kind, parameters, frozen FROM layers ORDER BY at", kinds)
        known = self.facts.get("sources")  # where they are called; older files do not say
        sources = [*(known if isinstance(known, list) else []), *[""] * len(found)]
        return [
            Column(name, kind, parameters, bool(frozen), str(source))
            for (name, kind, parameters, frozen), source in zip(found, sources, strict=False)
        ]

    def findings(self) -> list[tuple[int, int | None, Finding]]:
        """Each with the step at which it began and that since which it is over, or None."""
        kinds = (int, int | None, str)
        rows = self.typed("SELECT step, until, finding FROM events ORDER BY id", kinds)
        return [(step, until, self._finding(text)) for step, until, text in rows]

    def _finding(self, text: str) -> Finding:
        try:
            return from_builtins(json.loads(text), Finding)
        except (ValueError, RecursionError) as error:
            raise self._damaged(error) from None

    def rows(self, query: str = "", values: Sequence[Any] = ()) -> list[tuple[int, int, bytes, bytes, bytes | None]]:
        """(first step, last step, series, lowest, highest) of each row, as they are in the file, and in order."""
        kinds = (int, int, bytes, bytes, bytes | None)
        rows = self.typed(f"SELECT step, last, series, lowest, highest FROM samples {query}", kinds, values)
        (layers,) = self.ask("SELECT COUNT(*) FROM layers")[0]  # after the samples: layers may come meanwhile
        before = -math.inf
        for first, last, series, low, high in rows:
            whole = len(low) % (4 * WIDTH) == 0 == len(series) % 8 and len(low) <= 4 * WIDTH * layers
            whole = whole and (high is None or len(high) == len(low))
            if not whole or not before < first <= last:
                raise self._damaged(f"the sample of step {first} does not fit the others")
            before = last
        return rows

    def samples(self, query: str = "", values: Sequence[Any] = ()) -> Iterator[tuple[int, int, Any, Any, Any]]:
        """The same with the numbers in them; of a single step the lowest are the highest."""
        for first, last, series, low, high in self.rows(f"{query} ORDER BY step", values):
            lowest = numbers(low)
            yield first, last, series_of(series), lowest, lowest if high is None else numbers(high)

    def extremes(self, lowest: bool = False) -> Iterator[array.array[float]]:
        """Of each row the highest numbers, or the ``lowest``."""
        wanted = "lowest" if lowest else "COALESCE(highest, lowest)"
        for (row,) in self._each(f"SELECT {wanted} FROM samples ORDER BY step"):
            yield self._numbers(row)

    def series(self) -> Iterator[array.array[float]]:
        """Of each row the numbers of the whole step."""
        for (row,) in self._each("SELECT series FROM samples ORDER BY step"):
            yield self._numbers(row, "d")

    def _each(self, query: str) -> Iterator[tuple[Any, ...]]:
        """One row after the other: the rows of a long run together are larger than what is made of them."""
        try:
            yield from self.base.execute(query)
        except sqlite3.Error as error:
            raise UnvanishError(f"reading {str(self.path)!r}: {error}") from None

"""The file of a sweep: SQLite while it runs, one transaction a stretch of points, so that a kill loses no more."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unvanish.population.grid import Grid
from unvanish.population.row import RESULTS, Row
from unvanish.records import UnvanishError

SCHEMA = "unvanish.sweep/1"
SUFFIXES = (".sqlite", ".db")
EXPORTS = (".csv", ".parquet")
FETCHED = 4_096
NUMBER, TEXT = (int, float, type(None)), (str, type(None))
KINDS = {name: TEXT if name in ("verdict", "log10_speeds", "error") else NUMBER for name in RESULTS}
"""What each result may be."""


class Store:
    """One open file: the rows that are there, and those that come."""

    def __init__(self, path: Path, grid: Grid, size: int) -> None:
        """Open or make the file of a grid; UnvanishError where it holds another sweep or is no such file."""
        self.path, self.grid = path, grid
        self.columns = ("point", "seed", *grid.names, *RESULTS)
        try:
            self.base = sqlite3.connect(path, timeout=30)
            self.base.execute("PRAGMA journal_mode=WAL")
            self.base.execute("PRAGMA synchronous=NORMAL")
            self._prepare(size)
        except UnvanishError:  # a ValueError, too, which says it already
            raise
        except (sqlite3.Error, ValueError, TypeError, LookupError, RecursionError) as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> UnvanishError:
        return UnvanishError(f"cannot use {str(self.path)!r} as the file of a sweep: {error}")

    def _prepare(self, size: int) -> None:
        tables = {name for (name,) in self.base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "sweep" not in tables:
            raise UnvanishError(f"{str(self.path)!r} is a database of another kind; name a new file")
        identity = json.dumps(self.grid.identity(), sort_keys=True)
        if not tables:
            named = ", ".join(_quoted(name) for name in self.columns)
            with self.base:
                self.base.execute("CREATE TABLE sweep (key TEXT PRIMARY KEY, value TEXT)")
                self.base.execute(f"CREATE TABLE results ({named}, PRIMARY KEY (point, seed)) WITHOUT ROWID")
                self.base.execute("CREATE TABLE stretches (start INTEGER PRIMARY KEY)")
                pairs = [("schema", SCHEMA), ("grid", identity), ("stretch", str(size))]
                self.base.executemany("INSERT INTO sweep VALUES (?, ?)", pairs)
        known = dict(self.base.execute("SELECT key, value FROM sweep"))
        if known.get("schema") != SCHEMA:
            raise UnvanishError(f"{str(self.path)!r} is of schema {known.get('schema')!r}, not {SCHEMA!r}")
        if known["grid"] != identity:
            raise UnvanishError(
                f"{str(self.path)!r} holds another sweep ({_difference(json.loads(known['grid']), self.grid)}); name"
                " another file, or delete this one"
            )
        self.size = max(int(known["stretch"]), 1)

    def missing(self) -> Iterator[tuple[int, int]]:
        """The stretches that are not there yet, as first point and the one behind the last."""
        try:
            done = {start for (start,) in self.base.execute("SELECT start FROM stretches")}
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        stretches = ((at, min(at + self.size, self.grid.points)) for at in range(0, self.grid.points, self.size))
        return (each for each in stretches if each[0] not in done)

    def done(self) -> int:
        """How many points are there."""
        last = (self.grid.points - 1) // self.size * self.size
        query = "SELECT COUNT(*), COUNT(CASE WHEN start = ? THEN 1 END) FROM stretches"
        try:
            stretches, has_last = self.base.execute(query, (last,)).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        return stretches * self.size - has_last * (last + self.size - self.grid.points)

    def add(self, start: int, rows: Sequence[Row]) -> None:
        """Write the rows of a stretch, all or none; what another run of the same sweep has written stays."""
        marks = ", ".join("?" * len(self.columns))
        try:
            with self.base:
                self.base.executemany(f"INSERT OR IGNORE INTO results VALUES ({marks})", rows)
                self.base.execute("INSERT OR IGNORE INTO stretches VALUES (?)", (start,))
        except sqlite3.Error as error:
            raise UnvanishError(
                f"cannot write to {str(self.path)!r}: {error}; what was done before is in it, and the same sweep goes"
                " on from there"
            ) from None

    def close(self) -> None:
        """Fold what was written into the one file; on a full disk it stays in the log beside it."""
        with contextlib.suppress(sqlite3.Error):
            self.base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.base.execute("PRAGMA journal_mode=DELETE")  # else whoever reads it would leave a log beside it
        self.base.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _difference(there: Mapping[str, Any], grid: Grid) -> str:
    """The first thing in which the sweep of a file differs from this one, in words."""
    here = json.loads(json.dumps(grid.identity()))
    name = next((key for key in here if there.get(key) != here[key]), "")
    if name == "axes":
        names = [axis[0] for axis in there["axes"]], [axis[0] for axis in here["axes"]]
        if names[0] == names[1]:
            one = next(i for i, (a, b) in enumerate(zip(there["axes"], here["axes"], strict=True)) if a != b)
            return f"other values of {names[0][one]}"
        return f"it varies {', '.join(names[0]) or 'nothing'}"
    return f"{name} is {there.get(name)!r} there and {here[name]!r} here"


@contextlib.contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection, None, None]:
    """The file, open for reading; UnvanishError where it is damaged, or none of ours."""
    try:
        with contextlib.closing(_opened(path)) as base:
            yield base
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UnvanishError(f"reading {str(path)!r} as the file of a sweep: {error}") from None


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)


def read(path: Path, grid: Grid, query: str = "", values: Sequence[Any] = ()) -> Iterator[dict[str, Any]]:
    """The rows of a file in order, with what is fixed beside what varies; ``query``: a WHERE clause."""
    columns = ("point", "seed", *grid.names, *RESULTS)
    kinds = (int, int, *[(int, float, str)] * len(grid.names), *map(KINDS.__getitem__, RESULTS))
    with reading(path) as base:
        named = ", ".join(_quoted(name) for name in columns)
        cursor = base.execute(f"SELECT {named} FROM results {query} ORDER BY point, seed", values)
        while some := cursor.fetchmany(FETCHED):
            for row in some:
                if not all(map(isinstance, row, kinds)):
                    raise _other_values(path)
                record = dict(zip(columns, row, strict=True))
                head = {"point": record.pop("point"), "seed": record.pop("seed")}
                yield {**head, **grid.fixed, **record}


def check_results(path: Path, base: sqlite3.Connection) -> None:
    """UnvanishError where a result is not of the type of its column: SQLite takes anything in any column."""
    wrong = [f"typeof({name}) NOT IN ({_sql(kinds)})" for name, kinds in KINDS.items()]
    if base.execute(f"SELECT 1 FROM results WHERE {' OR '.join(wrong)} LIMIT 1").fetchone():
        raise _other_values(path)


def _sql(kinds: tuple[type, ...]) -> str:
    names = {int: "'integer'", float: "'real'", str: "'text'", type(None): "'null'"}
    return ", ".join(names[kind] for kind in kinds)


def _other_values(path: Path) -> UnvanishError:
    return UnvanishError(f"reading {str(path)!r}: it is damaged, or was not written by unvanish")


def grid_of(path: Path) -> Grid:
    """The grid that a file was made for; UnvanishError where it holds no sweep."""
    try:
        with contextlib.closing(_opened(path)) as base:
            known = dict(base.execute("SELECT key, value FROM sweep"))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UnvanishError(f"{str(path)!r} is not the .sqlite file of a sweep: {error}") from None
    if known.get("schema") != SCHEMA:
        raise UnvanishError(f"{str(path)!r} is of schema {known.get('schema')!r}, not {SCHEMA!r}")
    try:
        return Grid.of(json.loads(known["grid"]))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise UnvanishError(f"{str(path)!r} holds no grid that can be read: {error}") from None


def export(path: Path, file: Path, grid: Grid) -> None:
    """Write all rows to a .csv or .parquet file; it appears when it is whole."""
    beside = path.with_name(f".{path.name}.part")
    try:
        if path.suffix.lower() == ".csv":
            _csv(beside, read(file, grid))
        else:
            _parquet(beside, read(file, grid), grid)
        os.replace(beside, path)
    except OSError as error:
        raise UnvanishError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)


def _csv(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as sheet:
        writer = csv.writer(sheet, lineterminator="\n")
        for place, row in enumerate(rows):
            if not place:
                writer.writerow(row)
            writer.writerow("" if value is None else value for value in row.values())


def need_pyarrow() -> Any:
    """pyarrow with its Parquet part; UnvanishError where it is not installed."""
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UnvanishError(
            "a .parquet file needs pyarrow, which is not installed: pip install pyarrow, or name a .csv or .sqlite file"
        ) from None
    return pyarrow


def _parquet(path: Path, rows: Iterator[dict[str, Any]], grid: Grid) -> None:
    arrow = need_pyarrow()
    kinds = column_kinds(grid)
    types = {"int": arrow.int64(), "float": arrow.float64(), "text": arrow.string()}
    schema = arrow.schema([(name, types[kind]) for name, kind in kinds.items()])
    texts = [name for name, kind in kinds.items() if kind == "text"]
    with arrow.parquet.ParquetWriter(str(path), schema) as writer:
        while batch := list(itertools.islice(rows, FETCHED)):
            for row in batch:
                row.update({name: str(row[name]) for name in texts if row[name] is not None})
            writer.write_table(arrow.Table.from_pylist(batch, schema=schema))


def column_kinds(grid: Grid) -> dict[str, str]:
    """What every column of a row holds: "int", "float" or "text". A setting with words among its values is text."""
    settings = {name: (value,) for name, value in grid.fixed.items()}
    settings |= {axis.name: axis.values or (0 if axis.whole else 0.5,) for axis in grid.axes}
    kinds = {"point": "int", "seed": "int"}
    for name, values in settings.items():
        whole = all(isinstance(value, int) for value in values)
        kinds[name] = "int" if whole else "text" if any(isinstance(v, str) for v in values) else "float"
    return {**kinds, **{name: "text" if KINDS[name] is TEXT else "float" for name in RESULTS}}

"""``unvanish.sweep``: a grid of networks, measured and, where asked, trained; results go to one file as they come."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from unvanish.population.data import load
from unvanish.population.factory import arguments
from unvanish.population.grid import Grid, read_grid
from unvanish.population.lasting import Stretch, lasting, limits_of, lost, work_on
from unvanish.population.row import Row
from unvanish.population.store import EXPORTS, SUFFIXES, Store, export, grid_of, need_pyarrow, read
from unvanish.population.work import rows, stretch
from unvanish.records import UnvanishError
from unvanish.workers import cluster
from unvanish.workers.local import answers, cores
from unvanish.workers.process import Process

Progress = Callable[[float, str], None]
ALONE = 3.0
"""Seconds of work after which other processes are worth their start, if as much again is left."""


@dataclass(frozen=True)
class Points(Sequence[Mapping[str, Any]]):
    """One mapping a point and seed, read from the file when it is asked for."""

    path: Path
    grid: Grid

    def __len__(self) -> int:
        return self.grid.points * self.grid.seeds

    @overload
    def __getitem__(self, at: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"point {at} of {len(self)}")
        point, seed = divmod(place, self.grid.seeds)
        return next(read(self.path, self.grid, "WHERE point = ? AND seed = ?", (point, seed)))

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return read(self.path, self.grid)


@dataclass(frozen=True, repr=False)
class Sweep:
    """A finished sweep. ``path``: the file that was asked for; ``print(sweep)`` shows its table and map."""

    path: Path
    grid: Grid
    file: Path

    @property
    def points(self) -> Points:
        """One mapping a point and seed: its settings and what was found; see ``unvanish.sweep``."""
        return Points(self.file, self.grid)

    def to_pandas(self) -> Any:
        """All points as a pandas DataFrame; UnvanishError where pandas is not installed."""
        try:
            import pandas  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
        except ImportError:
            raise UnvanishError("to_pandas() needs pandas, which is not installed: pip install pandas") from None
        return pandas.DataFrame(list(self.points))

    def save(self, path: str | Path) -> None:
        """Write all points to a .csv or .parquet file, or the map of two settings to .svg, .png or .pdf."""
        target = Path(path)
        if target.suffix.lower() in EXPORTS:
            export(target, self.file, self.grid)
            return
        self.chart().save(target)

    def chart(self) -> Any:
        """The map of the two settings that vary most; UnvanishError where fewer than two numbers vary."""
        from unvanish.population.summary import chart

        return chart(self.file, self.grid)

    def text(self, width: int | None = None) -> str:
        """Its table and map; ``width``: the columns of the terminal, into which they are fitted."""
        from unvanish.population.summary import text

        return text(self.file, self.grid, width)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__


def sweep(
    grid: str | Path | Mapping[str, Any],
    on: str = "local",
    to: str | Path | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Measure every network of a grid: a TOML file, or the same as a dict.

    ``to``: the file, .sqlite, .db, .csv or .parquet; the last two are written at the end, and a .sqlite file of the
    same name beside them holds the results as they come. None: a file in the temporary directory. An interrupted sweep
    goes on when it is called with the same grid and ``to``; nothing is repeated but the stretch that was being worked
    on, and a finished one is written in another format at once. ``on``: "local", this machine, with one process a core
    as soon as that pays; "ray", the Ray cluster that runs here, or one started for it; "ray://HOST:PORT", one that is
    reached from outside. ``progress`` is told the share done and the time left.

    Every item of ``.points`` has ``point``, ``seed``, the settings, and: ``log10_signal_ratio`` (of the error signal,
    first layer over last), ``predicted_log10_signal_ratio`` (mean-field theory; None for a model of your own),
    ``log10_gain`` (the ratio a layer), ``log10_transmission`` of the first layer and
    ``log10_lowest_transmission`` of any, ``log10_rise`` (of the relative sensitivity), ``verdict``; with training
    ``accuracy``, ``training_loss`` and ``log10_speeds`` (by layer, of the rms over the steps of ‖∂C/∂W‖), else None;
    ``error``, "" where there was none. Logarithms are base 10.

    Raises UnvanishError, with the line, for a grid that cannot be read, and for a file of another sweep.
    """
    on_ray = cluster.is_cluster(on, "sweep")
    asked = read_grid(grid)
    _check_own(asked)
    target = Path(to) if to is not None else Path(tempfile.mkdtemp(prefix="unvanish-")) / "sweep.sqlite"
    file = _file(target)
    tell = progress or (lambda share, what: None)
    store = Store(file, asked, stretch(asked))
    try:
        if on_ray:
            with cluster.connected(on, _folder(asked)) as ray:
                _run(store, tell, ray)
        else:
            _run(store, tell)
    finally:
        store.close()
    finished = Sweep(target, asked, file)
    if target != file:
        finished.save(target)
    return finished


def opened(path: str | Path) -> Sweep:
    """The sweep of a .sqlite or .db file, finished or not; UnvanishError where it is none."""
    file = Path(path)
    return Sweep(file, grid_of(file), file)


def _file(target: Path) -> Path:
    """Where the results go while they come; UnvanishError for a file that cannot be written at the end."""
    suffix = target.suffix.lower()
    if suffix not in (*SUFFIXES, *EXPORTS):
        wrong = f"the suffix {suffix!r}" if suffix else "no suffix"
        raise UnvanishError(f"{str(target)!r}: {wrong}; name a file with {', '.join((*SUFFIXES, *EXPORTS))}")
    if not target.parent.is_dir():
        raise UnvanishError(f"cannot write {str(target)!r}: there is no directory {str(target.parent)!r}")
    if suffix == ".parquet":
        need_pyarrow()
    return target if suffix in SUFFIXES else target.with_suffix(".sqlite")


def _check_own(grid: Grid) -> None:
    """That the user's own functions are there and take what they will be given."""
    if grid.train:
        with _named(grid, "data"):
            load(grid.data)
    if grid.model[0]:
        with _named(grid, "model"):
            name, what = arguments(grid.model, [*grid.names, *grid.fixed])
        if what:
            raise UnvanishError(f"{grid.place(name or 'model')}: {what}")


@contextlib.contextmanager
def _named(grid: Grid, name: str) -> Iterator[None]:
    """Let an error say which line of the grid it comes from."""
    try:
        yield
    except UnvanishError as error:
        raise UnvanishError(f"{grid.place(name)}: {error}") from error


def _folder(grid: Grid) -> Path | None:
    """Where the user's own code lies, if there is any."""
    file = grid.model[0] or (grid.data.rpartition(":")[0] if grid.train else "")
    return Path(file).parent if file else None


def _run(store: Store, tell: Progress, ray: Any = None) -> None:
    """Work through what is missing: on Ray, or alone at first and with other processes when it takes long."""
    grid = store.grid
    left = store.missing()
    begun, before = time.monotonic(), store.done()
    done = before

    def keep(start: int, measured: Sequence[Row]) -> float:
        """Write them down and say so; returns the seconds that the rest will take."""
        nonlocal done
        store.add(start, measured)
        done += len(measured) // grid.seeds
        rest = (time.monotonic() - begun) / max(1, done - before) * (grid.points - done)
        tell(done / grid.points, f"{done:,} of {grid.points:,} points, {duration(rest)} left")
        return rest

    if ray is not None:
        for start, measured in _on_ray(ray, grid, left, -(-(grid.points - before) // store.size)):
            keep(start, measured)
        return
    count = cores()
    if not grid.model[0]:  # code of the user's may take its process with it, and must not take this one
        for start, stop in left:
            rest = keep(start, rows(grid, start, stop))
            if count > 1 and time.monotonic() - begun > ALONE and rest > 2 * ALONE:
                break
    for start, measured in spread(grid, left, count):
        keep(start, measured)


def spread(grid: Grid, stretches: Iterator[Stretch], count: int) -> Iterator[tuple[int, list[Row]]]:
    """First point and rows of each stretch, in the order in which they are done, by so many processes."""
    limits = limits_of(grid, count)

    def do(process: Process, stretch: Stretch) -> tuple[int, list[Row]]:
        return stretch[0], lasting(process, grid, stretch, limits)

    return answers(work_on(grid), do, stretches, count)


def _on_ray(ray: Any, grid: Grid, stretches: Iterator[Stretch], total: int) -> Iterator[tuple[int, list[Row]]]:
    """The same by the workers of a cluster."""
    do = "unvanish.population.lasting:on_ray"
    for (start, stop), measured in cluster.answers(ray, work_on(grid), do, stretches, total):
        if isinstance(measured, cluster.LostJob):
            measured = lost(grid, start, stop, f"the workers of Ray that it was given to were lost ({measured.said})")
        yield start, measured


def duration(seconds: float) -> str:
    """ "8 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""A run, read back from its file: ``unvanish.load_run(path)``. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unvanish.records import Finding, UnvanishError
from unvanish.watching.run_file import Reader
from unvanish.watching.sample import FIELDS, NOTHING, SERIES
from unvanish.words.markup import h

if TYPE_CHECKING:
    from unvanish.report import Report


class Run:
    """What was watched, as it is in the file at this moment. ``print(run)`` shows the report of its end."""

    def __init__(self, path: str | Path) -> None:
        self._file = Reader(path)

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def facts(self) -> dict[str, Any]:
        """What was written of the whole run: when it started and ended, every how many steps, why it ended."""
        return self._file.facts

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The sampled steps; where old ones were thinned, the first of each stretch."""
        return tuple(first for first, *_ in self._file.ask("SELECT step FROM samples ORDER BY step"))

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in the order of the model."""
        return tuple(column.name for column in self._file.columns())

    def metrics(self, name: str) -> dict[str, tuple[float, ...]] | tuple[float, ...]:
        """A number over time, one value for each of ``steps``; NaN where it was not measured.

        Of the whole step ("loss", "learning_rate", "log10_grad_norm_clipped", "loss_scale") a tuple; of the layers
        ("log10_signal", "update_to_weight_ratio", …) a tuple for each by name. "log10_grad_norm" is that of the layers;
        the whole model's is "total_log10_grad_norm". Of a thinned stretch it is the highest value of a layer, the last
        of the whole. UnvanishError for another name.
        """
        return self.by_layer(name) if name in FIELDS else self.whole(name)

    def by_layer(self, name: str, lowest: bool = False) -> dict[str, tuple[float, ...]]:
        """A number of each layer over time; of a thinned stretch the highest value, or the ``lowest``."""
        if name not in FIELDS:
            raise _unknown(name)
        place, width, count = FIELDS.index(name), len(FIELDS), len(self.layers)
        rows: list[Sequence[float]] = []
        for numbers in self._file.extremes(lowest):
            mine = numbers[place::width][:count]
            rows.append(mine if len(mine) == count else [*mine, *[math.nan] * (count - len(mine))])
        return dict(zip(self.layers, zip(*rows, strict=True) if rows else ((),) * count, strict=True))

    def whole(self, name: str) -> tuple[float, ...]:
        """A number of the whole step over time; of a thinned stretch that of its last step."""
        plain = name.removeprefix("total_")
        if plain not in SERIES:
            raise _unknown(name)
        at = SERIES.index(plain)
        return tuple(series[at] if at < len(series) else math.nan for series in self._file.series())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that was found while it ran, in the order in which it began."""
        return tuple(finding for _, _, finding in self._file.findings())

    @property
    def episodes(self) -> tuple[tuple[int, int | None, Finding], ...]:
        """Each finding with the step at which it began, and the step since which it is over, or None."""
        return tuple(self._file.findings())

    def report(self) -> Report:
        """The last sampled step as a report, with the findings of the whole run that still hold or were errors.

        UnvanishError where no step was sampled.
        """
        from unvanish.watching.reporting import report_of

        return report_of(self._file)

    def full_report(self) -> Report | None:
        """The last full check or repetition of a step that was made while it ran; None where there was none."""
        from unvanish.report import Report

        rows = self._file.typed("SELECT report FROM reports ORDER BY id DESC LIMIT 1", (str,))
        return Report.from_json(rows[0][0]) if rows else None

    def last_report(self) -> Report:
        """The last full check, where it is as new as the last sampled step; else that. With all the run's findings.

        A run that was stopped with a check shows this check.
        """
        from unvanish.watching.reporting import last_of

        return last_of(self._file)

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row a sampled step and layer; UnvanishError where pandas is not installed."""
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UnvanishError("to_pandas() needs pandas, which is not installed: pip install pandas") from None
        return pandas.DataFrame(self._table())  # pyright: ignore

    def _table(self) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in ("step", "layer", *FIELDS)}
        for first, _, _, _, high in self._file.samples():
            for at, layer in enumerate(self.layers):
                mine = high[at * len(FIELDS) : (at + 1) * len(FIELDS)] or NOTHING
                columns["step"].append(first)
                columns["layer"].append(layer)
                for name, value in zip(FIELDS, mine, strict=True):
                    columns[name].append(value)
        return columns

    def __str__(self) -> str:
        try:
            return str(self.report())
        except UnvanishError as error:
            return str(error)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return in_a_notebook(self.report)


def in_a_notebook(report: Callable[[], Report]) -> str:
    """A report as a notebook shows it, or why there is none: the output of a cell is no place for a traceback."""
    try:
        return report()._repr_html_()
    except UnvanishError as error:
        return h("p", str(error))


def _unknown(name: str) -> UnvanishError:
    known = [*FIELDS, *(f"total_{each}" if each in FIELDS else each for each in SERIES)]
    return UnvanishError(f"a run has no metric {name!r}; it has {', '.join(known)}")


def load_run(path: str | Path) -> Run:
    """The run in a file that ``unvanish.watch`` or ``unvanish run`` wrote, also while it is being written.

    Raises UnvanishError where there is no such file, or where it is none of ours.
    """
    return Run(path)

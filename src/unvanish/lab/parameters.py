"""The settings of an experiment: each has a name, a default, bounds and a unit, and is checked in one place."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from unvanish.records import UnvanishError

Value = int | float | bool | str | tuple[float, ...]
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
LONGEST_ECHO = 40


@dataclass(frozen=True)
class Parameter:
    """One setting. The default says what kind it is: int, float, bool, str, or a tuple of floats written "0.1,2,-3".

    ``low`` and ``high`` are included in the range; of a tuple they bound each number, and ``most`` bounds how many
    there are. ``choices`` are the only values allowed. ``log``: a slider moves by factors. ``slide``: the part of
    the range that a slider covers, where the whole would be too coarse. ``quick``: with the setting of that name no
    number is larger, and no list longer, than this. ``local``: it names a file or folder of this machine, which a page
    must not choose.
    """

    name: str
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    log: bool = False
    most: int = 1_000
    slide: tuple[float, float] | None = None
    quick: int | None = None
    local: bool = False

    @property
    def kind(self) -> str:
        """ "int", "float", "bool", "str" or "list"."""
        return "list" if isinstance(self.default, tuple) else type(self.default).__name__

    @property
    def allowed(self) -> str:
        """What the setting takes, in words: "a whole number from 1 to 100,000"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind in ("bool", "str"):
            return "true or false" if self.kind == "bool" else "a text"
        noun = {"int": "a whole number", "float": "a number", "list": f"1 to {self.most:,} numbers with commas between"}
        low, high = (None if bound is None else f"{bound:,.10g}" for bound in (self.low, self.high))
        span = f" from {low} to {high}" if low and high else f" of at least {low}" if low else ""
        span = span or (f" of at most {high}" if high else "")
        return f"{noun[self.kind]}{', each' if self.kind == 'list' and span else ''}{span}"

    def parse(self, text: str) -> Value:
        """The value a text stands for, as on a command line or in an address; UnvanishError where it is not allowed."""
        stripped = text.strip()
        try:
            if self.kind == "bool":
                return self.check(_TRUTH[stripped.lower()])
            if self.kind == "list":
                return self.check(tuple(float(part) for part in stripped.split(",")))
            return self.check(stripped if self.kind == "str" else float(stripped))
        except (ValueError, KeyError) as error:
            raise error if isinstance(error, UnvanishError) else self._refusal(text) from None

    def check(self, value: Any) -> Value:
        """The value in this setting's own type; UnvanishError with the allowed range where it is not allowed."""
        if self.kind == "str":
            return self._choice(value)
        if self.kind == "bool":
            if not isinstance(value, bool):
                raise self._refusal(value)
            return value
        if self.kind == "list":
            return self._numbers(value)
        number = self._number(value)
        if self.kind == "int":
            if number != int(number):
                raise self._refusal(value)
            return int(number)
        return number

    def quickly(self, value: Any) -> Value:
        """The value that ``quick`` leaves of a checked one: a smaller number, or a list thinned out evenly."""
        if self.quick is None:
            return value
        if not isinstance(value, tuple):
            return min(value, self.quick)
        numbers = cast("tuple[float, ...]", value)
        apart = max(len(numbers) - 1, 1) / (self.quick - 1)
        return tuple(numbers[round(turn * apart)] for turn in range(self.quick)) if len(numbers) > self.quick else value

    def _choice(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._refusal(value)
        if self.choices and value not in self.choices:
            raise self._refusal(value, nearest(value, self.choices))
        return value

    def _numbers(self, value: Any) -> tuple[float, ...]:
        if isinstance(value, (int, float)):
            value = (value,)
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            raise self._refusal(value)
        numbers = tuple(self._number(each) for each in cast("Iterable[Any]", value))
        if not 1 <= len(numbers) <= self.most:
            raise self._refusal(f"{len(numbers):,} numbers")
        return numbers

    def _number(self, value: Any) -> float:
        if isinstance(value, (bool, str, bytes)):
            raise self._refusal(value)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise self._refusal(value) from None
        if not math.isfinite(number):
            raise self._refusal(value)
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            raise self._refusal(value)
        return number

    def _refusal(self, value: Any, hint: str = "") -> UnvanishError:
        text = value if isinstance(value, str) else f"{value:.10g}" if isinstance(value, float) else repr(value)
        short = text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}…"
        return UnvanishError(f"{self.name} is {short!s}; it takes {self.allowed}{hint}")


_TRUTH = {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}


class Settings(Mapping[str, Any]):
    """The checked settings of one run: ``s.depth`` or ``s["depth"]``; ``s.given`` names those that were set."""

    def __init__(self, values: Mapping[str, Value], given: Iterable[str] = ()) -> None:
        self._values = dict(values)
        self.given = frozenset(given)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"this experiment has no setting {name!r}") from None

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._values.items()}


def settle(
    parameters: Sequence[Parameter], given: Mapping[str, Any], where: str, preset: Mapping[str, Any]
) -> Settings:
    """Every setting's value: as given, else as in the preset, else its default; texts are parsed, and ``quick`` limits.

    ``where`` begins the message of the UnvanishError that an unknown name or a value out of range raises.
    """
    by_name = {parameter.name: parameter for parameter in parameters}
    values: dict[str, Value] = {parameter.name: parameter.default for parameter in parameters}
    for name, value in {**preset, **given}.items():
        parameter = by_name.get(name)
        if parameter is None:
            raise UnvanishError(f"{where}: there is no setting {name!r}{nearest(name, tuple(by_name))}")
        values[name] = _within(where, parameter.parse if isinstance(value, str) else parameter.check, value)
    if values.get("quick"):
        values = {name: by_name[name].quickly(value) for name, value in values.items()}
    return Settings(values, given)


def _within(where: str, read: Callable[[Any], Value], value: Any) -> Value:
    try:
        return read(value)
    except UnvanishError as error:
        raise UnvanishError(f"{where}: {error}") from None


def nearest(name: str, names: Sequence[str]) -> str:
    """The end of a message about an unknown name: the names most like it, or all of them."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are {', '.join(names)}" if names else ""


FOLDER = Parameter(
    "folder", "", "a folder with a full copy of MNIST; empty: the 1,000 digits of the package", local=True
)
TUNED_ON_DIGITS = (
    Parameter("data", "mnist", "1,000 MNIST digits, or scikit-learn's 8 × 8 digits", choices=("mnist", "digits")),
    Parameter("images", 1_000, "60% of them to train on, 20% to choose a rate by, 20% to judge", 100, 70_000, log=True),
    FOLDER,
    Parameter("steps", 300, "optimizer steps, on batches of 100 images", 1, 10_000, log=True, quick=150),
    Parameter("seeds", 3, "networks trained at each learning rate, from different weights", 1, 20),
)
"""The settings of experiments that train every network on digits at several learning rates."""

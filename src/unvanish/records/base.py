"""What every record is: frozen, compared by value, and the same after a JSON round trip."""

from __future__ import annotations

import math
from typing import Any, TypeVar, cast

import msgspec

R = TypeVar("R", bound="Record")
S = TypeVar("S", bound=msgspec.Struct)


class UnvanishError(ValueError):
    """The one error of this package: what was asked, what was found, what to try."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen bag of named values."""

    def replace(self: R, **changes: Any) -> R:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)

    def _repr_html_(self) -> str:
        from unvanish.words.show import record_html

        return record_html(type(self).__name__, msgspec.structs.asdict(self).items())


def to_builtins(record: Record) -> Any:
    """Dicts, lists, numbers and strings; non-finite numbers become the strings "-inf", "inf" and "nan"."""
    return _spell(msgspec.to_builtins(record))


def from_builtins(data: Any, kind: type[S]) -> S:
    """The record of type ``kind`` that ``to_builtins`` turned into ``data``."""
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UnvanishError(f"reading a {kind.__name__}: {error}; was the file written by unvanish?") from None
    except UnicodeEncodeError:  # msgspec would have named the wrong text, and half characters are none
        raise UnvanishError(
            f"reading a {kind.__name__}: a text that is no Unicode stands where another value belongs; was the file"
            " written by unvanish?"
        ) from None


def _spell(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return "nan" if math.isnan(data) else "inf" if data > 0 else "-inf"
    if isinstance(data, dict):
        return {key: _spell(value) for key, value in cast("dict[str, Any]", data).items()}
    if isinstance(data, (list, tuple)):
        return [_spell(value) for value in cast("list[Any]", data)]
    return data

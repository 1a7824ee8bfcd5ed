"""How every text, page and picture writes a number of any size, most of them given by their base-10 logarithm."""

from __future__ import annotations

import math
from typing import Any

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
ABSENT = "not measured"
SMALLEST_NORMAL = {
    "float16": -14 * math.log10(2),
    "float32": -126 * math.log10(2),
    "bfloat16": -126 * math.log10(2),
    "float64": -1022 * math.log10(2),
}
"""log10 of the smallest number that each type holds with all its digits."""
PLAIN_FROM, PLAIN_TO = -2, 4
"""Numbers from 10^-2 up to 10^4 are written out; beyond, the zeros would have to be counted."""
LISTED = 12
"""The numbers of a setting that is a list, as far as a line of settings shows them."""


def raised(exponent: int) -> str:
    """An exponent in superscript: ``raised(-27)`` is "⁻²⁷"."""
    return str(exponent).translate(_RAISED)


def decade(exponent: int) -> str:
    """A whole power of ten, as on an axis: "10⁻²⁷", "1" for 10⁰, "10" for 10¹."""
    return {0: "1", 1: "10"}.get(exponent, f"10{raised(exponent)}")


def amount(log10: float | None, digits: int = 2) -> str:
    """A number with ``digits`` significant digits: "2.1·10⁻²⁷", "0.031", "120"; "exactly 0" for a true zero."""
    if log10 is None:
        return ABSENT
    if not math.isfinite(log10):
        return "not a number" if math.isnan(log10) else "exactly 0" if log10 < 0 else "infinite"
    exponent = math.floor(log10)
    leading = round(10 ** (log10 - exponent), digits - 1)
    if leading >= 10:
        leading, exponent = 1.0, exponent + 1
    if PLAIN_FROM <= exponent < PLAIN_TO:
        return f"{leading * 10.0**exponent:.{max(digits - 1 - exponent, 0)}f}"
    return f"{leading:.{digits - 1}f}·{decade(exponent)}"


def times(log10: float | None, digits: int = 2) -> str:
    """A factor: "×0.04", "×12", "×2.1·10⁻²⁷"; "×0" for a true zero, "×1" for a factor of one."""
    if log10 is None:
        return ABSENT
    if log10 == -math.inf:
        return "×0"
    if math.isnan(log10):
        return amount(log10)
    if log10 == math.inf:
        return "×∞"
    said = amount(log10, digits)
    return f"×{said.rstrip('0').rstrip('.')}" if "." in said and "·" not in said else f"×{said}"


def number(value: float) -> str:
    """A number with six digits; a whole one in full as far as it is short."""
    if isinstance(value, int) or (math.isfinite(value) and value.is_integer() and abs(value) < 1e9):
        return f"{value:,.0f}"
    return f"{value:.6g}"


def decimal(log10: float) -> str:
    """The number a logarithm stands for, with four digits, whatever its size: "2.079e-27", "3.316e-1371"."""
    if not math.isfinite(log10):
        return {-math.inf: "0", math.inf: "inf"}.get(log10, "nan")
    if -3 <= log10 < 4:
        return f"{10**log10:.4g}"
    exponent = math.floor(log10)
    mantissa = f"{10 ** (log10 - exponent):.3f}"
    if mantissa == "10.000":
        mantissa, exponent = "1.000", exponent + 1
    return f"{mantissa}e{exponent:+03d}"


def spell(value: Any) -> str:
    """A setting as it is written on a command line; long lists are cut short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        shown = ",".join(spell(each) for each in value[:LISTED])  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return shown + ",…" if len(value) > LISTED else shown  # pyright: ignore[reportUnknownArgumentType]
    return f"{value:.10g}" if isinstance(value, float) else str(value)

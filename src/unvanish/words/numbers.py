"""How every text, page and picture writes a number: one spelling, whoever writes it.

Between 10^-2 and 10^3 a number is written out; beyond, it is a power of ten, "10^-27.3", because what is read off it is
how many decades away it lies, and depth leads to powers that no type of number holds. Text is plain, so that terminals,
JSON and comma-separated values take it; pages and pictures raise the exponent of the same power (``raise_powers``).
Reports give two digits, which is as much as one batch says; the lab, which computes exactly, gives four.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

_RAISED = str.maketrans("-.0123456789", "⁻·⁰¹²³⁴⁵⁶⁷⁸⁹")
POWER = re.compile(r"10\^(-?\d+(?:\.\d+)?)")
ABSENT = "not measured"
SMALLEST_NORMAL = {
    "float16": -14 * math.log10(2),
    "float32": -126 * math.log10(2),
    "bfloat16": -126 * math.log10(2),
    "float64": -1022 * math.log10(2),
}
"""log10 of the smallest number that each type holds with all its digits."""
LARGEST = {"float16": 4.816, "bfloat16": 38.53, "float32": 38.53, "float64": 308.25}
"""log10 of the largest finite number of each type."""
PLAIN_FROM, PLAIN_TO = -2, 3
"""Numbers from 10^-2 up to 10^3 are written out; beyond, the zeros would have to be counted."""
MANY_DECADES = 99.95
"""So many decades away, a tenth of one tells a reader of two digits nothing."""
EXACT = 4
"""Significant digits of the lab."""
LISTED = 12
"""The numbers of a setting that is a list, as far as a line of settings shows them."""


def raise_powers(text: str) -> str:
    """The text with its powers of ten as pictures set them: "10⁻²⁷·³" for "10^-27.3"."""
    return POWER.sub(lambda match: f"10{match[1].translate(_RAISED)}", text)


def decade(exponent: int) -> str:
    """A whole power of ten, as on an axis: "10⁻²⁷", "1" for 10⁰, "10" for 10¹."""
    return {0: "1", 1: "10"}.get(exponent, raise_powers(f"10^{exponent}"))


def amount(log10: float | None, digits: int = 2) -> str:
    """A number from its logarithm, with ``digits`` significant digits: "10^-27.3", "0.031", "120".

    "exactly 0" is a true zero, and "not measured" stands for None.
    """
    if log10 is None:
        return ABSENT
    if not math.isfinite(log10):
        return "exactly 0" if log10 == -math.inf else str(log10)
    exponent = math.floor(log10)
    leading = round(10 ** (log10 - exponent), digits - 1)
    if leading >= 10:
        leading, exponent = 1.0, exponent + 1
    if PLAIN_FROM <= exponent < PLAIN_TO:
        return f"{leading * 10.0**exponent:.{max(digits - 1 - exponent, 0)}f}"
    decimals = 0 if digits == 2 and abs(log10) >= MANY_DECADES else digits - 1
    # adding zero turns -0.0 into 0.0
    return f"10^{round(log10, decimals) + 0.0:.{decimals}f}"


def times(log10: float | None) -> str:
    """A factor from its logarithm: "×0.25", "×12", "×10^-27.3"; "×0" for a true zero."""
    if log10 is None:
        return ABSENT
    return "×0" if log10 == -math.inf else f"×{amount(log10)}"


def number(value: float | None, digits: int = 4, power_digits: int = 2) -> str:
    """A plain number with a few digits; whole ones in full up to 10^9, the very small and the very large as powers.

    ``power_digits``: the significant digits of those that are written as powers of ten.
    """
    if value is None:
        return ABSENT
    if math.isfinite(value) and value and not 1e-4 <= abs(value) < 1e9:
        return ("-" if value < 0 else "") + amount(math.log10(abs(value)), power_digits)
    if not 1 <= abs(value) < 1e9:
        return f"{value:.{digits}g}"
    if value == round(value, 0):
        return f"{value:,.0f}"
    short = float(f"{value:.{digits}g}")
    return f"{short:,.0f}" if short == round(short, 0) else f"{short:,.{digits}g}"


def exact(value: float) -> str:
    """A plain number of the lab: six digits, and four of those that are written as powers of ten."""
    return number(value, 6, EXACT)


def exactly(log10: float) -> str:
    """A number of the lab from its logarithm, with four digits: "0.04219", "10^-26.682"; "0" for a true zero."""
    return "0" if log10 == -math.inf else amount(log10, EXACT)


def percent(share: float | None) -> str:
    """A share as a percentage, "23%"; as a power of ten where that would take too many zeros."""
    if share is None:
        return ABSENT
    return amount(math.log10(share)) if 0 < share < 1e-5 else f"{number(100 * share, 3)}%"


def score(value: float | None) -> str:
    """The score of a network on data, with three decimals; fewer for large ones."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def counted(count: int, what: str) -> str:
    """A count with its noun: "1 layer", "3 layers"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def spell(value: Any) -> str:
    """A setting as it is written on a command line; long lists are cut short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        shown = ",".join(spell(each) for each in value[:LISTED])  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return shown + ",…" if len(value) > LISTED else shown  # pyright: ignore[reportUnknownArgumentType]
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def listing(items: Iterable[str], most: int = 3) -> str:
    """Distinct items, the first few spelled out: "a, b, c and 4 more"."""
    distinct = list(dict.fromkeys(items))
    rest = len(distinct) - most
    return ", ".join(distinct[:most]) + (f" and {rest:,} more" if rest > 0 else "")

"""A check as an assertion: what a test suite calls so that a fault in the gradient flow fails the build.

torch is imported when a problem is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from unvanish.records import UnvanishError
from unvanish.report import Report, filter_findings

if TYPE_CHECKING:
    from unvanish.problem import Problem

WIDTH = 72  # pytest indents what an assertion says by eight columns, and a terminal has eighty


def assert_healthy(problem: Problem, ignore: Iterable[str] = ()) -> Report:
    """Check a Problem; AssertionError with the text report if a finding of level "error" is left, else the report.

    ``ignore``: codes, or their beginnings, of findings that do not count, such as ``("UV704", "UV3")``; they are left
    out of the report too. Raises UnvanishError where the arguments make no sense or nothing can be checked. Works under
    ``python -O``, which drops assert statements.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line, not this function
    codes = _codes(ignore)
    from unvanish.pipeline import diagnose

    report = filter_findings(diagnose(_problem(problem)), ignore=codes)
    if report.healthy:
        return report
    from unvanish.report.text import render

    errors = ", ".join(f"{f.verdict} ({f.code})" for f in report.findings if f.level == "error")
    # A statement `assert` would be dropped by -O.
    raise AssertionError(f"the network is not healthy: {errors}\n\n{render(report, WIDTH)}")


def _problem(given: object) -> Problem:
    from unvanish.problem import Problem

    if isinstance(given, Problem):
        return given
    makes_one = callable(given) and not isinstance(given, type) and not hasattr(given, "parameters")
    hint = "call the function and pass what it returns" if makes_one else "make one of it: Problem(model, inputs, …)"
    raise UnvanishError(f"assert_healthy(problem) takes an unvanish.Problem, not a {type(given).__name__}; {hint}")


def _codes(ignore: object) -> tuple[str, ...]:
    if isinstance(ignore, str) or not isinstance(ignore, Iterable):
        raise UnvanishError(
            f"assert_healthy(ignore=…) takes codes in a tuple or list, such as ('UV101', 'UV3'), not {ignore!r:.80}"
        )
    codes = tuple(cast("Iterable[Any]", ignore))
    if wrong := [
        code for code in codes if not isinstance(code, str) or not re.fullmatch(r"UV[0-9]{1,3}", code.upper())
    ]:
        raise UnvanishError(
            f"assert_healthy(ignore=…) got {wrong[0]!r:.80}, which is no code or beginning of one, such as 'UV101' or"
            " 'UV3'; `unvanish explain` lists the codes"
        )
    return codes

"""One file a rule. A rule is a pure function of a Flow; its docstring is its documentation.

A rule's file holds one function decorated with ``@rule(code, title, fires_on=…, silent_on=…)``. ``fires_on`` and
``silent_on`` name networks of the zoo; one generic test proves every rule in both directions on them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from unvanish.records import CallFlow, Finding, Flow

Judge = Callable[[Flow], "list[Finding]"]
_registry: dict[str, Rule] = {}


@dataclass(frozen=True)
class Rule:
    """A registered rule: its code, the word of its verdict, its place in the order, and the function that judges."""

    code: str
    verdict: str
    title: str
    order: int
    judge: Judge
    fires_on: tuple[str, ...]
    silent_on: tuple[str, ...]

    @property
    def doc(self) -> str:
        return self.judge.__doc__ or ""


def rule(
    code: str, verdict: str, title: str, *, order: int, fires_on: tuple[str, ...], silent_on: tuple[str, ...]
) -> Callable[[Judge], Judge]:
    """Register a rule. Refuses a second rule of the same code, a missing docstring, and a rule nothing proves."""

    def register(judge: Judge) -> Judge:
        if code in _registry:
            raise ValueError(f"{code} is registered twice")
        if not judge.__doc__:
            raise ValueError(f"{code} needs a docstring: it is its documentation")
        if not fires_on or not silent_on:
            raise ValueError(f"{code} needs networks it fires on and networks it is silent on")
        _registry[code] = Rule(code, verdict, title, order, judge, fires_on, silent_on)
        return judge

    return register


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, in the order in which findings are reported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted(_registry.values(), key=lambda r: (r.order, r.code)))


def judge(flow: Flow) -> tuple[Finding, ...]:
    """All findings about a flow whose layers have been decided, most severe first."""
    there = _activation(flow.calls)
    found = [_without(there, finding) for each in rules() for finding in each.judge(flow)]
    return tuple(sorted(found, key=lambda f: f.level != "error"))


def _activation(calls: Sequence[CallFlow]) -> str:
    """The remedy that would put in the activation most of the network has already; "" where there is none."""
    names = [call.name.strip("_").replace("_", "-") for call in calls if call.role == "slopes" and call.part == "model"]
    often = Counter(names).most_common(1)
    return f"activation-{often[0][0]}" if often and 2 * often[0][1] > len(names) else ""


def _without(remedy: str, finding: Finding) -> Finding:
    return finding.replace(remedies=tuple(slug for slug in finding.remedies if slug != remedy))

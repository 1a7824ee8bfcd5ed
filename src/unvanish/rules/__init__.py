"""One file a rule. A rule is a pure function of a Flow; its docstring is its documentation.

A rule's file holds one function decorated with ``@rule(code, verdict, title, tier=…, levels=…, …)``. It returns what it
has to say as Statements; their code, verdict and, where the rule has only one, their level come from the registration.
``fires_on`` and ``silent_on`` name networks of the zoo; one generic test proves every rule in both directions on them.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from unvanish.records import EVERYTHING, CallFlow, Evidence, Finding, Flow, Record
from unvanish.rules.events import EVENTS, Event
from unvanish.words.glossary import FLAGS, VERDICT_WORDS

LEVELS = ("error", "note")

TIERS = (
    "nonfinite", "dead_by_construction", "dead", "no_signal", "alike", "vanishing", "saddle", "exploding", "pairing",
    "inputs", "activations", "outputs", "flat_loss", "learning_rate", "slow", "rounding", "plateau", "unused",
    "remarks", "undecided",
)  # fmt: skip
"""The order in which findings are reported: what an earlier tier says explains what a later one sees. Within a tier the
codes decide."""


class Statement(Record, frozen=True, kw_only=True):
    """What a rule has to say about a flow: a Finding but for what its registration adds.

    ``level`` only where the rule is registered with more than one. ``remedies``: None for all that the rule is
    registered with, in that order; else some of them, in an order of its own.
    """

    level: str = ""
    layers: tuple[str, ...] = ()
    cause: str = ""
    message: str = ""
    evidence: tuple[Evidence, ...] = ()
    remedies: tuple[str, ...] | None = None


Judge = Callable[[Flow], "list[Statement]"]
_registry: dict[str, Rule] = {}


@dataclass(frozen=True)
class Rule:
    """A registered rule: its code, the word of its verdict, its place in the order, and the function that judges."""

    code: str
    verdict: str
    title: str
    tier: str
    levels: tuple[str, ...]
    judge: Judge
    fires_on: tuple[str, ...]
    silent_on: tuple[str, ...]
    remedies: tuple[str, ...] = ()
    needs: tuple[str, ...] = EVERYTHING

    @property
    def doc(self) -> str:
        return self.judge.__doc__ or ""


def rule(
    code: str,
    verdict: str,
    title: str,
    *,
    tier: str,
    levels: tuple[str, ...],
    fires_on: tuple[str, ...],
    silent_on: tuple[str, ...],
    remedies: tuple[str, ...] = (),
    needs: tuple[str, ...] = EVERYTHING,
) -> Callable[[Judge], Judge]:
    """Register a rule. What does not fit is refused when its file is imported, with what to write instead.

    ``tier``: its place in the order, one of TIERS. ``levels``: the levels its statements may have. ``remedies``: the
    remedies it may name. The networks and remedies themselves are unknown here; see ``refuse_unknown``. ``needs``: the
    measurements without which it cannot speak, by the names in ``records.EVERYTHING``; of a flow that was not asked for
    all of them, such as one of a running training, the rule is not asked. A rule that does not say needs everything.
    """

    def register(judge: Judge) -> Judge:
        made = Rule(code, verdict, title, tier, levels, judge, fires_on, silent_on, remedies, needs)
        if fault := _fault(made):
            raise ValueError(fault)
        _registry[code] = made
        return judge

    return register


def _home(made: Rule) -> tuple[str, str]:
    return made.judge.__module__, made.judge.__qualname__


def _fault(made: Rule) -> str:
    """What is wrong with a registration and what to write instead; "" where nothing is."""
    code = made.code
    if not re.fullmatch(r"UV\d{3}", code):
        return f"{code!r} is no code of a rule: write UV and three digits, such as UV101"
    known = _registry.get(code)
    if known is not None and _home(known) != _home(made):  # the same again: Ctrl-C came while its file was read
        return f"{code} is registered twice: give one of the two rules a code of its own"
    if not made.judge.__doc__:
        return f"{code} needs a docstring: it is its documentation"
    if "FILL IN" in made.judge.__doc__:
        return f"{code}: its text still says FILL IN"
    if not made.verdict:
        return f"{code} needs a verdict: one of the words of docs/rules.md"
    if made.verdict not in (*VERDICT_WORDS, *FLAGS):
        return (
            f"{code}: the glossary has no verdict {made.verdict!r};{near(made.verdict, VERDICT_WORDS)} a new one needs"
            " a row in VERDICTS of src/unvanish/words/glossary.py"
        )
    if made.tier not in TIERS:
        return f"{code}: there is no tier {made.tier!r}; choose one of {', '.join(TIERS)}"
    if not made.levels or not set(made.levels) <= set(LEVELS):
        return f"{code}: levels={made.levels!r} must be a tuple of one or both of {LEVELS}"
    if not made.fires_on or not made.silent_on:
        return f"{code} needs networks it fires on and networks it is silent on: name some of `unvanish zoo --list`"
    for name in ("levels", "fires_on", "silent_on", "remedies", "needs"):
        if isinstance(getattr(made, name), str):
            return f"{code}: {name}={getattr(made, name)!r} is a text; write a tuple, with a comma for a single name"
    for name in made.needs:
        if name not in EVERYTHING:
            return f"{code}: no measurement is called {name!r};{near(name, EVERYTHING)} records.EVERYTHING lists them"
    if both := set(made.fires_on) & set(made.silent_on):
        return f"{code}: {', '.join(sorted(both))} cannot stand in fires_on and in silent_on"
    return ""


def refuse_unknown(*, remedies: Collection[str] = (), networks: Collection[str] = ()) -> None:
    """Raise ValueError where a rule names a remedy or a network that is not among these; an empty one is not checked.

    Apart from the registration, because neither belongs to the rules: looking at the remedies needs torch.
    """
    for each in rules():
        for slug in each.remedies if remedies else ():
            if slug not in remedies:
                raise ValueError(
                    f"{each.code}: there is no remedy {slug!r};{near(slug, remedies)}"
                    " unvanish.remedies.remedies() lists them all"
                )
        for name in (*each.fires_on, *each.silent_on) if networks else ():
            if name not in networks:
                raise ValueError(
                    f"{each.code}: the zoo has no network {name!r};{near(name, networks)}"
                    " `unvanish zoo --list` shows them all"
                )


def near(word: str, known: Iterable[str]) -> str:
    """ " did you mean …?" with the names that begin with the word, and those most like it; "" where there are none."""
    known = list(known)
    begun = [each for each in known if len(word) > 2 and each.startswith(word)]
    nearest = [*dict.fromkeys([*begun, *difflib.get_close_matches(word, known, n=3, cutoff=0.5)])][:3]
    return f" did you mean {', '.join(nearest)}?" if nearest else ""


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, in the order in which findings are reported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted(_registry.values(), key=lambda r: (TIERS.index(r.tier), r.code)))


def known() -> tuple[Rule | Event, ...]:
    """All that a finding's code may stand for: the rules, and the changes that only a watched training shows."""
    return (*rules(), *EVENTS.values())


def judge(flow: Flow) -> tuple[Finding, ...]:
    """All findings about a flow whose layers have been decided, most severe first.

    A rule is asked only where all that it ``needs`` was asked for.
    """
    there = _activation(flow.calls)
    found = [
        _without(there, stamped(each, statement))
        for each in _asked(rules(), flow.asked)
        for statement in _said(each, flow)
    ]
    return tuple(sorted(found, key=lambda f: f.level != "error"))


def ask(code: str, flow: Flow) -> list[Finding]:
    """What one rule has to say about a flow that holds what it rests on, whatever else was asked for."""
    by = next(each for each in rules() if each.code == code)
    return [stamped(by, statement) for statement in _said(by, flow)]


_kept: dict[tuple[str, ...], tuple[tuple[Rule, ...], list[Rule]]] = {}


def _asked(those: tuple[Rule, ...], asked: tuple[str, ...]) -> list[Rule]:
    """The rules that may speak; a training that is watched asks the same at every sample."""
    kept = _kept.get(asked)
    if kept is None or kept[0] is not those:
        kept = _kept[asked] = those, [each for each in those if set(asked).issuperset(each.needs)]
    return kept[1]


def _said(by: Rule, flow: Flow) -> list[Statement]:
    """What the rule says; TypeError, with what to write instead, where that is no list of statements."""
    try:
        said: Any = by.judge(flow)
    except TypeError as error:
        if "Unexpected keyword argument" not in str(error):
            raise
        known = ", ".join(Statement.__struct_fields__)
        raise TypeError(
            f"{by.code}: {error}. A Statement has {known}; its code and verdict are those of @rule(…), and a second"
            " verdict is a second rule"
        ) from error
    if not isinstance(said, list):
        raise TypeError(f"{by.code} returned a {type(said).__name__}: return a list, [] for nothing to say")
    return cast("list[Statement]", said)


def stamped(by: Rule, statement: Statement) -> Finding:
    """The finding that a statement of this rule is: with its code, its verdict, and a level it is registered with.

    Raises TypeError or ValueError, with what to write instead, where the statement goes beyond the registration.
    """
    if not isinstance(statement, Statement):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"{by.code} returned a {type(statement).__name__}: return a list of Statement(…); its code, verdict and"
            " level are those of @rule(…)"
        )
    level = statement.level or (by.levels[0] if len(by.levels) == 1 else "")
    if level not in by.levels:
        known = " or ".join(f"level={each!r}" for each in by.levels)
        raise ValueError(
            f"{by.code} made a statement of level {level!r}, but is registered with levels={by.levels!r}: write {known}"
            " in the Statement, or change the registration"
        )
    remedies = by.remedies if statement.remedies is None else statement.remedies
    if strange := sorted(set(remedies) - set(by.remedies)):
        raise ValueError(
            f"{by.code} names {', '.join(strange)}, but is registered without: add it to the remedies of @rule(…)"
        )
    return Finding(
        code=by.code, verdict=by.verdict, level=level, layers=statement.layers, cause=statement.cause,
        message=statement.message, evidence=statement.evidence, remedies=remedies,
    )  # fmt: skip


def _activation(calls: Sequence[CallFlow]) -> str:
    """The remedy that would put in the activation most of the network has already; "" where there is none."""
    names = [call.name.strip("_").replace("_", "-") for call in calls if call.role == "slopes" and call.part == "model"]
    often = Counter(names).most_common(1)
    return f"activation-{often[0][0]}" if often and 2 * often[0][1] > len(names) else ""


def _without(remedy: str, finding: Finding) -> Finding:
    return finding.replace(remedies=tuple(slug for slug in finding.remedies if slug != remedy))

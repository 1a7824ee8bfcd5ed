"""What the five source documents claim, what is true of it, and the experiment that shows it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from unvanish.lab import Check, Column, Knob, Outcome, Progress, Settings, Stopped, experiment
from unvanish.lab import run as run_experiment
from unvanish.lab.writing import spell

VERDICTS = ("true", "false", "true only if")
TABLES = ("claims_000", "claims_001", "claims_002_003", "claims_004")
TRAINED = ("depth", "remedies")
"""Experiments that take more than a few seconds."""

Numbers = dict[str, float | str]
Run = Callable[..., Outcome]
Measure = Callable[[Run], tuple[Numbers, bool]]
_claims: list[Claim] = []


@dataclass(frozen=True)
class Claim:
    """One statement of a source document, in our words.

    ``truth`` has places in braces for the numbers that ``measure`` returns; its first number is the one of the table.
    ``measure`` runs the experiment with the settings, and says whether the numbers bear the verdict out.
    """

    source: str
    says: str
    verdict: str
    truth: str
    experiment: str
    measure: Measure
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        return getattr(self.measure, "__name__", "").replace("_", "-")

    @property
    def command(self) -> str:
        """The command line that shows it."""
        return " ".join(("unvanish lab", self.experiment, *(_option(*each) for each in self.settings.items())))


def claim(
    source: str, says: str, verdict: str, truth: str, experiment: str, **settings: Any
) -> Callable[[Callable[[Outcome, Run], tuple[Numbers, bool]]], None]:
    """Enter a claim into the table; the decorated function gets the outcome of the experiment with these settings."""

    def register(measure: Callable[[Outcome, Run], tuple[Numbers, bool]]) -> None:
        if verdict not in VERDICTS:
            raise ValueError(f"{measure.__name__}: the verdict {verdict!r} is none of {', '.join(VERDICTS)}")

        def measured(run: Run) -> tuple[Numbers, bool]:
            return measure(run(experiment, **settings), run)

        measured.__name__ = measure.__name__
        _claims.append(Claim(source, says, verdict, truth, experiment, measured, settings))

    return register


@cache
def claims() -> tuple[Claim, ...]:
    """Every claim, document by document."""
    for name in TABLES:
        importlib.import_module(f"unvanish.lab.{name}")
    return tuple(sorted(_claims, key=lambda each: each.source))


@experiment(
    "claims",
    title="What the documents claim, and what is true",
    question="Which statements of the five source documents hold, which do not, and by which number?",
    sources=("000", "001", "002", "003", "004"),
    settings=(
        Knob("trained", True, "also the claims for which networks are trained, about a minute"),
        Knob("document", "all", "one document, or all", choices=("all", "000", "001", "002", "003", "004")),
        Knob("verdict", "all", "one verdict, or all", choices=("all", *VERDICTS)),
    ),
)
def run(s: Settings, progress: Progress) -> Outcome:
    """One row for each claim: what it says in our words, the verdict, the measured number, and how to see it.

    Every number is measured when this runs, by the experiment that the row names, and each row is checked: the number
    must bear its verdict out. Experiments that several claims share run once.
    """
    asked = [each for each in claims() if s.document in ("all", each.source) and s.verdict in ("all", each.verdict)]
    chosen = [each for each in asked if s.trained or each.experiment not in TRAINED]
    look = _remembering(progress)
    rows: list[dict[str, Any]] = []
    checks: list[Check] = []
    notes = [f"left out: {len(asked) - len(chosen)} claims for which networks are trained"] if chosen != asked else []
    try:
        for place, each in enumerate(chosen):
            progress(place / len(chosen), f"{each.source} {each.name}")
            row, check = _row(each, look)
            rows.append(row)
            checks.append(check)
    except (Stopped, KeyboardInterrupt):
        notes.append(f"stopped early: {len(rows)} of {len(chosen)} claims were measured")
    count = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
    return Outcome(
        sentence=(
            f"Of {len(rows)} claims {count['true']} hold, {count['true only if']} hold under a condition, and"
            f" {count['false']} do not."
        ),
        columns=COLUMNS,
        rows=tuple(rows),
        checks=tuple(checks),
        notes=tuple(notes),
    )


COLUMNS = (
    Column("document", "", "the source document"),
    Column("name", "", "a short name of the claim"),
    Column("verdict", "", "true, false, or true only if"),
    Column("number", "", "the number that decides; what it is stands in truth"),
    Column("says", "", "the claim, in our words"),
    Column("truth", "", "what is true, with the measured numbers"),
    Column("command", "", "what shows it"),
)


def _remembering(progress: Progress) -> Run:
    """``lab.run`` that runs the same experiment with the same settings once, and can be stopped inside of it."""
    known: dict[str, Outcome] = {}

    def look(name: str, **settings: Any) -> Outcome:
        key = json.dumps([name, settings], sort_keys=True, default=str)
        if key not in known:
            stopped: list[BaseException] = []

            def tell(share: float, what: str) -> None:
                try:
                    progress(share, f"{name}: {what}")
                except (Stopped, KeyboardInterrupt) as request:
                    stopped.append(request)
                    raise

            found = run_experiment(name, progress=tell, **settings)
            if stopped:  # it returned what it had, which is too little to judge a claim by
                raise stopped[0]
            known[key] = found
        return known[key]

    return look


def _row(each: Claim, look: Run) -> tuple[dict[str, Any], Check]:
    numbers, shown = each.measure(look)
    truth = each.truth.format(**numbers)
    row = {
        "document": each.source,
        "name": each.name,
        "verdict": each.verdict,
        "number": next(iter(numbers.values())),
        "says": each.says,
        "truth": truth,
        "command": each.command,
    }
    return row, Check(f"{each.source} {each.name}", each.verdict, each.verdict if shown else "not borne out", shown)


def _option(name: str, value: Any) -> str:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {spell(value)}"

"""What the five source documents claim, what is true of it, and the experiment that shows it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from unvanish.lab import Check, Column, Outcome, Parameter, Progress, Settings, Stopped, experiment
from unvanish.lab import run as run_experiment
from unvanish.words.numbers import spell

VERDICTS = ("true", "false", "true only if")
TABLES = ("claims_000", "claims_001", "claims_002_003", "claims_004")
COSTS = {"remedies": 60.0, "depth": 30.0, "bottom": 5.0, "width": 3.0, "speeds": 1.0}
"""About how long each experiment takes against the others, which take 1/10: what the progress is reckoned by."""
TRAINED = ("depth", "remedies")

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

    def command(self, full: bool = False) -> str:
        """The command line that shows it; ``full``: with the experiment's own length of training."""
        settings = _unhurried(self.settings) if full else self.settings
        return " ".join(("unvanish lab", self.experiment, *(_option(*each) for each in settings.items())))


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
        Parameter("trained", True, "also the claims for which networks are trained"),
        Parameter("full", False, "train these as long as remedies and depth do by themselves, several minutes"),
        Parameter("document", "all", "one document, or all", choices=("all", "000", "001", "002", "003", "004")),
        Parameter("verdict", "all", "one verdict, or all", choices=("all", *VERDICTS)),
    ),
    pace="long",
)
def run(s: Settings, progress: Progress) -> Outcome:
    """One row for each claim: what it says in our words, the verdict, the measured number, and how to see it.

    Every number is measured when this runs, by the experiment that the row names, and each row is checked: the number
    must bear its verdict out. Experiments that several claims share run once. Networks are trained with the ``quick``
    settings of the experiments, 150 steps at 4 learning rates from 3 seeds; ``full`` trains them for 300 at 7.
    """
    selected = [each for each in claims() if s.document in ("all", each.source) and s.verdict in ("all", each.verdict)]
    chosen = [each for each in selected if s.trained or each.experiment not in TRAINED]
    look = _Remembered(progress, s.full, chosen)
    rows: list[dict[str, Any]] = []
    checks: list[Check] = []
    left_out = f"{len(selected) - len(chosen)} claim{'s' if len(selected) - len(chosen) > 1 else ''}"
    notes = [f"Left out: {left_out} for which networks are trained."] if chosen != selected else []
    if not s.full and any(each.settings.get("quick") for each in chosen):
        notes.append("Networks were trained for 150 steps at 4 learning rates from 3 seeds; --full: for 300 at 7.")
    try:
        for each in chosen:
            row, check = _row(each, look)
            rows.append({**row, "command": each.command(s.full)})
            checks.append(check)
    except (Stopped, KeyboardInterrupt):
        notes.append(f"Stopped early: {len(rows)} of {len(chosen)} claims were measured.")
    count = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
    return Outcome(
        sentence=(
            f"Of {len(rows)} claims {_are(count['true'])} true, {_are(count['true only if'])} true under a condition,"
            f" and {_are(count['false'])} false."
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


def _are(count: int) -> str:
    return f"{count} {'is' if count == 1 else 'are'}"


class _Remembered:
    """``lab.run`` that runs the same experiment with the same settings once, and can be stopped inside of it."""

    def __init__(self, progress: Progress, full: bool, chosen: list[Claim]) -> None:
        self.progress, self.full = progress, full
        self.known: dict[str, Outcome] = {}
        self.planned = {self.key(each.experiment, self.length(each.settings)): each.experiment for each in chosen}

    @staticmethod
    def key(name: str, settings: Mapping[str, Any]) -> str:
        return json.dumps([name, settings], sort_keys=True, default=str)

    def length(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return _unhurried(settings) if self.full else settings

    def __call__(self, name: str, **settings: Any) -> Outcome:
        settings = dict(self.length(settings))
        key = self.key(name, settings)
        if key not in self.known:
            stopped: list[BaseException] = []
            done, size = self._share(key)

            def tell(share: float, what: str) -> None:
                try:
                    self.progress(done + size * share, f"{name}: {what}")
                except (Stopped, KeyboardInterrupt) as request:
                    stopped.append(request)
                    raise

            tell(0.0, "begins")
            outcome = run_experiment(name, progress=tell, **settings)
            if stopped:  # it returned what it had, which is too little to judge a claim by
                raise stopped[0]
            self.known[key] = outcome
        return self.known[key]

    def _share(self, key: str) -> tuple[float, float]:
        """The share of all work that is done before this run, and the share that is this run."""
        cost = {each: COSTS.get(name, 0.1) for each, name in self.planned.items()}
        done = sum(size for each, size in cost.items() if each in self.known)
        return done / sum(cost.values()), cost.get(key, 0.0) / sum(cost.values())


def _unhurried(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "quick"}


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
    }
    return row, Check(f"{each.source} {each.name}", each.verdict, each.verdict if shown else "not borne out", shown)


def _option(name: str, value: Any) -> str:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {spell(value)}"

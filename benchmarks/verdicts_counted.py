"""What the looks at real programs come to: which faults were named, which healthy runs flagged, by which checker."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repaired import failed
from rivals import RIVALS, could_mean, installed

from unvanish import zoo

LOOKS = ("step 0", "10%", "end")
HARM = 0.05  # a run is harmed if it ends this far below the repaired program's mean score, or is not finite
SEED_DEPENDENT = ("at_circle_46edb7df", "at_mnist_relu20")  # only some seeds are harmed, so these count by themselves
OURS = "unvanish"


@dataclass(frozen=True)
class Look:
    """One check: findings by level, each code with its evidence, and the alarms of the rivals."""

    when: str
    verdict: str
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evidence: dict[str, dict[str, float | None]] = field(default_factory=dict)
    seconds: float = 0.0
    alarms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    vanished: bool = False


@dataclass(frozen=True)
class Run:
    """One training of one program. ``score`` is accuracy, or R² for a regression, on the training data."""

    id: str
    variant: str
    seed: int
    score: float
    finite: bool
    looks: tuple[Look, ...]
    seconds: float = 0.0


Own = tuple[str, int, Look]  # a network of the project's own zoo, the seed, and what was seen


@dataclass(frozen=True)
class Accepted:
    """The codes, by prefix, that name a fault, and the looks one of which must. ``aside``: counted by itself."""

    codes: tuple[str, ...]
    looks: tuple[str, ...]
    flow_in_order: bool = False
    aside: bool = False


def harmed(run: Run, repaired: float) -> bool:
    return not run.finite or not run.score >= repaired - HARM


def named(look: Look, checker: str, accepted: Accepted) -> bool:
    """Whether the checker names the fault at this look, by an error of ours or an alarm of a rival's."""
    if checker == OURS:
        return any(code.startswith(accepted.codes) for code in look.errors)
    return could_mean(look.alarms.get(checker, ()), accepted.codes)


def flagged(look: Look, checker: str) -> bool:
    return bool(look.errors if checker == OURS else look.alarms.get(checker, ()))


def credit(run: Run, checker: str, accepted: Accepted) -> float:
    """1 for a fault named at one of its looks; a half for silence where nothing is wrong with the gradient; else 0."""
    if any(named(look, checker, accepted) for look in run.looks if look.when in accepted.looks):
        return 1.0
    refused = any(look.verdict == "crashed" for look in run.looks)
    silent = not refused and not any(flagged(look, checker) for look in run.looks)
    return 0.5 if accepted.flow_in_order and silent else 0.0


def majority(credits: Sequence[float]) -> float:
    """The credit that more than half of the runs reach: 1, a half or nothing."""
    return next((c for c in (1.0, 0.5) if sum(x >= c for x in credits) * 2 > len(credits)), 0.0)


def extras(run: Run, accepted: Accepted) -> tuple[str, ...]:
    """Codes of errors at any look that do not name the fault, each once."""
    return tuple(sorted({c for look in run.looks for c in look.errors if not c.startswith(accepted.codes)}))


def tally(runs: list[Run], accepted: dict[str, Accepted], repaired: dict[str, float], checker: str) -> dict[str, Any]:
    """The counts of one checker: faults named (over the harmed runs), healthy runs flagged, and extra errors."""
    faults: dict[str, list[float]] = {}
    healthy: dict[str, list[bool]] = {}
    aside: list[float] = []
    extra = 0
    for run in runs:
        if run.variant == "fix":
            healthy.setdefault(run.id, []).append(any(flagged(look, checker) for look in run.looks))
        elif run.id in accepted and harmed(run, repaired[run.id]):
            wanted = accepted[run.id]
            (aside if wanted.aside else faults.setdefault(run.id, [])).append(credit(run, checker, wanted))
            extra += len(extras(run, wanted)) if checker == OURS else 0
    return {
        "faults": len(faults),
        "faults_named": sum(map(majority, faults.values())),
        "harmed_runs": sum(map(len, faults.values())),
        "harmed_runs_named": sum(map(sum, faults.values())),
        "seed_dependent_runs": len(aside),
        "seed_dependent_runs_named": sum(aside),
        "healthy_programs": len(healthy),
        "healthy_programs_flagged": sum(sum(f) * 2 > len(f) for f in healthy.values()),
        "healthy_runs": sum(map(len, healthy.values())),
        "healthy_runs_flagged": sum(map(sum, healthy.values())),
        "extra_errors": extra,
    }


def worst_errors(runs: Iterable[Run], repaired: dict[str, float]) -> dict[str, list[str]]:
    """A healthy net called vanished, and a stuck one called converged: the two answers that mislead most."""
    seen = [(run, look, f"{run.id}, seed {run.seed}, {look.when}") for run in runs for look in run.looks]
    stuck = [x for x in seen if x[0].variant == "fault" and harmed(x[0], repaired[x[0].id])]
    return {
        "healthy_called_vanished": [place for run, look, place in seen if run.variant == "fix" and look.vanished],
        "stuck_called_converged": [place for _, look, place in stuck if "UV401" in (*look.errors, *look.notes)],
    }


def summary(runs: list[Run], own: list[Own], folder: Path) -> dict[str, Any]:
    accepted, repaired = references(folder)
    lost, hand = failed(runs, folder, HARM), (OURS, *installed())
    right = [look.verdict in zoo.get(name).expects for name, _, look in own]
    every = [look for run in runs for look in run.looks] + [look for _, _, look in own]
    runs = [run for run in runs if run not in lost]
    return {
        "checkers": {name: tally(runs, accepted, repaired, name) for name in hand},
        "not_installed": sorted(set(RIVALS) - set(hand)),
        **worst_errors(runs, repaired),
        "failed_repaired": [f"{run.id}, seed {run.seed}, {run.score:.2f}" for run in lost],
        "own_zoo": {"checks": len(right), "right": sum(right)},
        "crashed": sum(look.verdict == "crashed" for look in every),
        "median_seconds_a_look": statistics.median(look.seconds for look in every),
    }


def references(folder: Path) -> tuple[dict[str, Accepted], dict[str, float]]:
    """What is accepted for each scored fault, and the mean score of each program once repaired."""
    table, truth = (json.loads((folder / f"{name}.json").read_text()) for name in ("accepted", "truth"))
    rows = {id: row for id, row in table.items() if not id.startswith("_")}
    accepted = {id: Accepted(tuple(r["codes"]), tuple(r["looks"]), r["flow_in_order"]) for id, r in rows.items()}
    accepted |= {id: Accepted(("UV1", "UV3", "UV402"), LOOKS, aside=True) for id in SEED_DEPENDENT}
    return accepted, {id: row["fixed"]["train"] for id, row in truth.items()}

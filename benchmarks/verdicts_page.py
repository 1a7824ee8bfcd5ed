"""The page of benchmarks/verdicts.py: what the checkers make of real programs, in tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from repaired import failed
from verdicts_counted import HARM, LOOKS, OURS, Accepted, Own, Run, credit, extras, harmed, references

from unvanish import zoo


def page(data: dict[str, Any], runs: list[Run], own: list[Own], folder: Path) -> str:
    """The page in Markdown; ``data``: what is saved beside the looks."""
    total, versions = data["summary"], data["versions"]
    seeds, tuned = (", ".join(map(str, each)) for each in (data["seeds"], data["tuning_seeds"]))
    return "\n".join(
        [
            "# How often the verdict is right",
            "",
            f"Written by `{data['command']}`",
            f"with unvanish {versions['unvanish']}, torch {versions['torch']}, seeds {seeds} (rules tuned on {tuned}).",
            "A fault counts as named where more than half of its harmed runs are. A rival's alarm is a hit wherever it",
            "could have meant the fault (`NAMES` in `benchmarks/rivals.py`), and a false alarm on a healthy run.",
            "Silence is half a point where nothing is wrong with the gradient (a learning rate, a loss).",
            "",
            *_checkers(total),
            "",
            f"- A healthy net called vanished: {_list(total['healthy_called_vanished'])}",
            f"- A stuck net called converged: {_list(total['stuck_called_converged'])}",
            f"- Repaired, failed all the same, and not counted as healthy: {_list(total['failed_repaired'])}",
            "- The project's own zoo: {right} of {checks} verdicts as expected".format(**total["own_zoo"]),
            f"- Crashed checks: {total['crashed']}; median time of a check: {total['median_seconds_a_look']:.2f} s",
            *("", "## Faults", "", *_faults(runs, folder)),
            *("", "## False alarms", "", *_false_alarms(runs, folder)),
            *("", "## Own zoo: other than expected", "", *_unexpected(own), ""),
        ]
    )


def _table(head: str, rows: Iterable[str]) -> list[str]:
    return [f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {row} |" for row in rows)]


def _checkers(total: dict[str, Any]) -> list[str]:
    rows = [
        f"{name} | {t['faults_named']:g} of {t['faults']} | {t['harmed_runs_named']:g} of {t['harmed_runs']}"
        f" | {t['seed_dependent_runs_named']:g} of {t['seed_dependent_runs']}"
        f" | {t['healthy_programs_flagged']} of {t['healthy_programs']}"
        f" | {t['healthy_runs_flagged']} of {t['healthy_runs']} | {t['extra_errors'] if name == OURS else '–'}"
        for name, t in total["checkers"].items()
    ]
    rows += [f"{name} | not installed | | | | |" for name in total["not_installed"]]
    head = "checker | faults named | harmed runs named | seed-dependent, named | healthy programs flagged"
    return _table(f"{head} | healthy runs flagged | extra errors", rows)


def _faults(runs: list[Run], folder: Path) -> list[str]:
    (accepted, repaired), rows = references(folder), []
    for run in (r for r in runs if r.variant == "fault"):
        told = {look.when: " ".join(look.errors) or f"({look.verdict})" for look in run.looks}
        score = f"{run.score:.2f} ({repaired[run.id]:.2f})"
        cells = [run.id, str(run.seed), score, _credit(run, accepted, repaired), *(told.get(w, "–") for w in LOOKS)]
        rows.append(" | ".join(cells))
    return _table("program | seed | end score (repaired) | credit | step 0 | 10% | end", rows)


def _false_alarms(runs: list[Run], folder: Path) -> list[str]:
    lost = failed(runs, folder, HARM)
    healthy = [(run, look) for run in runs if run.variant == "fix" and run not in lost for look in run.looks]
    rows = (f"{run.id} | {run.seed} | {look.when} | {' '.join(look.errors)}" for run, look in healthy if look.errors)
    return _table("program | seed | look | errors", rows)


def _unexpected(own: list[Own]) -> list[str]:
    seen = [(name, seed, look.verdict, zoo.get(name).expects) for name, seed, look in own]
    rows = (f"{name} | {seed} | {word} | {' or '.join(right)}" for name, seed, word, right in seen if word not in right)
    return _table("network | seed | verdict | expected", rows)


def _credit(run: Run, accepted: dict[str, Accepted], repaired: dict[str, float]) -> str:
    if run.id not in accepted:
        return "not scored"
    if not harmed(run, repaired[run.id]):
        return "not harmed"
    wanted = accepted[run.id]
    told = [f"{credit(run, OURS, wanted):g}", *(f"extra {code}" for code in extras(run, wanted))]
    noted = {code for look in run.looks for code in look.notes if code.startswith(wanted.codes)}
    return ", ".join([*told, *(f"only noted {code}" for code in sorted(noted) if told[0] != "1")])


def _list(places: Sequence[str]) -> str:
    return f"{len(places)} ({'; '.join(places)})" if places else "never"

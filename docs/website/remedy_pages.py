"""A page for each remedy: what it does, the code it writes, and where measurements say that it helps and where not."""

from __future__ import annotations

import functools
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from written import prose, read, table

from unvanish import zoo
from unvanish.preserve import seeded
from unvanish.remedies import Draft, Refused, Remedy, remedies, script
from website import navigation

STEPS = 400  # of the training that a remedy is for: some depend on its length
RACED = ("diagnosis", "random raced")
"""Strategies that choose by a race; the others of the benchmark are there to be beaten."""
LABELS = {
    "What": "What it does",
    "Helps": "Where it helps",
    "Does not help": "Where it does not help",
    "Source": "Sources",
}


def pages() -> dict[str, str]:
    """The page of every remedy and the table of all of them."""
    made = {f"remedies/{each.slug}.md": navigation.ALONE + "\n\n".join(_remedy(each)) + "\n" for each in remedies()}
    return made | {"remedies.md": _index()}


def _index() -> str:
    import build

    rows = [
        (f"[`{each.slug}`](remedies/{each.slug}.md)", each.kind, each.title, _codes(each, "codes"), *_counts(each))
        for each in remedies()
    ]
    return "\n\n".join((
        "# Remedies", build.REMEDIES.format(count=len(rows)), BENCHMARK,
        table(("remedy", "kind", "what it does", "answers", "chosen", "repaired"), rows),
    )) + "\n"  # fmt: skip


BENCHMARK = (
    "*Chosen* and *repaired* are counts from the benchmarks ([28 programs](benchmarks/repair.md), [6 convolutional and"
    " transformer programs](benchmarks/repair_own.md)): in how many searches over a program with a fault the remedy was"
    " part of the change that was chosen, and how many of those changes, trained in full, came within 0.05 of the known"
    " fix. A change may hold a second remedy, so these are no effects of one remedy alone. The 28 programs are those of"
    " published collections of faulty trainings, written again in PyTorch."
)


def record(of: Sequence[Remedy]) -> str:
    """The remedies as a table, as it is shown on a page one folder down."""
    rows = [(f"[`{each.slug}`](../remedies/{each.slug}.md)", each.title, *_counts(each)) for each in of]
    return table(("remedy", "what it does", "chosen", "repaired"), rows)


def _remedy(each: Remedy) -> Iterable[str]:
    yield f"# {each.slug}: {each.title}"
    yield f"A remedy of the kind `{each.kind}`. It answers {_codes(each, '../codes')}. [All remedies](../remedies.md)."
    head, *rest = inspect.cleandoc(each.doc).split("\n\n")
    yield prose(head)
    labelled = re.split(r"\n(?=(?:What|Helps|Does not help|Source): )", "\n".join(rest))
    for part in labelled:
        label, _, told = part.partition(": ")
        yield f"## {LABELS[label]}"
        yield prose(told[:1].upper() + told[1:])
        if label == "Helps":
            yield f"A test holds it to that: by 0.2 of the score or more, with each seed, on {_networks(each.cures_on)}"
        if label == "Does not help":
            yield f"A test holds it to that, too: by no more than 0.1 on {_networks(each.no_help_on)}"
    yield "## What the benchmark found"
    yield from _measured(each.slug)
    yield "## The code it writes"
    name, text = code(each)
    yield f"For `{name}` of [the zoo](../zoo.md):"
    yield f"```python\n{text}\n```"


def _codes(each: Remedy, folder: str) -> str:
    return ", ".join(f"[{code}]({folder}/{code}.md)" for code in each.answers)


def _networks(names: Iterable[str]) -> str:
    """What the networks are; of one with another optimizer, that too."""
    lines = [f"- `{name}`: {zoo.get(name.partition(' with ')[0]).about}" for name in names]
    return "these networks of [the zoo](../zoo.md):\n\n" + "\n".join(lines)


def code(each: Remedy) -> tuple[str, str]:
    """The first network that the remedy proves itself on and the Python text of its change there."""
    for proof in (*each.cures_on, *each.no_help_on):
        name = proof.partition(" with ")[0]
        problem = replace(zoo.get(name).build(0), steps=STEPS)
        with seeded(0):
            draft = Draft.of(problem, *problem.build())
            try:
                change = each.apply(draft)
            except Refused:
                continue
        return name, script([change], draft.recipe, draft.model).strip()
    raise SystemExit(f"{each.slug} applies to none of the networks that it names")


@functools.cache
def _searches() -> dict[str, tuple[dict[str, Any], ...]]:
    """Per remedy the searches over a program with a fault in which it was part of the change that was chosen."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in ("repair", "repair_own"):
        for row in read(name)["rows"]:
            if row["broken"] and row["strategy"] in RACED:
                for slug in row["chosen"]:
                    found[slug].append(row)
    return {slug: tuple(rows) for slug, rows in found.items()}


def _counts(each: Remedy) -> tuple[str, str]:
    rows = _searches().get(each.slug, ())
    return str(len(rows)), str(sum(row["repaired"] for row in rows))


def _measured(slug: str) -> Iterable[str]:
    rows = _searches().get(slug, ())
    if not rows:
        yield (
            "No search of [the benchmark](../benchmarks/repair.md) chose it: either none of its programs has the fault"
            " that this answers, or another change did better. That is no proof either way."
        )
        return
    repaired = sum(row["repaired"] for row in rows)
    yield (
        f"In {len(rows)} searches of [the benchmark](../benchmarks/repair.md) it was part of the change that was"
        f" chosen; {repaired} of these changes repaired the program, that is, came within 0.05 of the known fix when"
        " they were trained in full. Scores are medians; a second remedy of the change, where there is one, counts too:"
    )
    by_case: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_case[row["case"]].append(row)
    yield table(
        ("program", "chosen", "repaired", "score as it is", "changed", "known fix"),
        (
            (
                f"`{case}`", str(len(found)), str(sum(row["repaired"] for row in found)),
                *(_middle(found, key) for key in ("as_is", "final", "reference")),
            )
            for case, found in sorted(by_case.items(), key=lambda item: -len(item[1]))
        ),
    )  # fmt: skip


def _middle(rows: Sequence[dict[str, Any]], key: str) -> str:
    """The median of a score; null stands for a training that ended in numbers that are not finite."""
    known = [row[key] for row in rows if isinstance(row[key], int | float)]
    return f"{median(known):.2f}" if len(known) * 2 > len(rows) else "not finite"

"""The claims as a page of the documentation: ``python -m unvanish.lab.claims_page docs/claims.md`` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from unvanish.lab import Outcome
from unvanish.lab import run as run_experiment
from unvanish.lab.sources import SOURCES

WRITER = "python -m unvanish.lab.claims_page docs/claims.md"


def page(outcome: Outcome) -> str:
    """The table as a Markdown page for the documentation."""
    return "\n\n".join((f"<!-- written by {WRITER} -->", *_sections(outcome))) + "\n"


def _sections(outcome: Outcome) -> Iterator[str]:
    yield "# Claims"
    yield (
        "What the five documents say from which this project started, in our words, and what is true of it. Each number"
        " was measured by the command beside it; `unvanish lab claims` measures all of them again and checks that they"
        " bear the verdicts out."
    )
    yield outcome.sentence
    for source in sorted({row["document"] for row in outcome.rows}):
        yield f"## {SOURCES[source][0].upper()}{SOURCES[source][1:]} ({source})"
        lines = ["| claim | verdict | what is true | shown by |", "| --- | --- | --- | --- |"]
        for row in (each for each in outcome.rows if each["document"] == source):
            cells = (row["says"], row["verdict"], row["truth"], f"`{row['command']}`")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        yield "\n".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(run_experiment("claims")), encoding="utf-8")

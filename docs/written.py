"""The pieces that generated pages are made of: Markdown from docstrings, tables, anchors, pictures."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

GENERATED = "<!-- written by docs/build.py -->"
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def read(name: str) -> dict[str, Any]:
    """What a program of benchmarks/ has measured."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def picture_tag(path: str, alt: str) -> str:
    """A picture that follows the colours of the reader's page; ``path`` lacks the theme and the suffix."""
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{path}-dark.svg">'
        f'<img alt="{alt}" src="{path}-light.svg"></picture>'
    )


def prose(doc: str) -> str:
    """A docstring in Markdown: double backticks become single ones, indented paragraphs become listings."""
    paragraphs: list[str] = []
    for text in inspect.cleandoc(doc).replace("``", "`").split("\n\n"):
        if "\n " in text:
            head = [line for line in text.split("\n") if not line.startswith(" ")]
            rest = [line.strip() for line in text.split("\n") if line.startswith(" ")]
            paragraphs += [*filter(None, [" ".join(head)]), "```text\n" + "\n".join(rest) + "\n```"]
        else:
            paragraphs.append(" ".join(text.split()))
    return "\n\n".join(paragraphs)


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def anchor(heading: str) -> str:
    """The address of a heading within its page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def page(title: str, *parts: str) -> str:
    return "\n\n".join((GENERATED, f"# {title}", *parts)) + "\n"

"""What each remedy is called and says of itself, read from its source: remedies need torch, explaining one does not."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Advice:
    """The slug and title of a remedy, its kind, and its documentation."""

    slug: str
    title: str
    kind: str
    doc: str


@cache
def advice() -> dict[str, Advice]:
    """Every remedy by its slug, in alphabetical order."""
    folder = Path(__file__).parents[1] / "remedies"
    declared = [each for file in sorted(folder.glob("*.py")) for each in _declared(ast.parse(file.read_text("utf-8")))]
    return {each.slug: each for each in sorted(declared, key=lambda each: each.slug)}


def _declared(module: ast.Module) -> Iterator[Advice]:
    """The functions of a file that are decorated with ``@remedy(slug, title, kind=…)``."""
    for node in module.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "remedy":
                slug, title = (_text(each) for each in call.args)
                kind = next(_text(each.value) for each in call.keywords if each.arg == "kind")
                yield Advice(slug, title, kind, inspect.cleandoc(ast.get_docstring(node) or ""))


def _text(node: ast.expr) -> str:
    return str(ast.literal_eval(node))

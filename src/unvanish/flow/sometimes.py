"""Whether a program names a layer where it runs only sometimes: read from the source of the class that holds it."""

from __future__ import annotations

import ast
import inspect
import textwrap

from torch import nn


def under_condition(above: tuple[str, nn.Module] | None, name: str) -> bool:
    """Whether the class of the module above names the layer's branch inside an ``if`` of a method but its first.

    Or takes it from a ``ModuleDict`` by a key that is computed, as of adapters one for each language.
    """
    if above is None:
        return False
    path, module = above
    attribute = name[len(path) + 1 if path else 0 :].partition(".")[0]
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module))))
    except (OSError, TypeError, SyntaxError):  # made by exec, or its file is gone
        return False
    methods = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name != "__init__"]
    branches = [n for m in methods for n in ast.walk(m) if isinstance(n, (ast.If, ast.IfExp, ast.While, ast.Try))]
    # The test of an `if self.x:` always runs; what counts is what runs only sometimes.
    parts = [part for n in branches for part in ast.iter_child_nodes(n) if part is not getattr(n, "test", None)]
    inside = (n for part in parts for n in ast.walk(part))
    loops = (n for m in methods for n in ast.walk(m) if isinstance(n, (ast.For, ast.comprehension)))
    chosen = (n for loop in loops if _chooses(loop) for n in ast.walk(loop.iter))
    if any(isinstance(n, ast.Attribute) and n.attr == attribute for n in (*inside, *chosen)):
        return True
    return isinstance(getattr(module, attribute, None), nn.ModuleDict) and any(_by_key(m, attribute) for m in methods)


def _by_key(method: ast.FunctionDef, attribute: str) -> bool:
    """Whether a method takes one part of what the attribute holds, by a key that is no constant and no loop's own."""
    nodes = list(ast.walk(method))
    loops = [n.target for n in nodes if isinstance(n, (ast.For, ast.comprehension))]
    turns = {n.id for target in loops for n in ast.walk(target) if isinstance(n, ast.Name)}
    keys = [
        n.slice
        for n in nodes
        if isinstance(n, ast.Subscript) and isinstance(n.value, ast.Attribute) and n.value.attr == attribute
    ]
    return any(
        not isinstance(key, ast.Constant) and not any(isinstance(n, ast.Name) and n.id in turns for n in ast.walk(key))
        for key in keys
    )


def _chooses(loop: ast.For | ast.comprehension) -> bool:
    """Whether a loop leaves some of its turns out."""
    if isinstance(loop, ast.comprehension):
        return bool(loop.ifs)
    return any(
        isinstance(n, (ast.If, ast.IfExp, ast.Break, ast.Continue)) for part in loop.body for n in ast.walk(part)
    )

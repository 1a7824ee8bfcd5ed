"""What a program does with a layer, as far as the source of the class that holds it tells.

Whether it names it where it runs only sometimes, and whether anything reads what it returns.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

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


def never_read(above: tuple[str, nn.Module] | None, name: str) -> bool:
    """Whether the module above calls the layer's branch and nothing it has a name for is made of what comes back.

    Then no other batch and no other loss can use it either. False where a method does anything else with the branch, as
    where it loops over it, or where hooks may take what it computes.
    """
    if above is None:
        return False
    path, module = above
    attribute = name[len(path) + 1 if path else 0 :].partition(".")[0]
    branch = getattr(module, attribute, None)
    if not isinstance(branch, nn.Module) or any(each._forward_hooks for each in branch.modules()):
        return False
    methods = [(m, known) for m, known in _methods(type(module)) if any(True for _ in _of_self(m, attribute))]
    return bool(methods) and all(_drops(m, attribute, module, known) for m, known in methods)


def _methods(kind: type) -> Iterator[tuple[ast.FunctionDef, Mapping[str, Any]]]:
    """Those that its objects have, but the first; each with the names its file knows. None where there is no source."""
    hidden = {"__init__"}
    for each in kind.__mro__:
        if each is object or each.__module__.startswith("torch."):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        except (OSError, TypeError, SyntaxError):  # made by exec, or its file is gone
            continue
        found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name not in hidden]
        yield from ((n, vars(sys.modules.get(each.__module__, builtins))) for n in found)
        hidden |= {n.name for n in found if not any(isinstance(a, ast.Name) and a.id == "super" for a in ast.walk(n))}


def _of_self(method: ast.FunctionDef, attribute: str) -> Iterator[ast.Attribute]:
    """The places that name this attribute of what the method calls itself."""
    me = method.args.args[0].arg if method.args.args else ""
    for n in ast.walk(method):
        if isinstance(n, ast.Attribute) and n.attr == attribute and isinstance(n.value, ast.Name) and n.value.id == me:
            yield n


def _drops(method: ast.FunctionDef, attribute: str, module: nn.Module, known: Mapping[str, Any]) -> bool:
    """Whether the attribute is only called, by statements that give what they compute to names that nobody reads."""
    nodes = list(ast.walk(method))
    me = method.args.args[0].arg if method.args.args else ""
    local = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    called = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
    places = {id(n) for n in _of_self(method, attribute)}
    if not places <= called or any(isinstance(n, ast.Name) and n.id in ("locals", "vars", "eval") for n in nodes):
        return False

    def only_computes(call: ast.Call) -> bool:
        """Whether the call is one of torch's, of a module, or of what another call or a local name holds."""
        func, root = call.func, call.func
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name) or root.id in local:
            return isinstance(func, ast.Attribute)
        if root.id == me:
            owned = isinstance(func, ast.Attribute) and root is func.value and getattr(module, func.attr, None)
            return isinstance(owned, nn.Module)
        of = known.get(root.id)
        name = of.__name__ if inspect.ismodule(of) else getattr(of, "__module__", None)
        return str(name).partition(".")[0] == "torch"

    dead = dict[ast.AST, set[str]]()
    for n in nodes:
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) and only_computes(n.value):
            func = n.value.func  # of another call, as append, it is not known what becomes of what it is given
            if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == me:
                dead[n] = set()
        names = _given(n) if isinstance(n, ast.Assign) else None
        if names is not None and all(only_computes(c) for c in ast.walk(n) if isinstance(c, ast.Call)):
            dead[n] = names
    while True:  # a name is read where a statement that is not dead itself loads it
        inside = {id(n) for statement in dead for n in ast.walk(statement)}
        read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in inside}
        left = {n: names for n, names in dead.items() if names.isdisjoint(read)}
        if len(left) == len(dead):
            return places <= inside
        dead = left


def _given(statement: ast.Assign) -> set[str] | None:
    """The names that a statement gives what it computes to; None where it gives it to anything else."""
    parts = [n for target in statement.targets for n in ast.walk(target)]
    if any(not isinstance(n, (ast.Name, ast.Tuple, ast.List, ast.Starred, ast.expr_context)) for n in parts):
        return None
    return {n.id for n in parts if isinstance(n, ast.Name)}


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

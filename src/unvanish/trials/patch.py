"""A unified diff of the user's own file, where the whole change is a literal swap in it; else the reason why not."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unvanish.problem import Problem
from unvanish.records import CallFlow, UnvanishError
from unvanish.remedies import Change, get
from unvanish.remedies.recipe import Recipe
from unvanish.report import Report
from unvanish.trace.places import shorten
from unvanish.trials.train import Copy

Edit = tuple[int, int, str]
"""From one offset of the text to another: what stands there then."""


class NotLiteralError(Exception):
    """The change is no literal swap in this file; the message says why."""


def patch_of(problem: Problem, copy: Copy, before: Report, after: Report) -> tuple[str, str, str]:
    """The diff and the patched text, or "", "" and the reason why there are none."""
    try:
        path = _file_of(problem)
        old = path.read_text()
        new = _swapped(old, problem, copy, before, after, path)
    except NotLiteralError as reason:
        return "", "", str(reason)
    except (OSError, UnicodeError, SyntaxError) as error:
        return "", "", f"the source file cannot be read ({type(error).__name__})"
    name = shorten(str(path))
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{name}", f"b/{name}", n=2
    )
    return "".join(lines), new, ""


def write_repaired(fixes: Any, path: str | Path, original: str | Path | None = None) -> None:
    """Write the repaired program to a new file: the patched source, or the code of the change where there is no diff.

    Raises UnvanishError where the file exists already: nothing of the user's is ever overwritten.
    """
    target = Path(path)
    spare(target, original)
    if not fixes.code:
        raise UnvanishError(f"there is nothing to write to {str(path)!r}: {fixes.verdict}")
    try:
        with target.open("x") as file:
            file.write(fixes.patched or fixes.code)
    except FileExistsError:
        spare(target)
    except OSError as error:
        raise UnvanishError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def spare(target: Path, original: str | Path | None = None) -> None:
    """Raise UnvanishError where the file exists already, or is the one under repair."""
    if target.exists() or (original is not None and target.resolve() == Path(original).resolve()):
        raise UnvanishError(f"{str(target)!r} exists already, and fix never overwrites a file; name a new one")


def _file_of(problem: Problem) -> Path:
    """The one file outside of installed packages in which the network's classes stand."""
    model, _ = problem.build()
    torch_home, files = str(Path(torch.__file__).parent), []
    for each in (*model.modules(), problem.loss_fn, problem.optimizer):
        try:
            file = inspect.getsourcefile(type(each) if isinstance(each, nn.Module) else each)  # type: ignore[arg-type]
        except TypeError:
            continue
        if file and not file.startswith(torch_home) and "site-packages" not in file and Path(file).is_file():
            files.append(Path(file))
    if not files:
        raise NotLiteralError("no source file of the network was found")
    return files[0]


def _swapped(old: str, problem: Problem, copy: Copy, before: Report, after: Report, path: Path) -> str:
    tree, edits = ast.parse(old), list[Edit]()
    at = _offsets(old)
    for slug, change in zip(copy.candidate, copy.changes, strict=True):
        kind = get(slug).kind
        if change.swaps_in:
            edits += _activation(tree, at, old, change, problem, before, after, shorten(str(path)))
        elif kind in ("rate", "optimizer") and not copy.draft.recipe.warmup:
            continue
        else:
            raise NotLiteralError(f"{slug} is more than a literal swap")
    if any(get(slug).kind in ("rate", "optimizer") for slug in copy.candidate):
        edits += _optimizer(tree, at, old, Recipe.of(problem.build()[1]), copy)
    for start, stop, text in sorted(edits, reverse=True):
        old = old[:start] + text + old[stop:]
    ast.parse(old)
    return old


def _activation(tree: ast.Module, at: Callable[[ast.AST], tuple[int, int]], old: str, change: Change,
    problem: Problem, before: Report, after: Report, name: str,
) -> list[Edit]:  # fmt: skip
    """Swap every place where the activation that went is made as a module or called as a function."""
    module, function = change.swaps_in
    gone = _gone(before.calls, after.calls)
    model, _ = problem.build()
    modules = dict(model.named_modules())
    running = [modules[c.module] for c in gone if c.module in modules]
    classes = {type(m).__name__ for m in running if type(m).__module__ == nn.ReLU.__module__}
    lines = {int(c.source.rpartition(":")[2]) for c in gone if c.source.rpartition(":")[0] == name}
    words = {c.name for c in gone}
    edits: list[Edit] = []
    for call in _calls(tree):
        last = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if last in classes:
            prefix = ast.get_source_segment(old, call.func) or last
            edits.append((*at(call), prefix[: len(prefix) - len(last)] + module))
        elif last in words and call.lineno in lines:
            method = isinstance(call.func, ast.Attribute) and not call.args
            inner = call.func.value if method and isinstance(call.func, ast.Attribute) else call.args[0]
            edits.append((*at(call), function.format(ast.get_source_segment(old, inner))))
    if not edits:
        raise NotLiteralError(f"where {', '.join(sorted(words)) or 'the activation'} stands in {name} was not found")
    if any(a[0] < b[0] < a[1] for a in edits for b in edits):
        raise NotLiteralError("two of the activations stand inside each other")
    return edits


def _gone(before: Iterable[CallFlow], after: Iterable[CallFlow]) -> list[CallFlow]:
    """The calls of the activations that are nowhere called any more."""
    left = {call.name for call in after}
    gone = [call for call in before if call.role == "slopes" and call.name not in left]
    if not gone:
        raise NotLiteralError("the old activation is still used somewhere, and the text does not tell which is which")
    return gone


def _optimizer(tree: ast.Module, at: Callable[[ast.AST], tuple[int, int]], old: str, was: Recipe, copy: Copy
) -> list[Edit]:  # fmt: skip
    """Swap the one call that makes the optimizer, or only the learning rate in it."""
    name, now = was.optimizer.__name__, copy.draft.recipe
    calls = [c for c in _calls(tree) if (ast.get_source_segment(old, c.func) or "").rpartition(".")[2] == name]
    if len(calls) != 1 or not calls[0].args:
        raise NotLiteralError(f"{name}(…) is not made in exactly one place of the file")
    call = calls[0]
    rates = [k.value for k in call.keywords if k.arg == "lr"] + call.args[1:2]
    if len(rates) != 1 or not isinstance(rates[0], ast.Constant) or rates[0].value != was.lr:
        raise NotLiteralError(f"the learning rate {was.lr:g} is not written as a number in {name}(…)")
    if now.optimizer is was.optimizer:
        return [(*at(rates[0]), f"{now.lr:g}")]
    if now.groups:
        raise NotLiteralError("groups of parameters have settings of their own")
    made = next(line for line in now.code(copy.model) if line.startswith("optimizer = "))
    options = made.rpartition("], ")[2]
    func, first = ast.get_source_segment(old, call.func) or name, ast.get_source_segment(old, call.args[0])
    return [(*at(call), f"{func[: len(func) - len(name)]}{now.optimizer.__name__}({first}, {options}")]


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _offsets(text: str) -> Callable[[ast.AST], tuple[int, int]]:
    """Where a node starts and ends in the text; ast counts bytes of a line."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def span(node: Any) -> tuple[int, int]:
        def offset(line: int, column: int) -> int:
            return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

        return offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)

    return span

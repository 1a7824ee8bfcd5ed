"""``unvanish check --init SCRIPT.py``: a Problem skeleton beside a training script, which is read and never run."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

from unvanish.cli.home import home_of, notebook, run_words
from unvanish.cli.script_parts import Found, Made, found_in, free_names, last_name
from unvanish.records import UnvanishError


def write_skeleton(script: Path) -> Path:
    """Write ``SCRIPT_problem.py`` beside the script and return its path; UnvanishError where that exists already."""
    if script.suffix == ".ipynb":
        raise UnvanishError(notebook(str(script)))
    if script.suffix != ".py" or not script.is_file():
        raise UnvanishError(f"--init takes a training script, a file that ends in .py, not {str(script)!r}")
    target = script.with_name(f"{script.stem}_problem.py")
    try:
        parts = found_in(script.read_text())
    except (SyntaxError, UnicodeError) as error:
        raise UnvanishError(f"{script} cannot be read as Python: {error}") from None
    try:
        with target.open("x") as file:
            file.write(skeleton(script, parts))
    except FileExistsError:
        raise UnvanishError(
            f"{str(target)!r} exists already and is not written over; fill it in or remove it"
        ) from None
    except OSError as error:
        raise UnvanishError(f"cannot write {str(target)!r}: {error.strerror or error}") from None
    return target


def skeleton(script: Path, parts: Found) -> str:
    """The text of the file: it imports what the script has, and says where to fill in."""
    model = parts.models[0] if parts.models else None
    lines = [f'"""What unvanish checks of {script.name}: fill in what is marked FILL IN."""', ""]
    if parts.trains and model is not None and model.own:
        lines += [f'# {script.name} trains on import: put that under if __name__ == "__main__": first.', ""]
    lines += _imports(script, parts)
    lines += ["", "", "def problem() -> unvanish.Problem:", "    torch.manual_seed(0)"]
    lines += _model(script, model)
    if len(parts.models) > 1:
        others = ", ".join(each.name for each in parts.models[1:])
        lines.append(
            f"    # also in {script.name}: {others}; unvanish run --stop-after 3 {run_words(script)} checks all"
        )
    lines += [f"    # {script.name} has {loader}" for loader in parts.loaders[:2]]
    if parts.own_loss:
        lines.append("    inputs = ...  # FILL IN: one batch as a mapping, with the labels: called as model(**inputs)")
    else:
        takes = () if model is None else model.takes
        several = f": ({', '.join(takes)})" if len(takes) > 1 else ", such as inputs, targets = next(iter(loader))"
        lines.append(f"    inputs = ...  # FILL IN: one batch as the model takes it{several}")
        lines.append("    targets = ...  # FILL IN: the targets of that batch")
    if len(parts.optimizers) > 1:
        lines.append(f"    # also: {'; '.join(map(ast.unparse, parts.optimizers[1:]))}")
    lines += ["    return unvanish.Problem(", "        model,", "        inputs,"]
    if not parts.own_loss:
        lines += ["        targets,", f"        loss_fn={_loss(parts)}"]
    lines += [
        f"        optimizer={_optimizer(parts)}",
        "        # for unvanish fix: train_batches=loader, validation=…, metric=…, steps=…",
        "    )",
        "",
    ]
    return "\n".join(lines)


def _imports(script: Path, parts: Found) -> list[str]:
    """Imports in three groups, without those that nothing uses."""
    model = parts.models[0] if parts.models else None
    needed = [] if model is None else [each for each in model.imports if each != "import torch"]
    uses_nn = any(loss.startswith("nn.") for loss in parts.losses)
    needed = [each for each in needed if not (uses_nn and each in ("from torch import nn", "import torch.nn as nn"))]
    beside = [each for each in _joined(needed) if each.startswith("from .")]
    if model is not None and model.own:
        source = f"{'.' if home_of(script).module else ''}{script.stem}"
        beside.append(f"from {source} import {', '.join(sorted(model.own))}")
    needed += ["import torch", *(["from torch import nn"] if uses_nn else [])]
    lines = [each for each in _joined(needed) if each not in beside]
    return [*lines, "", "import unvanish", *([""] if beside else []), *beside]


def _joined(imports: list[str]) -> list[str]:
    """In the usual order, and one statement for what comes from one module."""
    by_source: dict[str, list[str]] = {}
    for each in imports:
        source, _, names = each.partition(" import ")
        by_source.setdefault(source, []).append(names)
    lines = [
        source + (f" import {', '.join(sorted(names))}" if names[0] else "") for source, names in by_source.items()
    ]
    return sorted(lines, key=lambda line: (line.startswith("from"), line.split()[1]))


def _set(line: str) -> list[str]:
    """A statement of one call, its arguments below it where it is long."""
    made = ast.parse(line).body[0]
    if len(line) < 100 or not isinstance(made, ast.Assign) or not isinstance(made.value, ast.Call):
        return [f"    {line}"]
    call = made.value
    arguments = ", ".join([*map(ast.unparse, call.args), *(ast.unparse(each) for each in call.keywords)])
    inner = textwrap.wrap(arguments, 108, initial_indent=" " * 8, subsequent_indent=" " * 8, break_long_words=False)
    return [f"    {ast.unparse(made.targets[0])} = {ast.unparse(call.func)}(", *inner, "    )"]


def _model(script: Path, model: Made | None) -> list[str]:
    if model is None:
        return ["    model = ...  # FILL IN: your nn.Module"]
    if not model.call:
        return [f"    model = ...  # FILL IN: {model.written}"]
    note = "" if model.call == model.written else f"  # {script.name}: {model.written}"
    made = _set(f"model = {model.call}")
    made[-1] += note
    return [*(part for line in model.before for part in _set(line)), *made]


def _loss(parts: Found) -> str:
    loss, *others = parts.losses or ("",)
    if not loss:
        return "...,  # FILL IN: loss_fn(outputs, targets)"
    return f"{loss}," + (f"  # also: {', '.join(others)}" if others else "")


def _optimizer(parts: Found) -> str:
    """What makes the optimizer over its parameters; where only running would tell a setting, it is to be filled in."""
    if not parts.optimizers:
        return "...,  # FILL IN, or leave out: lambda parameters: torch.optim.SGD(parameters, lr=…)"
    call = parts.optimizers[0]
    values = [*call.args[1:], *(keyword.value for keyword in call.keywords)]
    settings = [*map(ast.unparse, call.args[1:]), *(ast.unparse(keyword) for keyword in call.keywords)]
    made = f"lambda parameters: torch.optim.{last_name(call.func)}({', '.join(['parameters', *settings])})"
    return f"...,  # FILL IN: {made}" if any(map(free_names, values)) else f"{made},"

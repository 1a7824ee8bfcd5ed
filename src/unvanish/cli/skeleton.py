"""``unvanish check --init SCRIPT.py``: a Problem skeleton beside a training script, which is read and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unvanish.cli.places import home_of
from unvanish.records import UnvanishError

OPTIMIZERS = (
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
    "Adagrad",
    "NAdam",
    "RAdam",
    "Adamax",
    "Adadelta",
    "Rprop",
    "ASGD",
    "LBFGS",
)
FUNCTIONAL = ("cross_entropy", "mse_loss", "l1_loss", "nll_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "smooth_l1_loss", "huber_loss", "kl_div")  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What stands in a script: classes of models, and the text of what makes losses, optimizers and loaders."""

    models: tuple[str, ...]
    losses: tuple[str, ...]
    optimizers: tuple[str, ...]
    loaders: tuple[str, ...]
    trains: bool
    """Whether importing the script would train: a step or a call of training stands outside of every function."""


def write_skeleton(script: Path) -> Path:
    """Write ``SCRIPT_problem.py`` beside the script and return its path; UnvanishError where that exists already."""
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


def found_in(text: str) -> Found:
    """What the text of a script says about its training, by reading it."""
    tree = ast.parse(text)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return Found(
        models=tuple(
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef) and any("Module" in ast.unparse(base) for base in node.bases)
        ),
        losses=tuple(dict.fromkeys(_losses(calls))),
        optimizers=tuple(ast.unparse(c) for c in calls if _last(c.func) in OPTIMIZERS and c.args),
        loaders=tuple(ast.unparse(c) for c in calls if _last(c.func) == "DataLoader"),
        trains=any(_last(call.func) in ("step", "backward") for call in _at_import(tree)),
    )


def skeleton(script: Path, parts: Found) -> str:
    """The text of the file: it imports what the script has, and says where to fill in."""
    inside = bool(home_of(script).module)
    model = parts.models[0] if parts.models else ""
    loss = parts.losses[0] if parts.losses else "nn.functional.cross_entropy"
    optimizer = parts.optimizers[0] if parts.optimizers else "torch.optim.SGD(parameters, lr=0.1)"
    lines = [
        f'"""What unvanish checks of {script.name}: fill in what is marked FILL IN."""',
        "",
        "import torch",
        "from torch import nn",
        "",
        "import unvanish",
    ]
    if model:
        lines += ["", f"from {'.' if inside else ''}{script.stem} import {model}"]
    if parts.trains:
        lines.insert(1, f'# {script.name} trains on import: put that under if __name__ == "__main__": first.')
    if len(parts.models) > 1:
        lines.append(f"# also in {script.name}: {', '.join(parts.models[1:])}")
    lines += ["", "", "def problem() -> unvanish.Problem:", "    torch.manual_seed(0)"]
    lines.append(
        f"    model = {model}()  # FILL IN: its arguments" if model else "    model = ...  # FILL IN: your nn.Module"
    )
    lines += [f"    # {script.name} has {loader}" for loader in parts.loaders[:2]]
    lines += [
        "    inputs = ...  # FILL IN: one batch as the model takes it, such as inputs, targets = next(iter(loader))",
        "    targets = ...  # FILL IN: the targets of that batch",
    ]
    if len(parts.optimizers) > 1:
        lines.append(f"    # also: {'; '.join(parts.optimizers[1:])}")
    lines += [
        f"    optimizer = {_over_model(optimizer)}",
        "    for name, value in (('model', model), ('inputs', inputs), ('targets', targets)):",
        "        if value is ...:",
        "            raise unvanish.UnvanishError(f'fill in {name} in this file first')",
        f"    return unvanish.Problem(model, inputs, targets, {loss}, optimizer=optimizer)",
        "",
    ]
    return "\n".join(lines)


def _over_model(made: str) -> str:
    """The call that makes the optimizer, over the parameters of ``model``; other names of the script are not known."""
    call = ast.parse(made, mode="eval").body
    assert isinstance(call, ast.Call)
    settings, unknown = list[str](), list[str]()
    for place, argument in enumerate(call.args[1:]):
        (settings if isinstance(argument, ast.Constant) and not place else unknown).append(ast.unparse(argument))
    for keyword in call.keywords:
        known = all(not isinstance(node, ast.Name) for node in ast.walk(keyword.value))
        (settings if known else unknown).append(f"{keyword.arg}={ast.unparse(keyword.value)}")
    comment = f"  # FILL IN: {', '.join(unknown)}" if unknown else ""
    return f"torch.optim.{_last(call.func)}({', '.join(['model.parameters()', *settings])}){comment}"


def _losses(calls: list[ast.Call]) -> Iterator[str]:
    for call in calls:
        name = _last(call.func)
        known = not any(isinstance(n, ast.Name) for a in (*call.args, *call.keywords) for n in ast.walk(a))
        if name.endswith("Loss"):
            yield f"nn.{name}({', '.join(ast.unparse(a) for a in (*call.args, *call.keywords)) if known else ''})"
        elif name in FUNCTIONAL:
            yield f"nn.functional.{name}"


def _at_import(tree: ast.Module) -> Iterator[ast.Call]:
    """The calls that run when the file is imported: outside of functions and of the guard of ``__main__``."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Call):
            yield node
        waiting += ast.iter_child_nodes(node)


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""

"""What stands in a training script: models, losses, optimizers and loaders, found by reading, never by running."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

OPTIMIZERS = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Adadelta", "Rprop", "ASGD",
    "LBFGS")  # fmt: skip
FUNCTIONAL = ("cross_entropy", "mse_loss", "l1_loss", "nll_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "smooth_l1_loss", "huber_loss", "kl_div")  # fmt: skip
MODEL_NAMES = ("model", "net", "network")
AROUND = ("to", "cuda", "cpu", "train", "eval", "half", "float", "double", "bfloat16", "compile")
"""Calls that give the model back that they are called on, or are given."""


@dataclass(frozen=True)
class Made:
    """A model: its class, the call that makes it with known values put in, that call as it stands, and what it needs.

    ``call`` is "" where the script makes it from something that only running it would tell. ``takes``: what its forward
    is given, where the class stands in the script. ``own``: what the script itself defines of what is needed.
    """

    name: str
    call: str
    written: str
    before: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What stands in a script: models, and the text of what makes losses, optimizers and loaders."""

    models: tuple[Made, ...]
    losses: tuple[str, ...]
    optimizers: tuple[ast.Call, ...]
    loaders: tuple[str, ...]
    trains: bool
    """Whether importing the script would train: a step or a call of training stands outside of every function."""
    own_loss: bool
    """Whether the model computes the loss itself: a Trainer is used, or the ``.loss`` of an output."""


def found_in(text: str) -> Found:
    """What the text of a script says about its training, by reading it; SyntaxError where it is no Python."""
    tree = ast.parse(text)
    known = _values(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    losses = tuple(dict.fromkeys(_losses(calls)))
    trainer = any(last_name(c.func) in ("Trainer", "SFTTrainer") and _keyword(c, "args") for c in calls)
    reads_loss = any(isinstance(node, ast.Attribute) and node.attr == "loss" for node in ast.walk(tree))
    optimizers = [_with_values(c, known) for c in calls if last_name(c.func) in OPTIMIZERS and c.args]
    if trainer and not optimizers:
        optimizers = [_trainers_own(calls, known)]
    return Found(
        models=tuple(_models(tree, known)),
        losses=losses,
        optimizers=tuple(optimizers),
        loaders=tuple(ast.unparse(c) for c in calls if last_name(c.func) == "DataLoader"),
        trains=any(last_name(c.func) in ("step", "backward") for c in _at_import(tree))
        or (trainer and any(last_name(c.func) == "train" for c in _at_import(tree))),
        own_loss=not losses and (trainer or reads_loss),
    )


def last_name(node: ast.expr) -> str:
    """The last part of a dotted name; "" of anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def free_names(node: ast.AST) -> set[str]:
    """The names an expression uses."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _models(tree: ast.Module, known: Mapping[str, ast.expr]) -> Iterator[Made]:
    """Models in the order in which they are made, then classes of models that nothing makes."""
    own = {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(_is_module(ast.unparse(base)) for base in node.bases)
    }
    parts = {last_name(c.func) for each in own.values() for c in ast.walk(each) if isinstance(c, ast.Call)}
    imports, seen = _imports(tree), set[str]()
    defined = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    for call, target in _made_as_models([node for node in tree.body if node not in own.values()]):
        name = last_name(call.func)
        root = next((each for each in ast.walk(call.func) if isinstance(each, ast.Name)), None)
        if name in seen or root is None or not (name in own or target in MODEL_NAMES):
            continue
        if name not in own and root.id not in imports:
            continue
        seen.add(name)
        filled = _with_values(call, known)
        made = _assigned_around(tree, call)
        before = [each for each in _arguments(filled) if each in made and each not in defined and each not in imports]
        lines = tuple(f"{each} = {ast.unparse(_with_values(made[each], known))}" for each in before)
        needed = set[str]().union(*(free_names(ast.parse(line).body[0].value) for line in lines))  # type: ignore[attr-defined]
        needed |= (free_names(filled) - set(before)) | ({name} if name in own else set())
        complete = all(each in imports or each in defined for each in needed)
        needs = tuple(dict.fromkeys(imports[each] for each in sorted(needed) if each in imports))
        takes = _takes(own[name]) if name in own else ()
        called = ast.unparse(filled) if complete else ""
        yield Made(name, called, ast.unparse(call), lines if complete else (), needs, takes, tuple(needed & defined))
    for name in own:
        if name not in seen and name not in parts:
            called = f"{name}()" if _needs_nothing(own[name]) else ""
            yield Made(name, called, f"{name}(…)", takes=_takes(own[name]), own=(name,))


def _made_as_models(body: list[ast.stmt]) -> Iterator[tuple[ast.Call, str]]:
    """Calls whose result is assigned or handed on, with the name it gets; what only moves a model is looked through."""
    for node in (each for statement in body for each in ast.walk(statement)):
        if isinstance(node, ast.Assign):
            pairs = [(node.value, node.targets[0])]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.value.elts, node.targets[0].elts, strict=False))
            for value, target in pairs:
                inner = _unwrapped(value)
                if isinstance(inner, ast.Call):
                    yield inner, last_name(target)
        elif isinstance(node, ast.Call):
            for each in node.args:
                if isinstance(each, ast.Call):
                    yield each, ""


def _unwrapped(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Call) and last_name(node.func) in AROUND:
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(owner, ast.Call):
            node = owner
        elif node.args:
            node = node.args[0]
        else:
            break
    return node


def _is_module(base: str) -> bool:
    return base.endswith("Module") and not base.endswith("DataModule")


def _takes(node: ast.ClassDef) -> tuple[str, ...]:
    """The names of what a forward needs."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "forward":
            given = each.args.posonlyargs + each.args.args
            return tuple(arg.arg for arg in given[1 : len(given) - len(each.args.defaults)])
    return ()


def _needs_nothing(node: ast.ClassDef) -> bool:
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            given = each.args
            return len(given.posonlyargs + given.args) - 1 <= len(given.defaults) and all(
                default is not None for default in given.kw_defaults
            )
    return True


def _imports(tree: ast.Module) -> dict[str, str]:
    """Of each imported name the statement that brings it."""
    imports: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                given = each.asname or each.name.partition(".")[0]
                imports[given] = f"import {each.name}" + (f" as {each.asname}" if each.asname else "")
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                source = "." * node.level + (node.module or "")
                imports[each.asname or each.name] = f"from {source} import {each.name}" + (
                    f" as {each.asname}" if each.asname else ""
                )
    return imports


def _assigned_around(tree: ast.Module, call: ast.Call) -> dict[str, ast.Call]:
    """Names that are assigned one call and nothing else, in the module and in the functions around a call."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    scopes = [tree, *(each for each in functions if any(inner is call for inner in ast.walk(each)))]
    calls: dict[str, ast.Call] = {}
    for scope in scopes:
        bound = [node.id for node in ast.walk(scope) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        body = [node for node in scope.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
        if isinstance(scope, ast.FunctionDef):
            hidden = {*bound, *(each.arg for each in scope.args.args)}
        else:  # a name of the module that a function assigns as well is another one
            hidden, bound = set[str](), [ast.unparse(node.targets[0]) for node in body]
        calls = {name: value for name, value in calls.items() if name not in hidden}
        for node in body:
            if bound.count(name := ast.unparse(node.targets[0])) == 1 and isinstance(node.value, ast.Call):
                calls[name] = node.value
    return calls


def _values(tree: ast.Module) -> dict[str, ast.expr]:
    """What can be known without running: defaults of command-line arguments and of classes, constants of the module."""
    values: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.value, ast.Constant):
            values[ast.unparse(node.targets[0])] = node.value
    results = [
        ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and last_name(node.value.func) in ("parse_args", "parse_known_args")
    ] or ["args"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_name(node.func) == "add_argument" and node.args:
            dest, default = _argument(node)
            values |= {f"{each}.{dest}": default for each in results if default is not None}
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    pairs = zip(each.args.args[::-1], each.args.defaults[::-1], strict=False)
                    given = {a.arg: d for a, d in pairs if isinstance(d, ast.Constant)}
                    values |= {f"{owner}.{name}": d for owner in ("self.hparams", "self") for name, d in given.items()}
    return values


def _argument(call: ast.Call) -> tuple[str, ast.expr | None]:
    """The attribute and the default of a command-line argument."""
    names = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    name = next((each for each in names if each.startswith("--")), names[0] if names else "")
    dest = _keyword(call, "dest")
    text = dest.value if isinstance(dest, ast.Constant) else name
    default, action = _keyword(call, "default"), _keyword(call, "action")
    if default is None and isinstance(action, ast.Constant) and action.value in ("store_true", "store_false"):
        default = ast.Constant(action.value == "store_false")
    known = isinstance(default, (ast.Constant, ast.UnaryOp, ast.List, ast.Tuple)) and not free_names(default)
    return str(text).lstrip("-").replace("-", "_"), default if known else None


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def _with_values(call: ast.Call, known: Mapping[str, ast.expr]) -> ast.Call:
    """The call with known values in place of names; the text of what is known to the script is left alone."""

    class Filled(ast.NodeTransformer):
        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            return known.get(ast.unparse(node)) or self.generic_visit(node)

        def visit_Name(self, node: ast.Name) -> ast.AST:
            return known.get(node.id) or node

    made = ast.parse(ast.unparse(call), mode="eval").body
    assert isinstance(made, ast.Call)
    made.args = [Filled().visit(each) for each in made.args]
    for each in made.keywords:
        each.value = Filled().visit(each.value)
    return made


def _arguments(call: ast.Call) -> list[str]:
    given = [*call.args, *(each.value for each in call.keywords)]
    return list(dict.fromkeys(each.id for each in given if isinstance(each, ast.Name)))


def _trainers_own(calls: list[ast.Call], known: Mapping[str, ast.expr]) -> ast.Call:
    """What a Trainer of transformers makes of its arguments."""
    settings = next((c for c in calls if last_name(c.func) == "TrainingArguments"), None)
    rate = None if settings is None else _keyword(settings, "learning_rate")
    decay = None if settings is None else _keyword(settings, "weight_decay")
    text = f"AdamW(parameters, lr={ast.unparse(rate) if rate else '5e-5'}"
    text += f", weight_decay={ast.unparse(decay) if decay else '0.0'})"
    made = ast.parse(text, mode="eval").body
    assert isinstance(made, ast.Call)
    return _with_values(made, known)


def _losses(calls: list[ast.Call]) -> Iterator[str]:
    for call in calls:
        name = last_name(call.func)
        known = not any(free_names(a) for a in (*call.args, *call.keywords))
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

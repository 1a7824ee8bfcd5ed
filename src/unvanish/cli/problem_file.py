"""The problem that ``FILE.py:NAME`` names: the file run as a module, the name looked up, errors made readable.

torch is imported when a file is loaded.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Generator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from unvanish.cli.home import at_home, file_of, home_of, notebook, run_words
from unvanish.cli.script_parts import last_name
from unvanish.cli.terminal import write
from unvanish.records import UnvanishError

DEFAULT_NAME = "problem"
TRAINS = ("main", "train", "fit", "run", "training", "train_model")
"""Names of functions that are never suggested: calling them would start what the check is there to spare."""


def split_target(target: str) -> tuple[Path, str]:
    """File and name of ``FILE.py:NAME`` or ``package.module:NAME``.

    It is split at the last colon that follows ".py"; the colon of a drive stays.
    """
    if target.partition(":")[0].endswith(".ipynb"):
        raise UnvanishError(notebook(target))
    if target.endswith(".py"):
        return Path(target), DEFAULT_NAME
    head, colon, name = target.rpartition(".py:")
    if not colon:
        module, _, named = target.partition(":")
        file = file_of(module)
        if file is not None and (named or DEFAULT_NAME).isidentifier():
            return file, named or DEFAULT_NAME
        reason = "is a directory" if Path(target).is_dir() else "names no Python file and no module"
        raise UnvanishError(f"{target!r} {reason}; write FILE.py, FILE.py:NAME or package.module:NAME")
    if not name.isidentifier():
        raise UnvanishError(f"{target!r}: {name!r} behind the colon is not the name of a variable or function")
    return Path(f"{head}.py"), name


@contextlib.contextmanager
def loaded_problem(path: Path, name: str = DEFAULT_NAME, argv: Sequence[str] = ()) -> Generator[Any, None, None]:
    """The Problem of that name in a file; while it is in use, the file sees its package and ``[FILE, *argv]``.

    The file runs under a ``__name__`` of our own. Whatever its code raises, also later while the problem is in use,
    becomes an UnvanishError with the file's own line.
    """
    from unvanish.problem import Problem

    with _imported(path, name, argv) as module:
        problem = _lookup(module, name, path, Problem)
        if not isinstance(problem, Problem):
            _check_factory(problem, f"{name!r} of {path}")
            with _explained(f"{name}() of {path}", path):
                problem = problem()
        if not isinstance(problem, Problem):
            raise UnvanishError(
                f"{name}() of {path} returned a {type(problem).__name__}; it must return an unvanish.Problem"
            )
        try:
            yield problem
        except UnvanishError:
            raise
        except Exception as error:
            raise _readable(error, f"the check of {path}:{name}", path) from error


@contextlib.contextmanager
def _imported(path: Path, wanted: str, argv: Sequence[str]) -> Generator[ModuleType, None, None]:
    if path.is_dir():
        raise UnvanishError(f"{str(path)!r} is a directory; write FILE.py or FILE.py:NAME")
    if not path.exists():
        raise UnvanishError(f"there is no file {str(path)!r}")
    home = home_of(path)
    name = home.module or f"unvanish_checked_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"
    modules, words = sys.modules.get(name), sys.argv
    sys.argv = [str(path), *argv]
    try:
        with at_home(home):
            with _explained(f"importing {path}", path), _steps_noticed(path, wanted):
                module = _run(path, name)
            yield module
    finally:
        sys.argv = words
        if modules is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = modules


def _run(path: Path, name: str) -> ModuleType:
    """The module of a file, run anew unless its own package has just imported it."""
    file = str(path.absolute())
    if parent := name.rpartition(".")[0]:
        importlib.import_module(parent)
        done = sys.modules.get(name)
        if done is not None:
            return done
    loader = importlib.machinery.SourceFileLoader(name, file)
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # compiled here and not by the loader: no stale byte code is run, and none is left in the user's folder
    exec(loader.source_to_code(loader.get_data(file), file), module.__dict__)
    return module


@contextlib.contextmanager
def _steps_noticed(path: Path, wanted: str) -> Generator[None, None, None]:
    """Say it where a file trains while it is imported, and stop there where it cannot hold what is wanted."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    seen: list[str] = []

    def step(optimizer: object, *_: object) -> None:
        if seen:
            return
        seen.append(type(optimizer).__name__)
        noticed = f"{path} trains while it is imported ({seen[0]}.step() was called)"
        advice = 'put the training under if __name__ == "__main__":'
        if not _defines(path, wanted):
            raise UnvanishError(f"{noticed} and has no {wanted!r}; {without_problem(path)}")
        write(sys.stderr, f"unvanish: {noticed}; to check the network before it, {advice}")

    hook = register_optimizer_step_pre_hook(step)
    try:
        yield
    finally:
        hook.remove()


def _defines(path: Path, wanted: str) -> bool:
    """Whether the text of a file may bind the name: it stands there, or something is imported with a star."""
    text = path.read_bytes().decode(errors="replace")
    return bool(re.search(rf"\b{wanted}\b|import\s*\*|globals\(\)", text))


def _lookup(module: ModuleType, name: str, path: Path, wanted: type) -> Any:
    if name in vars(module):
        return vars(module)[name]
    problems = [key for key, value in vars(module).items() if isinstance(value, wanted)]
    functions = [key for key in _builders(path) if callable(vars(module).get(key))]
    has = [f"{what} {', '.join(keys)}" for what, keys in (("Problem", problems), ("function", functions)) if keys]
    near = difflib.get_close_matches(name, problems + functions, n=1) or (problems + functions)[:1]
    defined = f"there is {' and '.join(has)}" if has else "there is no Problem in it and no function that returns one"
    hint = f"did you mean {path}:{near[0]}?" if near else without_problem(path)
    raise UnvanishError(f"{path} has no {name!r}; {defined}; {hint}")


def without_problem(path: Path) -> str:
    """What to do with a script that has no Problem."""
    return (
        f"unvanish run --stop-after 3 {run_words(path)} checks it as it trains, and unvanish check --init {path}"
        " writes a Problem to fill in"
    )


def _builders(path: Path) -> list[str]:
    """Functions without arguments that, by their annotation or text, return a Problem, and do not train."""
    builders: list[str] = []
    for node in ast.parse(path.read_bytes()).body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.name in TRAINS:
            continue
        arguments = node.args
        needed = len(arguments.posonlyargs + arguments.args) - len(arguments.defaults)
        needed += sum(default is None for default in arguments.kw_defaults)
        called = {last_name(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
        makes = "Problem" in called or (node.returns is not None and "Problem" in ast.unparse(node.returns))
        if makes and not needed and not called & {"step", "backward"}:
            builders.append(node.name)
    return builders


def _check_factory(factory: Any, what: str) -> None:
    """Refuse what cannot be called without arguments."""
    if hasattr(factory, "forward") and not inspect.isclass(factory):
        raise UnvanishError(
            f"{what} is a model, not a Problem; write problem = unvanish.Problem(model, inputs, targets, loss_fn)"
        )
    if not callable(factory):
        raise UnvanishError(f"{what} is a {type(factory).__name__}, not a Problem and not a function that returns one")
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature; calling them will tell
        return
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if needed:
        raise UnvanishError(
            f"{what} wants arguments ({', '.join(needed)}); name a Problem or a function that takes none"
        )


@contextlib.contextmanager
def _explained(what: str, path: Path) -> Generator[None, None, None]:
    """Whatever the user's code raises becomes one sentence; an interruption stays what it is."""
    try:
        yield
    except SystemExit as error:
        place = _place(error, path)
        if any(frame.name == "parse_args" for frame in traceback.extract_tb(error.__traceback__)):
            raise UnvanishError(
                f"{what} failed{f' at {place}' if place else ''}: its own parse_args() refused the arguments; give them"
                f" behind --, such as unvanish check {_near(str(path))} -- ARGS"
            ) from error
        raise UnvanishError(
            f"{what} failed{f' at {place}' if place else ''}: it called sys.exit({error.code!r}); put what runs the"
            ' program under if __name__ == "__main__":'
        ) from error
    except Exception as error:
        raise _readable(error, what, path) from error


def _readable(error: Exception, what: str, path: Path) -> UnvanishError:
    place, message = _place(error, path), f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        message = f"{type(error).__name__}: {error.msg}"
    elif isinstance(error, UnvanishError):
        message = str(error)
    return UnvanishError(f"{what} failed{f' at {place}' if place else ''}: {message}")


def _place(error: BaseException, path: Path) -> str:
    """The last line of the user's own that ran: in the file, or in a file beside or below it that is no library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return _near(error.filename) + (f":{error.lineno}" if error.lineno else "")
    folder = str(path.absolute().parent) + os.sep
    places = [
        f"{_near(frame.filename)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(folder) and not re.search(r"[/\\](site|dist)-packages[/\\]", frame.filename)
    ]
    return places[-1] if places else ""


def _near(file: str) -> str:
    """The path from the working directory, where that is shorter."""
    with contextlib.suppress(ValueError):  # another drive
        return min(os.path.relpath(file), file, key=len)
    return file

"""The problem that ``FILE.py:NAME`` names: the file run as a module, the name looked up, errors made readable.

torch is imported when a file is loaded.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

from unvanish.records import UnvanishError

DEFAULT_NAME = "problem"


def split_target(target: str) -> tuple[Path, str]:
    """File and name of ``FILE.py:NAME``, split at the last colon that follows ".py"; the colon of a drive stays."""
    if target.endswith(".py"):
        return Path(target), DEFAULT_NAME
    head, colon, name = target.rpartition(".py:")
    if not colon:
        found = "is a directory" if Path(target).is_dir() else "names no Python file"
        raise UnvanishError(f"{target!r} {found}; write FILE.py or FILE.py:NAME")
    if not name.isidentifier():
        raise UnvanishError(f"{target!r}: {name!r} behind the colon is not the name of a variable or function")
    return Path(f"{head}.py"), name


@contextlib.contextmanager
def loaded_problem(path: Path, name: str = DEFAULT_NAME) -> Generator[Any, None, None]:
    """The Problem of that name in a file; while it is in use, the file's folder comes first on ``sys.path``.

    The file runs under a ``__name__`` of our own. Whatever its code raises, also later while the problem is in use,
    becomes an UnvanishError with the file's own line.
    """
    from unvanish.problem import Problem

    with _imported(path) as module:
        found = _lookup(module, name, path, Problem)
        if not isinstance(found, Problem):
            _check_factory(found, f"{name!r} of {path}")
            with _explained(f"{name}() of {path}", path):
                found = found()
        if not isinstance(found, Problem):
            raise UnvanishError(
                f"{name}() of {path} returned a {type(found).__name__}; it must return an unvanish.Problem"
            )
        try:
            yield found
        except UnvanishError:
            raise
        except Exception as error:
            raise _readable(error, f"the check of {path}:{name}", path) from error


@contextlib.contextmanager
def _imported(path: Path) -> Generator[ModuleType, None, None]:
    if path.is_dir():
        raise UnvanishError(f"{str(path)!r} is a directory; write FILE.py or FILE.py:NAME")
    if not path.exists():
        raise UnvanishError(f"there is no file {str(path)!r}")
    name = f"unvanish_checked_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"
    file = str(path.absolute())
    loader = importlib.machinery.SourceFileLoader(name, file)
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    modules, search = sys.modules.get(name), list(sys.path)
    sys.modules[name] = module
    sys.path.insert(0, str(path.absolute().parent))
    try:
        with _explained(f"importing {path}", path):
            # compiled here and not by the loader: no stale byte code is run, and none is left in the user's folder
            exec(loader.source_to_code(loader.get_data(file), file), module.__dict__)
        yield module
    finally:
        sys.path[:] = search
        if modules is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = modules


def _lookup(module: ModuleType, name: str, path: Path, wanted: type) -> Any:
    if name in vars(module):
        return vars(module)[name]
    problems = [key for key, value in vars(module).items() if isinstance(value, wanted)]
    functions = [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    ]
    has = [f"{what} {', '.join(keys)}" for what, keys in (("Problem", problems), ("function", functions)) if keys]
    near = difflib.get_close_matches(name, problems + functions, n=1)
    hint = f"did you mean {path}:{near[0]}?" if near else f"write {path}:NAME with the name of one"
    found = (
        f"there is {' and '.join(has)}" if has else "there is no Problem in it and no function that could return one"
    )
    raise UnvanishError(f"{path} has no {name!r}; {found}; {hint}")


def _check_factory(found: Any, what: str) -> None:
    """Refuse what cannot be called without arguments."""
    if hasattr(found, "forward") and not inspect.isclass(found):
        raise UnvanishError(
            f"{what} is a model, not a Problem; write problem = unvanish.Problem(model, inputs, targets, loss_fn)"
        )
    if not callable(found):
        raise UnvanishError(f"{what} is a {type(found).__name__}, not a Problem and not a function that returns one")
    try:
        parameters = inspect.signature(found).parameters.values()
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
        raise UnvanishError(
            f"{what} failed{f' at {place}' if place else ''}: it called sys.exit({error.code!r}); put what runs the"
            ' program under if __name__ == "__main__":'
        ) from error
    except Exception as error:
        raise _readable(error, what, path) from error


def _readable(error: Exception, what: str, path: Path) -> UnvanishError:
    place, said = _place(error, path), f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        said = f"{type(error).__name__}: {error.msg}"
    elif isinstance(error, UnvanishError):
        said = str(error)
    return UnvanishError(f"{what} failed{f' at {place}' if place else ''}: {said}")


def _place(error: BaseException, path: Path) -> str:
    """The last line of the user's own that ran: in the file, or in a file beside or below it that is no library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return _near(error.filename) + (f":{error.lineno}" if error.lineno else "")
    folder = str(path.absolute().parent) + os.sep
    own = [
        f"{_near(frame.filename)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(folder) and not re.search(r"[/\\](site|dist)-packages[/\\]", frame.filename)
    ]
    return own[-1] if own else ""


def _near(file: str) -> str:
    """The path from the working directory, where that is shorter."""
    with contextlib.suppress(ValueError):  # another drive
        return min(os.path.relpath(file), file, key=len)
    return file

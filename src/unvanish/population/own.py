"""A function of the user's from "file.py:function": the file is run once, under a name of our own."""

from __future__ import annotations

import difflib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from unvanish.records import UnvanishError


@cache
def _module(path: str) -> ModuleType:
    if not Path(path).is_file() and Path(path).name in os.listdir():
        path = str(Path(Path(path).name).absolute())  # on another machine it was sent along to where the process runs
    loader = importlib.machinery.SourceFileLoader(f"unvanish_sweep_{Path(path).stem}", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    sys.path.insert(0, str(Path(path).parent))
    try:
        # compiled here and not by the loader: no byte code is left in the user's folder
        exec(loader.source_to_code(loader.get_data(path), path), module.__dict__)
    finally:
        sys.path.pop(0)
    return module


def function(path: str, name: str) -> Callable[..., Any]:
    """The function of that name; UnvanishError where the file fails or has none."""
    module = call(lambda: _module(path), path)
    build = getattr(module, name, None)
    if callable(build):
        return build
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'no functions'}"
    raise UnvanishError(f"{path} has no function {name!r}; {hint}")


def call(made: Callable[[], Any], what: str) -> Any:
    """What it returns; whatever it raises as one UnvanishError."""
    try:
        return made()
    except UnvanishError:
        raise
    except (Exception, SystemExit) as error:
        raise UnvanishError(f"{what} failed: {type(error).__name__}: {error}") from error

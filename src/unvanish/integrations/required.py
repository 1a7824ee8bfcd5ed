"""The packages that are plugged into: imported when their callback is asked for, with one message where that fails."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from unvanish import UnvanishError


def required(*names: str, install: str) -> Any:
    """The first of these modules that is there; UnvanishError where none is, or where its import fails for any reason.

    ``install``: the package to install.
    """
    for name in names:
        try:
            return importlib.import_module(name)
        except Exception as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}.")
            if not missing:
                raise UnvanishError(
                    f"{name} is installed, and its import fails: {type(error).__name__}: {error}; does"
                    f' python -c "import {name}" work?'
                ) from error
    raise UnvanishError(f"this needs {' or '.join(names)}, which is not installed: pip install {install}")


def callback(hooks: type, *bases: type) -> type:
    """The class ``Watch`` of a framework: its own base classes with these hooks, as if it had been written there.

    So that reading an integration's file needs no framework, and a copy or a pickle finds the class by its name.
    """
    return type("Watch", (hooks, *bases), {"__module__": hooks.__module__, "__doc__": hooks.__doc__})


def where_its_cell_fails(end: Callable[[BaseException], Any]) -> None:
    """Call ``end`` with the error where the cell of a notebook that is running ends with one.

    A framework that calls nothing when somebody interrupts its training leaves the callback no other moment.
    """
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None:
        return

    def ended(result: Any) -> None:
        shell.events.unregister("post_run_cell", ended)
        if result.error_in_exec is not None:
            end(result.error_in_exec)

    shell.events.register("post_run_cell", ended)

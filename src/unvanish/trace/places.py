"""Where a call stands in the user's files, and what its module is called."""

from __future__ import annotations

import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])
_ZOO = str(Path(_OURS) / "zoo")
_PYTHON = sysconfig.get_path("stdlib")


def place() -> str:
    """file:line of the nearest frame that is neither torch's nor ours; "" where torch itself made the call."""
    name, line = _nearest()
    return f"{shorten(name)}:{line}" if name else ""


def own_place() -> str:
    """file:line of the nearest frame of the user's own files; where there is none, that of ``place``."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_OURS, _TORCH, _PYTHON)) and _is_file(name) and not is_library(name):
            return f"{shorten(name)}:{frame.f_lineno}"
        frame = frame.f_back
    name, line = _nearest()
    return f"{shorten(name)}:{line}" if name and not name.startswith(_PYTHON) else ""


def in_library() -> bool:
    """Whether that frame is one of an installed package."""
    return is_library(_nearest()[0])


def in_function() -> bool:
    """Whether this is inside the forward of an autograd Function, whose backward may do what it wants.

    Torch runs it with forward-mode gradients switched off, which otherwise only inference mode does; from torch 2.15 on
    no frame of Python's tells of it.
    """
    return not torch._C._is_fwd_grad_enabled() and not torch.is_inference_mode_enabled()


def is_library(path: str) -> bool:
    return "site-packages" in path or "dist-packages" in path


def _nearest() -> tuple[str, int]:
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        kind = _kind(code.co_filename)  # by the name, whose hash is kept: that of a function's code is not
        if kind == "theirs":
            return code.co_filename, frame.f_lineno
        if kind == "problem" and code.co_name in ("outputs", "loss", "record"):  # where we call theirs
            return "", 0
        frame = frame.f_back
    return "", 0


@lru_cache(maxsize=4096)
def _kind(name: str) -> str:
    """Whose a file is: "theirs", or ours, torch's or Python's, which are passed over; "problem": what calls theirs."""
    if name.startswith(_OURS) and not name.startswith(_ZOO):
        return "problem" if name.endswith(("problem.py", "capture.py")) else "ours"
    passed_over = name.startswith(_TORCH) or (name.startswith(_PYTHON) and not is_library(name))
    return "theirs" if not passed_over and _is_file(name) else "torch"


def _is_file(name: str) -> bool:
    """Whether a name of code is that of a file, or of a cell in IPython's terminal, which no ``exec`` made."""
    return name.startswith("<ipython-input-") or not name.startswith("<")


def _cell(name: str) -> str:
    """What a notebook calls the cell with this name, such as "In[2]"; "" for a file."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    called = getattr(getattr(shell, "compile", None), "format_code_name", lambda _: None)(name)
    return called[1] if called else ""


_short: dict[str, str] = {}


def shorten(path: str) -> str:
    """A path below the working directory relative to it, an installed one from its package on; a cell by its number.

    That of a cell is asked each time: one that is run again has another.
    """
    if path not in _short:
        if cell := _cell(path):
            return cell
        where = Path(path)
        parts = where.parts
        if "site-packages" in parts:
            _short[path] = "/".join(parts[len(parts) - parts[::-1].index("site-packages") :])
        else:
            _short[path] = where.relative_to(Path.cwd()).as_posix() if where.is_relative_to(Path.cwd()) else str(where)
    return _short[path]


def module_path(name: str) -> str:
    """A module path without the names that torch.compile and parametrizations put into it."""
    parts = [p for p in name.split(".") if p != "_orig_mod"]
    if "parametrizations" in parts:
        parts = parts[: parts.index("parametrizations")]
    return ".".join(parts)


def blame(error: BaseException) -> str:
    """ " (in the innermost module, at file:line)" of what an error passed through on the user's side, or nothing."""
    where, trace = "", error.__traceback__
    modules: list[nn.Module] = []
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith(_TORCH) and not (name.startswith(_OURS) and not name.startswith(_ZOO)):
            where = f"at {shorten(name)}:{trace.tb_lineno}"
        running = trace.tb_frame.f_locals.get("self")
        if isinstance(running, nn.Module):
            modules.append(running)
        trace = trace.tb_next
    if modules:
        path = next((module_path(n) for n, m in modules[0].named_modules() if m is modules[-1]), "")
        module = " ".join(filter(None, ("in", path, type(modules[-1]).__name__)))
        where = f"{module}, {where}" if where else module
    return f" ({where})" if where else ""

"""Where a checked file belongs: the package or project it is a part of, and the names that import it from there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg", ".git")


@dataclass(frozen=True)
class Home:
    """``module``: the dotted name inside of its package, "" for a plain script; ``first`` and ``last``: folders that
    belong at the beginning and at the end of ``sys.path``."""

    module: str
    first: tuple[Path, ...]
    last: tuple[Path, ...]


def home_of(path: Path) -> Home:
    """The home of a file: above all folders with an ``__init__.py``, or the ``src`` folder of its project.

    A plain script sees its own folder first, as ``python FILE.py`` gives it, and the packages of its project.
    """
    file = path.resolve()
    folder = file.parent
    project = next((each for each in (folder, *folder.parents) if _is_project(each)), None)
    source = next((each for each in (folder, *folder.parents) if each.name == "src" and _is_project(each.parent)), None)
    root = folder
    while (root / "__init__.py").is_file() and root != root.parent:
        root = root.parent
    if root == folder and source is not None:
        root = source  # packages of a src layout may do without __init__.py
    module = _dotted(file, root)
    also = () if project is None else (project,)
    if module and root != folder:
        # last, because a package's own file such as types.py would stand in for the standard library's
        return Home(module, (root,), (folder, *also))
    sources = tuple(each / "src" for each in (folder, *also) if (each / "src").is_dir())
    return Home("", (path.absolute().parent, *dict.fromkeys(sources)), also)


def run_words(script: Path) -> str:
    """What ``unvanish run`` is given for a script: its path, or -m and the module where it is a part of a package."""
    module = home_of(script).module
    return f"-m {module}" if module else str(script)


def notebook(target: str) -> str:
    """What to do with a notebook."""
    return (
        f"{target!r} is a notebook; check it from inside, in a cell behind the model: import unvanish;"
        " unvanish.diagnose(model, inputs, targets, loss_fn, optimizer=optimizer)"
    )


def file_of(module: str) -> Path | None:
    """The file of a dotted module name, from the working directory, its ``src`` folder or ``sys.path``; not run."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    for folder in (Path(), Path("src"), *map(Path, sys.path)):
        stem = folder.joinpath(*parts)
        for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
            if file.is_file():
                return file
    return None


@contextlib.contextmanager
def at_home(home: Home) -> Generator[None, None, None]:
    """``sys.path`` with the home's folders; a package of the same name from elsewhere steps aside meanwhile."""
    search = list(sys.path)
    sys.path[:] = [*map(str, home.first), *search, *map(str, home.last)]
    top = home.module.partition(".")[0]
    before = {name: module for name, module in sys.modules.items() if name == top or name.startswith(f"{top}.")}
    ours = before.get(top)
    file = getattr(ours, "__file__", None)
    foreign = ours is not None and not (file and Path(file).resolve().is_relative_to(home.first[0]))
    if foreign:
        for name in before:
            del sys.modules[name]
    try:
        yield
    finally:
        sys.path[:] = search
        if top:
            for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
                if name not in before or foreign:
                    del sys.modules[name]
            sys.modules.update(before)


def _is_project(folder: Path) -> bool:
    return any((folder / name).exists() for name in PROJECT_FILES)


def _dotted(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) if all(part.isidentifier() for part in parts) else ""

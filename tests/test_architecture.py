"""What keeps the package small and quick to import: ceilings, directions, and nothing heavy before it is needed."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unvanish

SOURCE = Path(unvanish.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
DOCS = sorted((Path(__file__).parents[1] / "docs").rglob("*.py"))
HEAVY = ("torch", "numpy", "altair", "rich", "click")
SHUNNED_FILES = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
SHUNNED_CLASSES = ("Manager", "Handler", "Base")
PUBLIC_NAMES = 15


def submodules() -> list[str]:
    modules = pkgutil.walk_packages(unvanish.__path__, "unvanish.")
    return [module.name for module in modules if not module.name.endswith("__main__")]


def nodes(path: Path, kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind))


@functools.cache
def own_classes() -> frozenset[str]:
    return frozenset(n.name for file in FILES for n in nodes(file, ast.ClassDef) if isinstance(n, ast.ClassDef))


def loaded_after(program: str) -> set[str]:
    """Which heavy packages are in sys.modules after a program ran in a fresh interpreter."""
    tail = f"\nimport sys; print(*set({HEAVY!r}) & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program + tail], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("path", [*FILES, *DOCS], ids=lambda path: "/".join(path.parts[-3:]))
def test_ceilings(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert path.name not in SHUNNED_FILES
    for node in nodes(path, (ast.FunctionDef, ast.AsyncFunctionDef)):
        assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        assert (node.end_lineno or 0) - node.lineno + 1 <= 60, f"{node.name} is longer than 60 lines"
    for node in nodes(path, ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        assert not node.name.endswith(SHUNNED_CLASSES), node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_inheritance_among_our_own_classes_but_records(path: Path) -> None:
    classes = own_classes()
    for node in nodes(path, ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        bases = {ast.unparse(base).rpartition(".")[2].partition("[")[0] for base in node.bases}
        assert bases & classes <= {"Record", "UnvanishError"}, f"{node.name} inherits from {bases & classes}"


def test_few_public_names_and_each_is_what_it_says() -> None:
    assert len(unvanish.__all__) <= PUBLIC_NAMES
    for module in submodules():
        importlib.import_module(module)
    for name in unvanish.__all__:
        value = getattr(unvanish, name)
        assert isinstance(value, str) or callable(value), f"unvanish.{name} became {value!r}: a module of that name?"
    assert set(unvanish.__all__) <= set(dir(unvanish))


def test_no_module_has_the_name_of_a_public_function() -> None:
    taken = {"diagnose", "fix", "watch", "sweep", "load_run", "assert_healthy", *map(str.lower, unvanish.__all__)}
    top_level = {module.split(".")[1] for module in submodules()}
    assert not {name for name in taken & top_level if callable(getattr(unvanish, name, None))}
    assert not top_level & {"diagnose", "fix", "watch", "sweep"}


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        unvanish.no_such_name  # noqa: B018  # pyright: ignore


@pytest.mark.parametrize(
    "program",
    [
        "import unvanish",
        "import unvanish; unvanish.UnvanishError; dir(unvanish)",
        "from unvanish import zoo; [zoo.describe(name) for name in zoo.names()]",
        "from unvanish.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code",
    ],
    ids=["import", "names", "zoo", "help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(program: str) -> None:
    assert loaded_after(program) == set()


@pytest.mark.parametrize("module", ["records", "decide", "rules", "report", "cli"])
def test_the_torch_free_side_is_torch_free(module: str) -> None:
    assert "torch" not in loaded_after(f"import unvanish.{module}")


def test_directions_hold() -> None:
    """The layers of [tool.importlinter]; imports inside functions count too."""
    root = SOURCE.parents[1]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("the contract is in pyproject.toml, which an installed package does not have")
    program = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def runtime_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports anywhere but for type checking."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inside in ast.walk(node)
    }
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in hidden and (node.module or "").startswith("unvanish"):
            named |= {f"{node.module}.{each.name}" for each in node.names} | {str(node.module)}
    return named


def test_no_two_files_import_each_other_in_a_circle() -> None:
    """Not even inside a function: a record does not know who writes it, unless the writer does not know the record.

    A room's ``__init__.py`` stands aside: it offers a registry to the files that register themselves in it.
    """
    modules = {
        ".".join(("unvanish", *path.relative_to(SOURCE).with_suffix("").parts)): path
        for path in FILES
        if path.name != "__init__.py"
    }
    waiting = {name: runtime_imports(path) & set(modules) - {name} for name, path in modules.items()}
    while free := [name for name, needs in waiting.items() if not needs & set(waiting)]:
        for name in free:
            del waiting[name]
    assert not waiting, f"these import each other in a circle: {sorted(waiting)}"

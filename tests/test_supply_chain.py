"""What is published can be built again bit for bit, needs no more than it says, and reads no code and no network."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "unvanish"

ALLOWED = {
    "pickle": {
        # over pipes to processes of its own: never a file, never what somebody sent
        "workers/process.py", "workers/pickled.py", "population/lasting.py",
    },
    "subprocess": {"workers/process.py"},  # this Python, with a program of ours
    "ctypes": {"preserve/tensors.py"},  # compares two tensors of this process byte by byte
    "socket": {"server/__init__.py"},  # listens on loopback
    "webbrowser": {"server/__init__.py"},  # opens the address it listens on
    "exec": {
        "cli/problem_file.py", "population/own.py",  # the file that the command line or the grid names
        "remedies/draft.py",  # code of a remedy, which fix has written itself
    },
    "runpy": {"watching/script.py"},  # unvanish run SCRIPT.py
}  # fmt: skip
"""What may read code, start a process or open a connection, and where."""
DANGEROUS = {
    "pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "eval", "exec", "compile", "__import__", "runpy",
    "subprocess", "socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib",
    "telnetlib", "xmlrpc", "webbrowser", "ctypes", "code", "pty",
}  # fmt: skip
HARMLESS = {"http.cookies", "urllib.parse"}
"""Parts of such modules that only take texts apart."""


def used(file: Path) -> Iterator[str]:
    """Dangerous modules that a file imports and built-ins that it calls."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from {node.func.id} & {"eval", "exec", "compile", "__import__"}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            assert called not in ("os.system", "os.popen", "torch.hub.load", "numpy.load", "np.load"), (file, called)
            assert called != "torch.load" or "weights_only=True" in ast.unparse(node), file
        yield from (each.partition(".")[0] for each in names if each not in HARMLESS)


def test_code_processes_and_connections_only_where_a_reason_stands_here() -> None:
    found: dict[str, set[str]] = {}
    for file in SOURCE.rglob("*.py"):
        for name in set(used(file)) & DANGEROUS:
            found.setdefault(name, set()).add(file.relative_to(SOURCE).as_posix())
    found.pop("cloudpickle", None)
    assert found == ALLOWED


def built(checkout: Path, out: Path, epoch: str) -> dict[str, str]:
    """The archives of a checkout, with the hash of each."""
    program = (
        "import sys; from hatchling.builders.sdist import SdistBuilder; from hatchling.builders.wheel import"
        " WheelBuilder\nfor each in (SdistBuilder, WheelBuilder): print(next(each(sys.argv[1])"
        ".build(directory=sys.argv[2], versions=['standard'])))"
    )
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    subprocess.run([sys.executable, "-c", program, str(checkout), str(out)], check=True, env=environment)
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in out.iterdir()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling writes the archives")
    out = tmp_path_factory.mktemp("wheel")
    built(ROOT, out, "1700000000")
    return next(out.glob("*.whl"))


def test_two_builds_are_the_same_bit_for_bit(wheel: Path, tmp_path: Path) -> None:
    """From another folder, with other dates of the files, another umask and another day."""
    shutil.copytree(
        ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "results", ".*_cache")
    )
    for each in (tmp_path / "copy").rglob("*"):
        os.utime(each, (10**9, 10**9))
    before = os.umask(0o077)
    try:
        again = built(tmp_path / "copy", tmp_path / "out", "1700000000")
    finally:
        os.umask(before)
    first = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in wheel.parent.iterdir()}
    assert len(first) == 2 and again == first


def test_the_wheel_is_small_and_holds_the_package_alone(wheel: Path) -> None:
    import zipfile

    assert wheel.stat().st_size < 2 * 2**20
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"unvanish"}
    there = {each.relative_to(ROOT / "src").as_posix() for each in SOURCE.rglob("*") if each.is_file()}
    assert {name for name in names if name.startswith("unvanish/")} == {
        name for name in there if "__pycache__" not in name
    }


def needed(requirements: list[str], extras: frozenset[str] = frozenset()) -> set[str]:
    """The distributions that these requirements bring with them, by name; markers are evaluated."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        each = waiting.pop()
        markers = [{"extra": extra} for extra in each.extras or {""}]
        if not re.fullmatch(r"[\w.-]+", each.name) or (name := each.name.lower()) in found:
            continue
        try:
            wanted = metadata.requires(each.name) or []
        except metadata.PackageNotFoundError:
            pytest.skip(f"{each.name} is not installed")
        found.add(name)
        for line in wanted:
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate(marker) for marker in [{"extra": ""}, *markers]):
                waiting.append(further)
    return found


def environment(folder: Path, wheel: Path, extra: str = "") -> Path:
    """A folder of packages with the wheel and what its metadata asks for, and nothing else."""
    import email
    import zipfile

    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        lines = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    requirements: list[str] = []
    extras = {"", extra, *{"lab": ["pictures"], "ray": ["workers"]}.get(extra, [])}
    for line in lines:
        each = Requirement(line)
        if each.name != "unvanish" and (
            each.marker is None or any(each.marker.evaluate({"extra": name}) for name in extras)
        ):
            requirements.append(line.partition(";")[0])
    for name in needed(requirements):
        for file in metadata.files(name) or []:
            top = file.parts[0]
            place = Path(str(file.locate()))
            for _ in file.parts[1:]:
                place = place.parent
            if top not in ("..", "__pycache__") and not (folder / top).exists() and place.exists():
                (folder / top).symlink_to(place)
    return folder


def alone(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python with the packages of this folder and no others."""
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-S", *words], env=variables, text=True, capture_output=True, timeout=300)


def test_the_core_needs_what_it_says_and_no_more(wheel: Path, tmp_path: Path) -> None:
    """Check, run, show, explain and a search without numpy, altair, starlette or anything of the developers'."""
    folder = environment(tmp_path / "packages", wheel)
    assert alone(folder, "-c", "import numpy").returncode and alone(folder, "-c", "import altair").returncode
    script = tmp_path / "train.py"
    script.write_text((ROOT / "examples" / "deep_sigmoid.py").read_text())
    assert "unvanish" in alone(folder, "-m", "unvanish", "--version").stdout
    check = alone(folder, "-m", "unvanish", "check", str(script), "--format", "json")
    assert check.returncode == 1 and '"vanished"' in check.stdout, check.stderr
    assert alone(folder, "-m", "unvanish", "explain", "UV101").returncode == 0
    training = next(
        each for each in sorted((ROOT / "examples").rglob("*.py")) if "optimizer.step()" in each.read_text()
    )
    options = ("--stop-after", "3", "--fail-on", "never", "-o", str(tmp_path / "r.unvanish"))
    run = alone(folder, "-m", "unvanish", "run", *options, str(training))
    assert run.returncode == 0, run.stderr
    assert alone(folder, "-m", "unvanish", "show", str(tmp_path / "r.unvanish")).returncode == 0


OF_EXTRA = {
    "pictures": "from unvanish.charts import draw, pictures\n"
    "print(draw('staircase', {t: [] for p in pictures() if p.name == 'staircase' for t in p.tables}).svg()[:4])",
    "lab": "import unvanish.lab\nfrom unvanish.server.lab import site\nfrom unvanish.server.app import application\n"
    "application(site(), 'x', 1)\nimport uvicorn\nprint(unvanish.lab.run('chain', depth=3).pictures[0].name)",
    "workers": "from unvanish.workers.pickled import pickled\nprint(len(pickled({'a': 1}, 'x')))",
    "dks": "import dks, numpy\nprint(dks.__name__)",
    "ray": "import ray, cloudpickle\nprint(ray.__version__)",
}


@pytest.mark.parametrize("extra", OF_EXTRA)
def test_every_extra_works_with_its_own_packages_alone(extra: str, wheel: Path, tmp_path: Path) -> None:
    answer = alone(environment(tmp_path / "packages", wheel, extra), "-c", OF_EXTRA[extra])
    assert answer.returncode == 0 and answer.stdout.strip(), answer.stderr

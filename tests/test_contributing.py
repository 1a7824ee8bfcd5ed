"""The pages on adding something are followed literally, in a copy: one file is touched, and mistakes are explained."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "contributing"
COPIED = ("benchmarks", "docs", "examples", "src", "tests", "tools", "pyproject.toml", "README.md", "CHANGELOG.md",
          "CONTRIBUTING.md", "Makefile", "constraints.txt")  # fmt: skip
ADDITIONS = ("rule", "remedy", "picture", "experiment", "format")
PROBES = {
    "rule": "from unvanish import diagnose, zoo; from unvanish.remedies import remedies; remedies();"
    " diagnose(zoo.get('unscaled-inputs').build(0))",
    "remedy": "from unvanish.remedies import remedies; remedies()",
    "picture": "import runpy, sys; from unvanish.charts import pictures; pictures();"
    " sys.argv = ['render.py', 'ladder']; runpy.run_path('docs/pictures/render.py', run_name='__main__')",
    "experiment": "from unvanish.lab import experiments; experiments()",
    "format": "from unvanish.report.formats import formats; formats()",
}
"""What comes upon a mistake first: what every check, search, drawing or run does with the new file."""

FORKED = """
import os, sys, traceback
from pathlib import Path
import torch, altair, unvanish.zoo.mnist  # once for all mistakes: nothing here imports what is being changed

torch.set_num_threads(1)
file, probe, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
sound = file.read_text(encoding="utf-8")
for place, (old, new) in enumerate(zip(sys.argv[4::2], sys.argv[5::2])):
    assert old in sound, f"the page replaces {old!r}, which its file does not hold"
    file.write_text(sound.replace(old, new, 1), encoding="utf-8")
    if not os.fork():
        said = "not refused"
        try:
            exec(probe, {"__name__": "probe"})
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        (out / str(place)).write_text(said, encoding="utf-8")
        os._exit(0)
    os.wait()
file.write_text(sound, encoding="utf-8")
"""


@dataclass(frozen=True)
class Page:
    """The blocks of a page in their order, as (language, text), and its table of mistakes."""

    blocks: tuple[tuple[str, str], ...]
    mistakes: tuple[tuple[str, str, str], ...]

    @classmethod
    def read(cls, kind: str) -> Page:
        text = (GUIDE / f"{kind}.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        table = text.split("| instead of | written | says |\n| --- | --- | --- |\n")[1].strip().splitlines()
        rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table]
        return cls(tuple(blocks), tuple((old.strip("`"), new.strip("`"), says) for old, new, says in rows))

    @property
    def commands(self) -> list[str]:
        return [line for language, text in self.blocks if language == "sh" for line in text.splitlines()]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """One command of a page, with this interpreter; the package is the copy's own."""
    words = shlex.split(command, comments=True)
    python = {"python": [sys.executable], "pytest": [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]}
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    environment = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [*python[words[0]], *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".hypothesis" not in path.parts
    }


@cache
def generated() -> frozenset[str]:
    """The pages that docs/build.py writes."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("docs_build_listing", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return frozenset(str(path.relative_to(ROOT)) for path in module.pages())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    if not (ROOT / "tools").is_dir():
        pytest.skip("there is no checkout to copy")
    for name in COPIED:
        source, target = ROOT / name, tmp_path / "copy" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return tmp_path / "copy"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the mistakes are tried in forked processes")
@pytest.mark.parametrize("kind", ADDITIONS)
def test_a_page_followed_literally_adds_what_it_says_with_one_file(kind: str, copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    page, before = Page.read(kind), contents(copy)
    written: Path | None = None
    for language, text in page.blocks:
        if language == "python":
            first, _, code = text.partition("\n")
            written = copy / first.removeprefix("# ")
            assert written.is_file(), f"the command has not written {first}"
            assert "FILL IN" in written.read_text(encoding="utf-8") and "FILL IN" not in code
            written.write_text(code, encoding="utf-8")
            continue
        for command in text.splitlines():
            if written is not None and command == "python docs/build.py":
                stale = run("pytest -q tests/test_docs.py -k fresh", copy)
                assert stale.returncode == 1 and "run: python docs/build.py" in stale.stdout
            done = run(command, copy)
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            if command.startswith("pytest"):
                assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 3
            if command.startswith("python -m tools.new"):
                shown = re.sub(r"\s+", " ", done.stdout)
                assert all(proof in shown for proof in page.commands[1:]), "the command names other tests than the page"
                assert run(command, copy).returncode == 2, "what is there must not be written over"
    assert written is not None
    after = contents(copy)
    touched = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    drawn = {path for path in touched if path.startswith("docs/pictures/") and path.endswith(".svg")}
    assert touched - generated() - drawn == {str(written.relative_to(copy))}
    assert touched & generated() or drawn, "what was added stands on no page"
    mistakes_are_explained(kind, page, written, copy, tmp_path)


def mistakes_are_explained(kind: str, page: Page, file: Path, copy: Path, out: Path) -> None:
    changes = [each for old, new, _ in page.mistakes for each in (old, new)]
    program = [sys.executable, "-W", "ignore", "-c", FORKED, str(file), PROBES[kind], str(out), *changes]
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(program, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(page.mistakes) >= 5
    for place, (_, new, says) in enumerate(page.mistakes):
        message = (out / str(place)).read_text(encoding="utf-8")
        assert says in message, f"{new}: {message}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ('rule UV1 "too short"', "'UV1' is no name for a rule (UV and three digits): write one such as UV799"),
        ('rule UV101 "again"', "src/unvanish/rules/uv101_vanishing.py is already there: choose another name"),
        (
            'remedy Adam "upper case"',
            "'Adam' is no name for a remedy (small letters, digits, - and .): write one such as activation-softsign",
        ),
        ('picture ladder "No question"', "a picture answers a question: 'No question' needs a question mark"),
        ('experiment chain "Again"', "src/unvanish/lab/chain.py is already there"),
        ('experiment parameters "A part"', "src/unvanish/lab/parameters.py is already there"),
        ('format oneline ""', "the title says what it is: write it as one line without quotes"),
    ],
)
def test_a_wrong_start_writes_nothing_and_says_what_to_do(arguments: str, sentence: str) -> None:
    before = sorted((ROOT / "src").rglob("*.py"))
    done = run(f"python -m tools.new {arguments}", ROOT)
    assert done.returncode == 2 and f"nothing was written: {sentence}" in done.stderr
    assert sorted((ROOT / "src").rglob("*.py")) == before


def test_the_guide_leads_to_every_page_and_no_link_is_dead() -> None:
    pages = {path.stem for path in GUIDE.glob("*.md")}
    assert pages == set(ADDITIONS) == {path.stem for path in (ROOT / "tools" / "skeletons").glob("*.txt")}
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"(docs/contributing/{name}.md)" in guide for name in pages)
    assert "CONTRIBUTING.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "CONTRIBUTING.md", *GUIDE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
        for path in re.findall(r"`((?:src|docs|examples|benchmarks|tests)/[\w./-]+)`", text):
            assert (ROOT / path).exists() or path in "".join(code for _, code in Page.read(page.stem).blocks), path

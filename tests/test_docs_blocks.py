"""Every block of code of every page is one that a test runs or reads, whatever its language."""

from __future__ import annotations

import functools
import io
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from test_docs import ROOT, blocks, differences

from unvanish import cli, zoo
from unvanish.population.grid import read_grid
from unvanish.remedies import Remedy, remedies

PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RUN_BY = {
    "python": "test_docs.py runs it, or what ELSEWHERE names",
    "sh": "test_docs.py reads each command and looks for what it names",
    "console": "it is run here, and its output compared",
    "toml": "read here as the grid of a sweep",
    "yaml": "read here, and the commands of ours in it",
    "bash": "the commands of ours in it are read here",
    "text": "output, or a formula: of a program it is compared by test_docs.py",
}
ELSEWHERE = {
    "docs/integrations.md": "test_integrations_docs.py",
    "docs/guides/several-processes.md": "test_docs_blocks.py",
    **{
        f"docs/contributing/{kind}.md": "test_contributing.py"
        for kind in ("rule", "remedy", "picture", "experiment", "format")
    },
}
"""Pages whose Python does not run in the process of the tests, and the test that runs it."""
OMITTED = "…"


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_no_block_is_in_a_language_that_nothing_checks(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0 and not any(fences[1::2])
    assert set(fences[::2]) <= set(RUN_BY)


def test_python_that_runs_elsewhere_is_run_there() -> None:
    for page, test in ELSEWHERE.items():
        text = (Path(__file__).parent / test).read_text(encoding="utf-8")
        assert blocks(ROOT / page, "python") and Path(page).name.removesuffix(".md") in text.replace("_", "-")


def consoles() -> list[tuple[str, str, str]]:
    """Page, command and output of every command that a page shows with what it prints."""
    found: list[tuple[str, str, str]] = []
    for page in PAGES:
        for block in blocks(page, "console"):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append((page.relative_to(ROOT).as_posix(), command, output))
    return found


@pytest.mark.parametrize(("page", "command", "output"), consoles(), ids=[command for _, command, _ in consoles()])
def test_a_command_prints_what_is_shown(page: str, command: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.startswith("unvanish ") and output.strip()
    shown = output.rstrip().splitlines()
    fresh = printed(command, monkeypatch).rstrip().splitlines()
    if shown[-1] == OMITTED:
        shown, fresh = shown[:-1], fresh[: len(shown) - 1]
    ends = [line.removesuffix(OMITTED) for line in shown]  # a line may be cut off as well
    cut = [line[: len(end)] if end != whole else line for line, end, whole in zip(fresh, ends, shown, strict=False)]
    differ = differences("\n".join(ends), "\n".join([*cut, *fresh[len(cut) :]]))
    assert not differ, f"{page} shows another output of {command}"


def printed(command: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with redirect_stdout(out):
        assert cli.main(shlex.split(command)[1:]) in (0, 1)
    out.seek(0)
    return out.read()


def test_an_output_that_is_other_than_shown_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("Vanished: another sentence\n…", "Healthy: no fault was found\nand no more"):
        with pytest.raises(AssertionError):
            test_a_command_prints_what_is_shown("x.md", "unvanish check examples/converging.py", wrong, monkeypatch)


TOML = [(name, block) for page, name in zip(PAGES, names(PAGES), strict=True) for block in blocks(page, "toml")]


@pytest.mark.parametrize(("page", "block"), TOML)
def test_a_grid_of_a_page_is_one(page: str, block: str, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(block, encoding="utf-8")
    model = tomllib.loads(block).get("fixed", {}).get("model", "")
    if model:
        file, _, function = model.partition(":")
        (tmp_path / file).write_text(f"def {function}(depth, dropout):\n    raise NotImplementedError\n")
    assert read_grid(tmp_path / "grid.toml")


OURS = [
    (name, language, command)
    for page, name in zip(PAGES, names(PAGES), strict=True)
    for language in ("bash", "yaml")
    for block in blocks(page, language)
    for command in re.findall(r"\bunvanish (?:sweep|check|run|show|fix) [^'\n#&]*", block)
]


@pytest.mark.parametrize(("page", "language", "command"), OURS, ids=[command for _, _, command in OURS])
def test_a_command_of_ours_in_a_script_is_understood(page: str, language: str, command: str) -> None:
    words = shlex.split(command)
    assert cli._parsed(words[1 : words.index(">>") if ">>" in words else None])


def test_yaml_of_a_page_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    found = [yaml.safe_load(block) for page in PAGES for block in blocks(page, "yaml")]
    assert found and all(isinstance(each, dict) for each in found)


@pytest.mark.parametrize("remedy", remedies(), ids=lambda remedy: remedy.slug)
def test_the_code_on_the_page_of_a_remedy_changes_the_network_it_is_for(remedy: Remedy) -> None:
    """That it makes the same network as the remedy itself, bit for bit, is tested in test_remedies_code.py."""
    name, code = import_module("website.remedy_pages").code(remedy)  # docs/ is on the path since test_docs was imported
    problem = zoo.get(name).build(0)
    model, _ = problem.build()
    names: dict[str, Any] = {"__name__": "handed_over", "model": model, "loss_fn": problem.loss_fn}
    names |= {"inputs": problem.inputs, "targets": problem.targets}
    names |= {"sample_inputs": problem.inputs, "sample_targets": problem.targets}
    exec(compile(code, remedy.slug, "exec"), names)
    outputs = names["model"](*given) if isinstance(given := names["inputs"], tuple) else names["model"](given)
    assert outputs is not None


@functools.cache
def started_by_torchrun() -> tuple[str, ...]:
    return tuple(blocks(ROOT / "docs" / "guides" / "several-processes.md", "python"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo with torchrun")
@pytest.mark.parametrize("at", range(len(started_by_torchrun())))
def test_a_program_for_several_processes_runs_in_two(at: int, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(started_by_torchrun()[at], encoding="utf-8")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    for _ in range(4):  # torch's own threads bring one of a dozen down after its work: see test_run_scripts.py
        command = [sys.executable, "-W", "ignore", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
        if "terminate called without an active exception" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("Healthy: ") and done.stdout.count("2 processes train") == 1

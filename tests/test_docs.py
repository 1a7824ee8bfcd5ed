"""The documentation is true: generated pages are fresh, code runs, commands parse, and everything named exists."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from unvanish import cli, zoo
from unvanish.explain import explain
from unvanish.glossary import VERDICT_WORDS, field_entry
from unvanish.problem_file import split_target
from unvanish.records import UnvanishError
from unvanish.rules import rules

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize("path", build.pages(), ids=lambda path: path.name)
def test_generated_pages_are_fresh(path):
    assert path.read_text(encoding="utf-8") == build.pages()[path], "run: python docs/build.py"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "documented"}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)
        assert len(names) > 2, "the block defines or imports nothing"  # more than __name__ and __builtins__


def test_the_output_of_the_example_is_what_it_prints():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- output:example -->\n(.*?)<!-- /output:example -->", readme, re.DOTALL)
    assert shown is not None
    differ = differences(shown[1].strip(), build.example_output(readme))
    assert not differ, "run: python docs/build.py --example"


def differences(shown: str, fresh: str) -> list[tuple[str, str]]:
    """The lines that differ by more than bars, blanks, 2 % of a number, or one in its last printed digit."""
    lines = [_bare(text).splitlines() for text in (shown, fresh)]
    if len(lines[0]) != len(lines[1]):
        return [("\n".join(lines[0]), "\n".join(lines[1]))]
    return [(a, b) for a, b in zip(*lines, strict=True) if not _alike(a, b)]


def _bare(text: str) -> str:
    return re.sub(r"[ \t]+", " ", re.sub("[▏▎▍▌▋▊▉█┊]+", " ", text)).strip()


def _alike(a: str, b: str) -> bool:
    if NUMBER.sub("#", a) != NUMBER.sub("#", b):
        return False
    return all(map(_close, NUMBER.findall(a), NUMBER.findall(b)))


def _close(a: str, b: str) -> bool:
    if a == b:
        return True
    digits = min(len(text.partition(".")[2]) for text in (a, b))
    x, y = (float(text.replace(",", "")) for text in (a, b))
    # A whole number is a count or a name, and has no last digit to be rounded.
    rounding = 1.01 * 10.0**-digits if digits else 0.0
    return abs(x - y) <= max(0.02 * abs(x), rounding)


@pytest.mark.parametrize(
    ("shown", "fresh", "same"),
    [
        ("fc1  10^-16.2  ███▏   ×0.13", "fc1  10^-16.3  ███▌  ×0.13", True),
        ("fc1  10^-16.2", "fc1  10^-17.2", False),
        ("loss 2.300", "loss 2.333", True),
        ("loss 2.300", "loss 2.400", False),
        ("20 layers: 16 vanished", "20 layers: 17 vanished", False),
        ("20 layers: vanished", "20 layers: healthy", False),
        ("one line", "one line\nand another", False),
    ],
)
def test_two_outputs_are_compared_by_their_numbers(shown, fresh, same):
    assert (differences(shown, fresh) == []) is same


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_commands_exist(page, line):
    words = shlex.split(line, comments=True)
    if words[0] == "unvanish":
        arguments = cli._parser().parse_args(words[1:])
        for topic in [" ".join(arguments.topic)] if "topic" in arguments else []:
            assert explain(topic)
        if getattr(arguments, "name", None):
            assert zoo.get(arguments.name)
        if "target" in arguments:
            path, name = split_target(arguments.target)
            assert re.search(rf"^(def {name}\(|{name} = )", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        for code in (*getattr(arguments, "select", ()), *getattr(arguments, "ignore", ())):
            assert any(rule.code.startswith(code) for rule in rules())
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in ("pip", "pytest"), f"{page} shows a command that nothing checks"


def test_commands_that_name_nothing_are_noticed():
    with pytest.raises(UnvanishError):
        test_commands_exist("x.md", "unvanish explain no such thing")
    with pytest.raises(UnvanishError):
        test_commands_exist("x.md", "unvanish zoo no-such-network")
    with pytest.raises(SystemExit):
        test_commands_exist("x.md", "unvanish check x.py --no-such-option")
    with pytest.raises(OSError):
        test_commands_exist("x.md", "unvanish check examples/no_such_file.py")
    with pytest.raises(AssertionError):
        test_commands_exist("x.md", "unvanish check examples/factory.py:no_such_name")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_codes_and_files_named_in_prose_exist(page):
    text = page.read_text(encoding="utf-8")
    known = {rule.code for rule in rules()}
    assert set(re.findall(r"\bUV\d{3}\b", text)) <= known
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    # What carries a comment behind `python docs/build.py` and the like is a command; a path has a folder and an ending.
    for path in re.findall(r"`((?:src|docs|examples|benchmarks|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("record", build.RECORDS, ids=lambda record: record.__name__)
def test_every_field_is_in_the_glossary_page(record):
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    section = page.split(f"## {record.__name__}\n")[1].split("\n## ")[0]
    for field in record.__struct_fields__:
        entry = field_entry(record.__name__, field)
        assert entry, f"the glossary has no entry for {record.__name__}.{field}"
        assert f"| `{field}` |" in section


def test_every_rule_and_verdict_is_on_its_page():
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    anchors = set(map(build._anchor, re.findall(r"^## (.*)$", page, re.MULTILINE)))
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
    for rule in rules():
        assert f"## {rule.code} {rule.title}\n" in page
    for word in VERDICT_WORDS:
        assert f"| {word} |" in page


def test_every_option_is_on_the_page_of_the_command_line():
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    for command in ("check", "zoo", "explain"):
        assert f"## {command}\n" in page
    for option in option_names():
        assert option in page


@functools.cache
def option_names() -> tuple[str, ...]:
    commands = next(action.choices for action in cli._parser()._actions if isinstance(action.choices, dict))
    found = {text for parser in commands.values() for text in parser._option_string_actions}
    return tuple(sorted(found - {"-h", "--help"}))


def test_costs_are_shown_only_where_they_were_measured(tmp_path):
    assert build.costs(tmp_path / "none.json") == ""
    row = {"step_ms": 2.04, "quick_in_steps": 3.0, "auto_in_steps": 7.46, "full_in_steps": 12.0}
    data = {
        "networks": {"mlp": {**row, "auto_in_step_peaks": 1.5}},
        "machine": {"processor": "a processor", "threads": 2},
        "versions": {"torch": "2.13.0"},
    }
    (tmp_path / "costs.json").write_text(json.dumps(data))
    shown = build.costs(tmp_path / "costs.json")
    assert "| mlp | 2.0 ms | 3.0 | 7.5 | 12.0 | 1.5 |" in shown
    assert "a processor, 2 threads, torch 2.13.0" in shown


def test_the_changelog_names_the_version():
    import unvanish

    assert f"## [{unvanish.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

"""The documentation is true: generated pages are fresh, code runs, commands parse, and everything named exists."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

import unvanish
from unvanish import charts, cli, lab, zoo
from unvanish.cli.problem_file import loaded_problem, split_target
from unvanish.records import UnvanishError
from unvanish.remedies import remedies
from unvanish.report.explain import explain
from unvanish.report.formats import formats, names
from unvanish.rules import known, rules
from unvanish.words.glossary import VERDICT_WORDS, field_entry

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "guides").glob("*.md"))]
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load("docs_build", ROOT / "docs" / "build.py")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]


WRITTEN = build.pages()


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_generated_pages_are_fresh(path):
    assert path.read_text(encoding="utf-8") == WRITTEN[path], "run: python docs/build.py"


OUTSIDE = ("integrations.md", "several-processes.md")
"""Their programs run outside of this process: tests/test_integrations_docs.py, tests/test_docs_blocks.py."""
RUN_HERE = [page for page in PAGES if blocks(page, "python") and page.name not in OUTSIDE]


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
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
    """The lines that differ by more than bars, blanks, 2% of a number, or one in its last printed digit."""
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


READERS_OWN = ("train.py", "train_problem.py", "mypackage.")
"""Programs that stand for one of the reader's: such a command must only be understood."""


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_commands_exist(page, line):
    words = shlex.split(line, comments=True)
    if words[0] == "unvanish":
        arguments = cli._parsed(words[1:])
        for topic in [" ".join(arguments.topic)] if "topic" in arguments else []:
            assert explain(topic)
        if getattr(arguments, "name", None):
            assert zoo.get(arguments.name)
        if "target" in arguments and not arguments.target.startswith(READERS_OWN):
            path, name = split_target(arguments.target)
            assert re.search(rf"^(def {name}\(|{name} = )", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        for code in (*getattr(arguments, "select", ()), *getattr(arguments, "ignore", ())):
            assert any(rule.code.startswith(code) for rule in rules())
        if getattr(arguments, "experiment", None):
            settled(arguments.experiment, vars(arguments))
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    elif words[0] == "torchrun":
        assert (ROOT / words[-1]).is_file() and words[-4:-1] == ["-m", "unvanish", "run"]
    else:
        assert words[0] in ("pip", "pytest"), f"{page} shows a command that nothing checks"


def settled(experiment: str, arguments: dict[str, object]) -> lab.Settings:
    """The settings of a command line, read and checked as when it runs."""
    given = {key.removeprefix("parameter_"): value for key, value in arguments.items() if key.startswith("parameter_")}
    preset = str(arguments.get("preset") or "")
    return lab.get(experiment).settle(preset, **{key: value for key, value in given.items() if value is not None})


def test_commands_that_name_nothing_are_noticed():
    for wrong, refusal in (
        ("explain no such thing", UnvanishError),
        ("zoo no-such-network", UnvanishError),
        ("check x.py --no-such-option", SystemExit),
        ("check examples/no_such_file.py", OSError),
        ("check examples/factory.py:no_such_name", AssertionError),
        ("lab no-such-experiment", UnvanishError),
        ("lab chain --depth none", UnvanishError),
        ("lab chain --preset none", UnvanishError),
        ("lab chain --no-such-setting 1", SystemExit),
    ):
        with pytest.raises(refusal):
            test_commands_exist("x.md", f"unvanish {wrong}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_codes_and_files_named_in_prose_exist(page):
    text = page.read_text(encoding="utf-8")
    codes = {each.code for each in known()}
    assert set(re.findall(r"\bUV\d{3}\b", text)) <= codes
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    # What carries a comment behind `python docs/build.py` and the like is a command; a path has a folder and an ending.
    for path in re.findall(r"`((?:src|docs|examples|benchmarks|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("record", build.RECORDS, ids=lambda record: record.__name__)
def test_every_field_is_in_the_glossary_page(record):
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    section = page.split(f"## {record.__name__}\n")[1].split("\n## ")[0]
    assert build.field_names(record)
    for field in build.field_names(record):
        entry = field_entry(record.__name__, field)
        assert entry, f"the glossary has no entry for {record.__name__}.{field}"
        assert f"| `{field}` |" in section


def test_every_rule_and_verdict_is_on_its_page():
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    for rule in rules():
        assert f"## {rule.code} {rule.title}\n" in page
    for word in VERDICT_WORDS:
        assert f"| {word} |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_a_page_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    anchors = set(map(build.anchor, re.findall(r"^#+ (.*)$", text, re.MULTILINE)))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_every_remedy_is_on_its_page():
    page = (ROOT / "docs" / "remedies.md").read_text(encoding="utf-8")
    for remedy in remedies():
        section = page.split(f"## {remedy.slug}\n")[1].split("\n## ")[0]
        assert remedy.title in section
        for label in ("What:", "Helps:", "Does not help:", "Source:"):
            assert section.count(f"\n- **{label}** ") == 1
        assert all(f"`{name}`" in section for name in (*remedy.cures_on, *remedy.no_help_on))
        assert set(remedy.answers) <= set(re.findall(r"UV\d{3}", page.split(f"[`{remedy.slug}`]")[1].split("\n")[0]))


def test_every_experiment_is_on_its_page_with_its_settings_and_presets():
    page = (ROOT / "docs" / "lab.md").read_text(encoding="utf-8")
    for experiment in lab.experiments():
        section = page.split(f"## {experiment.name}\n")[1].split("\n## ")[0]
        assert experiment.question in section
        for parameter in experiment.settings:
            line = next(
                line for line in section.splitlines() if line.startswith(f"| `--{parameter.name.replace('_', '-')}` ")
            )
            assert parameter.help in line and parameter.allowed in line
        for preset in experiment.presets:
            assert f"`--preset {preset.name}`" in section


def test_every_picture_is_on_its_page_and_drawn_in_both_themes():
    page = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    for picture in charts.pictures():
        assert f"### {picture.name}\n\n**{picture.question}**" in page
        for theme in ("light", "dark"):
            drawn = ROOT / "docs" / "pictures" / f"{picture.name}-{theme}.svg"
            assert f'"pictures/{drawn.name}"' in page
            text = drawn.read_text(encoding="utf-8")
            assert text.startswith("<svg") and "var(--" not in text, "a file has no page to take its colours from"


def test_every_format_is_on_its_page_and_on_the_command_line():
    shown = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    commands = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    for command in ("check", "fix", "lab"):
        section = commands.split(f"## {command}\n")[1].split("\n## ")[0]
        assert re.findall(r"^- `--format (\S+)`: .+", section, re.MULTILINE) == list(names(command))
    for each in formats():
        assert f"| `--format {each.name}` | {f'`{each.suffix}`' if each.suffix else '–'} |" in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_that_a_page_shows_exist(page):
    for path in re.findall(r'(?:src|srcset)="([^"]+)"', page.read_text(encoding="utf-8")):
        assert (page.parent / path).is_file(), path


def test_the_search_in_the_readme_is_one_of_its_own_example():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- output:fix -->\n(.*?)<!-- /output:fix -->", readme, re.DOTALL)
    assert shown is not None
    text = shown[1]
    head = re.search(r"Repaired: accuracy ([\d.]+) as it is, ([\d.]+) with (\S+)\n", text)
    assert head is not None, "run: python docs/build.py --example"
    base, score, remedy = head.groups()
    assert explain(remedy)
    assert re.search(rf"^{re.escape(remedy)} +{score} +{base} +\d+ .*judged$", text, re.MULTILINE)
    assert re.search(rf"^as is +{base} +", text, re.MULTILINE)
    with loaded_problem(ROOT / build.FIXED) as problem:
        spent, budget, steps = (
            int(each.replace(",", "")) for each in re.findall(r"([\d,]+)(?= of|\)| opt)", text)[-3:]
        )
        assert (budget, steps) == (3 * problem.steps, problem.steps) and spent <= budget


def test_an_answer_of_a_search_is_shortened_to_its_first_trials():
    rows = [f"trial {k}  0.500  0.100  20" for k in range(12)]
    text = "\n\n".join((
        "Repaired: a sentence", "What was tried\na remark",
        "\n".join(["     score    as is    steps", "as is  0.1  0.1  20", *rows, "and 5 more"]),
        "What did not help\nthis, that", "What does not apply\nsomething  a reason", "Spent: 10 of 20",
    ))  # fmt: skip
    shown = build.shortened(text)
    assert shown.count("trial ") == build.SHOWN_TRIALS and build.LEFT_OUT in shown and "\nas is  0.1" in shown
    assert "this, that" not in shown and "a reason" not in shown and "and 5 more" not in shown
    assert shown.startswith("```text\nRepaired: a sentence\n\nWhat") and shown.endswith("\n\nSpent: 10 of 20\n```")


@pytest.mark.parametrize("command", ["check", "fix", "lab", "sweep", "theory", "zoo", "explain"])
def test_every_option_is_in_the_section_of_its_command(command):
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    section = page.split(f"## {command}\n")[1].split("\n## ")[0]
    missing = [option for option in option_names()[command] if f"`{option}" not in section]
    assert not missing


def test_no_command_is_without_a_section():
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert [name for name in option_names() if f"## {name}\n" not in page] == []


@functools.cache
def option_names() -> dict[str, tuple[str, ...]]:
    """The long options of each command; their short forms stand beside them."""
    commands = next(action.choices for action in cli._parser()._actions if isinstance(action.choices, dict))
    return {
        name: tuple(each for each in parser._option_string_actions if each.startswith("--") and each != "--help")
        for name, parser in commands.items()
    }


SCRIPTS = sorted((ROOT / "examples").glob("train_*.py"))
TRAINED = [path for path in SCRIPTS if "torchrun" not in path.name]  # that one: tests/test_run_scripts.py
CHECKED = [path for path in sorted((ROOT / "examples").glob("*.py")) if path not in SCRIPTS]


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.name)
def test_every_training_script_runs_watched_and_does_not_know_of_it(path, tmp_path, capsys):
    text = path.read_text(encoding="utf-8")
    assert "import unvanish" not in text
    said = re.search(rf"^unvanish (run examples/{path.name}.*)$", text, re.MULTILINE)
    assert said is not None
    words = said[1].replace("examples/", f"{ROOT}/examples/", 1).split()
    assert cli.main([words[0], "-o", str(tmp_path / "r.unvanish"), "--every", "20", *words[1:]]) == 0
    assert unvanish.load_run(tmp_path / "r.unvanish").steps
    assert "unvanish: " in capsys.readouterr().err


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.name)
def test_every_example_is_a_problem_and_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    command = re.search(rf"^(?:unvanish (?:check|fix)|python) examples/{path.name}(?::(\w+))?", text, re.MULTILINE)
    assert command is not None
    if path.name.startswith("huggingface"):
        pytest.importorskip("transformers")
    with loaded_problem(path, command[1] or "problem") as problem:
        assert unvanish.diagnose(problem, effort="quick").layers


def test_the_example_of_a_repair_is_repaired(capsys):
    load("repair", ROOT / "examples" / "repair.py").main()
    printed = capsys.readouterr().out
    assert printed.startswith("Repaired: accuracy ") and "optimizer = " in printed
    fresh = re.search(r"on new points: ([\d.]+)% right", printed)
    assert fresh is not None and float(fresh[1]) > 80.0


def test_the_example_of_pictures_saves_them(tmp_path, capsys):
    load("save_pictures", ROOT / "examples" / "save_pictures.py").main(tmp_path / "new")
    drawn = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert capsys.readouterr().out.split() == drawn
    assert {path.rpartition(".")[2] for path in drawn} == {"html", "png", "svg"} and len(drawn) == 6
    assert (tmp_path / "new" / "plane-dark.png").read_bytes().startswith(b"\x89PNG")


def test_measured_costs_are_shown_with_what_they_were_measured_on():
    row = {"step_ms": 2.04, "quick_in_steps": 3.0, "auto_in_steps": 7.46, "full_in_steps": 12.0}
    data = {
        "networks": {"mlp": {**row, "auto_in_step_peaks": 1.5}},
        "machine": {"processor": "a processor", "threads": 2},
        "versions": {"torch": "2.13.0"},
    }
    shown = build.costs(data)
    assert "| mlp | 2.0 ms | 3.0 | 7.5 | 12.0 | 1.5 |" in shown
    assert "a processor, 2 threads, torch 2.13.0" in shown


def test_the_changelog_names_the_version():
    assert f"## [{unvanish.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

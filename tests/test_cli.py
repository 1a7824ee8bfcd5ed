"""The command line: what it prints where, its exit statuses, and its errors. Only the last tests measure anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import made_reports
import pytest

import unvanish
from unvanish import zoo
from unvanish.cli import main
from unvanish.cli.problem_file import split_target
from unvanish.records import UnvanishError
from unvanish.report import Report
from unvanish.report.explain import explain
from unvanish.report.text import render
from unvanish.rules import rules

MADE = made_reports.MADE
GOOD = "from unvanish import Problem\nproblem = Problem()\n"


class FakeProblem:
    """Stands for unvanish.Problem, so that the command line is tested without torch."""


@pytest.fixture
def checked(monkeypatch):
    """Replace the check by one that returns ``checked.report`` and keeps what it was asked in ``checked.calls``."""
    seen = SimpleNamespace()
    seen.report, seen.calls = MADE["vanishing-20"], []

    def diagnose(problem, **options):
        seen.calls.append((problem, options, sys.path[0]))
        return seen.report

    for name, content in (("problem", {"Problem": FakeProblem}), ("pipeline", {"diagnose": diagnose})):
        fake = ModuleType(f"unvanish.{name}")
        vars(fake).update(content)
        monkeypatch.setitem(sys.modules, f"unvanish.{name}", fake)
    return seen


@pytest.fixture
def net(tmp_path, monkeypatch):
    """``net(text)`` writes net.py into the working directory and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNVANISH_TRACEBACK", raising=False)

    def write(text: str, name: str = "net.py") -> str:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
        return name

    return write


@pytest.mark.parametrize(
    ("target", "path", "name"),
    [
        ("net.py", "net.py", "problem"),
        ("a/net.py:deep", "a/net.py", "deep"),
        (r"C:\work\net.py", r"C:\work\net.py", "problem"),
        (r"C:\work\net.py:deep", r"C:\work\net.py", "deep"),
        ("a.py:b/net.py:deep", "a.py:b/net.py", "deep"),
    ],
)
def test_a_target_is_split_at_the_last_colon_behind_py(target, path, name):
    assert split_target(target) == (Path(path), name)


@pytest.mark.parametrize("target", ["net", "net.txt:x", "net.py:", "net.py:a b", "net.py:a:b"])
def test_a_target_that_names_nothing_is_refused(target):
    with pytest.raises(UnvanishError, match=r"FILE\.py|not the name"):
        split_target(target)


def test_check_prints_the_text_report(checked, net, capsys):
    assert main(["check", net(GOOD)]) == 1
    out, err = capsys.readouterr()
    assert out == render(MADE["vanishing-20"], 80) + "\n"
    assert err == ""
    problem, options, _ = checked.calls[0]
    assert isinstance(problem, FakeProblem)
    assert options == {"effort": "auto", "seed": 0}


def test_effort_and_seed_are_passed_on(checked, net):
    main(["check", net(GOOD), "--effort", "full", "--seed", "7"])
    assert checked.calls[0][1] == {"effort": "full", "seed": 7}


@pytest.mark.parametrize(
    ("options", "status", "verdict"),
    [
        ([], 1, "vanished"),
        (["--exit-zero"], 0, "vanished"),
        (["--ignore", "UV1"], 0, "healthy"),
        (["--select", "uv3,UV5"], 0, "healthy"),
        (["--select", "UV101"], 1, "vanished"),
        (["--select", "UV", "--ignore", "UV101"], 0, "healthy"),
    ],
)
def test_the_exit_status_follows_the_findings_that_are_left(checked, net, capsys, options, status, verdict):
    assert main(["check", net(GOOD), "--format", "json", *options]) == status
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict


def test_what_the_checked_program_prints_stays_out_of_the_report(checked, net, capfd):
    text = GOOD + "import os, sys\nprint('hello')\nsys.stdout.flush()\nos.system('echo child')\n"
    assert main(["check", net(text), "--format", "json"]) == 1
    out, err = capfd.readouterr()
    assert out == MADE["vanishing-20"].to_json() + "\n"
    assert {"hello", "child"} <= set(err.split())
    print("back")
    assert capfd.readouterr().out == "back\n"


def test_output_goes_to_a_file_and_the_hint_to_standard_error(checked, net, capsys):
    assert main(["check", net(GOOD), "--format", "json", "-o", "x.json"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "unvanish: vanished; the report is in x.json\n")
    assert Report.from_json(Path("x.json").read_text()) == MADE["vanishing-20"]


@pytest.mark.parametrize(("path", "message"), [("no/x.json", "no directory 'no'"), (".", "is a directory")])
def test_an_output_that_cannot_be_written_is_refused_before_the_check(checked, net, capsys, path, message):
    assert main(["check", net(GOOD), "-o", path]) == 2
    assert message in capsys.readouterr().err
    assert not checked.calls


def test_the_file_runs_as_a_module_and_leaves_nothing_behind(checked, net, capsys):
    net("PROBLEM = 'found'\n", "sub/neighbour_of_net.py")
    net(
        "import sys, neighbour_of_net\nfrom unvanish import Problem\n"
        "assert __name__ != '__main__' and sys.modules[__name__].Problem is Problem\n"
        "def problem():\n    made = Problem()\n    made.name = __name__\n    return made\n",
        "sub/net.py",
    )
    search, modules = list(sys.path), set(sys.modules)
    assert main(["check", "sub/net.py"]) == 1, capsys.readouterr().err
    problem, _, first = checked.calls[0]
    assert first == str(Path("sub").absolute())
    assert problem.name not in sys.modules
    assert sys.path == search
    assert set(sys.modules) - modules <= {"neighbour_of_net"}
    assert not list(Path("sub").rglob("net.*.pyc"))
    sys.modules.pop("neighbour_of_net")


def test_a_file_changed_within_the_same_second_is_read_anew(checked, net):
    for number in (1, 2):
        main(["check", net(f"{GOOD}problem.number = {number}\n")])
    assert [problem.number for problem, _, _ in checked.calls] == [1, 2]


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        (GOOD, "nets.py", "there is no file 'nets.py'"),
        (GOOD, ".", "'.' is a directory; write FILE.py"),
        ("x = 1\nif x\n", "net.py", "importing net.py failed at net.py:2: SyntaxError: "),
        ("\n\nx = 1 / 0\n", "net.py", "importing net.py failed at net.py:3: ZeroDivisionError: division by zero"),
        ("import absent_module\n", "net.py", "at net.py:1: ModuleNotFoundError: No module named 'absent_module'"),
        ("import sys\nsys.exit(0)\n", "net.py", "at net.py:2: it called sys.exit(0); put what runs the program under"),
        (GOOD, "net.py:probelm", "has no 'probelm'; there is Problem problem; did you mean net.py:problem?"),
        ("def build(): pass\n", "net.py", "no function that returns one; unvanish run --stop-after 3 net.py"),
        (
            "def build(): return Problem()\ndef main(): Problem()\n",
            "net.py",
            "is function build; did you mean net.py:build?",
        ),
        ("def train():\n    Problem()\n", "net.py", "no function that returns one"),
        ("x = 1\n", "net.py", "there is no Problem in it and no function"),
        ("problem = 3\n", "net.py", "'problem' of net.py is a int, not a Problem"),
        ("def problem(): return [1]\n", "net.py", "problem() of net.py returned a list; it must return"),
        ("def problem(depth, *more, bias=True): pass\n", "net.py", "wants arguments (depth)"),
        ("def problem():\n    raise KeyError('weights')\n", "net.py", "net.py failed at net.py:2: KeyError: 'weights'"),
        ("class Net:\n    def forward(self): pass\nproblem = Net()\n", "net.py", "is a model, not a Problem"),
        ("from unvanish import UnvanishError\nraise UnvanishError('odd')\n", "net.py", "failed at net.py:2: odd"),
    ],
)
def test_errors_are_one_message_and_exit_status_2(checked, net, capsys, text, target, message):
    net(text)
    assert main(["check", target]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("unvanish: error: ")
    assert len(err.splitlines()) == 1
    assert out == ""


def raising(error: BaseException):
    def diagnose(problem, **options):
        raise error

    return diagnose


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UnvanishError("the model has no parameters"), 2, "unvanish: error: the model has no parameters\n"),
        (RuntimeError("mat1"), 2, "unvanish: error: the check of net.py:problem failed: RuntimeError: mat1\n"),
        (SystemExit(0), 2, "unvanish: error: the checked program called sys.exit(0), so there is no report\n"),
        (KeyboardInterrupt(), 130, "unvanish: interrupted\n"),
    ],
)
def test_what_the_check_raises(checked, net, capsys, error, status, message):
    vars(sys.modules["unvanish.pipeline"])["diagnose"] = raising(error)
    assert main(["check", net(GOOD)]) == status
    assert capsys.readouterr() == ("", message)


def test_the_traceback_is_shown_on_demand(checked, net, capsys, monkeypatch):
    monkeypatch.setenv("UNVANISH_TRACEBACK", "1")
    assert main(["check", net("def problem():\n    raise KeyError('weights')\n")]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "raise KeyError('weights')" in err
    assert err.splitlines()[-1].startswith("unvanish: error: ")


@pytest.mark.parametrize(
    "argv",
    [
        [], ["check"], ["cure", "x.py"], ["check", "x.py", "--effort", "high"], ["check", "x.py", "--format", "yaml"],
        ["check", "x.py", "--select", "E501"], ["zoo", "chain-20", "--list"], ["check", "x.py", "--seed", "one"],
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_status_2(argv, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: unvanish" in err


def test_colour_goes_only_where_it_is_wanted(checked, net, capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["check", net(GOOD)])
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["check", net(GOOD)])
    assert "\x1b[" not in capsys.readouterr().out


def test_the_width_of_the_terminal_is_used(checked, net, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    main(["check", net(GOOD)])
    assert capsys.readouterr().out == render(MADE["vanishing-20"], 120) + "\n"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unvanish {unvanish.__version__}\n"


@pytest.mark.parametrize("argv", [["zoo"], ["zoo", "--list"]])
def test_the_zoo_is_listed(monkeypatch, argv, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(zoo.names())
    assert all(line.endswith(zoo.describe(line.split()[0])) for line in lines)


def test_an_unknown_animal_is_answered_with_the_nearest(capsys):
    assert main(["zoo", "chain-2o"]) == 2
    assert "chain-20" in capsys.readouterr().err


def test_explain_shows_the_page_of_every_code():
    for rule in rules():
        page = explain(rule.code.lower())
        assert page.startswith(f"{rule.code}  {rule.title}")
        assert " ".join(rule.doc.replace("``", "").split()) in " ".join(page.split())


@pytest.mark.parametrize(
    ("topic", "heading"),
    [
        ("vanished", ["vanished  (verdict)", "UV101  vanishing gradient", "The first layers hardly learn"]),
        ("no signal", ["no signal  (verdict)", "UV604"]),
        ("Error-Signal", ["the cotangent"]),
        ("log10_signal", ["(N", "batch size"]),
        ("LayerFlow.frozen", ["frozen  (LayerFlow)", "requires_grad is off"]),
        ("101", ["UV101  vanishing gradient"]),
        ("vanishing gradient", ["UV101  vanishing gradient (verdict: vanished)"]),
        ("relu", ["'relu' stands in:", "UV301", "activation-relu"]),
        ("", ["Codes", "UV101", "Verdicts", "Terms\n", "Fields of the records", "trunk"]),
    ],
)
def test_explain_finds_verdicts_terms_and_fields(capsys, topic, heading):
    assert main(["explain", *topic.split()]) == 0
    out = capsys.readouterr().out
    for text in heading[1:] if topic == "log10_signal" else heading:
        assert text in out


@pytest.mark.parametrize(("topic", "hint"), [("UV1012", "UV101"), ("vanishd", "vanished"), ("qqqq", "lists them all")])
def test_explain_answers_the_unknown_with_the_nearest(capsys, topic, hint):
    assert main(["explain", topic]) == 2
    assert hint in capsys.readouterr().err


def python(*argv: str, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(unvanish.__file__).parents[1]), **options.pop("env", {})}
    return subprocess.run([sys.executable, *argv], text=True, stderr=subprocess.PIPE, env=environment, **options)


@pytest.mark.parametrize("argv", [["--help"], ["check", "--help"], ["--version"], ["explain", "UV101"], ["zoo"]])
def test_nothing_heavy_is_loaded_to_answer_a_question(argv):
    program = (
        "import sys\nfrom unvanish.cli import main\n"
        f"status = main({argv!r})\n"
        "print(status, *{'torch', 'numpy', 'altair', 'rich', 'click'} & set(sys.modules), file=sys.stderr)"
    )
    assert python("-c", program, stdout=subprocess.DEVNULL).stderr == "0\n"


def test_a_reader_that_leaves_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = python("-m", "unvanish", "explain", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_terminal_without_unicode_gets_ascii():
    program = (
        "import sys, made_reports\nfrom types import ModuleType, SimpleNamespace\nfrom unvanish.cli import main\n"
        "fake = ModuleType('unvanish.pipeline')\nfake.diagnose = lambda *a, **k: made_reports.MADE['hostile']\n"
        "sys.modules['unvanish.pipeline'] = fake\nmain(['zoo', 'dead-relu'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stderr == b""
    assert done.stdout.decode() == render(MADE["hostile"], 80, unicode=False) + "\n"


def test_a_network_of_the_zoo_is_checked_from_end_to_end(capsys):
    assert main(["zoo", "dead-relu", "--format", "json"]) == 1
    report = Report.from_json(capsys.readouterr().out)
    assert report.verdict == "dead"
    assert main(["zoo", "relu-he-20", "--effort", "quick", "--format", "json"]) == 0
    report = Report.from_json(capsys.readouterr().out)
    assert report.healthy
    assert {layer.verdict for layer in report.layers} == {"healthy"}


@pytest.mark.slow
def test_a_file_is_checked_from_end_to_end(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nimport unvanish\n\n"
        "def deep():\n"
        "    layers = [m for _ in range(20) for m in (nn.Linear(16, 16), nn.Sigmoid())]\n"
        "    x, y = torch.randn(32, 16), torch.randint(0, 4, (32,))\n"
        "    return unvanish.Problem(nn.Sequential(*layers, nn.Linear(16, 4)), x, y, nn.functional.cross_entropy)\n"
    )
    done = python("-m", "unvanish", "check", "net.py:deep", cwd=tmp_path, stdout=subprocess.PIPE)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("Vanished: ")

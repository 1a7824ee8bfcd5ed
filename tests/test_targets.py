"""Targets of every kind: scripts with arguments, packages, src layouts, notebooks, scripts that train, skeletons."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from unvanish.cli import main
from unvanish.cli.problem_file import loaded_problem, split_target
from unvanish.records import UnvanishError

NET = (
    "import torch\nfrom torch import nn\nimport unvanish\n"
    "problem = unvanish.Problem(nn.Linear(3, WIDTH), torch.ones(4, 3), torch.zeros(4, WIDTH), nn.MSELoss())\n"
)
ARGPARSE = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--width', type=int, default=5)\n"
ARGPARSE += "WIDTH = p.parse_args().width\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """``files(path=text, …)`` writes files below the working directory; "/" and "." of a path are as they stand."""
    monkeypatch.chdir(tmp_path)

    def write(texts: dict[str, str]) -> None:
        for name, text in texts.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)

    return write


def width_of(target: str, *argv: str) -> int:
    with loaded_problem(*split_target(target), argv) as problem:
        return problem.model.out_features


def test_a_script_with_argparse_sees_only_its_own_arguments(files, monkeypatch):
    files({"net.py": ARGPARSE + NET})
    monkeypatch.setattr(sys, "argv", ["unvanish", "check", "net.py", "--effort", "quick"])
    assert width_of("net.py") == 5
    assert width_of("net.py", "--width", "7") == 7
    assert sys.argv[0] == "unvanish"


def test_arguments_behind_two_dashes_reach_the_file(files, capsys):
    files({"net.py": ARGPARSE + NET})
    assert main(["check", "net.py", "--format", "json", "--exit-zero", "--", "--width", "7"]) == 0
    assert '"parameters": 28' in capsys.readouterr().out
    assert main(["check", "net.py", "--", "--wide"]) == 2
    assert "give them behind --" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["src/pkg/train.py", "src/pkg/train.py:problem", "pkg.train:problem", "pkg.train"])
@pytest.mark.parametrize("marked", [True, False])
def test_a_package_in_a_src_layout_sees_itself(files, target, marked):
    files({"pyproject.toml": "", "src/pkg/width.py": "WIDTH = 6\n"})
    files({"src/pkg/train.py": f"from .width import WIDTH\nfrom pkg import width\n{NET}"})
    if marked:
        files({"src/pkg/__init__.py": "", "src/pkg/types.py": "raise ImportError('not the standard library')\n"})
    search, modules = list(sys.path), set(sys.modules)
    assert width_of(target) == 6
    assert sys.path == search
    assert not {name for name in set(sys.modules) - modules if name.startswith("pkg")}


def test_a_script_of_a_project_sees_the_packages_of_its_src(files):
    files({"pyproject.toml": "", "src/pkg_of_src/__init__.py": "WIDTH = 4\n"})
    files({"scripts/net.py": f"from pkg_of_src import WIDTH\n{NET}"})
    assert width_of("scripts/net.py") == 4
    sys.modules.pop("pkg_of_src")


def test_a_notebook_is_pointed_to_diagnose():
    with pytest.raises(UnvanishError, match=r"unvanish\.diagnose\(model"):
        split_target("train.ipynb")


TRAINING = (
    "import torch\nmodel = torch.nn.Linear(2, 1)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "model(torch.ones(1, 2)).sum().backward()\noptimizer.step()\n"
)


def test_a_script_that_trains_while_it_is_imported_is_stopped(files, capsys):
    files({"net.py": TRAINING + "open('went on', 'w')\n"})
    assert main(["check", "net.py"]) == 2
    assert "net.py trains while it is imported (SGD.step() was called) and has no 'problem'" in capsys.readouterr().err
    assert not Path("went on").exists()


def test_a_script_that_trains_before_it_defines_a_problem_is_told_and_checked(files, capsys):
    files({"net.py": TRAINING + "WIDTH = 2\n" + NET})
    assert width_of("net.py") == 2
    assert capsys.readouterr().err.count("trains while it is imported") == 1


def test_a_skeleton_is_written_without_running_the_script(files, capsys):
    files({
        "train.py": "import torch\nfrom torch import nn\nraise SystemExit('run')\nclass Net(nn.Module):\n    pass\n"
        "def main():\n    loader = DataLoader(data, batch_size=8)\n    loss = nn.CrossEntropyLoss(label_smoothing=.1)\n"
        "    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.01)\n"
    })  # fmt: skip
    assert main(["check", "--init", "train.py"]) == 0
    text = Path("train_problem.py").read_text()
    ast.parse(text)
    for part in ("from train import Net", "nn.CrossEntropyLoss(label_smoothing=0.1)", "FILL IN: lr=args.lr",
                 "torch.optim.AdamW(model.parameters(), weight_decay=0.01)", "DataLoader(data, ba"):  # fmt: skip
        assert part in text
    Path("train_problem.py").write_text("mine")
    assert main(["check", "--init", "train.py"]) == 2
    assert "not written over" in capsys.readouterr().err
    assert Path("train_problem.py").read_text() == "mine"


def test_a_report_is_written_in_the_format_of_its_suffix(files, capsys):
    for suffix, start in (("json", "{"), ("html", "<!"), ("txt", "Healthy"), ("sarif", "{")):
        assert main(["zoo", "relu-he-20", "--effort", "quick", "-o", f"x.{suffix}"]) == 0, capsys.readouterr().err
        assert Path(f"x.{suffix}").read_text().lower().startswith(start.lower())
    assert main(["zoo", "relu-he-20", "-o", "x.docx"]) == 2
    assert "the suffix '.docx' names no known format; use one of .html, .json" in capsys.readouterr().err
    files({"net.py": ""})
    assert main(["fix", "net.py", "-o", "x.docx"]) == 2
    assert "use one of .diff, .html, .json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["chek", "net.py"], "did you mean check?"),
        (["check", "net.py", "--efort", "quick"], "did you mean --effort?"),
        (["fix", "net.py", "--sead", "1"], "did you mean --seed"),
    ],
)
def test_misspelt_names_get_the_nearest_one_and_the_usage(argv, hint, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert hint in err
    assert f"usage: unvanish {argv[0] if argv[0] == 'fix' else ''}" in err

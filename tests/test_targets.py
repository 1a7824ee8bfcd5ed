"""Targets of every kind: scripts with arguments, packages, src layouts, notebooks, scripts that train, skeletons."""

from __future__ import annotations

import ast
import re
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
    for part in ("from train import Net", "nn.CrossEntropyLoss(label_smoothing=0.1)", "DataLoader(data, ba",
                 "...,  # FILL IN: lambda parameters: torch.optim.AdamW(parameters, lr=args.lr, weight_"):  # fmt: skip
        assert part in text
    Path("train_problem.py").write_text("mine")
    assert main(["check", "--init", "train.py"]) == 2
    assert "not written over" in capsys.readouterr().err
    assert Path("train_problem.py").read_text() == "mine"


PROGRAM = """
import argparse
import torch
import torch.nn.functional as F
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return self.layer(x).relu()

class Net(nn.Module):
    def __init__(self, depth, width, bias):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(5, width, bias=bias), *[Block(width) for _ in range(depth)])

    def forward(self, x):
        return self.blocks(x)

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("-w", "--hidden-width", default=7)
    parser.add_argument("--bias", action="store_true")
    parser.add_argument("--lr", default=1e-2)
    opt = parser.parse_args()
    device = torch.device("cpu")
    model = Net(opt.depth, opt.hidden_width, bias=opt.bias).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=opt.lr)
    for x, y in ():
        F.mse_loss(model(x), y).backward()
        optimizer.step()

if __name__ == "__main__":
    main()
"""


def filled(path, **values):
    """The skeleton with the open places filled in."""
    text = Path(path).read_text()
    for name, value in values.items():
        assert f"    {name} = ..." in text
        text = re.sub(rf"(    {name} = )\.\.\..*", rf"\g<1>{value}", text)
    Path(path).write_text(text)
    return text


def test_a_skeleton_takes_the_defaults_of_the_arguments_and_runs_once_the_batch_is_filled_in(files, capsys):
    files({"train.py": PROGRAM})
    assert main(["check", "--init", "train.py"]) == 0
    assert main(["check", "train_problem.py"]) == 2  # nothing is filled in yet
    assert "Problem(inputs=…) is `...` still" in capsys.readouterr().err
    text = filled("train_problem.py", inputs="torch.randn(8, 5)", targets="torch.randn(8, 7)")
    assert "model = Net(3, 7, bias=False)  # train.py: Net(opt.depth, opt.hidden_width, bias=opt.bias)" in text
    assert "torch.optim.Adam(parameters, lr=0.01)," in text and "import Net\n" in text  # and no Block
    assert main(["check", "train_problem.py", "--effort", "quick", "--exit-zero"]) == 0


def test_a_skeleton_of_a_package_imports_from_it_and_says_what_only_running_would_tell(files, capsys):
    files({"src/wave/__init__.py": "", "src/wave/net.py": "from torch import nn\nNet = lambda n: nn.Linear(n, 2)\n"})
    files({
        "src/wave/train.py": "import torch\nfrom .net import Net\nclass Trainer:\n    def __init__(self, cfg):\n"
        "        self.model = Net(cfg.n)\n        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)\n"
        "        self.loss = torch.nn.CrossEntropyLoss()\n", "pyproject.toml": "",
    })  # fmt: skip
    assert main(["check", "--init", "src/wave/train.py"]) == 0
    path = "src/wave/train_problem.py"
    text = filled(path, model="Net(4)", inputs="torch.randn(6, 4)", targets="torch.arange(6) % 2")
    assert "from .net import Net" in text and "torch.optim.SGD(parameters, 0.1)" in text
    assert main(["check", path, "--effort", "quick"]) == 0
    assert main(["check", "src/wave/train.py"]) == 2
    assert "unvanish run --stop-after 3 -m wave.train checks it as it trains" in capsys.readouterr().err


LIBRARY = """
from torch import nn

class Config:
    def __init__(self, layers):
        self.layers = layers

class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.net = nn.Sequential(*[nn.Linear(3, 3) for _ in range(config.layers)])

    def forward(self, x, labels):
        return {"loss": (self.net(x) - labels).square().mean()}
"""


def test_a_skeleton_of_a_script_whose_library_computes_the_loss(files):
    files({
        "tune.py": "from library import Config, Model, Trainer, TrainingArguments\nconfig = Config(layers=2)\n"
        "model = Model(config)\nsettings = TrainingArguments(learning_rate=2e-4)\n"
        "trainer = Trainer(model=model, args=settings)\ntrainer.train()\n",
        "library.py": LIBRARY,
    })  # fmt: skip
    assert main(["check", "--init", "tune.py"]) == 0
    text = filled("tune_problem.py", inputs="{'x': torch.randn(4, 3), 'labels': torch.randn(4, 3)}")
    assert "from library import Config, Model\n" in text and "lr=0.0002" in text and "targets" not in text
    assert main(["check", "tune_problem.py", "--effort", "quick", "--exit-zero"]) == 0


def test_with_several_models_the_skeleton_says_that_a_run_checks_all(files):
    files({
        "gan.py": "import torch\nfrom torch import nn\nclass G(nn.Module):\n    def forward(self, z, label):\n"
        "        return z\nclass D(nn.Module):\n    pass\ndef main():\n    g, d = G(), D()\n"
        "    torch.optim.Adam(g.parameters(), 1)\n    torch.optim.Adam(d.parameters(), 2)\n",
    })  # fmt: skip
    assert main(["check", "--init", "gan.py"]) == 0
    text = Path("gan_problem.py").read_text()
    assert "also in gan.py: D; unvanish run --stop-after 3 gan.py checks all" in text
    assert "one batch as the model takes it: (z, label)" in text and "loss_fn=...,  # FILL IN" in text


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

"""What a newcomer meets first: skeletons of programs of many kinds, and the word where something is not as expected."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

import unvanish
from unvanish import UnvanishError
from unvanish.cli import main
from unvanish.cli.home import at_home, home_of
from unvanish.cli.script_parts import found_in
from unvanish.cli.skeleton import skeleton
from unvanish.remedies import Draft, get
from unvanish.report.explain import explain
from unvanish.report.fix_text import render
from unvanish.trials.questions import sentences


def written(text: str, name: str = "train.py") -> str:
    made = skeleton(Path(name), found_in(text))
    ast.parse(made)
    return made


def test_a_model_that_the_script_does_not_define_is_not_imported_from_it() -> None:
    made = written(
        "from torch import nn\nimport torch\nnet = nn.Sequential(nn.Linear(2, 1))\n"
        "opt = torch.optim.SGD(net.parameters(), lr=0.1)\nopt.step()\n"
    )
    assert "from torch import nn\n" in made and "model = nn.Sequential(nn.Linear(2, 1))" in made
    assert "from train import" not in made and "trains on import" not in made


def test_what_a_function_assigns_before_the_model_is_taken_along() -> None:
    made = written(
        "from library import Config, Model\nclass Own:\n    pass\ndef main():\n"
        "    config = Config(layers=4, own=Own())\n    model = Model(config)\n"
    )
    assert "    config = Config(layers=4, own=Own())\n    model = Model(config)\n" in made
    assert "from library import Config, Model\n" in made and "from train import Own\n" in made


@pytest.mark.parametrize(
    "body",
    ["    config = Config(2)\n    config = Config(3)\n", "    for config in map(Config, (2, 3)):\n        pass\n", ""],
)
def test_what_only_running_would_tell_is_left_to_fill_in(body: str) -> None:
    arguments = "" if body else "config"
    made = written(
        f"from library import Config, Model\ndef main({arguments}):\n{body}    model = Model(config)\n"
        "config = Config(1)\n"
    )
    assert "model = ...  # FILL IN: Model(config)" in made


def test_an_optimizer_with_a_setting_that_is_not_known_is_left_to_fill_in() -> None:
    made = written("import torch\ndef main(cfg):\n    torch.optim.Adam(net.parameters(), lr=cfg.lr, eps=1e-6)\n")
    assert "optimizer=...,  # FILL IN: lambda parameters: torch.optim.Adam(parameters, lr=cfg.lr, eps=1e-06)" in made


def test_a_notebook_is_pointed_to_diagnose_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ipynb").write_text("{}")
    for words in (["check", "a.ipynb"], ["check", "--init", "a.ipynb"], ["run", "a.ipynb"], ["fix", "a.ipynb"]):
        assert main(words) == 2
        assert "is a notebook; check it from inside" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("import sys\nsys.exit(3)\n", 3, "ended itself with exit status 3 before its first optimizer step"),
        ("1 / 0\n", 1, "was stopped by an error of its own (ZeroDivisionError: division by zero)"),
    ],
)
def test_a_script_that_ends_before_it_trains_is_not_asked_about_its_optimizer(
    text: str, status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.py").write_text(text)
    assert main(["run", "-o", str(tmp_path / "r.unvanish"), str(tmp_path / "x.py")]) == status
    err = capsys.readouterr().err
    assert said in err and "torch.optim.Optimizer" not in err


def test_a_run_without_a_script_names_the_script_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    err = capsys.readouterr().err
    assert err.endswith("required: SCRIPT.py\n") and max(map(len, err.splitlines())) <= 80


def test_explain_knows_families_joined_words_and_the_columns() -> None:
    assert [code for code in ("UV101", "UV102", "UV201") if code in explain("uv1")] == ["UV101", "UV102"]
    assert explain("UV8xx").count("UV80") == 9
    assert explain("batch norm").startswith("batchnorm  ")
    for column in ("step back", "joins", "slopes", "transmission"):
        assert "stands in" not in explain(column)
    assert "for three samples in a row." in explain("exploding")  # the whole first sentence, not the first line


class Wide(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


X, Y = torch.randn(8, 4), torch.arange(8) % 3


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"model": Wide, "inputs": X, "targets": Y}, r"it is called with no arguments, so wrap it: lambda: Wide\(…\)"),
        ({"model": Wide(3), "inputs": [X, Y]}, r"list of inputs is given as 2 arguments; targets have a place"),
        (
            {"model": Wide(3), "inputs": {"a": X}, "targets": Y},
            r"mapping of inputs is given as keyword arguments \(a\)",
        ),
        ({"model": Wide(3), "inputs": np.ones((8, 4)), "targets": Y}, "the inputs hold a numpy array: give tensors"),
    ],
)
def test_a_forward_that_does_not_take_the_inputs_is_told_how_they_are_given(parts: dict, said: str) -> None:
    with pytest.raises(UnvanishError, match=said):
        unvanish.diagnose(unvanish.Problem(loss_fn=F.cross_entropy, **parts))


def test_two_optimizers_of_one_class_step_as_one_with_their_groups() -> None:
    """Each parameter's step follows from its own gradient, so the steps are the same numbers."""

    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def apart(model: nn.Sequential) -> list[optim.Optimizer]:
        return [optim.AdamW(model[0].parameters(), 1e-2), optim.AdamW(model[2].parameters(), 1e-3, weight_decay=0.3)]

    model, other = build(), build()
    optimizers = apart(model)
    _, one = unvanish.Problem(other, X, Y, F.cross_entropy, optimizer=apart(other)).build()
    assert one is not None
    for _ in range(5):
        for net, held in ((model, optimizers), (other, [one])):
            net.zero_grad()
            F.cross_entropy(net(X), Y).backward()
            for each in held:
                each.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


class Averaged(nn.Module):
    """Features averaged over all nodes of a graph: the adjacency is a part of the network."""

    def __init__(self, adjacency: Tensor) -> None:
        super().__init__()
        self.adjacency, self.first, self.last = adjacency, nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.adjacency @ self.first(x)))


def test_validation_data_that_the_network_takes_only_whole_are_not_cut() -> None:
    torch.manual_seed(0)
    nodes, kinds, held_out = torch.randn(40, 4), torch.arange(40) % 3, torch.arange(40) > 20
    problem = unvanish.Problem(
        lambda: Averaged(torch.eye(40)), nodes, kinds,
        loss_fn=lambda o, t: F.cross_entropy(o[~held_out], t[~held_out]),
        optimizer=lambda parameters: optim.Adam(parameters, lr=1e-3), validation=(nodes, kinds),
        metric=lambda o, t: float((o[held_out].argmax(1) == t[held_out]).float().mean()), steps=20,
    )  # fmt: skip
    fixes = unvanish.fix(problem, seeds=2, anyway=True)
    assert fixes.unseen and not fixes.split
    assert any("takes no half of the validation data" in remark for remark in fixes.remarks)


def test_what_does_not_apply_gives_reasons_for_what_the_findings_asked_for() -> None:
    torch.manual_seed(0)
    parts = [part for _ in range(10) for part in (nn.Linear(8, 8), nn.Sigmoid())]
    problem = unvanish.Problem(
        nn.Sequential(*parts, nn.Linear(8, 3)), torch.randn(32, 8), torch.arange(32) % 3, F.cross_entropy,
        optimizer=lambda parameters: optim.SGD(parameters, lr=0.1), steps=20,
    )  # fmt: skip
    fixes = unvanish.fix(problem, seeds=2)
    asked = {slug for finding in fixes.before.findings for slug in finding.remedies}
    refused = [slug for slug, _ in fixes.refused]
    assert {"chrono-init", "pair-norm"} <= set(refused) - asked
    text = render(fixes)
    part = text[text.index("What does not apply") :].partition("\n\n")[0]
    assert "LSTM" not in part and "chrono-init" in part
    for slug, reason in fixes.refused:
        assert (reason.split()[0] in part) or slug not in asked


def checked(tmp_path: Path, *options: str) -> int:
    (tmp_path / "net.py").write_text(
        "import torch, unvanish\nfrom torch import nn\ntorch.manual_seed(0)\n"
        "model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))\n"
        "problem = unvanish.Problem(model, torch.randn(8, 4), torch.arange(8) % 3, nn.CrossEntropyLoss(),"
        " torch.optim.SGD(model.parameters(), 1e-6), steps=10)\n"
    )
    return main(["check", str(tmp_path / "net.py"), "--exit-zero", *options])


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<svg"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_a_check_draws_where_the_suffix_is_that_of_a_picture(
    suffix: str, start: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(tmp_path, "-o", str(tmp_path / f"x{suffix}")) == 0
    assert (tmp_path / f"x{suffix}").read_bytes().startswith(start)
    assert "unvanish: learning rate too small; the report is in" in capsys.readouterr().err


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["zoo", "relu-he-20", "-o", str(tmp_path / "x")]) == 2
    assert "it has no suffix that names a format; use one of .html" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["zoo", "relu-he-20", "-o", str(tmp_path / "x.svg")]) == 2
    assert "pip install 'unvanish[pictures]'" in capsys.readouterr().err


class Loop(nn.Module):
    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.cell, self.out, self.keep = nn.GRUCell(4, 24), nn.Linear(24, 4), keep

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 24)
        for step in x.unbind(1):
            h = self.cell(step, h if self.keep else h.detach())
        return self.out(h)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", [False, True])
def test_a_state_that_is_detached_at_each_step_is_no_decay(keep: bool, seed: int) -> None:
    torch.manual_seed(seed)
    words = torch.randint(4, (64, 8))
    report = unvanish.diagnose(Loop(keep), F.one_hot(words, 4).float(), words[:, 3].clone(), F.cross_entropy)
    found = [finding for finding in report.findings if finding.code == "UV102"]
    assert bool(found) == (not keep)
    for finding in found:
        assert finding.cause == "a cut between two steps" and "only the last of 8 steps gets" in finding.message


@pytest.mark.parametrize("alike", [True, False])
def test_a_gradient_below_eps_says_whether_the_signal_arrives(alike: bool) -> None:
    """Of equal rows of the last layer the cross-entropy's signal cancels: its derivatives sum to zero over classes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    if alike:
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.01)
    scale = 1.0 if alike else 1e-11
    report = unvanish.diagnose(
        model, torch.rand(32, 6), torch.arange(32) % 3, lambda o, t: scale * F.cross_entropy(o, t),
        optimizer=optim.Adam(model.parameters()),
    )  # fmt: skip
    (found,) = (finding for finding in report.findings if finding.code == "UV504")
    assert ("what the loss asks for cancels on the way" in found.message) == alike
    assert ("It is not vanished: the signal arrives" in found.message) != alike


def test_changes_of_the_learning_rate_are_told_as_what_they_come_to() -> None:
    draft = Draft.of(
        unvanish.Problem(Wide(3), X, Y, F.cross_entropy), Wide(3), optim.Adam(Wide(3).parameters(), lr=1e-3), seed=0
    )
    changes = [get(slug).apply(draft) for slug in ("lr-10", "lr-0.3", "xavier-init", "lr-0.1")]
    assert sentences(changes[:2]) == ["learning rate 0.003 instead of 0.001"]
    assert sentences(changes)[0] == sentences(changes[:2])[0]
    assert sentences(changes)[2] == "learning rate 0.0003 instead of 0.003"


def test_a_check_puts_the_generator_of_a_loader_back() -> None:
    own = torch.Generator().manual_seed(9)
    data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.arange(64) % 3)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, generator=own)
    model = Wide(3)
    problem = unvanish.Problem(
        model, X, Y, F.cross_entropy, optim.SGD(model.parameters(), lr=1e-7), train_batches=loader, steps=50
    )
    before = own.get_state()
    reports = [unvanish.diagnose(problem) for _ in range(2)]
    assert reports[0].step is not None and reports[0].step.walked is not None  # real steps on its batches
    assert torch.equal(own.get_state(), before)
    assert reports[0].to_json() == reports[1].to_json()


@pytest.mark.parametrize("loaded", ["", "own-old", "own"])
def test_a_package_of_the_same_name_steps_aside_while_a_file_is_at_home(
    loaded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("own-old", "own"):
        (tmp_path / place / "twins").mkdir(parents=True)
        (tmp_path / place / "twins" / "__init__.py").write_text(f"PLACE = {place!r}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / (loaded or "own-old")), *sys.path])
    before, search = importlib.import_module("twins") if loaded else None, list(sys.path)
    try:
        with at_home(home_of(tmp_path / "own" / "twins" / "model.py")):
            inside = importlib.import_module("twins")
            assert inside.PLACE == "own" and (inside is before) == (loaded == "own")
        assert sys.modules.get("twins") is before and sys.path == search
    finally:
        sys.modules.pop("twins", None)

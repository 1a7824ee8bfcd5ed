"""The one table of activations: what it says of torch is what torch does, and every list of names follows from it."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unvanish
from unvanish import Problem, theory
from unvanish.lab.activations import functions
from unvanish.population.elementwise import module_of
from unvanish.population.initialisations import critical_variances
from unvanish.population.names import ACTIVATIONS
from unvanish.remedies import Draft, anatomy, data, initialisation, output
from unvanish.remedies.anatomy import Anatomy
from unvanish.theory.meanfield import critical
from unvanish.words.activations import BY_NAME, ENTRIES, ActivationEntry

NAMES = [entry.name for entry in ENTRIES]
named = pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
WIDE = torch.cat([torch.linspace(-60, 60, 48_001), torch.linspace(-1e4, 1e4, 2_001)]).double()


def test_every_name_is_there_once() -> None:
    assert len(set(NAMES)) == len(ENTRIES)
    assert BY_NAME["leaky_relu"].arguments == (0.01,) and BY_NAME["gelu"].options == ()  # as torch has them unasked


@named
def test_class_function_and_source_are_the_same_function(entry: ActivationEntry) -> None:
    x = torch.linspace(-8, 8, 333, dtype=torch.float64)
    y = functions()[entry.name](x)
    if entry.function:
        assert torch.equal(eval(entry.called("x"), {"torch": torch, "x": x}), y)
    if entry.module:
        assert torch.equal(module_of(entry.name)(x), y)
        assert torch.equal(eval(f"nn.{entry.made}", {"nn": nn})(x), y)


class Applied(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 3), nn.Linear(3, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def hidden_calls(function: Any) -> set[str]:
    torch.manual_seed(0)
    model = Applied(function)
    return {site.name for site in Anatomy.of(Draft.of(Problem(model, torch.randn(4, 3)), model, None)).hidden}


@pytest.mark.parametrize("entry", anatomy.BETWEEN_LAYERS.values(), ids=list(anatomy.BETWEEN_LAYERS))
def test_remedies_know_it_by_the_name_that_a_trace_gives_it(entry: ActivationEntry) -> None:
    """logsigmoid among them, which a trace calls log_sigmoid. nn.ReLU6 is a hardtanh in torch, F.relu6 is not."""
    assert hidden_calls(functions()[entry.name]) == {entry.call}
    assert hidden_calls(module_of(entry.name)) == {"hardtanh" if entry.name == "relu6" else entry.call}


@named
def test_the_limits_hold_and_are_come_close_to(entry: ActivationEntry) -> None:
    y = functions()[entry.name](WIDE)
    for limit, end in zip(entry.limits, (y.min(), y.max()), strict=True):
        if math.isinf(limit):
            assert abs(float(end)) > 50
        else:
            assert float(end) == pytest.approx(limit, abs=2e-4)
            assert abs(float(end)) <= abs(limit) + 1e-7


def gauss(function: Any, q: float) -> float:
    """E f(√q z), z standard normal."""
    z = torch.linspace(-12.0, 12.0, 48_001, dtype=torch.float64)
    weights = torch.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    return float(torch.trapezoid(weights * function(math.sqrt(q) * z), z))


@named
def test_critical_variances_give_a_fixed_point_with_slope_one(entry: ActivationEntry) -> None:
    phi = functions()[entry.name]
    if entry.critical is None:
        assert not entry.formula or not critical(theory.activation(entry.name), 1.0).feasible
        return
    weights, biases = entry.critical

    def slope(z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        return torch.autograd.grad(phi(z).sum(), z)[0]

    q = {"tanh": 0.5700478816, "sigmoid": 45.62427779738, "hardsigmoid": 47.2736572070}.get(entry.name, 1.0)
    assert weights * gauss(lambda z: phi(z) ** 2, q) + biases == pytest.approx(q, rel=1e-5)
    assert weights * gauss(lambda z: slope(z) ** 2, q) == pytest.approx(1.0, abs=2e-4)


def test_the_lists_that_follow_from_it() -> None:
    """Written out here, so that a new entry shows in this test where it will be met with."""
    assert theory.activations() == tuple(entry.name for entry in ENTRIES if entry.formula)
    assert anatomy.BETWEEN_LAYERS.keys() == {
        "sigmoid", "tanh", "relu", "gelu", "silu", "selu", "elu", "celu", "leaky_relu", "softplus", "hardtanh",
        "relu6", "hardsigmoid", "hardswish", "mish", "softsign", "log_sigmoid",
    }  # fmt: skip
    assert {"sigmoid", "hardsigmoid", "tanh"} == anatomy.GATES
    assert {"relu", "relu6", "leaky_relu"} == anatomy.RELUS
    assert {
        "sigmoid", "softmax", "log_softmax", "relu", "tanh", "hardsigmoid", "relu6", "hardtanh", "softplus", "softsign",
    } == output.CLIPPING  # fmt: skip
    assert data.BOUNDS.keys() == {"sigmoid", "hardsigmoid", "tanh", "softmax", "relu6", "softsign"}
    assert data.BOUNDS["tanh"] == (-1, 1) and data.BOUNDS["sigmoid"] == data.BOUNDS["softmax"] == (0, 1)
    assert initialisation.CRITICAL["linear"] == (1.0, 0.0) and "softplus" not in initialisation.CRITICAL
    assert {"leaky_relu", "leaky_relu_0.2", "relu6", "identity"} < ACTIVATIONS.keys()
    assert "erf" not in ACTIVATIONS and "leaky_relu_0.01" not in ACTIVATIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_sweep_draws_critical_weights_for_every_activation(name: str) -> None:
    """leaky_relu among them, which had been looked up under a name that it does not have."""
    weights, biases = critical_variances(name)
    assert 0.9 < weights < 110 and 0 <= biases < 0.3


NEW_ENTRY = """    ActivationEntry(
        "rrelu_fixed", "RReLU", F + "rrelu", arguments=(0.1, 0.1), label="RReLU", formula=False, rectifies=True
    ),
"""
NEW_REMEDY = """
from unvanish.remedies import Change, Draft, remedy
from unvanish.remedies.activations import swap_hidden
from unvanish.words.activations import BY_NAME


@remedy(
    "activation-rrelu", "RReLU in place of the hidden activations", kind="activation", answers=("UV101",),
    cures_on=("xavier-sigmoid-20",), no_help_on=("lr-too-small",),
)
def rrelu(draft: Draft) -> Change:
    \"\"\"RReLU.

    What: every activation between two layers becomes RReLU.
    Helps: signals that vanish behind sigmoids.
    Does not help: faults of the last layer.
    Source: Xu, Wang, Chen & Li 2015, Empirical evaluation of rectified activations in convolutional network.
    \"\"\"
    return swap_hidden(draft, BY_NAME["rrelu_fixed"])
"""
PROGRAM = """
import torch
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.act = nn.Sigmoid()

    def forward(self, x):
        return self.last({hidden})


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
"""
DIFF = """
import sys, torch, unvanish, program
from unvanish.trials import open_race
from unvanish.trials.answer import _after
from unvanish.trials.patch import patch_of
from unvanish.trials.plan import Plan

loss = torch.nn.functional.cross_entropy
problem = unvanish.Problem(program.net, torch.randn(16, 8), torch.randint(2, (16,)), loss, program.optimizer, steps=100)
race = open_race(problem, Plan(100, 300, 1), unvanish.diagnose(problem))
edits = ("activation-rrelu",)
_, patched, why = patch_of(problem, race.copy(edits, 0), race.report, _after(race, edits))
assert not why, why
sys.stdout.write(patched)
"""


@pytest.mark.parametrize(
    ("hidden", "old", "new"),
    [
        ("self.act(self.second(self.act(self.first(x))))", "nn.Sigmoid()", "nn.RReLU(0.1, 0.1)"),
        (
            "self.second(torch.sigmoid(self.first(x)))",
            "torch.sigmoid(self.first(x))",
            "torch.nn.functional.rrelu(self.first(x), 0.1, 0.1)",
        ),
    ],
    ids=["module", "function"],
)
@pytest.mark.slow
def test_one_entry_and_a_remedy_file_bring_a_diff_of_the_users_program(
    tmp_path: Path, hidden: str, old: str, new: str
) -> None:
    package = copied_with(tmp_path, NEW_ENTRY)
    (package / "remedies" / "activation_rrelu.py").write_text(NEW_REMEDY, encoding="utf-8")
    program = PROGRAM.replace("{hidden}", hidden)
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    done = python(DIFF, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == program.replace(old, new)


def test_an_entry_whose_formula_nobody_wrote_is_refused_with_what_to_do(tmp_path: Path) -> None:
    copied_with(tmp_path, NEW_ENTRY.replace("formula=False, ", ""))
    done = python("import unvanish.theory", tmp_path)
    assert done.returncode == 1
    assert "the activation rrelu_fixed has no φ and φ′ in unvanish/theory/activations.py: write them" in done.stderr


def copied_with(folder: Path, entry: str) -> Path:
    """A copy of the package whose table of activations has one entry more."""
    package = folder / "unvanish"
    shutil.copytree(Path(unvanish.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    table, end = package / "words" / "activations.py", ")  # fmt: skip\nBY_NAME"
    text = table.read_text(encoding="utf-8")
    assert text.count(end) == 1
    table.write_text(text.replace(end, entry + end), encoding="utf-8")
    return package


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )

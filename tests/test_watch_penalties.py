"""Losses that take the weights past the outputs of the model, and optimizers whose eps is nothing in their type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import unvanish
from unvanish.watching.script import run_script

PENALTY = """
import torch
from torch import nn
torch.manual_seed({seed})
judge = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
nn.init.zeros_(judge[2].weight)
optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
for step in range(3):
    x = torch.randn(32, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(judge(x).sum(), x, create_graph=True)
    size = {size}
    loss = (judge(x + 1.0) - judge(x)).mean() + ((size - 1.0) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("slope.square().sum(1).sqrt()", "as a gradient penalty does; of the calls of the loss sqrt can have"),
        ("(slope.square().sum(1) + 1e-9).sqrt()", ""),
    ],
)
def test_a_gradient_penalty_with_an_infinite_slope_is_no_fault_of_a_hook(
    size: str, said: str, seed: int, tmp_path: Path
) -> None:
    """The last layer is zero, so the slope is: the check nudges what is zero, and then the outputs are others."""
    script = tmp_path / "train.py"
    script.write_text(PENALTY.format(seed=seed, size=size))
    found = run_script(str(script), every=1, to=tmp_path / "r.unvanish").run.findings
    broken = [each.message for each in found if each.verdict == "nonfinite"]
    assert len(broken) == bool(said) and all(said in each for each in broken)
    layers = unvanish.load_run(tmp_path / "r.unvanish").by_layer("log10_signal")
    assert [*layers] == ["0", "2"]  # what a repetition wraps the model in is no model of the script


def test_what_is_written_into_a_gradient_is_told_from_it_also_where_weights_are_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 8), nn.Linear(8, 1)
    net = nn.Sequential(first, nn.Tanh(), last)
    nn.init.zeros_(last.weight)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        net(torch.randn(16, 4)).square().mean().backward()
        first.weight.grad = torch.full_like(first.weight, torch.inf)
        optimizer.step()
    (found,) = [each for each in run.findings if each.verdict == "nonfinite"]
    assert "something wrote into it" in found.message


@pytest.mark.parametrize("changed", [None, 0, 1])
def test_of_two_calls_one_that_cannot_be_run_again_leaves_two_causes(changed: int | None, tmp_path: Path) -> None:
    """Which call of the penalty it was is known only where both passes were repeated, whichever comes first."""
    torch.manual_seed(0)
    first = nn.Linear(4, 8)
    net = nn.Sequential(first, nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        batches = [torch.randn(16, 4), torch.randn(16, 4)]
        (net(batches[0]).mean() + net(batches[1]).mean() + (0.0 * first.weight).norm().sqrt()).backward()
        if changed is not None:
            batches[changed].mul_(2.0)
        optimizer.step()
    (found,) = [each for each in run.findings if each.verdict == "nonfinite"]
    assert "sqrt" in found.message  # else it is read off the graph, where the norm before it may be to blame as well
    assert ("linalg_vector_norm or sqrt, whose slope can be infinite" in found.message) == (changed is not None)
    assert ("changed in place since" in found.message) == (changed is not None)


@pytest.mark.parametrize(("eps", "said"), [(1e-8, "its eps is 1e-08, which is 0 in float16"), (1e-4, "")])
def test_an_eps_that_is_nothing_in_the_type_of_the_weights_is_named(eps: float, said: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = nn.Linear(8, 16)
    net = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 3)).half()
    first.bias.data[0] = -100.0  # a unit that is off, and has no gradient
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, eps=eps)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(2):
            optimizer.zero_grad()
            net(torch.randn(16, 8).half()).float().square().mean().backward()
            optimizer.step()
    broken = [each.message for each in run.findings if each.verdict == "nonfinite"]
    assert bool(broken) == bool(said) and all(said in each for each in broken[:1])

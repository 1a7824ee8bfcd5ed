"""A loss whose derivative is exactly zero: a minimum, margins that are kept, or steps that no gradient sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded

Loss = Callable[[Tensor, Tensor], Tensor]

STEPS: dict[str, Loss] = {
    "a share of wrong answers": lambda o, t: (o.argmax(1) != t).float().mean() + 0.0 * o.sum(),
    "rounded outputs": lambda o, t: F.mse_loss(o.round(), F.one_hot(t, 4).float()),
    "signs": lambda o, t: (torch.sign(o[:, 0]) - (t > 1) * 2.0 + 1.0).abs().mean(),
    "a comparison": lambda o, t: torch.where(o[:, 0] > 0, (t > 1).float(), (t <= 1).float()).mean() + 0.0 * o.sum(),
}


def net(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    with seeded(seed):
        x = torch.randn(32, 8)
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), x, (x @ torch.randn(8, 4)).argmax(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", STEPS)
def test_a_loss_that_moves_in_steps_has_learned_nothing(name: str, seed: int) -> None:
    model, x, y = net(seed)
    report = unvanish.diagnose(model, x, y, STEPS[name], optimizer=torch.optim.Adam(model.parameters(), 1e-3))
    assert report.verdict == "no_signal" and not report.healthy
    assert report.loss is not None
    assert not report.loss.reacts or "move in steps" in report.findings[0].message


def triplets(o: Tensor, t: Tensor) -> Tensor:
    one, other = o[t == 0], o[t == 1]
    n = min(len(one), len(other))
    return F.triplet_margin_loss(one[:n], one.roll(1, 0)[:n], other[:n], margin=0.2)


def apart(o: Tensor, t: Tensor) -> Tensor:
    other = t != t.roll(1, 0)
    return F.relu(0.5 - (o - o.roll(1, 0)).norm(dim=1))[other].mean()


KEPT: dict[str, Loss] = {
    "triplets": triplets,
    "pairs apart": apart,
    "a hinge": lambda o, t: F.relu(1 - o[:, 0] * (2 * t - 1)).mean(),
    "several margins": F.multi_margin_loss,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", KEPT)
def test_margins_that_are_kept_by_far_leave_nothing_to_gain(name: str, seed: int) -> None:
    model, x, _ = net(seed)
    y = (x[:, 0] > 0).long()
    x[:, 0] += 4.0 * y - 2.0
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        KEPT[name](model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        model[2].weight *= 30.0  # type: ignore[index, operator]
        model[2].bias *= 30.0  # type: ignore[index, operator]
    assert float(KEPT[name](model(x), y).detach()) == 0.0
    report = unvanish.diagnose(model, x, y, KEPT[name], optimizer=optimizer)
    assert report.verdict == "converged" and report.healthy


@pytest.mark.parametrize(
    "loss", [lambda o, t: 0.0 * F.cross_entropy(o, t), lambda o, t: F.relu(-1.0 - o.pow(2).sum(1)).mean()]
)
def test_a_loss_of_zero_for_every_output_asks_for_nothing(loss: Loss) -> None:
    model, x, y = net(0)
    assert unvanish.diagnose(model, x, y, loss).verdict == "no_signal"


@pytest.mark.parametrize("seed", range(3))
def test_a_constant_that_saturates_is_not_the_best_of_all(seed: int) -> None:
    """The best constant of a Dice loss is all ones, at the far end of the sigmoid; a search from there stands still."""

    def dice(o: Tensor, t: Tensor) -> Tensor:
        p = torch.sigmoid(o)
        return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)

    model, x, _ = net(seed)
    y = (x[:, :1] > 0.5).float().expand(-1, 4)
    nn.init.constant_(model[2].bias, -40.0)  # type: ignore[index, arg-type]
    report = unvanish.diagnose(model, x, y, dice, optimizer=torch.optim.Adam(model.parameters(), 1e-3))
    codes = [finding.code for finding in report.findings]
    assert "UV708" not in codes and "UV504" in codes
    assert report.loss is not None and report.loss.best_free is not None and report.loss.best_free < 0.05


class Equation(nn.Module):
    """The residual of u'' = -4 sin x, and u at both ends; of a ReLU network u'' is 0 wherever it is defined."""

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        self.u = nn.Sequential(nn.Linear(1, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        (once,) = torch.autograd.grad(self.u(x).sum(), x, create_graph=True)
        (twice,) = torch.autograd.grad(once.sum(), x, create_graph=True)
        return twice + 4.0 * torch.sin(x), self.u(torch.tensor([[0.0], [torch.pi]]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_residuals_that_no_weight_moves_are_not_better_than_a_constant(act: type[nn.Module], seed: int) -> None:
    with seeded(seed):
        model, x = Equation(act), torch.pi * torch.rand(64, 1)

    def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        return outputs[0].pow(2).mean() + outputs[1].pow(2).mean()

    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(50):
        optimizer.zero_grad()
        loss(model(x), x).backward()
        optimizer.step()
    text = " ".join(str(unvanish.diagnose(model, x, x, loss, optimizer=optimizer)).split())
    assert "better than any constant" not in text and "have learned the task" not in text


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda o, t: 1 - (2 - (o - 100).abs()).clamp(min=0).mean(), "In the loss clamp at "),
        (lambda o, t: (o.round() - o.detach()).square().mean(), "In the loss nothing goes back past round at "),
    ],
    ids=["an overlap that there is not", "whole numbers"],
)
def test_where_in_the_loss_the_gradient_ends_is_named(loss: Loss, said: str, seed: int) -> None:
    model, x, y = net(seed)
    (finding,) = (each for each in unvanish.diagnose(model, x, y, loss).findings if each.code == "UV604")
    assert said in finding.message and "test_losses_in_steps.py" in finding.message

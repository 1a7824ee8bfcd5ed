"""Vanishing under optimizers whose steps shrink with the gradient, and under those whose steps do not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.decide.limits import VANISHED, VANISHED_ADAPTIVE
from unvanish.decide.stationary import steps_to_leave
from unvanish.evidence import recovery
from unvanish.evidence.recovery import TRIED
from unvanish.pipeline import diagnose, quick_look
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.rules import judge

SEEDS = range(3)


def chain(seed: int, depth: int, activation: type[nn.Module], width: int = 32) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Layers at torch's own initialisation; the class is the largest of four smooth functions of the inputs."""
    with seeded(seed):
        hidden = [part for _ in range(depth) for part in (nn.Linear(width, width), activation())]
        model = nn.Sequential(nn.Linear(6, width), *hidden, nn.Linear(width, 4))
        x = torch.randn(64, 6)
        classes = (torch.tanh(x @ torch.randn(6, 8)) @ torch.randn(8, 4)).argmax(1)
    return model, x, classes


def report_of(parts: tuple[nn.Sequential, Tensor, Tensor], kind: str, **more: Any) -> Any:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return getattr(torch.optim, kind)(parameters, **{"lr": 2e-3, **more})

    return diagnose(Problem(*parts, F.cross_entropy, make))


def level(report: Any) -> str:
    return next((f.level for f in report.findings if f.code == "UV101"), "")


def fitted(parts: tuple[nn.Sequential, Tensor, Tensor], frozen: set[str], steps: int = 400) -> float:
    """The loss after a training by Adam in which these layers stay as they are."""
    model, x, y = copy.deepcopy(parts[0]), *parts[1:]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[0] not in frozen)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_that_adam_trains_is_an_error_under_plain_descent_only(seed: int) -> None:
    parts = chain(seed, 9, nn.GELU)
    adam, plain = report_of(parts, "AdamW"), report_of(parts, "SGD")
    weakest = min(layer.log10_transmission for layer in adam.layers)
    assert VANISHED_ADAPTIVE < weakest < VANISHED
    assert level(adam) == "note" and adam.healthy and "AdamW takes steps of full length" in str(adam).replace("\n", " ")
    assert level(plain) == "error" and "full length" not in str(plain).replace("\n", " ")
    weak = {layer.name for layer in adam.layers if layer.verdict == "vanished"}
    assert weak and fitted(parts, set()) < 0.5 * fitted(parts, weak)  # the weak layers do learn under Adam


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_that_adam_does_not_train_is_an_error_under_adam(seed: int) -> None:
    parts = chain(seed, 13, nn.Sigmoid)
    report = report_of(parts, "Adam")
    assert level(report) == "error" and not report.healthy
    assert fitted(parts, set()) > 0.95 * report.loss.best_constant


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gradient_below_eps_does_not_get_a_full_step(seed: int) -> None:
    parts = chain(seed, 9, nn.GELU)
    assert level(report_of(parts, "Adam", eps=1e-1)) == "error"


def test_without_an_optimizer_plain_descent_is_meant() -> None:
    assert level(diagnose(Problem(*chain(0, 9, nn.GELU), F.cross_entropy))) == "error"


@pytest.mark.parametrize(
    ("at_constant", "taken", "expected"),
    [(True, 20, "note"), (True, 100, "error"), (False, 100, "note"), (True, None, "note")],
)
def test_a_loss_that_stays_at_its_constant_is_an_error(at_constant: bool, taken: int | None, expected: str) -> None:
    flow = report_of(chain(0, 9, nn.GELU), "Adam").flow
    assert flow.step is not None and flow.loss is not None
    flow = flow.replace(step=flow.step.replace(taken=taken), loss=flow.loss.replace(at_constant=at_constant))
    (finding,) = (f for f in judge(flow) if f.code == "UV101")
    assert finding.level == expected


def after(parts: tuple[nn.Sequential, Tensor, Tensor], steps: int) -> dict[str, float]:
    """The transmission of each layer after a training by hand."""
    model, x, y = copy.deepcopy(parts[0]), *parts[1:]
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    layers, _ = quick_look(Problem(model, x, y, F.cross_entropy), model)
    return {layer.name: layer.log10_transmission for layer in layers if layer.log10_transmission is not None}


@pytest.mark.parametrize(("seed", "depth"), [(0, 16), (1, 15), (2, 16)])
def test_a_deep_chain_through_which_real_steps_let_the_signal_is_a_note(seed: int, depth: int) -> None:
    parts = chain(seed, depth, nn.Mish)
    report = report_of(parts, "Adam")
    step = report.flow.step
    weak = {layer.name for layer in report.layers if layer.verdict == "vanished"}
    assert min(layer.log10_transmission for layer in report.layers) < VANISHED_ADAPTIVE
    assert step is not None and step.arrived_after in TRIED and step.arrived is not None
    trained = after(parts, step.arrived_after)
    assert step.arrived == pytest.approx(min(trained[name] for name in weak), abs=0.1)  # by other random cotangents
    assert step.arrived > VANISHED and level(report) == "note"
    text = " ".join(str(report).split())
    assert f"{step.arrived_after} of them, tried and taken back, let the signal through" in text
    assert fitted(parts, set()) < 0.5 * fitted(parts, weak)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_that_real_steps_leave_as_it_is_stays_an_error(seed: int) -> None:
    parts = chain(seed, 13, nn.Sigmoid)
    before = copy.deepcopy(parts[0].state_dict())
    report = report_of(parts, "Adam")
    step = report.flow.step
    least = min(layer.log10_transmission for layer in report.layers)
    assert step is not None and step.arrived is not None and least > -12.0 and step.arrived < VANISHED
    assert step.arrived_after == recovery.DOUBLED[0]  # so many tell that nothing rises
    assert seed != 1 or step.arrived < least + 0.3  # the first 30 gained nothing, so no more are taken
    said = f"{step.arrived_after} real steps of Adam, tried and taken back, do not let the signal through"
    assert said in " ".join(str(report).split())
    assert all(torch.equal(value, before[name]) for name, value in parts[0].state_dict().items())


def test_plain_descent_and_layers_that_full_steps_reach_or_that_lie_too_deep_are_not_tried() -> None:
    for depth, kind in ((9, "Adam"), (16, "SGD"), (30, "Adam")):
        step = report_of(chain(0, depth, nn.GELU), kind).flow.step
        assert step is not None and step.arrived is None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_at_its_constant_is_no_plateau_where_real_steps_let_the_signal_through(seed: int) -> None:
    """Where the signal is lost the head stands at the best constant, and the gradients of all that transmits cancel."""
    model, x, y = chain(seed, 15, nn.Mish)
    optimizer = torch.optim.LBFGS(model[-1].parameters(), max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    report = report_of((model, x, y), "Adam")
    assert report.loss is not None and report.loss.at_constant
    assert report.healthy and level(report) == "note", str(report)
    assert fitted((model, x, y), set()) < 0.5 * report.loss.best_constant


def real_loss(parts: tuple[nn.Sequential, Tensor, Tensor], lr: float, steps: int) -> float:
    """The share of the best constant's loss that is left after a training by Adam."""
    model, x, y = copy.deepcopy(parts[0]), *parts[1:]
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    shares = torch.bincount(y).double() / len(y)
    return F.cross_entropy(model(x), y).item() / float(-torch.xlogy(shares, shares).sum())


@pytest.mark.parametrize("seed", range(4))
def test_a_chain_that_stands_still_for_a_hundred_steps_and_then_trains_is_a_note(seed: int) -> None:
    parts = chain(seed, 13, nn.Softplus)
    report = report_of(parts, "Adam", lr=1e-3)
    assert level(report) == "note" and report.healthy
    assert report.flow.step.arrived > VANISHED and report.flow.step.arrived_after >= 100
    assert real_loss(parts, 1e-3, 90) > 0.9 and real_loss(parts, 1e-3, 800) < 0.5


@pytest.mark.parametrize("seed", range(2))
def test_the_plateau_is_left_about_when_the_rise_of_the_signal_tells(seed: int) -> None:
    parts = chain(seed, 16, nn.Softplus)
    report = report_of(parts, "Adam", lr=1e-3)
    step = report.flow.step
    assert step is not None and step.arrived < VANISHED and step.arrived_after == 800 and step.arriving > 0.0
    assert level(report) == "note" and "has stood still for about" in " ".join(str(report).split())
    told = step.arrived_after + steps_to_leave(step.arriving)
    still, left = (real_loss(parts, 1e-3, round(share * told)) for share in (0.4, 1.3))
    assert still > 0.9 and left < 0.8 * still
    model, x, classes = parts

    def with_planned(share: float) -> Any:
        adam = torch.optim.Adam(model.parameters(), 1e-3)
        return diagnose(Problem(model, x, classes, F.cross_entropy, adam, steps=round(share * told)))

    assert level(with_planned(0.7)) == "error"  # of a training that is over by then
    assert level(with_planned(1.2)) == "error"  # and of one that may be: all had left by 1.3 times the step told
    assert level(with_planned(1.5)) == "note"


@pytest.mark.parametrize("seed", range(2))
def test_of_the_planned_steps_those_that_are_left_count(seed: int) -> None:
    """A chain of softplus that its plan leaves time to train, before a hundred of its steps and after all of them."""
    model, x, y = chain(seed, 14, nn.Softplus)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    def with_planned(steps: int) -> Any:
        return diagnose(Problem(model, x, y, F.cross_entropy, optimizer, steps=steps))

    left, over = with_planned(2_000), with_planned(100)
    assert left.loss.at_constant and level(left) == "note" and left.flow.step.arrived > VANISHED
    assert level(over) == "error" and over.flow.step.arrived is None
    assert "Of Adam's 100 planned steps none is left to bring it through." in " ".join(str(over).split())


@pytest.mark.parametrize("seed", range(2))
def test_a_chain_whose_signal_does_not_rise_is_an_error_that_says_what_is_not_known(seed: int) -> None:
    parts = chain(seed, 13, nn.Sigmoid)
    report = report_of(parts, "Adam", lr=1e-3)
    assert level(report) == "error" and report.flow.step.arriving is None
    assert "Some networks leave such a plateau much later" in " ".join(str(report).split())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_signal_that_still_rises_when_more_steps_are_too_dear_is_an_open_question(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "WORK", 0.0)
    report = report_of(chain(seed, 13, nn.Softplus), "Adam", lr=1e-3)
    step = report.flow.step
    assert step.arrived_after == 100 and step.arrived < VANISHED and step.arriving > 0.0
    assert level(report) == "note" and "rose steadily" in next(f.message for f in report.findings if f.code == "UV101")
    assert "whether the signal reaches the first layers in time" in dict(report.undecided)
    still = report_of(chain(seed, 17, nn.Softplus), "Adam", lr=1e-3)
    assert level(still) == "error" and still.flow.step.arriving is None


@pytest.mark.parametrize("seed", range(2))
def test_a_chain_that_lets_the_signal_through_for_a_moment_is_an_error(seed: int) -> None:
    """Nine layers of sigmoids win a third of the loss and stay there; of tanh they learn all."""
    parts = chain(seed, 9, nn.Sigmoid)
    report = report_of(parts, "Adam")
    assert level(report) == "error" and report.flow.step.arrived < VANISHED
    assert 0.5 < real_loss(parts, 2e-3, 700) < 0.8
    tanh = chain(seed, 9, nn.Tanh)
    assert not level(report_of(tanh, "Adam")) and real_loss(tanh, 2e-3, 300) < 0.5


@pytest.mark.parametrize(
    ("arrived", "expected"),
    [
        ({100: -3.0, 200: -2.0}, False),
        ({100: -3.0, 200: -2.0, 266: -1.0}, False),
        ({100: -3.0, 200: -2.0, 300: -1.0}, True),
        ({100: -3.0, 200: -2.0, 266: -2.6, 300: -1.0}, False),  # gone between
        ({100: -3.0, 200: -2.0, 266: -2.6, 300: -1.0, 466: -1.0}, True),
        ({30: -1.0, 40: -1.0}, False),
        ({30: -1.0, 40: -1.0, 50: -1.0}, True),
        ({100: -3.0}, False),
    ],
)
def test_a_signal_has_arrived_once_it_has_stayed_for_half_as_long_again(
    arrived: dict[int, float], expected: bool
) -> None:
    assert recovery._lasts(arrived) == expected


def stood_still(parts: tuple[nn.Sequential, Tensor, Tensor], lr: float) -> torch.optim.Optimizer:
    """110 steps of Adam from the best constant output on, none of which have told."""
    model, x, y = parts
    adam, best = torch.optim.Adam(model.parameters(), lr), torch.optim.LBFGS(model[-1].parameters(), max_iter=50)

    def closure() -> Tensor:
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    best.step(closure)  # type: ignore[arg-type]
    for _ in range(110):
        closure()
        adam.step()
    return adam


@pytest.mark.parametrize("seed", range(2))
def test_a_loss_that_has_stood_still_is_an_error_only_where_real_steps_do_not_tell_either(seed: int) -> None:
    parts, dull = chain(seed, 10, nn.Softplus), chain(2 * seed, 5, nn.Sigmoid)
    adam, slow = stood_still(parts, 1e-4), stood_still(dull, 1e-5)
    report, error = (diagnose(Problem(*a, F.cross_entropy, o, steps=450)) for a, o in ((parts, adam), (dull, slow)))
    for each in (report, error):
        weakest = min(layer.log10_transmission for layer in each.layers if layer.log10_transmission is not None)
        assert each.loss is not None and each.loss.at_constant and VANISHED_ADAPTIVE < weakest < VANISHED
        assert each.flow.step is not None and each.flow.step.arrived is not None
    assert level(report) == "note" and real_loss(parts, 2e-3, 200) < 0.5
    assert level(error) == "error" and real_loss(dull, 1e-5, 100) > 0.97


@pytest.mark.parametrize("seed", range(2))
def test_a_branch_that_is_not_reached_is_no_error_where_the_rest_learns_all(seed: int) -> None:
    """Beside a short way that carries the signal, a chain of sigmoids whose own part is as good as constant."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain, self.x, self.classes = chain(seed, 12, nn.Sigmoid)
            self.short = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.chain(x) + self.short(x)

    with seeded(seed):
        model = Beside()
    rates = (1e-2, 1e-6)
    made = [
        Problem(model, model.x, model.classes, F.cross_entropy, lambda p, r=r: torch.optim.Adam(p, r)) for r in rates
    ]
    learns, stays = map(diagnose, made)
    assert level(learns) == "note" and learns.flow.step is not None and learns.flow.step.learned is not None
    assert learns.flow.step.arrived is not None and learns.flow.step.arrived < VANISHED
    assert level(stays) == "error" and stays.flow.step is not None and stays.flow.step.learned is None

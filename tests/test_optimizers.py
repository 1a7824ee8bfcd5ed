"""Several optimizers in one problem, layers that none holds, and what is no batch and no loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

from unvanish import Problem, UnvanishError, diagnose, fix
from unvanish.evidence.moving import put_back
from unvanish.evidence.step import real_steps
from unvanish.pipeline import look
from unvanish.records import Flow

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def net(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def problem(model: Any, optimizer: Any, **more: Any) -> Problem:
    return Problem(model, X, Y, F.cross_entropy, optimizer, **more)


def two(model: nn.Sequential) -> list[optim.Optimizer]:
    return [
        optim.SGD([*model[0].parameters(), *model[2].parameters()], 0.1, momentum=0.9),
        optim.Adam(model[4].parameters(), 1e-3),
    ]


def moved(model: nn.Sequential, optimizers: list[optim.Optimizer]) -> dict[str, float]:
    """|Δw| / |w| of each layer by a real step of each optimizer."""
    parameters = list(model.parameters())
    with put_back(parameters) as before:
        F.cross_entropy(model(X), Y).backward()
        for optimizer in optimizers:
            optimizer.step()
        ratio = {}
        for name in ("0", "2", "4"):
            ids = {id(p) for p in model[int(name)].parameters()}
            pairs = [(p.detach(), b) for p, b in zip(parameters, before, strict=True) if id(p) in ids]
            change = math.hypot(*(float((p - b).norm()) for p, b in pairs))
            ratio[name] = change / math.hypot(*(float(b.norm()) for _, b in pairs))
    return ratio


def left_out(flow: Flow) -> tuple[str, ...]:
    return () if flow.next_step is None else flow.next_step.left_out


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("as_tuple", [True, False])
def test_each_layer_is_moved_by_its_own_optimizer(seed: int, as_tuple: bool) -> None:
    model = net(seed)
    optimizers = two(model)
    flow = look(problem(model, tuple(optimizers) if as_tuple else optimizers))
    right = moved(model, two(model))
    for layer in flow.layers:
        assert layer.update_to_weight_ratio == pytest.approx(right[layer.name], rel=1e-4)
    assert flow.setting.optimizer == "SGD and Adam" and left_out(flow) == ()
    assert flow.step is not None and flow.step.optimizer == "SGD and Adam" and not optimizers[0].state


def test_the_step_that_is_tried_is_that_of_all_of_them() -> None:
    model = net()
    flow = look(problem(model, two(model)))
    optimizers = two(model)
    with put_back(list(model.parameters())):
        F.cross_entropy(model(X), Y).backward()
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            expected = float(F.cross_entropy(model(X), Y))
    assert flow.step is not None and dict(flow.step.ladder)[1.0] == pytest.approx(expected, rel=1e-5)


def test_real_steps_are_those_of_all_of_them() -> None:
    model = net()
    given, optimizers = problem(model, two(model)), two(model)
    _, together = given.build_all()
    assert together is not None
    after = real_steps(given, model, together, 1.0, 0)
    with put_back(list(model.parameters())):
        for _ in range(6):
            model.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            for optimizer in optimizers:
                optimizer.step()
        with torch.no_grad():
            assert after == pytest.approx(float(F.cross_entropy(model(X), Y)), rel=1e-4)


def test_one_optimizer_in_a_sequence_is_that_optimizer() -> None:
    model = net()
    alone = optim.Adam(model.parameters(), 1e-3)
    assert look(problem(model, [alone])) == look(problem(model, alone))


def test_a_factory_takes_a_function_that_makes_several() -> None:
    def make(parameters: Any) -> list[optim.Optimizer]:
        every = list(parameters)
        return [optim.SGD(every[:2], 0.1), optim.Adam(every[2:], 1e-3)]

    flow = look(problem(net, make))
    assert flow.setting.optimizer == "SGD and Adam" and left_out(flow) == ()
    assert all(layer.update_to_weight_ratio for layer in flow.layers)


def test_a_second_optimizer_with_a_huge_rate_is_noticed() -> None:
    model = net()
    good, wild = optim.Adam(model[0].parameters(), 1e-3), optim.SGD(model[4].parameters(), 1e4)
    report = diagnose(problem(model, [good, wild]))
    assert "UV704" in {finding.code for finding in report.findings}
    assert "UV704" not in {f.code for f in diagnose(problem(model, good)).findings}


HALF = {
    "the last layer alone": (lambda m: optim.Adam(m[4].parameters(), 1e-3), ("0", "2"), 352),
    "the first layer alone": (lambda m: optim.SGD(m[0].parameters(), 0.1), ("2", "4"), 306),
    "two of three, in two": (
        lambda m: [optim.Adam(m[4].parameters(), 1e-3), optim.SGD(m[0].parameters(), 0.1)],
        ("2",),
        272,
    ),
}


@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("effort", ["quick", "auto"])
def test_layers_that_no_optimizer_holds_are_named(kind: str, effort: str) -> None:
    make, names, parameters = HALF[kind]
    model = net()
    report = diagnose(problem(model, make(model)), effort=effort)
    (finding,) = [f for f in report.findings if f.code == "UV605"]
    assert (finding.level, finding.layers) == ("note", names)
    assert f"{parameters:,} parameters" in finding.message and report.healthy


def test_layers_that_are_frozen_unused_or_held_in_part_are_not_called_left_out() -> None:
    model = net()
    model[0].requires_grad_(False)
    assert left_out(look(problem(model, optim.SGD(model[2].parameters(), 0.1)))) == ("4",)
    assert left_out(look(problem(net(), lambda p: optim.SGD(p, 0.1)))) == ()
    assert left_out(look(problem(net(), None))) == ()
    model = net()
    assert left_out(look(problem(model, optim.SGD([m.weight for m in model if isinstance(m, nn.Linear)], 0.1)))) == ()


def foreign() -> optim.Optimizer:
    return optim.SGD(net(5).parameters(), 0.1)


Given: Any = Problem
MODEL = net()
REFUSED = {
    "an empty sequence": (lambda: problem(MODEL, []), r"holds no optimizer"),
    "a number among them": (lambda: problem(MODEL, [optim.SGD(MODEL.parameters(), 0.1), 3]), "holds an int among"),
    "one parameter in two": (
        lambda: problem(MODEL, [optim.SGD(MODEL.parameters(), 0.1), optim.Adam(MODEL[4].parameters())]),
        r"two optimizers, SGD and Adam, that hold the same parameter \(shape \(2, 16\)\)",
    ),
    "several beside a factory": (lambda: problem(net, two(MODEL)), "a model factory and an optimizer instance"),
    "all of them foreign": (lambda: problem(MODEL, [foreign(), foreign()]), r"\(SGD\) holds none of the model's"),
    "a function that returns a number among them": (
        lambda: problem(MODEL, lambda p: [optim.SGD(p, 0.1), 3]),
        r"optimizer\(parameters\) returned a sequence that holds an int",
    ),
    "a loader as the inputs": (
        lambda: Given(MODEL, DataLoader(TensorDataset(X, Y), 8), None, F.cross_entropy),
        r"inputs=…\) is a DataLoader: give one batch, as in `inputs, targets = next\(iter\(loader\)\)`",
    ),
    "a data set as the inputs": (lambda: Given(MODEL, TensorDataset(X, Y), None, F.cross_entropy), "a TensorDataset"),
    "a loader as validation": (
        lambda: Given(MODEL, X, Y, F.cross_entropy, validation=DataLoader(TensorDataset(X, Y), 8)),
        r"validation=…\) is a DataLoader",
    ),
    "the class of a loss": (
        lambda: Given(MODEL, X, Y, nn.CrossEntropyLoss),
        r"loss_fn=CrossEntropyLoss\) is a class: pass an instance of it, loss_fn=CrossEntropyLoss\(\)",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_makes_no_sense_is_one_clear_error(kind: str) -> None:
    build, message = REFUSED[kind]
    with pytest.raises(UnvanishError, match=message):
        look(build())


@pytest.mark.parametrize("made", [True, False])
def test_fix_asks_for_one_optimizer(made: bool) -> None:
    model = net()

    def make(parameters: Any) -> list[optim.Optimizer]:
        every = list(parameters)
        return [optim.SGD(every[:2], 0.1), optim.Adam(every[2:], 1e-3)]

    def metric(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    given = problem(model, make if made else two(model), validation=(X, Y), metric=metric, steps=20)
    with pytest.raises(UnvanishError, match=r"one optimizer, and the Problem has 2 \(SGD and Adam\)"):
        fix(given)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rates", [(0.0, 0.1), (0.0, 0.0), (1e-4, 0.1), (0.1, 0.0)])
def test_layers_that_are_held_at_a_rate_of_0_beside_others_are_named(rates: tuple[float, float], seed: int) -> None:
    model = net(seed)
    groups = [{"params": model[:3].parameters(), "lr": rates[0]}, {"params": model[3:].parameters(), "lr": rates[1]}]
    optimizer = optim.SGD(groups, lr=0.1)
    report = diagnose(problem(model, optimizer))
    expected = {(0.0, 0.1): ("0", "2"), (0.1, 0.0): ("4",)}.get(rates, ())
    assert [f.layers for f in report.findings if f.code == "UV605"] == ([expected] if expected else [])
    before = [p.detach().clone() for p in model.parameters()]
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    still = [bool((p == b).all()) for p, b in zip(model.parameters(), before, strict=True)]
    assert still == [rate == 0.0 for rate in (*[rates[0]] * 4, *[rates[1]] * 2)]
    assert report.healthy

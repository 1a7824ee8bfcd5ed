"""The optimizer's next step on a ladder of sizes and the real steps, against steps really made on a copy."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem
from unvanish.evidence import step as ladder
from unvanish.evidence.step import REAL_STEPS, RUNGS, ladder_of, real_steps
from unvanish.pipeline import look
from unvanish.preserve import seeded, untouched
from unvanish.records import Flow, LossFacts, StepFacts

CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1, 0, 2])
SEEDS = range(3)
Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(seed: int, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def trained(seed: int, make: Make, dropout: float = 0.0, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network a few steps into its training, so that its optimizer has a state."""
    model = net(seed, dropout)
    optimizer = make(model.parameters())
    for _ in range(steps):
        train(model, optimizer, draw(10, 4, seed=seed), CLASSES)
    optimizer.zero_grad()
    return model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def twin(model: nn.Module, optimizer: torch.optim.Optimizer, make: Make) -> tuple[nn.Module, torch.optim.Optimizer]:
    other = copy.deepcopy(model)
    made = make(other.parameters())
    made.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other, made


def step_of(flow: Flow) -> StepFacts:
    assert flow.step is not None
    return flow.step


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_rung_is_the_step_the_optimizer_makes(name: str, dropout: float, seed: int) -> None:
    model, optimizer = trained(seed, OPTIMIZERS[name], dropout)
    inputs = draw(10, 4, seed=seed)
    step = step_of(look(Problem(model, inputs, CLASSES, F.cross_entropy, optimizer), seed=seed))
    other, made = twin(model, optimizer, OPTIMIZERS[name])
    with seeded(seed):
        now = float(F.cross_entropy(other(inputs), CLASSES).detach())
    with seeded(seed):
        train(other, made, inputs, CLASSES)
    with seeded(seed), torch.no_grad():
        after = float(F.cross_entropy(other(inputs), CLASSES))
    assert step.loss == pytest.approx(now, rel=1e-12)
    assert dict(step.ladder)[1.0] == pytest.approx(after, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("batches", [0, 2, 9])
def test_real_steps_are_those_of_a_trained_copy(name: str, dropout: float, seed: int, batches: int) -> None:
    model, optimizer = trained(seed, OPTIMIZERS[name], dropout)
    inputs = draw(10, 4, seed=seed)
    more = [(draw(10, 4, seed=50 + k), CLASSES.roll(k)) for k in range(batches)]
    problem = Problem(model, inputs, CLASSES, F.cross_entropy, optimizer, train_batches=more or None)
    after = real_steps(problem, model, optimizer, 1.0, seed)
    other, made = twin(model, optimizer, OPTIMIZERS[name])
    for batch in itertools.islice(
        itertools.cycle(more or [(inputs, CLASSES)]), REAL_STEPS
    ):  # two batches: three rounds of both
        with seeded(seed):
            train(other, made, *batch)
    with seeded(seed), torch.no_grad():
        expected = float(F.cross_entropy(other(inputs), CLASSES))
    assert after == pytest.approx(expected, rel=1e-12)


def test_a_scale_multiplies_the_learning_rate_alone() -> None:
    model, optimizer = trained(0, OPTIMIZERS["momentum"])
    inputs = draw(10, 4)
    after = real_steps(Problem(model, inputs, CLASSES, F.cross_entropy), model, optimizer, 3.0, 0)
    other, made = twin(model, optimizer, OPTIMIZERS["momentum"])
    made.param_groups[0]["lr"] *= 3.0
    for _ in range(REAL_STEPS):
        train(other, made, inputs, CLASSES)
    assert after == pytest.approx(float(F.cross_entropy(other(inputs), CLASSES).detach()), rel=1e-12)


def test_batches_of_another_form_are_left_alone() -> None:
    """What the model does not take as it is, or holds no pairs, is no reason to fail."""
    model, optimizer = trained(0, OPTIMIZERS["SGD"])
    problem = Problem(model, draw(10, 4), CLASSES, F.cross_entropy)
    alone = real_steps(problem, model, optimizer, 1.0, 0)
    for batches in ([{"x": draw(10, 4)}], [(draw(10, 9), CLASSES)], [(1, 2, 3)], [draw(10, 4)]):
        other = Problem(model, draw(10, 4), CLASSES, F.cross_entropy, train_batches=batches)
        assert real_steps(other, model, optimizer, 1.0, 0) == alone


class OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net(0)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_batches_of_a_model_with_its_own_loss_are_its_inputs() -> None:
    model = OwnLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [{"x": draw(10, 4, seed=k), "labels": CLASSES} for k in range(REAL_STEPS)]
    problem = Problem(model, {"x": draw(10, 4), "labels": CLASSES}, train_batches=batches)
    after = real_steps(problem, model, optimizer, 1.0, 0)
    other = copy.deepcopy(model.net)
    made = torch.optim.SGD(other.parameters(), lr=0.1)
    for k in range(REAL_STEPS):
        train(other, made, draw(10, 4, seed=k), CLASSES)
    assert after == pytest.approx(float(F.cross_entropy(other(draw(10, 4)), CLASSES).detach()), rel=1e-12)


class Weight(nn.Module):
    """One weight w that is its own output for every sample: with MSE to 0 the loss is w²."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start]))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def quadratic(rate: float, *, steps: int | None = None, momentum: float = 0.0) -> Problem:
    """L = ½ h w² with h = 2, w = 1: ``rate`` is lr · h."""
    model = Weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate / 2, momentum=momentum)
    return Problem(model, torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1), F.mse_loss, optimizer, steps=steps)


@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.01, 0.1, 0.3, 0.6, 0.9, 1.2, 1.7])
def test_steps_needed_on_a_quadratic(rate: float) -> None:
    step = step_of(look(quadratic(rate)))
    by_hand = math.log(10.0) / (-2.0 * math.log(abs(1.0 - rate)))  # (1 - rate)^2n = 0.1
    assert step.needed == pytest.approx(max(1.0, by_hand), rel=0.2)


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0, 1.5, 1.9, 2.1, 2.3, 5.0])
def test_every_rung_on_a_quadratic(rate: float) -> None:
    step = step_of(look(quadratic(rate)))
    assert step.loss == pytest.approx(1.0)
    for multiple, value in step.ladder:
        assert value == pytest.approx((1.0 - multiple * rate) ** 2, rel=1e-9, abs=1e-12)
    assert step.best == min(dict(step.ladder), key=dict(step.ladder).__getitem__)


@pytest.mark.parametrize(
    ("rate", "multiples"),
    [
        (1e-3, [1, 10, 100, 1000, 10_000]),  # up: 1, 10, 100, 1000 fall to (1 - 1)² = 0, then it rises
        (0.3, [1, 10]),
        (1.9, [1, 10]),  # 0.81 is still a fall
        (2.1, [0.1, 1]),  # down until it falls
        (2100.0, [1e-4, 1e-3, 0.01, 0.1, 1]),
        (1e-12, [10.0**k for k in range(RUNGS + 1)]),
        (1e12, [10.0**-k for k in range(12, -1, -1)]),  # as far as it overshoots: (1 - 1)² at 1e-12
    ],
)
def test_where_the_rungs_end(rate: float, multiples: list[float]) -> None:
    step = step_of(look(quadratic(rate)))
    assert [m for m, _ in step.ladder] == pytest.approx(multiples)
    assert step.best is not None


def loss_of(value: float, reference: float | None = 1.0) -> LossFacts:
    return LossFacts(value=value, reference=reference)


@pytest.mark.parametrize(
    ("rungs", "lowered"),
    [
        ({1.0: 0.99, 10.0: 0.91, 100.0: 0.7, 1000.0: 4.0}, 0.3),
        ({1.0: 0.9, 10.0: 5.0}, 0.1),
        ({1.0: 1.7, 0.1: 0.8}, 0.2),  # shorter than the step that is really made next
        ({1.0: 1.1, 10.0: 0.2}, 0.0),  # it fell by chance: one step does not
        ({1.0: 1.0 - 1e-5, 10.0: 0.2}, 1e-5),  # 80,000 times as much by a step ten times as long
        ({1.0: 0.99, 10.0: 0.999, 100.0: 0.2}, 0.01),
        ({1.0: 1.0 - 1e-9, 10.0: 0.999}, 0.0),  # one step is lost in rounding: ten prove nothing
        ({1.0: 1.2}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_fall_that_counts_is_that_of_steps_which_still_win_in_proportion(
    rungs: dict[float, float], lowered: float
) -> None:
    assert ladder._lowered(loss_of(1.0), 1.0, rungs, 1e-7) == pytest.approx(lowered, abs=2e-6)


def test_rounding_and_a_network_that_does_not_repeat_itself_take_from_the_fall() -> None:
    rungs = {1.0: 0.9}
    assert ladder._lowered(loss_of(1.0), 1.0, rungs, 2**-7) == pytest.approx(0.1 - 8 * 2**-7)
    assert ladder._lowered(loss_of(1.06), 1.0, rungs, 0.0) == pytest.approx(0.04)
    assert ladder._lowered(loss_of(1.2), 1.0, rungs, 0.0) == 0.0
    assert ladder._lowered(loss_of(1.0, 4.0), 1.0, rungs, 0.0) == pytest.approx(0.025)
    assert ladder._lowered(loss_of(1.0, None), 1.0, rungs, 0.0) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_dropout_masks_make_the_fall_comparable(seed: int) -> None:
    model, optimizer = trained(seed, OPTIMIZERS["SGD"], 0.5)
    flow = look(Problem(model, draw(10, 4, seed=seed), CLASSES, F.cross_entropy, optimizer), seed=seed)
    step = step_of(flow)
    assert flow.loss is not None and flow.loss.reference is not None
    assert step.lowered == pytest.approx((step.loss - min(dict(step.ladder).values())) / flow.loss.reference, rel=1e-3)


def test_a_forward_pass_that_drifts_proves_nothing() -> None:
    class Drifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.calls = nn.Parameter(torch.ones(1)), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.w * x / self.calls

    model = Drifting()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    step = step_of(look(Problem(model, draw(10, 1), torch.zeros(10, 1), F.mse_loss, optimizer)))
    assert min(dict(step.ladder).values()) < 0.9 * step.loss
    assert step.lowered == 0.0


@pytest.mark.parametrize("rate", [2.3, 3.0, 10.0])
def test_a_learning_rate_too_large_is_raised_and_confirmed(rate: float) -> None:
    step = step_of(look(quadratic(rate)))
    assert dict(step.ladder)[1.0] - step.loss > 0.5 * step.loss
    assert step.walked == pytest.approx((1.0 - rate) ** (2 * REAL_STEPS), rel=1e-6)
    assert step.walked is not None and step.walked > 10.0 * step.loss
    assert step.walked_scaled is None


@pytest.mark.parametrize("rate", [0.1, 1.0, 1.5, 1.9, 2.1, 2.2])
def test_below_two_point_two_two_it_is_not_raised(rate: float) -> None:
    assert step_of(look(quadratic(rate))).walked is None


def test_a_learning_rate_too_small_is_walked_with_a_larger_one() -> None:
    step = step_of(look(quadratic(1e-5, steps=1000)))
    assert step.best is not None and step.best >= 100.0
    assert step.needed == pytest.approx(math.log(10.0) / 2e-5, rel=1e-3)
    assert step.lr_limit == pytest.approx(1.0, rel=1e-3)  # 2 / h
    assert step.scale == 100.0
    assert step.walked == pytest.approx((1 - 1e-5) ** 12) and step.walked_scaled == pytest.approx((1 - 1e-3) ** 12)
    assert step.walked is not None and step.walked_scaled is not None
    assert step.loss - step.walked_scaled > 90.0 * (step.loss - step.walked)


@pytest.mark.parametrize(("steps", "asked"), [(5000, False), (1000, True)])
def test_no_larger_rate_is_tried_where_steps_that_grow_are_enough(steps: int, asked: bool) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)  # to 4.7 times their length in six steps
    problem = Problem(model, torch.ones(4, 1), torch.zeros(4, 1), F.mse_loss, optimizer, steps=steps)
    step = step_of(look(problem))
    assert step.needed is not None and 1000 < step.needed / 4.7 < 5000 < step.needed
    assert len(step.lengths) == REAL_STEPS and step.walked is not None
    assert (step.walked_scaled is not None) is asked


def test_one_forward_pass_is_enough_where_the_loss_is_no_number() -> None:
    seen = itertools.count()

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        next(seen)
        return F.mse_loss(outputs, targets) * math.nan

    model = nn.Linear(1, 1)
    moves = [(p, torch.ones_like(p)) for p in model.parameters()]
    now, ladder = ladder_of(Problem(model, torch.ones(4, 1), torch.zeros(4, 1), loss_fn), model, moves, 0)
    assert math.isnan(now) and math.isnan(ladder[1.0]) and next(seen) == 1


def test_the_planned_steps_decide_whether_it_is_too_small() -> None:
    assert step_of(look(quadratic(2e-3, steps=10_000))).walked is None
    assert step_of(look(quadratic(2e-3, steps=100))).walked is not None


def test_the_larger_rate_stays_below_the_limit_of_the_sharpest_direction() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1e-3]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    targets = inputs @ torch.tensor([[1e-6], [1e3]])
    step = step_of(look(Problem(model, inputs, targets, F.mse_loss, optimizer)))
    assert step.lr_limit == pytest.approx(2.0, rel=1e-3)  # curvatures 1 and 10⁻⁶
    assert step.scale == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("lr", [1e30, 1e200])
def test_divergence_is_a_number_that_is_not_finite(lr: float) -> None:
    model = net(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    step = step_of(look(Problem(model, draw(10, 4), CLASSES, F.cross_entropy, optimizer)))
    assert step.walked is not None and not step.walked <= step.loss


class Probabilities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(x))


def test_a_loss_that_refuses_what_diverged_is_no_error() -> None:
    """Binary cross-entropy raises on nan; so does many a model that checks its own numbers."""
    model, targets = Probabilities(), (draw(10, 1, seed=3) > 0).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e200)
    problem = Problem(model, draw(10, 4), targets, F.binary_cross_entropy, optimizer)
    assert not math.isfinite(real_steps(problem, model, optimizer, 1.0, 0))
    assert not math.isfinite(dict(step_of(look(problem)).ladder)[1.0])


def test_no_memory_says_nothing_about_the_weights() -> None:
    model, optimizer = trained(0, OPTIMIZERS["SGD"])
    count = itertools.count()

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        if next(count) == 3:
            raise torch.cuda.OutOfMemoryError
        return F.cross_entropy(outputs, targets)

    with pytest.raises(torch.cuda.OutOfMemoryError):
        real_steps(Problem(model, draw(10, 4), CLASSES, loss_fn), model, optimizer, 1.0, 0)


@pytest.mark.parametrize("name", ["momentum", "AdamW"])
def test_nothing_is_touched(name: str, same_before_and_after: Any) -> None:
    model, optimizer = trained(0, OPTIMIZERS[name], 0.5)
    train(model, optimizer, draw(10, 4), CLASSES)  # leaves gradients behind
    seen: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    problem = Problem(model, draw(10, 4), CLASSES, F.cross_entropy, optimizer)
    with same_before_and_after(model, optimizer):
        assert math.isfinite(real_steps(problem, model, optimizer, 50.0, 0))
    assert not seen and scheduler.last_epoch == 0 and len(optimizer._optimizer_step_pre_hooks) == 1


@pytest.mark.parametrize("call", range(1, 21))
@pytest.mark.parametrize("rate", [1e-6, 0.1, 1e3])
def test_an_interrupt_leaves_everything_in_place(call: int, rate: float, same_before_and_after: Any) -> None:
    """Of the ladder up, the ladder down and the real steps: they run last, so calls are counted from the end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    train(model, optimizer, draw(10, 4), CLASSES)
    counts = {"now": 0, "stop": 0}

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        counts["now"] += 1
        if counts["now"] == counts["stop"]:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, targets)

    problem = Problem(model, draw(10, 4), CLASSES, loss_fn, optimizer)
    look(problem)
    counts.update(now=0, stop=max(1, counts["now"] + 1 - call))
    with same_before_and_after(model, optimizer), pytest.raises(KeyboardInterrupt):
        look(problem)


@pytest.mark.parametrize("call", range(1, 2 * REAL_STEPS + 2))
def test_an_interrupt_of_the_real_steps_alone(call: int, same_before_and_after: Any) -> None:
    model, optimizer = trained(0, OPTIMIZERS["Adam"], 0.5)
    train(model, optimizer, draw(10, 4), CLASSES)
    batches = [(draw(10, 4, seed=k), CLASSES) for k in range(REAL_STEPS)]
    count = itertools.count(1)

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        if next(count) == call:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, targets)

    problem = Problem(model, draw(10, 4), CLASSES, loss_fn, optimizer, train_batches=batches)
    with same_before_and_after(model, optimizer), pytest.raises(KeyboardInterrupt):
        real_steps(problem, model, optimizer, 1.0, 0)


def test_every_rung_has_the_same_dropout_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: SimpleQueue[Tensor] = SimpleQueue()  # a list would be put back

    class Seen(nn.Dropout):
        def forward(self, input: Tensor) -> Tensor:
            mask = super().forward(torch.ones_like(input)).detach()
            drawn.put(mask)
            return input * mask

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), Seen(0.5), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    original = ladder.ladder_of

    masks: list[Tensor] = []

    def only(*args: Any) -> Any:
        while not drawn.empty():
            drawn.get()
        facts = original(*args)
        masks.extend(drawn.get() for _ in range(drawn.qsize()))
        return facts

    monkeypatch.setattr(ladder, "ladder_of", only)
    step = step_of(look(Problem(model, draw(10, 4), CLASSES, F.cross_entropy, optimizer), seed=3))
    assert len(masks) >= 2 + len(step.ladder) - 1
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert 0.2 < float((masks[0] == 0).double().mean()) < 0.8


def test_other_generators_repeat_too() -> None:
    """Some layers are dropped by Python's or numpy's numbers; the generators themselves do not move."""
    import random

    import numpy as np

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.w * x * random.random() * float(np.random.rand())

    model = Layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    problem = Problem(model, draw(4, 1), draw(4, 1, seed=1), F.mse_loss, optimizer)
    with untouched(model, 0):
        assert real_steps(problem, model, optimizer, 1.0, 0) == real_steps(problem, model, optimizer, 1.0, 0)
    step = step_of(look(problem))
    assert {value for _, value in step.ladder} == {step.loss}


def test_an_optimizer_that_needs_a_closure_has_no_ladder() -> None:
    model = net(0)
    optimizer = torch.optim.LBFGS(model.parameters())
    flow = look(Problem(model, draw(10, 4), CLASSES, F.cross_entropy, optimizer))
    assert flow.step is None and any("LBFGS" in why for _, why in flow.undecided)

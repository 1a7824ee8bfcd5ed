"""What the last calls put out of the loss's reach, and what the scale of the inputs does: by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem
from unvanish.pipeline import diagnose, look
from unvanish.records import InputFacts, OutputFacts

SEEDS = range(3)
CLASSES = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Then(nn.Module):
    """A small network with a function behind its last layer."""

    def __init__(self, outputs: int, last: Callable[[Tensor], Tensor], seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers, self.last = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))


def output(model: nn.Module, targets: Any, loss_fn: Callable[..., Any] | None) -> OutputFacts:
    reach = look(Problem(model, draw(12, 4), targets, loss_fn)).output
    assert reach is not None
    return reach


def now(model: nn.Module, targets: Tensor, loss_fn: Callable[..., Tensor]) -> float:
    with torch.no_grad():
        return float(loss_fn(model(draw(12, 4)), targets))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("low", "high"), [(5.0, 25.0), (2.0, 3.0), (0.5, 2.0)])
def test_a_sigmoid_under_targets_above_one(low: float, high: float, seed: int) -> None:
    model, targets = Then(1, torch.sigmoid, seed), torch.linspace(low, high, 12)[:, None]
    reach = output(model, targets, F.mse_loss)
    clamped = float((targets - targets.clamp(max=1.0)).pow(2).mean())  # every output at its end, or at its target
    reference = max(now(model, targets, F.mse_loss), float(targets.var(correction=0)))
    assert (reach.kind, reach.low, reach.high) == ("bounded", pytest.approx(0.0, abs=1e-9), pytest.approx(1.0))
    assert reach.unreachable == pytest.approx(clamped / reference, abs=0.01)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_softmax_before_another(classes: int, seed: int) -> None:
    """The best probabilities are 1 and 0: the second softmax makes e / (e + k - 1) of them at most."""
    model, targets = Then(classes, lambda z: z.softmax(1), seed), CLASSES % classes
    reach = output(model, targets, F.cross_entropy)
    reference = max(now(model, targets, F.cross_entropy), math.log(classes))
    assert reach.kind == "normalised"
    assert reach.unreachable == pytest.approx(math.log(1 + (classes - 1) / math.e) / reference, abs=0.01)


def test_a_softmax_over_one_unit_reaches_nothing() -> None:
    targets = (draw(12, 1, seed=3) > 0).float()
    model = Then(1, lambda z: z.softmax(1))
    reach = output(model, targets, F.mse_loss)  # always 1: wrong for every 0
    zeros = float((targets == 0).float().mean())
    assert reach.kind == "normalised"
    assert reach.unreachable == pytest.approx(zeros / max(zeros, zeros * (1 - zeros)), abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rectifier_under_negative_targets(seed: int) -> None:
    model, targets = Then(1, torch.relu, seed), -torch.linspace(1.0, 4.0, 12)[:, None]
    reach = output(model, targets, F.mse_loss)
    at_zero = float(targets.pow(2).mean())
    assert (reach.kind, reach.low, reach.high) == ("clipped", 0.0, None)
    reference = max(now(model, targets, F.mse_loss), float(targets.var(correction=0)))
    assert reach.unreachable == pytest.approx(at_zero / reference, abs=0.01)


def test_a_rectifier_under_targets_of_both_signs() -> None:
    model, targets = Then(1, torch.relu), torch.linspace(-3.0, 3.0, 12)[:, None]
    reach = output(model, targets, F.mse_loss)
    reference = max(now(model, targets, F.mse_loss), float(targets.var(correction=0)))
    assert reach.unreachable == pytest.approx(float(targets.clamp(max=0.0).pow(2).mean()) / reference, abs=0.01)


def log_of_probabilities(p: Tensor, targets: Tensor) -> Tensor:
    return -(F.one_hot(targets, 4) * p.log()).sum(1).mean()


BITS = (draw(12, 1, seed=3) > 0).float()
FITTING = [
    pytest.param(4, lambda z: z.log_softmax(1), CLASSES, F.nll_loss, id="log-softmax and NLL"),
    pytest.param(4, lambda z: z.softmax(1), CLASSES, log_of_probabilities, id="softmax and -log p"),
    pytest.param(4, lambda z: z.softmax(1), CLASSES, lambda p, t: F.nll_loss(p.log(), t), id="softmax, log and NLL"),
    pytest.param(1, torch.sigmoid, BITS, F.binary_cross_entropy, id="sigmoid and BCE"),
    pytest.param(1, torch.sigmoid, BITS, F.mse_loss, id="sigmoid and MSE on bits"),
    pytest.param(1, torch.sigmoid, BITS[:, 0], lambda p, t: F.mse_loss(p[:, 0], t), id="sigmoid, indexed"),
    pytest.param(1, torch.tanh, draw(12, 1).tanh() * 0.95, F.mse_loss, id="tanh and targets inside"),
    pytest.param(1, torch.relu, draw(12, 1).abs(), F.mse_loss, id="ReLU and positive targets"),
    pytest.param(1, F.softplus, draw(12, 1).abs() + 0.1, F.mse_loss, id="softplus and positive targets"),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("units", "last", "targets", "loss_fn"), FITTING)
def test_pairs_that_fit_leave_nothing_out_of_reach(
    units: int, last: Callable[[Tensor], Tensor], targets: Tensor, loss_fn: Callable[..., Tensor], seed: int
) -> None:
    reach = output(Then(units, last, seed), targets, loss_fn)
    assert (reach.unreachable or 0.0) < 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_logits_are_not_limited(seed: int) -> None:
    reach = output(Then(4, lambda z: z, seed), CLASSES, F.cross_entropy)
    assert (reach.kind, reach.low, reach.high, reach.unreachable) == ("", None, None, None)


class Inside(nn.Module):
    """Like a Hugging Face model: a dict with its loss."""

    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = Then(4, last)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, CLASSES), "logits": logits}


def test_a_loss_inside_the_model() -> None:
    assert output(Inside(lambda z: z), None, None).kind == ""
    reach = output(Inside(lambda z: z.softmax(1)), None, None)
    assert reach.kind == "normalised"
    with torch.no_grad():
        value = float(Inside(lambda z: z.softmax(1))(draw(12, 4))["loss"])
    assert reach.unreachable == pytest.approx(math.log(1 + 3 / math.e) / max(value, math.log(4)), abs=0.01)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_loss_cancels(scale: float) -> None:
    targets = torch.linspace(5.0, 25.0, 12)[:, None]
    one = output(Then(1, torch.sigmoid), targets, F.mse_loss)
    other = output(Then(1, torch.sigmoid), targets, lambda o, t: scale * F.mse_loss(o, t))
    assert other.unreachable == pytest.approx(one.unreachable, abs=1e-3)


def test_what_the_loss_wants_of_the_outputs() -> None:
    model, targets = Then(1, lambda z: z), 100.0 + 10.0 * draw(12, 1, seed=3)
    reach = output(model, targets, F.mse_loss)
    with torch.no_grad():
        outputs = model(draw(12, 4))
    assert reach.rms == pytest.approx(float(outputs.pow(2).mean().sqrt()), rel=1e-5)
    assert reach.wanted == pytest.approx(float((targets - outputs).pow(2).mean().sqrt()), rel=0.02)


# The scale of the inputs ----------------------------------------------------------------------------------------------


def sigmoid_net(seed: int, features: int = 64) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 32), nn.Sigmoid(), nn.Linear(32, 4))


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).float()


def inputs_of(model: nn.Module, inputs: Any, **more: Any) -> InputFacts | None:
    return look(Problem(model, inputs, CLASSES, F.cross_entropy, **more)).inputs


class Scores(nn.Module):
    """Rectified scores that are the inputs times a weight of one."""

    def __init__(self, last: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.ones(2)), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x * self.weight)


def shares(scores: Tensor, targets: Tensor) -> Tensor:
    """Minus the logarithm of the wanted share, no share below 1e-6."""
    wanted = (scores / scores.sum(1, keepdim=True).clamp(min=1e-9)).gather(1, targets[:, None])
    return -wanted.clamp(min=1e-6).log().mean()


def test_outputs_on_the_flat_end_hold_the_loss_where_only_shares_count() -> None:
    """The first sample wants a score of zero and keeps -log(1e-6); the others can have the whole share."""
    inputs, targets = torch.tensor([[-1.0, 2.0], [3.0, 1.0], [1.0, 1.0], [-2.0, 4.0]]), torch.tensor([0, 0, 1, 1])
    reach = look(Problem(Scores(), inputs, targets, shares)).output
    assert reach is not None and reach.end is not None
    assert reach.at_end == pytest.approx(2 / 8)
    assert reach.held == pytest.approx(-math.log(1e-6) / 4, abs=0.02)
    assert reach.constant == pytest.approx(math.log(2.0), rel=1e-3)


@pytest.mark.parametrize(
    ("last", "loss_fn"),
    [
        (F.relu, lambda out, t: F.mse_loss(out[:, 0], t.float())),  # more than shares count: the size does too
        (F.softplus, shares),  # an end that is never reached holds nothing
        (torch.exp, shares),
    ],
)
def test_elsewhere_nothing_is_held(last: Callable[[Tensor], Tensor], loss_fn: Callable[..., Tensor]) -> None:
    inputs, targets = torch.tensor([[-1.0, 2.0], [3.0, 1.0], [1.0, 1.0], [-2.0, 4.0]]), torch.tensor([0, 0, 1, 1])
    reach = look(Problem(Scores(last), inputs, targets, loss_fn)).output
    assert reach is not None
    assert reach.held is None or (reach.at_end == 0.0 and reach.held < 0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_raw_pixels_saturate_a_sigmoid_and_standardised_ones_do_not(seed: int) -> None:
    x = pixels(12, 64, seed=seed)
    scale = inputs_of(sigmoid_net(seed), x)
    assert scale is not None and scale.layer == "0"
    assert scale.largest_deviation == pytest.approx(float(x.pow(2).mean(0).sqrt().max()), rel=1e-6)
    assert scale.saturated is not None and scale.saturated > 0.8
    assert scale.saturated_standardised == 0.0
    # By hand: the share of entries whose slope is below a hundredth of the largest, 1/4.
    first: Any = sigmoid_net(seed)
    slopes = torch.sigmoid(first[0](x)).detach()
    assert scale.saturated == pytest.approx(float((slopes * (1 - slopes) < 0.0025).double().mean()), abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_step_limit_of_the_first_layer_comes_back(seed: int) -> None:
    """One linear layer after another, without biases: |J| of the first is |x| |W₂|, of the second |W₁ x|, so that their
    ratio, and with it the step limit, knows nothing of the size of x; the biases between do."""
    torch.manual_seed(seed)
    plain = nn.Sequential(nn.Linear(16, 32, bias=False), nn.Linear(32, 4, bias=False))
    scale = inputs_of(plain, 1000.0 * draw(12, 16, seed=seed))
    assert scale is not None and scale.step_limit is not None
    assert scale.step_limit == pytest.approx(scale.step_limit_standardised, abs=0.3)
    first = nn.Linear(16, 32)
    squashed = nn.Sequential(first, nn.Softsign(), nn.Linear(32, 4))
    with torch.no_grad():
        first.weight.mul_(1e-3)  # ordinary hidden values from inputs of 1000
    scale = inputs_of(squashed, 1000.0 * draw(12, 16, seed=seed))
    assert scale is not None and scale.step_limit is not None and scale.step_limit_standardised is not None
    # The median of two layers is half way, so J of the first counts once: 10³ larger J, 10³ smaller a step.
    assert scale.step_limit_standardised - scale.step_limit == pytest.approx(3.0, abs=1.0)


@pytest.mark.parametrize(
    "inputs",
    [draw(12, 64), {"input": pixels(12, 64)}, draw(12, 64).clamp(-1, 1) * 4.9],
    ids=["unit size", "a dict", "below five"],
)
def test_ordinary_inputs_are_not_asked_about(inputs: Any) -> None:
    assert inputs_of(sigmoid_net(0), inputs) is None


def test_integers_and_single_samples_are_not_asked_about() -> None:
    embed = nn.Sequential(nn.Embedding(300, 8), nn.Flatten(), nn.Linear(8 * 5, 4))
    assert inputs_of(embed, pixels(12, 5).long()) is None
    flow = look(Problem(sigmoid_net(0), pixels(1, 64), CLASSES[:1], F.cross_entropy))
    assert flow.inputs is None


def standardised(x: Tensor) -> tuple[InputFacts, Tensor]:
    """The facts, and the inputs that the second look gave to the network. Its second input is to stay as it is."""
    seen: SimpleQueue[Tensor] = SimpleQueue()  # a list would be put back

    class Seeing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = sigmoid_net(0)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            assert float(scale) == 50.0
            seen.put(x)
            return self.net(x) * scale / 50.0

    scale_facts = inputs_of(Seeing(), (x, torch.full((1,), 50.0)))
    assert scale_facts is not None
    return scale_facts, next(t for t in iter(seen.get_nowait, None) if not torch.equal(t, x))


@pytest.mark.parametrize("constant", [0.0, 0.1, 255.0])
def test_constant_features_become_zero(constant: float) -> None:
    x = pixels(12, 64)
    x[:, ::2] = constant
    seen, standard = standardised(x)
    assert seen.saturated is not None and seen.saturated > 0.5 and seen.saturated_standardised == 0.0
    torch.testing.assert_close(standard[:, ::2], torch.zeros(12, 32), atol=1e-6, rtol=0)
    torch.testing.assert_close(standard[:, 1::2].std(0), torch.ones(32))


def test_all_features_constant() -> None:
    seen, standard = standardised(torch.full((12, 64), 200.0))
    assert seen.saturated_standardised == 0.0 and not standard.any()


def test_images_are_standardised_by_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(8 * 36, 4))
    x = pixels(12, 3, 8, 8)
    x[:, 1] *= 0.001
    scale = inputs_of(model, x)
    assert scale is not None and scale.layer == "0"
    assert scale.largest_deviation == pytest.approx(float(x.pow(2).mean((0, 2, 3)).sqrt().max()), rel=1e-6)
    assert scale.saturated is not None and scale.saturated > 0.5 and scale.saturated_standardised == 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_loss_with_standardised_inputs_is_that_of_the_same_network(seed: int) -> None:
    model, x = sigmoid_net(seed), pixels(12, 64, seed=seed) * torch.logspace(-3, 4, 64)
    scale = inputs_of(model, x)
    standard = ((x.double() - x.double().mean(0)) / x.double().std(0)).float()
    by_hand = float(F.cross_entropy(model(standard), CLASSES).detach())
    assert scale is not None and scale.loss_standardised == pytest.approx(by_hand, rel=1e-6)


def test_what_the_network_sees_is_standardised() -> None:
    _, standard = standardised(pixels(12, 64))
    torch.testing.assert_close(standard.mean(0), torch.zeros(64), atol=1e-6, rtol=0)
    torch.testing.assert_close(standard.std(0), torch.ones(64))


def test_nothing_is_touched(same_before_and_after: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(16, 4))
    x = pixels(12, 64)
    kept = x.clone()
    with same_before_and_after(model):
        assert inputs_of(model, x) is not None
    assert torch.equal(x, kept)


def raw_columns(seed: int, sizes: list[float], norm: bool = False, loss: Any = F.mse_loss) -> Problem:
    """A network of ReLU on columns of these sizes; the targets depend on all of them alike."""
    torch.manual_seed(seed)
    x = torch.randn(96, len(sizes))
    first = [nn.Linear(len(sizes), 32), *([nn.BatchNorm1d(32)] if norm else []), nn.ReLU()]
    model = nn.Sequential(*first, nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    targets = torch.tanh(x.sum(1, keepdim=True)) if loss is F.mse_loss else (x.sum(1, keepdim=True) > 0).float()
    return Problem(model, x * torch.tensor(sizes), targets, loss, torch.optim.Adam(model.parameters(), 1e-3))


@pytest.mark.parametrize("sizes", [[1e4] * 5, [1e4, 1.0, 1.0, 1.0, 1.0], [1.0, 1e3, 1e4, 0.1, 30.0]])
@pytest.mark.parametrize("loss", [F.mse_loss, F.binary_cross_entropy_with_logits])
@pytest.mark.parametrize("seed", range(3))
def test_raw_columns_of_a_large_size_are_said(seed: int, loss: Any, sizes: list[float]) -> None:
    problem = raw_columns(seed, sizes, loss=loss)
    report = diagnose(problem)
    assert report.loss is not None and report.loss.best_constant is not None
    times = report.loss.value / report.loss.best_constant
    levels = [f.level for f in report.findings if f.code == "UV707"]
    assert levels == (["error"] if times > 1e4 else ["note"] if times > 100.0 else [])
    x, inputs = problem.inputs, report.flow.inputs
    assert inputs is not None and inputs.loss_standardised is not None
    with torch.no_grad():
        expected = problem.loss(problem.model((x - x.mean(0)) / x.std(0)))  # type: ignore[operator]
    assert inputs.loss_standardised == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("sizes", "norm"), [([1.0] * 5, False), ([15.0] * 5, False), ([1e4] * 5, True)])
@pytest.mark.parametrize("seed", range(3))
def test_columns_that_do_no_harm_are_not(seed: int, sizes: list[float], norm: bool) -> None:
    assert not [f for f in diagnose(raw_columns(seed, sizes, norm)).findings if f.code == "UV707"]


class Angles(nn.Module):
    """The angle between two embeddings, of a cosine that is kept from its ends, where an angle has no slope."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))

    def forward(self, pairs: Tensor) -> Tensor:
        cosine = F.cosine_similarity(self.layers(pairs[:, 0]), self.layers(pairs[:, 1]), dim=1)
        return torch.acos(cosine.clamp(-1 + 1e-4, 1 - 1e-4))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("most", "expected"), [(1.0, False), (6.0, True)])
def test_angles_that_can_be_had_and_angles_beyond_them(most: float, expected: bool, seed: int) -> None:
    """A search through the clamp may end where it is flat; every angle of 0.014 to 3.127 has a cosine."""
    pairs, targets = draw(64, 2, 8, seed=seed), most * torch.rand(64, generator=torch.Generator().manual_seed(seed))
    pairs[:6, 1] = pairs[:6, 0]
    model = Angles(seed)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.mse_loss(model(pairs), targets).backward()
        optimizer.step()
    report = diagnose(Problem(model, pairs, targets, F.mse_loss, optimizer))
    assert ("UV701" in [f.code for f in report.findings]) == expected
    if expected:
        clamped = float((targets - targets.clamp(0.014142, 3.127450)).square().mean())
        loss = report.loss
        assert loss is not None and loss.reference is not None and report.output is not None
        assert report.output.unreachable == pytest.approx(clamped / loss.reference, rel=0.02)

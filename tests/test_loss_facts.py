"""What the loss alone says, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem, diagnose
from unvanish.decide import decide
from unvanish.evidence.last import last_call
from unvanish.evidence.loss import first_and_second, loss_facts
from unvanish.evidence.output_loss import OutputLoss, loss_of_outputs
from unvanish.pipeline import look
from unvanish.records import LossFacts
from unvanish.trace.capture import record


class Given(nn.Module):
    """A model whose outputs are its parameter."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs * 1.0


def facts(outputs: Tensor, targets: Any, loss_fn: Callable[..., Any], seed: int = 0) -> LossFacts:
    model = Given(outputs)
    problem = Problem(model, outputs.detach(), targets, loss_fn)
    capture = record(problem, model)
    output_loss = loss_of_outputs(problem, capture)
    return loss_facts(
        output_loss, None if isinstance(output_loss, str) else last_call(capture, output_loss), capture.loss, seed
    )


def outputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


CLASSES = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
ENTROPY = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
NUMBERS = outputs(12, 1) * 3.0 + 5.0
BITS = torch.tensor([1.0, 1.0, 1.0, 0.0]).reshape(4, 1)
BINARY = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)

CLOSED = [
    pytest.param(outputs(10, 3), CLASSES, F.cross_entropy, ENTROPY, id="cross-entropy: entropy of the classes"),
    pytest.param(outputs(12, 1), NUMBERS, F.mse_loss, float(NUMBERS.var(correction=0)), id="MSE: variance"),
    pytest.param(outputs(4, 1), BITS, F.binary_cross_entropy_with_logits, BINARY, id="BCE: binary entropy"),
    pytest.param(
        outputs(10, 3),
        CLASSES,
        lambda o, t: F.nll_loss(F.log_softmax(o, 1), t),
        ENTROPY,
        id="negative log-likelihood",
    ),
]


@pytest.mark.parametrize(("now", "targets", "loss_fn", "constant"), CLOSED)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_best_outputs_have_the_loss_of_the_closed_form(
    now: Tensor, targets: Tensor, loss_fn: Callable[..., Tensor], constant: float, scale: float
) -> None:
    measured = facts(now, targets, lambda o, t: loss_fn(o, t) * scale)
    value = loss_fn(now, targets).item()
    assert measured.value == pytest.approx(value * scale, rel=1e-5)
    assert measured.best_constant == pytest.approx(constant * scale, rel=1e-3)
    assert measured.best_free == pytest.approx(0.0, abs=1e-3 * value * scale)
    assert measured.reference == pytest.approx(max(value, constant) * scale, rel=2e-3)
    assert measured.relative_gap == pytest.approx(value / max(value, constant), rel=2e-3)
    assert measured.reacts is True and measured.why == ""
    assert measured.at_constant is (value >= 0.98 * constant)


@pytest.mark.parametrize(("now", "targets", "loss_fn", "constant"), CLOSED)
def test_the_scale_of_the_loss_does_not_move_the_gap(
    now: Tensor, targets: Tensor, loss_fn: Callable[..., Tensor], constant: float
) -> None:
    gaps = [facts(now, targets, lambda o, t, s=s: loss_fn(o, t) * s).relative_gap for s in (1.0, 1e-6, 1e-3, 1e3, 1e6)]
    assert gaps[1:] == pytest.approx([gaps[0]] * 4, rel=1e-3)


def test_the_residual_is_the_gradient_for_the_outputs() -> None:
    now = outputs(10, 3)
    measured = facts(now, CLASSES, F.cross_entropy)
    residual = (now.softmax(1) - F.one_hot(CLASSES, 3)) / 10
    assert measured.residual_norm == pytest.approx(float(residual.norm()), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_curvature_of_mse_is_two_over_the_number_of_entries(seed: int) -> None:
    measured = facts(outputs(12, 2), outputs(12, 2) + 1.0, F.mse_loss, seed)
    assert measured.curvature == pytest.approx(2 / 24, rel=1e-5)


def test_the_curvature_of_cross_entropy_is_that_of_the_softmax() -> None:
    now = outputs(10, 3)
    p = now.double().softmax(1)
    hessian = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) / 10  # one block a sample
    for seed in range(4):
        v = torch.randn(10, 3, generator=torch.Generator().manual_seed(seed)).double()
        exact = torch.einsum("bi,bij,bj->", v, hessian, v) / v.pow(2).sum()
        assert facts(now, CLASSES, F.cross_entropy, seed).curvature == pytest.approx(float(exact), rel=1e-4)
    drawn = [facts(now, CLASSES, F.cross_entropy, seed).curvature or 0.0 for seed in range(200)]
    trace = float(sum(block.trace() for block in hessian)) / 30
    assert sum(drawn) / 200 == pytest.approx(trace, rel=0.05)


def test_a_loss_without_a_second_derivative_has_no_curvature() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            ctx.save_for_backward(z)
            return z.pow(2).mean()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (z,) = ctx.saved_tensors
            return g * 2 * z / z.numel()

    now = outputs(6, 2)
    measured = facts(now, None, lambda o, _: Once.apply(o))
    assert measured.curvature is None
    assert measured.residual_norm == pytest.approx(float(now.norm()) * 2 / 12, rel=1e-5)
    assert measured.best_free == pytest.approx(0.0, abs=1e-4)


def test_a_slope_that_is_the_same_everywhere_has_no_curvature() -> None:
    measured = facts(outputs(6, 2), None, lambda o, _: o.mean())
    assert measured.curvature is None and measured.residual_norm == pytest.approx(12**-0.5, rel=1e-5)


def test_of_several_outputs_those_that_bend_the_loss_give_its_curvature() -> None:
    """The first output enters as a square, the second as it is: h = 2 |v1|² over |v1|² + |v2|²."""
    loss = OutputLoss(lambda z: z[0].square().sum() + z[1].sum(), [outputs(6, 2), outputs(6, 3)])
    first, second = (float(v.square().sum()) for v in loss.drawn(0))
    assert first_and_second(loss, 0)[1] == pytest.approx(2.0 * first / (first + second), rel=1e-5)


@pytest.mark.parametrize("known", [False, True])
def test_the_best_outputs_are_let_go_of_where_nothing_asks_for_them_again(known: bool) -> None:
    now = outputs(10, 3)
    loss = OutputLoss(lambda z: F.cross_entropy(z[0], CLASSES), [now])
    before, draw = loss.known, loss.drawn(0)[0]
    assert before is not None
    loss.forget(known)
    assert ("known" in vars(loss)) is not known and loss.drawn(0)[0] is not draw
    assert loss.known is not None and torch.equal(loss.known.near, before.near)


@pytest.mark.parametrize("shift", [-1.0, 0.5, 1.0])
def test_an_unbounded_loss_has_no_scale(shift: float) -> None:
    measured = facts(outputs(8, 3), None, lambda o, _: o.mean() + shift)
    assert measured.relative_gap is None and measured.reference is None and measured.best_free is None
    assert "no lower bound" in measured.why
    assert measured.reacts is True


def test_layers_under_an_unbounded_loss_are_healthy_and_never_converged() -> None:
    torch.manual_seed(0)
    flow = decide(look(Problem(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), outputs(8, 3), None, mean)))
    assert [layer.verdict for layer in flow.layers] == ["healthy", "healthy"]


def mean(outputs: Tensor, _: None) -> Tensor:
    return outputs.mean()


def test_a_clamped_loss_does_not_react_and_has_no_scale() -> None:
    measured = facts(outputs(10, 3), CLASSES, lambda o, t: F.cross_entropy(o, t).clamp(max=0.01))
    assert measured.reacts is False and measured.residual_norm == 0.0
    assert measured.relative_gap is None and "the same for every output" in measured.why


def test_the_minimum_itself_has_no_gap() -> None:
    targets = outputs(8, 2)
    measured = facts(targets, targets, F.mse_loss)
    assert measured.value == 0.0 and measured.relative_gap == 0.0 and measured.reacts is True


def test_almost_there_is_a_small_gap() -> None:
    targets = outputs(8, 2)
    measured = facts(targets * 1.01, targets, F.mse_loss)
    expected = 1e-4 * float(targets.pow(2).mean() / targets.var(0, correction=0).mean())
    assert measured.relative_gap == pytest.approx(expected, rel=0.05)


def test_one_sample_has_the_present_loss_as_its_only_reference() -> None:
    measured = facts(outputs(1, 3), CLASSES[:1], F.cross_entropy)
    assert measured.best_constant is None and "one sample" in measured.why
    assert measured.relative_gap == pytest.approx(1.0, abs=1e-3)


def test_a_loss_that_refuses_free_outputs_is_a_reason() -> None:
    def picky(o: Tensor, t: Tensor) -> Tensor:
        if type(o.grad_fn).__name__ != "MulBackward0":
            raise TypeError("outputs of the model alone")
        return F.cross_entropy(o, t)

    measured = facts(outputs(10, 3), CLASSES, picky)
    assert measured.relative_gap is None
    assert measured.why == "loss_fn raised TypeError on free outputs: outputs of the model alone"
    assert measured.value == pytest.approx(F.cross_entropy(outputs(10, 3), CLASSES).item(), rel=1e-5)


def test_an_outer_interrupt_is_not_taken_for_a_reason() -> None:
    calls = 0

    def loss_fn(o: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return F.cross_entropy(o, t)

    with pytest.raises(KeyboardInterrupt):
        facts(outputs(10, 3), CLASSES, loss_fn)


class OwnLoss(nn.Module):
    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.loss = nn.Linear(3, 3), loss

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.layer(x)
        return {"loss": self.loss(logits), "logits": logits}


def inside(loss: Callable[[Tensor], Tensor]) -> LossFacts:
    measured = look(Problem(OwnLoss(loss), outputs(10, 3))).loss
    assert measured is not None
    return measured


def test_a_recognised_loss_inside_the_model_is_replayed() -> None:
    measured = inside(lambda logits: F.cross_entropy(logits, CLASSES))
    assert measured.best_constant == pytest.approx(ENTROPY, rel=1e-3)
    assert measured.best_free == pytest.approx(0.0, abs=1e-3)
    assert measured.relative_gap is not None and measured.why == ""


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda o: F.cross_entropy(o, CLASSES) + 0.1 * o.pow(2).mean(), "more than its recognised loss call"),
        (lambda o: -o.log_softmax(1)[torch.arange(10), CLASSES].mean(), "no loss function that is recognised"),
    ],
)
def test_another_loss_inside_the_model_is_a_reason(loss: Callable[[Tensor], Tensor], why: str) -> None:
    measured = inside(loss)
    assert measured.relative_gap is None and measured.best_free is None and why in measured.why


def test_a_reason_becomes_an_open_question() -> None:
    flow = decide(look(Problem(OwnLoss(lambda o: o.pow(2).mean()), outputs(10, 3))))
    assert ("converged or not", "the loss is computed inside the model by no loss function that is recognised") in (
        flow.undecided
    )


def test_several_outputs_are_free_together() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            h = self.layer(x)
            return h[:, :3], {"value": h[:, 3]}

    numbers = outputs(10)

    def loss_fn(out: Any, targets: Any) -> Tensor:
        return F.cross_entropy(out[0], targets[0]) + F.mse_loss(out[1]["value"], targets[1])

    measured = look(Problem(Two(), outputs(10, 3), (CLASSES, numbers), loss_fn)).loss
    assert measured is not None
    assert measured.best_constant == pytest.approx(ENTROPY + float(numbers.var(correction=0)), rel=1e-3)
    assert measured.best_free == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_have_nearly_the_same_gap(dtype: torch.dtype) -> None:
    wide = facts(outputs(10, 3), CLASSES, F.cross_entropy)
    measured = facts(outputs(10, 3).to(dtype), CLASSES, F.cross_entropy)
    assert measured.best_constant == pytest.approx(wide.best_constant, rel=0.02)
    assert measured.relative_gap == pytest.approx(wide.relative_gap, rel=0.02)


@pytest.mark.parametrize("gap", [10.0, 20.0, 30.0, 60.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_cross_entropy_that_has_rounded_to_zero_is_learned(seed: int, gap: float) -> None:
    """From logits 17 apart on it is 0 in float32, from 88 on so is its derivative: neither flat nor an underflow."""
    generator = torch.Generator().manual_seed(seed)
    x, classes = torch.randn(8, 8, generator=generator), torch.arange(8) % 3
    model = nn.Linear(8, 3)
    with torch.no_grad():  # the weights that give each sample these logits
        model.weight.copy_(torch.linalg.solve(x, gap * F.one_hot(classes, 3).float()).T)
        model.bias.zero_()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    report = diagnose(Problem(model, x, classes, F.cross_entropy, optimizer, steps=100))
    assert [f.code for f in report.findings] == ["UV401"]
    assert float(F.cross_entropy(model(x), classes).detach()) == 0.0 or gap < 17.0


@pytest.mark.parametrize("gap", [20.0, 60.0, 200.0])
@pytest.mark.parametrize("seed", range(2))
def test_log_probabilities_whose_loss_is_exactly_zero_are_learned(seed: int, gap: float) -> None:
    """Free outputs lower the loss without end, and its slope by them is 1/n: but it is the logits that are free."""
    generator = torch.Generator().manual_seed(seed)
    x, classes = torch.randn(8, 8, generator=generator), torch.arange(8) % 3
    layer = nn.Linear(8, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.solve(x, gap * F.one_hot(classes, 3).float()).T)
        layer.bias.zero_()
    model = nn.Sequential(layer, nn.LogSoftmax(1))
    assert float(F.nll_loss(model(x), classes).detach()) == 0.0
    report = diagnose(model, x, classes, F.nll_loss)
    assert [f.code for f in report.findings] == ["UV401"]
    shares = torch.bincount(classes) / 8
    loss = facts(model(x).detach(), classes, F.nll_loss)  # without the call before it nothing tells what is free
    assert loss.relative_gap is None
    assert report.loss is not None and report.loss.best_constant == pytest.approx(-float((shares * shares.log()).sum()))


@pytest.mark.parametrize("seed", range(2))
def test_a_loss_that_is_exactly_zero_on_its_way_below_is_not_learned(seed: int) -> None:
    """The mean of a tanh that begins at 0 and is to be small: -1 is within reach."""
    torch.manual_seed(seed)
    last = nn.Linear(8, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), last, nn.Tanh())
    report = diagnose(model, torch.randn(16, 4), loss_fn=lambda outputs, _: outputs.mean())
    assert report.loss is not None and report.loss.value == 0.0 and report.loss.relative_gap != 0.0
    assert report.verdict != "converged" and "UV401" not in [f.code for f in report.findings]


@pytest.mark.parametrize("seed", range(2))
def test_what_one_constant_output_would_win_is_told_as_that(seed: int) -> None:
    """Of a hinge on labels of 0 and 1 an output of 1 for all wins most: the labels of 0 ask for nothing."""
    torch.manual_seed(seed)
    model, inputs = nn.Linear(4, 1), torch.randn(64, 4)
    labels = (torch.arange(64) % 4 == 0).float()[:, None]

    def hinge(outputs: Tensor, targets: Tensor) -> Tensor:
        return (1.0 - targets * outputs).relu().mean()

    told = " ".join(str(diagnose(model, inputs, labels, hinge)).split())
    assert "all of its reduction one constant output would win, to 0.75)" in told and "100% of" not in told
    meant = " ".join(str(diagnose(model, inputs, 2.0 * labels - 1.0, hinge)).split())
    assert "100% of the achievable reduction remains" in meant

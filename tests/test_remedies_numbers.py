"""The numbers behind the remedies, against identities, quadrature and values worked by hand."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.remedies import Draft, Recipe, Refused, get
from unvanish.remedies.output import kind_of, task_of
from unvanish.remedies.transform import NODES

HAS_DKS = all(importlib.util.find_spec(name) for name in ("dks", "absl", "autograd", "scipy"))


def deep(depth: int, width: int = 16, activation: type[nn.Module] = nn.Sigmoid) -> nn.Sequential:
    layers = [module for _ in range(depth) for module in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def classes(model: nn.Module, count: int = 64, **more: Any) -> Draft:
    with seeded(11):
        inputs, targets = torch.randn(count, 16), torch.randint(3, (count,))
    return Draft.of(Problem(model, inputs, targets, F.cross_entropy), model, None, **more)


def regression(model: nn.Module, inputs: Tensor, targets: Tensor, loss_fn: Any = F.mse_loss) -> Draft:
    return Draft.of(Problem(model, inputs, targets, loss_fn), model, None)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("depth", [2, 30])
def test_centred_sigmoids_start_as_four_times_sigmoid_minus_a_half(depth: int, seed: int) -> None:
    draft = classes(deep(depth).double(), seed=seed)
    draft.inputs = x = draft.inputs.double()
    get("centred-init").apply(draft)
    for path in range(0, 2 * depth + 1, 2):
        layer: Any = draft.model.get_submodule(str(path))
        q = layer.weight / (4.0 if path else 1.0)
        smaller = q if q.shape[0] <= q.shape[1] else q.T
        assert torch.allclose(smaller @ smaller.T, torch.eye(len(smaller), dtype=q.dtype), atol=1e-6)
        x = x @ q.T
        x = 4.0 * (torch.sigmoid(x) - 0.5) if path < 2 * depth else x
    assert torch.allclose(draft.model(draft.inputs), x, atol=1e-12 if depth == 2 else 1e-9)


def gauss(function: Any, q: float) -> float:
    """E f(√q z), z standard normal."""
    z = torch.linspace(-12.0, 12.0, 24001, dtype=torch.float64)
    weights = torch.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    return float(torch.trapezoid(weights * function(math.sqrt(q) * z), z))


@pytest.mark.parametrize(
    ("slug", "variance"),
    [("he-init", 2 / 400), ("lecun-init", 1 / 400), ("xavier-init", 2 / 500), ("critical-init", 2 / 400)],
)
def test_weights_have_the_variance_that_is_promised(slug: str, variance: float) -> None:
    model = nn.Sequential(nn.Linear(400, 100), nn.ReLU(), nn.Linear(100, 400), nn.ReLU(), nn.Linear(400, 3))
    draft = Draft.of(Problem(model, torch.randn(4, 400), torch.zeros(4).long(), F.cross_entropy), model, None)
    get(slug).apply(draft)
    assert float(draft.model.get_parameter("0.weight").detach().var()) == pytest.approx(variance, rel=0.03)
    assert float(draft.model.get_parameter("4.weight").detach().var()) == pytest.approx(1 / 400, rel=0.15)
    assert not draft.model.get_parameter("0.bias").any()


@pytest.mark.parametrize("seed", range(2))
def test_lsuv_gives_every_layer_outputs_of_deviation_one(seed: int) -> None:
    draft = classes(deep(6, activation=nn.ReLU), seed=seed)
    get("lsuv-init").apply(draft)
    x = draft.inputs
    for layer in draft.model.children():
        x = layer(x)
        if isinstance(layer, nn.Linear):
            assert float(x.detach().std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("depth", [4, 9])
def test_residual_branches_are_scaled_by_the_root_of_their_number(depth: int) -> None:
    model = deep(depth)
    draft = classes(model)
    get("residual").apply(draft)
    x = draft.inputs
    for i in range(depth):
        x = x + torch.sigmoid(model[2 * i](x)) / math.sqrt(depth)
    assert torch.allclose(draft.model(draft.inputs), model[-1](x), atol=1e-5)


def test_inputs_are_standardised_by_feature_and_images_by_channel() -> None:
    rows = torch.tensor([[1.0, 10.0, 7.0], [3.0, 30.0, 7.0], [5.0, 50.0, 7.0]])
    draft = regression(nn.Linear(3, 1), rows, torch.tensor([[1.0], [2.0], [4.0]]))
    get("standardise-inputs").apply(draft)
    step = math.sqrt(1.5)  # (5 − 3) / √(8/3)
    expected = torch.tensor([[-step, -step, 0.0], [0.0, 0.0, 0.0], [step, step, 0.0]])
    assert torch.allclose(draft.model.get_submodule("0")(rows), expected)
    images = torch.randn(8, 3, 4, 4) * torch.tensor([1.0, 10.0, 100.0])[:, None, None] + 5.0
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 1))
    draft = regression(model, images, torch.randn(8, 1))
    get("standardise-inputs").apply(draft)
    scaled = draft.model.get_submodule("0")(images)
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(scaled.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_scaled_targets_train_as_standardised_ones_and_answer_in_their_own_units() -> None:
    with seeded(4):
        model, inputs = nn.Linear(3, 1), torch.randn(32, 3)
        targets = 5000.0 + 1000.0 * inputs.sum(1, keepdim=True)
    draft = regression(model, inputs, targets)
    get("scale-targets").apply(draft)
    mean, deviation = targets.mean(), targets.std(correction=0)
    assert draft.loss_fn is not None
    draft.loss_fn(draft.model(inputs), targets).backward()
    F.mse_loss(model(inputs), (targets - mean) / deviation).backward()
    gradient = draft.model.get_parameter("0.weight").grad
    assert torch.allclose(gradient, model.weight.grad, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
    assert torch.allclose(draft.model(inputs), deviation * model(inputs) + mean, rtol=1e-4)


def test_a_bounded_output_gets_targets_within_its_middle() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    targets = torch.tensor([[10.0], [20.0], [50.0]])
    draft = regression(model, torch.randn(3, 2), targets)
    get("scale-targets").apply(draft)
    rescale: Any = draft.model.get_submodule("1")
    assert torch.allclose(rescale(torch.tensor([0.1, 0.9])), torch.tensor([10.0, 50.0]))


EPS = 1e-7


def keras_bce(p: Tensor, y: Tensor) -> Tensor:
    p = p.clamp(EPS, 1 - EPS)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


def keras_cce(p: Tensor, y: Tensor) -> Tensor:
    p = p / p.sum(1, keepdim=True)
    return -(y * p.clamp(EPS, 1 - EPS).log()).sum(1).mean()


def summed(p: Tensor, y: Tensor) -> Tensor:
    return -(y * p.log()).sum()


LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
ONE_HOT = F.one_hot(LABELS, 3).float()
BITS = torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0], [0.0]])


@pytest.mark.parametrize(
    ("loss_fn", "targets", "kind"),
    [
        (F.cross_entropy, LABELS, "logits"),
        (nn.CrossEntropyLoss(), ONE_HOT, "logits"),
        (lambda z, y: F.cross_entropy(z, y.argmax(1), reduction="sum"), ONE_HOT, "logits"),
        (F.nll_loss, LABELS, "log-probabilities"),
        (lambda p, y: F.nll_loss(p.log(), y), LABELS, "probabilities"),
        (keras_cce, ONE_HOT, "probabilities"),
        (summed, ONE_HOT, "probabilities"),
        (keras_bce, BITS, "probabilities"),
        (nn.BCELoss(), BITS, "probabilities"),
        (nn.BCEWithLogitsLoss(), BITS, "logits"),
        (F.mse_loss, ONE_HOT, "distance"),
        (F.l1_loss, BITS, "distance"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), LABELS, "logits"),
        (lambda z, y: (z * y).mean(), BITS, "unknown"),
        (F.soft_margin_loss, 2.0 * BITS - 1.0, "unknown"),
        (lambda z, y: ((z - y).square() - 0.2).abs().mean(), BITS, "unknown"),  # even, and not nothing at the targets
    ],
)
def test_what_a_loss_takes_is_found_by_trying(loss_fn: Any, targets: Tensor, kind: str) -> None:
    width = 3 if targets is LABELS or targets is ONE_HOT else 1
    assert kind_of(loss_fn, torch.zeros(6, width), targets) == kind


@pytest.mark.parametrize(
    ("shape", "targets", "task"),
    [
        ((6, 3), LABELS, "multi"),
        ((6, 3), ONE_HOT, "multi"),
        ((6, 1), BITS, "binary"),
        ((6, 2), torch.tensor([[1.0, 1.0]] * 6), "binary"),
        ((6, 1), BITS * 3.0, "real"),
        ((6, 1), torch.tensor([[3], [1], [0], [7], [2], [2]]), "real"),
        ((6, 1), BITS.long(), "binary"),
    ],
)
def test_the_task_is_read_off_the_targets(shape: tuple[int, ...], targets: Tensor, task: str) -> None:
    assert task_of(torch.zeros(shape), targets) == task


ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("last", "loss_fn", "targets", "expected", "restored"),
    [
        ([nn.Softmax(1)], F.cross_entropy, LABELS, F.cross_entropy, lambda z: z.softmax(1)),
        ([nn.Softmax(1)], keras_cce, ONE_HOT, F.cross_entropy, lambda z: z.softmax(1)),
        ([nn.Softmax(1)], F.mse_loss, ONE_HOT, F.cross_entropy, lambda z: z.softmax(1)),
        ([], F.nll_loss, LABELS, F.cross_entropy, None),
        ([], keras_cce, ONE_HOT, F.cross_entropy, lambda z: z.softmax(1)),
        ([nn.Sigmoid()], F.binary_cross_entropy_with_logits, BITS, F.binary_cross_entropy_with_logits, torch.sigmoid),
        ([nn.Softmax(1)], F.mse_loss, BITS, F.binary_cross_entropy_with_logits, torch.sigmoid),
        ([nn.Softmax(1)], nn.BCELoss(), BITS, F.binary_cross_entropy_with_logits, torch.sigmoid),
        ([nn.Sigmoid()], F.binary_cross_entropy, BITS, F.binary_cross_entropy_with_logits, torch.sigmoid),
        ([nn.ReLU()], keras_bce, BITS, F.binary_cross_entropy_with_logits, torch.sigmoid),
        ([nn.Sigmoid()], F.mse_loss, BITS * 30.0, F.mse_loss, None),
    ],
)
def test_the_last_layer_and_the_loss_are_made_to_fit(
    last: list[nn.Module], loss_fn: Any, targets: Tensor, expected: Any, restored: Any
) -> None:
    body = nn.Linear(4, 1 if targets.ndim == 2 and targets.shape[1] == 1 else 3)
    draft = regression(nn.Sequential(body, *last), ROWS, targets, loss_fn)
    get("output-layer").apply(draft)
    outputs = draft.model(ROWS)
    assert torch.equal(outputs, body(ROWS))
    assert draft.loss_fn is not None
    assert torch.allclose(draft.loss_fn(outputs, targets), expected(outputs, targets))
    if restored is None:
        assert draft.restore_outputs is None
    else:
        assert draft.restore_outputs is not None
        assert torch.equal(draft.restore_outputs(outputs), restored(outputs))


def test_a_loss_that_is_not_understood_is_not_replaced() -> None:
    focal = lambda z, y: ((1 - z.softmax(1)) ** 2 * -z.log_softmax(1) * F.one_hot(y, 3)).sum(1).mean()  # noqa: E731
    with pytest.raises(Refused, match="by hand"):
        get("output-layer").apply(regression(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), ROWS, LABELS, focal))


@pytest.mark.parametrize("loss_fn", [F.cross_entropy, nn.CrossEntropyLoss()])
def test_outputs_that_fit_are_left_alone(loss_fn: Any) -> None:
    with pytest.raises(Refused, match="takes them as they are"):
        get("output-layer").apply(regression(nn.Linear(4, 3), ROWS, LABELS, loss_fn))


def test_clipping_limits_a_step_to_one_percent_of_the_weights() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    draft = regression(model, torch.randn(4, 2), torch.randn(4, 1))
    draft.recipe = Recipe(torch.optim.SGD, {"lr": 0.5})
    get("clip-gradients").apply(draft)
    assert draft.recipe.clip == pytest.approx(0.1)  # 0.01 · 5 / 0.5


def test_warm_up_rises_in_equal_steps() -> None:
    draft = classes(deep(1))
    draft.steps = 200
    get("warmup").apply(draft)
    assert draft.recipe.warmup == 20
    assert [draft.recipe.rate(step) for step in (0, 9, 19, 500)] == [0.05, 0.5, 1.0, 1.0]


@pytest.mark.skipif(not HAS_DKS, reason="the package dks, or one it needs, is not installed")
@pytest.mark.parametrize(("method", "depth"), [("TAT", 12), ("DKS", 12)])
def test_transformed_sigmoids_meet_their_conditions(method: str, depth: int) -> None:
    """Q(1) = 1, C(0) or C″(1) and C′(1) as the papers ask, by trapezes in torch."""
    draft = classes(deep(depth), seed=0)
    get(method.lower()).apply(draft)
    phi: Any = draft.model.get_submodule("1")

    def derivative(z: Tensor, order: int) -> Tensor:
        z = z.requires_grad_()
        y = phi(z)
        for _ in range(order):
            y = torch.autograd.grad(y.sum(), z, create_graph=True)[0]
        return y.detach()

    assert gauss(lambda z: derivative(z, 0) ** 2, 1.0) == pytest.approx(1.0, abs=1e-6)
    slope = gauss(lambda z: derivative(z, 1) ** 2, 1.0)
    if method == "TAT":
        assert slope == pytest.approx(1.0, abs=1e-6)
        assert gauss(lambda z: derivative(z, 2) ** 2, 1.0) == pytest.approx(0.3 / depth, rel=1e-4)
    else:
        assert slope**depth == pytest.approx(1.5, rel=1e-4)
        assert gauss(lambda z: derivative(z, 0), 1.0) == pytest.approx(0.0, abs=1e-6)
    assert NODES >= 100

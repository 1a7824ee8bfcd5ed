"""Small programs as they are asked about in forums, each beside a twin without the fault, and what is to be said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import unvanish
from unvanish.preserve import seeded

SEEDS = range(3)
Loss = Callable[[Any, Any], Tensor]


def classifier(seed: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    with seeded(seed):
        x = torch.randn(128, 10)
        y = (torch.tanh(x @ torch.randn(10, 8)) @ torch.randn(8, 4)).argmax(1)
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4)), x, y


def train(model: nn.Module, x: Any, y: Any, loss_fn: Loss, optimizer: Any, steps: int, schedule: Any = None) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return float(loss_fn(model(x), y).detach())


def levels(report: Any) -> dict[str, str]:
    return {finding.code: finding.level for finding in report.findings}


def message(report: Any, code: str) -> str:
    return next(finding.message for finding in report.findings if finding.code == code)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("wrong", [True, False])
def test_kl_div_takes_log_probabilities(seed: int, wrong: bool) -> None:
    model, x, y = classifier(seed)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.kl_div(outputs.softmax(1) if wrong else outputs.log_softmax(1), targets, reduction="batchmean")

    soft = F.one_hot(y, 4) * 0.9 + 0.025
    report = unvanish.diagnose(model, x, soft, loss, optimizer=torch.optim.Adam(model.parameters(), 3e-3))
    assert (levels(report).get("UV706") == "error") == wrong
    if wrong:
        assert message(report, "UV706").startswith("kl_div takes log-probabilities and is given something else")
        p = model(x).detach().softmax(1)
        (finding,) = (each for each in report.findings if each.code == "UV706")
        assert finding.evidence[0].value == pytest.approx(float(p.logsumexp(1).abs().mean()), rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("positives", [0.0, 1.0])
def test_a_loss_of_which_a_constant_wins_all_is_no_rate_too_small_when_training_is_over(
    seed: int, positives: float
) -> None:
    with seeded(seed):
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
        x = torch.randn(512, 10)
        score = x @ torch.randn(10)
    y = (score > score.quantile(0.98)).float()[:, None]
    weight = torch.tensor(positives)  # 0: only negatives count, and one large negative bias serves them all

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weight)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = float(loss(model(x), y).detach())
    last = train(model, x, y, loss, optimizer, 400)
    report = unvanish.diagnose(model, x, y, loss, optimizer=optimizer, steps=400)
    assert last < 0.05 * first
    assert "error" not in levels(report).values()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("steps", [250, 500])
def test_outputs_on_their_way_to_large_targets_are_not_out_of_proportion(seed: int, steps: int) -> None:
    with seeded(seed):
        x = torch.randn(256, 8)
        y = (x @ torch.randn(8, 1)).tanh() * 5000 + 20_000
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    train(model, x, y, F.mse_loss, optimizer, steps)
    assert float(model(x).detach().pow(2).mean().sqrt()) < 10_000  # still smaller than what is wanted of them
    report = unvanish.diagnose(model, x, y, F.mse_loss, optimizer=optimizer, steps=1000)
    assert "UV202" not in levels(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_far_larger_than_their_targets_are(seed: int) -> None:
    with seeded(seed):
        x = torch.randn(64, 64)
        model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(6)))
    for weight in model.parameters():
        nn.init.normal_(weight)
    report = unvanish.diagnose(model, x, torch.randn(64, 64), F.mse_loss)
    assert levels(report)["UV202"] == "error"


@pytest.mark.parametrize("seed", SEEDS)
def test_an_optimizer_made_before_the_head_was_replaced(seed: int) -> None:
    model, x, y = classifier(seed)
    early = torch.optim.Adam(model.parameters(), 3e-3)
    model[2] = nn.Linear(32, 4)
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=early)
    assert levels(report)["UV605"] == "error" and "before they were replaced" in message(report, "UV605")
    model[0].requires_grad_(False)
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=early)
    assert levels(report)["UV605"] == "error" and "no step changes the loss" in message(report, "UV605")
    before = float(F.cross_entropy(model(x), y).detach())
    assert train(model, x, y, F.cross_entropy, early, 20) == before
    late = torch.optim.Adam(model.parameters(), 3e-3)
    assert "UV605" not in levels(unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=late))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (lambda step: step // 1000, "error"),  # 0 in all of the 300 steps
        (lambda step: 0.7**step, "error"),  # a decay for epochs in every step
        (lambda step: 1.0 - step / 300, ""),
        (lambda step: min(1.0, step / 100), ""),  # a warm-up from 0
        (lambda step: min(1.0, step / 100_000), "error"),  # of which 300 steps are planned
    ],
    ids=["integer division", "too often", "linear", "warm-up", "long warm-up"],
)
def test_a_schedule_that_leaves_no_rate(seed: int, factor: Callable[[int], float], expected: str) -> None:
    model, x, y = classifier(seed)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = LambdaLR(optimizer, factor)

    def level() -> str:
        report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer, steps=300)
        return levels(report).get("UV705", "")

    assert level() == ""  # before its first step
    train(model, x, y, F.cross_entropy, optimizer, 30, schedule)
    assert level() == expected


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_a_rate_of_0_under_no_schedule(seed: int, kind: type[torch.optim.Optimizer]) -> None:
    model, x, y = classifier(seed)
    for rate, expected in ((0.0, "note"), (3e-3, "")):
        optimizer = kind(model.parameters(), lr=rate)  # type: ignore[call-arg]
        report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer)
        assert levels(report).get("UV705", "") == expected
        assert not expected or message(report, "UV705").startswith("The learning rate is 0, so")


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_that_decay_has_pulled_to_nothing_are_put_down_to_the_decay(seed: int) -> None:
    with seeded(seed):
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    _, x, y = classifier(seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=1.0)
    train(model, x, y, F.cross_entropy, optimizer, 300)
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer, steps=300)
    assert report.verdict == "decay" and levels(report)["UV406"] == "error"
    assert levels(report).get("UV101", "note") == "note"
    plain = torch.optim.SGD(model.parameters(), 0.1)
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=plain, steps=300)
    assert levels(report)["UV101"] == "error" and "Weight decay" not in message(report, "UV101")


def policy(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    actions, advantages = targets
    return -(torch.distributions.Categorical(logits=outputs).log_prob(actions) * advantages).mean()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [120.0, 1.0])
def test_a_policy_whose_logits_leave_one_action_alone(seed: int, size: float) -> None:
    with seeded(seed):
        x = torch.randn(256, 6)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    with torch.no_grad():
        list(model.parameters())[-1].copy_(torch.tensor([size, 0.0, 0.0]))
    targets = torch.zeros(256, dtype=torch.long), (x[:, 0] > 0).float() - 0.5
    report = unvanish.diagnose(model, x, targets, policy, optimizer=torch.optim.Adam(model.parameters(), 3e-3))
    assert (report.verdict == "no_signal") == (size > 100.0)
    if size > 100.0:
        assert "logsumexp in the loss leaves each sample one entry alone" in message(report, "UV604")
        assert "detached" not in message(report, "UV604")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shift", [-40.0, 0.0])
def test_a_generator_before_a_judge_that_is_sure(seed: int, shift: float) -> None:
    with seeded(seed):
        z = torch.randn(128, 4)
        model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))

    def loss(outputs: Tensor, targets: None) -> Tensor:
        return torch.log(1 - torch.sigmoid(outputs) + 1e-12).mean()

    with torch.no_grad():
        list(model.parameters())[-1].fill_(shift)
    report = unvanish.diagnose(model, z, None, loss, optimizer=torch.optim.Adam(model.parameters(), 1e-3))
    assert ("UV504" in levels(report)) == (shift < 0.0)
    if shift < 0.0:
        assert "100% of what leaves sigmoid in the loss lies on its flat ends" in message(report, "UV504")


class Listed(nn.Module):
    """Two hidden layers in a Python list, or in one that torch knows."""

    def __init__(self, known: bool, trainable: bool = True) -> None:
        super().__init__()
        layers = [nn.Linear(10, 64), nn.Linear(64, 64)]
        for layer in layers:
            layer.requires_grad_(trainable)
        self.hidden = nn.ModuleList(layers) if known else layers
        self.out = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.out(x)


@pytest.mark.parametrize("seed", SEEDS)
def test_layers_in_a_python_list(seed: int) -> None:
    _, x, y = classifier(seed)
    hidden, known, frozen = Listed(False), Listed(True), Listed(False, trainable=False)
    report = unvanish.diagnose(hidden, x, y, F.cross_entropy, optimizer=torch.optim.Adam(hidden.parameters(), 3e-3))
    assert levels(report)["UV605"] == "note"
    text = message(report, "UV605")
    assert text.startswith("4,864 trainable parameters that the model uses at ")  # 10·64 + 64 + 64·64 + 64
    assert "nn.ModuleList" in text
    own = [*hidden.parameters(), *(p for layer in hidden.hidden for p in layer.parameters())]
    for model, parameters in ((known, known.parameters()), (frozen, frozen.parameters()), (hidden, own)):
        report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=torch.optim.Adam(parameters, 3e-3))
        assert "UV605" not in levels(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_judge_in_the_loss_is_not_out_of_sight(seed: int) -> None:
    with seeded(seed):
        judge, z = nn.Linear(2, 1), torch.randn(64, 4)
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(judge(outputs), targets)

    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    assert "UV605" not in levels(unvanish.diagnose(model, z, torch.ones(64, 1), loss, optimizer=optimizer))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_head_alone_that_crawls_is_put_down_to_the_layers_left_out(seed: int) -> None:
    with seeded(seed):
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    _, x, y = classifier(seed)
    optimizer = torch.optim.SGD(model[4].parameters(), 0.1)
    train(model, x, y, F.cross_entropy, optimizer, 300)
    found = levels(unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer, steps=300))
    assert found["UV605"] == "note" and "error" not in found.values()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("taken", [0, 3])
def test_radam_in_float16_is_looked_at_until_it_divides_by_its_second_moment(
    seed: int, narrow: bool, taken: int
) -> None:
    model, x, y = classifier(seed)
    if narrow:
        model, x = model.half(), x.half()
    optimizer = torch.optim.RAdam(model.parameters(), 3e-3)
    train(model, x, y, F.cross_entropy, optimizer, taken)
    found = levels(unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer))
    assert (found.get("UV505") == "error") == narrow
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    train(model, x, y, F.cross_entropy, optimizer, 6 - taken)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters()) != narrow

"""Losses whose best answer is one constant although the targets vary, and losses that look like them and are sound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose, look
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)
pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")


def asked(seed: int, loss: Any, targets: Callable[[Tensor], Tensor], out: int = 1, scale: float = 1.0) -> Problem:
    torch.manual_seed(seed)
    x = torch.randn(48, 6)
    y = torch.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2]
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, out))
    return Problem(model, x, targets(y), lambda o, t: scale * loss(o, t), torch.optim.Adam(model.parameters(), 3e-3))


def codes(report: Report) -> dict[str, str]:
    return {finding.code: finding.level for finding in report.findings}


def flat(y: Tensor) -> Tensor:
    return y


def column(y: Tensor) -> Tensor:
    return y[:, None]


def classes(y: Tensor) -> Tensor:
    return y.topk(len(y)).indices.argsort() % 5


def signs(y: Tensor) -> Tensor:
    return (y > 0).float()


def inverse_squares(o: Tensor, t: Tensor) -> Tensor:
    gap = o[:, None] - t[None, :]
    return -(-gap.square().sum(-1)).exp().mean() + (-(o[:, None] - o[None, :]).square().sum(-1)).exp().mean() / 2


UNPAIRED: dict[str, tuple[Any, Callable[[Tensor], Tensor], int]] = {
    "squared error": (lambda o, t: ((o - t) ** 2).mean(), flat, 1),
    "targets first": (lambda o, t: ((t - o) ** 2).mean(), flat, 1),
    "flat outputs, targets in a column": (lambda o, t: ((o.squeeze(1) - t) ** 2).mean(), column, 1),
    "mse_loss": (F.mse_loss, flat, 1),
    "absolute error": (lambda o, t: (o - t).abs().mean(), flat, 1),
    "smooth l1": (F.smooth_l1_loss, flat, 1),
    "log cosh": (lambda o, t: (o - t).cosh().log().mean(), flat, 1),
    "a Gaussian's likelihood": (lambda o, t: 0.5 * (o - t).square().mean() + 1.0, flat, 1),
    "logistic by hand": (lambda o, t: (F.softplus(o) - o * t).mean(), signs, 1),
    "several outputs, in a third dimension": (
        lambda o, t: ((o - t) ** 2).mean(), lambda y: torch.stack([y, -y], 1)[:, None], 2,
    ),
    "one mean for all": (lambda o, t: ((o.mean(0) - t) ** 2).mean(), column, 1),
    "means compared": (lambda o, t: (o.mean() - t.mean()) ** 2, column, 1),
    "targets reduced": (lambda o, t: ((o - t.mean(0)) ** 2).mean(), column, 1),
    "cross-entropy of the mean logits": (lambda o, t: F.cross_entropy(o.mean(0).expand(len(t), -1), t), classes, 5),
}  # fmt: skip

PAIRED: dict[str, tuple[Any, Callable[[Tensor], Tensor], int]] = {
    "squared error": (lambda o, t: ((o - t) ** 2).mean(), column, 1),
    "squeezed": (lambda o, t: F.mse_loss(o.squeeze(1), t), flat, 1),
    "absolute error": (F.l1_loss, column, 1),
    "logistic": (F.binary_cross_entropy_with_logits, lambda y: signs(y)[:, None], 1),
    "cross-entropy": (F.cross_entropy, classes, 5),
    "rare class": (
        F.binary_cross_entropy_with_logits, lambda y: (y >= y.max()).float()[:, None], 1,
    ),
    "pairwise distances of outputs and of targets": (
        lambda o, t: ((o - o.T).square() - (t - t.T).square()).square().mean(), column, 1,
    ),
    "ranking of all pairs": (
        lambda o, t: F.softplus(-(o - o.T) * (t[:, None] - t).sign()).mean(), flat, 1,
    ),
    "correlation": (lambda o, t: 1 - F.cosine_similarity(o - o.mean(), t - t.mean(), dim=0).mean(), column, 1),
    "a kernel distance between two clouds": (inverse_squares, column, 1),
    "targets in another place of the batch": (lambda o, t: F.mse_loss(o, t.flip(0)), column, 1),
    "targets that are all the same": (lambda o, t: ((o - t) ** 2).mean(), lambda y: torch.full_like(y, 0.7), 1),
    "targets handed over and not used": (lambda o, t: o.square().mean(), flat, 1),
    "one label, samples of different weight": (lambda o, t: (t * F.softplus(-o)).mean(), lambda y: y[:, None] ** 2, 1),
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", UNPAIRED)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_outputs_without_a_target_of_their_own(seed: int, how: str, scale: float) -> None:
    loss, targets, out = UNPAIRED[how]
    report = diagnose(asked(seed, loss, targets, out, scale))
    assert codes(report).get("UV708") == "error", codes(report)
    if scale == 1.0:
        assert report.verdict == "pairing"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", PAIRED)
def test_outputs_with_a_target_each(seed: int, how: str) -> None:
    loss, targets, out = PAIRED[how]
    assert "UV708" not in codes(diagnose(asked(seed, loss, targets, out)))


def test_both_shapes_and_the_place_are_named() -> None:
    (finding,) = diagnose(asked(0, *UNPAIRED["squared error"])).findings
    assert "(48, 1)" in finding.message and "(48,)" in finding.message and "test_pairs.py" in finding.message


def test_the_best_constant_is_that_of_the_mean() -> None:
    """Of each output with each target the lowest mean square is the targets' variance: free outputs win nothing."""
    flow = look(asked(0, *UNPAIRED["squared error"]))
    y = flow.loss is not None and asked(0, *UNPAIRED["squared error"]).targets
    assert flow.pairs is not None and flow.loss is not None and isinstance(y, Tensor)
    assert flow.loss.best_constant == pytest.approx(float(y.var(correction=0)), rel=1e-3)
    assert flow.pairs.won < 1e-3 and flow.pairs.shuffled < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_trained_to_that_constant_is_named_too(seed: int) -> None:
    problem = asked(seed, *UNPAIRED["squared error"])
    model: Any = problem.model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        problem.loss(problem.outputs(model)).backward()
        optimizer.step()
    report = diagnose(problem)
    assert codes(report).get("UV708") == "error"


class OwnLoss(nn.Module):
    def __init__(self, squeeze: bool) -> None:
        super().__init__()
        self.net, self.squeeze = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1)), squeeze

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out = self.net(x)
        return F.mse_loss(out.squeeze(1) if self.squeeze else out, y)


@pytest.mark.parametrize("squeeze", [True, False])
def test_a_loss_inside_the_model(squeeze: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(48, 6)
    report = diagnose(Problem(OwnLoss(squeeze), (x, torch.sin(x[:, 0]))))
    assert ("UV708" in codes(report)) == (not squeeze)


def test_targets_that_loss_fn_knows_by_itself() -> None:
    torch.manual_seed(0)
    x = torch.randn(48, 6)
    y = torch.sin(x[:, 0])
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    assert diagnose(Problem(model, x, None, lambda o, _: ((o - y) ** 2).mean())).verdict == "pairing"
    assert "UV708" not in codes(diagnose(Problem(model, x, None, lambda o, _: ((o - y[:, None]) ** 2).mean())))


class Likely(nn.Module):
    """A mean and a variance, where 600 steps of Adam leave them if the targets lie at 1,000."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_variance = nn.Linear(4, 1), nn.Linear(4, 1)
        with torch.no_grad():
            for layer, value in ((self.mean, 5.36), (self.log_variance, math.log(1975.0))):
                layer.weight.mul_(0.1)
                layer.bias.fill_(value)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), self.log_variance(x).exp()


@pytest.mark.parametrize("seed", SEEDS)
def test_targets_far_from_the_outputs_pair_as_well(seed: int) -> None:
    """From far off every deal of the outputs costs the same, and a search may find no better than a constant."""
    torch.manual_seed(seed)
    x = torch.randn(256, 4)
    y = 1000.0 + torch.sin(2.0 * x[:, :1]) + 0.3 * torch.randn(256, 1)
    model = Likely()

    def likelihood(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        mean, variance = outputs
        return (0.5 * (variance.log() + (targets - mean) ** 2 / variance)).mean()

    report = diagnose(Problem(model, x, y, likelihood, torch.optim.Adam(model.parameters(), 3e-3)))
    assert "UV708" not in codes(report)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("log_input", [True, False])
def test_counts_of_any_size_pair_with_their_rates(log_input: bool, seed: int) -> None:
    """Large counts: exponentials of outputs as far apart as they are let the loss forget its targets."""
    with seeded(seed):
        x = torch.randn(64, 6)
        y = torch.poisson(torch.exp(1.5 * x[:, :1] + 1.0))
        last = [] if log_input else [nn.Softplus()]
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1), *last)
    for loss in (
        lambda o, t: F.poisson_nll_loss(o, t, log_input=log_input),
        lambda o, t: (o.exp() - t * o if log_input else o - t * o.log()).mean(),
    ):
        report = diagnose(model, x, y, loss)
        assert "UV708" not in [f.code for f in report.findings]
    assert diagnose(model, x, y, lambda o, t: F.poisson_nll_loss(o, t, log_input=log_input)).verdict == "healthy"


LABELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hinge": lambda o, t: F.relu(1 - t * o).mean(),
    "squared hinge": lambda o, t: F.relu(1 - t * o).square().mean(),
    "logistic": lambda o, t: F.softplus(-t * o).mean(),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", LABELS)
@pytest.mark.parametrize("steps", [0, 30])
@pytest.mark.parametrize("right", [True, False])
def test_labels_of_0_and_1_in_a_loss_for_minus_1_and_1(how: str, right: bool, steps: int, seed: int) -> None:
    """What a label of 0 multiplies is gone: every output serves such a sample, and one constant serves all."""
    loss = LABELS[how]
    given = asked(seed, lambda o, t: loss(o, 2 * t - 1 if right else t), lambda y: signs(y)[:, None])
    model: Any = given.model
    for _ in range(steps):
        given.optimizer.zero_grad()  # type: ignore[union-attr]
        given.loss_fn(model(given.inputs), given.targets).backward()  # type: ignore[misc]
        given.optimizer.step()  # type: ignore[union-attr]
    report = diagnose(given)
    assert codes(report).get("UV708") == (None if right else "note")
    if not right:
        zeros = int((given.targets == 0).sum())  # type: ignore[union-attr]
        assert report.pairs is not None and report.pairs.unasked == zeros
        message = next(finding.message for finding in report.findings if finding.code == "UV708")
        assert f"{zeros} samples ask nothing of their output" in message


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("right", [True, False])
def test_two_towers_of_which_a_label_of_0_asks_nothing(right: bool, seed: int) -> None:
    """One constant for all makes every cosine 1; what the loss itself tells by its labels is said once."""
    torch.manual_seed(seed)
    x, other, same = torch.randn(48, 6), torch.randn(48, 6), torch.randint(0, 2, (48,)).float()

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return self.net(a), self.net(b)

    def loss(o: tuple[Tensor, Tensor], t: Tensor) -> Tensor:
        return F.cosine_embedding_loss(o[0], o[1], 2 * t - 1 if right else t)

    found = codes(diagnose(Towers(), (x, torch.where(same[:, None] > 0, x + 0.1 * other, other)), same, loss))
    assert "UV708" not in found and found.get("UV706") == (None if right else "error")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_masked_samples_beside_others_of_several_classes_are_quiet(size: float, seed: int) -> None:
    """Of those that count a constant is not the best answer, however far off the outputs start."""
    given = asked(seed, F.cross_entropy, lambda y: classes(y).where(y > -0.5, torch.tensor(-100)), 5)
    with torch.no_grad():
        given.model[2].weight *= size  # type: ignore[index]
    assert int((given.targets == -100).sum()) > 3 and "UV708" not in codes(diagnose(given))  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [1, 4])
def test_a_table_of_which_samples_are_alike_is_no_target_that_varies(classes: int, seed: int) -> None:
    """Supervised contrast: of one class alone, what the loss makes of the targets differs, and they do not."""
    torch.manual_seed(seed)

    def contrast(outputs: Tensor, labels: Tensor) -> Tensor:
        unit, own = F.normalize(outputs, dim=1), torch.eye(len(outputs))
        alike = (labels[:, None] == labels).float() - own
        shares = (unit @ unit.T / 0.2 - 1e9 * own).log_softmax(1)
        return -((shares * alike).sum(1) / alike.sum(1).clamp(min=1)).mean()

    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8))
    assert "UV708" not in codes(diagnose(Problem(model, torch.randn(32, 6), torch.arange(32) % classes, contrast)))


class Critic(nn.Module):
    """Scores of three actions, and what the state is worth in a column, as actors with a critic give them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(6, 32), nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.body(x))
        return self.actor(hidden), self.critic(hidden)


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_values_picked_by_an_action_meet_every_target(right: bool, seed: int) -> None:
    # Of Q-learning: gather takes whole numbers first, which are no targets, and what it gives is a column.
    draw = torch.Generator().manual_seed(seed)
    x, action = torch.randn(48, 6, generator=draw), torch.randint(0, 3, (48, 1), generator=draw)
    worth = torch.sin(2 * x[:, 0]) + action[:, 0]
    with seeded(seed):
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    report = diagnose(
        model, x, (action, worth), lambda o, t: F.smooth_l1_loss(o.gather(1, t[0]), t[1][:, None] if right else t[1])
    )
    assert codes(report) == ({} if right else {"UV708": "error"})
    if not right:
        assert "(48, 1) meet targets of shape (48,)" in report.findings[0].message


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_of_several_outputs_those_that_meet_every_target_are_asked_alone(right: bool, seed: int) -> None:
    # The policy wins by other scores: that is no answer to whether the critic has targets of its own.
    draw = torch.Generator().manual_seed(seed)
    x, action = torch.randn(48, 6, generator=draw), torch.randint(0, 3, (48,), generator=draw)
    reward = x[:, 1] + (action == 0)

    def loss(outputs: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        value = outputs[1].squeeze(1) if right else outputs[1]
        policy = F.cross_entropy(outputs[0], action, reduction="none") * (target > 0)
        return policy.mean() + 0.5 * (value - target).square().mean()

    with seeded(seed):
        model = Critic()
    found = look(Problem(model, x, reward, loss)).pairs
    assert (found is None) == right
    if found is not None:
        assert found.partly and found.won < 0.02 and found.outputs == (48, 1) and found.targets == (48,)
        # what is left of this part at the mean of the rewards is half their variance; the other part is as it is
        rest = (loss(model(x), reward) - 0.5 * (model(x)[1] - reward).square().mean()).detach()
        assert found.constant == pytest.approx(float(rest + 0.5 * reward.var(correction=0)), rel=1e-4)
    report = diagnose(model, x, reward, loss)
    assert report.healthy == right and ("the others as they are" in str(report.findings)) != right

"""More small programs as strangers write them, each beside a twin without the fault, and what is to be said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.pipeline import look
from unvanish.preserve import seeded

SEEDS = range(3)


def levels(report: Any) -> dict[str, str]:
    return {finding.code: finding.level for finding in report.findings}


def train(model: nn.Module, x: Tensor, y: Tensor, loss_fn: Any, optimizer: Any, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
    return float(loss_fn(model(x), y).detach())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("scale", "shift", "far"),
    [(255.0, 0.0, 254.0), (2.0, -1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 0.0, None), (0.9, 0.05, None), (1.1, -0.05, None)],
    ids=["a mask of 255", "labels of -1 and 1", "labels of 1 and 2", "labels", "smoothed", "resized"],
)
def test_a_binary_cross_entropy_takes_targets_from_0_to_1(
    seed: int, scale: float, shift: float, far: float | None
) -> None:
    with seeded(seed):
        x = torch.randn(64, 6)
        y = (x[:, :1] > 0).float() * scale + shift
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    loss_fn, optimizer = F.binary_cross_entropy_with_logits, torch.optim.Adam(model.parameters(), 1e-2)
    report = unvanish.diagnose(model, x, y, loss_fn, optimizer=optimizer)
    assert levels(report).get("UV706", "") == ("" if far is None else "error")
    if far is not None:
        (finding,) = (each for each in report.findings if each.code == "UV706")
        assert finding.evidence[0].value == pytest.approx(far)
        assert train(model, x, y, loss_fn, optimizer, 300) < -10.0  # and on without end
        assert "UV706" in levels(unvanish.diagnose(model, x, y, loss_fn, optimizer=optimizer))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("unknown", [True, False])
def test_words_that_are_all_unknown_leave_nothing_to_tell_by(seed: int, unknown: bool) -> None:
    """At the best constant the gradient ends below eps; an EmbeddingBag has no second derivative to tell why.

    How far below is the rounding of the last steps: whether a layer can be judged at all differs between processors.
    """
    with seeded(seed):
        model = nn.Sequential(nn.EmbeddingBag(50, 8), nn.Linear(8, 2))
        words = torch.randint(0, 50, (128, 10))
        y = (torch.randn(50)[words].mean(1) > 0).long()
    words = torch.zeros_like(words) if unknown else words
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    last = train(model, words, y, F.cross_entropy, optimizer, 400)
    report = unvanish.diagnose(model, words, y, F.cross_entropy, optimizer=optimizer, steps=400)
    assert [code for code, level in levels(report).items() if level == "error"] in ([], ["UV901"] if unknown else [])
    assert (levels(report).get("UV402") == "note") == unknown == (last > 0.4)
    assert ".." not in str(report) and all(not why.endswith(".") for _, why in report.undecided)


def test_a_small_gradient_that_curvature_cannot_explain_away_is_still_below_eps() -> None:
    with seeded(0):
        model = nn.Sequential(nn.EmbeddingBag(50, 8), nn.Linear(8, 2))
        words, y = torch.randint(0, 50, (128, 10)), torch.randint(0, 2, (128,))

    def tiny(outputs: Tensor, targets: Tensor) -> Tensor:
        return 1e-12 * F.cross_entropy(outputs, targets)

    report = unvanish.diagnose(model, words, y, tiny, optimizer=torch.optim.Adam(model.parameters(), 1e-2))
    assert levels(report)["UV504"] == "error"


def critic(size: float) -> nn.Module:
    """Eight layers, as a game's judge has them, of weights no larger than this."""
    layers = [nn.Linear(2, 64), *(m for _ in range(6) for m in (nn.LeakyReLU(0.2), nn.Linear(64, 64)))]
    model = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Linear(64, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.clamp_(-size, size)
    return model


class Clipping(torch.optim.Adam):
    """A step, and every weight back into a small range: what a critic's weights are clipped by."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.clamp_(-0.01, 0.01)
        return found


@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_a_loss_below_the_best_constant_by_rounding_alone_is_no_sign_of_learning(seed: int, clips: bool) -> None:
    # The loss of the critic has no lowest value. A constant has 0, and 100 steps bring it to -10^-10.
    draw = torch.Generator().manual_seed(seed)
    x = torch.cat([torch.randn(64, 2, generator=draw) * 0.2 + 2, torch.randn(64, 2, generator=draw)])

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs[64:].mean() - outputs[:64].mean() + 1e-3 * outputs.square().mean()

    with seeded(seed):
        model = critic(0.01)
    optimizer = (Clipping if clips else torch.optim.Adam)(model.parameters(), 1e-4)
    given = unvanish.Problem(model, x, torch.zeros(1), loss, optimizer)
    found = look(given).step
    assert found is not None
    if not clips:  # full steps add up, and let the signal through
        assert found.arrived is not None and found.arrived > -2.5
    assert found.learned is None or found.learned < -1e-5  # a thousandth of what outputs of size 0.01 win
    assert levels(unvanish.diagnose(given))["UV101"] == ("error" if clips else "note")

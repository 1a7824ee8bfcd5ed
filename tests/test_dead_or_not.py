"""Units that another path speaks for are not dead; a normaliser of single numbers stops whatever lies before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import zoo
from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.records import Finding
from unvanish.report import Report
from unvanish.zoo.doubtful import Written

SEEDS = range(3)


def asked(
    seed: int, run: Callable[[Any, Tensor], Tensor], scale: float = 1.0, width: int = 16, **parts: Any
) -> Problem:
    torch.manual_seed(seed)
    model = Written(run, a=nn.Linear(4, 16), b=nn.Linear(width, 3), **{n: make() for n, make in parts.items()})
    x = torch.randn(64, 4)
    return Problem(model, x, torch.arange(64) % 3, lambda o, t: scale * F.cross_entropy(o, t))


def found(report: Report) -> dict[str, Finding]:
    return {finding.code: finding for finding in report.findings}


def moved(h: Tensor) -> Tensor:
    return h + 5.0


GUARDS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "elu": lambda m, x: m.b(torch.where((z := moved(m.a(x))) < 0, z.clamp(max=0).exp() - 1, z)),
    "softplus": lambda m, x: m.b(torch.where((z := moved(m.a(x))) > 20, z, z.clamp(max=-20).exp().log1p() + z)),
    "square root": lambda m, x: m.b(torch.where((z := moved(m.a(x))) > 0, z, z.clamp(max=0.0).abs())),
    "two ramps": lambda m, x: m.b(F.relu(z := moved(m.a(x))) - 0.01 * F.relu(-z)),
    "leaky by hand": lambda m, x: m.b(torch.maximum(z := moved(m.a(x)), torch.zeros(())) + 0.1 * z.clamp(max=0)),
    "penalty": lambda m, x: m.b((z := m.a(x)).tanh()) + F.relu(z.abs() - 50).mean(),
    "second head": lambda m, x: m.b((z := m.a(x)).tanh()) + 0.1 * F.relu(z - 50).sum(1, keepdim=True),
    "residual branch": lambda m, x: m.b((z := m.a(x)) + m.c(F.relu(z - 50))),
    "overflow guard": lambda m, x: m.b((z := moved(m.a(x))) * z.clamp(max=-50).sigmoid() + z),
}  # fmt: skip

OFF: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "one ramp": lambda m, x: m.b(F.relu(m.a(x) - m.cut)),
    "clamped": lambda m, x: m.b((m.a(x) - m.cut).clamp(min=0)),
    "halves, one off": lambda m, x: m.b(F.relu((h := torch.cat([m.a(x), m.a(-x)], 1).chunk(2, 1))[0] - m.cut) * h[1]),
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", GUARDS)
def test_a_guard_beside_the_path_is_not_dead(seed: int, how: str) -> None:
    report = diagnose(asked(seed, GUARDS[how], c=lambda: nn.Linear(16, 16)))
    assert "UV303" not in found(report) and "UV301" not in found(report), report.findings


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", OFF)
def test_units_without_another_path_are_dead(seed: int, how: str) -> None:
    def cut() -> nn.Parameter:
        return nn.Parameter(torch.tensor([0.0] + [50.0] * 15), requires_grad=False)

    report = diagnose(asked(seed, OFF[how], cut=cut))
    assert found(report)["UV303"].level == "error"


def by_hand(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)[:, :, None]
    return m.b(((h - h.mean(2, keepdim=True)) / (h.var(2, correction=0, keepdim=True) + 1e-5).sqrt())[:, :, 0] + 1.0)


SINGLE: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], nn.Module], int]] = {
    "groups": (lambda m, x: m.b(F.relu(m.n(m.a(x)))), lambda: nn.GroupNorm(16, 16), 16),
    "groups, tanh behind": (lambda m, x: m.b(torch.tanh(m.n(m.a(x)))), lambda: nn.GroupNorm(16, 16), 16),
    "groups of an image of one pixel": (
        lambda m, x: m.b(m.n(m.a(x)[:, :, None, None]).flatten(1)), lambda: nn.GroupNorm(16, 16), 16,
    ),
    "layers of one": (lambda m, x: m.b(F.relu(m.n(m.a(x)[..., None]))[..., 0]), lambda: nn.LayerNorm(1), 16),
    "layers of one, without weights": (
        lambda m, x: m.b(m.n(m.a(x)[..., None])[..., 0] + 1), lambda: nn.LayerNorm(1, elementwise_affine=False), 16,
    ),
    "one unit": (lambda m, x: m.b(m.n(m.c(m.a(x).relu()))), lambda: nn.LayerNorm(1), 1),
    "unit length of one number": (
        lambda m, x: m.b(F.normalize(m.a(x)[..., None], dim=-1)[..., 0]), lambda: nn.Identity(), 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", SINGLE)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_normaliser_of_single_numbers(seed: int, how: str, scale: float) -> None:
    run, norm, width = SINGLE[how]
    report = diagnose(asked(seed, run, scale, width, n=norm, c=lambda: nn.Linear(16, 1)))
    assert report.verdict == "dead", report.findings
    finding = found(report)["UV302"]
    assert "norm" in finding.cause and "a" in finding.layers and "b" not in finding.layers
    assert "UV301" not in found(report) and "UV101" not in found(report)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("width", "expected"), [(1, True), (2, True), (3, False)])
def test_a_normaliser_of_pairs_leaves_which_is_larger(seed: int, width: int, expected: bool) -> None:
    torch.manual_seed(seed)
    blocks = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.Tanh(), nn.LayerNorm(width))]
    model = nn.Sequential(nn.Linear(8, width), nn.LayerNorm(width), *blocks, nn.Linear(width, 1))
    finding = found(diagnose(Problem(model, torch.randn(64, 8), torch.randn(64, 1), F.mse_loss))).get("UV302")
    assert (finding is not None) == expected
    if finding is not None:
        assert "only which of them is larger" in finding.message and "exactly" not in finding.message
        assert finding.remedies == ("norm-one-group", "norm-off")


MANY: dict[str, Callable[[], nn.Module]] = {
    "four groups": lambda: nn.GroupNorm(4, 16), "one group": lambda: nn.GroupNorm(1, 16),
    "layer": lambda: nn.LayerNorm(16), "batch": lambda: nn.BatchNorm1d(16), "rms": lambda: nn.RMSNorm(16),
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", MANY)
@pytest.mark.parametrize("closed", [False, True])
def test_other_normalisers_pass_the_signal(seed: int, how: str, closed: bool) -> None:
    """Also one whose weights start at zero, which is a gate."""

    def norm() -> nn.Module:
        made = MANY[how]()
        if closed:
            nn.init.zeros_(made.get_parameter("weight"))
        return made

    report = diagnose(asked(seed, lambda m, x: m.b(m.n(m.a(x)) + m.a(x).tanh()), n=norm))
    assert "UV302" not in found(report) and report.healthy
    alone = diagnose(asked(seed, lambda m, x: m.b(m.n(m.a(x))), n=norm))
    assert "UV302" not in found(alone)


def test_a_single_number_beside_a_path_around_it() -> None:
    report = diagnose(asked(0, lambda m, x: m.b(m.n(h := m.a(x)) + h.tanh()), n=lambda: nn.GroupNorm(16, 16)))
    assert "UV302" not in found(report) and report.healthy


def test_what_is_cancelled_by_hand_is_not_called_healthy() -> None:
    assert diagnose(asked(0, by_hand)).verdict == "dead"


class NormaliserByHand(nn.Module):
    """A normaliser written out, over the last ``axes`` axes."""

    def __init__(self, how: str, *axes: int) -> None:
        super().__init__()
        self.how, self.axes = how, axes

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "length":
            return x / x.norm(dim=self.axes, keepdim=True).clamp_min(1e-6)
        if self.how == "root of squares":
            return x / x.pow(2).sum(self.axes, keepdim=True).sqrt()
        spread = x.var(self.axes, keepdim=True, unbiased=False)
        return (x - x.mean(self.axes, keepdim=True)) / (spread + 1e-5).sqrt()


def normalised_by_hand(how: str, width: int, seed: int) -> Report:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, width), NormaliserByHand(how, -1),
        nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    return diagnose(Problem(model, torch.randn(30, 6), torch.arange(30) % 3, F.cross_entropy, adam))


HANDS = ["length", "root of squares", "mean and spread"]


@pytest.mark.parametrize("how", HANDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_normaliser_by_hand_over_one_number_is_dead_by_construction(seed: int, how: str) -> None:
    report = normalised_by_hand(how, 1, seed)
    (finding,) = (f for f in report.findings if f.level == "error")
    assert finding.code == "UV302" and set(finding.layers) == {"0", "2"}
    assert (" div " if how in HANDS[:2] else " sub ") in finding.message


@pytest.mark.parametrize("how", HANDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_normaliser_by_hand_over_several_is_not(seed: int, how: str) -> None:
    report = normalised_by_hand(how, 8, seed)
    assert not [f.code for f in report.findings if f.level == "error"]


class Words(nn.Module):
    """Adds the mean of some words' vectors to features."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.last = nn.Embedding(10, 8, padding_idx=0), nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x) + self.words(words).mean(1)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("padding", [True, False])
def test_an_embedding_that_only_padding_looks_up_is_not_offered_what_wakes_units(seed: int, padding: bool) -> None:
    torch.manual_seed(seed)
    words = torch.zeros(16, 5, dtype=torch.long) if padding else torch.randint(10, (16, 5))
    report = diagnose(Problem(Words(), (torch.randn(16, 4), words), torch.randn(16, 1), F.mse_loss))
    dead = [finding for finding in report.findings if finding.code == "UV301"]
    assert [(f.layers, f.remedies) for f in dead] == ([(("words",), ())] if padding else [])
    assert not padding or ("padding_idx" in dead[0].message and "is a mask the wrong way round?" in dead[0].message)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hand", [False, True])
@pytest.mark.parametrize("width", [1, 2])
def test_outputs_of_unit_length_that_are_one_number_each(width: int, hand: bool, seed: int) -> None:
    """The last call: no layer behind it tells that what comes back is rounding. Of two numbers an angle is left."""

    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, width)

        def forward(self, x: Tensor) -> Tensor:
            h = self.b(self.a(x).tanh())
            return h / h.norm(dim=1, keepdim=True) if hand else F.normalize(h, dim=1)

    torch.manual_seed(seed)
    x = torch.randn(48, 6)
    report = diagnose(Unit(), x, F.normalize(x[:, :width] + 0.1, dim=1), F.mse_loss)
    assert (report.verdict == "dead") == (width == 1)
    if width == 1:
        assert found(report)["UV302"].layers == ("a", "b")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("samples", ["same", "different"])
def test_of_a_batch_of_the_same_samples_the_batch_is_to_blame(samples: str, count: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(count, 10)
    x = x[:1].repeat(count, 1) if samples == "same" else x
    classes = torch.arange(count) % 4
    report = diagnose(model, x, classes, F.cross_entropy, optimizer=torch.optim.Adam(model.parameters()))
    found = [finding for finding in report.findings if finding.code in ("UV302", "UV101")]
    blamed = [(f.code, f.level, f.cause) for f in found]
    assert blamed == ([("UV302", "note", "this batch")] if samples == "same" else [])
    assert report.healthy and all("all its samples are the same" in f.message for f in found)


@pytest.mark.parametrize("seed", range(2))
def test_the_same_images_are_not_to_blame_where_a_batch_norm_takes_the_mean_over_places_too(seed: int) -> None:
    """Of one image given eight times a normaliser over all places leaves what is left of one image."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)
    )
    x = torch.randn(1, 1, 8, 8).repeat(8, 1, 1, 1)
    report = diagnose(model, x, torch.arange(8) % 4, F.cross_entropy)
    assert "UV302" not in {finding.code for finding in report.findings}


def one_number(seed: int, norm: nn.Module, width: int, size: float, gain: float) -> Report:
    """A normaliser in front of an output layer; its bias times ``gain`` decides what there is to compare with."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, width), norm, nn.Unflatten(1, (-1,)), nn.Linear(width, 1)
    )
    with torch.no_grad():
        model[5].bias.mul_(gain)  # type: ignore[operator]
    x = torch.randn(32, 4)
    return diagnose(model, size * x, torch.sin(x.sum(1, keepdim=True)), F.mse_loss)


@pytest.mark.parametrize("seed", [0, 1, 2, 98, 99])
@pytest.mark.parametrize("gain", [1.0, 1e-4])
@pytest.mark.parametrize("size", [1.0, 10.0])
def test_a_normaliser_of_one_number_is_dead_whatever_there_is_to_compare_with(
    size: float, gain: float, seed: int
) -> None:
    """What the layers behind transmit is chance, and of their size; that nothing is left of one number is not."""
    report = one_number(seed, nn.GroupNorm(16, 16), 16, size, gain)
    assert report.verdict == "dead" and set(found(report)["UV302"].layers) == {"0", "2"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_a_normaliser_of_two_numbers_that_its_eps_lets_through_is_not(size: float, seed: int) -> None:
    """Where eps is large beside them it passes all on; else it leaves which is the larger and a share of the rest."""
    report = one_number(seed, nn.GroupNorm(8, 16, eps=1.0), 16, size, 1.0)
    assert "UV302" not in found(report)


@pytest.mark.parametrize("seed", [98, 99])
def test_the_zoos_normaliser_of_one_number(seed: int) -> None:
    assert diagnose(zoo.get("groupnorm-one-number").build(seed), seed=seed).verdict == "dead"

"""Labels a loss function takes and does not mean, means over nothing, and their healthy twins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Report, diagnose
from unvanish.preserve import seeded

SEEDS = range(2)
Loss = Callable[[Tensor, Tensor], Tensor]


def check(loss: Loss, targets: Callable[[Tensor], Tensor], seed: int = 0, effort: str = "auto") -> Report:
    with seeded(seed):
        x = torch.randn(48, 6)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
    return diagnose(model, x, targets(x[:, :4]), loss, effort=effort)


def cosine(o: Tensor, t: Tensor) -> Tensor:
    return F.cosine_embedding_loss(o[:, :2], o[:, 2:], t[:, 0])


def ranked(o: Tensor, t: Tensor) -> Tensor:
    return F.margin_ranking_loss(o[:, 0], o[:, 1], t[:, 0], margin=0.5)


def signs(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, -1.0)


def hot(x: Tensor) -> Tensor:
    return (x > 0).float()


TAKEN: dict[str, tuple[Loss, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], str, str]] = {
    "soft margin": (F.soft_margin_loss, hot, signs, "error", "these are 0 and 1: those of 0 ask for nothing"),
    "cosine embedding": (cosine, hot, signs, "error", "these are 0 and 1: those of 0 ask for nothing"),
    "hinge embedding": (F.hinge_embedding_loss, hot, signs, "error", "these are 0 and 1: those of 0 count as both"),
    "ranking": (ranked, hot, signs, "note", "these are 0 and 1: those of 0 ask for nothing"),
    "multilabel": (F.multilabel_soft_margin_loss, signs, hot, "error", "takes labels from 0 to 1"),
    "several ones": (F.cross_entropy, hot, lambda x: F.one_hot(x.argmax(1), 4).float(), "note", "have several ones"),
    "several shares": (F.cross_entropy, hot, lambda x: x.softmax(1), "note", "have several ones"),
}


@pytest.mark.parametrize("effort", ["quick", "auto"])
@pytest.mark.parametrize("name", TAKEN)
def test_labels_of_another_kind_are_named(name: str, effort: str) -> None:
    loss, odd, meant, level, words = TAKEN[name]
    for seed in SEEDS:
        report = check(loss, odd, seed, effort)
        (found,) = [f for f in report.findings if f.code == "UV706"]
        assert found.level == level and words in found.message
        (share,) = found.evidence
        assert (share.relation, share.threshold) == (">", 0.0)
        assert report.flow.labels is not None and 0.2 < report.flow.labels.share < 1.0
        assert check(loss, meant, seed, effort).flow.labels is None


def test_labels_of_zero_ask_for_nothing() -> None:
    """What the words say, by the gradient: none for those of 0 under three of the losses, some for those of -1."""
    for seed in SEEDS:
        with seeded(seed):
            o, t = torch.randn(32, 4, requires_grad=True), hot(torch.randn(32, 4))
        for loss in (F.soft_margin_loss, cosine, ranked):
            (g,) = torch.autograd.grad(loss(o, t), o)
            off = (t == 0) if loss is F.soft_margin_loss else (t[:, :1] == 0).expand_as(o)
            assert not g[off].any() and g[~off].any()


NOTHING: dict[str, tuple[Loss, Callable[[Tensor], Tensor], str]] = {
    "ignored": (F.cross_entropy, lambda x: torch.full((len(x),), -100), "all targets of this batch are ignored"),
    "ignored, by another number": (
        lambda o, t: F.cross_entropy(o, t, ignore_index=7),
        lambda x: torch.full((len(x),), 7),
        "are ignored",
    ),
    "weights": (lambda o, t: F.cross_entropy(o, t, torch.zeros(4)), lambda x: x.argmax(1), "weight 0"),
    "selection": (lambda o, t: (o - t)[t > 99.0].mean(), lambda x: x, "no entry at all"),
    "mask": (lambda o, t: ((o - t) * 0.0).sum() / torch.zeros(()), lambda x: x, "divides 0 by 0"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_mean_over_nothing_is_told_so(name: str) -> None:
    loss, targets, words = NOTHING[name]
    (finding,) = check(loss, targets).findings
    assert finding.code == "UV501" and words in finding.message and "domain" not in finding.message


def test_a_logarithm_of_what_is_negative_is_not() -> None:
    report = check(lambda o, t: (o - 9.0).log().mean() + t.sum() * 0.0, lambda x: x)
    assert report.flow.birth is not None and report.flow.birth.given == ""
    assert "domain" in report.findings[0].message


@pytest.mark.parametrize("masked", [True, False])
def test_a_sum_over_nothing_is_asked_about(masked: bool) -> None:
    report = check(lambda o, t: (F.mse_loss(o, t, reduction="none") * (0.0 if masked else 1.0)).sum(), lambda x: x)
    assert any("masked out" in f.message for f in report.findings) == masked


def test_a_quick_check_says_what_it_has_not_looked_at() -> None:
    """Softmax and cross-entropy: the range of the last call is asked by more than a quick check."""

    def twice(o: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(o.softmax(1), t)

    quick = str(check(twice, lambda x: x.argmax(1), effort="quick"))
    assert quick.startswith("Healthy") and "has not looked at what the last call can give" in " ".join(quick.split())
    assert not str(check(twice, lambda x: x.argmax(1))).startswith("Healthy")
    assert "has not looked" not in str(check(F.cross_entropy, lambda x: x.argmax(1)))

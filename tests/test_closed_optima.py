"""Best outputs in closed form against a long search in float64, over losses, reductions, weights and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unvanish.evidence import output_loss as searching
from unvanish.evidence.loss import best_constant_of
from unvanish.evidence.output_loss import OutputLoss, lowest

CLASSES, SAMPLES, PLACES = 4, 12, 3
Made = Callable[[torch.Generator], tuple[Callable[[Tensor], Tensor], tuple[int, ...]]]


def _classes(reduction: str = "mean", smooth: float = 0.0, weighted: bool = False, ignored: bool = False) -> Made:
    def made(g: torch.Generator) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
        y = torch.randint(0, CLASSES, (SAMPLES,), generator=g)
        if ignored:
            y[::4] = -100
        weight = torch.rand(CLASSES, generator=g).double() + 0.1 if weighted else None
        options = {"weight": weight, "reduction": reduction, "label_smoothing": smooth}
        return lambda z: F.cross_entropy(z, y, **options), (SAMPLES, CLASSES)  # type: ignore[arg-type]

    return made


def _probabilities(g: torch.Generator) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
    t = torch.rand(SAMPLES, CLASSES, generator=g).double()
    return lambda z: F.cross_entropy(z, t, label_smoothing=0.1), (SAMPLES, CLASSES)


def _sequence(g: torch.Generator) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
    y = torch.randint(0, CLASSES, (SAMPLES, PLACES), generator=g)
    return lambda z: F.cross_entropy(z.flatten(0, -2), y.flatten()), (SAMPLES, PLACES, CLASSES)


def _turned(g: torch.Generator) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
    y = torch.randint(0, CLASSES, (SAMPLES, PLACES), generator=g)
    return lambda z: F.cross_entropy(z.transpose(1, 2), y, label_smoothing=0.2), (SAMPLES, PLACES, CLASSES)


def _next_token(g: torch.Generator) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
    y = torch.randint(0, CLASSES, (SAMPLES, PLACES), generator=g)

    def loss(z: Tensor) -> Tensor:
        return F.cross_entropy(z[:, :-1].reshape(-1, CLASSES), y[:, 1:].reshape(-1))

    return loss, (SAMPLES, PLACES, CLASSES)


def _numbers(reduction: str = "mean") -> Made:
    def made(g: torch.Generator) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
        t = torch.randn(SAMPLES, PLACES, generator=g).double()
        return lambda z: F.mse_loss(z, t, reduction=reduction), (SAMPLES, PLACES)

    return made


def _coins(weighted: bool, soft: bool = False) -> Made:
    def made(g: torch.Generator) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
        t = torch.rand(SAMPLES, 2, generator=g).double()
        t = t if soft else t.round()
        t[:2] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # both occur
        each = torch.rand(2, generator=g).double() + 0.5 if weighted else None
        return lambda z: F.binary_cross_entropy_with_logits(z, t, weight=each, pos_weight=each), (SAMPLES, 2)

    return made


def _counts(g: torch.Generator) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
    t = torch.randint(0, 5, (SAMPLES, 2), generator=g).double()
    return lambda z: F.poisson_nll_loss(z, t), (SAMPLES, 2)


CASES: dict[str, Made] = {
    "classes": _classes(),
    "summed": _classes("sum"),
    "smoothed": _classes(smooth=0.1),
    "weighted": _classes(weighted=True),
    "ignored": _classes(ignored=True),
    "all of it": _classes("mean", 0.2, True, True),
    "probabilities": _probabilities,
    "sequence": _sequence,
    "turned": _turned,
    "next token": _next_token,
    "numbers": _numbers(),
    "numbers summed": _numbers("sum"),
    "coins": _coins(False),
    "weighted coins": _coins(True),
    "soft coins": _coins(False, True),
    "counts": _counts,
}


def _made(case: str, seed: int) -> OutputLoss:
    g = torch.Generator().manual_seed(seed)
    loss, shape = CASES[case](g)
    return OutputLoss(lambda z: loss(z[0]), [torch.randn(shape, generator=g).double()])


def _searched(loss: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """A search that stops for nothing but its own precision."""
    z = start.clone().requires_grad_(True)
    search = torch.optim.LBFGS(
        [z], lr=1.0, max_iter=3000, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        value = loss(z)
        value.backward()
        return value

    search.step(closure)  # type: ignore[arg-type]
    return float(loss(z.detach()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_closed_optima_are_those_of_a_long_search(case: str, seed: int) -> None:
    made = _made(case, seed)
    assert made.known is not None
    (now,) = made.now
    scale = float(made.at([now]))
    free, place = lowest(made)
    assert free == pytest.approx(_searched(lambda z: made.at([z]), now), abs=1e-6 * scale)
    assert place is not None and free is not None
    assert free <= float(made.at(place)) <= free + 3e-4 * (SAMPLES if case == "summed" else 1)
    constant, row = best_constant_of(made)
    found = _searched(lambda z: made.at([z.expand(now.shape)]), now.mean(0, keepdim=True))
    assert constant == pytest.approx(found, abs=1e-6 * scale)
    assert row is not None and row[0].shape == (1, *now.shape[1:])


@pytest.mark.parametrize("seed", range(3))
def test_the_best_outputs_are_no_farther_than_the_loss_asks(seed: int) -> None:
    """Logits keep their mean, end where a ten-thousandth of a nat is left, and stay where their target is ignored."""
    g = torch.Generator().manual_seed(seed)
    now = torch.randn(SAMPLES, 5, generator=g).double() + 100.0
    y = torch.randint(5, (SAMPLES,), generator=g)
    y[0] = -100
    _, place = lowest(OutputLoss(lambda z: F.cross_entropy(z[0], y), [now]))
    assert place is not None
    (best,) = place
    assert torch.allclose(best[0], now[0], atol=1e-9, rtol=0)
    assert torch.allclose(best.mean(1), now.mean(1), atol=1e-9, rtol=0)
    gaps = best[1:].gather(1, y[1:, None]) - best[1:].min(1, keepdim=True).values
    assert torch.allclose(gaps, torch.full_like(gaps, math.log(5e4)), atol=1e-9, rtol=0)
    coins = (y > 2).double()
    _, place = lowest(OutputLoss(lambda z: F.binary_cross_entropy_with_logits(z[0], coins), [now[:, 0]]))
    assert place is not None and torch.allclose(place[0].abs(), torch.full((SAMPLES,), math.log(1e4)).double())


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_are_best_at_the_targets(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    t = torch.rand(SAMPLES, 2, generator=g).double()
    made = OutputLoss(lambda z: F.binary_cross_entropy(z[0], t), [torch.rand(SAMPLES, 2, generator=g).double()])
    entropy = -(t * t.log() + (1 - t) * (1 - t).log()).mean()
    assert lowest(made)[0] == pytest.approx(float(entropy), rel=1e-12)
    p = t.mean(0)
    assert best_constant_of(made)[0] == pytest.approx(float(-(p * p.log() + (1 - p) * (1 - p).log()).mean()), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_rates_are_best_at_the_counts(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    t = torch.randint(1, 9, (SAMPLES, 2), generator=g).double()
    now = torch.rand(SAMPLES, 2, generator=g).double() + 0.1
    made = OutputLoss(lambda z: F.poisson_nll_loss(z[0], t, log_input=False, eps=0.0), [now])
    assert lowest(made)[0] == pytest.approx(float((t - t * t.log()).mean()), rel=1e-12)
    m = t.mean(0)
    assert best_constant_of(made)[0] == pytest.approx(float((m - m * m.log()).mean()), rel=1e-12)
    refused = OutputLoss(lambda z: F.poisson_nll_loss(z[0], -t), [now])  # no counts: falls without end
    assert refused.known is None


Y, T = torch.arange(SAMPLES) % CLASSES, torch.linspace(-1, 1, SAMPLES * CLASSES).view(SAMPLES, CLASSES)
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled": lambda z: 2.0 * F.cross_entropy(z, Y),
    "of other logits": lambda z: F.cross_entropy(z * 2.0, Y),
    "clipped": lambda z: F.cross_entropy(z.relu(), Y),
    "clamped from below": lambda z: F.mse_loss(z.clamp_min(-9.0), T),
    "of entries that stand twice": lambda z: F.mse_loss(z[[0, 0, 1]], T[:3]),
    "of shapes that broadcast": lambda z: F.mse_loss(z, T[:, None, :].expand(-1, 2, -1)[:, :1].sum(1)[:1]),
    "of itself": lambda z: F.mse_loss(z, z.flip(0)),
    "not between 0 and 1": lambda z: F.binary_cross_entropy_with_logits(z, 2.0 * T),
    "another": lambda z: F.smooth_l1_loss(z, T),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_other_losses_are_searched_as_before(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = OutputLoss(lambda z: OTHERS[case](z[0]), [torch.rand(SAMPLES, CLASSES) + 1.0])
    assert made.known is None
    searched: list[int] = []
    original = searching.minimise
    monkeypatch.setattr(searching, "minimise", lambda *a: searched.append(1) or original(*a))
    lowest(made)
    assert searched


def test_outputs_that_the_loss_does_not_look_at_stay() -> None:
    made = OutputLoss(lambda z: F.mse_loss(z[1], T), [torch.ones(3), torch.zeros_like(T)])
    found, place = lowest(made)
    assert found == 0.0 and place is not None
    assert torch.equal(place[0], torch.ones(3)) and torch.equal(place[1], T)


def test_ignored_altogether_is_no_number_and_no_optimum() -> None:
    made = OutputLoss(lambda z: F.cross_entropy(z[0], torch.full((SAMPLES,), -100)), [torch.randn(SAMPLES, CLASSES)])
    assert lowest(made)[0] is None and not math.isfinite(float(made.at(made.now)))


def test_where_the_loss_is_flat_random_outputs_are_tried() -> None:
    """1 − exp(−z²/8) is 1 to the last digit at z = 30, where the outputs and the best constant lie, and 0 at z = 0."""
    far = torch.full((8, 1), 30.0, dtype=torch.float64)
    flat = OutputLoss(lambda z: 1.0 - torch.exp(-(z[0] ** 2) / 8.0).mean(), [far])
    assert lowest(flat)[0] == 1.0
    found, _ = lowest(flat, 1.0, [far[:1]])
    assert found == pytest.approx(0.0, abs=1e-4)

"""One walk alone measures what a whole check measures with it."""

from __future__ import annotations

import pytest
import torch

from unvanish import Problem, zoo
from unvanish.pipeline import look, quick_look
from unvanish.preserve import untouched


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["sigmoid-20", "relu-he-20", "small-cnn"])
def test_a_quick_look_is_the_walk_of_a_check(name: str, seed: int) -> None:
    problem = zoo.get(name).build(seed)
    whole = look(problem, "quick", seed)
    model, _ = problem.build(seed)
    with untouched(model, seed, problem.loss_fn):
        layers, calls = quick_look(problem, model, seed)
    assert [each.name for each in layers] == [each.name for each in whole.layers]
    assert [each.log10_transmission for each in layers] == [each.log10_transmission for each in whole.layers]
    assert [each.log10_signal for each in layers] == [each.log10_signal for each in whole.layers]
    assert [each.log10_gain for each in calls] == [each.log10_gain for each in whole.calls]


class Powers(torch.nn.Module):
    """x wᵏ: with k = 200 and w = 10 too large for float32."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.weight, self.k = torch.nn.Parameter(torch.tensor(10.0)), k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight**self.k


@pytest.mark.parametrize(("k", "measured"), [(2, True), (200, False)])
def test_nothing_is_measured_where_the_outputs_are_not_finite(k: int, measured: bool) -> None:
    """Neither where the loss itself is finite, as that of the tanh of an infinite number is."""
    model = Powers(k)
    for loss in (lambda y, _: y.mean(), lambda y, _: y.tanh().mean()):
        layers, calls = quick_look(Problem(model, torch.ones(4), loss_fn=loss), model)
        assert bool(layers) is bool(calls) is measured

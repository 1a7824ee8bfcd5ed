"""One walk alone measures what a whole check measures with it."""

from __future__ import annotations

import pytest

from unvanish import zoo
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

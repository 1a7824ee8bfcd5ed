"""A second forward pass at the same weights is left out only where it is known to give the same loss."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem
from unvanish.pipeline import look

CALLS = 0


class Net(nn.Module):
    """One that does something more at each pass, by which its results may change."""

    def __init__(self, more: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.2)
        self.generator = torch.Generator()
        self.times, self.more = 0, more
        self.register_buffer("drift", torch.zeros(1))
        self.log: SimpleQueue[bool] = SimpleQueue()

    def forward(self, x: Tensor) -> Tensor:
        global CALLS
        CALLS += self.more is name
        self.log.put(True)
        return self.last(self.more(self, torch.tanh(self.norm(self.first(x)))))


def attribute(net: Net, x: Tensor) -> Tensor:
    net.times += 1
    return x * (1.0 + 0.1 * net.times)


def buffer(net: Net, x: Tensor) -> Tensor:
    net.drift.data.add_(0.1)  # type: ignore[union-attr]
    return x + net.drift  # type: ignore[operator]


def weight(net: Net, x: Tensor) -> Tensor:
    net.last.weight.data.mul_(0.9)
    return x


def generator(net: Net, x: Tensor) -> Tensor:
    return x + torch.randn(x.shape, generator=net.generator)


def name(net: Net, x: Tensor) -> Tensor:
    return x * (1.0 + 0.1 * CALLS)


def problem(more: Callable[[Net, Tensor], Tensor], seed: int = 0) -> tuple[Problem, Net]:
    torch.manual_seed(seed)
    model = Net(more)
    if more is not generator:
        del model.generator
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    return Problem(model, torch.randn(32, 4), torch.randint(0, 3, (32,)), F.cross_entropy, optimizer), model


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_repeats_itself_is_not_run_again_at_the_same_weights(seed: int) -> None:
    asked, model = problem(lambda net, x: x, seed)
    flow = look(asked)
    assert flow.step is not None and flow.loss is not None
    assert flow.step.loss == flow.loss.value
    assert model.log.qsize() == 1 + len(flow.step.ladder)  # its batch norm's running statistics have moved meanwhile


@pytest.mark.parametrize("more", [attribute, buffer, weight, generator, name])
def test_one_that_does_not_is(more: Callable[[Net, Tensor], Tensor]) -> None:
    flow = look(problem(more)[0])
    assert flow.step is not None and flow.loss is not None
    assert flow.step.loss != flow.loss.value


@pytest.mark.parametrize("way", ["dropout", "eval"])
def test_other_kernels_are_not_trusted(way: str) -> None:
    asked, model = problem(lambda net, x: net.drop(x))
    model.train(way != "eval")
    flow = look(asked)
    assert flow.step is not None
    in_eval = way == "dropout"  # one pass without chance, to see whether the samples have outputs of their own
    assert model.log.qsize() == 2 + in_eval + len(flow.step.ladder)

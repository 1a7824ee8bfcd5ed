"""Layers that are called inside the forward of an autograd Function, whose backward runs them again or does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import diagnose
from unvanish.preserve import seeded
from unvanish.trace.places import in_function


class Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.run = run
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            out = ctx.run(x)
        torch.autograd.backward(out, g)
        return None, x.grad


class Net(nn.Module):
    def __init__(self, own: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.own = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), own

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.own:
            return self.last(torch.tanh(Again.apply(self.middle, h)))
        with torch.no_grad():
            more = self.middle(h)
        return self.last(h + more)


@pytest.mark.parametrize("own", [True, False])
def test_a_checkpoint_of_ones_own_is_not_called_an_error(own: bool) -> None:
    """Its weights get their gradient within its backward; a layer under no_grad gets none."""
    with seeded(0):
        model, x = Net(own), torch.randn(16, 6)

    report = diagnose(model, x, x[:, :3].argmax(1), F.cross_entropy)
    (found,) = [f for f in report.findings if f.code == "UV602" and "middle" in f.layers]
    assert found.level == ("note" if own else "error")
    assert ("is not decided here" in found.message) is own


def test_what_runs_inside_of_a_function_is_told_from_what_only_has_no_gradient() -> None:
    seen: list[bool] = []

    class Asks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
            seen.append(in_function())
            with torch.enable_grad():
                seen.append(in_function())
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            seen.append(in_function())
            return g

    Asks.apply(torch.ones(2, requires_grad=True)).sum().backward()
    assert seen == [True, True, False]
    assert not in_function()
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert not in_function()

"""Trainings in which a number stops being finite at a known step, in a known place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PLANTED = 7
STEPS = 12


class Net(nn.Module):
    """Two layers, ``fault(h, on)`` between them; ``on`` holds 1 in the step of the fault, for one sample, else 0."""

    def __init__(self, fault: Callable[[Tensor, Tensor], Tensor], wrap: str = "") -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.drop, self.fault, self.wrap = nn.Dropout(0.1), fault, wrap

    def middle(self, h: Tensor, on: Tensor) -> Tensor:
        return self.second(self.fault(h, on))

    def forward(self, x: Tensor, on: Tensor) -> Tensor:
        h = torch.tanh(self.drop(self.first(x)))
        if self.wrap == "checkpoint":
            h = checkpoint(self.middle, h, on, use_reentrant=False)
        elif self.wrap == "loop":
            for turn in range(3):
                h = self.middle(h, on if turn == 1 else torch.zeros_like(on))
        else:
            h = self.middle(h, on)
        return self.last(torch.relu(h))


@dataclass(frozen=True)
class Plant:
    """``born``: where it must be said to come from. ``call``: a word that the finding must hold."""

    born: str
    call: str
    fault: Callable[[Tensor, Tensor], Tensor] = lambda h, on: h
    wrap: str = ""
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda out, y, on: F.cross_entropy(out, y)
    data: Callable[[Tensor, Tensor], Tensor] = lambda x, on: x
    cast: torch.dtype | None = None


PLANTS: dict[str, Plant] = {
    "log of a negative": Plant("forward", "log", lambda h, on: torch.log(h + 1.001 - 3.0 * on)),
    "sqrt of a negative": Plant("forward", "sqrt", lambda h, on: torch.sqrt(h + 1.001 - 3.0 * on)),
    "zero over zero": Plant("forward", "div", lambda h, on: h * (1 - on) / (1 - on)),
    "exp overflows": Plant("forward", "exp", lambda h, on: torch.exp(h + 200.0 * on)),
    "power": Plant("forward", "pow", lambda h, on: torch.pow(h + 1.001 - 3.0 * on, 0.5)),
    "square overflows": Plant("forward", "pow", lambda h, on: (h * (1 + 1e30 * on)) ** 2),
    "inverse hyperbolic tangent": Plant("forward", "atanh", lambda h, on: torch.atanh(0.9 * h * (1 - on) + on)),
    "forward in a loop": Plant("forward", "log", lambda h, on: torch.log(h.abs() + 0.1 - 3.0 * on), "loop"),
    "forward in a checkpoint": Plant("forward", "log", lambda h, on: torch.log(h + 1.001 - 3.0 * on), "checkpoint"),
    "softmax of minus infinity": Plant(
        "forward", "softmax", lambda h, on: torch.softmax(h.masked_fill(on > 0, -torch.inf), -1)
    ),
    "slope of the root at zero": Plant("backward", "sqrt", lambda h, on: torch.sqrt((h + 1.001) * (1 - on))),
    "slope of the norm at zero": Plant(
        "backward", "sqrt", lambda h, on: h * (1 + ((h + 1.001) * (1 - on)).pow(2).sum(-1, keepdim=True).sqrt())
    ),
    "slope of the power at zero": Plant("backward", "pow", lambda h, on: torch.pow((h + 1.001) * (1 - on), 0.5)),
    "slope of the arc cosine at one": Plant("backward", "acos", lambda h, on: torch.acos(0.9 * h * (1 - on) + on)),
    "backward in a checkpoint": Plant(
        "backward", "sqrt", lambda h, on: torch.sqrt((h + 1.001) * (1 - on)), "checkpoint"
    ),
    "log in the loss": Plant(
        "loss", "log", loss=lambda out, y, on: F.nll_loss(torch.log(torch.softmax(out, -1) * (1 - on)), y)
    ),
    "division in the loss": Plant(
        "loss", "div", loss=lambda out, y, on: F.cross_entropy(out, y) * (1 - on).min() / (1 - on).min()
    ),
    "root in the loss": Plant(
        "loss", "sqrt", loss=lambda out, y, on: F.cross_entropy(out, y) + (out * (1 - on)).pow(2).sum(-1).sqrt().mean()
    ),
    "float16 overflows": Plant("forward", "linear", lambda h, on: h * (1 + 1e3 * on) * 100.0, cast=torch.float16),
    "forward in a compiled module": Plant("forward", "log", lambda h, on: torch.log(h + 1.001 - 3.0 * on), "compile"),
    "nan in the data": Plant("data", "batch", data=lambda x, on: torch.where(on > 0, torch.nan, x)),
    "infinity in the data": Plant("data", "batch", data=lambda x, on: torch.where(on > 0, torch.inf, x)),
}


def train(plant: Plant, watch: Callable[[Any, Any], Any], seed: int = 0) -> nn.Module:
    """Train; the fault is in step PLANTED. The weights are not finite afterwards."""
    torch.manual_seed(seed)
    net = Net(plant.fault, plant.wrap)
    called: Any = torch.compile(net, backend="eager") if plant.wrap == "compile" else net
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(seed)
    with watch(called, optimizer):
        for step in range(STEPS):
            x = torch.randn(16, 8, generator=generator)
            y = torch.randint(0, 3, (16,), generator=generator)
            on = torch.zeros(16, 1)
            on[3] = float(step == PLANTED)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=plant.cast) if plant.cast else nullcontext():
                out = called(plant.data(x, on), on)
            plant.loss(out.float(), y, on).backward()
            optimizer.step()
    return net

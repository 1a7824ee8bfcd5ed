"""The network of a chain's settings, for the tool's own check: the same weights as the experiment has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unvanish.lab import Settings

if TYPE_CHECKING:
    from unvanish import Problem


def network(s: Settings, weights: Any, targets: Any) -> Problem:
    """The settings of a chain as a problem in float64: its layers, its inputs, its targets and its loss.

    ``weights``: an array of depth × width × width numbers. ``targets``: one for each input, or one for all.
    """
    import torch
    from torch import nn

    from unvanish import Problem
    from unvanish.lab.activations import functions

    phi = functions()[s.activation]

    class Activation(nn.Module):
        def forward(self, x: Any) -> Any:
            return phi(x)

    class Residual(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear, self.activation = linear, Activation()

        def forward(self, x: Any) -> Any:
            return x + self.activation(self.linear(x))

    parts: list[nn.Module] = []
    for weight in torch.tensor(weights).reshape(s.depth, s.width, s.width):
        # on no device first: drawing weights would move the random state
        linear = nn.Linear(s.width, s.width, dtype=torch.float64, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.fill_(s.bias)
        parts += [Residual(linear)] if s.residual else [linear, Activation()]
    inputs = torch.tensor(s.input, dtype=torch.float64)[:, None].expand(-1, s.width)
    aims = torch.tensor(targets, dtype=torch.float64).expand(len(s.input))[:, None]

    def loss(outputs: Any, targets: Any) -> Any:
        out = outputs.sum(1, keepdim=True) / s.width**0.5
        if s.loss == "output":
            return out.sum()
        return ((out - targets) ** 2).sum() * (0.5 if s.loss == "half" else 1.0)

    return Problem(nn.Sequential(*parts), inputs, aims, loss)

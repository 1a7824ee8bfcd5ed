"""Repair a network in Python, with data made here: 8 sigmoid layers that have to tell four clouds of points apart.

unvanish fix examples/repair.py
"""

import torch
import torch.nn.functional as F
from torch import nn

import unvanish

MIDDLES = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])


def clouds(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points in the plane, and to which cloud each belongs."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(MIDDLES), (count,), generator=draw)
    return MIDDLES[labels] + 0.4 * torch.randn(count, 2, generator=draw), labels


def make_model(depth: int = 8, width: int = 12) -> nn.Module:
    """A function instead of a model: every seed of the search begins with weights of its own."""
    layers: list[nn.Module] = [nn.Linear(2, width), nn.Sigmoid()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(width, len(MIDDLES)))


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return (outputs.argmax(1) == targets).float().mean().item()


points, labels = clouds(256, seed=1)
problem = unvanish.Problem(
    make_model,
    points[:64],
    labels[:64],
    loss_fn=F.cross_entropy,
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
    train_batches=list(zip(points.split(32), labels.split(32), strict=True)),
    validation=clouds(200, seed=2),
    metric=accuracy,
    steps=120,
)


def main() -> None:
    """Search, then use the repaired copy on points that no part of the search has seen."""
    fixes = unvanish.fix(problem)
    print(fixes)
    if fixes.model is None:
        return
    fresh, wanted = clouds(500, seed=3)
    with torch.no_grad():
        outputs = fixes.model.eval()(fresh)
    print(f"on new points: {accuracy(outputs, wanted):.1%} right\n")
    print(fixes.code)


if __name__ == "__main__":
    main()

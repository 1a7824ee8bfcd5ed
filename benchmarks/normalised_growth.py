"""Where growth inside normalised layers stops training: the index of UV203 against what short trainings reach.

python benchmarks/normalised_growth.py            # writes benchmarks/results/normalised_growth.json

Networks of Linear, BatchNorm and ReLU on 128 points of a smooth function, in three widths, with and without residual
connections, under SGD and Adam. A network trains if some rate brings the loss below a tenth of that of the best
constant output within 150 steps, as five layers do.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.rules.uv203_normalised_growth import growth

RESULTS = Path(__file__).with_name("results") / "normalised_growth.json"
RATES = {"SGD": (0.1, 0.01), "Adam": (1e-3,)}
STEPS, FITTED = 150, 0.1


class Block(nn.Module):
    """Linear, BatchNorm, ReLU; with ``residual`` a second Linear leads back into a stream that is passed on."""

    def __init__(self, width: int, residual: bool) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(width, width), nn.BatchNorm1d(width)
        self.back = nn.Linear(width, width) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        found = F.relu(self.norm(self.mix(x)))
        return found if self.back is None else x + self.back(found)


def network(depth: int, width: int, residual: bool, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    blocks = [Block(width, residual) for _ in range(depth)]
    return nn.Sequential(nn.Linear(4, width), *blocks, nn.Linear(width, 1))


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.tanh(x[:, :1] + x[:, 1:2])


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """The lowest loss on the way, as a share of the best constant's."""
    x, y = data()
    best, constant = math.inf, float(y.var(correction=0))
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        value = loss.item() / constant
        best = min(best, value)
        if best < FITTED or not math.isfinite(value):
            break
        loss.backward()
        optimizer.step()
    return best


def measured(depth: int, width: int, residual: bool, optimizer: str, seed: int) -> dict[str, Any]:
    best = min(
        trained(model := network(depth, width, residual, seed), getattr(torch.optim, optimizer)(model.parameters(), lr))
        for lr in RATES[optimizer]
    )
    model = network(depth, width, residual, seed)
    x, y = data()
    report = unvanish.diagnose(
        model, x, y, F.mse_loss, optimizer=getattr(torch.optim, optimizer)(model.parameters(), RATES[optimizer][-1])
    )
    found = growth(report.flow)
    return {
        "depth": depth, "width": width, "residual": residual, "optimizer": optimizer, "seed": seed,
        "log10_growth": None if found is None else round(found.decades, 2), "best_loss": round(best, 3),
        "trains": best < FITTED, "codes": [f"{each.code} {each.level}" for each in report.findings],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", default="5,20,50,80")
    parser.add_argument("--widths", default="16,32,64")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for depth in map(int, chosen.depths.split(",")):
        for width in map(int, chosen.widths.split(",")):
            for residual in (False, True):
                for optimizer in RATES:
                    rows.append(measured(depth, width, residual, optimizer, chosen.seed))
                    print(rows[-1], flush=True)
                    RESULTS.write_text(json.dumps({"steps": STEPS, "fitted": FITTED, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Random networks through check, a short fix and watch: does anything crash, or touch what it should leave alone?

python benchmarks/random_models.py --save benchmarks/results/random_models.json [--count 600] [--seed 1]

Each network is drawn from its seed: plain, convolutional, recurrent or with attention, of any depth, some with parts
that are frozen or shared, with dropout, odd scales or numbers that are not finite. Counted are reports and
UnvanishErrors, each a right outcome; any other exception is a fault, and so is a parameter, gradient, buffer or random
state that is not bit for bit as it was, or a watched training whose losses are not those of the unwatched one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance
from strangers import ACTS, random_network

import unvanish

STEPS = 8
"""Of a training in a search, and of a watched one."""
BUDGET = 60


class Recurrent(nn.Module):
    def __init__(self, kind: Any, width: int, layers: int) -> None:
        super().__init__()
        self.cells, self.head = kind(6, width, layers, batch_first=True), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x[:, None].repeat(1, 7, 1))[0][:, -1])


class Attention(nn.Module):
    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(1, width), nn.Linear(width, 3)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout, batch_first=True) for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x[..., None])
        for layer in self.layers:
            h = layer(h)
        return self.head(h.mean(1))


class Shared(nn.Module):
    """One layer that is called over and over."""

    def __init__(self, width: int, times: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.stem, self.layer, self.head, self.act = (
            nn.Linear(6, width),
            nn.Linear(width, width),
            nn.Linear(width, 3),
            act(),
        )
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for _ in range(self.times):
            h = self.act(self.layer(h))
        return self.head(h)


def drawn(seed: int) -> tuple[nn.Module, Any, Any, Any]:
    """Model, inputs, targets and loss of a seed."""
    draw = random.Random(f"model {seed}")
    torch.manual_seed(seed)
    kind = draw.choice(["plain", "plain", "recurrent", "attention", "shared"])
    if kind == "plain":
        model, inputs, targets, loss = random_network(seed)
    else:
        inputs, targets, loss = torch.randn(16, 6), torch.arange(16) % 3, F.cross_entropy
        width, layers = draw.choice([8, 16]), draw.randint(1, 4)
        if kind == "recurrent":
            model: nn.Module = Recurrent(draw.choice([nn.RNN, nn.LSTM, nn.GRU]), width, layers)
        elif kind == "attention":
            model = Attention(width, layers, draw.choice([0.0, 0.1]))
        else:
            model = Shared(width, draw.randint(1, 20), draw.choice(ACTS))
    return altered(model, draw), inputs, targets, loss


def altered(model: nn.Module, draw: random.Random) -> nn.Module:
    """Some of the networks have a part frozen, zero, large, not a number or switched off."""
    parameters = list(model.parameters())
    change = draw.random()
    with torch.no_grad():
        if change < 0.1:
            draw.choice(parameters).requires_grad_(False)
        elif change < 0.15:
            draw.choice(parameters).zero_()
        elif change < 0.25:
            draw.choice(parameters).mul_(10.0 ** draw.uniform(-6, 6))
        elif change < 0.28:
            draw.choice(parameters).view(-1)[0] = draw.choice([float("nan"), float("inf")])
        elif change < 0.3:
            model.requires_grad_(False)
    return model.eval() if draw.random() < 0.2 else model


def state(model: nn.Module) -> list[bytes]:
    """Every parameter, buffer and gradient, the modes and the random state, as bytes."""
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    held = [t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for t in tensors if t.numel()]
    modes = bytes(module.training for module in model.modules())
    return [*held, modes, torch.get_rng_state().numpy().tobytes()]


def losses(model: nn.Module, inputs: Any, targets: Any, loss: Any, to: Path | None) -> list[float]:
    """Of a short training, watched where a file is given."""
    torch.manual_seed(7)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    run = None if to is None else unvanish.watch(model, optimizer, every=2, to=to)
    found: list[float] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        optimizer.step()
        found.append(float(value.detach()))
    if run is not None:
        run.close()
        if "failed" in run.file.broken:
            raise RuntimeError(run.file.broken)
    return found


def one(seed: int, folder: Path) -> dict[str, str]:
    """What became of one network in each of the three."""

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in parameters if p.requires_grad], 1e-3)

    def tried(what: Any) -> str:
        model, inputs, targets, loss = drawn(seed)
        before = state(model)
        try:
            said = what(model, unvanish.Problem(model, inputs, targets, loss, adam, steps=STEPS))
        except unvanish.UnvanishError:
            said = "refused"
        except Exception as error:
            return f"fault: {type(error).__name__}: {error}"[:300]
        return said if said == "watched" or state(model) == before else "fault: something was changed"

    def check(model: nn.Module, problem: unvanish.Problem) -> str:
        report = unvanish.diagnose(problem)
        again = type(report).from_json(report.to_json())
        return "a report" if again.to_json() == report.to_json() and str(report) else "fault: another after its JSON"

    def fix(model: nn.Module, problem: unvanish.Problem) -> str:
        return unvanish.fix(problem, budget=BUDGET, seeds=1, anyway=True).verdict

    def watch(model: nn.Module, problem: unvanish.Problem) -> str:
        if not any(p.requires_grad for p in model.parameters()):
            return "watched"
        path = folder / f"{seed}.unvanish"
        mine = losses(model, problem.inputs, problem.targets, problem.loss_fn, path)
        plain = losses(*drawn(seed), to=None)
        same = all(a == b or (a != a and b != b) for a, b in zip(mine, plain, strict=True))
        run = unvanish.load_run(path)
        if run.facts.get("failed"):
            return f"fault: {run.facts['failed']}"
        if run.steps:
            run.last_report()
        return "watched" if same else "fault: another training"

    return {"check": tried(check), "fix": tried(fix), "watch": tried(watch)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=600, help="how many networks")
    parser.add_argument("--seed", type=int, default=1, help="of the first")
    parser.add_argument("--save", type=Path, help="where to write the counts")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts = {name: Counter[str]() for name in ("check", "fix", "watch")}
    faults: dict[str, str] = {}
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seed, given.seed + given.count):
            for name, said in one(seed, Path(folder)).items():
                counts[name][said.partition(":")[0]] += 1
                if said.startswith("fault"):
                    faults[f"{name} of network {seed}"] = said
                    print(seed, name, said, flush=True)
            if (seed - given.seed) % 50 == 49:
                print(seed, {name: dict(each) for name, each in counts.items()}, flush=True)
    found = {
        **provenance(torch.get_num_threads()), "networks": given.count, "outcomes": counts, "faults": faults,
        "processor seconds": round(time.process_time() - began),
    }  # fmt: skip
    if given.save is not None:
        given.save.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["outcomes"]))


if __name__ == "__main__":
    main()

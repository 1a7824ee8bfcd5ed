"""How fast stacked networks are beside the loop over modules that a person would write, in the same process and run.

python benchmarks/sweep_speed.py --save benchmarks/results/sweep_speed.json

One thread, processor time, so that neighbours on the machine count little. Two loops: "bare" builds each network from
torch's modules, runs it forward and back and takes the norm of every gradient; "same numbers" also works out what a
sweep says of it (the ratio of the signals and what each layer transmits). Each is judged by the bare one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

from unvanish.population import chains, draws, stacked, training
from unvanish.population.data import Images
from unvanish.population.shape import Shape

WANTED = {"chains of depth 100": 3_000, "width 64, depth 20, at initialisation": 8, "training of small networks": 25}


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """The least processor time of some runs."""
    work()
    found = []
    for _ in range(repeats):
        draws.forget()  # a sweep draws its weights too
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def plain(depth: int, width: int, phi: Callable[[], nn.Module]) -> nn.Sequential:
    net = nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width), phi())])
    net.append(nn.Linear(width, min(width, 10)))
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(1.5 / width))
            nn.init.normal_(module.bias, std=0.2)
    return net


def bare(depth: int, width: int, batch: int, phi: Callable[[], nn.Module]) -> None:
    net = plain(depth, width, phi)
    net(torch.randn(batch, width)).square().mean().backward()
    _ = [p.grad.norm().item() for p in net.parameters() if p.grad is not None]


def same_numbers(depth: int, width: int, batch: int, phi: Callable[[], nn.Module]) -> tuple[float, float, float]:
    """The ratio of the signals, the transmission of the first layer and the lowest one, with autograd."""
    net = plain(depth, width, phi)
    here, kept = torch.randn(batch, width), []
    for module in net:
        here = module(here)
        if isinstance(module, nn.Linear):
            here.retain_grad()
            kept.append((module, here))
    here.backward(torch.randn(here.shape))
    signals = [z.grad.norm().item() for _, z in kept]
    sent = [
        math.hypot(*(p.grad.norm().item() * max(p.norm().item(), 1e-9) for p in module.parameters()))
        for module, _ in kept
    ]
    best, lowest = 0.0, 1.0
    for each in reversed(sent):
        best = max(best, each)
        lowest = min(lowest, each / best if best else 0.0)
    return signals[0] / signals[-1] if signals[-1] else 0.0, sent[0] / best if best else 0.0, lowest


def at_start(name: str, shape: Shape, phi: Callable[[], nn.Module], points: int, seeds: int) -> dict[str, Any]:
    variances = np.stack([np.linspace(0.5, 4.0, points), np.full(points, 0.04)])
    if chains.is_chain(shape, False):
        stack = seconds(lambda: chains.flows(shape, variances, range(seeds)), 3)
    else:
        stack = seconds(lambda: stacked.flows(shape, variances, np.zeros(points), range(seeds)), 3)
    loops = {
        "bare": seconds(lambda: bare(shape.depth, shape.width, shape.batch, phi), 30),
        "same numbers": seconds(lambda: same_numbers(shape.depth, shape.width, shape.batch, phi), 30),
    }
    note = f"{points:,} point{'s' * (points > 1)} × {seeds:,} seeds, {shape.batch} sample{'s' * (shape.batch > 1)}"
    return row(name, note, stack / (points * seeds), loops)


def one_training(shape: Shape, data: Images, steps: int) -> None:
    net = nn.Sequential(nn.Linear(shape.inputs, shape.width), nn.Tanh())
    for _ in range(shape.depth - 1):
        net.extend([nn.Linear(shape.width, shape.width), nn.Tanh()])
    net.append(nn.Linear(shape.width, shape.outputs))
    descent = torch.optim.SGD(net.parameters(), lr=0.01)
    for inputs, labels in data.batches(shape.batch, steps, 0):
        descent.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        descent.step()


def trained(name: str, shape: Shape, points: int, seeds: int, steps: int) -> dict[str, Any]:
    parts = [(torch.randn(600, shape.inputs), torch.randint(0, shape.outputs, (600,))) for _ in range(3)]
    data = Images(parts[0], parts[1], parts[2])
    variances, recipe = np.ones((2, points)), training.Recipe("sgd", np.full(points, 0.01), steps)
    stack = seconds(lambda: training.train(shape, variances, np.zeros(points), range(seeds), data, recipe), 1)
    loops = {"bare": seconds(lambda: one_training(shape, data, steps), 3)}
    note = f"{points * seeds:,} networks, {shape.depth} × {shape.width}, batch {shape.batch}, {steps} steps of SGD"
    return row(name, note, stack / (points * seeds), loops)


def row(name: str, note: str, stack: float, loops: dict[str, float]) -> dict[str, Any]:
    times = {loop: each / stack for loop, each in loops.items()}
    said = ", ".join(f"×{times[loop]:,.1f} against {each * 1e3:.2f} ms ({loop})" for loop, each in loops.items())
    print(f"{name} ({note}): {stack * 1e6:,.2f} µs a network; {said}", flush=True)
    return {
        "name": name, "of": note, "stacked_us": stack * 1e6, "wanted": WANTED.get(name),
        "loop_ms": {loop: each * 1e3 for loop, each in loops.items()}, "times": times,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    chain = Shape(100, 1, 1, 1, "sigmoid", "gaussian", batch=1)
    wide = Shape(20, 64, 64, 10, "tanh", "gaussian", batch=16)
    small = Shape(3, 10, 8, 10, "tanh", "gaussian", batch=16)
    first, second, third = WANTED
    rows = [
        at_start(first, chain, nn.Sigmoid, 1_000, 20),
        at_start(f"{first}, every one of its own seed", chain, nn.Sigmoid, 1, 20_000),
        at_start(second, wide, nn.Tanh, 100, 10),
        at_start(f"{second}, every one of its own seed", wide, nn.Tanh, 1, 500),
        trained(third, small, 100, 10, 100),
        trained("training of larger ones", Shape(4, 32, 8, 10, "tanh", "gaussian", batch=32), 20, 10, 100),
    ]
    if args.save:
        note = "processor time of one thread, on a machine shared with other programs"
        args.save.write_text(json.dumps({**provenance(1), "measured": note, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

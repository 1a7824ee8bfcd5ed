"""Trainings in which nothing is wrong, watched: no finding of level error may come.

python benchmarks/watch_healthy.py [--steps 1000] [--every 10] [-o FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from machine import provenance
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish

Training = Callable[[int, Callable[..., Any]], float]
TRAININGS: dict[str, Training] = {}


def training(name: str) -> Callable[[Training], Training]:
    def register(made: Training) -> Training:
        TRAININGS[name] = made
        return made

    return register


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32) / 16.0 - 0.3, torch.tensor(data.target)


def supervised(
    model: nn.Module, make: Any, steps: int, watch: Any, *, shape: tuple[int, ...] = (64,), batch: int = 64,
    schedule: Any = None, cast: Any = None, some: int | None = None, loss_fn: Any = F.cross_entropy,
) -> float:  # fmt: skip
    x, y = digits()
    x, y = (x, y) if some is None else (x[:some], y[:some])
    optimizer = make(model.parameters())
    rates = None if schedule is None else torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    generator = torch.Generator().manual_seed(0)
    loss = torch.zeros(())
    with watch(model, optimizer):
        for _ in range(steps):
            at = torch.randint(0, len(x), (batch,), generator=generator)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=cast) if cast else nullcontext():
                loss = loss_fn(model(x[at].view(batch, *shape)), y[at])
            loss.backward()
            optimizer.step()
            if rates is not None:
                rates.step()
    return loss.item()


def mlp(act: type[nn.Module] = nn.ReLU, depth: int = 4, width: int = 64, **more: Any) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(64, width), act()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), act()]
        if "dropout" in more:
            layers.append(nn.Dropout(more["dropout"]))
        if more.get("norm"):
            layers.append(nn.LayerNorm(width))
    return nn.Sequential(*layers, nn.Linear(width, 10))


def adam(rate: float = 1e-3) -> Any:
    return lambda parameters: torch.optim.Adam(parameters, rate)


TRAININGS["mlp, relu, adam"] = lambda n, w: supervised(mlp(), adam(), n, w)
TRAININGS["mlp, tanh, sgd with momentum"] = lambda n, w: supervised(
    mlp(nn.Tanh, 3), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), n, w
)
TRAININGS["mlp, gelu, layer norm, adamw"] = lambda n, w: supervised(
    mlp(nn.GELU, 6, norm=True), lambda p: torch.optim.AdamW(p, 1e-3), n, w
)
TRAININGS["mlp, dropout"] = lambda n, w: supervised(mlp(dropout=0.3), adam(), n, w)
TRAININGS["mlp, rmsprop"] = lambda n, w: supervised(mlp(), lambda p: torch.optim.RMSprop(p, 1e-3), n, w)
TRAININGS["mlp, plain sgd"] = lambda n, w: supervised(mlp(depth=2), lambda p: torch.optim.SGD(p, 0.1), n, w)
TRAININGS["warm-up"] = lambda n, w: supervised(mlp(), adam(3e-3), n, w, schedule=lambda k: min(1.0, (k + 1) / 200))
TRAININGS["cosine to zero"] = lambda n, w: supervised(
    mlp(), adam(3e-3), n, w, schedule=lambda k: 0.5 * (1 + math.cos(math.pi * k / n))
)
TRAININGS["bfloat16 autocast"] = lambda n, w: supervised(mlp(), adam(), n, w, cast=torch.bfloat16)
TRAININGS["converged on 64 samples"] = lambda n, w: supervised(mlp(), adam(3e-3), n, w, some=64)
TRAININGS["converged, sgd, 16 samples"] = lambda n, w: supervised(
    mlp(nn.Tanh, 2), lambda p: torch.optim.SGD(p, 0.3, momentum=0.9), n, w, some=16, batch=16
)


def decayed(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, 1e-3, weight_decay=0.3)


TRAININGS["strong weight decay"] = lambda n, w: supervised(mlp(), decayed, n, w)


@training("cnn, batch norm")
def _(steps: int, watch: Any) -> float:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip
    return supervised(net, adam(), steps, watch, shape=(1, 8, 8))


class Residual(nn.Module):
    def __init__(self, width: int = 64, depth: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)


TRAININGS["residual, 8 blocks"] = lambda n, w: supervised(Residual(), adam(), n, w)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cell(x)[0][:, -1])


TRAININGS["lstm over rows"] = lambda n, w: supervised(Recurrent(), adam(3e-3), n, w, shape=(8, 8))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = x + self.attention(h, h, h, need_weights=False, attn_mask=mask, is_causal=True)[0]
        return x + self.inner(self.two(x))


class GPT(nn.Module):
    def __init__(self, width: int = 48, blocks: int = 3, words: int = 17) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(words, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        h = self.word(x) + self.place(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


@training("gpt on pixel values")
def _(steps: int, watch: Any) -> float:
    x, _ = digits()
    words = ((x + 0.3) * 16).round().long()
    net = GPT()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    loss = torch.zeros(())
    with watch(net, optimizer):
        for step in range(steps):
            at = torch.randint(0, len(words), (16,), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss = F.cross_entropy(net(words[at, :-1]).flatten(0, 1), words[at, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    return loss.item()


@training("gan on two dimensions")
def _(steps: int, watch: Any) -> float:
    made = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    judge = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    of_made, of_judge = (torch.optim.Adam(m.parameters(), 1e-3, betas=(0.5, 0.9)) for m in (made, judge))
    loss = torch.zeros(())
    with watch({"made": made, "judge": judge}, [of_judge, of_made]):
        for _ in range(steps):
            angle = torch.rand(64, 1) * 2 * math.pi
            real = torch.cat([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(64, 2)
            of_judge.zero_grad()
            (F.softplus(-judge(real)).mean() + F.softplus(judge(made(torch.randn(64, 4)).detach())).mean()).backward()
            of_judge.step()
            of_made.zero_grad()
            loss = F.softplus(-judge(made(torch.randn(64, 4)))).mean()
            loss.backward()
            of_made.step()
    return loss.item()


@training("policy gradient")
def _(steps: int, watch: Any) -> float:
    net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    loss = torch.zeros(())
    with watch(net, optimizer):
        for _ in range(steps):
            state = torch.randn(64, 4)
            policy = torch.distributions.Categorical(logits=net(state))
            action = policy.sample()
            reward = (action == state[:, :3].argmax(1)).float()
            optimizer.zero_grad()
            loss = -(policy.log_prob(action) * (reward - reward.mean())).mean() - 0.01 * policy.entropy().mean()
            loss.backward()
            optimizer.step()
    return loss.item()


@training("autoencoder, accumulation of 4")
def _(steps: int, watch: Any) -> float:
    x, _ = digits()
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8), nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    loss = torch.zeros(())
    with watch(net, optimizer):
        for step in range(4 * steps):
            at = torch.randint(0, len(x), (16,), generator=torch.Generator().manual_seed(step))
            loss = F.mse_loss(net(x[at]), x[at]) / 4
            loss.backward()
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    return loss.item()


@training("regression, lbfgs")
def _(steps: int, watch: Any) -> float:
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.linspace(-3, 3, 64).unsqueeze(1)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=5)
    loss = torch.zeros(())
    with watch(net, optimizer):
        for _ in range(steps // 5):

            def closure() -> Tensor:
                optimizer.zero_grad()
                value = F.mse_loss(net(x), x.sin())
                value.backward()
                return value

            loss = optimizer.step(closure)
    return float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", help="trainings whose name holds this")
    parser.add_argument("-o", "--output")
    args = parser.parse_args()
    torch.set_num_threads(1)
    from watch_healthy_more import MORE  # which builds its own with what is above

    rows: list[dict[str, Any]] = []
    for name, train in [each for each in (TRAININGS | MORE).items() if (args.only or "") in each[0]]:
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            runs: list[Any] = []

            def watch(model: Any, optimizer: Any, runs: list[Any] = runs) -> Any:
                runs.append(unvanish.watch(model, optimizer, every=args.every, to=tempfile.mkdtemp()))
                return runs[0]

            began = time.time()
            loss = train(args.steps, watch)
            failed, found = runs[0].watcher.failed, [(f.code, f.level, f.message) for f in runs[0].findings]
            rows.append({"training": name, "seed": seed, "loss": loss, "failed": failed, "findings": found})
            words = " ".join(f"{code} ({level})" for code, level, _ in found)
            print(f"{name:32} loss {loss:8.4g} {time.time() - began:6.1f} s {failed} {words}", flush=True)
    errors = sum(level == "error" for row in rows for _, level, _ in row["findings"])
    every = sum(len(row["findings"]) for row in rows)
    print(f"{len(rows)} trainings, {errors} findings of level error, {every - errors} notes")
    if args.output:
        text = json.dumps({**provenance(1), "rows": rows}, indent=1)
        Path(args.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

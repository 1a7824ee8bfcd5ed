"""More trainings in which nothing is wrong, of kinds that look like faults: zeros, branches, noise, rest, frozen parts.

``watch_healthy.py`` runs them after its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from watch_healthy import Residual, adam, digits, mlp, supervised

Some = Callable[[Tensor, Tensor], Tensor]


def loop(net: Any, optimizer: Any, watch: Any, batches: Iterator[tuple[Tensor, Tensor]], loss_of: Some) -> float:
    """Steps of ``optimizer``, one a batch, on ``loss_of(x, y)``; the last loss."""
    loss = torch.zeros(())
    with watch(net, optimizer):
        for x, y in batches:
            optimizer.zero_grad()
            loss = loss_of(x, y)
            loss.backward()
            optimizer.step()
    return loss.item()


X, Y = digits()


def batches(steps: int, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        at = torch.randint(0, len(X), (size,), generator=generator)
        yield X[at], Y[at]


def fit(net: nn.Module, steps: int, watch: Any, loss_of: Some, rate: float = 1e-3, size: int = 64) -> float:
    trained = [each for each in net.parameters() if each.requires_grad]
    return loop(net, torch.optim.Adam(trained, rate), watch, batches(steps, size), loss_of)


def entropy(net: nn.Module) -> Some:
    return lambda x, y: F.cross_entropy(net(x), y)


def noisy_labels(steps: int, watch: Any) -> float:
    net = mlp()
    wrong = torch.randint(0, 10, (10,))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), torch.where(torch.rand(len(y)) < 0.5, wrong[y], y))

    return fit(net, steps, watch, loss)


def diffusion(steps: int, watch: Any) -> float:
    net = nn.Sequential(nn.Linear(65, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 64))
    nn.init.zeros_(next(net[-1].parameters()))  # as diffusion models begin

    def loss(x: Tensor, y: Tensor) -> Tensor:
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        mixed = torch.cos(1.57 * t) * x + torch.sin(1.57 * t) * noise
        return F.mse_loss(net(torch.cat([mixed, t], 1)), noise)

    return fit(net, steps, watch, loss)


def contrastive(steps: int, watch: Any) -> float:
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        one, other = (F.normalize(net(x + 0.2 * torch.randn_like(x)), dim=1) for _ in range(2))
        return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(x)))

    return fit(net, steps, watch, loss)


def hinge_at_zero(steps: int, watch: Any) -> float:
    net = mlp(depth=3)
    return fit(net, steps, watch, lambda x, y: F.multi_margin_loss(net(X[:64]), Y[:64]))


def triplets_at_zero(steps: int, watch: Any) -> float:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    one, other = X[:16], X[100:116]
    return fit(net, steps, watch, lambda x, y: F.triplet_margin_loss(net(one), net(one + 0.01), net(other), 0.2))


def accumulated_half_precision(steps: int, watch: Any) -> float:
    net = mlp()
    optimizer, scaler, loss = torch.optim.Adam(net.parameters()), torch.amp.GradScaler("cpu"), torch.zeros(())
    with watch(net, optimizer):
        for step, (x, y) in enumerate(batches(4 * steps, 16)):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(net(x).float(), y) / 4
            scaler.scale(loss).backward()
            if step % 4 == 3:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    return loss.item()


def lbfgs_searching(steps: int, watch: Any) -> float:
    net, value = mlp(nn.Tanh, 2, 32), torch.zeros(())
    optimizer = torch.optim.LBFGS(net.parameters(), lr=1, max_iter=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(X[:256]), Y[:256])
        loss.backward()
        return loss

    with watch(net, optimizer):
        for _ in range(steps // 10):
            value = optimizer.step(closure)
    return float(value.detach())


def frozen_trunk(steps: int, watch: Any) -> float:
    net = mlp()
    for each in list(net.parameters())[:-2]:
        each.requires_grad_(False)
    return fit(net, steps, watch, entropy(net))


def thawed(steps: int, watch: Any) -> float:
    net, step = mlp(), 0
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    layers = [each for each in net if isinstance(each, nn.Linear)]
    for each in layers[:-1]:
        each.requires_grad_(False)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        nonlocal step
        step += 1
        for each in layers[max(0, len(layers) - 1 - 5 * step // steps) :]:
            each.requires_grad_(True)
        return F.cross_entropy(net(x), y)

    return loop(net, optimizer, watch, batches(steps), loss)


def fine_tuned(steps: int, watch: Any) -> float:
    net = mlp(norm=True)
    fit(net, steps // 3, lambda *_: nullcontext(), entropy(net))
    net[-1] = nn.Linear(64, 10)
    nn.init.zeros_(next(net[-1].parameters()))
    groups = [{"params": net[:-1].parameters(), "lr": 1e-5}, {"params": net[-1].parameters()}]
    loss = lambda x, y: F.cross_entropy(net(x), (y + 3) % 10)  # noqa: E731
    return loop(net, torch.optim.AdamW(groups, 1e-3), watch, batches(steps), loss)


class Dropped(Residual):
    """A block is left out in half of the steps."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h) if torch.rand(()) > 0.5 else h
        return self.last(h)


class Gated(Residual):
    """ReZero: each block begins at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for gate, block in zip(self.gates, self.blocks, strict=True):
            h = h + gate * block(h)
        return self.last(h)


class Experts(nn.Module):
    """Each sample goes to one of eight experts; some get none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(64, 64), nn.Linear(64, 8), nn.Linear(64, 10)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        share, which = self.gate(h).softmax(-1).max(-1)
        mixed = torch.zeros_like(h)
        for at, expert in enumerate(self.experts):
            mine = (which == at).nonzero()[:, 0]
            if len(mine):
                mixed = mixed.index_put((mine,), share[mine, None] * expert(h[mine]))
        return self.last(h + mixed)


def variational(steps: int, watch: Any) -> float:
    """The part of the loss that alone trains the variance has no weight in the first step."""
    net = nn.ModuleDict({
        "trunk": nn.Sequential(nn.Linear(64, 64), nn.ReLU()), "mean": nn.Linear(64, 8), "width": nn.Linear(64, 8),
        "back": nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64)),
    })  # fmt: skip
    step = 0

    def loss(x: Tensor, y: Tensor) -> Tensor:
        nonlocal step
        h = net["trunk"](x)
        mean, width = net["mean"](h), net["width"](h)
        apart = 0.5 * (mean.square() + width.exp() - 1 - width).sum(1).mean()
        step += 1
        return F.mse_loss(net["back"](mean), x, reduction="sum") / 64 + min(1.0, step / 500) * apart

    return fit(net, steps, watch, loss)


def value_learning(steps: int, watch: Any) -> float:
    net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    target, optimizer, loss = copy.deepcopy(net), torch.optim.Adam(net.parameters(), 1e-3), torch.zeros(())
    with watch(net, optimizer):
        for step in range(steps):
            state, action = torch.randn(64, 4), torch.randint(0, 3, (64,))
            reward = (state[:, :3].argmax(1) == action).float()
            with torch.no_grad():
                wanted = reward + 0.9 * target(torch.randn(64, 4)).amax(1)
            optimizer.zero_grad()
            loss = F.smooth_l1_loss(net(state).gather(1, action[:, None])[:, 0], wanted)
            loss.backward()
            for each in net.parameters():
                each.grad.data.clamp_(-1, 1)  # type: ignore[union-attr]
            optimizer.step()
            if step % 50 == 0:
                target.load_state_dict(net.state_dict())
    return loss.item()


def critic_with_penalty(steps: int, watch: Any) -> float:
    maker = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    critic = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
    of_maker, of_critic = (torch.optim.Adam(each.parameters(), 1e-4, (0.0, 0.9)) for each in (maker, critic))
    loss = torch.zeros(())
    with watch({"maker": maker, "critic": critic}, [of_critic, of_maker]):
        for _ in range(steps // 3):
            for _ in range(3):
                angle = 2 * math.pi * torch.rand(64, 1)
                true, false = torch.cat([angle.cos(), angle.sin()], 1), maker(torch.randn(64, 4)).detach()
                between = torch.lerp(true, false, torch.rand(64, 1)).requires_grad_()
                (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
                of_critic.zero_grad()
                loss = critic(false).mean() - critic(true).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()
                loss.backward()
                of_critic.step()
            of_maker.zero_grad()
            (-critic(maker(torch.randn(64, 4))).mean()).backward()
            of_maker.step()
    return loss.item()


def tasks_in_turn(steps: int, watch: Any) -> float:
    trunk, heads, step = nn.Sequential(nn.Linear(64, 64), nn.ReLU()), [nn.Linear(64, 10), nn.Linear(64, 2)], 0

    def loss(x: Tensor, y: Tensor) -> Tensor:
        nonlocal step
        step += 1
        return F.cross_entropy(heads[step % 2](trunk(x)), y % (2 if step % 2 else 10))

    return fit(nn.ModuleList([trunk, *heads]), steps, watch, loss)


def rare_words(steps: int, watch: Any) -> float:
    words, net = nn.Embedding(1000, 16, sparse=True), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizers = [torch.optim.SparseAdam(words.parameters(), 1e-2), torch.optim.Adam(net.parameters(), 1e-3)]
    loss = torch.zeros(())
    with watch({"words": words, "net": net}, optimizers):
        for _ in range(steps):
            ids = torch.randint(0, 1000, (64, 8))
            for each in optimizers:
                each.zero_grad()
            loss = F.cross_entropy(net(words(ids).mean(1)), ids[:, 0] % 10)
            loss.backward()
            for each in optimizers:
                each.step()
    return loss.item()


def exact_fit(steps: int, watch: Any) -> float:
    net, line = nn.Linear(8, 1), torch.randn(8)
    x = torch.randn(64, 8)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    return loop(net, optimizer, watch, batches(steps), lambda _, y: F.mse_loss(net(x)[:, 0], x @ line))


def large_numbers(steps: int, watch: Any) -> float:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    return fit(net, steps, watch, lambda x, y: F.mse_loss(net(x)[:, 0], 1e4 * y, reduction="sum"), 1e-2)


def half_weights(steps: int, watch: Any) -> float:
    net = mlp().bfloat16()
    loss = lambda x, y: F.cross_entropy(net(x.bfloat16()).float(), y)  # noqa: E731
    return loop(net, torch.optim.SGD(net.parameters(), 0.1), watch, batches(steps), loss)


MORE: dict[str, Any] = {
    "warm-up to a large rate": lambda n, w: supervised(
        mlp(nn.GELU, 6, norm=True), adam(1e-2), n, w, schedule=lambda k: min(1.0, (k + 1) / 500)
    ),
    "rate of zero for a while": lambda n, w: supervised(
        mlp(), lambda p: torch.optim.SGD(p, 0.05), n, w, schedule=lambda k: float(not 200 < k < 400)
    ),
    "restarts": lambda n, w: supervised(mlp(), adam(3e-3), n, w, schedule=lambda k: 1.0 - (k % 100) / 100),
    "batch of one": lambda n, w: supervised(mlp(depth=3), lambda p: torch.optim.SGD(p, 0.01), n, w, batch=1),
    "dropout of 0.8": lambda n, w: supervised(mlp(dropout=0.8, width=128), adam(), n, w),
    "two sigmoids": lambda n, w: supervised(mlp(nn.Sigmoid, 2), adam(3e-3), n, w),
    "blocks dropped at random": lambda n, w: supervised(Dropped(), adam(), n, w),
    "gates that begin at zero": lambda n, w: supervised(Gated(), adam(), n, w),
    "eight experts": lambda n, w: supervised(Experts(), adam(), n, w),
    "half of the labels wrong": noisy_labels, "diffusion": diffusion, "contrastive": contrastive,
    "hinge loss at zero": hinge_at_zero, "triplets at zero": triplets_at_zero,
    "float16, scaler, accumulation, clipping": accumulated_half_precision, "lbfgs with a search": lbfgs_searching,
    "frozen trunk": frozen_trunk, "thawed layer by layer": thawed, "fine-tuning": fine_tuned,
    "variational autoencoder": variational, "value learning": value_learning,
    "critic with a penalty": critic_with_penalty,
    "two tasks in turn": tasks_in_turn, "rare words": rare_words, "exact fit of a line": exact_fit,
    "targets of 10,000": large_numbers, "bfloat16 weights": half_weights,
}  # fmt: skip

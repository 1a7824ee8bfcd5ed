"""Every layer's gradient norm is autograd's in float64: on random networks, shared parameters and library models."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from unvanish import Problem
from unvanish.pipeline import look
from unvanish.records import LayerFlow
from unvanish.trace.structure import rebuild

CLOSE = 1e-3  # decades
LEAST = 1e-5  # of the largest layer's gradient: what rounding in float32 leaves of sums that cancel is no number


def expected(problem: Problem, model: nn.Module) -> dict[str, float]:
    """log10 of the norm of each parameter's gradient, by the name it is first found under, in float64."""
    double = copy.deepcopy(model).double()
    wide = Problem(
        double,
        rebuild(problem.inputs, lambda t: t.double() if t.is_floating_point() else t),
        rebuild(problem.targets, lambda t: t.double() if t.is_floating_point() else t),
        problem.loss_fn,
    )
    torch.manual_seed(0)
    named = {n: p for n, p in double.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(wide.loss(wide.outputs(double)), list(named.values()), allow_unused=True)
    return {n: float(g.norm()) for n, g in zip(named, gradients, strict=True) if g is not None}


def own_names(model: nn.Module, layer: LayerFlow) -> list[str]:
    """The parameters of a layer by the names ``expected`` gives them; each once."""
    first = {id(p): n for n, p in model.named_parameters()}
    path = layer.name.partition("#")[0]
    every = dict(model.named_parameters(remove_duplicate=False))
    if path in every:
        return [first[id(every[path])]]
    module: Any = model.get_submodule(path)
    inside = module.parametrizations.parameters() if hasattr(module, "parametrizations") else ()
    held = [*module._parameters.values(), *inside]
    return sorted({first[id(p)] for p in held if p is not None and p.requires_grad})


def check(problem: Problem) -> int:
    """Compare every layer; returns how many were compared."""
    model = problem.model
    assert isinstance(model, nn.Module)
    right = expected(problem, model)
    flow = look(problem, "quick")
    largest, compared = max(right.values()), 0
    seen: set[str] = set()
    for layer in flow.layers:
        names = [n for n in own_names(model, layer) if n in right]
        seen.update(names)
        norm = math.hypot(*(right[n] for n in names))
        if not names or norm == 0.0:
            assert layer.log10_grad_norm in (None, -math.inf), layer.name
        elif norm > LEAST * largest:
            assert layer.log10_grad_norm == pytest.approx(math.log10(norm), abs=CLOSE), layer.name
            compared += 1
    assert seen == set(right), "every parameter with a gradient belongs to a layer"
    assert sum({layer.name: layer.parameters for layer in flow.layers if "#" not in layer.name}.values()) >= sum(
        p.numel() for p in model.parameters()
    )
    return compared


class Random(nn.Module):
    """A network drawn by a seed: a chain of random pieces with skips, branches, sharing, cuts and frozen parts."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        draw = self.draw = random.Random(seed)
        width = self.width = draw.choice((4, 7, 12))
        self.embed = nn.Linear(5, width)
        self.parts = nn.ModuleList()
        self.plan: list[tuple[str, int]] = []
        self.gains = nn.ParameterList()
        for _ in range(draw.randint(1, 8)):
            kind = draw.choice(("plain", "skip", "again", "gain", "branch", "twin", "act", "norm", "detach", "sum"))
            self.plan.append((kind, len(self.parts)))
            self.parts.append(self.part(kind))
            self.gains.append(nn.Parameter(torch.randn(width)))
        self.head = nn.Linear(width, 3)
        if draw.random() < 0.2:
            self.parts[0].requires_grad_(False)
        if draw.random() < 0.2:
            self.twice = self.head.weight  # one parameter under two names

    def part(self, kind: str) -> nn.Module:
        width, draw = self.width, self.draw
        if kind == "act":
            return draw.choice((nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.PReLU(), nn.Softplus(), nn.SiLU()))
        if kind == "norm":
            return draw.choice((nn.LayerNorm(width), nn.BatchNorm1d(width), nn.GroupNorm(1, width)))
        if kind == "twin":
            return parametrizations.weight_norm(nn.Linear(width, width))
        return nn.Linear(width, width, bias=draw.random() < 0.7)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for kind, index in self.plan:
            part, gain = self.parts[index], self.gains[index]
            if kind == "skip":
                h = h + torch.tanh(part(h))
            elif kind == "again":
                h = torch.tanh(part(torch.tanh(part(h))))
            elif kind == "gain":
                h = part(h) * gain + gain
            elif kind == "branch":
                h = torch.cat([part(h)[:, :1], h[:, 1:]], 1)
            elif kind == "detach":
                h = part(h.detach()) + 0.5 * h
            elif kind == "sum":
                h = F.linear(h, gain.diag() @ getattr(part, "weight")) / math.sqrt(self.width)  # noqa: B009
            else:
                h = part(h)
        return self.head(h)


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed: int) -> None:
    model = Random(seed)
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(seed))
    loss_fn: Callable[..., Any] = (F.cross_entropy, F.multi_margin_loss)[seed % 2]
    assert check(Problem(model, x, torch.arange(9) % 3, loss_fn))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Parameter(torch.full((8,), 0.5))
        self.v = self.w
        self.l = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.l(x * self.w + self.v)


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        gain = nn.Parameter(torch.ones(8))
        self.gains, self.l = nn.ParameterList([gain, gain]), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.l(x * self.gains[0] + self.gains[1])


@pytest.mark.parametrize("build", [lambda: nn.Sequential(Twice()), Twice, Listed])
def test_one_parameter_under_two_names_counts_once(build: Callable[[], nn.Module]) -> None:
    model = build()
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    y = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    problem = Problem(model, x, y, F.mse_loss, torch.optim.SGD(model.parameters(), 0.1))
    assert check(problem) == 2
    flow = look(problem)
    shared = flow.layers[0]
    assert sum(layer.parameters for layer in flow.layers) == sum(p.numel() for p in model.parameters()) == 53
    (weight,) = [p for p in model.parameters() if p.numel() == 8]
    assert shared.log10_weight_norm == pytest.approx(float(weight.detach().norm().log10()), abs=1e-6)
    gradient = torch.autograd.grad(F.mse_loss(model(x), y), weight)[0]
    ratio = float(0.1 * gradient.norm() / weight.detach().norm())
    assert shared.update_to_weight_ratio == pytest.approx(ratio, rel=1e-4)


def test_a_recurrent_layer_and_attention() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.look = nn.GRU(4, 8, 2, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h, _ = self.rnn(x)
            return self.head(self.look(h, h, h, need_weights=False)[0].mean(1))

    assert check(Problem(Reads(), torch.randn(6, 10, 4), torch.arange(6) % 3, F.cross_entropy)) >= 3


def library(name: str) -> Problem:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16)
        model = transformers.GPT2LMHeadModel(config)
    elif name == "bert":
        model = transformers.BertForMaskedLM(transformers.BertConfig(**small, intermediate_size=32))
    else:
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**small, intermediate_size=32, num_key_value_heads=2, attn_implementation="eager")
        )
    return Problem(model.eval(), {"input_ids": words, "labels": words})


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_library_models(name: str) -> None:
    assert check(library(name)) > 10

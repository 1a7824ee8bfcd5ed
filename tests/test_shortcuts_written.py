"""Residual connections around the blocks of forwards that are written out, and the reasons where there are none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.remedies import Draft, Refused, get, script


class Looped(nn.Module):
    """A loop over a ModuleList, the activation a function."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.hidden = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.first(x))
        for layer in self.hidden:
            h = torch.sigmoid(layer(h))
        return self.last(h)

    def expected(self, x: Tensor, scale: float) -> Tensor:
        h = torch.sigmoid(self.first(x))
        for layer in self.hidden:
            h = h + scale * torch.sigmoid(layer(h))
        return self.last(h)


class Block(nn.Module):
    def __init__(self, shortcut: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.shortcut = nn.Linear(8, 16), nn.Linear(16, 8), shortcut

    def forward(self, h: Tensor) -> Tensor:
        y = self.b(torch.tanh(self.a(h)))
        return h + y if self.shortcut else y


class Blocks(nn.Module):
    """A loop over modules of two layers each, in a body of its own."""

    def __init__(self, shortcut: bool = False) -> None:
        super().__init__()
        self.body = nn.ModuleList(Block(shortcut) for _ in range(3))
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.body:
            h = block(h)
        return self.last(h)

    def expected(self, x: Tensor, scale: float) -> Tensor:
        h: Any = self.first(x)
        for block in self.body:
            h = h + scale * block(h)
        return self.last(h)


class Once(nn.Module):
    """One layer with a normaliser used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.act = nn.Linear(5, 5), nn.LayerNorm(5), nn.GELU()
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.act(self.norm(self.layer(x)))
        return self.last(x)

    def expected(self, x: Tensor, scale: float) -> Tensor:
        for _ in range(3):
            x = x + scale * self.act(self.norm(self.layer(x)))
        return self.last(x)


class Joined(Looped):
    """The shortcut stands in the loop already."""

    def forward(self, x: Tensor) -> Tensor:
        return self.expected(x, 1.0)


class Stopping(Looped):
    """A loop that ends when the data say so: torch.fx cannot read it."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.first(x))
        for layer in self.hidden:
            if h.mean() > 2.0:
                break
            h = torch.sigmoid(layer(h))
        return self.last(h)


class Gates(nn.Module):
    """The only activation of its shape is a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h * torch.sigmoid(self.gate(h)))


X = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3


def draft_of(model: nn.Module) -> Draft:
    return Draft.of(Problem(model, X, Y, F.cross_entropy), model, None)


@pytest.mark.parametrize(("build", "count"), [(Looped, 4), (Blocks, 3), (Once, 3)])
def test_each_block_adds_to_what_came_in(build: Any, count: int) -> None:
    with seeded(1):
        model = build()
    draft = draft_of(model)
    change = get("residual").apply(draft)
    expected = model.expected(X, 1.0 / math.sqrt(count))
    assert torch.allclose(draft.model(X), expected, atol=1e-5)
    names: dict[str, Any] = {"model": model, "loss_fn": F.cross_entropy, "restore_outputs": None}
    exec(script([change], draft.recipe, draft.model), names)
    assert torch.equal(names["model"](X), draft.model(X))
    gated = draft_of(build())
    get("rezero").apply(gated)
    scales = [p for name, p in gated.model.named_parameters() if name.endswith("scale")]
    assert len(scales) == count and not any(float(p.detach()) for p in scales)
    found = torch.autograd.grad(gated.model(X).sum(), scales)
    assert all(bool(g.abs() > 0.0) for g in found)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Joined, "without a shortcut of its own"),
        (lambda: Blocks(shortcut=True), "without a shortcut of its own"),
        (Gates, "no block keeps its shape"),
        (Stopping, "torch.fx cannot trace .*TraceError"),
    ],
)
def test_where_no_block_can_be_given_one_the_reason_is_said(build: Any, words: str) -> None:
    draft = draft_of(build())
    before = draft.model
    with pytest.raises(Refused, match=words):
        get("residual").apply(draft)
    assert draft.model is before


def test_a_deep_loop_of_sigmoids_learns_with_it_and_not_without() -> None:
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(2))
    y = (x[:, 0] > 0).long()
    with seeded(3):
        model = Looped(20)
    found = []
    for slug in ("", "residual"):
        draft = Draft.of(Problem(model, x, y, F.cross_entropy), model, torch.optim.Adam(model.parameters(), 1e-2))
        if slug:
            get(slug).apply(draft)
        optimizer = draft.recipe.build(draft.model.parameters())
        for _ in range(100):
            optimizer.zero_grad()
            F.cross_entropy(draft.model(x), y).backward()
            optimizer.step()
        found.append(float(F.cross_entropy(draft.model(x), y).detach()))
    assert found[0] > 0.6 and found[1] < 0.35


class Differentiating(nn.Module):
    """A forward with a tensor of its own making and a derivative in it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)])

    def run(self, x: Tensor) -> Tensor:
        return self.net[2](torch.tanh(self.net[1](torch.tanh(self.net[0](x)))))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.run(x).sum(), x, create_graph=True)
        return self.run(x) + slope.mean(1, keepdim=True) + self.run(torch.zeros(1, 5))


def test_a_forward_with_tensors_and_derivatives_of_its_own_is_changed_or_refused_and_nothing_else() -> None:
    model = Differentiating()
    for slug in ("residual", "rezero"):
        draft = draft_of(model)
        try:
            get(slug).apply(draft)
        except Refused as refusal:
            assert "forward" in str(refusal)
            continue
        assert torch.isfinite(draft.model(X)).all()
    assert not [name for name in vars(model) if "constant" in name]

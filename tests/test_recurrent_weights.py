"""A recurrent weight that starts as the identity: which layers it finds, what it makes of them, what it leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded
from unvanish.remedies import Draft, Refused, get


def draft_of(model: nn.Module, x: Tensor, pretrained: bool = False) -> Draft:
    problem = unvanish.Problem(model, x, torch.zeros(len(x), 2), F.mse_loss)
    return Draft.of(problem, model, None, pretrained=pretrained)


class Read(nn.Module):
    """The last state of a layer, read out."""

    def __init__(self, read: nn.Module) -> None:
        super().__init__()
        self.read, self.head = read, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


class Cell(nn.Module):
    """A loop of one's own; the layer of the inputs is square as well."""

    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.inlet, self.state, self.gate, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.gated = gated

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 6)
        for step in range(x.shape[1]):
            new = torch.relu(self.inlet(x[:, step]) + self.state(h))
            kept = torch.sigmoid(self.gate(h)) if self.gated else 0.0
            h = kept * h + (1.0 - kept) * new
        return self.head(h)[:, :2]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_state_is_kept_as_it_is_and_the_inputs_are_divided_by_the_root_of_the_steps(
    activation: str, seed: int
) -> None:
    with seeded(seed):
        model = Read(nn.RNN(3, 6, nonlinearity=activation, batch_first=True))
        x = torch.randn(5, 16, 3)
    read: Any = model.read
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    draft = draft_of(model, x)
    get("identity-recurrence").apply(draft)
    phi = getattr(torch, activation)
    h = torch.zeros(5, 6)
    for step in range(16):
        h = phi(x[:, step] @ read.weight_ih_l0.T / 4.0 + h)
    assert torch.allclose(draft.model(x), model.head(h), atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())  # the user's own


def test_in_a_loop_of_ones_own_the_layer_that_is_fed_its_own_outputs_is_found() -> None:
    draft = draft_of(Cell(), torch.randn(4, 7, 6))
    change = get("identity-recurrence").apply(draft)
    assert change.edits == ("state",)
    model: Any = draft.model
    assert torch.equal(model.state.weight, torch.eye(6)) and not bool(model.state.bias.any())
    assert not torch.equal(model.inlet.weight, torch.eye(6))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Cell(gated=True), "gates"),
        (Read(nn.GRU(6, 6, batch_first=True)), "no plain recurrent layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(42, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2)), "no plain"),
    ],
)
def test_gates_and_layers_that_are_called_once_are_left_alone(model: nn.Module, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        get("identity-recurrence").apply(draft_of(model, torch.randn(4, 7, 6)))


def test_weights_that_have_seen_training_are_kept() -> None:
    with pytest.raises(Refused, match="seen training"):
        get("identity-recurrence").apply(draft_of(Cell(), torch.randn(4, 7, 6), pretrained=True))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_search_repairs_a_plain_recurrent_layer_that_forgets(seed: int) -> None:
    """The first of thirty symbols, one of four, is wanted at the end."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(6, 12), nn.Linear(32, 4)
            self.read = nn.RNN(12, 32, nonlinearity="relu", batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.read(self.embed(x))[0][:, -1])

    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(4, 6, (1000, 30), generator=draw)
    x[:, 0] = torch.randint(0, 4, (1000,), generator=draw)
    y = x[:, 0].clone()
    problem = unvanish.Problem(
        Words, x[:40], y[:40], F.cross_entropy, lambda p: torch.optim.Adam(p, 1e-3),
        list(zip(x[:800].split(40), y[:800].split(40), strict=True)), (x[800:], y[800:]),
        lambda o, t: (o.argmax(1) == t).float().mean(), 300,
    )  # fmt: skip
    fixes = unvanish.fix(problem, seed=seed)
    assert [f.code for f in fixes.before.findings if f.level == "error"] == ["UV102"]
    assert fixes.best is not None and "identity-recurrence" in fixes.best.edits, fixes
    assert fixes.best.score is not None and fixes.best.baseline is not None
    assert fixes.best.score > 0.9 > 0.5 > fixes.best.baseline

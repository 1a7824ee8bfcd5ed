"""Remedies of plain mistakes: strong dropout, large embeddings, layers that stand still, a state that is detached."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_trials_parts import race_of
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import unvanish
from unvanish.preserve import seeded
from unvanish.remedies import Draft, Refused, get
from unvanish.remedies.thawed import as_drawn, standing_still
from unvanish.report.fix_text import advice
from unvanish.trials import fix, probe


def draft(model: nn.Module, inputs: Any, targets: Any = None, **more: Any) -> Draft:
    problem = unvanish.Problem(model, inputs, targets, F.mse_loss)
    return Draft.of(problem, model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad]), **more)


def test_dropout_above_a_half_is_set_to_a_tenth_wherever_it_stands() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.Linear(4, 4), nn.Dropout1d(0.6), nn.Dropout(0.5))
    of = draft(model, torch.randn(8, 4), torch.zeros(8, 4))
    change = get("weaker-dropout").apply(of)
    assert [m.p for m in of.model.modules() if hasattr(m, "p")] == [0.1, 0.1, 0.5]
    assert model[1].p == 0.9 and change.sentence == "dropout of 0.1 instead of 0.9 in 1, 3"
    with pytest.raises(Refused, match="zeroes more than"):
        get("weaker-dropout").apply(of)


def test_dropout_inside_of_recurrent_and_attention_layers() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.LSTM(4, 8, num_layers=2, dropout=0.8, batch_first=True)
            self.attend = nn.MultiheadAttention(8, 2, dropout=0.7, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            h = self.read(x)[0]
            return self.attend(h, h, h)[0]

    of = draft(Both(), torch.randn(2, 3, 4), torch.zeros(2, 3, 8))
    get("weaker-dropout").apply(of)
    both: Any = of.model
    assert (both.read.dropout, both.attend.dropout) == (0.1, 0.1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [4, 64])
def test_embeddings_are_drawn_with_length_one(seed: int, width: int) -> None:
    with seeded(seed):
        model = nn.Sequential(nn.Embedding(500, width, padding_idx=3), nn.Flatten(), nn.Linear(5 * width, 1))
        with torch.no_grad():
            model[0].get_parameter("weight").mul_(5.0)
        of = draft(model, torch.randint(0, 500, (8, 5)), torch.zeros(8, 1), seed=seed)
    last = of.model.get_parameter("2.weight").clone()
    get("small-embeddings").apply(of)
    weight = of.model.get_parameter("0.weight").detach()
    assert not weight[3].any()
    assert math.sqrt(float(weight.square().sum(1).mean())) == pytest.approx(1.0, rel=0.1)
    assert torch.equal(of.model.get_parameter("2.weight"), last)
    with pytest.raises(Refused, match="length 1"):
        get("small-embeddings").apply(of)


def test_embeddings_that_are_kept() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, words: Tensor) -> Tensor:
            return self.head(self.embed(words))

    words = torch.randint(0, 20, (8, 5))
    with pytest.raises(Refused, match="another layer"):
        get("small-embeddings").apply(draft(Tied(), words, torch.zeros(8, 5, 20)))
    model = nn.Sequential(nn.Embedding(20, 16))
    with pytest.raises(Refused, match="seen training"):
        get("small-embeddings").apply(draft(model, words, torch.zeros(8, 5, 16), pretrained=True))
    with pytest.raises(Refused, match="no embedding"):
        get("small-embeddings").apply(draft(nn.Linear(3, 1), torch.randn(4, 3), torch.zeros(4, 1)))


PARAMETRISED = {"weight norm": parametrizations.weight_norm, "spectral norm": parametrizations.spectral_norm}
"""With these a weight is computed from other tensors, and nn.init changes nothing: findings/init_after_norm.sh."""


@pytest.mark.parametrize("kind", PARAMETRISED)
def test_embeddings_that_are_computed_are_kept(kind: str) -> None:
    words, computed = torch.randint(0, 20, (8, 5)), PARAMETRISED[kind](nn.Embedding(20, 16))
    with pytest.raises(Refused, match="computed from other weights"):
        get("small-embeddings").apply(draft(nn.Sequential(computed), words, torch.zeros(8, 5, 16)))
    both = nn.ModuleDict({"large": nn.Embedding(20, 16), "computed": computed})
    with torch.no_grad():
        both["large"].get_parameter("weight").mul_(5.0)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = both

        def forward(self, words: Tensor) -> Tensor:
            return self.both["large"](words) + self.both["computed"](words)

    change = get("small-embeddings").apply(draft(Sum(), words, torch.zeros(8, 5, 16)))
    assert change.sentence.endswith(" in both.large")


@pytest.mark.parametrize("slug", ["he-init", "xavier-init", "orthogonal-init", "lsuv-init", "centred-init"])
@pytest.mark.parametrize("kind", PARAMETRISED)
def test_an_initialisation_leaves_computed_weights_alone_and_says_so(kind: str, slug: str) -> None:
    with seeded(0):
        layers = [nn.Linear(8, 8), nn.Sigmoid(), PARAMETRISED[kind](nn.Linear(8, 8)), nn.Sigmoid(), nn.Linear(8, 1)]
        of = draft(nn.Sequential(*layers), torch.randn(16, 8), torch.zeros(16, 1))
    before = {name: value.detach().clone() for name, value in of.model.named_parameters()}
    change = get(slug).apply(of)
    moved = {name for name, value in of.model.named_parameters() if not torch.equal(value, before[name])}
    assert "1 reparametrised left alone" in change.sentence
    assert {"0.weight", "4.weight"} <= moved and not {name for name in moved if name.startswith("2.")}


def half_frozen(*layers: nn.Module) -> nn.Sequential:
    model = nn.Sequential(*layers, nn.Linear(16, 1))
    model[:-1].requires_grad_(False)
    return model


@pytest.mark.parametrize("seed", range(5))
def test_layers_frozen_as_torch_draws_them_are_told_from_trained_ones(seed: int) -> None:
    with seeded(seed):
        x = torch.randn(64, 8)
        drawn = half_frozen(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        convolved = half_frozen(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 32, 8), nn.Flatten(), nn.Linear(32, 16))
        trained = half_frozen(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        normal = half_frozen(nn.Linear(8, 16), nn.Tanh())
        nn.init.kaiming_normal_(normal[0].weight)  # type: ignore[arg-type]
        trained.requires_grad_(True)
        optimizer = torch.optim.Adam(trained.parameters(), 1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            (trained(x) - x[:, :1]).square().mean().backward()
            optimizer.step()
        trained[:-1].requires_grad_(False)
    assert as_drawn(drawn) == standing_still(drawn) == ["0", "2"]
    assert as_drawn(convolved) == ["1", "3"]
    assert standing_still(trained) == ["0", "2"] and as_drawn(trained) == as_drawn(normal) == []
    of = draft(drawn, x, x[:, :1])
    get("train-all").apply(of)
    assert all(p.requires_grad for p in of.model.parameters()) and not drawn[0].weight.requires_grad
    assert sum(len(group["params"]) for group in of.recipe.build(of.model.parameters()).param_groups) == 6
    for other in (trained, normal):
        with pytest.raises(Refused, match="on purpose"):
            get("train-all").apply(draft(other, x, x[:, :1]))
    with pytest.raises(Refused, match="on purpose"):
        get("train-all").apply(draft(drawn, x, x[:, :1], pretrained=True))
    with pytest.raises(Refused, match="no layer is frozen"):
        get("train-all").apply(draft(nn.Linear(8, 1), x, x[:, :1]))


def parted(model: nn.Module, steps: int, optimizer: Any) -> unvanish.Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 4, generator=generator)
    y = torch.sin(x.sum(1, keepdim=True))
    batches = list(zip(x[:384].split(64), y[:384].split(64), strict=True))
    return unvanish.Problem(
        model, x[:64], y[:64], F.mse_loss, optimizer=optimizer, train_batches=batches, validation=(x[384:], y[384:]),
        steps=steps,
    )  # fmt: skip


def test_an_optimizer_of_the_head_alone_is_repaired() -> None:
    with seeded(0):
        model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2), nn.Tanh(), nn.Linear(2, 1))
    fixes = fix(parted(model, 400, torch.optim.Adam(model[-1].parameters(), 1e-2)))
    assert fixes.best is not None and "train-all" in fixes.best.edits, fixes
    assert any("not trained, with weights as torch draws them: 0, 2" in remark for remark in fixes.remarks)


class Loop(nn.Module):
    """A loop over a fixed number of steps, or over the length of the input, with a state cut or not."""

    def __init__(self, steps: int | None, cut: bool) -> None:
        super().__init__()
        self.steps, self.cut = steps, cut
        self.cell, self.head = nn.GRUCell(2, 12), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 12)
        for step in range(x.shape[1] if self.steps is None else self.steps):
            kept = state.detach() if self.cut else state
            state = self.cell(x[:, step], kept)
        return self.head(state)


@pytest.mark.parametrize("seed", range(3))
def test_a_detached_state_gets_the_gradient_of_a_loop_without_the_cut(seed: int) -> None:
    with seeded(seed):
        model, x = Loop(6, cut=True), torch.randn(16, 6, 2)
    whole = Loop(6, cut=False)
    whole.load_state_dict(model.state_dict())
    of = draft(model, x, x[:, 0, :1])
    change = get("attached-state").apply(of)
    lines = Path(__file__).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.strip().startswith("kept = state.detach()"))
    assert f"{Path(__file__).name}:{line}" in change.sentence
    for each in (of.model, whole, model):
        F.mse_loss(each(x), x[:, 0, :1]).backward()
    mine, right, cut = ([p.grad for p in each.parameters()] for each in (of.model, whole, model))
    for a, b in zip(mine, right, strict=True):
        assert a is not None and b is not None and torch.allclose(a, b, rtol=1e-5, atol=1e-7)
    assert any(not torch.allclose(a, b) for a, b in zip(cut, right, strict=True))  # type: ignore[arg-type]


def test_where_the_forward_cannot_be_read_the_line_is_named() -> None:
    x = torch.randn(16, 6, 2)
    with pytest.raises(Refused, match=rf"{Path(__file__).name}:\d+: leave the detach\(\) out"):
        get("attached-state").apply(draft(Loop(None, cut=True), x, x[:, 0, :1]))
    with pytest.raises(Refused, match="no tensor"):
        get("attached-state").apply(draft(Loop(None, cut=False), x, x[:, 0, :1]))
    with pytest.raises(Refused, match="no tensor"):  # once, as a target of one's own is cut
        get("attached-state").apply(draft(Loop(1, cut=True), x, x[:, 0, :1]))


def test_the_answer_names_the_line_among_what_to_do_next() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (400, 8, 2), generator=generator).float()
    y = x[:, 2, :1].clone()
    problem = unvanish.Problem(
        lambda: Loop(None, cut=True), x[:64], y[:64], F.mse_loss,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2),
        train_batches=list(zip(x[:320].split(64), y[:320].split(64), strict=True)), validation=(x[320:], y[320:]),
        steps=160,
    )  # fmt: skip
    fixes = fix(problem)
    assert fixes.verdict == "no remedy found", fixes
    assert any(line.startswith("UV102: the state is detached at every step at ") for line in advice(fixes))


@pytest.mark.parametrize(("momentum", "steps", "long"), [(0.999, 300, True), (0.999, 1000, False), (0.99, 300, False)])
def test_a_momentum_is_long_against_the_steps_of_the_training(momentum: float, steps: int, long: bool) -> None:
    model = nn.Linear(3, 1)
    problem = unvanish.Problem(model, torch.randn(8, 3), torch.zeros(8, 1), F.mse_loss, steps=steps)
    of = Draft.of(problem, model, torch.optim.SGD(model.parameters(), 0.1, momentum=momentum, nesterov=True))
    if not long:
        with pytest.raises(Refused, match="no momentum"):
            get("short-momentum").apply(of)
        return
    change = get("short-momentum").apply(of)
    assert of.recipe.options["momentum"] == 0.9 and of.recipe.options["nesterov"]
    assert "remembers 1,000 steps in 300" in change.sentence


@pytest.mark.parametrize(("momentum", "steps", "slow"), [(0.001, 300, True), (0.01, 300, False), (0.1, 300, False)])
def test_running_statistics_are_slow_against_the_steps_of_the_training(momentum: float, steps: int, slow: bool) -> None:
    """0.999^300 = 0.74 of the initial values is left, 0.99^300 = 0.05."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum), nn.Linear(4, 1))
    problem = unvanish.Problem(model, torch.randn(8, 3), torch.zeros(8, 1), F.mse_loss, steps=steps)
    of = Draft.of(problem, model, None)
    if not slow:
        with pytest.raises(Refused, match="no running statistics"):
            get("quick-statistics").apply(of)
        return
    change = get("quick-statistics").apply(of)
    assert of.model.get_submodule("1").momentum == 0.1 and "74%" in change.sentence
    with pytest.raises(Refused, match="are kept"):
        get("quick-statistics").apply(Draft.of(problem, model, None, pretrained=True))


@pytest.mark.parametrize(("momentum", "learns"), [(0.0005, False), (0.1, True)])
def test_a_network_that_only_learns_in_training_is_not_called_healthy(momentum: float, learns: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 5.0 + torch.randn(512, 2, generator=generator)
    y = (x[:, 0] > 5.0).long() + 2 * (x[:, 1] > 5.0).long()

    def make() -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(2, momentum=momentum), nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))

    problem = unvanish.Problem(
        make, x[:64], y[:64], F.cross_entropy, optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2),
        train_batches=list(zip(x[:384].split(64), y[:384].split(64), strict=True)), validation=(x[384:], y[384:]),
        steps=200,
    )  # fmt: skip
    race = race_of(problem, 600)
    findings, improving = probe(race)
    assert improving == learns and not [each for each in findings if each.level == "error"]
    assert race.copy((), 0).loss_fall > 0.1, "the training loss falls in either"


class Steps(nn.Module):
    """A layer over the steps of each sample, and its last one; ``swaps``: gives it the axes that it was made for."""

    def __init__(self, kind: str, swaps: bool = False) -> None:
        super().__init__()
        self.embed, self.head, self.swaps = nn.Linear(3, 8), nn.Linear(8, 1), swaps
        self.read = nn.TransformerEncoderLayer(8, 2, 16, 0.0) if kind == "attention" else getattr(nn, kind)(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = self.read(h.transpose(0, 1) if self.swaps else h)
        h = h[0] if isinstance(h, tuple) else h
        return self.head((h.transpose(0, 1) if self.swaps else h)[:, -1])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "attention"])
def test_the_samples_come_first_where_a_layer_goes_along_them(kind: str) -> None:
    with seeded(0):
        x, mixed, right = torch.randn(16, 5, 3), Steps(kind), Steps(kind, swaps=True)
    y = x[:, 0, :1]
    of = draft(mixed, x, y)
    get("batch-first").apply(of)
    mixed.load_state_dict(right.state_dict())
    of.model.load_state_dict(right.state_dict())
    for model in (mixed, of.model, right):
        model.eval()
    assert torch.allclose(of.model(x), right(x), atol=1e-6) and not torch.allclose(mixed(x), right(x), atol=1e-2)
    with pytest.raises(Refused, match="takes the steps first"):
        get("batch-first").apply(of)
    with pytest.raises(Refused, match="no layer was seen"):
        get("batch-first").apply(draft(right, x, y))


def test_layers_of_which_one_is_given_the_steps_first_are_left_alone() -> None:
    with seeded(0):
        x = torch.randn(16, 5, 3)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.GRU(3, 8), nn.GRU(8, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x.transpose(0, 1))[0].transpose(0, 1)
            return self.head(self.second(h)[0][:, -1])

    of = draft(Two(), x, x[:, 0, :1])
    with pytest.raises(Refused, match="not all of its layers"):
        get("batch-first").apply(of)
    assert not any(each.batch_first for each in of.model.modules() if isinstance(each, nn.GRU))

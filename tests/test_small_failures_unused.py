"""Layers without a gradient, as library models and their users leave them: cut trunks, checkpoints, choices."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unvanish import Problem, diagnose
from unvanish.records import Finding

SEEDS = range(3)
IDS = torch.randint(20, (32, 6), generator=torch.Generator().manual_seed(1))
CLASSES = torch.arange(32) % 5


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 1e-3)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.mix(F.gelu(self.norm(h)))


class Trunk(nn.Module):
    """Four blocks between a frozen embedding and a head; ``run(model, h)`` is the way through the blocks."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(20, 16).requires_grad_(False)
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(4)), nn.Linear(16, 5)
        self.run = run

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.run(self, self.embed(ids))).mean(1)


class Adapted(nn.Module):
    """A frozen layer beside two factors, which a forward pass reads through views of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, width)), nn.Parameter(torch.randn(width, 2))

    def forward(self, h: Tensor) -> Tensor:
        return self.frozen(h) + h @ self.down.T @ self.up.T


def straight(m: Any, h: Tensor) -> Tensor:
    for block in m.blocks:
        h = block(h)
    return h


def at_the_second(change: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def run(m: Any, h: Tensor) -> Tensor:
        for k, block in enumerate(m.blocks):
            h = block(change(m, h) if k == 2 else h)
        return h

    return run


def without_gradients(mode: Any) -> Callable[[Any, Tensor], Tensor]:
    def run(m: Any, h: Tensor) -> Tensor:
        with mode():
            h = m.blocks[1](m.blocks[0](h))
        return m.blocks[3](m.blocks[2](h.clone()))

    return run


def checkpointed(reentrant: bool, first: int = 0) -> Callable[[Any, Tensor], Tensor]:
    def run(m: Any, h: Tensor) -> Tensor:
        for k, block in enumerate(m.blocks):
            h = checkpoint(block, h, use_reentrant=reentrant) if first <= k < 2 else block(h)
        return h

    return run


def into_a_buffer(m: Any, h: Tensor) -> Tensor:
    kept = torch.zeros_like(h)
    kept[:, :] = h.detach()
    return kept * 1.0


def unused(problem: Problem, **how: Any) -> list[Finding]:
    return [finding for finding in diagnose(problem, **how).findings if finding.code == "UV602"]


FIRST_TWO = {f"blocks.{k}.{part}" for k in (0, 1) for part in ("norm", "mix")}
CUTS = [
    pytest.param(at_the_second(lambda m, h: h.detach()), "detach", id="detach"),
    pytest.param(at_the_second(lambda m, h: h.data), "detach", id="data"),
    pytest.param(at_the_second(lambda m, h: h.detach().clone().mul_(1.0)), "detach", id="detach and more"),
    pytest.param(at_the_second(lambda m, h: torch.from_numpy(h.detach().numpy().copy())), "", id="numpy and back"),
    pytest.param(at_the_second(lambda m, h: m.embed(h.argmax(-1))), "argmax", id="argmax"),
    pytest.param(at_the_second(into_a_buffer), "detach", id="written into a buffer"),
    pytest.param(without_gradients(torch.no_grad), "no_grad", id="no_grad"),
    pytest.param(checkpointed(True), "checkpoint", id="a checkpoint without an input that needs a gradient"),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("optimizer", [None, adam])
@pytest.mark.parametrize(("run", "by"), CUTS)
def test_every_layer_before_a_cut_in_the_trunk_is_an_error(
    run: Callable[[Any, Tensor], Tensor], by: str, optimizer: Any, seed: int
) -> None:
    (found,) = unused(Problem(Trunk(run, seed), IDS, CLASSES, F.cross_entropy, optimizer))
    assert found.level == "error" and set(found.layers) == FIRST_TWO
    assert found.cause == (f"cut off: {by}" if by else "cut off")
    assert "called" in found.message and "never called" not in found.message
    if by not in ("", "no_grad"):
        assert by in found.message and "test_small_failures_unused.py:" in found.message


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "run",
    [
        pytest.param(straight, id="straight"),
        pytest.param(at_the_second(lambda m, h: h + (h.round() - h).detach()), id="straight-through"),
        pytest.param(at_the_second(lambda m, h: h * h.detach().abs().mean().add(1.0)), id="a detached factor"),
        pytest.param(checkpointed(False), id="the other kind of checkpoint"),
        pytest.param(checkpointed(True, first=1), id="an input that needs a gradient"),
    ],
)
def test_a_trunk_that_is_not_cut_has_no_unused_layers(run: Callable[[Any, Tensor], Tensor], seed: int) -> None:
    assert unused(Problem(Trunk(run, seed), IDS, CLASSES, F.cross_entropy, adam)) == []


def test_the_message_for_a_cut_checkpoint_says_what_helps() -> None:
    (found,) = unused(Problem(Trunk(checkpointed(True), 0), IDS, CLASSES, F.cross_entropy))
    assert "activation checkpoint" in found.message and "use_reentrant=False" in found.message


@pytest.mark.parametrize("how", ["checkpoint", "no_grad"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_is_followed_to_parameters_that_are_read_through_views(seed: int, how: str) -> None:
    """Under no_grad a view of a parameter still requires a gradient, and is none of the model's parameters."""

    def run(m: Any, h: Tensor) -> Tensor:
        if how == "checkpoint":
            return checkpoint(m.blocks[1], checkpoint(m.blocks[0], h, use_reentrant=True), use_reentrant=True)
        with torch.no_grad():
            return m.blocks[1](m.blocks[0](h)).clone()

    trunk = Trunk(run, seed)
    trunk.blocks = nn.ModuleList(Adapted(16) for _ in range(2))
    (found,) = unused(Problem(trunk, IDS, CLASSES, F.cross_entropy, adam))
    assert (found.level, found.cause, set(found.layers)) == ("error", f"cut off: {how}", {"blocks.0", "blocks.1"})


def skipping(m: Any, h: Tensor) -> Tensor:
    return m.blocks[2](m.blocks[1](m.blocks[0](h)))


def test_a_block_of_the_trunk_is_no_expert() -> None:
    """The last of four blocks is forgotten: the others follow each other, so it was not passed over in a choice."""
    (found,) = unused(Problem(Trunk(skipping, 0), IDS, CLASSES, F.cross_entropy))
    assert (found.level, found.cause, set(found.layers)) == ("error", "never called", {"blocks.3.norm", "blocks.3.mix"})


class Dropped(nn.Module):
    """Blocks of the trunk that are left out by chance in training, by a condition of the forward itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 16), nn.Linear(16, 5)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.left = 2

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for k, block in enumerate(self.blocks):
            if k == self.left:
                continue
            h = block(h)
        return self.head(h)


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.extra = nn.Linear(4, 16), nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.embed(x))
        y = self.head(h)
        if len(x) > 1000:
            y = y + self.extra(h)
        return y


class Forgetful(Auxiliary):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.embed(x)))


X = torch.randn(32, 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("model", [Dropped, Auxiliary])
def test_what_a_condition_leaves_out_is_a_note(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    (found,) = unused(Problem(model(), X, CLASSES, F.cross_entropy, adam))
    assert (found.level, found.cause) == ("note", "this batch")


def test_what_the_forward_never_calls_is_an_error() -> None:
    (found,) = unused(Problem(Forgetful(), X, CLASSES, F.cross_entropy, adam))
    assert (found.level, found.cause, found.layers) == ("error", "never called", ("extra",))


LIBRARY = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.final = nn.Linear(4, 4)
    def forward(self, x, depth=2):
        for stage in self.stages[:depth]:
            x = torch.tanh(stage(x))
        return x

class Cutting(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, x):
        return self.after(torch.tanh(self.before(x)).detach())
"""


@pytest.fixture
def library(tmp_path: Path) -> types.ModuleType:
    """A package installed as others are."""
    path = tmp_path / "site-packages" / "encoders.py"
    path.parent.mkdir()
    path.write_text(LIBRARY)
    module = types.ModuleType("encoders")
    exec(compile(LIBRARY, str(path), "exec"), module.__dict__)
    return module


class Using(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.head = part, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(x))


class PassingBy(Using):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def test_what_a_librarys_own_forward_leaves_out_or_cuts_is_a_note(library: Any) -> None:
    (found,) = unused(Problem(Using(library.Encoder()), X, CLASSES, F.cross_entropy, adam))
    assert found.level == "note" and set(found.layers) == {"part.stages.2", "part.stages.3", "part.final"}
    (found,) = unused(Problem(Using(library.Cutting()), X, CLASSES, F.cross_entropy, adam))
    assert (found.level, found.layers) == ("note", ("part.before",)) and "library" in found.message


def test_a_librarys_module_that_the_users_program_never_runs_is_an_error(library: Any) -> None:
    (found,) = unused(Problem(PassingBy(library.Encoder()), X, CLASSES, F.cross_entropy, adam))
    assert found.level == "error" and found.cause == "never called"


def test_a_cut_by_the_users_program_between_library_modules_is_an_error(library: Any) -> None:
    class Both(Using):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.part(x, 4)
            return self.head(h)

    found = unused(Problem(Both(library.Encoder()), X, CLASSES, F.cross_entropy, adam))
    assert [(each.level, each.cause, len(each.layers)) for each in found] == [
        ("error", "cut off: no_grad", 4),
        ("note", "this batch", 1),
    ]


class Values(nn.Module):
    """A network and its target network, as in Q-learning: the second runs without gradients, into the loss alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.online = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        self.target = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            best = self.target(x).amax(1)
        return self.online(x)[:, 0], 1.0 + 0.9 * best


@pytest.mark.parametrize("seed", SEEDS)
def test_a_target_network_is_a_note(seed: int) -> None:
    problem = Problem(Values(seed), X, torch.zeros(1), lambda o, _: F.mse_loss(o[0], o[1]), adam)
    (found,) = unused(problem)
    assert found.level == "note" and set(found.layers) == {"target.0", "target.2"}


class Game(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.maker = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
        self.judge = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.judge(x), self.judge(self.maker(x).detach())])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_before_layers_that_the_optimizer_does_not_hold_is_a_note(seed: int) -> None:
    """The judge's turn in an adversarial training: the other player is detached, and not stepped."""
    real = torch.cat([torch.ones(32, 1), torch.zeros(32, 1)])
    bce = F.binary_cross_entropy_with_logits
    model = Game(seed)
    (found,) = unused(Problem(model, X, real, bce, torch.optim.Adam(model.judge.parameters())))
    assert found.level == "note" and set(found.layers) == {"maker.0", "maker.2"}
    (found,) = unused(Problem(model, X, real, bce, torch.optim.Adam(model.parameters())))
    assert found.level == "error" and set(found.layers) == {"maker.0", "maker.2"}


def test_facts_survive_a_saved_report() -> None:
    report = diagnose(Problem(Trunk(CUTS[0].values[0], 0), IDS, CLASSES, F.cross_entropy))  # type: ignore[arg-type]
    again = type(report).from_json(report.to_json())
    assert again == report and {facts.layer for facts in again.unused} == FIRST_TWO
    healthy = diagnose(Problem(Trunk(straight, 0), IDS, CLASSES, F.cross_entropy))
    assert '"unused":' not in healthy.to_json()


@pytest.mark.parametrize("own", [True, False])
def test_what_a_comparison_makes_is_cut_off(own: bool) -> None:
    """A threshold and a scorer that are only compared; torch turns ``h > p`` into ``p < h`` where p is a parameter."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inlet, self.outlet = nn.Linear(6, 8), nn.Linear(8, 5)
            self.level = nn.Parameter(torch.zeros(8)) if own else nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inlet(x)
            return self.outlet(h * ((h > self.level) if own else (self.level(h) > 0)).float())  # type: ignore[operator]

    (finding,) = diagnose(Gated(), torch.randn(32, 6), CLASSES, F.cross_entropy).findings
    said = "level is used" if own else "level is called"
    assert (finding.code, finding.layers) == ("UV602", ("level",))
    assert (
        said in finding.message and f"cut out of the graph by a comparison ({'lt' if own else 'gt'})" in finding.message
    )


def test_a_leaf_made_of_the_numbers_of_the_outputs_leads_nowhere() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.argmax(1).float().requires_grad_(), targets.float())

    report = diagnose(nn.Linear(6, 5), torch.randn(32, 6), CLASSES, loss)
    assert report.verdict == "unused" and "argmax" in report.findings[0].message
    assert report.loss is not None and report.loss.residual_norm == 0.0
    assert not any("raised" in why for _, why in report.undecided)

"""What a watch says of a signal that grows on its way forward, by the loss that it reads off the graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.records import Finding
from unvanish.watching.loss_call import loss_call, stake_of

SEEDS = [0, 1, 2]
Loss = Callable[[Tensor, Tensor], Tensor]


def grown(std: float | None, depth: int = 12, width: int = 32) -> nn.Sequential:
    """Weights of N(0, std), each layer of which multiplies the signal by std·√(width / 2); None: as torch makes them."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    for each in net if std is not None else ():
        if isinstance(each, nn.Linear):
            nn.init.normal_(each.weight, 0.0, std or 0.0)
            nn.init.zeros_(each.bias)
    return net


def trained(
    net: nn.Module, make: Callable[[Any], Any], steps: int, path: Path, loss_of: Loss = F.cross_entropy, every: int = 5
) -> tuple[list[Finding], Any]:
    x, y = torch.randn(128, 32), torch.randint(0, 10, (128,))
    optimizer = make(net.parameters())
    with unvanish.watch(net, optimizer, every=every, to=path / "r.unvanish") as run:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
    assert run.watcher.failed == ""
    return [each for each in run.findings if each.code == "UV202"], run


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, 3e-3)


def still(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, 1e-30)


@pytest.mark.parametrize("seed", SEEDS)
def test_growth_is_noted_at_the_first_step_with_the_numbers_of_a_check(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    net = grown(0.6)
    state = torch.random.get_rng_state()
    x, y = torch.randn(128, 32), torch.randint(0, 10, (128,))
    (checked,) = [f for f in unvanish.diagnose(net, x, y, F.cross_entropy, effort="quick").findings if f.code == "UV202"]
    torch.random.set_rng_state(state)
    (found,), run = trained(net, still, 6, tmp_path)
    assert (found.level, found.layers, found.verdict) == ("note", checked.layers, "exploding")
    for mine, theirs in zip(found.evidence, checked.evidence, strict=True):
        assert mine.name == theirs.name and mine.value == pytest.approx(theirs.value, rel=1e-5)
    assert found.message.startswith("since step 0: the signal grows") and "is seen as it goes on" in found.message
    assert checked.message.split(":")[0].lower() in found.message.lower()
    assert run.report().verdict == "exploding"


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_an_error_once_thirty_steps_have_not_made_good_for_it(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    found, run = trained(grown(0.6), still, 61, tmp_path)
    assert [each.level for each in found] == ["note", "error"]
    assert "60 real steps of SGD of this training do not lower the loss" in found[1].message
    ends = {finding.level: until for _, until, finding in unvanish.load_run(run.path).episodes if finding.code == "UV202"}
    assert ends["note"] is not None and ends["error"] is None
    assert [each.level for each in run.report().findings if each.code == "UV202"] == ["error"]


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_over_where_the_training_makes_good_for_it(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    found, run = trained(grown(0.5), adam, 150, tmp_path)
    assert [each.level for each in found] == ["note"]
    assert [until for _, until, each in unvanish.load_run(run.path).episodes if each.code == "UV202"] != [None]
    assert not [each for each in run.report().findings if each.code == "UV202"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("std", [None, 0.25])
def test_a_healthy_twin_is_quiet(std: float | None, seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    assert trained(grown(std), adam, 20, tmp_path)[0] == []


def test_growth_alone_is_no_fault(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = grown(0.6)
    found, _ = trained(net, still, 6, tmp_path, lambda z, y: F.cross_entropy(F.layer_norm(z, (10,)), y))
    assert found == []


def test_a_loss_far_above_the_best_constant_has_not_converged(tmp_path: Path) -> None:
    """A thousandth of an absurd start is no end; without the best constant nothing else could be seen."""
    torch.manual_seed(0)
    net = grown(0.6, depth=16)
    for loss_of, converged in ((F.cross_entropy, False), (lambda z, y: F.cross_entropy(z, y) + 1e-9 * z.abs().mean(), True)):
        scale = [1.0]

        def falling(z: Tensor, y: Tensor, loss_of: Loss = loss_of, scale: list[float] = scale) -> Tensor:
            scale[0] *= 0.8
            return loss_of(z * max(scale[0], 1e-4), y)

        folder = tmp_path / str(converged)
        folder.mkdir()
        _, run = trained(net, still, 60, folder, falling, every=1)
        assert min(unvanish.load_run(run.path).whole("loss")) > 10.0
        assert any(each.code == "UV809" for each in run.findings) == converged


KNOWN: dict[str, tuple[Loss, Callable[[Tensor], Tensor]]] = {
    "classes": (F.cross_entropy, lambda z: z.argmax(1).roll(1)),
    "classes, spread over steps": (lambda z, y: F.cross_entropy(z, y) / 4, lambda z: z.argmax(1).roll(1)),
    "classes, one by one": (lambda z, y: F.cross_entropy(z, y, reduction="none").mean(), lambda z: z.argmax(1).roll(1)),
    "some ignored": (
        lambda z, y: F.cross_entropy(z, y.masked_fill(torch.arange(len(y)) < 3, -100)), lambda z: z.argmax(1).roll(1),
    ),
    "weighted": (lambda z, y: F.cross_entropy(z, y, torch.linspace(1.0, 2.0, 5)), lambda z: z.argmax(1).roll(1)),
    "numbers": (F.mse_loss, lambda z: z.roll(1, 0) + 1.0),
    "numbers, added": (lambda z, y: F.mse_loss(z, y, reduction="sum"), lambda z: z.roll(1, 0) + 1.0),
    "coins": (F.binary_cross_entropy_with_logits, lambda z: (z.roll(1, 0) > 0).float()),
    "shares": (lambda z, y: F.binary_cross_entropy(z.sigmoid(), y), lambda z: (z.roll(1, 0) > 0).float()),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_constant_is_that_of_a_check(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    loss_of, target = KNOWN[name]
    net, x = nn.Linear(4, 5), torch.randn(24, 4)
    y = target(net(x).detach())
    loss = loss_of(net(x), y)
    stake = stake_of(loss.grad_fn, loss.item())
    facts = unvanish.diagnose(net, x, y, loss_of, effort="quick").loss
    assert stake is not None and facts is not None and facts.best_constant is not None
    assert stake.value == pytest.approx(facts.value, rel=1e-5)
    assert stake.constant == pytest.approx(facts.best_constant, rel=1e-4)


OTHERS: dict[str, Loss] = {
    "with a penalty": lambda z, y: F.mse_loss(z, y) + 0.1 * z.abs().mean(),
    "each with a weight": lambda z, y: (F.mse_loss(z, y, reduction="none") * torch.rand(24, 5)).mean(),
    "its root": lambda z, y: F.mse_loss(z, y).sqrt(),
    "no known call": lambda z, y: (z - y).abs().mean(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_of_another_loss_nothing_is_claimed(name: str) -> None:
    torch.manual_seed(0)
    loss = OTHERS[name](nn.Linear(4, 5)(torch.randn(24, 4)), torch.randn(24, 5))
    assert loss_call(loss.grad_fn) is None


def test_what_a_graph_holds_no_more_is_not_asked() -> None:
    loss = F.mse_loss(nn.Linear(4, 5)(torch.randn(24, 4)), torch.randn(24, 5))
    root = loss.grad_fn
    loss.backward()
    assert loss_call(root) is None


STRETCHED: dict[str, Loss] = {
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "squares": lambda z, y: ((z - y) ** 2).mean(),
    "the other way round": lambda z, y: (y - z).pow(2).sum() / len(y),
    "sizes": lambda z, y: (z - y).abs().mean(),
}
PAIRED: dict[str, Loss] = {
    "of one shape": lambda z, y: F.mse_loss(z, y[:, None]),
    "squeezed": lambda z, y: ((z[:, 0] - y) ** 2).mean(),
    "with one another": lambda z, y: ((z - z.T) ** 2).mean(),
    "with targets of its own": lambda z, y: ((z - y[:, None] * y) ** 2).mean(),
    "with targets that are all one": lambda z, y: ((z - torch.ones_like(y)) ** 2).mean(),
}


def _unpaired(loss_of: Loss, seed: int, path: Path) -> tuple[list[Finding], list[Finding]]:
    torch.manual_seed(seed)
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), torch.randn(24, 4)
    y = 2.0 * x[:, 0] + 1.0
    checked = [f for f in unvanish.diagnose(net, x, y, loss_of).findings if f.code == "UV708"]
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    with unvanish.watch(net, optimizer, every=1, to=path / "r.unvanish") as run:
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
    assert run.watcher.failed == ""
    return [f for f in run.findings if f.code == "UV708"], checked


@pytest.mark.parametrize("name", STRETCHED)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_outputs_that_meet_every_target_are_named_as_a_check_does(name: str, tmp_path: Path) -> None:
    (found,), (checked,) = _unpaired(STRETCHED[name], 0, tmp_path)
    assert found.level == checked.level == "error" and found.cause == checked.cause == "shapes"
    shapes = "outputs of shape (24, 1) meet targets of shape (24,)"
    assert shapes in found.message and shapes in checked.message
    constant = found.message.partition("(loss ")[2].partition(")")[0]
    assert f"(loss {constant})" in checked.message


@pytest.mark.parametrize("name", PAIRED)
def test_outputs_with_a_target_of_their_own_are_fine(name: str, tmp_path: Path) -> None:
    assert _unpaired(PAIRED[name], 0, tmp_path) == ([], [])


@pytest.mark.parametrize("same", [True, False])
def test_units_that_are_one_are_told_of_once(same: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 10))
    for each in net if same else ():
        if isinstance(each, nn.Linear):
            nn.init.constant_(each.weight, 0.1)
            nn.init.zeros_(each.bias)
    with caplog.at_level(logging.WARNING, "unvanish"):
        _, run = trained(net, lambda p: torch.optim.SGD(p, 0.1), 12, tmp_path, every=1)
    found = [each for each in run.findings if each.code == "UV408"]
    assert [(each.level, each.layers) for each in found] == ([("error", ("0", "2"))] if same else [])
    assert sum("UV408" in each.getMessage() for each in caplog.records) == same
    assert [f.code for f in run.report().findings if f.code == "UV408"] == ["UV408"] * same

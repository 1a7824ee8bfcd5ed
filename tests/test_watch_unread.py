"""What of a training cannot be read stands in its report with the reason, and never stops the training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.watching import signals

STEPS = 3


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 8, generator=generator), torch.randint(3, (16,), generator=generator)


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def train(net: nn.Module, optimizers: list[Any], path: Path | None, seed: int = 0, gradients: Any = None) -> Any:
    """STEPS steps of all of the optimizers after one backward; with a path they are watched."""
    x, y = batch(seed)
    run = None if path is None else unvanish.watch(net, optimizers, every=1, to=path)
    for _ in range(STEPS):
        for each in optimizers:
            each.zero_grad()
        if gradients is not None:
            gradients(net, x, y)
        else:
            F.cross_entropy(net(x), y).backward()
        for each in optimizers:
            each.step()
    if run is not None:
        run.close()
        assert run.watcher.failed == ""
    return None if path is None else unvanish.load_run(path)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_optimizers_after_one_backward_have_the_signals_of_all_layers(tmp_path: Path, seed: int) -> None:
    both = network(seed)
    two = train(
        both, [torch.optim.SGD(both[0].parameters(), 0.1), torch.optim.SGD(both[2].parameters(), 0.1)],
        tmp_path / "two.unvanish", seed,
    )  # fmt: skip
    alone = network(seed)
    one = train(alone, [torch.optim.SGD(alone.parameters(), 0.1)], tmp_path / "one.unvanish", seed)
    for name in ("log10_signal", "log10_grad_norm", "saturated_fraction", "dead_fraction"):
        for layer, values in one.by_layer(name).items():
            assert two.by_layer(name)[layer] == pytest.approx(values, abs=1e-6, nan_ok=True)
    assert [each.name for each in two.report().flow.layers] == ["0", "2"]


def test_a_second_backward_before_the_second_step_leaves_no_signal_of_the_first(tmp_path: Path) -> None:
    """As in a GAN: the one of the two losses goes through both networks."""
    first, second, (x, _) = nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 1)), batch(0)
    optimizers = [torch.optim.SGD(each.parameters(), 0.0) for each in (first, second)]
    with unvanish.watch([first, second], optimizers, every=1, to=tmp_path / "r.unvanish"):
        for _ in range(STEPS):
            second(first(x)).sum().backward()
            optimizers[0].step()
            second(first(x).detach()).mul(1e-3).sum().backward()
            optimizers[1].step()
    found = [*unvanish.load_run(tmp_path / "r.unvanish").by_layer("log10_signal").values()]
    right = math.log10(math.sqrt(16) * 1e-3 * math.sqrt(16))  # it was given 32 samples in the step, 16 of them here
    assert len(found) == 2 and found[1] == pytest.approx([right] * STEPS, abs=1e-5)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8, dtype=torch.complex64), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.to(torch.complex64)).abs())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_complex_weights_have_their_norms(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    net = Complex()
    run = train(net, [torch.optim.SGD(net.parameters(), 0.0)], tmp_path / "r.unvanish", seed)
    size = math.hypot(*(float(torch.linalg.vector_norm(p.grad)) for p in net.a.parameters() if p.grad is not None))
    assert run.by_layer("log10_grad_norm")["a"][-1] == pytest.approx(math.log10(size), abs=1e-5)


def test_a_weight_of_eight_bits_has_its_norm(tmp_path: Path) -> None:
    net = network(0)
    layer = net[0]
    assert isinstance(layer, nn.Linear)
    small = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)

    def forward(input: Tensor) -> Tensor:
        return F.linear(input, small.float(), layer.bias)

    layer.weight, layer.forward = small, forward
    run = train(net, [torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.0)], tmp_path / "r.unvanish")
    size = math.hypot(float(small.float().norm()), float(layer.bias.detach().norm()))
    assert run.by_layer("log10_weight_norm")["0"][-1] == pytest.approx(math.log10(size), abs=1e-5)


def by_func(net: nn.Module, x: Tensor, y: Tensor) -> None:
    def loss(weights: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(net, weights, (x,)), y)

    found = torch.func.grad(loss)(dict(net.named_parameters()))
    for name, p in net.named_parameters():
        p.grad = found[name].detach()


def by_samples(net: nn.Module, x: Tensor, y: Tensor) -> None:
    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(net, weights, (x[None],)), y[None])

    weights = {name: p.detach() for name, p in net.named_parameters()}
    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, x, y)
    for name, p in net.named_parameters():
        p.grad = found[name].mean(0)


def by_hand(net: nn.Module, x: Tensor, y: Tensor) -> None:
    for p, found in zip(
        net.parameters(), torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters())), strict=True
    ):
        p.grad = found


@pytest.mark.parametrize("gradients", [by_func, by_samples, by_hand])
def test_a_step_without_a_backward_is_read_as_far_as_it_can_be(tmp_path: Path, gradients: Any) -> None:
    signals.flat_of.__globals__["_known"].clear()  # a function of which nothing is known is tried inside
    net = network(0)
    run = train(net, [torch.optim.SGD(net.parameters(), 0.1)], tmp_path / "r.unvanish", gradients=gradients)
    plain = network(0)
    train(plain, [torch.optim.SGD(plain.parameters(), 0.1)], None)
    for mine, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
    assert all(not math.isnan(value) for values in run.by_layer("log10_grad_norm").values() for value in values)
    assert any(note.startswith("of a step without a backward") for note in run.report().flow.notes)


def test_an_error_while_a_call_is_looked_at_ends_the_watching_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: Any) -> None:
        raise TypeError("planted")

    monkeypatch.setattr(signals, "flat_of", raises)
    net, plain, (x, y) = network(0), network(0), batch(0)
    for each, watched in ((net, True), (plain, False)):
        optimizer = torch.optim.SGD(each.parameters(), 0.1)
        run = unvanish.watch(each, optimizer, every=1, to=tmp_path / "r.unvanish") if watched else None
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(each(x), y).backward()
            optimizer.step()
        if run is not None:
            run.close()
            assert "planted" in run.watcher.failed
    assert torch.overrides._get_current_function_mode_stack() == []
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(net.parameters(), plain.parameters(), strict=True))


class Apart(nn.Module):
    """A weight that another call reads, a parameter that stands alone, and a layer nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.scale, self.read = nn.Linear(8, 16), nn.Parameter(torch.ones(16)), nn.Linear(16, 16)
        self.never, self.b = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.linear((self.a(x) * self.scale).relu(), self.read.weight, self.read.bias).relu())


def test_layers_that_are_not_judged_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Apart()
    run = train(net, [torch.optim.SGD(net.parameters(), 0.1)], tmp_path / "r.unvanish")
    notes = run.report().flow.notes
    assert [each.name for each in run.report().flow.layers] == ["a", "b"]
    assert [note.partition(":")[0] for note in notes if "not judged" in note] == ["scale, read", "never"]
    plain = network(0)
    whole = train(plain, [torch.optim.SGD(plain.parameters(), 0.1)], tmp_path / "w.unvanish")
    assert not [note for note in whole.report().flow.notes if "not judged" in note]


def test_lazy_layers_have_their_size_in_the_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(3))
    run = train(net, [torch.optim.SGD(net.parameters(), 0.1)], tmp_path / "r.unvanish")
    assert {each.name: each.parameters for each in run.report().flow.layers} == {"0": 144, "2": 51}

"""The numbers of a watched training are those of a check, of autograd, and of one process on the whole batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def batch(count: int = 32, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return x, x[:, :3].argmax(1)


def row(path: Path, at: int = 0) -> dict[str, dict[str, float]]:
    run = unvanish.load_run(path)
    names = (
        "log10_signal",
        "log10_grad_norm",
        "log10_weight_norm",
        "saturated_fraction",
        "dead_fraction",
        "update_to_weight_ratio",
    )
    return {name: {layer: values[at] for layer, values in run.by_layer(name).items()} for name in names}


@pytest.mark.parametrize("seed", range(3))
def test_the_first_sample_has_the_numbers_of_a_check(seed: int, tmp_path: Path) -> None:
    x, y = batch()
    net = network(seed)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    wanted = unvanish.diagnose(net, x, y, F.cross_entropy, optimizer=optimizer)
    with unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish"):
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    found = row(tmp_path / "r.unvanish")
    for layer in wanted.layers:
        assert found["log10_signal"][layer.name] == pytest.approx(layer.log10_signal, abs=1e-4)
        assert found["log10_grad_norm"][layer.name] == pytest.approx(layer.log10_grad_norm, abs=1e-4)
        assert found["log10_weight_norm"][layer.name] == pytest.approx(layer.log10_weight_norm, abs=1e-4)
        assert found["update_to_weight_ratio"][layer.name] == pytest.approx(layer.update_to_weight_ratio, rel=1e-3)
        if layer.saturated_fraction is not None:
            assert found["saturated_fraction"][layer.name] == pytest.approx(layer.saturated_fraction, abs=1e-3)
            assert found["dead_fraction"][layer.name] == pytest.approx(layer.dead_fraction, abs=1e-3)


def test_accumulated_micro_batches_are_one_large_batch(tmp_path: Path) -> None:
    x, y = batch(64)
    for name, parts in (("whole", 1), ("parts", 4)):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with unvanish.watch(net, optimizer, to=tmp_path / f"{name}.unvanish"):
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(net(a), b) / parts).backward()
            optimizer.step()
    whole, parted = row(tmp_path / "whole.unvanish"), row(tmp_path / "parts.unvanish")
    for name in ("log10_signal", "log10_grad_norm", "log10_weight_norm"):
        assert parted[name] == pytest.approx(whole[name], abs=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_the_scale_of_a_grad_scaler_is_divided_out(fused: bool, tmp_path: Path) -> None:
    x, y = batch()
    for name, scale in (("plain", None), ("scaled", 2.0**16)):
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        with unvanish.watch(net, optimizer, to=tmp_path / f"{name}.unvanish"):
            scaler.scale(F.cross_entropy(net(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    plain, scaled = row(tmp_path / "plain.unvanish"), row(tmp_path / "scaled.unvanish")
    for name in ("log10_signal", "log10_grad_norm"):
        assert scaled[name] == pytest.approx(plain[name], abs=1e-5)
    runs = [unvanish.load_run(tmp_path / f"{name}.unvanish") for name in ("plain", "scaled")]
    assert runs[1].whole("loss") == pytest.approx(runs[0].whole("loss"), rel=1e-5)
    assert runs[1].whole("loss_scale") == (2.0**16,)


def test_the_norm_before_and_after_clipping(tmp_path: Path) -> None:
    x, y = batch()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish"):
        F.cross_entropy(net(x), y).backward()
        before = float(nn.utils.clip_grad_norm_(net.parameters(), 1e-3))
        optimizer.step()
    run = unvanish.load_run(tmp_path / "r.unvanish")
    assert run.whole("total_log10_grad_norm")[0] == pytest.approx(math.log10(before), abs=1e-5)
    assert run.whole("log10_grad_norm_clipped")[0] == pytest.approx(-3.0, abs=1e-3)


def size(net: nn.Module) -> float:
    return math.log10(math.hypot(*(float(p.grad.norm()) for p in net.parameters() if p.grad is not None)))


def by_norm(net: nn.Module) -> None:
    nn.utils.clip_grad_norm_(net.parameters(), 1e-3)


def without_a_trace(net: nn.Module) -> None:
    for each in net.parameters():
        assert each.grad is not None
        each.grad.data.mul_(0.25)


def by_value(net: nn.Module) -> None:
    nn.utils.clip_grad_value_(net.parameters(), 1e-3)


@pytest.mark.parametrize("clip", [by_norm, without_a_trace, by_value])
def test_a_clip_that_comes_late_is_seen_though_few_gradients_are_read_twice(clip: Any, tmp_path: Path) -> None:
    net, (x, y) = network(), batch()
    true: list[tuple[float, float]] = []
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish"):
        for step in range(9):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            left = size(net)
            if step >= 5:
                clip(net)
            true.append((left, size(net)))
            optimizer.step()
    run = unvanish.load_run(tmp_path / "r.unvanish")
    before, after = run.whole("total_log10_grad_norm"), run.whole("log10_grad_norm_clipped")
    assert after == pytest.approx([each[1] for each in true], abs=1e-5)
    known = [at for at in range(9) if not math.isnan(before[at])]
    assert known == [at for at in range(9) if clip is not by_value or at != 5]  # what a cut left of the others is lost
    assert [before[at] for at in known] == pytest.approx([true[at][0] for at in known], abs=1e-5)


def made_anew(net: nn.Module) -> None:
    for each in net.parameters():
        assert each.grad is not None
        each.grad = each.grad * 0.25


def of_the_matrices_alone(net: nn.Module) -> None:
    for each in net.parameters():
        if each.grad is not None and each.ndim > 1:
            each.grad.data.mul_(0.25)


@pytest.mark.parametrize("clip", [by_norm, without_a_trace, made_anew, of_the_matrices_alone])
def test_of_large_gradients_a_part_is_read_twice(clip: Any, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(250, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 3))
    x, y = torch.randn(16, 250), torch.randint(3, (16,))
    true: list[float] = []
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish"):
        for step in range(20):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            true.append(size(net))
            if step >= 8:
                clip(net)
            optimizer.step()
    before = unvanish.load_run(tmp_path / "r.unvanish").whole("total_log10_grad_norm")
    late = clip is of_the_matrices_alone  # at the latest when it is the turn of one of them
    known = [at for at in range(20) if not math.isnan(before[at]) and not (late and 8 <= at < 12)]
    assert len(known) >= (15 if late else 20)
    assert [before[at] for at in known] == pytest.approx([true[at] for at in known], abs=1e-5)


def test_gradients_whose_squares_underflow_have_their_norm(tmp_path: Path) -> None:
    net = network()
    x, y = batch()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish"):
        (F.cross_entropy(net(x), y) * 1e-30).backward()
        optimizer.step()
    exact = network().double()
    F.cross_entropy(exact(x.double()), y).backward()
    found = row(tmp_path / "r.unvanish")["log10_grad_norm"]
    for name, module in exact.named_children():
        if isinstance(module, nn.Linear):
            norm = math.hypot(*(float(p.grad.norm()) for p in module.parameters() if p.grad is not None))
            assert found[name] == pytest.approx(math.log10(norm) - 30.0, abs=1e-3)


def test_however_a_backward_is_started_it_is_seen(tmp_path: Path) -> None:
    """By the loss, by torch's function, and from two losses at once, whose gradient is that of their sum."""
    x, y = batch()
    starts = {
        "own": lambda one, two: (one + two).backward(),
        "function": lambda one, two: torch.autograd.backward(one + two),
        "both": lambda one, two: torch.autograd.backward([one, two]),
    }
    for name, start in starts.items():
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with unvanish.watch(net, optimizer, to=tmp_path / f"{name}.unvanish"):
            out = net(x)
            start(F.cross_entropy(out, y), 0.1 * out.square().mean())
            optimizer.step()
    found = {name: row(tmp_path / f"{name}.unvanish") for name in starts}
    losses = {name: unvanish.load_run(tmp_path / f"{name}.unvanish").whole("loss")[0] for name in starts}
    for name in ("function", "both"):
        assert losses[name] == pytest.approx(losses["own"], rel=1e-6)
        for field in ("log10_signal", "log10_grad_norm"):
            assert found[name][field] == pytest.approx(found["own"][field], abs=1e-6)

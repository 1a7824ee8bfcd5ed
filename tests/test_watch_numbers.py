"""The numbers of a watched training are those of a check, of autograd, and of one process on the whole batch."""

from __future__ import annotations

import math
from pathlib import Path

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

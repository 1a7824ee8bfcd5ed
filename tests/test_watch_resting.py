"""What takes no part in any step: copies of a model, running statistics, passes without gradients."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.watching.calls import PASSES
from unvanish.watching.script import run_script

SEEDS = [0, 1]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3))


def _by_copy(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net)


def _by_weights(net: nn.Module) -> nn.Module:
    other = network()
    other.load_state_dict(net.state_dict())
    return other


def _step(net: nn.Module, optimizer: Any) -> None:
    x = torch.randn(32, 4)
    optimizer.zero_grad()
    F.cross_entropy(net(x), x[:, :3].argmax(1)).backward()
    optimizer.step()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weight", [0.1, math.nan])
@pytest.mark.parametrize("made", [_by_copy, _by_weights])
def test_nan_in_an_average_of_the_weights_is_told(made: Any, weight: float, seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    with unvanish.watch(net, optimizer, every=2, to=tmp_path / "r.unvanish") as run:
        average = made(net)
        for step in range(13):
            _step(net, optimizer)
            if step == 5:
                with torch.no_grad():
                    for ours, theirs in zip(average.parameters(), net.parameters(), strict=True):
                        ours.lerp_(theirs, weight)
    found = [each for each in run.findings if each.verdict == "nonfinite"]
    assert len(found) == (weight != weight)
    for each in found:
        assert each.level == "error" and each.message.startswith("at step 6: there is nan in a copy of Sequential (0.w")


@pytest.mark.parametrize("last", [True, False])
def test_one_weight_of_a_copy_is_found_when_the_run_ends(last: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    with unvanish.watch(net, optimizer, every=10, to=tmp_path / "r.unvanish") as run:
        average = copy.deepcopy(net)
        _step(net, optimizer)
        if last:
            with torch.no_grad():
                average.get_parameter("4.bias")[1] = math.nan
    assert [each.message.startswith("at step 1: there is nan in a copy of Sequential (4.bias). ")
            for each in run.findings if each.level == "error"] == [True] * last  # fmt: skip
    del average


def test_a_copy_that_is_trained_itself_and_one_that_is_gone_are_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = network()
    other = network()
    optimizer = torch.optim.SGD(other.parameters(), 1e-2)
    with unvanish.watch(other, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        other.load_state_dict(net.state_dict())
        made = copy.deepcopy(net)
        made.get_parameter("0.weight").data.fill_(math.nan)
        del made
        for _ in range(3):
            _step(other, optimizer)
    assert not run.findings


STATISTICS = """
import torch
from torch import nn
def main():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for step in range(6):
        optimizer.zero_grad()
        net(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        if step == 2:
            net[1]{spoil}
main()
"""


@pytest.mark.parametrize("spoil", [".running_mean.fill_(float('nan'))", ".running_mean.fill_(0.5)"])
def test_running_statistics_of_a_script_whose_model_is_gone_when_it_ends(spoil: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(STATISTICS.format(spoil=spoil), encoding="utf-8")
    found = run_script(str(script), every=1, to=tmp_path / "r.unvanish").run.findings
    assert [each.message.startswith("at step 3: there is nan in 1.running_mean, per") for each in found] == (
        [True] if "nan" in spoil else []
    )


class Divided(nn.Module):
    """Divides by ``by`` where it is not trained."""

    def __init__(self, by: float | Tensor) -> None:
        super().__init__()
        self.net, self.drop, self.by = network(), nn.Dropout(0.2), by

    def forward(self, x: Tensor) -> Tensor:
        out = self.drop(self.net(x))
        return out if self.training else out * self.by / self.by


def _validated(by: float | Tensor, given: float, seed: int, path: Path | None) -> tuple[list[Any], list[Tensor]]:
    torch.manual_seed(seed)
    model = Divided(by)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    run = None if path is None else unvanish.watch(model, optimizer, every=3, to=path)
    outputs: list[Tensor] = []
    for _ in range(3):
        for _ in range(4):
            _step(model, optimizer)
        model.eval()
        with torch.no_grad():
            outputs.append(model(torch.full((8, 4), given)))
        model.train()
    if run is not None:
        run.close()
    state = [*outputs, *model.state_dict().values(), torch.get_rng_state()]
    return list(run.findings if run is not None else ()), state


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("by", "given", "level", "said"),
    [
        (
            0.0,
            1.0,
            "error",
            "in a pass of Divided without gradients, in eval mode, the forward pass is not finite from",
        ),
        (torch.arange(8.0)[:, None], 1.0, "note", "in eval mode, the forward pass of some samples is not finite"),
        (1.0, math.nan, "note", "in eval mode, the inputs hold nan, and so do the outputs"),
        (1.0, 1.0, "", ""),
    ],
)
def test_nan_in_a_validation_is_told_once_and_changes_nothing(
    by: float | Tensor, given: float, level: str, said: str, seed: int, tmp_path: Path
) -> None:
    found, state = _validated(by, given, seed, tmp_path / "r.unvanish")
    assert [(each.level, each.verdict) for each in found] == ([(level, "nonfinite")] if level else [])
    assert all(said in each.message and each.message.startswith("at step 4: in a pass") for each in found)
    _, plain = _validated(by, given, seed, None)
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(state, plain, strict=True))


class OfZeros(nn.Module):
    """No number comes of a batch of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (x[:, :1] / x[:, :1])


@pytest.mark.parametrize(
    ("rows", "at", "training", "level"),
    [
        (8, 5, False, "error"),
        (1, 5, False, "note"),  # a last batch of one that is masked whole can be meant
        (8, PASSES - 1, False, "error"),
        (8, PASSES, False, ""),
        (8, 5, True, ""),
        (8, 0, True, "error"),
    ],
)
def test_later_passes_of_a_validation_are_looked_at_as_well(
    rows: int, at: int, training: bool, level: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = OfZeros()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with unvanish.watch(model, optimizer, every=3, to=tmp_path / "r.unvanish") as run:
        _step(model, optimizer)
        model.train(training)
        with torch.no_grad():
            for each in range(PASSES + 2):
                model(torch.full((rows, 4), float(each != at)))
    assert [each.level for each in run.findings] == ([level] if level else [])


def test_a_first_pass_before_any_step_is_not_looked_at(tmp_path: Path) -> None:
    model = Divided(0.0).eval()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with unvanish.watch(model, optimizer, every=1, to=tmp_path / "r.unvanish") as run, torch.no_grad():
        model(torch.ones(8, 4))
    assert not run.findings


class Encoder(nn.Module):
    """Of padded sequences, which torch runs as one kernel in eval mode where no module of a layer has a hook."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.frozen = nn.Linear(16, 2), frozen
        if frozen:
            self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self

    def forward(self, x: Tensor, pad: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            hidden = self.encoder(x, src_key_padding_mask=pad)
        return self.head(hidden[:, 0])


def _encoded(frozen: bool, path: Path | None) -> list[Tensor]:
    torch.manual_seed(0)
    model = Encoder(frozen).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    run = None if path is None else unvanish.watch(model, optimizer, every=2, to=path)
    pad = torch.arange(9)[None] >= torch.tensor([[3], [9], [5], [8]])
    outputs: list[Tensor] = []
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 9, 16), pad).square().mean().backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            outputs.append(model(torch.randn(4, 9, 16), pad))
        model.train()
    if run is not None:
        run.close()
        assert len(unvanish.load_run(run.path).by_layer("log10_signal")["head"]) == 3
    return [*outputs, *model.state_dict().values()]


@pytest.mark.parametrize("frozen", [True, False])
def test_layers_that_run_as_one_kernel_in_eval_mode_still_do(frozen: bool, tmp_path: Path) -> None:
    watched, alone = _encoded(frozen, tmp_path / "r.unvanish"), _encoded(frozen, None)
    assert all(torch.equal(one, other) for one, other in zip(watched, alone, strict=True))

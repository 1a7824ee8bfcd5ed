"""Averages of the weights that nothing told of: a dict of tensors, a model that was copied before the watch began."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish
from unvanish.watching.kept_elsewhere import odd_copies
from unvanish.watching.script import run_script

Averages = dict[str, torch.Tensor]


def as_dict(model: nn.Module) -> tuple[Any, Averages]:
    kept = {name: each.detach().clone() for name, each in model.named_parameters()}
    return kept, kept


def as_module(model: nn.Module) -> tuple[Any, Averages]:
    kept = copy.deepcopy(model).requires_grad_(False)
    return kept, dict(kept.named_parameters())


@pytest.mark.parametrize("made", [as_dict, as_module])
@pytest.mark.parametrize("bad", [False, True])
def test_nan_in_an_average_is_told_when_the_run_ends(
    made: Callable[[nn.Module], tuple[Any, Averages]], bad: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    holder, average = made(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with unvanish.watch(model, optimizer, every=2, to=tmp_path) as run:
        for step in range(6):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(8, 5)), torch.zeros(8, dtype=torch.long)).backward()
            optimizer.step()
            rate = math.nan if bad and step == 4 else 0.1
            for name, each in model.named_parameters():
                average[name].lerp_(each.detach(), rate)
    assert run.watcher.failed == "" and holder is not None
    said = [each for each in run.findings if each.cause == "copy"]
    assert len(said) == bad
    assert all(each.level == "note" and "0.weight" in each.message and "no gradient" in each.message for each in said)


@pytest.mark.parametrize("emptied", [False, True])
def test_another_model_that_was_trained_to_nan_is_none(tmp_path: Path, emptied: bool) -> None:
    def trained(rate: float) -> Any:
        model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
        optimizer = torch.optim.SGD(model.parameters(), rate)
        with unvanish.watch(model, optimizer, every=2, to=tmp_path / f"{rate}.unvanish") as run:
            for _ in range(3):
                optimizer.zero_grad()
                (model(torch.randn(8, 5)) - 1.0).square().sum().backward()
                optimizer.step()
        if emptied:
            optimizer.zero_grad()
        return model, run

    torch.manual_seed(0)
    broken, _ = trained(1e30)
    assert any(bool(each.isnan().any()) for each in broken.parameters())
    _, run = trained(1e-3)
    assert not [each for each in run.findings if each.cause == "copy"]


def test_one_that_was_trained_unwatched_is_none_while_its_optimizer_is_there(tmp_path: Path) -> None:
    model, other = (nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)) for _ in range(2))
    nn.init.constant_(next(other.parameters()), math.nan)
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    assert odd_copies({"": model}, ()) == []
    del optimizer
    assert [names for _, names in odd_copies({"": model}, ())] == [["0.weight"]]


class NoHash(type):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError


class Net(nn.Sequential):
    broken = False

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            raise RuntimeError
        return super().named_parameters(*args, **kwargs)


def net() -> Net:
    return Net(nn.Linear(5, 7), nn.Linear(7, 3))


def with_code_of_its_own() -> Any:
    found = net()
    found.broken = True
    return found


def on_no_device() -> Any:
    with torch.device("meta"):
        return net()


def given_back() -> Any:
    found = net()
    for each in found.parameters():
        each.data.untyped_storage().resize_(0)  # reading it would end the program
    return found


def spoofing() -> Any:
    class Spoof:
        @property
        def __class__(self) -> Any:  # type: ignore[override]
            raise RuntimeError

    weights = dict(net().named_parameters())
    return Spoof(), weights | {"0.weight": Spoof()}, weights | {"more": Spoof()}


ODD = [NoHash("Odd", (), {}), lambda: Net.__new__(Net), with_code_of_its_own, on_no_device, given_back, spoofing]


@pytest.mark.parametrize("odd", ODD)
def test_whatever_a_program_holds_is_no_error(odd: Callable[[], Any]) -> None:
    held = odd()
    assert odd_copies({"": net()}, ()) == [] and held is not None


def test_what_a_script_without_functions_has_left_is_looked_at(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\nfrom torch import nn\n"
        "model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))\n"
        "average = {name: each.detach().clone() for name, each in model.named_parameters()}\n"
        "average['0.weight'][0] = float('nan')\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for step in range(3):\n"
        "    optimizer.zero_grad()\n"
        "    model(torch.randn(8, 5)).square().mean().backward()\n"
        "    optimizer.step()\n"
        "raise SystemExit(3)\n"
    )
    ending = run_script(str(script), every=1, to=tmp_path / "r.unvanish")
    assert ending.status == 3 and [each.cause for each in ending.run.found] == ["copy"]

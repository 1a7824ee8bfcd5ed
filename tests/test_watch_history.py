"""What is found against a layer's own past: each change in both directions, over several sizes of loss and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish
from unvanish.report.sentences import said
from unvanish.rules import known
from unvanish.rules.events import EVENTS
from unvanish.watching.history import HELD, MEASURED, WARM_UP, History, _finding
from unvanish.watching.sample import FIELDS, NOTHING, Column, Sample

COLUMNS = [Column(f"layer{at}", "Linear", 10) for at in range(5)]
USUAL = {"log10_grad_norm": -2.0, "update_to_weight_ratio": 1e-3, "dead_fraction": 0.1, "saturated_fraction": 0.2}
Change = Callable[[int, int], dict[str, float]]


def run(
    change: Change, steps: int = 40, scale: float = 0.0, loss: Callable[[int], float] = lambda step: 2.0, **series: Any
) -> tuple[list[tuple[str, str, int]], list[tuple[str, str, int]]]:
    """(code, layer, step) of what began and of what was over; ``change(step, layer)`` replaces usual numbers."""
    history, began, over = History(), [], []
    for step in range(steps):
        sample = Sample(step, groups=[tuple(range(5))], order=list(range(5)))
        for at in range(5):
            numbers = {**USUAL, **change(step, at)}
            numbers["log10_grad_norm"] += scale - 0.02 * step  # all of them fall as the loss does
            sample.rows[at] = tuple(numbers.get(name, old) for name, old in zip(FIELDS, NOTHING, strict=True))
        sample.series = {"loss": loss(step), "learning_rate": 0.1, **{k: f(step) for k, f in series.items()}}
        new, gone = history.watch(sample, COLUMNS)
        began += [(each.code, "".join(each.layers), step) for each in new]
        over += [(*each, step) for each in gone]
        assert all(each.level == "note" and each.message for each in new)
    return began, over


def nothing(step: int, at: int) -> dict[str, float]:
    return {}


LAYER: dict[str, Change] = {
    "UV801": lambda step, at: {"log10_grad_norm": -3.2} if at == 1 and 20 <= step < 30 else {},
    "UV802": lambda step, at: {"log10_grad_norm": -0.8} if at == 1 and 20 <= step < 30 else {},
    "UV803": lambda step, at: {"dead_fraction": 0.7} if at == 1 and 20 <= step < 30 else {},
    "UV804": lambda step, at: {"saturated_fraction": 0.8} if at == 1 and 20 <= step < 30 else {},
    "UV806": lambda step, at: {"update_to_weight_ratio": 5e-6} if at == 1 and 20 <= step < 30 else {},
}


@pytest.mark.parametrize("scale", [0.0, -30.0, 20.0])
@pytest.mark.parametrize("code", LAYER)
def test_one_episode_is_one_finding_with_an_end(code: str, scale: float) -> None:
    began, over = run(LAYER[code], scale=scale)
    assert began == [(code, "layer1", 20 + HELD - 1)]
    assert over == [(code, "layer1", 30 + HELD - 1)]


@pytest.mark.parametrize("code", LAYER)
def test_shorter_than_it_must_last_it_is_none(code: str) -> None:
    def change(step: int, at: int) -> dict[str, float]:
        return LAYER[code](step, at) if step < 20 + HELD - 1 else {}

    assert run(change) == ([], [])


SWING: dict[str, tuple[str, float, float, float]] = {
    "UV801": ("log10_grad_norm", -3.2, -2.7, -2.3),
    "UV802": ("log10_grad_norm", -0.8, -1.3, -1.7),
    "UV803": ("dead_fraction", 0.7, 0.5, 0.2),
    "UV804": ("saturated_fraction", 0.8, 0.6, 0.3),
    "UV806": ("update_to_weight_ratio", 5e-6, 5e-5, 5e-4),
}
"""What changes; beyond the limit, more than half of the way there, and less."""


@pytest.mark.parametrize("code", SWING)
def test_a_departure_that_swings_about_its_limit_is_told_once(code: str) -> None:
    name, beyond, near, back = SWING[code]

    def change(step: int, at: int) -> dict[str, float]:
        if at != 1 or step < 20:
            return {}
        return {name: beyond if step % 10 < 5 else near} if step < 60 else {name: back}

    began, over = run(change, steps=80)
    assert began == [(code, "layer1", 20 + HELD - 1)]
    assert over == [(code, "layer1", 60 + HELD - 1)]
    assert run(lambda step, at: {name: near} if at == 1 and step >= 20 else {}) == ([], [])


def test_what_all_layers_do_together_is_none_of_one_layer() -> None:
    """Gradients that fall by six decades as a network converges, and a schedule that takes the rate to nothing."""

    def all_of_them(step: int, at: int) -> dict[str, float]:
        return {"log10_grad_norm": -2.0 - 0.2 * step, "update_to_weight_ratio": 1e-3 * 10 ** (-0.1 * step)}

    assert run(all_of_them, steps=30) == ([], [])


def test_a_layer_that_was_so_from_the_start_is_no_change() -> None:
    """Whether it is ill the laws of a check say, at the first sample."""
    assert run(lambda step, at: {"log10_grad_norm": -12.0, "dead_fraction": 1.0} if at == 0 else {}) == ([], [])


@pytest.mark.parametrize("size", [1.0, 1e-8, 1e6])
def test_a_jump_of_the_loss(size: float) -> None:
    began, _ = run(nothing, loss=lambda step: size * (12.0 if step == 20 else 1.0))
    assert began == [("UV805", "", 20)]
    assert run(nothing, loss=lambda step: size * (8.0 if step == 20 else 1.0))[0] == []
    assert run(nothing, loss=lambda step: size * (12.0 if step == WARM_UP - 1 else 1.0))[0] == []  # no usual one yet


@pytest.mark.parametrize("size", [1.0, 1e-8, 1e6])
def test_converged_is_said_once_though_the_loss_swings(size: float) -> None:
    def loss(step: int) -> float:
        return size * (1.0 if step < 10 else 0.0005 if step % 3 else 0.002 if step > 25 else 0.0004)

    began, over = run(nothing, loss=loss)
    assert [each[0] for each in began] == ["UV809"] and over == []
    assert run(nothing, loss=lambda step: size * max(0.002, 1.0 - 0.1 * step))[0] == []


def test_a_loss_that_is_low_and_falls_on_has_not_converged() -> None:
    """As of a small tanh network that learns a sum: 0.5 percent after 200 steps, and 0.002 percent after 20,000."""
    assert run(nothing, loss=lambda step: max(0.004, 0.6**step), steps=60)[0] == []


def test_one_far_off_start_is_no_scale_of_what_is_left_to_learn() -> None:
    """A network that dies at its first step, after outputs a thousand times too large, has a constant's loss."""
    assert run(nothing, loss=lambda step: 1e6 if step == 0 else 1.0, steps=60)[0] == []


@pytest.mark.parametrize("peak", [1, 2, 3])
def test_a_training_that_falls_back_from_a_blow_up_has_not_converged(peak: int) -> None:
    """As Adam at a rate of 30: a loss of 1.6, then of 6e5, and of 6.7 a hundred steps later."""
    assert run(nothing, loss=lambda step: 1.6 if step == 0 else 6.7 if step > peak else 6e5, steps=60)[0] == []


def test_a_learning_rate_that_has_decayed_to_nothing() -> None:
    def still(step: int, at: int) -> dict[str, float]:
        return {"update_to_weight_ratio": 1e-3 if step < 20 else 1e-7}

    def rate(step: int) -> float:
        return 0.1 if step < 20 else 1e-5

    assert run(still, learning_rate=rate)[0] == [("UV807", "", 20 + HELD - 1)]
    assert run(nothing, learning_rate=rate)[0] == []  # the layers move all the same
    assert run(still)[0] == []  # they stand still, and not because of the rate


def test_every_code_is_explained_and_none_is_a_rule_too() -> None:
    from unvanish.report.explain import explain

    codes = [each.code for each in known()]
    assert len(codes) == len(set(codes))
    for code, event in EVENTS.items():
        assert event.title in explain(code)


@pytest.mark.parametrize(("scale", "overflows"), [(2.0**127, True), (2.0**10, False)])
def test_a_scale_that_overflows_is_a_skip_and_no_fault(scale: float, overflows: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as watched:
        for _ in range(8):
            optimizer.zero_grad()
            x = torch.randn(16, 4)
            scaler.scale(10.0 * nn.functional.cross_entropy(net(x), (x[:, 0] > 0).long())).backward()
            scaler.step(optimizer)
            scaler.update()
    assert not any(each.level == "error" for each in watched.findings), watched.findings
    assert ("UV808" in {each.code for each in watched.findings}) == overflows
    assert str(watched.report()).startswith("Healthy: no fault was found")
    losses = unvanish.load_run(tmp_path / "r.unvanish").whole("loss")
    assert losses and all(math.isfinite(each) and each < 20.0 for each in losses)


def test_what_cannot_be_watched_leaves_nothing_behind(tmp_path: Path) -> None:
    class NoHooks(nn.Linear):
        def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no hooks here")

    net = NoHooks(2, 2)
    with pytest.raises(RuntimeError, match="no hooks here"):
        unvanish.watch(net, torch.optim.SGD(net.parameters(), 0.1), to=tmp_path / "r.unvanish")
    assert not hasattr(torch.Tensor.backward, "__wrapped__")
    assert not net._forward_pre_hooks


LARGE = {
    "SGD": (lambda net: torch.optim.SGD(net.parameters(), 50.0), "the steps of SGD (learning rate 50) carry them away"),
    "Adam": (lambda net: torch.optim.Adam(net.parameters(), 1e3), "the steps of Adam (learning rate 1,000) carry"),
    "small": (lambda net: torch.optim.SGD(net.parameters(), 1e-3), ""),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["nan", "shut"])
@pytest.mark.parametrize("rate", LARGE)
def test_what_breaks_after_steps_that_were_too_large_is_told_with_them(
    rate: str, how: str, seed: int, tmp_path: Path
) -> None:
    """The norm of the weights tells the two apart: the same fault, with and without weights that were carried away."""
    torch.manual_seed(seed)
    first = nn.Linear(8, 16)
    net = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 3))
    make, words = LARGE[rate]
    optimizer, x, y = make(net), torch.randn(32, 8), torch.randint(3, (32,))
    with unvanish.watch(net, optimizer, every=5, to=tmp_path / "r.unvanish") as watched:
        for step in range(41):
            optimizer.zero_grad()
            if how == "shut" and step == 3:
                with torch.no_grad():
                    first.bias.fill_(-1e30 if words else -1e3)
            out = net(x)
            loss = F.cross_entropy(out, y) / (how == "shut" or step != 7)
            loss.backward()
            optimizer.step()
    found = [each for each in watched.findings if each.level == "error" and each.code != "UV704"]
    grown = words or ("either the steps of SGD (learning rate 0.001) carry" if how == "shut" else "")  # by the script
    assert found and all(grown in each.message for each in found), found
    assert all(("The norm of the weights has grown" in each.message) == bool(grown) for each in found)
    report = unvanish.load_run(watched.path).report()
    errors = [each for each in report.findings if each.level == "error"]
    if how == "shut" and words:  # the rate is the cause, and comes before what it has led to
        assert errors[0].verdict == report.verdict == "lr_too_large" and "lr-0.1" in errors[0].remedies
    deciding = next(each for each in errors if each.code != "UV704")
    assert deciding.message.count("The norm of the weights has grown") == bool(grown)
    assert grown in deciding.message and ("lr-0.1" in deciding.remedies) == bool(words)


@pytest.mark.parametrize("code", list(MEASURED))
def test_a_departure_names_its_layer_and_both_of_its_numbers(code: str) -> None:
    made = _finding(code, "3", -0.3, -1.7, 1780)
    assert made.message.startswith(f"since step 1,780: {EVENTS[code].title} in layer 3 (")
    now, before = made.evidence
    assert (now.value, before.value) == (-0.3, -1.7) and before.name.startswith(f"{now.name}, ")
    # a logarithm is shown as the number it stands for, as in the message
    shown = [said(each).value for each in made.evidence]
    assert shown == (["0.50", "0.020"] if now.name.startswith("log10") else ["-0.3", "-1.7"])

"""A script that makes and trains one model after the other, as a search does: each is watched, and none is held."""

from __future__ import annotations

import runpy
import textwrap
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import unvanish
from unvanish import load_run
from unvanish.cli import main

SCRIPT = """
import gc, weakref
import torch
from torch import nn
from torch.nn import functional as F
gc.disable()
models, weights, optimizers = weakref.WeakSet(), [], weakref.WeakSet()
def train(seed, width, lr=1e-2, steps=15, scale=1.0, broken=-1):
    torch.manual_seed(seed)
    x = torch.randn(16, 4)
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr)
    models.add(model); optimizers.add(optimizer); weights.append(weakref.ref(model[0].weight))
    for step in range(steps):
        optimizer.zero_grad()
        loss = scale * F.mse_loss(model(x), x[:, :2])
        if step == broken:
            loss = loss / torch.zeros(())
        loss.backward()
        optimizer.step()
    return loss.item()
def alive():
    return len(models), len(optimizers), sum(each() is not None for each in weights)
"""


def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], calls: str, *words: str) -> str:
    """Run it alone and watched, which must print the same; what the watch said."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT + textwrap.dedent(calls) + "\ngc.enable()\n", encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")
    alone = capsys.readouterr().out
    assert main(["run", *words, "-o", str(tmp_path / "r.unvanish"), str(script)]) == 0
    out, err = capsys.readouterr()
    assert out == alone and alone
    return err


def test_a_model_that_is_dropped_is_freed_as_without_us(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By counting references alone: a network that waits for the garbage collector holds its memory until then.

    The script itself looks, and a script that fails makes ``run`` here fail.
    """
    run(tmp_path, capsys, """
        train(0, 8)
        gc.collect()  # what torch itself leaves behind the first time
        for seed in range(4):
            print(train(seed, 8), alive())
            assert alive() == (0, 0, 0)
    """)  # fmt: skip


@pytest.mark.parametrize("every", [1, 5])
def test_the_same_model_made_anew_comes_into_the_same_places(
    every: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, capsys, "for seed in range(3): print(train(seed, 8))", "--every", str(every))
    found = load_run(tmp_path / "r.unvanish")
    assert found.layers == ("0", "2") and found.facts["failed"] == ""
    assert found.steps == tuple(range(0, 45, every))  # the first step of each, too
    report = found.report()
    assert (report.setting.model, report.setting.parameters) == ("Sequential", 58)
    assert [each.verdict for each in report.layers] == ["healthy"] * 2
    for name in ("log10_signal", "log10_grad_norm", "update_to_weight_ratio"):
        assert all(value == value for values in found.by_layer(name).values() for value in values)


def test_another_model_has_places_of_its_own_and_those_before_are_said_to_be_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    err = run(tmp_path, capsys, "for width in (8, 16, 8, 16): print(train(width, width))", "--every", "5")
    found = load_run(tmp_path / "r.unvanish")
    assert found.layers == ("0", "2", "model.0", "model.2")
    assert "layers 0, 2: not judged, because the model that they were a part of was given up before" in " ".join(
        err.split()
    )
    assert [each.name for each in found.report().layers] == ["model.0", "model.2"]
    assert found.report().setting.parameters == 114


def test_models_that_live_on_stay_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, capsys, """
        nets = [nn.Linear(4, 4) for _ in range(3)]
        for net in nets:
            optimizer = torch.optim.SGD(net.parameters(), 0.1)
            for step in range(5):
                optimizer.zero_grad(); net(torch.ones(2, 4)).square().mean().backward(); optimizer.step()
        print(alive())
    """, "--every", "1")  # fmt: skip
    found = load_run(tmp_path / "r.unvanish")
    assert len(found.layers) == 3
    assert "gone" in found.facts and found.facts["gone"] == []


def test_the_first_step_of_a_later_model_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = run(tmp_path, capsys, "print(train(0, 8), train(1, 8, broken=0))", "--every", "7")
    assert "UV501 at step 15: the loss made a number that is not finite: it was born at div" in err


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_what_was_usual_for_one_model_is_no_measure_for_the_next(
    scale: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = f"print(train(0, 8, steps=30), train(1, 8, steps=30, scale={scale}))"
    assert "UV805" not in run(tmp_path, capsys, calls, "--every", "1")


def test_the_loss_of_one_model_that_jumps_is_still_a_jump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = """
        torch.manual_seed(0)
        net, x = nn.Linear(4, 2), torch.randn(16, 4)
        optimizer = torch.optim.SGD(net.parameters(), 0.0)
        for step in range(60):
            optimizer.zero_grad()
            (net(x).square().mean() * (1e3 if step == 30 else 1.0)).backward()
            optimizer.step()
        print("done")
    """
    assert "UV805" in run(tmp_path, capsys, calls, "--every", "1")


def test_a_model_that_is_dropped_does_not_hide_what_breaks_in_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss stays finite, and the step is none that is sampled: only the look at one gradient shows it."""
    err = run(tmp_path, capsys, """
        net, x = nn.Linear(4, 2), torch.randn(6, 4)
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        for step in range(20):
            if step == 12:
                train(0, 8, steps=1)
            optimizer.zero_grad()
            out = net(x)
            (out.square() if step != 16 else (out * 0.0).square().sqrt()).mean().backward()
            optimizer.step()
        print("done")
    """)  # fmt: skip
    assert "UV501 at step 17: the loss made a number that is not finite" in err and "sqrt" in err


def test_a_model_that_is_not_watched_is_freed_while_another_is(tmp_path: Path) -> None:
    watched, freed = nn.Linear(4, 2), []
    optimizer = torch.optim.SGD(watched.parameters(), 0.1)
    with unvanish.watch(watched, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(3):
            watched(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            other = nn.Linear(4, 1)
            other(torch.ones(2, 4)).sum().backward()
            weight = weakref.ref(other.weight)
            del other  # by counting references alone
            freed.append(weight() is None)
    assert freed == [True] * 3 and run.watcher.failed == ""

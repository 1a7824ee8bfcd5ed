"""Samples that follow each other closely are judged together: what is found is the same, and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish
from unvanish.watching import judging

SHUT = 23
STEPS = 41


def train(path: Path, seed: int, look: Any = None) -> Any:
    """A network of which the ReLUs of one layer are shut at step SHUT; each step a sample."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x, y = torch.randn(32, 6), torch.randint(3, (32,))
    run = unvanish.watch(net, optimizer, every=1, to=path)
    for step in range(STEPS):
        if step == SHUT:
            bias = net[2].bias
            assert isinstance(bias, nn.Parameter)
            with torch.no_grad():
                bias.fill_(-100.0)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        if look is not None:
            look(step, run)
    run.close()
    return run


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_together_or_one_by_one_the_findings_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(judging, "PATIENCE", 1e9)
    together = train(tmp_path / "together.sqlite", seed)
    monkeypatch.setattr(judging, "TOGETHER", 1)
    alone = train(tmp_path / "alone.sqlite", seed)
    assert together.findings == alone.findings
    assert any(finding.code == "UV803" for finding in alone.findings)
    reports = [unvanish.load_run(each.path).report() for each in (together, alone)]
    assert reports[0].findings == reports[1].findings


def test_who_asks_for_the_findings_hears_of_all_that_was_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "PATIENCE", 1e9)
    first: dict[str, int] = {}

    def look(step: int, run: Any) -> None:
        for finding in run.findings:
            first.setdefault(finding.code, step)

    train(tmp_path / "asked.sqlite", 0, look)
    with monkeypatch.context() as patch:
        patch.setattr(judging, "TOGETHER", 1)
        asked, first = first, {}
        train(tmp_path / "alone.sqlite", 0, look)
    assert asked == first
    assert SHUT < first["UV803"] < SHUT + judging.TOGETHER


@pytest.mark.parametrize("patience", [0.0, 1e9])
def test_the_callback_is_told_within_ten_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(judging, "PATIENCE", patience)
    waiting: list[int] = []
    train(tmp_path / "run.sqlite", 0, lambda step, run: waiting.append(len(run.judging.waiting)))
    assert waiting[: judging.TOGETHER] == [0] * judging.TOGETHER
    assert max(waiting) == (judging.TOGETHER - 1 if patience else 0)
    assert [at for at, each in enumerate(waiting) if not each] == (
        [*range(10), 19, 29, 39] if patience else [*range(STEPS)]
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_log_line_says_of_numbers_that_they_are_layers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """Layers of an nn.Sequential are called by bare numbers; those of a class by what they are."""
    torch.manual_seed(seed)
    parts = [part for _ in range(12) for part in (nn.Linear(8, 8), nn.Sigmoid())]
    for plain in (True, False):
        body = nn.Sequential(*parts)
        net = body if plain else nn.ModuleDict({"body": body})
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with unvanish.watch(net, optimizer, to=tmp_path / f"{plain}.sqlite"):
            body(torch.randn(16, 8)).square().sum().backward()
            optimizer.step()
        (line,) = [each.getMessage() for each in caplog.records if each.getMessage().startswith("UV101")]
        assert line.startswith(f"UV101 since step 0: {'layers 0' if plain else 'body.0'} … "), line
        caplog.clear()


def test_a_note_of_one_layer_says_that_it_is_one(tmp_path: Path) -> None:
    run = train(tmp_path / "shut.sqlite", 0)
    assert any(f"in layer {each.layers[0]} (" in each.message for each in run.findings if each.code == "UV803")

"""Trainings that go on in eval mode after a validation, beside those in which no module minds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish

PARTS: dict[str, tuple[nn.Module, str]] = {
    "dropout": (nn.Dropout(0.3), "nothing is dropped in"),
    "dropout of nothing": (nn.Dropout(0.0), ""),
    "batch norm": (nn.BatchNorm1d(16), "the running statistics of"),
    "batch norm without memory": (nn.BatchNorm1d(16, track_running_stats=False), ""),
    "layer norm": (nn.LayerNorm(16), ""),
}


def notes(tmp_path: Path, part: nn.Module, again: bool, at_first: bool, whole: bool = True) -> list[str]:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(8, 16), part, nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    model.train(at_first)
    with unvanish.watch(model, optimizer, every=2, to=tmp_path / "r.unvanish") as run:
        for step in range(8):
            x = torch.randn(16, 8)
            optimizer.zero_grad()
            F.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
            optimizer.step()
            if step == 3:
                (model if whole else part).eval()
                with torch.no_grad():
                    model(x)
                model.train(again and at_first) if whole else None
    return [note for note in run.report().notes if "eval mode" in note]


@pytest.mark.parametrize("name", PARTS)
def test_a_training_that_goes_on_in_eval_mode_is_said(name: str, tmp_path: Path) -> None:
    part, words = PARTS[name]
    found = notes(tmp_path, part, again=False, at_first=True)
    assert len(found) == bool(words)
    for note in found:
        assert note.startswith("since step 4 the model is trained in eval mode") and words in note
        assert "call model.train() again after a validation" in note


def test_one_that_was_in_eval_mode_all_along_forgot_nothing(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, nn.BatchNorm1d(16), again=False, at_first=False)
    assert note.startswith("since step 0 ") and "again" not in note


def test_one_that_is_put_back_or_has_parts_asleep_on_purpose_is_left_alone(tmp_path: Path) -> None:
    assert not notes(tmp_path, nn.Dropout(0.3), again=True, at_first=True)
    (tmp_path / "r.unvanish").unlink()
    assert not notes(tmp_path, nn.BatchNorm1d(16), again=True, at_first=True, whole=False)


def test_a_teacher_in_eval_mode_that_no_optimizer_moves_is_no_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    with unvanish.watch(
        {"student": student, "teacher": teacher}, optimizer, every=1, to=tmp_path / "r.unvanish"
    ) as run:
        for _ in range(4):
            x = torch.randn(32, 8)
            optimizer.zero_grad()
            (student(x) - teacher(x)).square().mean().backward()
            optimizer.step()
    report = run.report()
    assert report.setting.mode == "train"
    assert not any("eval mode" in note for note in report.notes)

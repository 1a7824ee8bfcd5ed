"""The experiments that open a sweep's file show its numbers."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import unvanish
from unvanish import UnvanishError, lab
from unvanish.population.sweeping import opened

WIDE = {
    "grid": {"weight_variance": [1.0, 1.5, 2.5], "bias_variance": [0.0, 0.05]},
    "fixed": {"depth": 12, "width": 128},
    "run": {"seeds": 4},
}
TRAINED = {
    "grid": {"depth": [1, 6], "lr": [0.3, 0.003], "activation": ["sigmoid", "tanh"]},
    "fixed": {"width": 12},
    "run": {"seeds": 2, "train": True, "steps": 40},
}


def test_a_file_is_opened_as_it_was_swept(tmp_path: Path) -> None:
    done = unvanish.sweep(WIDE, to=tmp_path / "s.sqlite")
    again = opened(tmp_path / "s.sqlite")
    assert again.grid.identity() == done.grid.identity()
    assert list(again.points) == list(done.points)
    (tmp_path / "none.sqlite").write_text("not a database" * 100)
    for name in ("none.sqlite", "absent.sqlite"):
        with pytest.raises(UnvanishError, match=r"is not the \.sqlite file of a sweep"):
            opened(tmp_path / name)
    assert not (tmp_path / "absent.sqlite").exists()


def test_phase_shows_the_networks_of_a_sweep_beside_the_prediction(tmp_path: Path) -> None:
    done = unvanish.sweep(WIDE, to=tmp_path / "s.sqlite")
    outcome = lab.run("phase", sweep=str(tmp_path / "s.sqlite"))
    assert len(outcome.rows) == 6 and outcome.checks and outcome.checks[0].ok
    for at, row in enumerate(outcome.rows):
        own = done.points[4 * at : 4 * at + 4]
        assert (row["weight_variance"], row["bias_variance"]) == (own[0]["weight_variance"], own[0]["bias_variance"])
        gain = fmean(each["log10_signal_ratio"] for each in own) / 12
        assert row["measured"] == pytest.approx(10 ** (2 * gain))
        assert row["difference"] == pytest.approx(100 * (row["measured"] / row["chi1"] - 1))
    assert outcome.pictures and str(tmp_path) in " ".join(outcome.notes)
    with pytest.raises(UnvanishError, match="no plain networks of relu with a weight_variance"):
        lab.run("phase", sweep=str(tmp_path / "s.sqlite"), activation="relu")


def test_a_file_that_is_not_finished_says_what_is_missing(tmp_path: Path) -> None:
    unvanish.sweep(WIDE, to=tmp_path / "s.sqlite")
    base = sqlite3.connect(tmp_path / "s.sqlite")
    base.execute("DELETE FROM results WHERE point = 3")
    base.execute("UPDATE results SET error = 'it failed', log10_gain = NULL WHERE point = 4")
    base.commit()
    base.close()
    outcome = lab.run("phase", sweep=str(tmp_path / "s.sqlite"))
    assert len(outcome.rows) == 4 and outcome.notes[-1].startswith("2 of 6 points are not in the file, or failed")


def test_depth_shows_the_accuracies_of_a_sweep(tmp_path: Path) -> None:
    done = unvanish.sweep(TRAINED, to=tmp_path / "s.sqlite")
    outcome = lab.run("depth", sweep=str(tmp_path / "s.sqlite"))
    assert [(row["kind"], row["hidden"]) for row in outcome.rows] == [
        ("activation sigmoid", 1), ("activation tanh", 1), ("activation sigmoid", 6), ("activation tanh", 6)
    ]  # fmt: skip
    for row in outcome.rows:
        own = [p for p in done.points if p["depth"] == row["hidden"] and p["activation"] == row["kind"].split()[1]]
        losses = {lr: fmean(p["training_loss"] for p in own if p["lr"] == lr) for lr in (0.3, 0.003)}
        assert row["rate"] == min(losses, key=lambda lr: losses[lr])
        scores = [p["accuracy"] for p in own if p["lr"] == row["rate"]]
        assert (row["accuracy"], row["low"], row["high"]) == (fmean(scores), min(scores), max(scores))
    assert len(outcome.pictures) == 3 and not math.isnan(outcome.rows[0]["accuracy"])
    assert any("lowest training loss" in note for note in outcome.notes)
    unvanish.sweep(WIDE, to=tmp_path / "plain.sqlite")
    with pytest.raises(UnvanishError, match="a sweep without training"):
        lab.run("depth", sweep=str(tmp_path / "plain.sqlite"))


def test_the_settings_are_those_of_the_sweep(tmp_path: Path) -> None:
    wide, trained = str(tmp_path / "w.sqlite"), str(tmp_path / "t.sqlite")
    unvanish.sweep(WIDE, to=wide)
    outcome = lab.run("phase", sweep=wide)
    assert outcome.settings == {
        "sweep": wide, "activation": "tanh", "depth": 12, "width": 128, "seeds": 4,
        "weight_variance": [1.0, 1.5, 2.5], "bias_variance": [0.0, 0.05],
    }  # fmt: skip
    said = next(line for line in str(outcome).splitlines() if line.startswith("Settings: "))
    assert "weight_variance 1,1.5,2.5  bias_variance 0,0.05" in said and "networks" not in said
    assert lab.Outcome.from_json(outcome.to_json()).settings == outcome.settings
    unvanish.sweep(TRAINED, to=trained)
    assert lab.run("depth", sweep=trained).settings == {
        "sweep": trained, "width": 12, "depth": [1, 6], "lr": [0.3, 0.003], "activation": ["sigmoid", "tanh"],
        "seeds": 2, "data": "mnist", "steps": 40,
    }  # fmt: skip


def test_of_many_values_the_settings_tell_the_ends(tmp_path: Path) -> None:
    drawn = {"random": {"points": 40, "weight_variance": [0.5, 3.0]}, "fixed": {"depth": 4, "width": 8}}
    done = unvanish.sweep(drawn, to=tmp_path / "r.sqlite")
    values = [each["weight_variance"] for each in done.points]
    told = lab.run("phase", sweep=str(tmp_path / "r.sqlite")).settings["weight_variance"]
    assert told == f"{min(values):.6g} … {max(values):.6g} (40 values)"


def test_a_setting_that_would_do_nothing_beside_a_sweep_is_refused(tmp_path: Path) -> None:
    unvanish.sweep(WIDE, to=tmp_path / "s.sqlite")
    beside: dict[str, dict[str, Any]] = {"phase": {"width": 64}, "depth": {"steps": 10}}
    for name, given in beside.items():
        with pytest.raises(UnvanishError, match=rf"lab {name}: {next(iter(given))} was given beside a sweep"):
            lab.run(name, sweep=str(tmp_path / "s.sqlite"), **given)

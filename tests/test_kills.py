"""A dozen of the moments of benchmarks/kills.py: an interrupted or killed search or sweep goes on as if undisturbed."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from unvanish.population import sweeping

RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def kills() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("kills")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="the processes are forked")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["searches", "sweeps"])
def test_six_moments_change_nothing(name: str, kills: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "stretch", sweeping.stretch)  # put back what the benchmark shortens
    counts = kills.run(name, kills.WORK[name], 6, random.Random(3), tmp_path)
    assert counts["interrupted"] + counts["killed"] == 6 and counts["changed"] == 0


def test_a_change_would_be_seen(kills: Any) -> None:
    rows = [
        {"point": 0, "log10_gain": 0.25, "verdict": "healthy"},
        {"point": 1, "log10_gain": 0.5, "verdict": "healthy"},
    ]
    text = json.dumps(rows)
    assert kills.same(text, text)
    assert not kills.same(json.dumps(rows[:1]), text)
    assert not kills.same(json.dumps([rows[0], {**rows[1], "log10_gain": 0.6}]), text)
    assert not kills.same('{"verdict": "repaired"}', '{"verdict": "no remedy found"}')


def test_200_moments_changed_nothing() -> None:
    if not RESULTS.is_dir():
        pytest.skip("the results are not part of the archive")
    found = json.loads((RESULTS / "kills.json").read_text())
    counts = [found[name] for name in ("searches", "sweeps")]
    assert sum(each["interrupted"] + each["killed"] for each in counts) >= 200
    assert all(each["changed"] == 0 and each["done"] for each in counts)

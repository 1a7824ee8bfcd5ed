"""A sample of benchmarks/random_models.py: any network through check, a short fix and watch, and memory that stays."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def networks() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("random_models")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [*range(1_001, 1_013), 190, 212])
def test_a_random_network_gets_a_report_a_search_and_a_watched_training(
    seed: int, networks: Any, tmp_path: Path
) -> None:
    """Of the last two, the evidence came back from JSON as other numbers: whole ones stood where decimals belong."""
    said = networks.one(seed, tmp_path)
    assert not [each for each in said.values() if each.startswith("fault")], said


def test_the_benchmark_sees_what_was_changed(networks: Any) -> None:
    model, *_ = networks.drawn(3)
    before = networks.state(model)
    assert networks.state(model) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    assert networks.state(model) != before
    model, *_ = networks.drawn(3)
    torch.rand(1)
    assert networks.state(model) != before


def test_600_networks_were_without_a_fault() -> None:
    if not RESULTS.is_dir():
        pytest.skip("the results are not part of the archive")
    found = json.loads((RESULTS / "random_models.json").read_text())
    assert found["networks"] >= 600 and not found["faults"]
    assert all(sum(counts.values()) == found["networks"] for counts in found["outcomes"].values())


def test_memory_was_flat_over_a_thousand_checks_and_ten_thousand_steps() -> None:
    if not RESULTS.is_dir():
        pytest.skip("the results are not part of the archive")
    found = json.loads((RESULTS / "memory.json").read_text())
    for kind, count in (("checks", 1_000), ("steps", 10_000)):
        warm, _, end = (found[kind][str(at)] for at in (count // 10, count // 2, count))
        assert end < 1.03 * warm

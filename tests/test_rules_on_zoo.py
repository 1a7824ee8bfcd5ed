"""Every rule in both directions, on networks whose state is known: one test for all rules there are and will be."""

from __future__ import annotations

import pytest

from unvanish import zoo
from unvanish.pipeline import diagnose
from unvanish.rules import rules

SEEDS = range(5)
CASES = [
    pytest.param(rule.code, name, fires, id=f"{rule.code}-{'fires' if fires else 'silent'}-{name}")
    for rule in rules()
    for fires, networks in ((True, rule.fires_on), (False, rule.silent_on))
    for name in networks
]


@pytest.fixture(scope="module")
def codes() -> dict[tuple[str, int], frozenset[str]]:
    """What was found, by network and seed: a network that many rules name is diagnosed once."""
    return {}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("code", "name", "fires"), CASES)
def test_rule(code: str, name: str, fires: bool, seed: int, codes: dict[tuple[str, int], frozenset[str]]) -> None:
    if (name, seed) not in codes:
        report = diagnose(zoo.get(name).build(seed), seed=seed)
        codes[name, seed] = frozenset(finding.code for finding in report.findings)
    assert (code in codes[name, seed]) is fires

"""Every rule in both directions, on networks whose state is known: one test for all rules there are and will be."""

from __future__ import annotations

from typing import Any

import pytest

from unvanish import zoo
from unvanish.pipeline import diagnose
from unvanish.rules import rules

SEEDS = range(5)
EFFORT = {"UV405": "full"}
"""The effort of a check that measures what a rule rests on, where "auto" does not."""
DEAR = {"postnorm-small-gain-60": range(2)}
"""The seeds of a network whose check takes a hundred real steps of sixty blocks."""
CASES = [
    pytest.param(rule.code, name, fires, seed, id=f"{rule.code}-{'fires' if fires else 'silent'}-{name}-{seed}")
    for rule in rules()
    for fires, networks in ((True, rule.fires_on), (False, rule.silent_on))
    for name in networks
    for seed in DEAR.get(name, SEEDS)
]


@pytest.fixture(scope="module")
def reports() -> dict[tuple[str, int, str], Any]:
    """What was found, by network and seed: a network that many rules name is diagnosed once."""
    return {}


def report_on(name: str, seed: int, reports: dict[tuple[str, int, str], Any], effort: str = "auto") -> Any:
    if (name, seed, effort) not in reports:
        reports[name, seed, effort] = diagnose(zoo.get(name).build(seed), seed=seed, effort=effort)
    return reports[name, seed, effort]


@pytest.mark.parametrize(("code", "name", "fires", "seed"), CASES)
def test_rule(code: str, name: str, fires: bool, seed: int, reports: dict[tuple[str, int, str], Any]) -> None:
    report = report_on(name, seed, reports, EFFORT.get(code, "auto"))
    codes = {finding.code for finding in report.findings}
    assert (code in codes) is fires, (
        f"{code} {'is silent' if fires else 'speaks'} on {name}, seed {seed}; found: {codes}"
    )


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name in zoo.names() for seed in DEAR.get(name, SEEDS)])
def test_a_network_gets_the_verdict_of_its_row(name: str, seed: int, reports: dict[tuple[str, int, str], Any]) -> None:
    network, report = zoo.get(name), report_on(name, seed, reports)
    codes = {finding.code for finding in report.findings}
    assert report.verdict in network.expects, codes
    assert set(network.codes) <= codes
    assert report.healthy or not network.healthy, codes
    verdicts = {layer.name: layer.verdict for layer in report.layers}
    assert {layer: verdicts.get(layer) for layer in network.layers} == dict(network.layers)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.code)
def test_a_rule_is_proved_on_enough_networks(rule: Any) -> None:
    least = 1 if rule.code in SCARCE else 2
    assert len(set(rule.fires_on)) >= least, f"{rule.code} needs {least} networks in fires_on"
    assert len(set(rule.silent_on)) >= 6, f"{rule.code} needs 6 networks in silent_on"


SCARCE = {"UV201", "UV302", "UV403", "UV502"}
"""Rules for which the zoo has one network only."""

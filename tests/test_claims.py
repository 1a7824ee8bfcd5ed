"""The table of claims: complete, every number measured, and a wrong number is noticed."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from unvanish import cli, lab
from unvanish.cli.lab import joined
from unvanish.lab import claims as table
from unvanish.lab.claims_page import page
from unvanish.records import UnvanishError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "claims.md"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?%?")


@functools.cache
def known(experiment: str, settings: tuple[tuple[str, Any], ...]) -> lab.Outcome:
    return lab.run(experiment, **dict(settings))


@pytest.fixture(scope="module")
def measured() -> lab.Outcome:
    """All claims but those for which networks are trained."""
    return lab.run("claims", trained=False)


@pytest.fixture(scope="module")
def numbers(measured) -> dict[str, float]:
    return {row["name"]: row["number"] for row in measured.rows}


def test_every_document_is_there_and_every_verdict_is_a_word():
    claims = table.claims()
    assert len(claims) >= 25
    assert {claim.source for claim in claims} == {"000", "001", "002", "003", "004"}
    assert {claim.verdict for claim in claims} == set(table.VERDICTS)
    assert len({claim.name for claim in claims}) == len(claims)
    assert [claim.source for claim in claims] == sorted(claim.source for claim in claims)


@pytest.mark.parametrize("claim", table.claims(), ids=lambda claim: claim.name)
def test_commands_name_experiments_and_settings_that_there_are(claim):
    words = claim.command().split()[1:]
    arguments = cli._parser(words).parse_args(joined(words))
    given = {
        name.removeprefix("parameter_"): value
        for name, value in vars(arguments).items()
        if name.startswith("parameter_") and value is not None
    }
    experiment = lab.get(claim.experiment)
    assert arguments.experiment == claim.experiment and set(given) == set(claim.settings)
    assert dict(experiment.settle(**given)) == dict(experiment.settle(**claim.settings))


def test_all_claims_are_borne_out(measured):
    assert measured.ok, [check for check in measured.checks if not check.ok]
    assert len(measured.rows) >= 30
    assert all("{" not in row["truth"] and "nan" not in row["truth"] for row in measured.rows)
    left_out = len(table.claims()) - len(measured.rows)
    assert left_out > 0 and measured.notes == (f"Left out: {left_out} claims for which networks are trained.",)


def test_the_numbers_are_the_golden_ones(golden, numbers):
    seeds = golden("seeds")
    ravine = seeds["quadratic"]
    assert numbers["minimum-after-1000"] == pytest.approx(ravine["w1_after_1000_from_1"], rel=1e-9)
    far, near = ravine["(10, 10)_eps0.01"]["gd_dist"][0], ravine["(1, 1)_eps0.01"]["gd_dist"][0]
    assert numbers["a-farther-start"] == far - near == 2302
    assert numbers["adagrad-in-the-ravine"] == ravine["(100, 100)_eps0.01"]["adagrad_lr0.5_dist"][0]
    at_stop = ravine["(1, 1)_eps0.001"]["gd_grad"][1]
    assert numbers["stopping-at-epsilon"] == pytest.approx(at_stop / 1e-3, rel=1e-9)
    assert numbers["activation-for-slope"] == pytest.approx(float(seeds["doc000"]["ratio"]), rel=1e-9)
    assert numbers["one-factor-too-many"] == pytest.approx(float(seeds["chain_L20"]["sigma_prime"][-1]), rel=1e-9)
    assert numbers["the-missing-value"] == pytest.approx(float(seeds["chain_L20"]["dout_dw1"]), rel=1e-9)
    assert numbers["fifty-layers"] == pytest.approx(float(seeds["chain_L50"]["dout_dw1"]), rel=1e-9)
    assert numbers["more-layers"] == pytest.approx(float(seeds["chain_fixed_point"]["factor"]), rel=1e-6)
    assert numbers["weights-below-one"] == pytest.approx(float(seeds["doc001"]["P_abs_w_lt_1"]), rel=1e-12)
    assert numbers["terms-above-one"] == pytest.approx(float(seeds["doc001"]["nielsen_width_max"]), rel=1e-6)
    assert numbers["plotted-maximum"] == pytest.approx(0.249841, abs=5e-7)
    assert numbers["largest-slope"] == 0.25
    assert numbers["the-sign"] == pytest.approx(-1, rel=1e-12)
    assert numbers["the-own-weight"] == pytest.approx(seeds["doc003"]["w"][0], abs=1e-4)
    published = golden("nielsen")["2hidden"]["ratio_last_first_epoch0"]
    assert numbers["early-layers-slower"] == pytest.approx(published, rel=0.3)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("minimum-after-1000", "w1_after_1000", 0.0),
        ("stopping-at-epsilon", "distance_over_bound", 1.0),
        ("largest-slope", "largest_slope", 0.3),
        ("the-missing-value", "log10_gradient", -3.0),
        ("far-from-its-optimum", "decrement", -9.0),
        ("deep-no-better", "accuracy", 0.9),
        ("careful-initialisation", "rescued", "yes"),
        ("stops-training", "works_at", "4 of 4"),
    ],
)
def test_a_number_that_does_not_bear_the_verdict_out_is_noticed(name, column, value):
    """The measure sees rows in which one column says something else."""
    claim = next(each for each in table.claims() if each.name == name)
    remedies = ("one hidden layer", "sigmoid as is", "Xavier init", "centred init, Adam")
    made = {
        "remedies": [
            {"remedy": each, "accuracy": 0.1, "rescued": "yes" if "centred" in each else "no", "works_at": "0 of 4"}
            for each in remedies
        ],
        "depth": [
            {"kind": kind, "hidden": hidden, "accuracy": 0.1 if (kind, hidden) == ("sigmoid", 20) else 0.8}
            for kind in ("sigmoid", "sigmoid, centred init")
            for hidden in (1, 20)
        ],
    }

    def honest(experiment, **settings):
        if experiment in made:
            return lab.Outcome(sentence="made", rows=tuple(made[experiment]))
        return known(experiment, tuple(sorted(settings.items())))

    def lying(experiment, **settings):
        outcome = honest(experiment, **settings)
        return outcome.replace(rows=tuple({**row, column: value} for row in outcome.rows))

    assert claim.measure(honest)[1]
    assert not claim.measure(lying)[1]


def test_the_page_has_every_claim_and_is_fresh_but_for_numbers(measured):
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith("<!-- written by python -m unvanish.lab.claims_page docs/claims.md -->")
    for claim in table.claims():
        assert f"| {claim.says.replace('|', chr(92) + '|')} | {claim.verdict} |" in text
        assert f"`{claim.command()}`" in text
    fresh = [line for line in page(measured).splitlines() if line.startswith("| ")]
    there = {NUMBER.sub("#", line) for line in text.splitlines()}
    assert not [line for line in fresh if NUMBER.sub("#", line) not in there]


def test_one_document_and_one_verdict_can_be_asked_for():
    outcome = lab.run("claims", document="003", verdict="false")
    assert {(row["document"], row["verdict"]) for row in outcome.rows} == {("003", "false")}
    with pytest.raises(UnvanishError, match="one of all, true, false, true only if"):
        lab.run("claims", verdict="maybe")


def test_stopping_inside_an_experiment_keeps_the_claims_measured_before():
    def impatient(share: float, what: str) -> None:
        if what.startswith("ravine: newton"):
            raise lab.Stopped

    outcome = lab.run("claims", progress=impatient, document="001", trained=False)
    assert outcome.ok and len(outcome.rows) == 10
    stopped = lab.run("claims", progress=impatient, document="000", trained=False)
    assert stopped.rows == () and "Stopped early: 0 of" in stopped.notes[-1]


def test_the_full_run_leaves_quick_out_and_says_so(monkeypatch):
    runs: list[tuple[str, dict[str, Any]]] = []
    shares: list[float] = []

    def answer(name: str, progress: Any, **settings: Any) -> lab.Outcome:
        runs.append((name, settings))
        progress(0.5, "half")
        rows = (
            {"kind": "sigmoid", "hidden": 1, "accuracy": 0.9},
            {"kind": "sigmoid", "hidden": 20, "accuracy": 0.1},
            {"kind": "sigmoid, centred init", "hidden": 20, "accuracy": 0.8},
        )
        return lab.Outcome(sentence="made", rows=rows)

    monkeypatch.setattr(table, "run_experiment", answer)
    chosen = tuple(claim for claim in table.claims() if claim.experiment == "depth")
    monkeypatch.setattr(table, "claims", lambda: chosen)
    short = lab.run("claims", progress=lambda share, what: shares.append(share))
    full = lab.run("claims", full=True)
    assert [settings.pop("quick", False) for _, settings in runs] == [True, False]
    assert short.rows[0]["command"] == "unvanish lab depth --hidden 1,20 --quick"
    assert full.rows[0]["command"] == "unvanish lab depth --hidden 1,20"
    assert "150 steps" in short.notes[0] and not full.notes
    assert shares == [0.0, 0.5]

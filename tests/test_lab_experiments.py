"""Experiments without training: their numbers, their checks, their refusals, their pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from unvanish import lab
from unvanish.lab.activations import functions
from unvanish.lab.chain import as_written, blame
from unvanish.lab.initialisations import predicted_gain, theory_page
from unvanish.lab.ravine import OPTIMISERS, stepper, walk
from unvanish.records import UnvanishError
from unvanish.theory import activation, activations, chain
from unvanish.words.numbers import exactly

Golden = Callable[[str], Any]


def by(outcome: lab.Outcome, column: str) -> list[Any]:
    return [row[column] for row in outcome.rows]


# ── chain ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_document_004_and_the_value_it_leaves_out() -> None:
    twenty, fifty = lab.run("chain", preset="004"), lab.run("chain", preset="004-50")
    assert "∂out/∂w₁ is 10^-26.682" in twenty.sentence and "0 in float16, not in bfloat16" in twenty.sentence
    assert "∂out/∂w₁ is 10^-67.856" in fifty.sentence
    assert "it is 0 in float16, bfloat16 and float32, not in float64" in fifty.sentence
    assert [check.ok for check in twenty.checks + fifty.checks] == [True] * 4
    assert by(twenty, "log10_gradient")[0] == pytest.approx(-26.6821253948, abs=1e-10)
    assert lab.run("chain", depth=50, weight=0.17).sentence == fifty.sentence


def test_the_layer_at_which_a_number_type_loses_the_signal() -> None:
    """Fifty layers in torch's own float32: the gradient is 0 up to that layer and not beyond."""
    zero = [row["layer"] for row in lab.run("chain", preset="004-50").rows if "float32" in row["zero_in"]]
    weights = torch.full((50,), 0.17, requires_grad=True)
    a = torch.tensor(1.0)
    for place in range(50):
        a = torch.sigmoid(weights[place] * a)
    (gradient,) = torch.autograd.grad(a, weights)
    exact = [place + 1 for place, value in enumerate(gradient.tolist()) if value == 0]
    assert zero == list(range(1, 18))
    assert abs(len(exact) - len(zero)) <= 1


def test_document_000_multiplies_the_wrong_thing(golden: Golden) -> None:
    expected = golden("seeds")["doc000"]
    made = chain([0.17] * 20)
    assert as_written(made, "000").value == pytest.approx(
        float(expected["chain20_with_sigma_not_sigma_prime"]), rel=1e-12
    )
    ratio = as_written(made, "000").value / made.weight_gradient.value[0]
    assert ratio == pytest.approx(float(expected["ratio"]), rel=1e-12)
    (note,) = [note for note in lab.run("chain", preset="000").notes if "As source" in note]
    assert "10^-20.248: 10^6.434 times the true one" in note


def test_document_003_has_the_wrong_sign(golden: Golden) -> None:
    expected = golden("seeds")["doc003"]
    made = chain(expected["w"], 0.0, expected["x"], loss="square", targets=expected["y"])
    assert as_written(made, "003-line-2").value == pytest.approx(expected["line2"], rel=1e-12)
    assert as_written(made, "003-line-3").value == pytest.approx(expected["line3"], rel=1e-12)
    assert as_written(made, "003-line-2").value == pytest.approx(-expected["autograd"], rel=1e-12)
    outcome = lab.run("chain", preset="003")
    assert "minus 1.000 times the true one" in outcome.notes[-1]
    # the preset's numbers are the golden ones, rounded to four decimals
    shown = by(outcome, "sign")[0] * 10 ** by(outcome, "log10_gradient")[0]
    assert shown == pytest.approx(expected["autograd"], rel=1e-3)


def test_blame_is_told_apart_and_adds_up() -> None:
    made = chain([3.0, 0.5, 2.0], inputs=0.3)
    weights, slopes = blame(made)
    assert weights == pytest.approx(math.log10(1.0), abs=1e-12)
    assert slopes == pytest.approx(np.log10(made.slope).sum(), abs=1e-12)
    assert weights + slopes == pytest.approx(made.delta.log10[0, 0], abs=1e-12)
    assert "the weights leave it as it is, the slopes shrink it" in lab.run("chain", depth=3, weight="3,0.5,2").sentence
    raised = lab.run("chain", depth=30, weight=5, activation="relu")
    assert "the weights raise it, the slopes leave it as it is" in raised.sentence
    assert any("float16 holds no number as large" in note for note in raised.notes)


def test_a_residual_connection_holds_the_gradient() -> None:
    plain, residual = lab.run("chain", depth=100), lab.run("chain", depth=100, residual=True)
    assert by(plain, "log10_delta")[0] < -130
    assert by(residual, "log10_delta")[0] > -2
    assert all(check.ok for check in residual.checks)


def test_deep_chains_keep_the_ends_of_the_table() -> None:
    deep = lab.run("chain", depth=100_000, rows=50)
    assert by(deep, "layer")[0] == 1 and by(deep, "layer")[-1] == 100_000 and len(deep.rows) == 50
    assert "The table shows 50 of 100,000 layers." in deep.notes
    assert "10^-137245.869" in deep.sentence
    one = lab.run("chain", depth=1)
    assert one.rows[0]["log10_gradient"] == pytest.approx(math.log10(0.248202414618095), abs=1e-12)


def test_exact_zeros_and_overflow_are_said() -> None:
    dead = lab.run("chain", depth=3, weight=-1, activation="relu")
    assert "is 0 exactly" in dead.sentence and by(dead, "log10_delta") == [-math.inf] * 3
    beyond = lab.run("chain", depth=2_000, weight=1_000, activation="identity")
    assert beyond.rows == () and "grow beyond float64 in layer 103 of 2,000" in beyond.sentence


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_is_drawn_from_its_seed(seed: int) -> None:
    one, again = (lab.run("chain", depth=30, weight=0, noise=1, seed=seed) for _ in range(2))
    other = lab.run("chain", depth=30, weight=0, noise=1, seed=seed + 1)
    assert one == again and one.rows != other.rows
    assert abs(np.mean(by(lab.run("chain", depth=900, weight=2, noise=1, seed=seed), "weight")) - 2) < 0.15


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"weight": [1, 2]},
            r"2 weights for depth 20 contradict each other; give one weight for all layers, or depth 2",
        ),
        ({"target": [1, 2]}, r"2 targets for 1 inputs contradict each other"),
        (
            {"depth": 100_000, "input": [0.5] * 900},
            r"more than 20,000,000 numbers; at this depth give at most 200 inputs",
        ),
    ],
)
def test_contradictory_settings_of_a_chain(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UnvanishError, match=f"lab chain: .*{said}"):
        lab.run("chain", **given)


# ── ravine ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["gd", "adagrad"])
def test_the_ravine_of_document_000(golden: Golden, name: str) -> None:
    expected = golden("seeds")["quadratic"]
    label = {"gd": "gd", "adagrad": "adagrad_lr0.5"}[name]
    steps: dict[tuple[int, str], int | None] = {}
    for start in (1, 10, 100):
        for bound in ("0.1", "0.01", "0.001", "0.0001"):
            settings = lab.get("ravine").settle(w1=start, w2=start, epsilon=bound, stop=bound)
            path = walk(name, settings, lambda share, what: None)
            near, flat = (expected[f"({start}, {start})_eps{bound}"][f"{label}_{kind}"] for kind in ("dist", "grad"))
            assert (path.steps, path.stop) == (near[0], flat[0])
            assert path.at_stop == pytest.approx(flat[1], rel=1e-9)
            steps[start, bound] = path.steps
    if name == "gd":
        # ten times farther costs ln 10 / −ln 0.999 steps more, 2,301.4, whatever the start
        for start, bound in ((1, "0.1"), (10, "0.001")):
            assert (steps[10 * start, bound] or 0) - (steps[start, bound] or 0) in (2_301, 2_302)


def test_a_thousand_steps_do_not_reach_the_minimum() -> None:
    near, far = lab.run("ravine"), lab.run("ravine", preset="far")
    assert by(near, "w1_after_1000")[0] == pytest.approx(0.999**1000, rel=1e-12)
    assert "needs 4,603 steps" in near.sentence and "Adagrad needs 9 steps" in near.sentence
    assert "2,301.4 more steps" in near.notes[1] and "2,301.4 more steps" in far.notes[1]
    assert "needs 9,206 steps" in far.sentence and "Adagrad needs 91,942 steps" in far.sentence
    assert max(by(far, "distance_over_bound")) == pytest.approx(499.617, abs=1e-3)
    assert dict(zip(by(near, "optimiser"), by(near, "steps"), strict=True))["newton"] == 1


@pytest.mark.parametrize("name", [name for name in OPTIMISERS if name != "newton"])
def test_each_optimiser_is_torchs(name: str) -> None:
    s = lab.get("ravine").settle(w1=3.0, w2=-2.0)
    w = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    made = {
        "gd": lambda: torch.optim.SGD([w], s.rate),
        "momentum": lambda: torch.optim.SGD([w], s.rate, momentum=s.momentum),
        "adagrad": lambda: torch.optim.Adagrad([w], s.rate),
        "rmsprop": lambda: torch.optim.RMSprop([w], s.adaptive_rate),
        "adam": lambda: torch.optim.Adam([w], s.adaptive_rate),
    }[name]()
    step, ours = stepper(name, s), (3.0, -2.0)
    for _ in range(300):
        made.zero_grad()
        (0.001 * w[0] ** 2 + w[1] ** 2).backward()
        made.step()
        ours = step(ours, (0.002 * ours[0], 2 * ours[1]))
    assert ours == pytest.approx(w.tolist(), rel=1e-9, abs=1e-30)


def test_a_rate_too_large_diverges_and_is_not_called_near() -> None:
    outcome = lab.run("ravine", rate=1.5, steps=5_000)
    gd = outcome.rows[0]
    assert gd["steps"] is None and gd["distance_after_1000"] > 1e100
    assert "has not come there after 5,000 steps" in outcome.sentence
    few = lab.run("ravine", steps=100)
    assert few.rows[0]["steps"] is None and not [c for c in few.checks if not c.ok]


# ── unstable ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_picture_of_unstable_shows_what_its_sentence_says():
    outcome = lab.run("unstable", chains=500)
    best = max(outcome.rows, key=lambda row: row["balanced"])
    drawing = outcome.pictures[0]
    size = f"{best['scale']:g}"
    assert f"random weights of size {size} are the best" in outcome.sentence and f"size {size}" in drawing.title
    median = {f"log10 weights {row['scale']:g}": row["log10_median"] for row in outcome.rows}
    first = drawing.data[0]
    assert first["log10 signal"] == best["log10_median"] and drawing.data[-1]["log10 signal"] == 0
    others = [key for key in first if "weights" in key]
    assert len(others) == 2 and all(first[key] == median[key] for key in others)
    said = {each["text"] for each in drawing.tables["labels"]}
    assert any(text.startswith(f"weights {size}: ") for text in said)


def test_three_regimes_of_equal_weights() -> None:
    outcome = lab.run("unstable", chains=200)
    equal = dict(zip(by(outcome, "scale"), by(outcome, "log10_equal"), strict=True))
    assert equal[4.0] == pytest.approx(0.0, abs=1e-12)
    assert equal[2.0] == pytest.approx(-19 * math.log10(2), rel=1e-12)
    assert equal[8.0] == pytest.approx(19 * math.log10(2), rel=1e-12)
    assert outcome.ok


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_weights_are_rarely_in_balance(seed: int) -> None:
    outcome = lab.run("unstable", chains=1_000, seed=seed)
    for row in outcome.rows:
        assert row["vanished"] + row["balanced"] + row["exploded"] == pytest.approx(1.0)
        assert row["log10_low"] <= row["log10_median"] <= row["log10_high"]
    share = dict(zip(by(outcome, "scale"), by(outcome, "balanced"), strict=True))
    assert share[0.5] == share[64.0] == 0.0 and 0.3 < share[6.0] < 0.65
    assert "larger ones saturate, and the signal vanishes again" in outcome.sentence
    growing = lab.run("unstable", chains=1_000, seed=seed, activation="identity", weight=[0.2, 1, 2, 10])
    assert "with larger ones it explodes" in growing.sentence


def test_weights_of_a_standard_normal_vanish_as_published(golden: Golden) -> None:
    outcome = lab.run("unstable", weight=1, centred=False, chains=20_000, depth=30)
    (row,) = outcome.rows
    # the mean of ln |w σ′| there is −2.308 a factor; a median over chains of 29 factors is close to 29 times that
    per_factor = row["log10_median"] * math.log(10) / 29
    assert per_factor == pytest.approx(golden("seeds")["doc001"]["E_log_abs_factor"], rel=0.03)


def test_the_window_needs_a_weight_of_four() -> None:
    outcome = lab.run("unstable", preset="window")
    assert "at most 0.447743, reached at |w| = 6.894" in outcome.sentence and outcome.ok
    assert by(outcome, "width")[:2] == [0.0, 0.0] and by(outcome, "width")[3] == pytest.approx(0.447743, abs=1e-6)


def test_training_turns_vanishing_into_explosion() -> None:
    for seed in (0, 1, 2):
        outcome = lab.run("unstable", preset="growth", seed=seed)
        gains = by(outcome, "log10_gain")
        assert gains[0] < -1 and gains[-1] > 0.5 and "from vanishing to exploding" in outcome.sentence
        assert outcome.rows[-1]["loss"] < 0.01 * outcome.rows[0]["loss"]
    short = lab.run("unstable", preset="growth", steps=3)
    assert "but not across one" in short.sentence


def test_late_layers_can_be_the_stuck_ones() -> None:
    outcome = lab.run("unstable", preset="reversed")
    change = by(outcome, "log10_change")
    assert change[0] - change[-3] == pytest.approx(17 * math.log10(2), abs=0.1)
    share = [10**each for each in by(outcome, "log10_share")]
    # from layer to layer the error signal halves, and what a layer gains goes with its square: 3/4, 3/16, …
    assert share[:3] == pytest.approx([0.75, 0.1875, 0.046875], rel=1e-3) and sum(share) == pytest.approx(1)
    assert "the loss from 0.125 to 0.00124; the first layer alone brings about 75% of that" in outcome.sentence
    assert "10^5.720 times faster" in outcome.sentence and "late layers are the stuck ones" in outcome.sentence
    vanishing = lab.run("unstable", part="reversed", weight=1)
    assert "early layers are the stuck ones" in vanishing.sentence and vanishing.ok
    assert "by less than 1%; the last layer alone" in vanishing.sentence
    assert "as fast as the last" in lab.run("unstable", part="reversed", weight=4).sentence


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"part": "growth", "weight": 1}, "take a depth from 2 to 6"),
        ({"part": "reversed"}, "part reversed takes one weight, not 9"),
        ({"depth": 1_000, "chains": 100_000}, "at this depth at most 20,000"),
    ],
)
def test_contradictory_settings_of_unstable(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UnvanishError, match=f"lab unstable: .*{said}"):
        lab.run("unstable", **given)


# ── activations ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_activation_and_its_slope() -> None:
    outcome = lab.run("activations", names="all")
    rows = {row["name"]: row for row in outcome.rows}
    assert set(activations()) < set(rows) and len(rows) >= 27 and outcome.ok
    assert (rows["sigmoid"]["largest_slope"], rows["sigmoid"]["at"]) == (0.25, 0.0)
    assert rows["softplus"]["at"] is None and rows["softplus"]["largest_slope"] == 1.0
    assert rows["relu"]["dead"] == pytest.approx(0.5, abs=0.02) and rows["relu"]["log10_twenty"] == -math.inf
    # E σ′(u) for u ~ N(0, 1), by quadrature with 30 digits: 0.206621
    assert rows["sigmoid"]["mean_slope"] == pytest.approx(0.206621, abs=0.002)
    assert "0.249841" in outcome.notes[0]
    with pytest.raises(UnvanishError, match="no activation 'rleu'; did you mean"):
        lab.run("activations", names="tanh, rleu")


def test_saturation_follows_the_pre_activations() -> None:
    calm, wild = (lab.run("activations", names="tanh", deviation=d).rows[0]["saturated"] for d in (0.5, 20.0))
    assert calm == 0 and wild > 0.8
    assert len(functions()) == len({*functions()})


# ── phase and theory ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("preset", ["", "relu", "sigmoid"])
def test_prediction_and_networks_in_the_same_table(preset: str) -> None:
    outcome = lab.run("phase", preset=preset, width=200, networks=2, depth=12)
    assert outcome.ok and outcome.checks
    for row in outcome.rows:
        assert row["measured"] == pytest.approx(row["chi1"], rel=0.08), row
    assert outcome.rows[0]["phase"] == "vanishing"
    assert "exploding" in outcome.rows[-1]["phase"]


def test_the_default_table_is_the_published_one(golden: Golden) -> None:
    table = {row["sigma_w2"]: row for row in golden("meanfield")["_schoenholz_tanh"]["table"]}
    outcome = lab.run("phase", width=0)
    both = [row for row in outcome.rows if row["weight_variance"] in table]
    assert len(both) == 7
    for row in both:
        expected = table[row["weight_variance"]]
        assert [row["q"], row["chi1"], row["q_slope"], row["depth_scale"]] == pytest.approx(
            [expected[key] for key in ("q", "chi1", "slope_q", "xi_grad")], rel=1e-6
        )
    assert "σ_w² = 1.76095" in outcome.sentence and by(outcome, "measured") == [None] * 8


def test_a_sigmoid_needs_enormous_weights() -> None:
    page = theory_page("sigmoid", width=0)
    rows = {row["initialisation"]: row for row in page.rows}
    xavier = rows["LeCun, or Xavier between equal widths"]
    assert xavier["chi1"] == pytest.approx(0.0557207, rel=1e-6) and xavier["phase"] == "vanishing"
    critical = rows["critical without biases"]
    assert critical["weight_variance"] == pytest.approx(103.00755, rel=1e-6) and critical["phase"] == "critical"
    assert "σ_w² = 103.008 holds it" in page.sentence
    assert "critical at variance 1" not in rows and "σ_b² would have to be -5.543" in page.notes[0]


def test_stability_of_the_variance_is_said() -> None:
    for name in ("gelu", "silu", "mish", "hardswish"):
        page = theory_page(name, width=0)
        assert "not stable" in page.notes[0] and "does not stay there" in page.sentence
    assert "the variance is stable there" in theory_page("tanh", width=0).notes[0]
    assert "σ_w² = 2 without biases holds it" in theory_page("relu", width=0).sentence


@pytest.mark.parametrize("name", ["tanh", "relu", "softplus", "hardsigmoid"])
def test_the_gain_is_predicted_layer_by_layer(name: str) -> None:
    page = theory_page(name, depth=10, weight_variance=1.3, bias_variance=0.2, width=300, networks=2)
    for row in page.rows:
        assert row["log10_measured"] == pytest.approx(row["log10_gain"], abs=0.15), row["initialisation"]
    asked = page.rows[-1]
    assert (asked["weight_variance"], asked["bias_variance"]) == (1.3, 0.2)
    assert "the variances asked for" in page.sentence and exactly(asked["log10_gain"]) in page.sentence


def test_the_predicted_gain_of_a_relu_by_hand() -> None:
    assert predicted_gain(activation("relu"), 1.0, 0.0, 21) == pytest.approx(20 * 0.5 * math.log10(0.5), rel=1e-12)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "sigmod"}, "there is no activation 'sigmod'; did you mean sigmoid"),
        ({"name": "tanh", "weight_variance": float("nan")}, "theory: weight_variance is nan"),
        ({"name": "tanh", "weight_variance": 1.0, "bias_variance": -1.0}, "theory: bias_variance is -1;"),
        ({"name": "tanh", "bias_variance": 0.1}, "theory: a bias variance of 0.1 needs a weight variance"),
        ({"name": "tanh", "depth": 10**9}, "theory: depth is"),
        ({"name": "tanh", "depth": 0}, "theory: depth is 0; it takes a whole number from 1 to 100,000"),
    ],
)
def test_the_theory_page_refuses(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UnvanishError, match=re.escape(said)):
        theory_page(**given)


# ── width ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_weight_shrinks_and_its_layer_does_not() -> None:
    outcome = lab.run("width", widths=[16, 64, 256], networks=10, seed=0)
    first, last = outcome.rows[0], outcome.rows[-1]
    assert last["log10_one_weight"] - first["log10_one_weight"] == pytest.approx(-0.5 * math.log10(16), abs=0.2)
    assert last["log10_layer"] - first["log10_layer"] == pytest.approx(0, abs=0.2)
    with pytest.raises(UnvanishError, match="names one width twice"):
        lab.run("width", widths=[16, 16])


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


LONG = {"bottom", "claims", "depth", "remedies", "speeds", "whatif"}
"""Experiments that train, or run all the others: files of their own test them."""


@pytest.mark.parametrize("name", [each.name for each in lab.experiments() if each.name not in LONG])
def test_pictures_draw_and_rows_have_their_columns(name: str) -> None:
    quick = {"phase": {"width": 0}, "width": {"networks": 2, "widths": [8, 16]}, "unstable": {"chains": 50}}
    outcome = lab.run(name, **quick.get(name, {}))
    assert outcome.sentence.endswith(".") and outcome.ok
    # the phases without networks are a prediction: nothing is measured that it could be held against
    assert outcome.checks or name == "phase", f"{name} proves nothing: give its Outcome a check"
    for row in outcome.rows:
        assert set(row) == {column.name for column in outcome.columns}
    assert lab.Outcome.from_json(outcome.to_json()).to_json() == outcome.to_json()
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    for place in range(len(outcome.pictures)):
        assert outcome.chart(place).svg().count("<path") > 3

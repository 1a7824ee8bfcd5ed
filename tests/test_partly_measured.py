"""Flows of a running training: a healthy network stays quiet, a sick one is named by what was measured."""

from __future__ import annotations

import json
import math
import random
from functools import cache
from typing import Any

import jsonschema
import pytest
from live_flows import stripped
from made_reports import shipped_schema

from unvanish import zoo
from unvanish.decide import decide
from unvanish.decide.limits import EXPLODING, VANISHED
from unvanish.decide.live import arrivals, growths
from unvanish.pipeline import diagnose
from unvanish.records import EVERYTHING, LIVE, Finding, Flow, LayerFlow, Setting
from unvanish.report import Report
from unvanish.rules import judge, rules

SEEDS = (0, 1, 2)
TWICE = ("equation", "equation-relu-first")
"""Their loss holds derivatives alone: no signal of a training comes to the last layer's first call."""
HEALTHY = [name for name in zoo.names() if zoo.get(name).healthy and name not in TWICE]
SICK = {
    "chain-4": "UV101", "chain-20": "UV101", "chain-50": "UV101", "sigmoid-20": "UV101", "sigmoid-50": "UV101",
    "xavier-sigmoid-20": "UV101", "stuck-sigmoid-10": "UV101", "postnorm-small-gain-60": "UV101",
    "chaotic-tanh-50": "UV201", "dead-relu": "UV301", "relu-on-logits": "UV301", "dead-units": "UV303",
    "dead-channels": "UV303", "nonfinite-log": "UV501", "overflow-exp": "UV501", "nonfinite-sqrt0": "UV502",
    "underflow-loss-1e-42": "UV503", "half-precision-underflow": "UV503",
}  # fmt: skip
OPEN = ("clamped-loss", "detached-loss", "softmax-one-unit")
"""Every gradient is exactly zero, which has several reasons, none of which was asked for."""
NOTHING = -math.inf
SETTING = Setting(
    model="Net", parameters=1, batch_size=8, dtype="float32", device="cpu", mode="train", effort="auto", seed=0
)


@cache
def measured(name: str, seed: int) -> Flow:
    return diagnose(zoo.get(name).build(seed), effort="quick", seed=seed).flow


def judged(name: str, seed: int, asked: tuple[str, ...] = LIVE) -> tuple[Flow, tuple[Finding, ...]]:
    flow = decide(stripped(measured(name, seed), asked))
    return flow, judge(flow)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_stays_quiet(name: str, seed: int) -> None:
    for asked in (LIVE, (*LIVE, "calls"), (*LIVE, "loss")):
        flow, findings = judged(name, seed, asked)
        assert [f.code for f in findings if f.level == "error"] == []
        assert {each.verdict for each in flow.layers} <= {"healthy", "gated", "frozen", "unused", "converged"}
        assert not flow.undecided or "loss" in asked
        assert "log10_transmission" in flow.notes[-1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SICK)
def test_a_sick_one_is_named_by_what_was_measured(name: str, seed: int) -> None:
    flow, findings = judged(name, seed)
    errors = [f for f in findings if f.level == "error"]
    assert [f.code for f in errors] == [SICK[name]]
    assert set(errors[0].layers) <= {each.name for each in flow.layers}
    unmeasured = {"log10_transmission", "log10_sensitivity_rise", "log10_jacobian_norm", "relative_gap"}
    assert not unmeasured & {each.name for f in findings for each in f.evidence}
    if SICK[name] in ("UV101", "UV201", "UV301", "UV303", "UV503"):
        assert "whether there is anything left to learn, was not asked" in errors[0].message


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "field", "limit"),
    [("sigmoid-20", "log10_transmission", VANISHED), ("chaotic-tanh-50", "log10_sensitivity_rise", EXPLODING)],
)
def test_only_layers_near_the_limit_are_judged_otherwise(name: str, field: str, limit: float, seed: int) -> None:
    word = zoo.get(name).expects[0]
    full, live = diagnose(zoo.get(name).build(seed), seed=seed).layers, judged(name, seed)[0].layers
    differ = [a for a, b in zip(full, live, strict=True) if (a.verdict == word) != (b.verdict == word)]
    assert all(abs(getattr(each, field) - limit) < 1.0 for each in differ)
    assert live[0].verdict == word != live[-1].verdict


@pytest.mark.parametrize("name", OPEN)
def test_where_nothing_measured_tells_the_question_is_named(name: str) -> None:
    flow, findings = judged(name, 0)
    assert {each.verdict for each in flow.layers} == {"not_asked"}
    assert [(f.code, f.level) for f in findings] == [("UV901", "note")], "an open question is no illness"
    assert "did not ask for" in findings[0].message


def test_zeros_in_a_row_are_left_open() -> None:
    flow, findings = judged("all-zero-weights", 0)
    assert [each.verdict for each in flow.layers] == ["not_asked", "not_asked", "healthy"]
    assert [(f.code, f.level) for f in findings] == [("UV901", "note")]


def layer(name: str, before: str = "", **changes: Any) -> LayerFlow:
    sizes: dict[str, Any] = {"log10_signal": 0.0, "log10_grad_norm": 0.0, "log10_weight_norm": 0.0}
    more: dict[str, Any] = {"underflow_fraction": 0.0, "log10_norm_gain": 0.0}
    return LayerFlow(
        name=name, before=before, **{"kind": "Linear", "source": "", "parameters": 1, **sizes, **more, **changes}
    )


def flow(*layers: LayerFlow, asked: tuple[str, ...] = LIVE) -> Flow:
    return Flow(setting=SETTING, layers=layers, asked=asked)


def verdicts(*layers: LayerFlow, asked: tuple[str, ...] = LIVE) -> list[str]:
    return [each.verdict for each in decide(flow(*layers, asked=asked)).layers]


def test_the_limits_are_those_of_the_numbers_they_stand_for() -> None:
    # the first layer has this much of the signal, of gradient times weights, and of the same per entry
    def first(less: float, **changes: Any) -> str:
        weak: dict[str, Any] = {"log10_signal": less, "log10_grad_norm": less} | changes
        return verdicts(layer("fc1", **weak), layer("fc2", "fc1"))[0]

    assert first(VANISHED - 0.01) == "vanished"
    assert first(VANISHED) == "healthy"
    assert first(VANISHED - 0.01, log10_signal=VANISHED) == "healthy"  # every reading must be below
    assert first(VANISHED - 0.01, log10_weight_norm=0.01) == "healthy"
    assert first(VANISHED - 0.01, log10_grad_norm=NOTHING) == "not_asked"  # no vanished gradient is exactly zero
    assert first(EXPLODING + 0.01) == "exploding"
    assert first(EXPLODING) == "healthy"
    assert first(EXPLODING + 0.01, log10_weight_norm=-0.01) == "healthy"  # both must grow
    assert first(EXPLODING + 0.01, dead_fraction=0.95) == "healthy"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["sigmoid-20", "chaotic-tanh-50", "relu-he-20", "small-gpt"])
def test_neither_the_scale_of_the_loss_nor_a_rescaled_layer_changes_a_verdict(name: str, seed: int) -> None:
    live = stripped(measured(name, seed))
    before = [each.verdict for each in decide(live).layers]

    def moved(each: LayerFlow, by: float, weights: float = 0.0) -> LayerFlow:
        return each.replace(
            log10_signal=(each.log10_signal or 0.0) + by,
            log10_grad_norm=(each.log10_grad_norm or 0.0) + by,
            log10_weight_norm=(each.log10_weight_norm or 0.0) + weights,
        )

    for scale in (-40.0, 3.0):
        scaled = live.replace(layers=tuple(moved(each, scale) for each in live.layers))
        assert [each.verdict for each in decide(scaled).layers] == before
    middle = len(live.layers) // 2
    rescaled = list(live.layers)
    rescaled[middle] = moved(rescaled[middle], -2.0, weights=2.0)
    now, then = arrivals(rescaled), arrivals(live.layers)
    assert now[rescaled[0].name] == pytest.approx(then[rescaled[0].name], abs=1e-9)
    after = [each.verdict for each in decide(live.replace(layers=tuple(rescaled))).layers]
    # its own signal is smaller now, which at the edge makes this one layer be passed over
    assert after.pop(middle) in (before.pop(middle), "healthy")
    assert after == before


def test_growth_next_to_a_normaliser_does_not_count() -> None:
    steep: dict[str, Any] = {"log10_signal": 3.0, "log10_grad_norm": 3.0}
    assert growths([layer("a", **steep), layer("b", "a")])["a"] == 3.0
    assert growths([layer("a", **steep), layer("b", "a", kind="BatchNorm1d")])["a"] == 0.0
    assert growths([layer("a", **steep), layer("b", "a", log10_norm_gain=0.2)])["a"] == 0.0
    # a fall further on takes nothing from a growth before it, and one before it does
    falls: dict[str, Any] = {"log10_signal": -2.0, "log10_grad_norm": -2.0}
    assert growths([layer("a", **steep), layer("b", "a", **falls), layer("c", "b")])["a"] == 5.0


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ({"log10_weight_norm": NOTHING}, "gated"),  # zero, and about to move
        ({"log10_weight_norm": NOTHING, "log10_grad_norm": NOTHING}, "not_asked"),
        ({"log10_grad_norm": NOTHING, "dead_fraction": 1.0}, "dead"),
        ({"dead_fraction": 1.0}, "not_asked"),  # it has a gradient, so it lets one through
        ({"log10_grad_norm": NOTHING, "dead_fraction": 0.99}, "not_asked"),
    ],
)
def test_an_exact_zero_is_explained_by_what_stands_after_it(later: dict[str, Any], expected: str) -> None:
    closed = layer("fc1", log10_signal=NOTHING, log10_grad_norm=NOTHING)
    assert verdicts(closed, layer("fc2", "fc1", **later), layer("fc3", "fc2"))[0] == expected
    # of two zero tensors in a row the first may wait for the second
    if expected == "gated":
        itself = closed.replace(log10_weight_norm=NOTHING)
        assert verdicts(itself, layer("fc2", "fc1", **later), layer("fc3", "fc2"))[0] == "not_asked"


@pytest.mark.parametrize(
    ("gain", "norm", "expected"),
    [
        (-3.0, -2.0, "gated"),  # 64 entries of 10^-2.9 take all of the 10^-3 away
        (-3.0, 0.0, "vanished"),  # as much, by a tensor of ordinary size
        (-1.2, -2.0, "vanished"),  # small, but 10^-1.8 of what is missing is not its doing
    ],
)
def test_a_small_tensor_must_explain_what_is_missing(gain: float, norm: float, expected: str) -> None:
    weak = layer("fc1", log10_signal=-3.0, log10_grad_norm=-3.0)
    gate = layer("scale", "fc1", log10_gain=gain, log10_weight_norm=norm, parameters=64)
    assert verdicts(weak, gate, layer("fc2", "scale"))[0] == expected


def test_not_asked_is_told_from_asked_and_failed() -> None:
    lost = layer("fc1", log10_grad_norm=None)
    assert verdicts(lost, layer("fc2")) == ["undecided", "healthy"]
    assert dict(decide(flow(lost, layer("fc2"))).undecided)["the verdict of fc1"].endswith("was not measured")
    no_shares = tuple(name for name in LIVE if name != "underflow_fraction")
    unread = layer("fc1", underflow_fraction=None)
    assert verdicts(unread, layer("fc2")) == ["undecided", "healthy"]
    assert verdicts(unread, layer("fc2"), asked=no_shares) == ["healthy", "healthy"]
    # without the weights no number is free of the scale: nothing is claimed in either direction
    bare = ("log10_signal", "log10_grad_norm")
    weak = layer("fc1", log10_signal=-9.0, log10_grad_norm=-9.0)
    assert verdicts(weak, layer("fc2"), asked=bare) == ["not_asked", "not_asked"]
    assert judge(decide(flow(weak, layer("fc2"), asked=bare))) == ()
    assert verdicts(layer("fc1", log10_signal=None, log10_grad_norm=None), layer("fc2")) == ["unused", "healthy"]


def some(count: int) -> list[tuple[str, ...]]:
    """Each measurement alone, all but one, and random choices of half of them."""
    draw = random.Random(0)
    drawn = [tuple(name for name in EVERYTHING if draw.random() < 0.5) for _ in range(count)]
    alone, without = (
        [(name,) for name in EVERYTHING],
        [tuple(a for a in EVERYTHING if a != name) for name in EVERYTHING],
    )
    return [(), *alone, *without, *drawn]


CALM = ("relu-he-20", "small-cnn", "small-gpt", "lstm", "converged-digits", "zero-head", "rezero", "residual-50")


@pytest.mark.parametrize("name", CALM)
def test_whatever_is_left_out_a_healthy_network_stays_quiet(name: str) -> None:
    whole = diagnose(zoo.get(name).build(0)).flow
    assert all(each.verdict != "undecided" for each in whole.layers)
    for asked in some(100):
        part = decide(stripped(whole, asked))
        assert "undecided" not in {each.verdict for each in part.layers}, asked
        assert [f.code for f in judge(part) if f.level == "error"] == [], asked
        assert Report.from_flow(part, judge(part)).healthy


@pytest.mark.parametrize(
    "name",
    [
        "sigmoid-20", "chaotic-tanh-50", "dead-relu", "softmax-one-unit", "all-zero-weights", "clamped-loss", "plateau",
        "half-precision-underflow", "below-eps-adam", "unused-layer", "frozen-backbone", "nonfinite-log",
    ],
)  # fmt: skip
def test_whatever_is_left_out_the_verdict_of_a_layer_has_its_finding(name: str) -> None:
    whole = diagnose(zoo.get(name).build(0)).flow
    quiet = {"healthy", "converged", "not_asked", "undecided"}
    for asked in some(100):
        part = decide(stripped(whole, asked))
        said = {layer: f.verdict for f in judge(part) for layer in f.layers}
        assert {each.verdict for each in part.layers} <= {each.verdict for each in whole.layers} | quiet, asked
        missing = {a.verdict for a in part.layers if a.verdict not in quiet and a.name not in said}
        assert not missing, asked


def test_a_rule_is_asked_only_where_its_needs_were() -> None:
    full = diagnose(zoo.get("saturated-tanh").build(0)).flow
    for each in rules():
        assert set(each.needs) < set(EVERYTHING), f"{each.code} does not say what it needs"
        if not full.asks(*each.needs):
            pytest.fail(f"{each.code} is not asked of a full check")
    for missing in ("calls", "loss", "saturated_fraction"):
        without = full.replace(asked=tuple(name for name in EVERYTHING if name != missing))
        assert "UV304" in {f.code for f in judge(full)}
        assert "UV304" not in {f.code for f in judge(without)}


def test_what_was_asked_travels_only_where_it_is_less_than_all() -> None:
    full = diagnose(zoo.get("chain-4").build(0))
    assert full.asked == EVERYTHING
    assert "asked" not in json.loads(full.to_json())
    live, findings = judged("sigmoid-20", 0)
    report = Report.from_flow(live, findings)
    saved = report.to_json()
    assert json.loads(saved)["asked"] == list(LIVE)
    jsonschema.validate(json.loads(saved), json.loads(shipped_schema()))
    back = Report.from_json(saved)
    assert back.flow == live
    assert judge(decide(back.flow)) == findings
    assert decide(live) == live


def test_a_report_of_a_running_training_says_what_was_left_out() -> None:
    live, findings = judged("relu-he-20", 0)
    report = Report.from_flow(live, findings)
    assert report.verdict == "healthy"
    assert "this look did not ask for" in str(report)
    live, findings = judged("sigmoid-20", 0)
    assert "each of the 19 steps back multiplies it by about" in findings[0].message
    assert findings[0].cause == "slopes"

"""Rules about activations, outputs, inputs and steps, in both directions, on flows with numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from test_rules import CLOSED, SETTING, UNLEARNED, call, flow, found, layer

from unvanish.records import (
    AlikeFacts,
    CallFlow,
    Flow,
    InputFacts,
    LabelFacts,
    LayerFlow,
    OutputFacts,
    PairFacts,
    StepFacts,
    ZeroFacts,
)

# 2.0 to gain, of 2.0 there was: the best constant output has a loss of 1.9
START = UNLEARNED.replace(value=2.0, reference=2.0, best_constant=1.9, at_constant=True)
STEP = StepFacts(optimizer="SGD", lr=0.1, loss=2.0, ladder=((1.0, 1.9),), best=1.0, needed=46.0, planned=1000)
VANISHED: dict[str, Any] = {"log10_transmission": -9.0}


def codes(of: Flow) -> list[tuple[str, str]]:
    return [(finding.code, finding.level) for finding in found(of)]


def net(name: str = "relu", output: str = "linear", loss: str = "mse_loss", **activation: Any) -> Flow:
    """fc1 -> activation -> fc2 -> last call -> loss."""
    calls = (
        call(0, "linear", "weights", 0.0, 1, module="fc1"),
        call(1, name, "slopes", 0.0, 2, module="act", inputs=(0,), **activation),
        call(2, "linear", "weights", 0.0, 3, module="fc2", inputs=(1,)),
        call(3, output, "slopes", 0.0, 4, module="last", inputs=(2,)),
        call(4, loss, "join", None, None, inputs=(3,)).replace(part="loss"),
    )
    return flow(layer("fc1", 0), layer("fc2", 2), calls=calls, loss=START)


@pytest.mark.parametrize(
    ("rms", "loss", "expected"),
    [
        ((0.5, 1.8, 3.01), 19.1, [("UV202", "error")]),  # 10^2.51, and 19.1 > 10 · 1.9
        ((0.5, 3.01, 1.0), 19.1, [("UV202", "error")]),  # to the largest, wherever it is
        ((0.5, 1.8, 3.0), 19.1, []),
        ((0.5, 1.8, 3.01), 19.0, []),
        ((-math.inf, 1.8, 3.01), 19.1, []),  # 10^1.21 from the first result that is not zero
    ],
)
def test_forward_growth(rms: tuple[float, ...], loss: float, expected: list[tuple[str, str]]) -> None:
    calls = tuple(call(i, "linear", "weights", 0.0, None, log10_rms=size) for i, size in enumerate(rms))
    large = START.replace(value=loss)
    assert codes(flow(*(layer(f"fc{i}", i) for i in range(3)), calls=calls, loss=large)) == expected


def test_forward_growth_names_the_layers_and_the_factor() -> None:
    sizes = (0.0, 1.0, 2.0, 3.0)
    calls = tuple(call(i, "linear", "weights", 0.0, None, log10_rms=size) for i, size in enumerate(sizes))
    (finding,) = found(flow(*(layer(f"fc{i}", i) for i in range(4)), calls=calls, loss=START.replace(value=190.0)))
    assert finding.verdict == "exploding" and finding.layers == ("fc3",)
    assert "grows 10^3.0 times" in finding.message and "each of the 3 steps" in finding.message
    assert [(each.value, each.threshold) for each in finding.evidence] == [(3.0, 2.5), (100.0, 10.0)]


@pytest.mark.parametrize(
    ("name", "activation", "expected"),
    [
        ("relu", {"dead_fraction": 0.91}, [("UV303", "error")]),
        ("relu", {"dead_fraction": 0.9}, []),
        ("tanh", {"dead_fraction": 0.91, "bounded": True}, []),
        ("hardtanh", {"dead_fraction": 0.91, "bounded": True}, [("UV303", "error")]),  # ReLU6
        ("tanh", {"saturated_fraction": 0.89, "bounded": True}, [("UV304", "error")]),  # √0.11 = 0.332 < 1/3
        ("tanh", {"saturated_fraction": 0.88, "bounded": True}, [("UV304", "note")]),  # √0.12 = 0.346
        ("tanh", {"saturated_fraction": 0.51, "bounded": True}, [("UV304", "note")]),
        ("tanh", {"saturated_fraction": 0.5, "bounded": True}, []),
        ("relu", {"saturated_fraction": 0.9}, []),
        ("hardtanh", {"saturated_fraction": 0.6, "bounded": True}, []),  # ReLU6 is flat for half of its inputs
        ("hardsigmoid", {"saturated_fraction": 0.6, "bounded": True}, []),  # the other 40% pass at full slope
    ],
)
def test_units_that_are_flat(name: str, activation: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    flat = net(name, **activation)
    assert codes(flat) == expected
    assert all(finding.layers == ("fc1",) for finding in found(flat))
    assert found(flat.replace(loss=START.replace(relative_gap=1e-4)), "UV303", "UV304") == []
    assert found(flat.replace(decrement=1e-4), "UV303", "UV304") == []


def test_what_excuses_flat_units() -> None:
    off = net(dead_fraction=0.95)
    assert codes(off.replace(setting=SETTING.replace(batch_size=7))) == []
    dead = off.replace(
        layers=(layer("fc1", 0, **CLOSED), layer("fc2", 2)), zeros=(ZeroFacts(layer="fc1", opens=False),)
    )
    assert codes(dead) == [("UV301", "error")]
    sure = net("tanh", saturated_fraction=0.9, bounded=True)
    assert codes(sure.replace(loss=START.replace(at_constant=False))) == []  # sure and better than a constant


INPUTS = InputFacts(layer="fc1", largest_deviation=500.0, saturated=0.9, saturated_standardised=0.1)


@pytest.mark.parametrize(
    ("change", "fires"),
    [
        ({}, True),
        ({"saturated": 0.5}, False),
        ({"saturated_standardised": 0.25}, True),
        ({"saturated_standardised": 0.26}, False),
        ({"saturated_standardised": None}, False),
        ({"saturated": 0.1, "step_limit": -2.1, "step_limit_standardised": -1.9}, True),
        ({"saturated": 0.1, "step_limit": -2.1, "step_limit_standardised": -2.0}, False),
        ({"saturated": 0.1, "step_limit": -2.0, "step_limit_standardised": -1.0}, False),
    ],
)
def test_input_scale(change: dict[str, Any], fires: bool) -> None:
    facts = INPUTS.replace(**change)
    assert codes(net().replace(inputs=facts)) == ([("UV707", "error")] if fires else [])
    better = START.replace(at_constant=False)
    assert codes(net().replace(inputs=facts, loss=better)) == ([("UV707", "note")] if fires else [])


@pytest.mark.parametrize(
    ("value", "standardised", "level"),
    [
        (191.0, 18.0, "note"), (189.0, 18.0, ""), (191.0, 19.1, ""), (191.0, None, ""), (1.89e4, 18.0, "note"),
        (1.91e4, 18.0, "error"), (1.91e4, 19.1, ""),
    ],
)  # fmt: skip
def test_inputs_that_throw_the_outputs_far_off(value: float, standardised: float | None, level: str) -> None:
    """A hundred times 1.9, the loss of the best constant, with the inputs as they are; ten times it standardised."""
    facts = INPUTS.replace(saturated=None, loss_standardised=standardised)
    loss = START.replace(value=value, reference=value, at_constant=False)
    assert codes(net().replace(inputs=facts, loss=loss)) == ([("UV707", level)] if level else [])


def test_saturation_by_the_inputs_is_said_once() -> None:
    flat = net("tanh", saturated_fraction=0.9, bounded=True)
    assert codes(flat.replace(inputs=INPUTS)) == [("UV707", "error")]
    assert codes(flat.replace(inputs=INPUTS.replace(layer="fc2"))) == [("UV707", "error"), ("UV304", "error")]


@pytest.mark.parametrize(
    ("kind", "loss", "unreachable", "expected"),
    [
        ("bounded", "mse_loss", 0.21, ["UV701"]),
        ("bounded", "mse_loss", 0.2, []),
        ("bounded", "mse_loss", None, []),
        ("clipped", "l1_loss", 0.21, ["UV701"]),
        ("clipped", "cross_entropy", 0.21, ["UV706"]),
        ("bounded", "binary_cross_entropy", 0.21, ["UV701"]),
        ("bounded", "binary_cross_entropy_with_logits", 0.21, ["UV706"]),
        ("normalised", "cross_entropy", 0.21, ["UV706"]),
        ("normalised", "mse_loss", 1.0, ["UV706"]),
        ("normalised", "cross_entropy", 0.2, []),
        ("", "mse_loss", 0.9, []),
    ],
)
def test_what_the_last_call_keeps_out_of_reach(
    kind: str, loss: str, unreachable: float | None, expected: list[str]
) -> None:
    facts = OutputFacts(call=3, kind=kind, low=0.0, high=1.0, unreachable=unreachable)
    findings = found(net(output="softmax", loss=loss).replace(output=facts))
    assert [finding.code for finding in findings] == expected
    assert all("softmax in last at net.py:3" in finding.message for finding in findings)


# outputs of rms 2 that must move by 201: more than 100 times their size
FAR = OutputFacts(call=3, wanted=201.0, rms=2.0)
CRAWLING = STEP.replace(needed=10001.0, best=1000.0, ladder=((1.0, 1.999), (1000.0, 1.5)), walked=1.99)


@pytest.mark.parametrize(
    ("output", "step", "expected"),
    [
        (FAR, CRAWLING, [("UV702", "error")]),
        (
            FAR,
            CRAWLING.replace(needed=10000.0),
            [("UV702", "note"), ("UV705", "note")],
        ),  # ten times those planned
        (
            FAR,
            CRAWLING.replace(walked=1.79),
            [("UV702", "note"), ("UV705", "note")],
        ),  # a tenth of the gap in a few steps
        (FAR, None, [("UV702", "note")]),
        (FAR.replace(wanted=200.0), None, []),
        (FAR.replace(wanted=10.1, rms=0.0), None, [("UV702", "note")]),  # never less than 0.1
        (FAR.replace(wanted=10.0, rms=0.0), None, []),
        (FAR.replace(unreachable=0.5, kind="bounded"), CRAWLING, [("UV701", "error")]),
    ],
)
def test_output_scale(output: OutputFacts, step: StepFacts | None, expected: list[tuple[str, str]]) -> None:
    assert codes(net().replace(output=output, step=step)) == expected


# raises the loss by 1.1, more than half of the 2.0 to gain; a tenth of the step lowers it
LEAPING = STEP.replace(ladder=((0.1, 1.8), (1.0, 3.1)), best=0.1, needed=5.0, walked=3.1)


@pytest.mark.parametrize(
    ("change", "fires"),
    [
        ({}, True),
        ({"walked": math.inf}, True),
        ({"walked": math.nan}, True),
        ({"walked": 3.0}, False),  # recovering
        ({"walked": None}, False),  # one look is no evidence
        ({"ladder": ((0.1, 1.8), (1.0, 3.0))}, False),
        ({"best": None}, False),  # nothing lowers it
    ],
)
def test_a_learning_rate_too_large_is_shown_by_several_steps(change: dict[str, Any], fires: bool) -> None:
    assert codes(net().replace(step=LEAPING.replace(**change))) == ([("UV704", "error")] if fires else [])


def test_hopping_near_the_end_is_no_fault() -> None:
    # 0.01 of 2.0 is left: a rise of 0.15 is more than half of that, and less than a tenth of what there was
    hopping = LEAPING.replace(loss=0.02, ladder=((0.1, 0.01), (1.0, 0.17)), walked=0.17)
    nearly = START.replace(value=0.02, relative_gap=0.01, at_constant=False)
    assert codes(net().replace(step=hopping, loss=nearly)) == []


# 10,001 steps where 1,000 are planned; a hundred times the rate gains 0.1 where the present one gains 0.01
SLOW = STEP.replace(
    ladder=((1.0, 1.9998), (100.0, 1.98)), best=100.0, needed=10_001.0, walked=1.99, walked_scaled=1.899, scale=100.0
)


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, "error"),
        ({"needed": 10_000.0}, "note"),
        ({"needed": 1000.0}, ""),
        ({"best": 99.0}, ""),
        ({"walked_scaled": 1.91}, "note"),  # gains 0.09, not 10 times 0.01
        ({"walked_scaled": 1.949, "scale": 15.0}, "error"),  # 15/3 = 5 times 0.01 are enough
        ({"walked_scaled": math.nan}, "note"),
        ({"walked": None}, "note"),
        ({"planned": None}, "note"),  # 10,000 are assumed
        ({"lr_limit": 2.1}, "error"),  # lr · λ_max = 0.1 · 2/2.1 < 0.1; 10,001 steps / 10.5 are within 1,000
        ({"lr_limit": 2.1, "needed": 10_600.0}, "note"),  # 10.5 times the rate would still take 1,010 steps
        ({"lr_limit": 1.9}, ""),  # near the limit a larger rate is no answer
        ({"scheduled": 1.0}, "error"),
        ({"scheduled": 2.0}, "note"),  # 5,000 steps at the full rate
        ({"scheduled": 11.0}, ""),  # 909 steps
        ({"scheduled": math.inf}, ""),  # a warm-up from nothing
        ({"lengths": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)}, "error"),
        ({"lengths": (1.0, 1.9, 2.71, 3.44, 4.1, 4.69)}, "note"),  # momentum 0.9: 10,001 / 4.69 = 2,132 steps
        ({"lengths": (1.0, 1.99, 2.97, 3.94, 4.9, 5.85), "needed": 60_000.0}, "error"),  # momentum 0.99: 10,256 steps
        ({"lengths": (1.0, 2.1, 2.9, 4.6, 7.7, 5.81)}, ""),  # more than twice 2.9: it finds its own rate
        ({"lengths": (0.0, 0.0, 0.0, 0.0, 0.0, 1.0)}, ""),  # a warm-up inside
        ({"lengths": (1.0, 1.2, 160.0, 300.0, 15.0, 1.5)}, ""),  # it leaps and comes back, as Prodigy does
        ({"lengths": (1.0, 0.0, 1.0, 0.0, 1.0, 0.0)}, "error"),  # every second step is none: no leap
        ({"lengths": (1.0, 1.2, 14.0, 2.0, 1.0, 1.0)}, "error"),  # one large batch: less than 10 · 3/2 times the second
    ],
)
def test_a_learning_rate_too_small_is_shown_by_several_steps(change: dict[str, Any], level: str) -> None:
    assert codes(net().replace(step=SLOW.replace(**change))) == ([("UV705", level)] if level else [])


@pytest.mark.parametrize(
    ("change", "left", "level"),
    [
        ({"taken": 1000}, 1.0, "error"),  # 1,001 steps needed are no more than 10 times 1,000, but those are over
        ({"taken": 999}, 1.0, "note"),
        ({"taken": None}, 1.0, "note"),
        ({"taken": 1000}, 0.9, "note"),  # a tenth was won
        ({"taken": 1000, "needed": 1000.0}, 1.0, ""),
        ({"taken": 1000, "walked_scaled": 1.91}, 1.0, "note"),  # gains 0.09, not 10 times 0.01
        ({"taken": 10_000, "planned": None}, 1.0, ""),  # 10,000 are assumed, which is no plan
    ],
)
def test_planned_steps_that_are_over_and_have_won_nothing(change: dict[str, Any], left: float, level: str) -> None:
    step, loss = SLOW.replace(needed=1001.0).replace(**change), START.replace(relative_gap=left)
    of = net().replace(step=step, loss=loss)
    stays = [] if level == "error" or not step.taken else [("UV402", "note")]  # a noted rate may not be why
    assert codes(of) == ([("UV705", level)] if level else []) + stays
    if level == "error":
        (finding,) = found(of)
        assert finding.message.startswith("The 1,000 steps that were planned have been taken. At this pace")
        assert [(e.value, e.threshold) for e in finding.evidence[1:3]] == [(1001.0, 1000.0), (1.0, 0.9)]


# λ_max = 2/0.2 = 10: lr · λ_max = 1, and the best step is 101 of these
STIFF = STEP.replace(best=101.0, ladder=((1.0, 1.9999), (101.0, 1.99)), needed=1001.0, lr_limit=0.2, walked=1.999)


@pytest.mark.parametrize(
    ("change", "fires"),
    [
        ({}, True),
        ({"best": 32.0}, True),  # the best of tenfold steps: half of one less than 100
        ({"best": 31.0}, False),
        ({"needed": 1000.0}, False),
        ({"optimizer": "Adam"}, False),
        ({"lr_limit": None}, False),
        ({"walked": 1.79}, False),  # the steps do close the gap
        ({"walked": None}, False),
        ({"lr_limit": 2.0, "best": 10_000.0}, False),  # lr · λ_max = 0.1: far from the limit
    ],
)
def test_slow_curvature(change: dict[str, Any], fires: bool) -> None:
    findings = found(net().replace(step=STIFF.replace(**change)), "UV404")
    assert [finding.verdict for finding in findings] == (["slow"] if fires else [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, True),  # lr · λ_max = 0.2: the best step is 20 of these, but 100 of the next one
        ({"best": 99.0}, False),
        ({"needed": 10_000.0}, False),
        ({"optimizer": "Adam"}, False),
        ({"lr_limit": 2.0}, False),  # 0.1: the rate is too small
        ({"walked": 1.79}, False),
    ],
)
def test_a_rate_that_is_too_small_and_near_its_limit_is_slow(change: dict[str, Any], said: bool) -> None:
    crawls = STIFF.replace(best=100.0, needed=10_001.0, lr_limit=1.0, planned=1000)
    findings = found(net().replace(step=crawls.replace(**change)), "UV404")
    assert [finding.level for finding in findings] == ["note"] * said
    assert not said or "one above that diverges" in findings[0].message


@pytest.mark.parametrize("step", [LEAPING, SLOW, STIFF], ids=["too large", "too small", "slow"])
@pytest.mark.parametrize(
    ("layers", "changes"),
    [
        ((layer("fc1", **VANISHED),), {}),
        ((layer("fc1", **CLOSED),), {"zeros": (ZeroFacts(layer="fc1", opens=False),)}),
        ((layer("fc1", **CLOSED),), {"zeros": (ZeroFacts(layer="fc1", opens=True),)}),
        ((layer("fc1"),), {"decrement": 1e-4}),
        ((layer("fc1"),), {"loss": START.replace(relative_gap=1e-4)}),
        ((layer("fc1"),), {"loss": START.replace(relative_gap=None, reference=None, why="no scale")}),
        ((layer("fc1"),), {"nonfinite": "backward"}),
    ],
    ids=["vanished", "dead", "saddle", "stationary", "converged", "no scale", "nonfinite"],
)
def test_nothing_is_said_about_steps_where_something_else_is_wrong(
    layers: tuple[LayerFlow, ...], changes: dict[str, Any], step: StepFacts
) -> None:
    of = flow(*layers, **{"loss": START, **changes}, step=step)
    assert found(of, "UV404", "UV704", "UV705") == []


def test_a_plateau_is_told_from_an_optimum_and_from_vanishing() -> None:
    (finding,) = found(net().replace(decrement=1e-4))
    assert (finding.code, finding.level, finding.layers) == ("UV402", "error", ("fc1", "fc2"))
    assert "It is not converged: 100% of the achievable reduction of the loss remains." in finding.message
    assert "transmission at least 0.5" in finding.message  # 10^-0.3
    (optimum,) = found(net().replace(decrement=1e-4, loss=START.replace(at_constant=False)))
    assert (optimum.code, optimum.level) == ("UV401", "note")
    assert [(each.name, each.value, each.threshold) for each in optimum.evidence] == [("decrement", 1e-4, 1e-3)]


def test_noise_is_a_note_beside_the_verdicts() -> None:
    assert found(flow(layer("fc1", noise=True), layer("fc2", noise=False))) == []
    (finding,) = found(flow(layer("fc1", noise=True), layer("fc3")))
    assert (finding.code, finding.level, finding.layers) == ("UV405", "note", ("fc1",))


def test_a_gradient_below_eps_is_not_one_lost_to_its_type() -> None:
    # norm 10^-9 over 100 entries: an rms of 10^-10, a hundredth of eps
    small = flow(layer("fc1", log10_grad_norm=-9.0)).replace(setting=SETTING.replace(eps=1e-8))
    (finding,) = found(small)
    assert (finding.code, finding.verdict, finding.level) == ("UV504", "underflow", "error")
    assert "about 0.010 of what the learning rate says" in finding.message or "10^-2.0" in finding.message
    lost = small.replace(layers=(layer("fc1", log10_grad_norm=-9.0, underflow_fraction=0.9),))
    assert codes(lost) == [("UV503", "error")]


@pytest.mark.parametrize(
    ("alignment", "later", "level"),
    [(-6.0, -1.0, "note"), (-5.8, -1.0, "error"), (-6.0, -9.0, "error"), (None, -1.0, "error")],
)
def test_a_gradient_below_eps_may_wait_where_it_cancels_and_a_later_layer_learns(
    alignment: float | None, later: float, level: str
) -> None:
    """Cancelled to ten roundings of float32, 10^-5.9; the later layer has an rms of 10^-2, or 10^-10 as the first."""
    layers = (layer("fc1", log10_grad_norm=-9.0, log10_alignment=alignment), layer("fc2", log10_grad_norm=later))
    findings = found(flow(*layers).replace(setting=SETTING.replace(eps=1e-8)), "UV504")
    assert [(finding.layers[0], finding.level) for finding in findings] == [("fc1", level)]


def test_a_call_of_the_loss_is_no_activation() -> None:
    hinge = CallFlow(index=1, name="relu", module="", source="", part="loss", role="slopes", dead_fraction=1.0)
    assert codes(flow(layer("fc1"), calls=(hinge,), loss=START)) == []


@pytest.mark.parametrize(
    ("after", "said", "remedies"),
    [
        (2.5, "at 100 times the rate raise the loss by 0.5", ("lr-10",)),
        (1.995, "lower the loss by less, 0.005, than as many at the present one, 0.01", ("lr-10",)),
        (1.99, "not shown", ("lr-10", "lr-100")),
    ],
)
def test_a_larger_rate_that_does_worse_is_said_and_not_offered(
    after: float, said: str, remedies: tuple[str, ...]
) -> None:
    (finding,) = found(net().replace(step=SLOW.replace(walked_scaled=after)), "UV705")
    assert finding.level == "note" and said in finding.message and finding.remedies == remedies


def rows_alike(spread: tuple[float, float], digits: float, **more: Any) -> Flow:
    """fc1 -> mean -> fc2 -> mean -> head; the spread of rows after each of the two means."""
    calls = (
        call(0, "linear", "weights", 0.0, 1, module="fc1"),
        call(1, "matmul", "join", 0.0, 2, inputs=(0,)),
        call(2, "linear", "weights", 0.0, 3, module="fc2", inputs=(1,)),
        call(3, "matmul", "join", 0.0, 4, inputs=(2,)),
        call(4, "linear", "weights", 0.0, None, module="head", inputs=(3,)),
    )
    facts = AlikeFacts(
        rows=50, calls=(1, 3), log10_spread=spread, stable_rank=(1.25, 1.0), given=-0.3, digits=digits, best_alike=1.0,
        at_alike=True, out_of_reach=0.42,
    ).replace(**more)  # fmt: skip
    return flow(
        *(layer(name, at) for name, at in (("fc1", 0), ("fc2", 2), ("head", 4))), calls=calls, loss=START
    ).replace(alike=facts)


@pytest.mark.parametrize(
    ("spread", "digits", "level", "layers", "said"),
    [
        ((-2.0, -7.0), -6.9, "error", ("fc2", "head"), "from fc2 on, after 2 of 2 means"),
        ((-2.0, -7.0), -7.1, "note", ("fc2", "head"), "10^-7.0 at the end (stable rank 1)"),
        ((-3.1, -6.6), -9.0, "note", ("fc1", "fc2", "head"), "from fc1 on, after 1 of 2 means"),
        ((-2.9, -6.6), -9.0, "note", ("fc2", "head"), "from fc2 on, after 2 of 2 means"),
        ((-7.0, -4.0), -9.0, "note", ("fc1", "fc2", "head"), "10^-7.0 after 1 (stable rank 1.25)"),
    ],
)
def test_rows_that_become_alike(
    spread: tuple[float, float], digits: float, level: str, layers: tuple[str, ...], said: str
) -> None:
    (finding,) = found(rows_alike(spread, digits))
    assert (finding.code, finding.level, finding.layers) == ("UV407", level, layers)
    assert said in finding.message and "leave 42% of the achievable reduction out of reach" in finding.message


def test_rows_that_are_alike_no_further_or_at_no_cost_are_left_alone() -> None:
    assert found(rows_alike((-2.0, -6.4), -9.0)) == []
    for same in ({"out_of_reach": 0.2}, {"given": -3.1}, {"at_alike": False}):
        assert found(rows_alike((-2.0, -7.0), -6.9, **same)) == []


@pytest.mark.parametrize(
    ("taken", "spread", "best_alike", "level"),
    [
        # a gap of 2.0 at a loss of 2.0; outputs the same for all rows leave 2.2 above the lowest: 1 - 2.0 / 2.2 = 0.09
        (100, -5.6, 2.2, "error"),
        (100, -5.4, 2.2, "note"),
        (100, -5.6, 2.3, "note"),  # 0.13 won
        (100, -5.6, None, "note"),
        (99, -6.6, 2.2, "note"),
    ],
)
def test_rows_are_a_fault_where_the_loss_stays_at_what_such_outputs_leave(
    taken: int, spread: float, best_alike: float | None, level: str
) -> None:
    step = STEP.replace(taken=taken)
    (finding,) = found(rows_alike((-2.0, spread), -9.0, best_alike=best_alike).replace(step=step), "UV407")
    assert finding.level == level and ("after 100 steps" in finding.message) == (level == "error")


def test_outputs_without_targets_of_their_own() -> None:
    """Less than 2% won by free outputs; a note where some samples ask nothing, unless UV706 tells of their labels."""
    pairs = PairFacts(outputs=(64, 1), targets=(64,), source="net.py:9", shuffled=0.0, won=0.019)

    def said(pairs: PairFacts, **more: Any) -> list[tuple[str, str]]:
        found_here = found(net().replace(pairs=pairs, **more), "UV708")
        return [(finding.level, finding.cause) for finding in found_here]

    assert said(pairs) == [("error", "shapes")]
    assert said(pairs.replace(targets=(64, 1))) == [("error", "a mean over the samples")]
    assert said(pairs.replace(won=0.02)) == said(pairs, loss=START.replace(best_constant=None)) == []
    assert said(pairs.replace(unasked=3)) == [("note", "labels")]
    odd = LabelFacts(call=4, kind="unsigned", share=0.5)
    assert said(pairs.replace(unasked=3), labels=odd) == []
    assert said(pairs.replace(unasked=3), labels=odd.replace(kind="beyond")) == [("note", "labels")]

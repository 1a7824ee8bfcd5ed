"""What decisions rest on, by hand and to both sides of each limit: gates, layers passed by, steps out of reach."""

from __future__ import annotations

import math
from typing import Any

import pytest
from test_rules import UNLEARNED, flow, found, layer

from unvanish.decide import decide
from unvanish.decide.live import arrivals, gate_after, passed_by, shut_by
from unvanish.decide.reach import depends_beyond, time_level
from unvanish.records import Flow, LayerFlow, LossFacts, NextStep, OutputFacts, RateTrial, StepFacts, TimeFacts
from unvanish.rules.conditions import shrunk_level

NOTHING = -math.inf


@pytest.mark.parametrize(
    ("gate", "arrival", "named"),
    [
        # 100 × 100 entries between ±1/√100 have a norm of √(100/3) = 5.77; 0.03 of it is 0.173 = 10^-0.761
        ({"log10_weight_norm": -0.77}, -4.4, "gate"),
        ({"log10_weight_norm": -0.75}, -4.4, ""),
        ({"log10_weight_norm": -0.77}, -4.6, ""),  # without the step of 10^-3 across it 10^-1.6 is left
        ({"log10_weight_norm": -0.77, "log10_gain": -0.9}, -2.0, ""),
        ({"log10_weight_norm": -0.77, "frozen": True}, -4.4, ""),
        ({"log10_weight_norm": -0.77, "log10_grad_norm": NOTHING}, -4.4, ""),
    ],
)
def test_a_small_tensor_that_alone_explains_what_is_missing_is_a_gate(
    gate: dict[str, Any], arrival: float, named: str
) -> None:
    behind = layer("fc", log10_weight_norm=0.5)
    after = layer("gate", **{"parameters": 10_000, "log10_gain": -3.0, **gate})
    assert gate_after([behind, after, layer("head", log10_weight_norm=0.5)], behind, arrival) == named


@pytest.mark.parametrize(("own", "gradient", "named"), [(0.5, -1.0, "gate"), (NOTHING, -1.0, ""), (0.5, NOTHING, "")])
def test_an_exact_zero_is_a_gate_where_it_has_a_gradient_and_the_layer_is_no_zero(
    own: float, gradient: float, named: str
) -> None:
    behind = layer("fc", log10_weight_norm=own, log10_grad_norm=NOTHING)
    after = layer("gate", log10_weight_norm=NOTHING, log10_grad_norm=gradient)
    assert gate_after([behind, after], behind, NOTHING) == named
    assert gate_after([after, behind], behind, NOTHING) == ""  # what ran before is no gate


def test_what_arrives_is_the_largest_of_three_readings_beside_the_most_behind_it() -> None:
    def sized(name: str, signal: float, gradient: float, parameters: int, **more: Any) -> LayerFlow:
        return layer(
            name, log10_signal=signal, log10_grad_norm=gradient, log10_weight_norm=0.0, parameters=parameters, **more
        )

    # by the signal -4, by gradient times weight -3, by the same per entry (10^4 entries less: 10^2) -1
    layers = [sized("one", -4.0, -3.0, 100), sized("two", 0.0, 0.0, 1_000_000), sized("off", 9.0, 9.0, 1, frozen=True)]
    assert arrivals(layers) == pytest.approx({"two": 0.0, "one": -1.0})


def test_a_layer_is_passed_by_where_one_before_it_gets_a_good_part() -> None:
    names = ("h.0.query", "h.0.value", "h.1.query", "h.1.value")
    layers = [layer(name) for name in names]
    arrived: dict[str, float] = dict(zip(names, (-9.0, -0.1, -9.0, 0.0), strict=True))
    assert [passed_by(layers, each, arrived) for each in layers] == [True, False, True, False]
    assert not passed_by(layers, layers[0], {**arrived, "h.1.query": -2.4})  # its namesake is not weak either
    larger = [layer("h.0.query", parameters=99), *layers[1:]]
    assert not passed_by(larger, larger[0], arrived)
    assert not passed_by(layers, layers[2], {**arrived, "h.0.value": -1.6})  # nothing before it gets a good part


def test_a_layer_is_shut_by_a_dead_one_behind_it() -> None:
    one, dead, last = layer("one"), layer("dead", dead_fraction=1.0, log10_grad_norm=NOTHING), layer("last")
    assert [shut_by([one, dead, last], each) for each in (one, dead, last)] == ["dead", "dead", ""]
    assert shut_by([one, dead.replace(log10_grad_norm=-9.0)], one) == ""
    assert shut_by([one, dead.replace(dead_fraction=0.99)], one) == ""


FACTS = TimeFacts(
    layer="rnn", kind="RNN", steps=50, faint=20, lost=0, beyond=0.25, beyond_chance=0.01, within=0.01, by_chance=0.15
)


@pytest.mark.parametrize(
    ("more", "beyond"),
    [
        # correlations of 0.5 and 0.1: Fisher's z of 0.549 and 0.100, apart by 0.449
        ({}, True),  # √0.15 = 0.387, z = 0.409
        ({"by_chance": 0.18}, False),  # √0.18 = 0.424, z = 0.453
        ({"beyond_chance": 0.011}, False),
        *(({name: None}, False) for name in ("beyond", "within", "by_chance", "beyond_chance")),
    ],
)
def test_targets_depend_on_a_step_out_of_reach_where_chance_does_not_do_it(more: dict[str, Any], beyond: bool) -> None:
    assert depends_beyond(FACTS.replace(**more)) == beyond


def test_steps_lost_to_rounding_are_a_note_and_an_error_where_the_loss_stays() -> None:
    none = FACTS.replace(beyond=None)
    stuck = UNLEARNED.replace(at_constant=True)
    late = StepFacts(optimizer="SGD", lr=0.1, loss=1.0, ladder=(), taken=100)

    def level(facts: TimeFacts, loss: LossFacts | None = stuck, **more: Any) -> str:
        return time_level(flow(layer("rnn"), loss=loss, **more), facts)

    assert level(FACTS) == "error" and level(FACTS.replace(faint=0)) == "" and level(FACTS.replace(why="no")) == ""
    assert level(none) == "" and level(none.replace(lost=1)) == "note"
    assert level(none.replace(lost=1), step=late) == "error"
    assert level(none.replace(lost=1), step=late.replace(taken=99)) == "note"
    assert level(none.replace(lost=1), UNLEARNED, step=late) == level(none.replace(lost=1), None, step=late) == "note"
    assert level(none, step=late) == ""


def test_outputs_are_too_small_where_a_constant_shrinks_them_and_the_steps_planned_do_not_do() -> None:
    def level(slow: float = 10_001.0, shrunk: float = 0.09, wanted: float = 11.0, optimizer: str = "SGD") -> str:
        """Outputs of 0.1, of which the loss wants 110 times as much; the first step wins nothing."""
        step = StepFacts(optimizer=optimizer, lr=0.1, loss=1.0, ladder=(), needed=slow, planned=1_000)
        output = OutputFacts(call=4, rms=0.1, wanted=wanted, shrunk=shrunk)
        return shrunk_level(
            Flow(setting=flow().setting, layers=(layer("fc"),), loss=UNLEARNED, output=output, step=step)
        )

    assert level() == "error" and level(optimizer="Adam") == level(slow=9_999.0) == "note"
    assert level(shrunk=0.1) == level(wanted=9.9) == level(slow=999.0) == ""


def test_a_gate_found_in_a_check_says_what_it_rests_on() -> None:
    (finding,) = found(flow(layer("block.fc", log10_transmission=-5.0, gate="block.scale"), layer("head")))
    assert [(each.name, each.value) for each in finding.evidence] == [("log10_transmission", -5.0)]


def test_parameters_out_of_sight_are_a_note_and_weights_drawn_anew_an_error() -> None:
    def said(**more: Any) -> list[tuple[str, str, float]]:
        stepped = flow(layer("fc"), next_step=NextStep(**more))
        return [(each.level, each.cause, each.evidence[0].value or 0.0) for each in found(stepped, "UV605")]

    assert said() == []
    assert said(outside=42) == [("note", "modules out of sight", 42.0)]
    assert said(outside=42, anew=40) == [("error", "layers made in the forward pass", 40.0)]


def test_a_rate_at_which_the_signal_is_lost_is_an_error_and_one_just_above_a_note() -> None:
    """By six real steps at each of two rates; before them the weakest layer transmits 10^-0.5."""
    kept, lost = (RateTrial(scale=1.0, lr=0.1, steps=6, loss=2.0, log10_transmission=at) for at in (-1.0, -3.0))
    step = StepFacts(optimizer="SGD", lr=0.1, loss=2.0, ladder=((1.0, 1.9),), best=1.0, needed=46.0, planned=1000)
    loss = UNLEARNED.replace(value=2.0, reference=2.0, best_constant=1.9)

    def said(*rates: RateTrial, **more: Any) -> list[tuple[str, str]]:
        layers = (layer("one", log10_transmission=-0.5), layer("off", log10_transmission=None, frozen=True))
        made = flow(*layers, loss=loss, step=step, rates=rates, **more)
        return [(each.level, each.message) for each in found(made, "UV704")]

    ((level, message),) = said(lost, kept.replace(scale=0.1, lr=0.01))
    assert level == "error" and "falls from 0.32 to 10^-3.0" in message
    assert "As many at 0.01 leave it at 0.10" in message
    ((level, message),) = said(kept, lost.replace(scale=3.0, lr=0.3))
    assert level == "note" and "less than a factor 3 above the present rate of 0.1" in message
    assert said(kept, kept.replace(scale=3.0)) == said(lost, lost.replace(scale=0.1)) == []
    assert said(lost.replace(loss=0.1), kept.replace(scale=0.1)) == []  # the loss fell all the same


def test_a_signal_that_still_rises_after_the_last_step_tried_is_an_open_question() -> None:
    step = StepFacts(optimizer="SGD", lr=0.1, loss=1.0, ladder=(), arrived=-6.0, arrived_after=40, arriving=0.05)

    def asked(step: StepFacts) -> list[str]:
        what = "whether the signal reaches the first layers in time"
        return [why for name, why in decide(flow(layer("fc"), step=step)).undecided if name == what]

    assert asked(step) == ["40 real steps let more and more of it through, and more were too dear to try"]
    assert asked(step.replace(arriving=None)) == []

"""The order of the decisions, on flows small enough to decide by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from unvanish.decide import decide
from unvanish.records import CallFlow, Flow, LayerFlow, LossFacts, Setting, StepFacts, ZeroFacts
from unvanish.words.spans import span

SETTING = Setting(
    model="Net", parameters=1, batch_size=8, dtype="float32", device="cpu", mode="train", effort="auto", seed=0
)
UNLEARNED = LossFacts(value=1.0, residual_norm=0.5, reference=1.0, relative_gap=1.0, reacts=True)
NOTHING, UNKNOWN = -math.inf, math.nan
SOUND: dict[str, Any] = {
    "kind": "Linear",
    "source": "net.py:1",
    "parameters": 100,
    "call": 0,
    "log10_jacobian_norm": 0.0,
    "log10_grad_norm": -1.0,
    "log10_transmission": -0.3,
    "log10_sensitivity_rise": 0.2,
    "underflow_fraction": 0.0,
}


def layer(name: str = "fc1", **changes: Any) -> LayerFlow:
    return LayerFlow(name=name, **(SOUND | changes))


def flow(*layers: LayerFlow, loss: LossFacts | None = UNLEARNED, **changes: Any) -> Flow:
    return Flow(setting=SETTING, layers=layers, loss=loss, **changes)


def verdict(changes: dict[str, Any], loss: LossFacts | None = UNLEARNED, **more: Any) -> str:
    return decide(flow(layer(**changes), loss=loss, **more)).layers[0].verdict


def reason(changes: dict[str, Any], loss: LossFacts | None = UNLEARNED) -> str:
    return dict(decide(flow(layer(**changes), loss=loss)).undecided)["the verdict of fc1"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "healthy"),
        ({"frozen": True}, "frozen"),
        ({"call": None}, "unused"),
        ({"log10_transmission": -2.51}, "vanished"),
        ({"log10_transmission": -2.5}, "healthy"),
        ({"log10_transmission": -2.51, "gate": "block.scale"}, "gated"),
        ({"log10_transmission": -0.1, "gate": "block.scale"}, "healthy"),
        ({"log10_sensitivity_rise": 2.51}, "exploding"),
        ({"log10_sensitivity_rise": 2.5}, "healthy"),
        ({"log10_sensitivity_rise": 2.51, "dead_fraction": 0.95}, "healthy"),
        ({"underflow_fraction": 0.51}, "underflow"),
        ({"underflow_fraction": 0.5}, "healthy"),
        # a gradient of 10^-300 is small, but no zero
        ({"log10_jacobian_norm": -300.0, "log10_grad_norm": -300.0}, "healthy"),
    ],
)
def test_one_number_decides(changes: dict[str, Any], expected: str) -> None:
    assert verdict(changes) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"frozen": True}, {"call": None}, "frozen"),
        ({"call": None}, {"log10_jacobian_norm": NOTHING}, "unused"),
        ({"log10_transmission": -9.0}, {"log10_sensitivity_rise": 9.0}, "vanished"),
        ({"log10_sensitivity_rise": 9.0}, {"underflow_fraction": 1.0}, "exploding"),
        ({"log10_transmission": -9.0}, {"underflow_fraction": 1.0}, "vanished"),
    ],
)
def test_the_earlier_question_wins(first: dict[str, Any], second: dict[str, Any], expected: str) -> None:
    assert verdict(first | second) == expected


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_non_finite_beats_everything(direction: str) -> None:
    learned = UNLEARNED.replace(relative_gap=0.0)
    layers = (layer("fc1", frozen=True), layer("fc2", call=None), layer("fc3", log10_transmission=-9.0))
    decided = decide(flow(*layers, loss=learned, nonfinite=direction))
    assert [each.verdict for each in decided.layers] == ["nonfinite"] * 3
    (entry,) = decided.undecided
    assert f"the {direction} pass" in entry[1]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (ZeroFacts(layer="fc1", opens=True, gates=("head",)), "gated"),
        (ZeroFacts(layer="fc1", opens=True), "saddle"),
        (ZeroFacts(layer="fc1", opens=False), "dead"),
        (ZeroFacts(layer="fc1", opens=False, gates=("head",), by_construction=True), "dead"),
        (ZeroFacts(layer="another", opens=False), "undecided"),
    ],
)
def test_an_exact_zero_is_explained_by_the_nudge(facts: ZeroFacts, expected: str) -> None:
    closed = {"log10_jacobian_norm": NOTHING, "log10_grad_norm": NOTHING, "log10_transmission": NOTHING}
    assert verdict(closed, zeros=(facts,)) == expected
    # even in a network that has learned everything a dead layer is dead
    assert verdict(closed, UNLEARNED.replace(relative_gap=0.0), zeros=(facts,)) == expected


def test_a_gradient_past_the_outputs_is_left_open() -> None:
    auxiliary = {"log10_jacobian_norm": NOTHING, "log10_grad_norm": -2.0}
    assert verdict(auxiliary, zeros=(ZeroFacts(layer="fc1", opens=False),)) == "undecided"
    assert "a second loss" in reason(auxiliary)


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (0.00099, "converged"),
        (0.001, "vanished"),
        (0.0, "converged"),
        (-1e-9, "converged"),  # rounding below the floor
        (None, "vanished"),
        (UNKNOWN, "vanished"),
        (NOTHING, "vanished"),
    ],
)
def test_converged_comes_before_vanished_and_needs_a_scale(gap: float | None, expected: str) -> None:
    assert verdict({"log10_transmission": -9.0}, UNLEARNED.replace(relative_gap=gap)) == expected


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (LossFacts(value=1.0, relative_gap=1.0, residual_norm=0.0, reacts=True), "no_signal"),
        (LossFacts(value=1.0, relative_gap=1.0, residual_norm=0.7, reacts=False), "no_signal"),
        (LossFacts(value=1.0, relative_gap=1.0, residual_norm=0.7, reacts=True), "undecided"),
        (LossFacts(value=1.0, relative_gap=1.0, residual_norm=UNKNOWN, reacts=True), "undecided"),
        (LossFacts(value=1.0, relative_gap=1.0), "undecided"),
        (LossFacts(value=0.0, relative_gap=0.0, residual_norm=0.0, reacts=True), "converged"),
        (None, "undecided"),
    ],
)
def test_a_zero_gradient_behind_a_sound_jacobian(loss: LossFacts | None, expected: str) -> None:
    assert verdict({"log10_grad_norm": NOTHING}, loss) == expected


def test_a_flat_loss_sends_no_signal_unless_it_is_used_up() -> None:
    flat = UNLEARNED.replace(reacts=False)
    assert verdict({"log10_transmission": -9.0}, flat) == "no_signal"
    assert verdict({}, flat.replace(relative_gap=1e-4)) == "converged"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("log10_jacobian_norm", "how strongly the outputs depend on it"),
        ("log10_grad_norm", "the size of its gradient"),
        ("log10_transmission", "its transmission"),
        ("log10_sensitivity_rise", "the rise of its sensitivity"),
        ("underflow_fraction", "the share of its gradient that underflows"),
    ],
)
def test_what_was_not_measured_is_undecided_with_its_reason(field: str, words: str) -> None:
    assert verdict({field: None}) == "undecided"
    assert reason({field: None}) == f"{words} was not measured"
    assert reason({field: UNKNOWN}) == f"{words} is not a finite number (nan)"
    assert reason({field: math.inf}) == f"{words} is not a finite number (inf)"


MEASURED = [field for field in LayerFlow.__struct_fields__ if field.startswith(("log10_", "newton", "steps", "update"))]


@pytest.mark.parametrize("field", [*MEASURED, "saturated_fraction", "dead_fraction", "underflow_fraction"])
def test_nan_in_a_layer_is_never_healthy(field: str) -> None:
    assert verdict({field: UNKNOWN}) == "undecided"


@pytest.mark.parametrize(
    "field", ["value", "residual_norm", "best_constant", "best_free", "reference", "relative_gap", "curvature"]
)
def test_nan_in_the_loss_is_never_healthy(field: str) -> None:
    loss = UNLEARNED.replace(**{field: UNKNOWN})
    assert verdict({}, loss) == "undecided"
    assert reason({}, loss) == f"{field} is not a number (nan)"


def test_nan_in_a_layers_call_is_never_healthy() -> None:
    call = CallFlow(index=0, name="linear", module="fc1", source="", part="model", role="weights", log10_signal=UNKNOWN)
    assert verdict({}, calls=(call,)) == "undecided"
    assert verdict({}, calls=(call.replace(log10_signal=0.0),)) == "healthy"


def test_a_result_of_zero_has_no_relative_change_and_does_not_explode() -> None:
    call = CallFlow(index=0, name="linear", module="fc1", source="", part="model", role="weights", log10_rms=NOTHING)
    assert verdict({"log10_sensitivity_rise": None}, calls=(call,)) == "healthy"
    heard = call.replace(log10_rms=-30.0, log10_signal=0.0)
    assert verdict({"log10_sensitivity_rise": None}, calls=(heard,)) == "undecided"
    assert verdict({"log10_sensitivity_rise": None}, calls=(heard.replace(log10_signal=NOTHING),)) == "healthy"


def test_layers_with_one_reason_share_one_entry() -> None:
    layers = [layer(f"fc{i}", log10_transmission=None) for i in range(1, 5)] + [layer("head")]
    entries = dict(decide(flow(*layers)).undecided)
    assert entries["the verdict of fc1 … fc4 (4 layers)"] == "its transmission was not measured"


def test_questions_about_the_loss_stay_open_with_their_reason() -> None:
    unbounded = LossFacts(value=-3.0, residual_norm=1.0, why="the loss is unbounded below", reacts=True)
    assert dict(decide(flow(layer(), loss=unbounded)).undecided)["converged or not"] == "the loss is unbounded below"
    entries = dict(decide(flow(layer(), loss=None)).undecided)
    assert entries["converged or not"] == "the loss was not looked at on its own"
    assert "whether the loss is flat" in entries
    assert "converged or not" not in dict(decide(flow(layer())).undecided)


BETTER = UNLEARNED.replace(at_constant=False)
NO_BETTER = UNLEARNED.replace(at_constant=True)


@pytest.mark.parametrize(
    ("changes", "loss", "decrement", "expected"),
    [
        ({}, NO_BETTER, 0.00099, "plateau"),
        ({}, NO_BETTER, 0.001, "healthy"),
        ({}, NO_BETTER, None, "healthy"),  # not needed: the gradient does not cancel
        ({}, BETTER, 0.00099, "converged"),
        ({"log10_transmission": -9.0}, NO_BETTER, 0.00099, "vanished"),
        ({"log10_transmission": -9.0}, BETTER, 0.00099, "undecided"),
        ({"log10_sensitivity_rise": 9.0}, NO_BETTER, 0.00099, "plateau"),
        ({"log10_sensitivity_rise": 9.0}, NO_BETTER, 0.1, "exploding"),
    ],
)
def test_a_stationary_point_is_a_plateau_or_an_optimum(
    changes: dict[str, Any], loss: LossFacts, decrement: float | None, expected: str
) -> None:
    assert verdict(changes, loss, decrement=decrement) == expected


def test_curvature_that_is_needed_and_missing_is_said() -> None:
    question = "whether this is a stationary point"
    cancels = flow(layer(log10_alignment=-0.76))
    assert question in dict(decide(cancels).undecided)
    assert question not in dict(decide(cancels.replace(decrement=0.1)).undecided)
    assert question not in dict(decide(flow(layer(log10_alignment=-0.74))).undecided)
    refused = decide(flow(layer(), decrement_refused="no second derivative"))
    assert dict(refused.undecided)[question] == "the curvature cannot be had: no second derivative"


@pytest.mark.parametrize(("lowered", "open_question"), [(0.001, False), (0.00099, True), (None, True)])
def test_a_step_that_lowers_the_loss_answers_what_curvature_would(lowered: float | None, open_question: bool) -> None:
    steps = StepFacts(optimizer="Adam", lr=1e-3, loss=1.0, ladder=((1.0, 0.9),), lowered=lowered)
    decided = decide(flow(layer(log10_alignment=-0.76), step=steps))
    assert ("whether this is a stationary point" in dict(decided.undecided)) == open_question
    assert decided.layers[0].verdict == "healthy"


@pytest.mark.parametrize(("lowest", "expected"), [(1.0, "no_signal"), (0.9999991, "no_signal"), (0.999, "healthy")])
def test_a_loss_that_a_step_lowers_is_not_flat(lowest: float, expected: str) -> None:
    steps = StepFacts(optimizer="Adam", lr=1e-3, loss=1.0, ladder=((1.0, 1.0), (1000.0, lowest), (10_000.0, 7.0)))
    assert verdict({}, UNLEARNED.replace(reacts=False), step=steps) == expected


@pytest.mark.parametrize(
    ("eps", "expected"),
    [(1e-8, "underflow"), (0.9e-8, "healthy"), (0.0, "healthy"), (None, "healthy")],
)
def test_a_gradient_below_eps_underflows(eps: float | None, expected: str) -> None:
    # norm 10^-7.02 over 100 entries: an rms of 10^-8.02 = 0.955e-8
    decided = decide(flow(layer(log10_grad_norm=-7.02)).replace(setting=SETTING.replace(eps=eps)))
    assert decided.layers[0].verdict == expected


def test_deciding_twice_changes_nothing_and_keeps_what_was_open() -> None:
    once = decide(flow(layer(log10_transmission=-9.0), layer("fc2"), undecided=(("noise", "one sample"),)))
    assert decide(once) == once
    assert once.undecided[0] == ("noise", "one sample")


def test_an_old_verdict_is_overwritten() -> None:
    assert verdict({"verdict": "dead"}) == "healthy"


ORDER = [f"fc{i}" for i in range(1, 13)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ""),
        (["fc3"], "fc3"),
        (["fc3", "fc2"], "fc2, fc3"),
        (["fc1", "fc2", "fc3", "fc12"], "fc1 … fc3 (3 layers), fc12"),
        (ORDER, "fc1 … fc12 (12 layers)"),
        (ORDER[::2], "fc1, fc3, fc5 and 3 more layers"),
    ],
)
def test_neighbours_fold(names: list[str], expected: str) -> None:
    assert span(names, ORDER) == expected


def test_a_little_below_the_limit_a_layer_beside_a_sound_way_has_not_vanished() -> None:
    """The layer before it transmits well, so its signal came by another way: in a chain it would transmit less."""
    calls = tuple(
        CallFlow(index=k, name="linear", module="", source="", part="model", role="weights", inputs=inputs)
        for k, inputs in enumerate(((), (0,), (0, 1)))
    )

    def decided(first: float, second: float) -> list[str]:
        layers = tuple(
            LayerFlow(
                name=name, kind="Linear", source="", parameters=4, call=k, log10_jacobian_norm=0.0, log10_grad_norm=0.0,
                log10_transmission=value, log10_sensitivity_rise=0.0, underflow_fraction=0.0,
            )
            for k, (name, value) in enumerate((("first", first), ("second", second), ("third", 0.0)))
        )  # fmt: skip
        found = decide(flow().replace(layers=layers, calls=calls))
        return [layer.verdict for layer in found.layers]

    assert decided(-0.2, -2.8) == ["healthy", "healthy", "healthy"]
    assert decided(-0.2, -3.1) == ["healthy", "vanished", "healthy"]
    assert decided(-2.9, -2.8) == ["vanished", "vanished", "healthy"]
    assert decided(-2.8, -0.2) == ["vanished", "healthy", "healthy"]

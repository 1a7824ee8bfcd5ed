"""Each rule in both directions on flows built by hand; all expected numbers are worked out in the comments."""

from __future__ import annotations

import math
from typing import Any

import pytest

from unvanish import rules
from unvanish.decide import decide
from unvanish.records import CallFlow, Finding, Flow, LayerFlow, LossFacts, Setting, ZeroFacts
from unvanish.rules.blame import cause, route
from unvanish.rules.wording import factor, sources, subject
from unvanish.words.numbers import listing

SETTING = Setting(
    model="Net", parameters=1, batch_size=8, dtype="float32", device="cpu", mode="train", effort="auto", seed=0
)
UNLEARNED = LossFacts(value=1.0, residual_norm=0.5, reference=1.0, relative_gap=1.0, reacts=True)
NOTHING = -math.inf
CLOSED: dict[str, Any] = {"log10_jacobian_norm": NOTHING, "log10_grad_norm": NOTHING, "log10_transmission": NOTHING}
SOUND: dict[str, Any] = {
    "kind": "Linear",
    "parameters": 100,
    "log10_jacobian_norm": 0.0,
    "log10_grad_norm": -1.0,
    "log10_transmission": -0.3,
    "log10_sensitivity_rise": 0.2,
    "underflow_fraction": 0.0,
    "dtype": "float32",
}


def layer(name: str, call: int | None = 0, **changes: Any) -> LayerFlow:
    return LayerFlow(name=name, call=call, **{"source": "net.py:7", **SOUND, **changes})


def call(index: int, name: str, role: str, gain: float | None, after: int | None, **more: Any) -> CallFlow:
    more = {"module": "", "source": f"net.py:{index}", **more}
    return CallFlow(index=index, name=name, part="model", role=role, log10_gain=gain, next=after, **more)


def found(flow: Flow, *codes: str) -> list[Finding]:
    """The findings of the decided flow, of these codes if any are given."""
    return [finding for finding in rules.judge(decide(flow)) if not codes or finding.code in codes]


def flow(*layers: LayerFlow, loss: LossFacts | None = UNLEARNED, **changes: Any) -> Flow:
    return Flow(setting=SETTING, layers=layers, loss=loss, **changes)


def chain(slope: float, weight: float, signal: float, *, name: str = "sigmoid", **first: Any) -> Flow:
    """fc1 -> activation -> fc2 -> activation -> fc3, these log10 gains a call, this change of signal a layer."""
    calls = (
        # a call's gain is that of the step back to it: the factor of the call that comes next
        call(0, "linear", "weights", slope, 1),
        call(1, name, "slopes", weight, 2),
        call(2, "linear", "weights", slope, 3),
        call(3, name, "slopes", weight, 4),
        call(4, "linear", "weights", -5.0, 5),  # behind the last layer: no part of the way back to fc1
        call(5, "softmax", "norm", None, None),
    )
    layers = (
        layer("fc1", 0, log10_signal=2 * signal, source="net.py:7", **first),
        layer("fc2", 2, log10_signal=signal, source="net.py:9"),
        layer("fc3", 4, log10_signal=0.0, source="net.py:11"),
    )
    return flow(*layers, calls=calls)


def test_a_sound_flow_has_no_finding() -> None:
    assert found(chain(-0.1, 0.1, 0.0)) == []


def test_vanishing_says_how_much_is_lost_and_to_what() -> None:
    # two steps back of 10^-2 each: slopes 10^-1.5 = 0.032, weights 10^-0.5 = 0.32
    (finding,) = found(chain(-1.5, -0.5, -2.0, log10_transmission=-4.2))
    assert (finding.code, finding.level) == ("UV101", "error")
    assert finding.layers == ("fc1",)
    assert finding.cause == "slopes"
    assert finding.message == (
        "fc1 hardly learns: of the error signal that reaches fc3 only 10^-4.0 arrives at fc1, because each of the 2"
        " steps back multiplies it by about 0.010 (slopes 0.032, weights 0.32). It is not converged: 100% of the"
        " achievable reduction of the loss remains. Called at net.py:7."
    )
    numbers = {evidence.name: evidence.value for evidence in finding.evidence}
    assert numbers == {
        "log10_transmission": -4.2,
        "log10 of the error signal over that at fc3": -4.0,
        "log10 gain of the slopes": -3.0,
        "log10 gain of the weights": -1.0,
    }
    assert (finding.evidence[0].relation, finding.evidence[0].threshold) == ("<", -2.5)
    assert finding.remedies[0] == "centred-init"


@pytest.mark.parametrize(
    ("slope", "weight", "name", "blamed", "remedy", "absent"),
    [
        (-0.5, -1.5, "relu", "weights", "orthogonal-init", "centred-init"),
        (-2.5, 0.5, "tanh", "slopes", "batchnorm", "centred-init"),
        (-0.5, -1.5, "sigmoid", "weights", "centred-init", "he-init"),  # He initialisation does not rescue sigmoids
    ],
)
def test_vanishing_blames_only_what_shrinks(
    slope: float, weight: float, name: str, blamed: str, remedy: str, absent: str
) -> None:
    (finding,) = found(chain(slope, weight, -2.0, name=name, log10_transmission=-4.2))
    assert finding.cause == blamed
    assert finding.remedies[0] == remedy
    assert absent not in finding.remedies


def test_vanishing_without_a_measured_path_states_the_transmission() -> None:
    (finding,) = found(flow(layer("fc1", log10_transmission=-3.0), layer("fc2", 1)), "UV101")
    assert finding.cause == ""
    assert "the outputs depend on fc1 only 10^-3.0 times as much as on the best layer after it" in finding.message


def test_vanishing_folds_the_layers_and_names_the_worst() -> None:
    layers = [layer(f"fc{i}", i, log10_transmission=-8.0 + i) for i in range(8)]  # fc0 … fc5: -8 … -3
    (finding,) = found(flow(*layers), "UV101")
    assert finding.layers == tuple(f"fc{i}" for i in range(6))
    assert finding.message.startswith("fc0 … fc5 (6 layers) hardly learn: the outputs depend on fc0 only 10^-8.0")


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("tanh", "tanh", "sigmoid"), {"activation-tanh"}),
        (("relu_", "relu"), {"activation-relu"}),
        (("tanh", "relu"), set[str]()),  # neither is most of the network
        (("gelu",), set[str]()),
    ],
)
def test_an_activation_that_is_there_already_is_not_worth_trying(names: tuple[str, ...], missing: set[str]) -> None:
    lost = layer("0", log10_transmission=-9.0)
    calls = tuple(call(k, name, "slopes", -1.0, None) for k, name in enumerate(names))
    flow = decide(Flow(setting=SETTING, layers=(lost, layer("2")), calls=calls, loss=UNLEARNED))
    (finding,) = (f for f in rules.judge(flow) if f.code == "UV101")
    usual = {"activation-tanh", "activation-selu", "activation-relu"}
    assert usual - set(finding.remedies) == missing


def test_a_vanished_gradient_that_also_underflows_is_one_finding() -> None:
    (finding,) = found(flow(layer("fc1", log10_transmission=-42.0, underflow_fraction=0.9)))
    assert [(each.name, each.value) for each in finding.evidence][-1] == ("underflow_fraction", 0.9)


def test_settings_of_a_rule_are_its_keywords() -> None:
    from unvanish.rules.uv101_vanishing import vanishing

    decided = decide(flow(layer("fc1", log10_transmission=-9.0), layer("fc2", log10_transmission=-3.0)))
    assert vanishing(decided)[0].layers == ("fc1", "fc2")
    assert vanishing(decided, threshold=-5.0)[0].layers == ("fc1",)  # pyright: ignore[reportCallIssue]


def test_exploding_says_how_much_it_grows() -> None:
    # two steps back of 10^2 each: slopes 10^-0.5 = 0.32, weights 10^2.5 = 316
    (finding,) = found(chain(-0.5, 2.5, 2.0, name="tanh", log10_sensitivity_rise=4.5))
    assert (finding.code, finding.level, finding.cause) == ("UV201", "error", "weights")
    assert finding.message == (
        "fc1 upsets the whole network: the error signal grows 10^4.0 times from fc3 back to fc1; each of the 2 steps"
        " back multiplies it by about 100 (weights 320, slopes 0.32). Called at net.py:7."
    )


def test_exploding_without_growth_of_the_signal_states_the_sensitivity() -> None:
    (finding,) = found(chain(-0.1, 0.1, 0.0, log10_sensitivity_rise=3.5))
    assert finding.code == "UV201"
    assert "changes the outputs 10^3.5 times as much as the same change further on" in finding.message


def test_a_route_ends_where_the_calls_do_and_does_not_run_in_circles() -> None:
    looped = (call(0, "linear", "weights", -2.0, 1), call(1, "linear", "weights", -1.0, 0))
    path = route(flow(layer("fc1", 0), layer("fc2", 1), calls=looped), layer("fc1", 0))
    assert (path.end, path.steps, path.gains, path.change) == ("fc2", 1, {"weights": -2.0}, -2.0)
    assert (cause(path, shrinking=True), cause(path, shrinking=False)) == ("weights", "")
    unmeasured = (call(0, "linear", "weights", None, 1), call(1, "linear", "weights", math.nan, 9))
    assert route(flow(layer("fc1", 0), layer("fc2", 1), calls=unmeasured), layer("fc1", 0)).gains == {}


def test_what_other_branches_add_or_cancel_is_the_joins_share() -> None:
    # along the path 10^-1, in truth 10^-3: the sum with another branch has cancelled 10^-2
    calls = (call(0, "linear", "weights", -1.0, 1), call(1, "linear", "weights", None, None))
    start = layer("fc1", 0, log10_signal=-3.0)
    path = route(flow(start, layer("fc2", 1, log10_signal=0.0), calls=calls), start)
    assert path.gains == {"weights": -1.0, "joins": -2.0}
    assert path.change == sum(path.gains.values())
    assert cause(path, shrinking=True) == "joins"


@pytest.mark.parametrize(("by_construction", "code"), [(False, "UV301"), (True, "UV302")])
def test_dead_layers_name_what_blocks_them(by_construction: bool, code: str) -> None:
    facts = [
        ZeroFacts(layer=name, opens=False, blocked_by=("relu at net.py:12",), by_construction=by_construction)
        for name in ("fc1", "fc2")
    ]
    (finding,) = found(flow(layer("fc1", **CLOSED), layer("fc2", **CLOSED), layer("fc3"), zeros=tuple(facts)))
    assert (finding.code, finding.verdict, finding.level) == (code, "dead", "error")
    assert finding.layers == ("fc1", "fc2")
    assert finding.cause == "relu at net.py:12"
    assert "relu at net.py:12 passes" in finding.message


def test_zero_weights_are_a_saddle_and_a_zero_gate_is_none() -> None:
    waits = ZeroFacts(layer="fc1", opens=True, gates=("head.weight",))
    (note,) = found(flow(layer("fc1", **CLOSED), layer("head"), zeros=(waits,)))
    assert (note.code, note.verdict, note.level, note.cause) == ("UV603", "gated", "note", "head.weight")
    (error,) = found(flow(layer("fc1", **CLOSED), layer("head"), zeros=(waits.replace(gates=()),)))
    assert (error.code, error.verdict, error.level) == ("UV403", "saddle", "error")


def test_a_small_gate_is_named() -> None:
    (finding,) = found(flow(layer("block.fc", log10_transmission=-5.0, gate="block.scale"), layer("head")))
    assert (finding.code, finding.layers, finding.cause) == ("UV603", ("block.fc",), "block.scale")
    assert finding.message.startswith("block.fc waits behind block.scale")


@pytest.mark.parametrize(
    ("rms", "blamed", "words"),
    [
        ((0.5, 1.0), "log", "the call was asked outside its domain"),
        ((0.5, 9.0), "overflow", "an rms of 10^9.0: they have outgrown"),
    ],
)
def test_non_finite_forward_names_its_birth(rms: tuple[float, float], blamed: str, words: str) -> None:
    calls = (
        call(0, "linear", "weights", None, 1, log10_rms=rms[0]),
        call(1, "relu", "slopes", None, 2, log10_rms=rms[1]),
        call(2, "log", "join", None, 3, module="head", source="net.py:12", finite=False),
        call(3, "linear", "weights", None, None, finite=False, log10_rms=20.0),  # later, so no cause
    )
    (finding,) = found(flow(layer("fc1"), layer("fc2", 3), calls=calls, nonfinite="forward", nonfinite_call=2))
    assert (finding.code, finding.level, finding.cause) == ("UV501", "error", blamed)
    assert finding.layers == ("fc1", "fc2")
    assert finding.message.startswith("The forward pass is not finite from log in head at net.py:12 on")
    assert words in finding.message
    assert bool(finding.remedies) == (blamed == "overflow")


def test_non_finite_backward_names_its_birth() -> None:
    calls = (call(0, "sqrt", "slopes", None, None, source="net.py:3"),)
    (finding,) = found(flow(layer("fc1"), calls=calls, nonfinite="backward", nonfinite_call=0))
    assert (finding.code, finding.level, finding.cause, finding.layers) == ("UV502", "error", "sqrt", ("fc1",))
    assert "sqrt at net.py:3" in finding.message


@pytest.mark.parametrize("nonfinite", ["forward", "backward"])
def test_non_finite_of_unknown_birth_is_still_an_error(nonfinite: str) -> None:
    (finding,) = found(flow(layer("fc1"), nonfinite=nonfinite))
    assert finding.level == "error"
    assert "an unknown call" in finding.message


@pytest.mark.parametrize(
    ("dtype", "log10_grad_norm", "fires"),
    [
        # 100 entries: the rms of an entry lies one decade below the norm
        ("float16", 5.9, True),
        ("float16", 5.8, False),
        ("bfloat16", 39.6, True),
        ("float32", 39.5, False),
        ("float32", 39.6, True),
        ("float64", 309.2, False),
        ("float64", 309.3, True),
        ("", 400.0, False),
    ],
)
def test_a_gradient_too_large_for_its_type_is_not_finite(dtype: str, log10_grad_norm: float, fires: bool) -> None:
    findings = found(flow(layer("fc1", dtype=dtype, log10_grad_norm=log10_grad_norm)))
    assert [(finding.code, finding.level) for finding in findings] == ([("UV502", "error")] if fires else [])


def test_underflow_names_the_type() -> None:
    (finding,) = found(flow(layer("fc1", underflow_fraction=0.75, dtype="float16")))
    assert (finding.code, finding.level, finding.cause) == ("UV503", "error", "float16")
    assert "75% of the non-zero entries of fc1 are below the smallest normal number of float16" in finding.message


def test_frozen_layers_are_a_note_with_their_size() -> None:
    (finding,) = found(flow(layer("fc1", frozen=True), layer("fc2", parameters=900)))
    assert (finding.code, finding.level, finding.layers) == ("UV601", "note", ("fc1",))
    assert finding.message == "fc1 is frozen: requires_grad is off for 100 of 1,000 parameters."


@pytest.mark.parametrize(
    ("unused", "used", "level"),
    [
        ("forgotten", "fc1", "error"),
        ("fc2", "fc1", "error"),  # numbers within a word are no list of equals
        ("block.extra", "block.fc", "error"),
        ("experts.3", "experts.0", "note"),
        ("layers.2.experts.3.up", "layers.2.experts.0.up", "note"),
        ("layers.2.experts.3.up", "layers.2.experts.0.down", "error"),
    ],
)
def test_a_layer_never_called_is_an_error_unless_its_siblings_are_used(unused: str, used: str, level: str) -> None:
    (finding,) = found(flow(layer(used), layer(unused, None)))
    assert (finding.code, finding.level, finding.layers) == ("UV602", level, (unused,))


def test_a_sibling_of_another_kind_excuses_nothing() -> None:
    (finding,) = found(flow(layer("0"), layer("experts.1"), layer("experts.2", None, kind="Conv2d")))
    assert finding.level == "error"


def test_a_side_branch_is_a_note_and_a_cut_off_trunk_an_error() -> None:
    calls = (
        call(0, "linear", "weights", 0.0, None, module="trunk"),
        call(1, "tanh", "slopes", 0.0, None, inputs=(0,)),
        call(2, "linear", "weights", 0.0, None, module="side", inputs=(1,)),
    )
    (note,) = found(flow(layer("trunk", 0), layer("side", None), calls=calls))
    assert (note.level, note.layers, note.cause) == ("note", ("side",), "this batch")
    # the features are called, detached, and only the head is trained
    (error,) = found(flow(layer("trunk", None), layer("side", None), layer("head", 3), calls=calls))
    assert (error.level, error.layers, error.cause) == ("error", ("trunk", "side"), "cut off")


def test_a_loss_that_asks_nothing_is_an_error() -> None:
    silent = LossFacts(value=0.3, residual_norm=0.0, relative_gap=0.5, reacts=True)
    (cut,) = found(flow(layer("fc1", log10_grad_norm=NOTHING), loss=silent))
    assert (cut.code, cut.level, cut.cause) == ("UV604", "error", "zero derivative of the loss")
    (flat,) = found(flow(layer("fc1", log10_grad_norm=NOTHING), loss=silent.replace(reacts=False)))
    assert (flat.code, flat.level, flat.cause) == ("UV604", "error", "flat loss")
    assert "stays the same when the outputs are changed" in flat.message
    # with a gradient of its own the layer is not cut off: the loss only hides its movement
    (hidden,) = found(flow(layer("fc1"), loss=silent.replace(reacts=False, residual_norm=0.1)))
    assert (hidden.code, hidden.verdict, hidden.level, hidden.layers) == ("UV703", "flat_loss", "error", ("fc1",))


def test_converged_is_a_note_that_mentions_weak_layers() -> None:
    learned = UNLEARNED.replace(relative_gap=2e-4)
    (finding,) = found(flow(layer("fc1", log10_transmission=-9.0), layer("fc2"), loss=learned))
    assert (finding.code, finding.level, finding.layers) == ("UV401", "note", ("fc1", "fc2"))
    assert finding.message.startswith(
        "fc1, fc2 have learned the task: 0.02% of the achievable reduction of the loss remains."
    )
    assert "On a new task fc1 would hardly learn" in finding.message


@pytest.mark.parametrize(
    "layers",
    [
        (),
        (layer("fc1", frozen=True),),
        (layer("fc1", log10_transmission=None), layer("fc2", frozen=True)),
    ],
)
def test_nothing_judged_is_an_error(layers: tuple[LayerFlow, ...]) -> None:
    (finding,) = found(flow(*layers), "UV901")
    assert finding.level == "error"
    assert finding.message.startswith("No layer could be judged")


def test_open_questions_are_a_note() -> None:
    (finding,) = found(flow(layer("fc1"), layer("fc2", log10_transmission=None)))
    assert (finding.code, finding.level, finding.layers) == ("UV901", "note", ("fc2",))
    assert "the verdict of fc2: its transmission was not measured" in finding.message
    (finding,) = found(flow(layer("fc1"), loss=LossFacts(value=-1.0, reacts=True, why="the loss is unbounded below")))
    assert (finding.level, finding.layers) == ("note", ())
    assert "the loss is unbounded below" in finding.message


def test_errors_come_first_and_in_the_order_of_the_table() -> None:
    layers = (
        layer("a", frozen=True),
        layer("b", underflow_fraction=0.9),
        layer("c", log10_transmission=-9.0),
        layer("d", **CLOSED),
        layer("e", None),
    )
    findings = found(flow(*layers, zeros=(ZeroFacts(layer="d", opens=False),)))
    assert [finding.code for finding in findings] == ["UV301", "UV101", "UV503", "UV602", "UV601"]


SECTIONS = ("Example", "Why", "Evidence", "What helps", "Source")


@pytest.mark.parametrize("rule", rules.rules(), ids=lambda rule: rule.code)
def test_a_rules_docstring_has_every_section(rule: rules.Rule) -> None:
    labels = [paragraph.strip().partition(":")[0] for paragraph in rule.doc.split("\n\n")][1:]
    assert [label for label in labels if label in SECTIONS] == list(SECTIONS)
    evidence = labels[labels.index("Evidence") : labels.index("What helps")]
    assert len(labels) == len(SECTIONS) + len(evidence) - 1, "only the evidence may take several paragraphs"


def test_each_code_of_the_first_rules_is_registered() -> None:
    codes = {rule.code for rule in rules.rules()}
    first = "UV101 UV201 UV301 UV302 UV401 UV403 UV501 UV502 UV503 UV601 UV602 UV603 UV604 UV901"
    assert codes >= set(first.split())


@pytest.mark.parametrize(
    ("log10", "text"),
    [
        (-1.0, "0.10"),
        (1.5, "32"),
        (math.log10(0.22), "0.22"),
        (-13.2, "10^-13.2"),
        (5.0, "10^5.0"),
        (NOTHING, "0"),
        (math.inf, "inf"),
    ],
)
def test_factors_are_readable(log10: float, text: str) -> None:
    assert factor(log10) == text


def test_lists_are_short_and_without_repetition() -> None:
    assert listing(["a", "b", "a", "c", "d", "e"]) == "a, b, c and 2 more"
    assert sources([layer("fc1", source=f"net.py:{line}") for line in (3, 3, 5, 8, 9)]) == (
        " Called at net.py:3, net.py:5 … net.py:9."
    )
    assert sources([layer("fc1", source="")]) == ""


@pytest.mark.parametrize(
    ("those", "text"),
    [
        ("0", "layer 0 waits"), ("02", "layers 0, 2 wait"), ("0123", "layers 0 … 3 (4 layers) wait"), ("h", "h waits"),
        ("0h", "layers 0, h wait"), ("h3", "layers 3, h wait"),
    ],
)  # fmt: skip
def test_layers_with_bare_numbers_are_said_to_be_layers(those: str, text: str) -> None:
    layers = {name: layer(name) for name in "0123h"}
    assert subject(flow(*layers.values()), [layers[name] for name in those], "waits", "wait") == text

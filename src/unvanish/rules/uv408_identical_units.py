"""UV408: all units of a layer are one and the same, and stay so."""

from __future__ import annotations

from unvanish.records import CopyFacts, Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import cancels, settled
from unvanish.rules.wording import sources, together
from unvanish.words.numbers import percent


@rule(
    "UV408",
    "identical",
    "identical units",
    tier="saddle",
    levels=("error", "note"),
    needs=("calls", "loss"),
    remedies=("he-init", "xavier-init", "lecun-init", "orthogonal-init"),
    fires_on=("constant-weights", "constant-kernels"),
    silent_on=(
        "zero-head", "lora-zero-b", "all-zero-weights", "relu-he-20", "small-cnn", "small-gpt", "lstm",
        "converged-digits", "batchnorm-relu-20",
    ),
)  # fmt: skip
def copies(flow: Flow) -> list[Statement]:
    """All units of a layer have the same weights and get the same gradient: they stay one unit for ever.

    Example: ``nn.init.constant_(layer.weight, 0.1)`` in every layer. Sixty-four units compute the same number, each is
    corrected in the same way, and the layer never knows more than one unit could.

    Why: units that start alike and are used alike are exchangeable, and a gradient does not choose between them. Only
    chance does: weights drawn at random, or dropout, which silences some of them.

    Evidence: in every tensor of the layer all rows are equal, to rounding, and so are the rows of its gradient. Equal
    weights alone are no fault: the last layer may start at zero, as each of its outputs has a target of its own, and a
    layer of equal weights learns apart where the next one weighs its units differently. A note where the weights are
    equal, biases or gradients are not, other layers follow, and what the units' gradients have in common is larger than
    what they differ by: the layer starts as a function of one sum of its inputs, and moves as one unit more than apart.
    Networks of two to five such layers, of ReLU and tanh, 32 and 128 wide, had a higher loss after 100 steps of Adam
    than with weights drawn at random in all of 72 trainings, and some had learned nothing after 400.

    What helps: weights drawn at random.

    Source: Goodfellow, Bengio & Courville 2016, Deep learning, section 8.4 (breaking symmetry between units).
    """
    if not flow.copies or settled(flow):
        return []
    rounding = {layer.name for layer in flow.layers if cancels(layer)}  # whose differences say nothing
    one = [facts for facts in flow.copies if not facts.apart]
    near = [facts for facts in flow.copies if facts.apart and facts.layer not in rounding]
    return [*([_one(flow, one)] if one else []), *([_near(flow, near)] if near else [])]


def _one(flow: Flow, copies: list[CopyFacts]) -> Statement:
    who, most, all_units, layers = _named(flow, copies)
    message = (
        f"{all_units} of {who} have the same weights and get the same"
        " gradient, so no step tells them apart: they stay one unit. Weights drawn at random would"
        f" differ.{sources(layers)}"
    )
    return Statement(
        level="error",
        layers=tuple(facts.layer for facts in copies),
        cause="equal weights",
        message=message,
        evidence=(Evidence(name="units that are one", value=float(most), relation=">", threshold=1.0),),
    )


def _near(flow: Flow, copies: list[CopyFacts]) -> Statement:
    who, _, all_units, layers = _named(flow, copies)
    apart = max(facts.apart for facts in copies)
    message = (
        f"{all_units} of {who} have the same weights, and gradients that differ by less than they have in common (by"
        f" {percent(apart)} of it): they start as nearly one unit and are slow to learn apart. Whether they do in the"
        f" end is not decided here; weights drawn at random differ from the start.{sources(layers)}"
    )
    return Statement(
        level="note",
        layers=tuple(facts.layer for facts in copies),
        cause="equal weights",
        message=message,
        evidence=(Evidence(name="difference of the units' gradients", value=apart, relation="<", threshold=1.0),),
    )


def _named(flow: Flow, copies: list[CopyFacts]) -> tuple[str, int, str, list[LayerFlow]]:
    """The layers in words, the units of the largest, "All 16 units" (of each), and the layers."""
    named, sizes = [facts.layer for facts in copies], [facts.units for facts in copies]
    units = f"{max(sizes):,}" if len(set(sizes)) == 1 else f"{min(sizes):,} to {max(sizes):,}"
    who = ("each of " if len(sizes) > 1 else "") + together(named, flow)
    return who, max(sizes), f"All {units} units", [layer for layer in flow.layers if layer.name in named]

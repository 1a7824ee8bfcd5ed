"""UV408: all units of a layer are one and the same, and stay so."""

from __future__ import annotations

from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import settled
from unvanish.rules.wording import sources, together


@rule(
    "UV408",
    "identical",
    "identical units",
    tier="saddle",
    levels=("error",),
    needs=("calls", "loss"),
    remedies=("he-init", "xavier-init", "lecun-init", "orthogonal-init"),
    fires_on=("constant-weights",),
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
    layer of equal weights learns apart where the next one weighs its units differently.

    What helps: weights drawn at random.

    Source: Goodfellow, Bengio & Courville 2016, Deep learning, section 8.4 (breaking symmetry between units).
    """
    if not flow.copies or settled(flow):
        return []
    named = {facts.layer for facts in flow.copies}
    layers = [layer for layer in flow.layers if layer.name in named]
    sizes = [facts.units for facts in flow.copies]
    who, most = together([facts.layer for facts in flow.copies], flow), max(sizes)
    units = f"{most:,}" if len(set(sizes)) == 1 else f"{min(sizes):,} to {most:,}"
    message = (
        f"All {units} units of {'each of ' if len(sizes) > 1 else ''}{who} have the same weights and get the same"
        " gradient, so no step tells them apart: they stay one unit. Weights drawn at random would"
        f" differ.{sources(layers)}"
    )
    return [
        Statement(
            layers=tuple(facts.layer for facts in flow.copies),
            cause="equal weights",
            message=message,
            evidence=(Evidence(name="units that are one", value=float(most), relation=">", threshold=1.0),),
        )
    ]

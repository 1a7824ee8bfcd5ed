"""UV603: layers that wait behind a gate that is about to open."""

from __future__ import annotations

import math

from unvanish.decide.live import ARRIVAL, arrivals, gate_after
from unvanish.records import Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import judged, names, subject
from unvanish.words.numbers import listing

MOST = 5
"""Gates that are named one by one; of more the first three and a count."""


@rule(
    "UV603",
    "gated",
    "gated layers",
    tier="remarks",
    levels=("note",),
    needs=("log10_grad_norm",),
    fires_on=("zero-head", "rezero", "lora-zero-b", "layerscale-1e-5"),
    silent_on=("all-zero-weights", "dead-relu", "sigmoid-20", "relu-he-20", "small-cnn", "dead-units"),
)
def gated(flow: Flow) -> list[Statement]:
    """The layer gets little or no gradient yet, because a trainable tensor after it starts at zero or nearly so.

    Example: a last layer that starts at zero, LoRA's B, the gates of ReZero, LayerScale with 1e-5. All are intended.

    Why: the gate is a factor in the gradient of everything before it. The gate itself has a gradient, so it opens in
    the first steps, and the layers behind it begin to learn.

    Evidence: the gate's name, and log10 T_rel. For an exact zero: moving the zero tensors a little brought a gradient
    back, and a zero tensor of another layer has a gradient of its own. For a small gate: it alone explains the
    attenuation; but where the layer is itself as small and leaves it next to nothing to learn by, the two wait for each
    other, and it is none. Of a running training the tensors cannot be moved: a later layer is zero and has a gradient
    of its own, or is small and alone explains the attenuation.

    What helps: nothing needs help; look again after some steps if in doubt.

    Source: Bachlechner et al. 2021, ReZero is all you need: fast convergence at large depth; Touvron et al. 2021,
    Going deeper with image transformers (LayerScale); Hu et al. 2022, LoRA: low-rank adaptation of large language
    models.
    """
    layers = judged(flow, "gated")
    if not layers:
        return []
    zeros = {facts.layer: facts.gates for facts in flow.zeros}
    named = dict.fromkeys(name for layer in layers for gate in _gates(flow, layer, zeros) for name in gate.split(", "))
    gates = listing(named, most=MOST if len(named) <= MOST else 3)
    message = (
        f"{subject(flow, layers, 'waits', 'wait')} behind {gates or 'a gate'}, zero or nearly so and trainable:"
        " the gradient comes as the gate opens. It is neither vanished nor dead: the gate itself learns."
    )
    if not flow.asks("log10_transmission"):
        evidence = Evidence(name=ARRIVAL, value=min(_arrival(flow, layer) for layer in layers))
    else:
        weakest = min(layers, key=lambda layer: 0.0 if layer.log10_transmission is None else layer.log10_transmission)
        evidence = Evidence(name="log10_transmission", value=weakest.log10_transmission)
    return [
        Statement(
            layers=names(layers),
            cause=gates,
            message=message,
            evidence=(evidence,),
        )
    ]


def _gates(flow: Flow, layer: LayerFlow, zeros: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    if not flow.asks("log10_transmission"):
        return tuple(gate for gate in (gate_after(flow.layers, layer, _arrival(flow, layer)),) if gate)
    return (layer.gate,) if layer.gate else zeros.get(layer.name, ())


def _arrival(flow: Flow, layer: LayerFlow) -> float:
    return arrivals(flow.layers).get(layer.name, -math.inf)

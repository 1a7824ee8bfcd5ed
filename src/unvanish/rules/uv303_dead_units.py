"""UV303: nearly all units of an activation are off for the whole batch."""

from __future__ import annotations

import math

from unvanish.decide.limits import DEAD_UNITS
from unvanish.decide.live import not_asked
from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import feeding, goes_around, is_piecewise_linear, makes_outputs, settled
from unvanish.rules.wording import names, place
from unvanish.words.numbers import percent
from unvanish.words.spans import called


@rule(
    "UV303",
    "dead_units",
    "dead units",
    tier="activations",
    levels=("error",),
    needs=("dead_fraction",),
    remedies=("batchnorm", "activation-tanh", "activation-selu", "he-init", "lsuv-init"),
    fires_on=("dead-units", "dead-channels"),
    silent_on=(
        "guarded-clamp", "penalty-off",
        "relu-he-20", "batchnorm-relu-20", "residual-50", "small-cnn", "relu6-cnn", "unet-small", "two-branch",
        "densenet-small", "preln-transformer-6", "small-gpt", "dead-relu", "saturated-tanh", "converged-digits",
    ),
)  # fmt: skip
def dead_units(flow: Flow, *, threshold: float = DEAD_UNITS, samples: int = 8) -> list[Statement]:
    """Nearly all units of a layer are off on every sample, and the few that are left must do all the work.

    Example: a ReLU layer after one step that was too large. 95 of its 100 units have negative inputs for every image;
    the other five let a gradient through, so the layer is not dead, only crippled.

    Why: a unit that is off on all samples has slope zero on all of them. Its incoming weights get no gradient and it
    says nothing to the layers after it: the network is narrower than it was built.

    Evidence: the share of units whose slope is below 1% of the activation's largest on every sample of this batch,
    greater than ``threshold``. Half-dead ReLU layers are healthy; of the outputs themselves, none can be spared: one is
    enough while the loss is no better than that of a constant. A batch of fewer than ``samples`` is not asked: on
    one sample a trained, sparse network has most of its units off. Nor is a call that more of the signal goes around
    than through (the clamp beside an exponential, a penalty that is off): its units speak there. Of a running training,
    where the calls were not looked at, the share is that of the activation after each layer, whatever it is. Where a
    layer is dead altogether UV301 speaks.

    What helps: a smaller learning rate, an activation with a slope on both sides, batch normalisation before it.

    Source: Lu, Shin, Su & Karniadakis 2019, Dying ReLU and initialization: theory and numerical examples; Maas, Hannun
    & Ng 2013, Rectifier nonlinearities improve neural network acoustic models.
    """
    if settled(flow) or flow.setting.batch_size < samples or any(layer.verdict == "dead" for layer in flow.layers):
        return []
    if not flow.asks("calls"):
        return _seen(flow, threshold)
    worse = flow.loss is not None and flow.loss.at_constant
    calls = [
        call
        for call in flow.calls
        if call.part == "model"
        and call.log10_signal != -math.inf  # what it gives plays no part in the loss: a penalty that is switched off
        and (is_piecewise_linear(call) or not call.bounded)
        and (call.dead_fraction or 0.0) > (0.0 if worse and makes_outputs(flow, call) else threshold)
        and not goes_around(flow.calls, call)
    ]
    if not calls:
        return []
    worst = max(calls, key=lambda call: call.dead_fraction or 0.0)
    share = worst.dead_fraction or 0.0
    behind = {layer.name for call in calls for layer in feeding(flow, call)}
    layers = [layer for layer in flow.layers if layer.name in behind]
    others = f"; {len(calls)} activations are so" if len(calls) > 1 else ""
    message = (
        f"{percent(share)} of the units of {place(worst)} are off for every sample of this batch{others}: their slope"
        f" is zero, so they neither learn nor contribute. It is not dead: the other {percent(1 - share)} still let a"
        " gradient through."
    )
    return [
        Statement(
            layers=names(layers),
            cause=worst.name,
            message=message,
            evidence=(Evidence(name="dead_fraction", value=share, relation=">", threshold=threshold),),
        )
    ]


def _seen(flow: Flow, threshold: float) -> list[Statement]:
    """The same from the layers of a running training, whose activations have no record of their own."""
    layers = [layer for layer in flow.layers if (layer.dead_fraction or 0.0) > threshold]
    if not layers:
        return []
    worst = max(layers, key=lambda layer: layer.dead_fraction or 0.0)
    share = worst.dead_fraction or 0.0
    others = f"; {len(layers)} activations are so" if len(layers) > 1 else ""
    message = (
        f"{percent(share)} of the units of the activation after {called(worst.name)} are off for every sample of this"
        f" batch{others}: their slope is next to nothing, so they learn nothing. It is not dead: the other"
        f" {percent(1 - share)} still let a gradient through.{not_asked(flow)}"
    )
    return [
        Statement(
            layers=names(layers),
            cause="activation",
            message=message,
            evidence=(Evidence(name="dead_fraction", value=share, relation=">", threshold=threshold),),
        )
    ]

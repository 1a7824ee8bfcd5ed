"""UV405: the gradient of this batch is not larger than its own scatter."""

from __future__ import annotations

from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import names, subject


@rule(
    "UV405",
    "noise",
    "noise",
    tier="remarks",
    levels=("note",),
    needs=("noise",),
    fires_on=("plateau", "plateau-noise-labels", "least-squares-optimum"),
    silent_on=(
        "relu-he-20", "tanh-orthogonal-50", "residual-50", "unet-small", "shared-module-twice", "sigmoid-50",
        "chain-20", "exploding-linear-30", "chaotic-tanh-50", "nonfinite-log", "clamped-loss",
    ),
)  # fmt: skip
def noise(flow: Flow) -> list[Statement]:
    """No layer's gradient can be told from zero by this batch: the samples disagree.

    Example: eight digits and a large network. Each sample pulls in its own direction, and the mean of eight such pulls
    is as large as chance would make it.

    Why: the gradient is a mean over samples. Where their scatter is as large as the mean, a step follows the sample and
    not the task. Healthy layers on 64 … 128 samples often look like this; it is no fault.

    Evidence: the batch is cut into eight chunks; the squared length of the mean of their gradients, over what it would
    be if the true mean were zero, is an F variable with Satterthwaite's degrees of freedom. A layer with p > 0.01 is
    flagged; this note speaks when all are, and never changes a verdict. Only a full check measures it.

    What helps: a larger batch or a longer average, where it matters.

    Source: Satterthwaite 1946, An approximate distribution of estimates of variance components; McCandlish, Kaplan,
    Amodei et al. 2018, An empirical model of large-batch training.
    """
    asked = [layer for layer in flow.layers if layer.noise is not None]
    layers = [layer for layer in asked if layer.noise]
    if not layers or len(layers) < len(asked):
        return []
    size = flow.setting.batch_size
    message = (
        f"{subject(flow, layers, 'has', 'have')} a gradient no larger than its scatter over the {size} samples of this"
        " batch: the samples disagree. This is no verdict: healthy layers on a small batch often look like this."
    )
    return [
        Statement(
            layers=names(layers),
            cause="scatter between samples",
            message=message,
            evidence=(Evidence(name="layers that look like noise", value=float(len(layers))),),
        )
    ]

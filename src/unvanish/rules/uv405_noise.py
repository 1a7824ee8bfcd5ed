"""UV405: the gradient of this batch is not larger than its own scatter."""

from __future__ import annotations

from unvanish.records import Evidence, Finding, Flow
from unvanish.rules import rule
from unvanish.rules.wording import names, subject


@rule(
    "UV405",
    "noise",
    "noise",
    order=18,
    fires_on=("plateau", "plateau-noise-labels"),
    silent_on=("converged-digits", "dead-relu", "nonfinite-log", "chain-20", "all-zero-weights", "clamped-loss"),
)
def noise(flow: Flow) -> list[Finding]:
    """The gradient of these layers cannot be told from zero by this batch: the samples disagree.

    Example: eight digits and a large network. Each sample pulls in its own direction, and the mean of eight such pulls
    is as large as chance would make it.

    Why: the gradient is a mean over samples. Where their scatter is as large as the mean, a step follows the sample and
    not the task. Healthy layers on 64 … 128 samples often look so; it is no illness.

    Evidence: a χ² test, with Satterthwaite's degrees of freedom, of the mean of the samples' gradients against zero;
    p > 0.01 is called noise. It stands beside the verdicts and never changes one.

    What helps: a larger batch or a longer average, where it matters.

    Source: Satterthwaite 1946, An approximate distribution of estimates of variance components; McCandlish, Kaplan,
    Amodei et al. 2018, An empirical model of large-batch training.
    """
    layers = [layer for layer in flow.layers if layer.noise is True]
    if not layers:
        return []
    size = flow.setting.batch_size
    message = (
        f"The gradient of {subject(flow, layers, 'is', 'are')} no larger than its scatter over the {size} samples of"
        " this batch: the samples disagree. It is no verdict: healthy layers on a small batch often look so."
    )
    return [
        Finding(
            code="UV405",
            verdict="noise",
            level="note",
            layers=names(layers),
            cause="scatter between samples",
            message=message,
            evidence=(Evidence(name="layers that look like noise", value=float(len(layers))),),
        )
    ]

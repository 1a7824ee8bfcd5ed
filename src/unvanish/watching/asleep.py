"""Models that are trained in eval mode, where dropout drops nothing and running statistics stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from unvanish.words.spans import named


def asleep(models: Mapping[str, nn.Module], step: int, before: str) -> str:
    """What is to be said of models that are in eval mode in a step; "" where no module of theirs does anything else.

    ``before``: the mode of the sample before, "" where there was none.
    """
    parts = {
        f"{name}.{inner}" if len(models) > 1 else inner: part
        for name, model in models.items()
        if not model.training
        for inner, part in model.named_modules()
        if not part.training
    }
    drops = [name for name, part in parts.items() if isinstance(part, _DropoutNd) and part.p > 0.0]
    norms = [name for name, part in parts.items() if isinstance(part, _BatchNorm) and part.track_running_stats]
    said = [
        *([f"nothing is dropped in {named(drops, [*parts])}"] if drops else []),
        *([f"the running statistics of {named(norms, [*parts])} are used and stay as they are"] if norms else []),
    ]
    if not said:
        return ""
    after = "; call model.train() again after a validation" if before == "train" else ""
    return f"since step {step:,} the model is trained in eval mode: {' and '.join(said)}{after}"

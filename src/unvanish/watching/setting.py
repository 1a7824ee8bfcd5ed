"""What a watch says it watched."""

from __future__ import annotations

import torch

from unvanish.problem import name_of
from unvanish.records import Setting
from unvanish.watching.watcher import Watcher


class Known:
    """The setting of a watch; put together again only where something of it is another."""

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.setting: Setting | None = None

    def of(self, watcher: Watcher) -> Setting:
        first = watcher.first
        key = (
            watcher.table.changes, len(watcher.table.empty), _samples(watcher), watcher.processes.size,
            [(type(model), model.training) for model in watcher.table.models.values()],
            [type(optimizer) for optimizer in watcher.optimizers.values()], watcher.signals.autocast,
            None if first is None else (first.dtype, first.device),
        )  # fmt: skip
        if self.setting is None or key != self.key:
            self.key, self.setting = key, setting_of(watcher)
        return self.setting


def _samples(watcher: Watcher) -> int:
    """Of how many samples the gradients of the step are; 0 where no call was seen."""
    return max(watcher.now.samples.values(), default=0)


def setting_of(watcher: Watcher) -> Setting:
    """What is watched, in the form of a check's setting."""
    models = list(watcher.table.models.values())
    optimizers = list(watcher.optimizers.values())
    first = next((p for model in models for p in model.parameters()), None)
    return Setting(
        model=" and ".join(type(model).__name__ for model in models),
        parameters=sum(p.numel() for p in {id(p): p for model in models for p in model.parameters()}.values()),
        batch_size=_samples(watcher),
        dtype="" if first is None else str(first.dtype).removeprefix("torch."),
        device="" if first is None else str(first.device),
        mode="train" if all(model.training for model in models) else "eval",
        effort="live",
        seed=0,
        exact=False,
        autocast=watcher.signals.autocast,
        optimizer=" and ".join(dict.fromkeys(name_of(each) for each in optimizers)),
        torch=str(torch.__version__),
    )

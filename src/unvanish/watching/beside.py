"""What stands in a run file beside the samples: the layers, their layout, the setting, the notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from unvanish.problem import name_of
from unvanish.records import Setting, to_builtins
from unvanish.watching.gradients import held
from unvanish.watching.layouts import Layouts
from unvanish.watching.run_file import RunFile
from unvanish.watching.sample import Sample, locate, thaw
from unvanish.watching.table import Table
from unvanish.watching.watcher import Watcher
from unvanish.watching.without import Out, left_out, waiting
from unvanish.words.spans import named


class Beside:
    """Written only where something of it is another than in the sample before."""

    def __init__(self, file: RunFile, facts: Mapping[str, Any] | None = None) -> None:
        """``facts``: those of a run that goes on."""
        self.file, self.known = file, Known()
        self.layouts = Layouts(facts)
        self.setting: Setting | None = None
        self.notes: list[str] = []
        self.left_out, self.waiting = Out(), Out()

    def write(self, watcher: Watcher, sample: Sample) -> Setting:
        """Before a sample is written; returns what it is of."""
        table, optimizers = watcher.table, [*watcher.optimizers.values()]
        setting = self.known.of(watcher, optimizers)
        if setting.mode == "eval" and (self.setting is None or self.setting.mode != "eval"):
            before = "" if self.setting is None else self.setting.mode
            trained = self.known.trained(table, optimizers)
            watcher.notes += [note for note in [asleep(trained, sample.step, before)] if note]
        locate(watcher.columns, watcher.signals.sources)
        thaw(watcher.columns, sample.rows)
        self.file.layers(watcher.columns)
        self.write_notes(watcher)
        out = left_out(table, sample.rows, optimizers)
        self.left_out.are(out)
        stepped = watcher.nesting.stepped
        self.waiting.are(waiting(table, sample.rows, optimizers, stepped))
        if news := self.layouts.news(sample, table.empty, out):
            self.file.fact(**news)
        if setting is not self.setting:
            self.setting = setting
            self.file.fact(setting=to_builtins(setting))
        return setting

    def write_notes(self, watcher: Watcher) -> None:
        if watcher.notes != self.notes:
            self.notes = list(watcher.notes)
            self.file.fact(notes=self.notes)


class Known:
    """The setting of a watch; put together again only where something of it is another."""

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.setting: Setting | None = None
        self.made: tuple[object, ...] = ()
        self.names: frozenset[str] = frozenset()  # of the models that are trained, when they were what was ``made``

    def of(self, watcher: Watcher, optimizers: Sequence[Any]) -> Setting:
        first, trained = watcher.first, self.trained(watcher.table, optimizers)
        key = (
            watcher.table.changes, len(watcher.table.empty), _samples(watcher), watcher.processes.size,
            [(type(model), model.training) for model in trained.values()],
            [*map(type, optimizers)], watcher.signals.autocast,
            None if first is None else (first.dtype, first.device),
        )  # fmt: skip
        if self.setting is None or key != self.key:
            self.key, self.setting = key, setting_of(watcher, trained)
        return self.setting

    def trained(self, table: Table, optimizers: Sequence[Any]) -> dict[str, nn.Module]:
        """The models of which an optimizer holds something: none that follows another, as a teacher does."""
        models = [*table.models.items()]
        names, groups = [name for name, _ in models], [(id(each), len(each.param_groups)) for each in optimizers]
        made = table.changes, len(table.empty), names, groups
        if made != self.made:
            moved = {id(p) for each in optimizers for p in held(each)}
            mine = [n for n, each in models if any(id(p) in moved for p in each.parameters())]
            self.made, self.names = made, frozenset(mine or names)
        return {name: model for name, model in models if name in self.names}


def _samples(watcher: Watcher) -> int:
    """Of how many samples the gradients of the step are; 0 where no call was seen."""
    return max(watcher.now.samples.values(), default=0)


def setting_of(watcher: Watcher, trained: Mapping[str, nn.Module]) -> Setting:
    """What is watched, in the form of a check's setting; its mode is that of the models that are ``trained``."""
    models = list(watcher.table.models.values())
    optimizers = list(watcher.optimizers.values())
    first = next((p for model in models for p in model.parameters()), None)
    return Setting(
        model=" and ".join(type(model).__name__ for model in models),
        parameters=sum(p.numel() for p in {id(p): p for model in models for p in model.parameters()}.values()),
        batch_size=_samples(watcher),
        dtype="" if first is None else str(first.dtype).removeprefix("torch."),
        device="" if first is None else str(first.device),
        mode="train" if all(model.training for model in trained.values()) else "eval",
        effort="live",
        seed=0,
        exact=False,
        autocast=watcher.signals.autocast,
        optimizer=" and ".join(dict.fromkeys(name_of(each) for each in optimizers)),
        torch=str(torch.__version__),
    )


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

"""What stands in a run file beside the samples: the layers, their layout, the setting, the notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unvanish.records import Setting, to_builtins
from unvanish.watching.asleep import asleep
from unvanish.watching.layouts import Layouts
from unvanish.watching.run_file import RunFile
from unvanish.watching.sample import Sample, locate, thaw
from unvanish.watching.setting import Known
from unvanish.watching.watcher import Watcher
from unvanish.watching.without import Out, left_out, waiting


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
        setting, table = self.known.of(watcher), watcher.table
        if setting.mode == "eval" and (self.setting is None or self.setting.mode != "eval"):
            before = "" if self.setting is None else self.setting.mode
            watcher.notes += [note for note in [asleep(table.models, sample.step, before)] if note]
        locate(watcher.columns, watcher.signals.sources)
        thaw(watcher.columns, sample.rows)
        self.file.layers(watcher.columns)
        self.write_notes(watcher)
        out = left_out(table, sample.rows, watcher.optimizers.values())
        self.left_out.are(out)
        stepped = watcher.nesting.stepped
        self.waiting.are(waiting(table, sample.rows, watcher.optimizers.values(), stepped))
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

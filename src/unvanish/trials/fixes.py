"""What a search found: the trials, the repaired copy, the code that makes the change, and what it cost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from unvanish.records import Trial, UnvanishError, to_builtins
from unvanish.report import Report, write_text
from unvanish.report.saved import flattened
from unvanish.trials.state import State

SCHEMA = "unvanish.fixes/1"
VERDICTS = ("nothing to repair", "repaired", "improved", "no remedy found")


@dataclass(frozen=True, repr=False)
class Fixes:
    """The answer of ``unvanish.fix``. ``print(fixes)`` shows it; ``fixes.save("x.json")`` keeps it.

    ``verdict``: one of "nothing to repair", "repaired", "improved" (better by more than chance makes, but a check of
    the changed network still finds an error, or it has learnt less than half of what there is), "no remedy found".
    ``trials``: best first. ``best``: the trial that was accepted, or None. ``model``: the copy repaired by it, trained
    with the first seed as in the trial; None without one. ``code``: Python text that makes the change without unvanish.
    ``before`` and ``after``: the reports on the network as it is and on the repaired one, both before any step.
    ``as_is``: the network as it is, as a trial.

    ``unit``: what scores are. ``unseen``: they were taken on validation data; ``split``: other data chose than judged.
    ``planned``, ``budget``, ``spent``: optimizer steps of a full training, of the search, and taken in it. ``refused``:
    (remedy, why it does not apply). ``cut_off``: edits put last, because a layer was cut off, or the finding still
    there, after them. ``patch``: unified diff of the user's file, and ``patched`` its new text, where the change is a
    literal swap in it; else ``patch_refused`` says why there is none. ``remarks``: what was not done, or should be
    known. ``interrupted``: the search was stopped before its end. ``state``: what ``fix(…, resume=fixes)`` goes on
    from.

    ``learned``: how far the loss of the accepted change, or without one of the network as it is, came from that of the
    best constant output (0) to the lowest there is (1), on the data that judged, and ``learned_in_training`` on the
    last training batches; None: not known. ``still_falling``: that training loss still fell when the trial ended.
    """

    verdict: str
    trials: tuple[Trial, ...]
    best: Trial | None
    model: nn.Module | None
    code: str
    before: Report
    after: Report | None
    as_is: Trial
    unit: str
    unseen: bool
    split: bool
    planned: int
    budget: int
    spent: int
    seeds: int
    refused: tuple[tuple[str, str], ...] = ()
    cut_off: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    interrupted: bool = False
    patch: str = ""
    patched: str = ""
    patch_refused: str = ""
    state: State = field(default_factory=dict)
    learned: float | None = None
    learned_in_training: float | None = None
    still_falling: bool = False

    def to_json(self, indent: int | None = 1) -> str:
        """ASCII JSON without the model; numbers that are not finite are the strings "-inf", "inf" and "nan"."""
        plain = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("model", "state", "patched")
        }
        for name in ("best", "before", "after", "as_is"):
            part = plain[name]
            plain[name] = flattened(part) if isinstance(part, Report) else None if part is None else to_builtins(part)
        plain["trials"] = [to_builtins(trial) for trial in self.trials]
        return json.dumps({"schema": SCHEMA, **plain}, indent=indent, allow_nan=False)

    def to_html(self) -> str:
        """One page without JavaScript: the text answer, the picture of the trials, the code."""
        from unvanish.report.fix_page import write

        return write(self)

    def save(self, path: str | Path) -> None:
        """Write it in the format the suffix names: .json, .txt, .md, .html, .py (the code alone) or .patch."""
        from unvanish.report.formats import named_by

        target = Path(path)
        text = named_by(target, "fix", "an answer").write(self)
        if not text:
            raise UnvanishError(f"saving to {str(path)!r}: {self.patch_refused or 'nothing was found to write there'}")
        write_text(target, text)

    def __str__(self) -> str:
        from unvanish.report.fix_text import render

        return render(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from unvanish.report.fix_page import notebook_html

        return notebook_html(self)

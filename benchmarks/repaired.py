"""Which trainings of a repaired program failed all the same: a repair that helps on the whole need not on every seed.

A run is no healthy one for its variant's name. A repaired network of ReLU died on one seed of three, at a third of the
samples right as the faulty one does on all: to call it dead is no false alarm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def failed(runs: Iterable[Any], folder: Path, harm: float) -> list[Any]:
    """Of the runs those of repaired programs that end nearer to the faulty program's mean score, or not finite.

    ``harm``: how much better the repaired program must be on the mean for its runs to be told from the faulty one's.
    """
    truth = json.loads((folder / "truth.json").read_text())
    ends = {id: (row["fault"]["train"], row["fixed"]["train"]) for id, row in truth.items() if "fault" in row}
    return [
        run
        for run in runs
        if run.variant == "fix" and run.id in ends
        for faulty, repaired in [ends[run.id]]
        if repaired - faulty > 2.0 * harm and not (run.finite and run.score > 0.5 * (faulty + repaired))
    ]

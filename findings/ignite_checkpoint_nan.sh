#!/usr/bin/env bash
# Ignite's Checkpoint keeps a checkpoint scored NaN for ever as its best one.
#
# Expected: with n_saved=1 and a score, the file that stays is that of the best score; an evaluation that gave NaN (an
# early one, of a model that was still off the range of its metric) is replaced by the first finite score.
# Found (pytorch-ignite 0.5.5): scores NaN, 0.1, 0.5, 0.9 leave the file of the NaN. A new score is saved where it is
# greater than the lowest that is kept, and nothing is greater than NaN. With n_saved=2 one NaN is enough, too: it stays in
# the place that is compared, and the first score beside it is never replaced. A NaN that comes when all places are taken
# does no harm.
#
# Output:
#   n_saved 1: scores [nan, 0.1, 0.5, 0.9] keep ['best_model_score=nan.pt']
#   n_saved 1: scores [0.1, nan, 0.5, 0.9] keep ['best_model_score=0.9000.pt']
#   n_saved 2: scores [nan, 0.1, 0.5, 0.9] keep ['best_model_score=0.1000.pt', 'best_model_score=nan.pt']
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 pytorch-ignite==0.5.5 numpy
cat > "$folder/case.py" <<'PYTHON'
import os
import sys
import tempfile

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

nan = float("nan")


def kept(scores, places):
    """The files left after one evaluation a score."""
    evaluator = Engine(lambda engine, batch: batch)
    with tempfile.TemporaryDirectory() as folder:
        best = Checkpoint(
            {"model": torch.nn.Linear(1, 1)}, DiskSaver(folder), n_saved=places, filename_prefix="best",
            score_name="score", score_function=lambda engine: engine.state.output,
        )
        evaluator.add_event_handler(Events.COMPLETED, best)
        for score in scores:
            evaluator.run([score])
        return sorted(os.listdir(folder))


cases = [
    (1, [nan, 0.1, 0.5, 0.9], ["best_model_score=nan.pt"]),
    (1, [0.1, nan, 0.5, 0.9], ["best_model_score=0.9000.pt"]),
    (2, [nan, 0.1, 0.5, 0.9], ["best_model_score=0.1000.pt", "best_model_score=nan.pt"]),
]
seen = [kept(scores, places) for places, scores, _ in cases]
for (places, scores, _), files in zip(cases, seen, strict=True):
    print(f"n_saved {places}: scores {scores} keep {files}")
sys.exit(seen != [files for *_, files in cases])
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"

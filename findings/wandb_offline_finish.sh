#!/usr/bin/env bash
# W&B offline: run.finish() may return before the run's file holds a single record.
#
# Expected: finish() "marks the completion of a run": what was logged is on disk when it returns, so that a job may copy
# the folder away, or its container may be stopped.
# Found (wandb 0.31.0): of a short run the file offline-run-*/run-*.wandb often has 7 bytes then, its header. The records
# come about 0.05 s later, from a process in the background. wandb.teardown() waits for them. In longer runs most rows
# are written while they run, which hides it.
#
# Output of two times (on a quiet machine and on a busy one; sizes differ by a few bytes):
#   at finish() [7, 7, 7, 7, 7] bytes, after teardown() [1960, 1957, 1975, 1963, 1975]
#   at finish() [1997, 7, 7, 1997, 7] bytes, after teardown() [1997, 1995, 1994, 1997, 1991]
#
# Exit status: 0 while at least one run of five is found like that, 1 when none is. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet wandb==0.31.0
cat > "$folder/case.py" <<'PYTHON'
import glob
import os
import sys

os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
import wandb


def size(run):
    (path,) = glob.glob(f"wandb/offline-run-*/run-{run.id}.wandb")
    return os.path.getsize(path)


runs, at_finish = [], []
for _ in range(5):
    run = wandb.init(project="p", dir=".", reinit="finish_previous")
    for step in range(3):
        run.log({"loss": 1.0 / (1 + step)})
    run.finish()
    at_finish.append(size(run))
    runs.append(run)
wandb.teardown()
after = [size(run) for run in runs]
print(f"at finish() {at_finish} bytes, after teardown() {after}")
sys.exit(not (7 in at_finish and min(after) > 500))
PYTHON
cd "$folder" && venv/bin/python case.py

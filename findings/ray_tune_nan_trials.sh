#!/usr/bin/env bash
# Ray Tune's ASHA and population-based training never give up a trial whose score is NaN.
#
# Expected: a diverged trial, with a loss of NaN, counts as the worst: ASHA stops it at its first rung, and population-based
# training (PBT) soon overwrites it with a copy of a better trial.
# Found (ray 2.60.0): ASHA stops the trials below its cutoff, and NaN is below nothing: the diverged trial trains to the end,
# as long as the winner, while all other losers stop after one step. PBT leaves trials with NaN out of its quantiles, so
# they are never in the lower one: the diverged trial goes on from its own state to the end, while the losers beside it
# go on from copies of the best. A large number reported instead of NaN makes both do what was expected.
#
# Output:
#   ASHA, a loss of nan: steps {1: 27, 2: 1, 3: 1, 4: 1, 'diverged': 27}
#   ASHA, a loss of 1e+30: steps {1: 27, 2: 1, 3: 1, 4: 1, 'diverged': 1}
#   PBT, a loss of nan: ends as {1: 1, 2: 1, 3: 1, 'diverged': 'diverged'}
#   PBT, a loss of 1e+30: ends as {1: 1, 2: 1, 3: 1, 'diverged': 1}
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray[tune]==2.60.0"
cat > "$folder/case.py" <<'PYTHON'
import json
import os
import sys
import tempfile

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

DIVERGED = "diverged"


def train(config):
    """A loss that falls slowly, the lower the smaller the trial's number; `config["bad"]` once the state is a diverged one."""
    state = {"from": config["trial"], "step": 0}
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder, open(os.path.join(folder, "state.json")) as file:
            state = json.load(file)
    for step in range(state["step"] + 1, 28):
        loss = config["bad"] if state["from"] == DIVERGED else state["from"] - 0.001 * step
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "state.json"), "w") as file:
                json.dump({"from": state["from"], "step": step}, file)
            tune.report({"loss": loss, "from": state["from"]}, checkpoint=tune.Checkpoint.from_directory(folder))


def tuned(scheduler, trials, bad, at_once):
    """The last report of each trial."""
    with tempfile.TemporaryDirectory() as folder:
        grid = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space={"trial": tune.grid_search(trials), "bad": bad},
            tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler, max_concurrent_trials=at_once),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        return {trial: result.metrics for trial, result in zip(trials, grid, strict=True)}


ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
same = True
for bad, steps in ((float("nan"), 27), (1e30, 1)):
    halving = ASHAScheduler(grace_period=1, max_t=27, reduction_factor=3)
    seen = {trial: last["training_iteration"] for trial, last in tuned(halving, [1, 2, 3, 4, DIVERGED], bad, 1).items()}
    print(f"ASHA, a loss of {bad}: steps {seen}", flush=True)
    same &= seen == {1: 27, 2: 1, 3: 1, 4: 1, DIVERGED: steps}
for bad, end in ((float("nan"), DIVERGED), (1e30, 1)):
    population = PopulationBasedTraining(
        time_attr="training_iteration", perturbation_interval=4, quantile_fraction=0.25, resample_probability=0,
        hyperparam_mutations={"unused": [1]}, synch=True,
    )
    seen = {trial: last["from"] for trial, last in tuned(population, [1, 2, 3, DIVERGED], bad, 4).items()}
    print(f"PBT, a loss of {bad}: ends as {seen}", flush=True)
    same &= seen == {1: 1, 2: 1, 3: 1, DIVERGED: end}
sys.exit(not same)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py" 2> "$folder/errors" | grep -E "^(ASHA|PBT)"

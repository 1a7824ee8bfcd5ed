#!/usr/bin/env bash
# A learning rate given as a tensor is one for all parameter groups: ReduceLROnPlateau reduces it once for each group, and where
# a scheduler has a rate for each, all groups get the last.
#
# Expected: AdamW([decayed, not_decayed], lr=torch.tensor(0.1), fused=True) has in each group a learning rate of its own, as
# with lr=0.1. A tensor is what torch takes so that a step which is compiled or captured follows a schedule.
# Found (torch 2.13.0, CPU): both groups hold the very same tensor, and schedulers write into it, one group after the other.
# ReduceLROnPlateau multiplies by its factor for each group: with two, 0.1 becomes 0.001 and not 0.01, and after three such
# steps the rate is a thousandth of what it should be. LambdaLR, OneCycleLR and CyclicLR, with a value for each group, give all
# of them that of the last. Schedulers that work out all values before they write the first (StepLR, cosine) are right, and so
# are all where each group is given a tensor of its own. Two groups are the usual split for weight decay.
#
# Output: the rates of two groups after one, two and three steps of the scheduler:
#   ReduceLROnPlateau, 0.1   a float      0.01 0.01        0.001 0.001      0.0001 0.0001
#   ReduceLROnPlateau, 0.1   one tensor   0.001 0.001      1e-05 1e-05      1e-07 1e-07
#   ReduceLROnPlateau, 0.1   two tensors  0.01 0.01        0.001 0.001      0.0001 0.0001
#   LambdaLR, 1/(t+1) and 1  a float      0.05 0.1         0.0333 0.1       0.025 0.1
#   LambdaLR, 1/(t+1) and 1  one tensor   0.1 0.1          0.1 0.1          0.1 0.1
#   LambdaLR, 1/(t+1) and 1  two tensors  0.05 0.1         0.0333 0.1       0.025 0.1
#   OneCycleLR, 0.1 and 0.2  a float      0.052 0.104      0.1 0.2          0.095 0.19
#   OneCycleLR, 0.1 and 0.2  one tensor   0.104 0.104      0.2 0.2          0.19 0.19
#   OneCycleLR, 0.1 and 0.2  two tensors  0.052 0.104      0.1 0.2          0.095 0.19
#   StepLR, 0.1              a float      0.01 0.01        0.001 0.001      0.0001 0.0001
#   StepLR, 0.1              one tensor   0.01 0.01        0.001 0.001      0.0001 0.0001
#   StepLR, 0.1              two tensors  0.01 0.01        0.001 0.001      0.0001 0.0001
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import sys

import torch
from torch.optim import lr_scheduler

STEPS = 3
PLATEAU, STEP = "ReduceLROnPlateau, 0.1", "StepLR, 0.1"
EACH = BY_LAMBDA, CYCLE = "LambdaLR, 1/(t+1) and 1", "OneCycleLR, 0.1 and 0.2"
SCHEDULERS = {
    PLATEAU: lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0),
    BY_LAMBDA: lambda optimizer: lr_scheduler.LambdaLR(optimizer, [lambda t: 1 / (t + 1), lambda t: 1.0]),
    CYCLE: lambda optimizer: lr_scheduler.OneCycleLR(optimizer, [0.1, 0.2], total_steps=10),
    STEP: lambda optimizer: lr_scheduler.StepLR(optimizer, 1, gamma=0.1),
}


def tensor():
    return torch.tensor(0.1, dtype=torch.float64)


def two_groups(kind):
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": decay} for decay in (0.01, 0.0)]
    if kind == "two tensors":
        for group in groups:
            group["lr"] = tensor()
    return torch.optim.AdamW(groups, lr=0.1 if kind == "a float" else tensor(), fused=True)


def rates(name, kind):
    """Those of both groups after each step of the scheduler, for a loss that stays where it is."""
    optimizer, seen = two_groups(kind), []
    scheduler, losses = SCHEDULERS[name](optimizer), (1.0,) if name == PLATEAU else ()
    if losses:
        scheduler.step(*losses)  # that which the later ones do not improve on
    for _ in range(STEPS):
        optimizer.step()
        scheduler.step(*losses)
        seen.append(tuple(float(f"{float(group['lr']):.3g}") for group in optimizer.param_groups))
    return seen


found = {(name, kind): rates(name, kind) for name in SCHEDULERS for kind in ("a float", "one tensor", "two tensors")}
for (name, kind), seen in found.items():
    print(f"{name:25}{kind:13}" + "".join(f"{f'{first:g} {second:g}':17}" for first, second in seen).rstrip())
own = all(found[name, "a float"] == found[name, "two tensors"] for name in SCHEDULERS)
twice = found[PLATEAU, "one tensor"] == [(1e-3, 1e-3), (1e-5, 1e-5), (1e-7, 1e-7)]
last = all(found[name, "one tensor"] == [(second, second) for _, second in found[name, "a float"]] for name in EACH)
sys.exit(not (own and twice and last and found[STEP, "one tensor"] == found[STEP, "a float"]))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"

#!/usr/bin/env bash
# Optimizers write over p.grad in their step: schedule-free AdamW leaves its own update there, ten times the gradient; others
# add weight decay to it.
#
# Expected: step() reads the gradients and moves the weights, as every optimizer of torch does. A norm that is logged after the
# step is that of the backward, and a backward without zero_grad() adds to the gradient that was there.
# Found (schedulefree 1.4.1, pytorch_optimizer 4.1.0, torch_optimizer 0.3.0, lion-pytorch 0.2.5, torch 2.13.0, CPU): what is in
# p.grad after the step of AdamWScheduleFree is the gradient over the root of its second moment, divided in place:
# entries around ±1, however small the gradient. NovoGrad, LARS, StableSPAM, GrokFastAdamW and Ranger of pytorch_optimizer leave
# scaled, averaged or centred gradients; many of both collections the gradient plus the decay of the weights. A loop that logs
# norms behind optimizer.step() shows healthy ones where the gradient has vanished, and accumulation over several steps adds to
# what was written. torch's own, Lion, and AdamP of both collections leave p.grad alone.
#
# Output: how far the eighth step moves the gradients, |after - before| / |before|:
#   torch.optim, weight_decay 0.1: SGD 0, Adam 0, AdamW 0, RMSprop 0, NAdam 0, Adagrad 0
#   lion_pytorch, weight_decay 0.1: Lion 0
#   schedulefree: AdamWScheduleFree 10, RAdamScheduleFree 9.7, SGDScheduleFree 0
#   schedulefree, weight_decay 0.1: SGDScheduleFree 0.077
#   pytorch_optimizer: NovoGrad 0.76, LARS 1, StableSPAM 0.86, ScheduleFreeAdamW 10, GrokFastAdamW 2.1, Ranger 0.13, AdamP 0
#   pytorch_optimizer, weight_decay 0.1: DAdaptAdam 0.076, MADGRAD 0.092, QHAdam 0.088, Shampoo 0.076, SWATS 0.088, AdamP 0
#   torch_optimizer: NovoGrad 0.84, AdaBelief 0, QHAdam 0, AdamP 0
#   torch_optimizer, weight_decay 0.1: AdaBelief 0.092, QHAdam 0.088, AdamP 0
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy \
    schedulefree==1.4.1 pytorch_optimizer==4.1.0 torch_optimizer==0.3.0 lion-pytorch==0.2.5
cat > "$folder/case.py" <<'PYTHON'
import sys
import warnings

import lion_pytorch
import pytorch_optimizer
import schedulefree
import torch
import torch_optimizer

warnings.simplefilter("ignore")  # of deprecated calls inside of torch_optimizer
torch.set_num_threads(1)
DECAY = {"weight_decay": 0.1}
CASES = (
    (torch.optim, "SGD Adam AdamW RMSprop NAdam Adagrad", DECAY, {"SGD", "Adam", "AdamW", "RMSprop", "NAdam", "Adagrad"}),
    (lion_pytorch, "Lion", DECAY, {"Lion"}),
    (schedulefree, "AdamWScheduleFree RAdamScheduleFree SGDScheduleFree", {}, {"SGDScheduleFree"}),
    (schedulefree, "SGDScheduleFree", DECAY, set()),
    (pytorch_optimizer, "NovoGrad LARS StableSPAM ScheduleFreeAdamW GrokFastAdamW Ranger AdamP", {}, {"AdamP"}),
    (pytorch_optimizer, "DAdaptAdam MADGRAD QHAdam Shampoo SWATS AdamP", DECAY, {"AdamP"}),
    (torch_optimizer, "NovoGrad AdaBelief QHAdam AdamP", {}, {"AdaBelief", "QHAdam", "AdamP"}),
    (torch_optimizer, "AdaBelief QHAdam AdamP", DECAY, {"AdamP"}),
)
"""Package, optimizers, settings, and those that leave the gradients alone with these."""


def moved(make, settings):
    """‖after − before‖ / ‖before‖ of all gradients in the eighth step; 0 where not a bit has changed."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    images, classes = torch.randn(8, 1, 8, 8), torch.randint(3, (8,))
    optimizer = make(model.parameters(), lr=1e-3, **settings)
    getattr(optimizer, "train", lambda: None)()  # the schedule-free ones ask for it
    for _ in range(8):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), classes).backward()
        before = torch.cat([p.grad.flatten() for p in model.parameters()])
        optimizer.step()
        after = torch.cat([p.grad.flatten() for p in model.parameters()])
    return float((after - before).norm() / before.norm())


same = True
for package, names, settings, alone in CASES:
    found = {name: moved(getattr(package, name), settings) for name in names.split()}
    said = ", ".join(f"{name} {share:.2g}" for name, share in found.items())
    print(f"{package.__name__}{', weight_decay 0.1' if settings else ''}: {said}")
    same &= all((share == 0.0) == (name in alone) for name, share in found.items())
sys.exit(not same)
PYTHON
cd "$folder" && venv/bin/python case.py

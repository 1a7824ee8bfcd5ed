#!/usr/bin/env bash
# To count a model's operations changes its training: torchinfo, torchsummary and thop set frozen normalisations to train,
# ptflops leaves all in eval.
#
# Expected: a summary of a model only looks. Each module is in the mode it was in, and the gradient of the next batch is the one
# that it would have been.
# Found (torchinfo 1.8.0, torch-summary 1.4.5, thop 0.1.1, ptflops 0.7.5, fvcore 0.1.5, torch 2.13.0, CPU): the first three set
# all modules to eval and back to the mode of the outermost. In a network that is fine-tuned with its BatchNorm in eval the
# statistics are those of the batch from then on, and written over. ptflops sets all to eval and not back: the dropout of the
# training that follows does nothing. thop leaves two buffers in every module it does not know, which stand in state_dict(): the
# checkpoint does not load into a model that was not counted. fvcore, and torch's FlopCounterMode, change nothing.
#
# Output: modes after one count of a model that trains with its BatchNorm in eval, and how far the first layer's gradient moves:
#                 model   dropout  norm    gradient moved by  hooks, entries of state_dict() left
#   torch's own   train   train    eval    0%                 0, none
#   fvcore        train   train    eval    0%                 0, none
#   torchinfo     train   train    train   104%               0, none
#   torchsummary  train   train    train   104%               0, none
#   thop          train   train    train   104%               0, 4.total_ops 4.total_params
#   ptflops       eval    eval     eval    70%                0, none
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy \
    torchinfo==1.8.0 torch-summary==1.4.5 thop==0.1.1.post2209072238 ptflops==0.7.5 fvcore==0.1.5.post20221221
cat > "$folder/case.py" <<'PYTHON'
import contextlib
import io
import sys
import warnings

import fvcore.nn
import ptflops
import thop
import torch
import torchinfo
import torchsummary
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

warnings.simplefilter("ignore")  # of packages that are deprecated
torch.set_num_threads(1)
SIZE = (3, 8, 8)
images, classes = torch.randn(16, *SIZE, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4


def network():
    """In training, but for the normalisation, whose statistics are kept as they were: fine-tuning."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(288, 4)
    )
    model[1].eval()
    return model


def gradient(model):
    """That of the first layer, with the same units dropped each time."""
    torch.manual_seed(1)
    return torch.autograd.grad(nn.functional.cross_entropy(model(images), classes), model[0].weight)[0]


def by_torch(model):
    with FlopCounterMode(display=False):
        model(images)


COUNT = {
    "torch's own": by_torch,
    "fvcore": lambda model: fvcore.nn.FlopCountAnalysis(model, images).unsupported_ops_warnings(False).total(),
    "torchinfo": lambda model: torchinfo.summary(model, input_data=images, verbose=0),
    "torchsummary": lambda model: torchsummary.summary(model, SIZE, verbose=0),
    "thop": lambda model: thop.profile(model, (images,), verbose=False),
    "ptflops": lambda model: ptflops.get_model_complexity_info(model, SIZE, print_per_layer_stat=False),
}
WORDS = {True: "train", False: "eval"}

found = {}
print(f"{'':14}{'model':8}{'dropout':9}{'norm':8}{'gradient moved by':19}hooks, entries of state_dict() left")
for name, count in COUNT.items():
    model = network()
    before, known = gradient(model), set(model.state_dict())
    with contextlib.redirect_stdout(io.StringIO()):
        count(model)
    modes = [WORDS[part.training] for part in (model, model[3], model[1])]
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
    entries = sorted(set(model.state_dict()) - known)
    moved = float((gradient(model) - before).norm() / before.norm())
    print(f"{name:14}{modes[0]:8}{modes[1]:9}{modes[2]:8}{moved:<19.0%}{hooks}, {' '.join(entries) or 'none'}")
    found[name] = (*modes, moved > 0.1, bool(hooks), bool(entries))
kept = ("train", "train", "eval", False, False, False)
sys.exit(found != {
    "torch's own": kept, "fvcore": kept,
    "torchinfo": ("train", "train", "train", True, False, False),
    "torchsummary": ("train", "train", "train", True, False, False),
    "thop": ("train", "train", "train", True, False, True),
    "ptflops": ("eval", "eval", "eval", True, False, False),
})  # fmt: skip
PYTHON
cd "$folder" && venv/bin/python case.py

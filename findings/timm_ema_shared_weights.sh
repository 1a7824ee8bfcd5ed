#!/usr/bin/env bash
# timm averages a weight that is shared k times with the k-th power of the decay: such weights lag less than all others.
#
# Expected: ModelEmaV3(model, decay=0.9) moves each weight of the average by a tenth of the way to that of the model, whatever
# layers use it.
# Found (timm 1.0.31, torch 2.13.0, CPU): an embedding that is also the head's weight goes 19 hundredths of the way, 1 - 0.9²,
# and a layer that stands at 12 depths 72 hundredths, 1 - 0.9¹². ModelEma, V2 and V3 go through state_dict(), which names a
# shared weight once for each place it is registered at, and update the same memory at each. So with a decay of 0.9999 the
# average over 10,000 steps is one over 5,000 for the tied weight and over 830 for the shared layer: weights of different times
# stand side by side. torch's AveragedModel, torch-ema and ema-pytorch go through parameters(), which names each once. timm's
# file is loaded by itself here, as the package wants torchvision, too.
#
# Output: how far the average has moved towards the model after one update with a decay of 0.9:
#                                      own     used twice   used 12 times
#   timm ModelEma                      0.1000  0.1900       0.7176
#   timm ModelEmaV2                    0.1000  0.1900       0.7176
#   timm ModelEmaV3                    0.1000  0.1900       0.7176
#   timm ModelEmaV3, foreach=False     0.1000  0.1900       0.7176
#   torch AveragedModel                0.1000  0.1000       0.1000
#   torch-ema                          0.1000  0.1000       0.1000
#   ema-pytorch                        0.1000  0.1000       0.1000
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torch-ema==0.3 ema-pytorch==0.8.3 numpy
"$folder/venv/bin/pip" install --quiet --no-deps timm==1.0.31
cat > "$folder/case.py" <<'PYTHON'
import importlib.metadata
import importlib.util
import sys

import ema_pytorch
import torch
import torch_ema
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DECAY = 0.9
place = importlib.metadata.distribution("timm").locate_file("timm/utils/model_ema.py")
spec = importlib.util.spec_from_file_location("model_ema", place)
timm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(timm)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.embedding, self.head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
        self.head.weight = self.embedding.weight
        self.blocks = nn.ModuleList([nn.Linear(2, 2)] * 12)
        self.set_to(0.0)

    def set_to(self, value):
        with torch.no_grad():
            for weight in self.parameters():
                weight.fill_(value)

    def told(self):
        return [weight[0, 0].item() for weight in (self.own.weight, self.head.weight, self.blocks[0].weight)]


def by_timm(kind, **more):
    def moved(model):
        average = getattr(timm, kind)(model, decay=DECAY, **more)
        model.set_to(1.0)
        average.update(model)
        return (average.ema if kind == "ModelEma" else average.module).told()

    return moved


def by_torch(model):
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    average.update_parameters(model)  # the first only copies
    model.set_to(1.0)
    average.update_parameters(model)
    return average.module.told()


def by_torch_ema(model):
    average = torch_ema.ExponentialMovingAverage(model.parameters(), DECAY, use_num_updates=False)
    model.set_to(1.0)
    average.update()
    average.copy_to()
    return model.told()


def by_ema_pytorch(model):
    average = ema_pytorch.EMA(model, beta=DECAY, min_value=DECAY, update_every=1, update_after_step=0)
    for _ in range(2):
        average.update()  # these only copy
    model.set_to(1.0)
    average.update()
    return average.ema_model.told()


LIBRARIES = {
    "timm ModelEma": by_timm("ModelEma"),
    "timm ModelEmaV2": by_timm("ModelEmaV2"),
    "timm ModelEmaV3": by_timm("ModelEmaV3"),
    "timm ModelEmaV3, foreach=False": by_timm("ModelEmaV3", foreach=False),
    "torch AveragedModel": by_torch,
    "torch-ema": by_torch_ema,
    "ema-pytorch": by_ema_pytorch,
}
same = True
print(f"{'':35}own     used twice   used 12 times")
for name, moved in LIBRARIES.items():
    seen = moved(Network())
    print(f"{name:35}{seen[0]:.4f}  {seen[1]:.4f}       {seen[2]:.4f}")
    times = (1, 2, 12) if name.startswith("timm") else (1, 1, 1)
    same &= all(abs(value - (1 - DECAY**k)) < 1e-5 for value, k in zip(seen, times, strict=True))
sys.exit(not same)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"

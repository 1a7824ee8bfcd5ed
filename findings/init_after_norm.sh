#!/usr/bin/env bash
# nn.init does nothing, without a word, to a layer with weight norm; so Wav2Vec2 and HuBERT in transformers never get the
# initial weights that their own code draws.
#
# Expected: nn.init.normal_(layer.weight, std=1.0) gives the layer weights of that deviation, or raises; and the convolution
# for positions in Wav2Vec2 starts with the deviation that its _init_weights asks for.
# Found (torch 2.13.0, transformers 5.23.0, CPU): under torch.nn.utils.parametrizations (weight_norm, spectral_norm, orthogonal)
# layer.weight is computed anew whenever it is read. The numbers are drawn into a tensor that is thrown away, and the layer
# keeps what it had. The older torch.nn.utils.weight_norm does the same from the next forward pass on. Transformers puts a
# weight norm on that convolution when it is built and draws its weights afterwards: it trains from the default of Conv1d,
# with a bias that was set to zero, as the bias is no part of the norm. "layer.weight = tensor" does reach through weight_norm.
#
# Output (deviation of the weights):
#   Linear(64, 64), nn.init.normal_(std=1.0)
#   plain                   0.072 -> 1.010
#   weight_norm             0.072 -> 0.072
#   spectral_norm           0.066 -> 0.066
#   orthogonal              0.125 -> 0.125
#   weight_norm, assigned   0.072 -> 1.010
#   convolution for positions: asked for 0.00638, default of Conv1d 0.00737
#   Wav2Vec2Model           0.00737
#   HubertModel             0.00737
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import math
import sys
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrizations


def deviation(layer):
    return float(layer.weight.detach().std())


def drawn(layer):
    nn.init.normal_(layer.weight, std=1.0)


def assigned(layer):
    layer.weight = torch.randn(64, 64)


ways = {
    "plain": (lambda layer: layer, drawn),
    "weight_norm": (parametrizations.weight_norm, drawn),
    "spectral_norm": (parametrizations.spectral_norm, drawn),
    "orthogonal": (parametrizations.orthogonal, drawn),
    "weight_norm, assigned": (parametrizations.weight_norm, assigned),
}
print("Linear(64, 64), nn.init.normal_(std=1.0)")
moved = []
for name, (norm, way) in ways.items():
    torch.manual_seed(0)
    layer = norm(nn.Linear(64, 64)).eval()
    before = deviation(layer)
    way(layer)
    moved.append(abs(deviation(layer) / before - 1) > 0.1)
    print(f"{name:22}  {before:.3f} -> {deviation(layer):.3f}")

found = []
for kind, config in (
    (transformers.Wav2Vec2Model, transformers.Wav2Vec2Config(num_hidden_layers=1)),
    (transformers.HubertModel, transformers.HubertConfig(num_hidden_layers=1)),
):
    torch.manual_seed(0)
    convolution = kind(config).encoder.pos_conv_embed.conv
    size, inputs = convolution.kernel_size[0], convolution.in_channels
    asked = 2 * math.sqrt(1 / (size * inputs))
    default = 1 / math.sqrt(3 * size * inputs / convolution.groups)
    if not found:
        print(f"convolution for positions: asked for {asked:.5f}, default of Conv1d {default:.5f}")
    found.append(abs(deviation(convolution) / default - 1) < 0.01 and not convolution.bias.any())
    print(f"{kind.__name__:22}  {deviation(convolution):.5f}")
sys.exit(not (moved == [True, False, False, False, True] and all(found)))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py" 2>/dev/null

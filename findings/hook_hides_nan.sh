#!/usr/bin/env bash
# A forward hook that returns nothing turns nan into numbers: torch's TransformerEncoderLayer, in eval mode, without
# gradients, on a sample that is padding throughout.
#
# Expected: a hook that returns None only looks. Outputs are the same bit for bit with it and without, on whatever part it sits.
# Found (torch 2.13.0, CPU): without hooks the layer runs as one fused kernel, which gives nan for a sample that is masked
# whole. Where the layer or any of its parts has a forward hook, even one that is never called (on self_attn.out_proj), it
# takes the other way, which gives ordinary numbers there, as it does whenever gradients are wanted; the samples beside it
# differ by rounding. So a monitor with hooks hides the nan that the same validation has without it, and no training step
# shows it. Inside nn.TransformerEncoder a mask makes nested tensors: nothing is nan there, and hooks are given those.
#
# Output: the hook's place, how often it was called, the largest output of the sample that is masked whole, and by how much
# the largest of the other outputs is moved:
#   none                          0    nan       0e+00
#   the layer                     1    2.475     2e-07
#   self_attn                     1    2.475     2e-07
#   self_attn.out_proj            0    2.475     2e-07
#   linear1                       1    2.475     2e-07
#   dropout2                      1    2.475     2e-07
#   none, with gradients          0    2.475     2e-07
#   in an encoder, layers.0       1    0         nested: True
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import sys
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")  # that nested tensors are a prototype
torch.set_num_threads(1)
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
encoder = nn.TransformerEncoder(layer, 2).eval()
sequences, lengths = torch.randn(3, 6, 16), torch.tensor([6, 3, 0])
padding = torch.arange(6)[None] >= lengths[:, None]


def run(network, at=None, gradients=False):
    given = []
    hook = None if at is None else network.get_submodule(at).register_forward_hook(lambda m, a, o: given.append(o))
    with torch.set_grad_enabled(gradients):
        out = network(sequences, src_key_padding_mask=padding).detach()
    if hook is not None:
        hook.remove()
    return out, given


plain, _ = run(layer)
rows = {}
for name, at, gradients in (
    ("none", None, False), ("the layer", "", False), ("self_attn", "self_attn", False),
    ("self_attn.out_proj", "self_attn.out_proj", False), ("linear1", "linear1", False), ("dropout2", "dropout2", False),
    ("none, with gradients", None, True),
):
    out, given = run(layer, at, gradients)
    rows[name] = len(given), float(out[2].abs().max()), float((out - plain)[:2].abs().max())
    print(f"{name:<28}{rows[name][0]:>3}    {rows[name][1]:<10.4g}{rows[name][2]:.0e}")
within, given = run(encoder, "layers.0")
print(f"{'in an encoder, layers.0':<28}{len(given):>3}    {float(within[2].abs().max()):<10.4g}nested: {given[0].is_nested}")

none = rows.pop("none")
same = none[1] != none[1] and none[2] == 0.0
same &= all(0.0 < at_masked < 100.0 and 0.0 <= moved < 1e-5 for _, at_masked, moved in rows.values())
same &= rows["self_attn.out_proj"][0] == 0 and rows["linear1"][0] == 1
same &= given[0].is_nested and float(within[2].abs().max()) == 0.0
sys.exit(0 if same else 1)
PYTHON
"$folder/venv/bin/python" "$folder/case.py"

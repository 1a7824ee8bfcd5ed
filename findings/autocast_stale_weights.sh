#!/usr/bin/env bash
# In a training loop that stands inside torch.autocast as a whole, the network computes with the weights of its first step for
# ever: the loss stands still while the weights run away.
#
# Expected: autocast chooses types, operation by operation. Whether it stands around each forward or around the loop, a forward
# computes with the weights as they are.
# Found (torch 2.13.0, CPU, bfloat16): casts of weights are kept from their first use until the outermost autocast ends, and an
# optimizer that changes a weight does not make them void. Each later forward uses the casts of the first. Gradients are not
# zero, finite and the same at every step, so that momentum and weights grow without end: the loss printed is the first one, to
# the last digit, and that of the weights is worse. The same holds for what is copied into weights in such a block: a
# checkpoint, an average of weights, a target network. An inner autocast around the forward does not help;
# autocast(cache_enabled=False) does, as does one around each forward alone. torch's documentation advises the latter, and does
# not say what happens otherwise.
#
# Output: the loss of three layers at the first step and the 20th, as the loop sees it, and of the weights after the 20th:
#   autocast around                   step 1   step 20   afterwards
#   each forward                      3.367    0.079     0.078
#   the loop                          3.367    3.367     5.386
#   the loop and each forward         3.367    3.367     5.386
#   the loop, cache_enabled=False     3.367    0.079     0.078
#   other weights copied in: the output moves by 0.0, and by 1.2 with cache_enabled=False
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import contextlib
import sys
from functools import partial

import torch
from torch import nn

STEPS = 20
cast = partial(torch.autocast, "cpu", torch.bfloat16)
nothing = contextlib.nullcontext


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))


def trained(around_the_loop, around_each):
    """The loss at the first and the last step, and after it."""
    model, inputs = network(), torch.randn(64, 4)
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.05), []

    def loss():
        return nn.functional.mse_loss(model(inputs).float(), inputs.sum(1, keepdim=True))

    with around_the_loop():
        for _ in range(STEPS):
            with around_each():
                value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
    with torch.no_grad(), cast():
        return losses[0], losses[-1], loss().item()


def moved(**more):
    """By how much the output moves when all weights are doubled between two forwards of one block."""
    model, inputs = network(), torch.randn(64, 4)
    with torch.no_grad(), cast(**more):
        before = model(inputs)
        model.load_state_dict({name: 2 * weight for name, weight in model.state_dict().items()})
        return (model(inputs) - before).abs().max().item()


WAYS = {
    "each forward": (nothing, cast),
    "the loop": (cast, nothing),
    "the loop and each forward": (cast, cast),
    "the loop, cache_enabled=False": (partial(cast, cache_enabled=False), nothing),
}
same = True
print(f"{'autocast around':34}step 1   step 20   afterwards")
for name, way in WAYS.items():
    first, last, after = trained(*way)
    print(f"{name:34}{first:.3f}    {last:.3f}     {after:.3f}")
    stands = last == first and after > first
    same &= stands if name in ("the loop", "the loop and each forward") else last < 0.1 * first and after < 0.1 * first
kept, fresh = moved(), moved(cache_enabled=False)
print(f"other weights copied in: the output moves by {kept:.1f}, and by {fresh:.1f} with cache_enabled=False")
sys.exit(not (same and kept == 0 and fresh > 0.1))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"

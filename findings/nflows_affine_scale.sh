#!/usr/bin/env bash
# nflows: a fresh affine autoregressive layer shrinks what it is given to two thirds; deep flows begin far from the identity,
# and learn later for it.
#
# Expected: with the small weights that layers start with, an affine flow begins near the identity, with a scale of 1 a layer,
# as in zuko: neither the data nor the error signal then depend on the depth of the flow by decades.
# Found (nflows 0.14, zuko 1.6.0, torch 2.13.0, CPU): the scale of MaskedAffineAutoregressiveTransform is softplus(0) = 0.69.
# Over 20 layers that is 10^-3.2, for a number on its way to the base distribution and for its error signal on the way back. The
# likelihood starts worse, in two of three seeds by 40 to 50, and the same training ends behind or becomes nan. A bias of
# log(e - 1) in the last layer of each network makes the scale 1 and gives it back.
#
# Output: the scale a layer and over 20, and, of flows of 20 layers on data of 8 dimensions, the negative log-likelihood at the
# start and on other data after 100 steps of Adam, for three seeds:
#   flow                            a layer   20 layers   at the start           after 100 steps
#   nflows                          0.69      10^-3.2     65.8  65.7  65.8       10.5  nan  nan
#   nflows, bias for a scale of 1   1.00      10^0.0      17.6  23.1  111.4      10.2  10.1  10.2
#   zuko                            1.00      10^0.0      13.8  12.4  12.7       10.2  10.2  10.2
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy nflows==0.14 zuko==1.6.0
cat > "$folder/case.py" <<'PYTHON'
import math
import sys

import torch
import zuko
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, ReversePermutation

torch.set_num_threads(1)
DIMENSIONS, LAYERS, STEPS = 8, 20, 100


def of_nflows(scale_of_one=False):
    parts = []
    for _ in range(LAYERS):
        layer = MaskedAffineAutoregressiveTransform(DIMENSIONS, 64)
        if scale_of_one:  # its outputs are pairs of scale and shift
            with torch.no_grad():
                layer.autoregressive_net.final_layer.bias[0::2] += math.log(math.e - 1)
        parts += [layer, ReversePermutation(DIMENSIONS)]
    flow = Flow(CompositeTransform(parts), StandardNormal([DIMENSIONS]))
    return flow, flow.log_prob, lambda x: flow._transform(x)[1]


def of_zuko():
    flow = zuko.flows.MAF(DIMENSIONS, transforms=LAYERS, hidden_features=(64, 64))
    return flow, lambda x: flow().log_prob(x), lambda x: flow().transform.call_and_ladj(x)[1]


def data(count, seed):
    noise = torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(seed))
    columns = [noise[:, 0]]
    columns += [noise[:, i] / 2 + torch.sin(2 * noise[:, i - 1]) for i in range(1, DIMENSIONS)]
    return torch.stack(columns, 1)


def tried(make, seed):
    torch.manual_seed(seed)
    flow, log_prob, log_det = make()
    known, other = data(4_000, seed), data(2_000, 99)
    with torch.no_grad():
        scale = math.exp(log_det(known).mean() / DIMENSIONS / LAYERS)
        start = -log_prob(known).mean().item()
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    order = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-log_prob(known[torch.randint(len(known), (128,), generator=order)]).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        return scale, start, -log_prob(other).mean().item()


flows = {
    "nflows": of_nflows,
    "nflows, bias for a scale of 1": lambda: of_nflows(scale_of_one=True),
    "zuko": of_zuko,
}
found = {}
print(f"{'flow':31} {'a layer':9} {'20 layers':11} {'at the start':22} after {STEPS} steps")
for name, make in flows.items():
    scale, start, end = zip(*[tried(make, seed) for seed in range(3)])
    found[name] = (sum(scale) / 3, min(start), min(end), max(end))
    starts, ends = ("  ".join(f"{n:.1f}" for n in numbers) for numbers in (start, end))
    print(f"{name:31} {found[name][0]:<9.2f} {f'10^{LAYERS * math.log10(found[name][0]):.1f}':11} {starts:22} {ends}")
shrunk, mended = found["nflows"], found["nflows, bias for a scale of 1"]
same = 0.6 < shrunk[0] < 0.75 and 0.9 < mended[0] < 1.1 and shrunk[1] > 2 * mended[1]
behind = not shrunk[2] < mended[3]  # also where it has become nan
sys.exit(not (same and behind))
PYTHON
cd "$folder" && venv/bin/python case.py

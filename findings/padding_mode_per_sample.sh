#!/usr/bin/env bash
# The gradients of single samples are wrong, without a word, for a convolution that pads with anything but zeros: in
# Opacus, BackPACK and NNGeometry; and so are the Kronecker factors of curvlinops.
#
# Expected: Conv2d(padding_mode="circular") has the gradients of single samples that autograd gives for one sample at a time,
# or is refused, as Opacus's validator refuses what it cannot do.
# Found (torch 2.13.0, opacus 1.6.0, backpack-for-pytorch 1.7.1, nngeometry 0.4, curvlinops-for-pytorch 3.0.1, CPU): all four
# take the layer's input from before the padding and pad it with zeros themselves; none reads padding_mode. The weights'
# gradients are off by 58 to 68% here; the bias and .grad of the whole batch are right, so no sum of losses shows it. With
# Opacus what is clipped and trained with is this wrong gradient, and its validator finds nothing. KFAC of one sample and one
# output, summed over positions ("reduce"), is the exact matrix: with zeros it is, circular it is 34 times too large.
#
# Output (how far off, over the true):
#   gradients of 5 samples     zeros   circular  reflect  replicate
#   opacus                     0.000   0.580     0.603    0.678
#   backpack                   0.000   0.580     0.603    0.678
#   nngeometry                 0.000   0.580     0.603    0.678
#   KFAC, exact with zeros     0.000   33.927    0.966    0.744
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy opacus==1.6.0 backpack-for-pytorch==1.7.1 nngeometry==0.4 \
    curvlinops-for-pytorch==3.0.1
cat > "$folder/case.py" <<'PYTHON'
import sys

import torch
from backpack import backpack, extend
from backpack.extensions import BatchGrad
from curvlinops import KFACLinearOperator
from nngeometry.jacobian import Jacobian
from nngeometry.layercollection import LayerCollection
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(1)
images = torch.randn(5, 1, 4, 4, dtype=torch.float64)


def network(mode):
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode, bias=False)
    return nn.Sequential(convolution, nn.Flatten(), nn.Linear(16, 1, bias=False)).double()


def one_by_one(mode):
    net = network(mode)
    return torch.stack([torch.autograd.grad(net(one[None]).sum(), net[0].weight)[0].flatten() for one in images])


def by_opacus(mode):
    net = GradSampleModule(network(mode), loss_reduction="sum")
    assert not ModuleValidator.validate(net)
    net(images).sum().backward()
    return net._module[0].weight.grad_sample.flatten(1)


def by_backpack(mode):
    net, loss = extend(network(mode)), extend(nn.MSELoss(reduction="sum"))
    with backpack(BatchGrad()):
        outputs = net(images)
        loss(outputs, outputs.detach() - 0.5).backward()  # the slope of the loss is 1
    return net[0].weight.grad_batch.flatten(1)


def by_nngeometry(mode):
    net = network(mode)
    loader = DataLoader(TensorDataset(images), batch_size=5)
    layers = LayerCollection.from_model(net)
    return Jacobian(net, loader, function=lambda *data: net(data[0]), layer_collection=layers).to_torch()[0][:, :9]


def gradients(way, mode):
    true = one_by_one(mode)
    return float((way(mode) - true).norm() / true.norm())


def factors(mode):
    """KFAC of one sample with one output against the true Gauss-Newton matrix of squared error."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()
    image, target = torch.randn(1, 1, 4, 4).double(), torch.zeros(1, 1).double()
    made = KFACLinearOperator(
        net, nn.MSELoss(), [net[0].weight], [(image, target)], fisher_type="type-2", kfac_approx="reduce"
    )
    (slope,) = torch.autograd.grad(net(image).sum(), net[0].weight)
    true = 2 * torch.outer(slope.flatten(), slope.flatten())
    return float((made @ torch.eye(9, dtype=torch.float64) - true).abs().max() / true.abs().max())


modes = ("zeros", "circular", "reflect", "replicate")
rows = {
    "opacus": [gradients(by_opacus, mode) for mode in modes],
    "backpack": [gradients(by_backpack, mode) for mode in modes],
    "nngeometry": [gradients(by_nngeometry, mode) for mode in modes],
    "KFAC, exact with zeros": [factors(mode) for mode in modes],
}
print(f"{'gradients of 5 samples':25}  {'zeros':8}{'circular':10}{'reflect':9}replicate")
for name, (zeros, circular, reflect, replicate) in rows.items():
    print(f"{name:25}  {zeros:<8.3f}{circular:<10.3f}{reflect:<9.3f}{replicate:.3f}")
sys.exit(not all(row[0] < 1e-6 and min(row[1:]) > 0.5 for row in rows.values()))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py" 2>/dev/null

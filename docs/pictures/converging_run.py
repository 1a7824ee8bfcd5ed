"""A training that comes to its end: python docs/pictures/converging_run.py [RATE]; RATE holds from step 300 on."""

import sys

import torch
from torch import nn

torch.manual_seed(0)
inputs = torch.randn(64, 8)
targets = 4.0 * torch.tanh(inputs @ torch.randn(8, 1) / 8**0.5)
model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(2500):
    if step == 300 and len(sys.argv) > 1:
        optimizer.param_groups[0]["lr"] = float(sys.argv[1])
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    optimizer.step()

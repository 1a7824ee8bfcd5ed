"""An ordinary training script that does not know of unvanish: a deep network on a toy task.

python examples/train_plain.py --depth 12 --activation Sigmoid
unvanish run examples/train_plain.py --depth 12 --activation Sigmoid
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser(description="Train a deep network on a toy task.")
parser.add_argument("--depth", type=int, default=12)
parser.add_argument("--width", type=int, default=32)
parser.add_argument("--activation", default="Sigmoid", help="a class of torch.nn, such as ReLU")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--lr", type=float, default=1e-3)
args = parser.parse_args()

torch.manual_seed(0)
layers = [nn.Linear(20, args.width), getattr(nn, args.activation)()]
for _ in range(args.depth - 1):
    layers += [nn.Linear(args.width, args.width), getattr(nn, args.activation)()]
model = nn.Sequential(*layers, nn.Linear(args.width, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
loss_fn = nn.CrossEntropyLoss()

for step in range(args.steps):
    x = torch.randn(64, 20)
    y = x[:, :4].argmax(dim=1)
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:4d}  loss {loss.item():.3f}")

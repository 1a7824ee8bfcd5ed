"""An ordinary training script that does not know of unvanish: two networks, each with an optimizer of its own.

python examples/train_gan.py
unvanish run examples/train_gan.py
"""

import argparse
import math

import torch
from torch import nn
from torch.nn import functional as F

parser = argparse.ArgumentParser(description="Train a GAN on points of a circle.")
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--width", type=int, default=32)
parser.add_argument("--lr", type=float, default=1e-3)
args = parser.parse_args()

torch.manual_seed(0)
generator = nn.Sequential(
    nn.Linear(4, args.width), nn.ReLU(), nn.Linear(args.width, args.width), nn.ReLU(), nn.Linear(args.width, 2)
)
critic = nn.Sequential(
    nn.Linear(2, args.width), nn.LeakyReLU(0.2), nn.Linear(args.width, args.width), nn.LeakyReLU(0.2),
    nn.Linear(args.width, 1),
)  # fmt: skip
of_generator = torch.optim.Adam(generator.parameters(), lr=args.lr, betas=(0.5, 0.9))
of_critic = torch.optim.Adam(critic.parameters(), lr=args.lr, betas=(0.5, 0.9))

for step in range(args.steps):
    angle = 2 * math.pi * torch.rand(64, 1)
    real = torch.cat([angle.cos(), angle.sin()], dim=1) + 0.05 * torch.randn(64, 2)
    fake = generator(torch.randn(64, 4))

    of_critic.zero_grad()
    critic_loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
    critic_loss.backward()
    of_critic.step()

    of_generator.zero_grad()
    generator_loss = F.softplus(-critic(fake)).mean()
    generator_loss.backward()
    of_generator.step()
    if step % 50 == 0:
        print(f"step {step:4d}  critic {critic_loss.item():.3f}  generator {generator_loss.item():.3f}")

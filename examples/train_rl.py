"""An ordinary training script that does not know of unvanish: REINFORCE on a small task, one update an episode batch.

python examples/train_rl.py
unvanish run examples/train_rl.py
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser(description="Learn by REINFORCE to walk to the middle of a line.")
parser.add_argument("--updates", type=int, default=60)
parser.add_argument("--walkers", type=int, default=32)
parser.add_argument("--moves", type=int, default=12)
parser.add_argument("--lr", type=float, default=1e-2)
args = parser.parse_args()

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))
optimizer = torch.optim.Adam(policy.parameters(), lr=args.lr)

for update in range(args.updates):
    place = 4 * torch.rand(args.walkers, 1) - 2
    log_probs, rewards = [], []
    for _ in range(args.moves):
        choice = torch.distributions.Categorical(logits=policy(place))
        action = choice.sample()
        log_probs.append(choice.log_prob(action))
        place = place + 0.3 * (action.unsqueeze(1) - 1)
        rewards.append(-place.abs().squeeze(1))
    reward = torch.stack(rewards)
    to_come = reward.flip(0).cumsum(0).flip(0)
    advantage = to_come - to_come.mean(dim=1, keepdim=True)
    loss = -(torch.stack(log_probs) * advantage).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    if update % 10 == 0:
        print(f"update {update:3d}  reward {reward.mean().item():.3f}")

"""An ordinary training script that does not know of unvanish: several processes, DistributedDataParallel.

torchrun --standalone --nproc-per-node 2 examples/train_torchrun.py
torchrun --standalone --nproc-per-node 2 -m unvanish run examples/train_torchrun.py
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser(description="Train a network on a toy task in several processes.")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--batch", type=int, default=64, help="samples a step, over all processes")
parser.add_argument("--lr", type=float, default=1e-2)
args = parser.parse_args()

torch.set_num_threads(1)
dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank, count = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).to(device)
model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
loss_fn = nn.CrossEntropyLoss()
data = torch.Generator().manual_seed(rank)

for step in range(args.steps):
    x = torch.randn(args.batch // count, 20, generator=data).to(device)
    y = x[:, :4].argmax(dim=1)
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    if step % 25 == 0 and rank == 0:
        print(f"step {step:4d}  loss {loss.item():.3f}")
dist.destroy_process_group()

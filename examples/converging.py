"""A ReLU network on MNIST digits that learns. There is nothing to find:

unvanish check examples/converging.py
"""

import torch
import torch.nn.functional as F
from torch import nn

import unvanish
from unvanish.zoo import mnist

torch.manual_seed(0)
images, labels = mnist.load()
model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
problem = unvanish.Problem(model, images[:128], labels[:128], loss_fn=F.cross_entropy, optimizer=optimizer)


def main(epochs: int = 10) -> None:
    """Train on the first 800 digits and count the errors on the other 200."""
    for epoch in range(epochs):
        for batch, target in zip(images[:800].split(100), labels[:800].split(100), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(batch), target).backward()
            optimizer.step()
        right = (model(images[800:]).argmax(dim=1) == labels[800:]).float().mean()
        print(f"epoch {epoch}: {right.item():.1%} of the held-out digits")


if __name__ == "__main__":
    main()

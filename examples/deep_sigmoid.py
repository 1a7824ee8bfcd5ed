"""A deep sigmoid network on MNIST digits that does not learn. Ask why, and what would repair it:
unvanish check examples/deep_sigmoid.py
unvanish fix examples/deep_sigmoid.py
"""

import torch
import torch.nn.functional as F
from torch import nn

import unvanish
from unvanish.zoo import mnist


class DeepSigmoid(nn.Module):
    """784 - 64 - 64 - … - 10, with a sigmoid between any two layers."""

    def __init__(self, depth: int = 20, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(784 if i == 0 else width, width) for i in range(depth - 1))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return self.head(x)


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return (outputs.argmax(1) == targets).float().mean().item()


torch.manual_seed(0)
images, labels = mnist.load()
train, held_out = slice(0, 700), slice(700, 1000)
model = DeepSigmoid()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
problem = unvanish.Problem(
    model,
    images[:128],
    labels[:128],
    loss_fn=F.cross_entropy,
    optimizer=optimizer,
    train_batches=list(zip(images[train].split(70), labels[train].split(70), strict=True)),
    validation=(images[held_out], labels[held_out]),
    metric=accuracy,
    steps=400,
)


def main(epochs: int = 10) -> None:
    """Train as usual: the loss stays near log 10 = 2.30."""
    for epoch in range(epochs):
        for batch, target in zip(images.split(128), labels.split(128), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(batch), target).backward()
            optimizer.step()
        loss = F.cross_entropy(model(images), labels)
        print(f"epoch {epoch}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

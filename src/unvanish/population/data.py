"""The images that networks are trained on: MNIST's, scikit-learn's digits, or what a function of the user's returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from unvanish.population.own import call, function
from unvanish.records import UnvanishError
from unvanish.zoo import mnist


@dataclass(frozen=True)
class Images:
    """A labelled set in three parts: to train on, to choose a learning rate by, and to judge what was chosen."""

    train: tuple[Tensor, Tensor]
    choose: tuple[Tensor, Tensor]
    judge: tuple[Tensor, Tensor]

    @property
    def inputs(self) -> int:
        return self.train[0].shape[1]

    @property
    def classes(self) -> int:
        return int(max(labels.max() for _, labels in (self.train, self.choose, self.judge))) + 1

    def batches(self, size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``steps`` batches of ``size`` training images, reshuffled after each pass; one seed, one sequence."""
        inputs, labels = self.train
        generator = torch.Generator().manual_seed(seed)
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < size:
                order = torch.randperm(len(labels), generator=generator)
            chosen, order = order[:size], order[size:]
            yield inputs[chosen], labels[chosen]


def images(name: str, folder: str = "", count: int = 1000) -> Images:
    """60% to train on, 20% to choose by, 20% to judge: "mnist" (28 × 28 pixels) or "digits" (8 × 8, scikit-learn's).

    ``folder`` holds a full copy of MNIST; "" takes the images that come with the package. Pixels from 0 to 1.
    """
    inputs, labels = mnist.load(folder or None, count) if name == "mnist" else _small_digits(count)
    return _parted(inputs, labels)


def chance(data: Images) -> float:
    """The share of right answers of the best constant answer, on the images that judge: that of their largest class."""
    labels = data.judge[1]
    return float(labels.bincount().max()) / len(labels)


def _small_digits(count: int) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UnvanishError(
            "the set 'digits' is scikit-learn's and scikit-learn is not installed: install it, or take data=mnist"
        ) from None
    digits: Any = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))[:count]
    return torch.tensor(digits.data, dtype=torch.float32)[order] / 16, torch.tensor(digits.target)[order]


@cache
def load(name: str) -> Images:
    """60% to train on, 20% to choose by, 20% to judge; ``name``: "mnist", "digits" or "file.py:function".

    A function returns inputs (N, …), which are flattened, and labels (N,) of whole numbers from 0.
    """
    if name in ("mnist", "digits"):
        return images(name)
    path, _, called = name.rpartition(":")
    loaded = call(function(path, called), f"{called}() of {path}")
    if not isinstance(loaded, tuple) or len(loaded) != 2:
        raise UnvanishError(f"{called}() of {path} returned a {type(loaded).__name__}; it must return (inputs, labels)")
    inputs, labels = torch.as_tensor(loaded[0]).float().flatten(1), torch.as_tensor(loaded[1]).long()
    if labels.ndim != 1 or len(labels) != len(inputs) or len(labels) < 10 or int(labels.min()) < 0:
        raise UnvanishError(
            f"{called}() of {path} returned inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)}; there must"
            " be a label from 0 for each of at least 10 inputs"
        )
    return _parted(inputs, labels)


def _parted(inputs: Tensor, labels: Tensor) -> Images:
    first, second = (6 * len(labels)) // 10, (8 * len(labels)) // 10
    return Images(*((inputs[a:b], labels[a:b]) for a, b in ((0, first), (first, second), (second, len(labels)))))

"""The images a sweep trains on: MNIST's, scikit-learn's digits, or what a function of the user's returns."""

from __future__ import annotations

from functools import cache

import torch

from unvanish.population.batched import Images, images
from unvanish.population.own import call, function
from unvanish.records import UnvanishError


@cache
def load(name: str) -> Images:
    """60 % to train on, 20 % to choose by, 20 % to judge; ``name``: "mnist", "digits" or "file.py:function".

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
    first, second = (6 * len(labels)) // 10, (8 * len(labels)) // 10
    parts = [(inputs[a:b], labels[a:b]) for a, b in ((0, first), (first, second), (second, len(labels)))]
    return Images(*parts)

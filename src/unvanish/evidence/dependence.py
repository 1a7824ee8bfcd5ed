"""Does what the targets ask of the outputs depend on the inputs of certain steps? A test that assumes nothing.

The kernel of a step is the samples' similarity in its inputs, that of the targets the similarity of what they ask of
their outputs. Both centred, their product is the linear dependence of one on the other (for one number each, the
squared correlation), and shuffling the samples shows how large it gets by chance at the best of all steps.

Source: Robert & Escoufier 1976, A unifying tool for linear multivariate statistical methods: the RV-coefficient;
Westfall & Young 1993, Resampling-based multiple testing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MOST_SAMPLES, MOST_STEPS, LEAST_SAMPLES = 128, 256, 16
"""Of more, the first samples and steps at even distances: a step's kernel has the square of the samples for entries."""
SHUFFLES = (199, 800)
"""How many shuffles are tried first, and how many more where none of these gives as much."""


class Dependence(NamedTuple):
    """The strongest dependence among the steps asked about (``beyond``) and among the others (``within``).

    Means over windows of them count too, of which none is longer than the others are many. ``beyond_chance``: the
    share of shuffles in which the best of all does as well; ``by_chance``: what it gives in one of a hundred.
    """

    beyond: float
    beyond_chance: float
    within: float
    by_chance: float


def spread(steps: int, most: int) -> list[int]:
    """Every step, or ``most`` of them at even distances, the first and the last among them."""
    count = min(steps, most)
    return sorted({round(k * (steps - 1) / max(1, count - 1)) for k in range(count)})


def dependence(inputs: Tensor, asked: Tensor, faint: Sequence[int], seed: int) -> Dependence | None:
    """Of ``asked`` (samples, …), what the targets ask, on the ``inputs`` (steps, samples, …) of the steps ``faint``.

    None where there are too few samples, where nothing is asked, or where one of the two groups of steps is empty.
    """
    steps, samples = inputs.shape[:2]
    if samples < LEAST_SAMPLES or len(asked) != samples or not faint or len(faint) == steps:
        return None
    inputs, asked = inputs[:, :MOST_SAMPLES].double().cpu(), asked[:MOST_SAMPLES].double().cpu()
    heard = sorted(set(range(steps)) - set(faint))
    far_off, near_by = (_kernels(_windows(inputs[group], len(heard))) for group in (list(faint), heard))
    wanted = _kernels(asked[None])[0]
    if not bool(wanted.any()) or not bool(wanted.isfinite().all()):
        return None
    kernels = torch.cat([far_off, near_by])
    found = (kernels * wanted).sum((1, 2))
    far, near = float(found[: len(far_off)].max()), float(found[len(far_off) :].max())
    generator = torch.Generator().manual_seed(seed)
    best: list[float] = []
    for count in SHUFFLES:
        best += _shuffled(kernels, wanted, count, generator)
        if max(best) >= far:
            break
    chance = (1 + sum(each >= far for each in best)) / (1 + len(best))
    return Dependence(far, chance, near, sorted(best)[-1 - len(best) // 100])


def _windows(values: Tensor, longest: int) -> Tensor:
    """The steps (MOST_STEPS at most), then the means of 2, 4, 8 … neighbours: a sum of a few is asked for too."""
    values = values.reshape(*values.shape[:2], -1)
    found, size = [values[spread(len(values), MOST_STEPS)]], 2
    while size <= min(longest, len(values)):
        whole = values[len(values) % size :]
        means = whole.reshape(-1, size, *whole.shape[1:]).mean(1)
        found.append(means[spread(len(means), MOST_STEPS)])
        size *= 2
    return torch.cat(found)


def _kernels(values: Tensor) -> Tensor:
    """Of each step the centred products of the samples' standardised values, of norm 1 (0 where they are all alike)."""
    values = values.reshape(*values.shape[:2], -1)
    values = values - values.mean(1, keepdim=True)
    size = values.norm(dim=1, keepdim=True)
    values = torch.where(size > 0.0, values / size.clamp(min=1e-300), torch.zeros_like(values))
    products = values @ values.mT
    norm = products.norm(dim=(1, 2), keepdim=True)
    return torch.where(norm > 0.0, products / norm.clamp(min=1e-300), products)


def _shuffled(kernels: Tensor, wanted: Tensor, count: int, generator: torch.Generator) -> list[float]:
    """The strongest dependence of any step, for each of ``count`` shuffles of the samples."""
    orders = torch.stack([torch.randperm(len(wanted), generator=generator, device="cpu") for _ in range(count)])
    flat, best = kernels.flatten(1).float(), list[float]()
    for part in orders.split(100):
        shuffled = wanted.float()[part[:, :, None], part[:, None, :]].flatten(1)
        best += (flat @ shuffled.T).amax(0).tolist()
    return best

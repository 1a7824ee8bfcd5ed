"""Random output cotangents: how much of any signal each layer would receive, whatever the loss happens to say now.

A gradient is J^T r with r = ∂L/∂output. Vanished means that J is small, converged that r is small or cancels; probing J
with random cotangents tells the two apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unvanish.flow.layers import natural_norm
from unvanish.trace.calls import Capture, Root
from unvanish.trace.scaled import LOG_ZERO
from unvanish.trace.tape import norm_together

FEW = 8  # entries up to which normal numbers would leave it to chance how large any of them is
ROUNDING = 1e-6  # of the largest output: what float32 leaves of numbers that cancel, as a log-determinant of about 0
PIECE = 2**16  # entries taken to float64 at once: they stay in a cache, and no second copy of all is made


@dataclass(frozen=True)
class Transmitted:
    """T = ‖∂f/∂w‖·‖w‖ of a layer, as log10: with the norms there are, and with none below an ordinary initialisation.

    ``last``: the first with biases as at an ordinary initialisation, for a layer with no other behind it. Such a bias
    moves the outputs themselves, and holds nothing back however small it is: beside it, weights that are small
    throughout send little. ``size``: log10 of the root of the number of entries.
    """

    own: float
    last: float
    full: float
    size: float

    @classmethod
    def of(
        cls, live: Mapping[str, nn.Parameter], slopes: Mapping[int, float], norms: Mapping[int, float]
    ) -> Transmitted:
        """From log10 ‖∂f/∂w‖ and log10 ‖w‖ of each trainable tensor, by its id."""
        natural = {id(p): max(norms[id(p)], math.log10(natural_norm(n, p))) for n, p in live.items()}
        return cls(
            own=norm_together([slopes[id(p)] + norms[id(p)] for p in live.values()]),
            last=norm_together([slopes[id(p)] + (natural if _adds(n) else norms)[id(p)] for n, p in live.items()]),
            full=norm_together([slopes[id(p)] + natural[id(p)] for p in live.values()]),
            size=0.5 * math.log10(max(1, sum(p.numel() for p in live.values()))),
        )

    def against(self, largest: float, densest: float) -> float:
        """T_rel, at most 0, against the largest T and the largest T per entry; the larger of the two counts."""
        if self.full == LOG_ZERO:
            return LOG_ZERO
        dense = self.full - self.size
        return max(self.full - max(self.full, largest), dense - max(dense, densest))


def _adds(name: str) -> bool:
    return name.endswith("bias")


def output_cotangents(capture: Capture, seed: int) -> list[tuple[Root, Tensor]]:
    """N(0,1) / rms(output) for every differentiable output of the model; random signs where there are few entries.

    Where layers run inside the loss, the outputs are theirs. Where the model returns its own loss alone, they are what
    its recognised loss call consumes; failing that, the loss itself.
    """
    roots = capture.ends or list(capture.outputs)
    if not roots and capture.loss_input is not None:
        roots = [capture.loss_input]
    if not roots and capture.loss_root is not None:
        roots = [capture.loss_root]
    return cotangents_of(roots, seed)


def cotangents_of(roots: Sequence[Root], seed: int) -> list[tuple[Root, Tensor]]:
    """The same for these roots; one that is nothing but rounding beside the largest counts as zeros, of no size."""
    generator = torch.Generator().manual_seed(seed)
    largest = max((root.rms for root in roots if math.isfinite(root.rms)), default=0.0)
    started = []
    for root in roots:
        noise = torch.randn(root.shape, generator=generator, dtype=torch.float32, device="cpu")
        if noise.numel() <= FEW:
            noise = _signs(noise, generator)
        scale = root.rms if ROUNDING * largest < root.rms < math.inf else 1.0
        # A float16 output may be smaller than 1 / its largest number: the division is made in float64, piece by piece.
        for piece in noise.view(-1).split(PIECE) if root.dtype is torch.float32 else ():
            piece.copy_(piece.double().div_(scale))
        cotangent = noise if root.dtype is torch.float32 else (noise.double() / scale).to(root.dtype)
        started.append((replace(root), cotangent.to(root.device)))
    return started


def _signs(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Of size 1 with the signs of ``noise``; of several, sizes about 1 that differ, and an rms of 1.

    What adds the same to every sample, as a bias that stands alone does, would receive exactly nothing wherever as many
    equal numbers are above zero as below.
    """
    signs = torch.where(noise < 0, -1.0, 1.0)
    if noise.numel() == 1:
        return signs
    sizes = torch.exp2(torch.rand(noise.shape, generator=generator, device="cpu") - 0.5)
    return signs * sizes / sizes.square().mean().sqrt()


def output_entries(capture: Capture) -> int:
    """How many output entries the cotangents of ``output_cotangents`` have together."""
    roots = capture.ends or capture.outputs or ([capture.loss_input] if capture.loss_input else [])
    return sum(max(1, torch.Size(root.shape).numel()) for root in roots) or 1

"""Networks that read a sequence and are asked for something that stood in it, near or far."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam


class Reader(nn.Module):
    """A recurrent layer of torch's whose last state decides."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.read = getattr(nn, kind)(1, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


class Convolutions(nn.Module):
    """Causal convolutions with residual connections, the dilation doubled from one to the next."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(1, width, 1)
        self.reaches = [2**k for k in range(depth)]
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=reach) for reach in self.reaches)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.mT)
        for reach, block in zip(self.reaches, self.blocks, strict=True):
            h = h + F.relu(block(F.pad(h, (2 * reach, 0))))
        return self.head(h[..., -1])


class StateSpace(nn.Module):
    """Layers of independent linear states, h ← a h + (1 − a) x, run through all steps at once by Fourier transforms."""

    def __init__(self, depth: int, width: int, decay: float) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        start = torch.full((depth, width), decay).logit() + 0.1 * torch.randn(depth, width)
        self.decays, self.mix = nn.Parameter(start), nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, steps = self.embed(x), x.shape[1]
        for decay, mix in zip(self.decays, self.mix, strict=True):
            kept = decay.sigmoid()
            kernel = (1.0 - kept) * kept ** torch.arange(steps, device=x.device)[:, None]
            spectrum = torch.fft.rfft(h, 2 * steps, dim=1) * torch.fft.rfft(kernel, 2 * steps, dim=0)
            h = h + F.gelu(mix(torch.fft.irfft(spectrum, 2 * steps, dim=1)[:, :steps]))
        return self.head(h[:, -1])


def recall(kind: str = "LSTM", steps: int = 200, lag: int | None = None, open_for: float = 0.0) -> Problem:
    """The number that stood ``lag`` steps before the last one is wanted; without a lag, the first.

    ``open_for``: the number of steps that the gates which keep a state are biased to keep it for.
    """
    model = Reader(kind, 32)
    if open_for:
        with torch.no_grad():  # the gate that keeps: the second of the three or four
            width = model.read.hidden_size
            model.read.bias_hh_l0[width : 2 * width] += torch.log(torch.rand(width) * (open_for - 1.0) + 1.0)
    return _wanted(model, steps, lag)


def over_samples(steps: int = 6) -> Problem:
    """The first of so many numbers is wanted of a layer that takes the steps first, and is given the samples first."""
    model = Reader("LSTM", 32)
    model.read.batch_first = False
    return replace(_wanted(model, steps, None), optimizer=adam(model, 1e-2))


def convolutions(depth: int, steps: int) -> Problem:
    """Causal convolutions that are asked for the first of so many numbers."""
    return _wanted(Convolutions(depth, 16), steps, None)


def state_space(decay: float, steps: int, mean: bool = False) -> Problem:
    """Linear states that keep the share ``decay`` from step to step, asked for the first of so many numbers.

    ``mean``: for the mean of all, times √steps, at ten times the rate. States that forget slowly hold that, and no
    single one of the numbers: asked for the first they win nothing in 4,000 steps, however much of the signal arrives.
    """
    model = StateSpace(2, 16, decay)
    problem = _wanted(model, steps, None)
    if not mean:
        return problem
    return replace(problem, targets=problem.inputs.mean(1) * steps**0.5, optimizer=adam(model, 1e-2))


def _wanted(model: nn.Module, steps: int, lag: int | None) -> Problem:
    inputs = torch.randn(64, steps, 1)
    place = 0 if lag is None else steps - 1 - lag
    return Problem(
        model=model, inputs=inputs, targets=inputs[:, place], loss_fn=F.mse_loss, optimizer=adam(model, 1e-3)
    )

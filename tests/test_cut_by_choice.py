"""Layers before a choice without a gradient (argmin, an index, a threshold) are an error; a way around it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(2)
Choice = Callable[[Any, Tensor], Tensor]
Losses = tuple[float, float] | None


class Coded(nn.Module):
    """An autoencoder with a choice between its halves."""

    def __init__(self, choice: Choice, around: bool) -> None:
        super().__init__()
        self.around = around  # the decoder's gradient goes to the encoder as if nothing had been chosen
        self.encoder, self.codes = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), nn.Embedding(12, 4)
        self.decoder, self.choice = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8)), choice

    def forward(self, x: Tensor) -> Any:
        z = self.encoder(x)
        chosen = self.choice(self, z)
        return self.decoder(z + (chosen - z).detach() if self.around else chosen), z, chosen


def nearest(m: Any, z: Tensor) -> Tensor:
    return torch.cdist(z, m.codes.weight).argmin(1)


def code(m: Any, z: Tensor) -> Tensor:
    return m.codes(nearest(m, z))


def one_hot(m: Any, z: Tensor) -> Tensor:
    return F.one_hot(nearest(m, z), 12).float() @ m.codes.weight


def by_index(m: Any, z: Tensor) -> Tensor:
    return m.codes.weight[torch.cdist(z, m.codes.weight).topk(1, largest=False).indices[:, 0]]


def sampled(m: Any, z: Tensor) -> Tensor:
    return m.codes(torch.distributions.Categorical(logits=-torch.cdist(z, m.codes.weight)).sample())


def without_codes(function: Callable[[Tensor], Tensor]) -> Choice:
    return lambda m, z: function(z) + m.codes.weight.mean()


def report_of(choice: Choice, seed: int, losses: Losses = None, around: bool = False) -> Report:
    """``losses``: the weights of what pulls the codes to the encoder's results, and these to the codes."""

    def loss(outputs: Any, x: Tensor) -> Tensor:
        decoded, z, chosen = outputs
        missed = F.mse_loss(decoded, x)
        if losses is None:
            return missed
        return missed + losses[0] * F.mse_loss(chosen, z.detach()) + losses[1] * F.mse_loss(z, chosen.detach())

    torch.manual_seed(seed)
    model, x = Coded(choice, around), torch.randn(48, 8)
    return diagnose(Problem(model, x, x, loss, torch.optim.Adam(model.parameters(), 1e-3)))


def errors(report: Report) -> dict[str, set[str]]:
    return {f.code: set(f.layers) for f in report.findings if f.level == "error"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("choice", [code, one_hot, by_index, sampled, without_codes(lambda z: (z > 0).float())])
def test_layers_before_a_choice_are_cut_off(choice: Choice, seed: int) -> None:
    assert errors(report_of(choice, seed)) == {"UV602": {"encoder.0", "encoder.2"}}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("codebook", [0.0, 1.0])
def test_a_pull_to_the_codes_whose_weight_is_zero_is_no_way_around(codebook: float, seed: int) -> None:
    assert errors(report_of(code, seed, (codebook, 0.0))) == {"UV602": {"encoder.0", "encoder.2"}}
    assert not errors(report_of(code, seed, (codebook, 0.25)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("choice", [code, one_hot, by_index, sampled])
def test_a_gradient_that_is_led_around_the_choice_is_quiet(choice: Choice, seed: int) -> None:
    assert not errors(report_of(choice, seed, (1.0, 0.25), around=True))
    assert not errors(report_of(choice, seed, (1.0, 0.0), around=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rounding_with_a_slope_of_its_own_is_quiet(seed: int) -> None:
    assert not errors(report_of(without_codes(lambda z: z + (z.round() - z).detach()), seed))
    assert not errors(report_of(without_codes(lambda z: F.gumbel_softmax(z, hard=True)), seed))

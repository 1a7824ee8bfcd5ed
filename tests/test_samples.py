"""The gradients of chunks of the batch, read off one walk: those of a pass a chunk, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem, diagnose
from unvanish.evidence.chunks import CHUNKS, alone, chunk_gradients, chunks_of
from unvanish.evidence.grams import AT_ONCE, BLOCK, grams_of
from unvanish.evidence.samples import ChunkGrams
from unvanish.flow.look import looking
from unvanish.flow.observe import observe

N = 16


class Positions(nn.Module):
    """Tokens, learned positions that know nothing of samples, normalised attention whose rows begin with the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8), nn.Embedding(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.scale, self.head = nn.Parameter(torch.ones(8)), nn.Linear(8, 11, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.layer(x) * self.scale)


def of_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def mlp(*between: nn.Module) -> Problem:
    parts = [nn.Linear(6, 300), nn.ReLU(), *between, nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 3)]
    return Problem(nn.Sequential(*parts), torch.randn(N, 6), torch.randint(0, 3, (N,)), F.cross_entropy)


def weighted() -> Problem:
    """The mean over the targets that count: a chunk's loss is another share of the whole than an eighth."""
    problem = mlp()
    targets = torch.where(torch.arange(N) % 5 == 0, -100, problem.targets)
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 3.0, 0.5]))
    return Problem(problem.model, problem.inputs, targets, loss)


def conv() -> Problem:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 3))
    return Problem(model, torch.randn(N, 2, 6, 6), torch.randn(N, 3), F.mse_loss)


def padded() -> Problem:
    """The gradients of single samples have to see what was padded: findings/padding_mode_per_sample.sh."""
    modes = ("circular", "reflect", "replicate")
    layers = [nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode) for mode in modes]
    dilated = nn.Conv2d(2, 4, 3, padding="same", dilation=2, groups=2)
    model = nn.Sequential(*layers, dilated, nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    return Problem(model, torch.randn(N, 2, 4, 4), torch.randn(N, 3), F.mse_loss)


def tokens() -> Problem:
    ids = torch.randint(0, 11, (N, 5))
    return Problem(Positions(), ids, ids.roll(-1, 1), of_tokens)


def weight_normed() -> Problem:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
    return Problem(nn.Sequential(layer, nn.LayerNorm(5)), torch.randn(N, 6), torch.randn(N, 5), F.mse_loss)


def both(problem: Problem) -> tuple[dict[str, Tensor] | None, dict[str, Tensor]]:
    """The layers' Gram matrices from one walk, and from a float64 pass a chunk."""
    model = problem.model
    assert isinstance(model, nn.Module)
    with looking(problem, model) as look:
        apart = ChunkGrams(look)
        observe(look.capture, look.layers, watch=apart.see)
        chunks = chunks_of(problem)
        assert chunks is not None
        found = apart.gathered(2.0**-3, lambda: alone(look, chunks[0], 2.0**-3))
        rows = chunk_gradients(look, chunks, 1.0)
        own = {a.name: [torch.stack(list(rows[id(p)])).flatten(1).double() for p in a.live] for a in look.layers}
    return found, {name: sum(g @ g.T for g in each) for name, each in own.items()}  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("build", [mlp, weighted, conv, padded, tokens, weight_normed])
def test_one_walk_tells_the_gradients_of_the_chunks_apart(build: Callable[[], Problem], seed: int) -> None:
    torch.manual_seed(seed)
    found, expected = both(build())
    assert found is not None and set(found) == set(expected)
    for name, gram in expected.items():
        unit = found[name].trace() / gram.trace()  # each layer has a unit of its own
        sizes = gram.diagonal().sqrt()
        assert float(((found[name] / unit - gram).abs() / torch.outer(sizes, sizes)).max()) < 1e-4


class Centred(nn.Module):
    """Takes the mean of the batch away: every sample feels the others."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 0.1 * x.mean(0, keepdim=True)


class Doubled(torch.autograd.Function):
    """x w with a backward of the user's own, which training calls once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        return given * w, (given * x).sum(0)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(300))

    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(x, self.w)  # type: ignore[return-value]


def contrastive(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


def shared() -> Problem:
    layer = nn.Linear(6, 6)
    return Problem(nn.Sequential(layer, nn.Tanh(), layer), torch.randn(N, 6), torch.randn(N, 6), F.mse_loss)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "build",
    [
        lambda: mlp(Centred()),
        lambda: mlp(nn.BatchNorm1d(300)),
        lambda: mlp(nn.Dropout(0.5)),
        lambda: Problem(mlp().model, torch.randn(N, 6), torch.randn(N, 3), contrastive),
        shared,
        lambda: mlp(Custom()),
    ],
    ids=["centred", "batch norm", "dropout", "contrastive", "shared", "custom"],
)
def test_what_mixes_samples_is_used_twice_or_is_of_the_users_own_is_not_taken_apart(
    build: Callable[[], Problem], seed: int
) -> None:
    torch.manual_seed(seed)
    found, _ = both(build())
    assert found is None


@pytest.mark.parametrize("seed", range(3))
def test_the_flags_are_those_of_a_pass_a_chunk(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flags() -> list[bool | None]:
        torch.manual_seed(seed)
        return [a.noise for build in (mlp, tokens) for a in diagnose(build(), effort="full").layers]

    found = flags()
    assert None not in found
    monkeypatch.setattr(ChunkGrams, "gathered", lambda *_: None)
    assert found == flags()


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [1, 7, BLOCK, BLOCK + 1, 3 * AT_ONCE + 5])
@pytest.mark.parametrize("size", [1.0, 1e-11, 3e-14, 1e-25, 1e11, 1e25])
def test_inner_products_are_right_to_the_bound(size: float, width: int, seed: int) -> None:
    """Rows far from one another, nearly equal, and nearly opposite; of ordinary size and beside the type's ends."""
    rows = drawn(CHUNKS, width, seed=seed) * size
    rows[1], rows[2] = rows[0] * (1.0 + 1e-6), -rows[0] + 1e-6 * rows[3]
    wide = rows.double()
    sizes = wide.norm(dim=1)
    for given in (rows, list(rows)):
        (gram,) = grams_of([given])
        bound = BLOCK * 2.0**-24 * torch.outer(sizes, sizes)
        assert bool(((gram - wide @ wide.T).abs() <= bound).all())


def test_rows_of_zeros_and_of_what_is_not_finite_are_told() -> None:
    rows = drawn(CHUNKS, 50, seed=0)
    rows[2] = 0.0
    (gram,) = grams_of([rows])
    assert not gram[2].any() and bool((gram.diagonal()[[0, 1, 3]] > 0.0).all())
    rows[3, 4] = torch.inf
    (gram,) = grams_of([rows])
    assert not gram.isfinite().all()

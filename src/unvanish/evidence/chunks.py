"""The batch cut into eight parts, and the gradients of the loss of each part by torch's own backward.

Where the operations are so small that to call them takes longer than to compute them, one pass over all parts gives the
gradients of each in half the time, if the parts are equal and every operation can be batched.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from unvanish.evidence.layerwise import ENTRIES
from unvanish.evidence.moving import fresh, loss_again
from unvanish.flow.layers import Layer
from unvanish.flow.look import Look
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.trace.scaled import norms_of

CHUNKS = 8
AGREES = 1e-3  # of a layer's gradient: more than rounding makes of it, and far less than a part that is missing


Rows = Sequence[Tensor] | Tensor
"""One tensor a chunk; or those of all chunks stacked."""


def chunks_of(problem: Problem) -> list[Problem] | None:
    """The problem on each eighth of its batch; None where a chunk would have fewer than two samples."""
    size = problem.batch_size
    if size < 2 * CHUNKS:
        return None
    edges = [size * k // CHUNKS for k in range(CHUNKS + 1)]
    return [_with_samples(problem, lambda t, a=a, b=b: t[a:b]) for a, b in pairwise(edges)]


def _with_samples(problem: Problem, change: Callable[[Tensor], Tensor]) -> Problem:
    """The problem with ``change(tensor)`` in place of each tensor that has one row a sample."""
    size = problem.batch_size

    def cut(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return change(tree) if tree.ndim and tree.shape[0] == size else tree
        if isinstance(tree, (tuple, list)):
            return tuple(cut(value) for value in tree)
        if isinstance(tree, Mapping):
            return {key: cut(value) for key, value in tree.items()}
        return tree

    return dataclasses.replace(problem, inputs=cut(problem.inputs), targets=cut(problem.targets))


def chunk_gradients(look: Look, chunks: Sequence[Problem], factor: float) -> dict[int, Rows] | None:
    """The gradients of ``factor`` times the loss of each chunk, by id of a parameter.

    Without the parameters to which some chunk sends none; None where a pass goes wrong.
    """
    parameters = list({id(p): p for layer in look.layers for p in layer.live}.values())
    try:
        first = _alone(look, chunks[0], parameters, factor)
        together = _together(look, parameters, factor) if _is_small(look, parameters) else None
        if together is not None and _agree(look, together, first):
            return together
        each = [first, *(_alone(look, chunk, parameters, factor) for chunk in chunks[1:])]
    except Exception:  # what goes wrong has its words where the chunks are walked
        return None
    return {key: [made[key] for made in each] for key in first if all(key in made for made in each)}


def _is_small(look: Look, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether to call the operations of a pass takes longer than to compute them: of larger ones, work alone counts."""
    return max(*(math.prod(call.shape) for call in look.capture.calls), *(p.numel() for p in parameters)) <= ENTRIES


def _alone(look: Look, chunk: Problem, parameters: Sequence[nn.Parameter], factor: float) -> dict[int, Tensor]:
    with torch.enable_grad():
        loss = loss_again(chunk, look.model, look.seed)
        made = torch.autograd.grad(loss, parameters, torch.full_like(loss, factor), allow_unused=True)
    pairs = zip(parameters, made, strict=True)
    return {id(p): g.to_dense() if g.is_sparse else g for p, g in pairs if g is not None}


class _Whole(nn.Module):
    """The model, so that something else than its forward pass can be run with other parameters in it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], Tensor]) -> Tensor:
        return run()


def _together(look: Look, parameters: Sequence[nn.Parameter], factor: float) -> dict[int, Rows] | None:
    """The gradients of all chunks in one pass; None where they are not equal, or an operation cannot be batched."""
    problem, model = look.problem, look.model
    if problem.batch_size % CHUNKS or problem.autocast is not None or any(map(_is_opaque, model.modules())):
        return None
    names = {id(p): f"model.{name}" for name, p in model.named_parameters()}
    weights = {names[id(p)]: p.detach() for p in parameters}
    # The statistics that a batch norm keeps are written into: each chunk gets its own.
    kept = {
        f"model.{path}.{name}": buffer.expand(CHUNKS, *buffer.shape).clone()
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for name, buffer in module._buffers.items()
        if buffer is not None
    }
    samples: list[Tensor] = []
    again = fresh(problem)
    _with_samples(again, lambda t: samples.append(t.reshape(CHUNKS, -1, *t.shape[1:])) or t)  # type: ignore[func-returns-value]

    def loss(weights: dict[str, Tensor], kept: dict[str, Tensor], samples: list[Tensor]) -> Tensor:
        given = iter(samples)
        chunk = _with_samples(again, lambda _: next(given))
        return factor * functional_call(_Whole(model), {**weights, **kept}, (lambda: chunk.loss(chunk.outputs(model)),))

    try:
        with torch.no_grad(), seeded(look.seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that some operation is run once for each after all
            made = vmap(grad(loss), in_dims=(None, 0, 0), randomness="same")(weights, kept, samples)
    except Exception:  # no rule to batch an operation, a branch that the values decide, no memory
        return None
    return {id(p): made[names[id(p)]] for p in parameters}


def _is_opaque(module: nn.Module) -> bool:
    """Whether a module is known not to run with other tensors in place of its parameters."""
    return isinstance(module, nn.RNNBase) or getattr(module, "_compiled_call_impl", None) is not None


def _agree(look: Look, together: Mapping[int, Rows], first: Mapping[int, Tensor]) -> bool:
    """Whether the first chunk's gradients are those of an ordinary pass, layer by layer.

    A parameter that the model reaches by another way than its name would have none in ``together``.
    """
    keys = list(together)
    alone = [first[k] if k in first else torch.zeros_like(together[k][0]) for k in keys]
    apart = torch._foreach_sub([together[k][0] for k in keys], alone)
    gaps, sizes = (dict(zip(keys, norms_of(each), strict=True)) for each in (apart, alone))

    def whole(norms: Mapping[int, float], layer: Layer) -> float:
        return math.hypot(*(norms[id(p)] for p in layer.live))

    return all(whole(gaps, layer) <= AGREES * whole(sizes, layer) for layer in look.layers)

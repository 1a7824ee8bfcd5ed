"""The chunks' gradients as Gram matrices, read off the one walk over the whole batch while its cotangents pass by.

Where no operation mixes samples, what the loss of a chunk alone would send back to its samples is what the loss of all
sends them, times one number. The gradient of a chunk is then made of its own rows alone, and of a product of few rows
not even that is needed: with rows a of the input and δ of the cotangent ⟨G, H⟩ = Σ (a · a′)(δ · δ′) over pairs of rows.

That no operation mixes samples is not assumed: the loss is asked chunk by chunk, and the gradients of the first chunk
are compared with those of an ordinary pass over it. What is met that cannot be taken apart ends the attempt.

Source: Goodfellow 2015, Efficient per-example gradient computations; Li et al. 2022, Large language models can be
strong differentially private learners, section 4 (there for norms; here for inner products of sums of samples).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unvanish.evidence.chunks import AGREES, CHUNKS, MOST_PARAMETERS, Rows, chunks_of
from unvanish.evidence.grams import grams_of
from unvanish.evidence.moving import fresh
from unvanish.flow.look import Look
from unvanish.trace.calls import PARAMETERS_ONLY, Node, is_custom, leaf_of
from unvanish.trace.scaled import Scaled, norm_of, norms_of
from unvanish.trace.structure import rebuild, tensors

FEW = 2**22  # multiplications that take no longer than to call a few operations
SMALL = 2**14  # entries that are as soon converted
LONGEST = 4  # nodes between an operation and a parameter behind it: a turn, a cast, a weight norm

_times: Any = torch._foreach_mul  # pyright: ignore[reportPrivateImportUsage] - one call for a list of tensors
_less: Any = torch._foreach_sub_  # pyright: ignore[reportPrivateImportUsage]


class ChunkGrams:
    """What one walk collects: by id of a parameter the Gram matrix of its chunks' gradients, and the first of these."""

    def __init__(self, look: Look) -> None:
        self.look, self.capture, self.samples = look, look.capture, look.problem.batch_size
        self.grams: dict[int, tuple[Tensor, int]] = {}  # with a power of two: that of the gradients
        self.first: dict[int, tuple[Tensor, int]] = {}
        self.without_samples = _without_samples(look)
        factors = _factors(look) if _may_be_apart(look) else None
        self.factors = None if factors is None else torch.tensor(factors, dtype=torch.float64, device="cpu")

    def see(self, index: int, node: Node, value: Scaled | None) -> None:
        """Take the gradients of the parameters that this node uses apart; to be told of every node of the walk."""
        call = self.capture.calls[index]
        inside = self.without_samples
        used = call.parameters or any(k in inside for k in call.inputs)
        if self.factors is None or value is None or not used or index in inside:
            return
        try:
            self._take(call.shape, node, value)
        except Exception:  # what cannot be taken apart: saved tensors of another kind, an axis without samples
            self.factors = None

    def _take(self, shape: Sequence[int], node: Any, value: Scaled) -> None:
        edges = node.next_functions
        ends = [place for place, (child, _) in enumerate(edges) if child is not None and self._is_end(child)]
        if not ends:
            return
        given = value.mantissa
        if given.dtype not in (torch.float32, torch.float64) or given.is_sparse:
            raise _Mixed
        taken = _taker(node, shape, given, self.samples)
        for place in ends:
            child, nr = edges[place]
            self._finish(child, nr, taken(place, _is_only_turned(child)), value.exponent)

    def _is_end(self, child: Node) -> bool:
        owner = self.capture.owner.get(child)
        return leaf_of(child) is not None or owner == PARAMETERS_ONLY or owner in self.without_samples

    def _finish(self, child: Any, nr: int, rows: Any, exponent: int, length: int = 0) -> None:
        """Follow the gradients of the chunks (``rows``: what a ``_Taken`` gives) to the parameter they end in."""
        leaf = leaf_of(child)
        if leaf is not None:
            if id(leaf) in self.grams:
                raise _Mixed  # used twice: the sum of both is what counts
            gram = rows.gram if isinstance(rows, _Pairs) else _gram(rows)
            first = rows.first if isinstance(rows, _Pairs) else rows[0].clone()
            self.grams[id(leaf)] = gram, exponent
            self.first[id(leaf)] = first.reshape(leaf.shape), exponent
            return
        if length >= LONGEST:
            raise _Mixed
        if isinstance(rows, _Pairs):
            behind, slot = child.next_functions[0]
            self._finish(behind, slot, _Pairs(rows.gram, rows.first.t()), exponent, length + 1)
            return
        fitted = torch.Size(child._input_metadata[nr].shape)
        made = [_called(child, t.reshape(fitted), nr) for t in rows]
        for place, (edge, k) in enumerate(child.next_functions):
            if edge is not None:
                self._finish(edge, k, [m[place] for m in made], exponent, length + 1)

    def gathered(self, factor: float, alone: Callable[[], dict[int, Tensor]]) -> dict[str, Tensor] | None:
        """The Gram matrix of each layer, each in units of its own; None where the batch could not be taken apart.

        ``alone``: the gradients of ``factor`` times the loss of the first chunk by themselves, by id of a parameter.
        """
        if self.factors is None or not self._agrees(factor, alone()):
            return None
        layers = {a.name: [id(p) for p in a.live if id(p) in self.grams] for a in self.look.layers}
        layers = {name: keys for name, keys in layers.items() if keys}
        top = {name: max(self.grams[key][1] for key in keys) for name, keys in layers.items()}
        pairs = [(k, self.grams[key], top[name]) for k, (name, keys) in enumerate(layers.items()) for key in keys]
        scales = torch.tensor(
            [4.0 ** max(-500, power - most) for _, (_, power), most in pairs], dtype=torch.float64, device="cpu"
        )
        scaled = torch.stack([gram for _, (gram, _), _ in pairs]) * scales[:, None, None]
        total = torch.zeros(len(layers), CHUNKS, CHUNKS, dtype=torch.float64, device="cpu")
        total.index_add_(0, torch.tensor([k for k, _, _ in pairs], device="cpu"), scaled)
        total *= torch.outer(self.factors, self.factors)
        return dict(zip(layers, total, strict=True)) if bool(total.isfinite().all()) else None

    def _agrees(self, factor: float, alone: dict[int, Tensor]) -> bool:
        """Whether the first chunk's gradients are those of an ordinary pass over it, layer by layer."""
        live = {id(p) for layer in self.look.layers for p in layer.live}
        if self.factors is None or not alone or live & set(self.grams) != set(alone):
            return False
        # what an ordinary pass gives, in the units of what was collected
        inverse = [math.ldexp(1.0 / (factor * float(self.factors[0])), -self.first[key][1]) for key in alone]
        wanted = _times(list(alone.values()), inverse)
        size = dict(zip(alone, norms_of(wanted), strict=True))
        _less(wanted, [self.first[key][0] for key in alone])
        gap = dict(zip(alone, norms_of(wanted), strict=True))

        def whole(norms: dict[int, float], keys: Sequence[int]) -> float:
            top = max(self.first[key][1] for key in keys)
            return math.hypot(*(math.ldexp(norms[key], self.first[key][1] - top) for key in keys))

        own = [keys for layer in self.look.layers if (keys := [id(p) for p in layer.live if id(p) in alone])]
        return all(whole(gap, keys) <= AGREES * whole(size, keys) for keys in own)


class _Mixed(Exception):  # noqa: N818 - it ends an attempt
    """The gradients of the chunks cannot be told apart here."""


def _gram(rows: Rows) -> Tensor:
    if isinstance(rows, Tensor) and rows.numel() <= SMALL:
        wide = rows.flatten(1).double()
        return wide @ wide.T
    return grams_of([rows])[0]


class _Pairs:
    """A product's gradients of the chunks by pairs of rows: their Gram matrix, and the first of them."""

    def __init__(self, gram: Tensor, first: Tensor) -> None:
        self.gram, self.first = gram, first


def _may_be_apart(look: Look) -> bool:
    """Whether it is worth trying: equal chunks on the CPU, a loss of the outputs, nothing drawn, nothing normalised."""
    problem, capture = look.problem, look.capture
    if problem.batch_size % CHUNKS or sum(p.numel() for p in look.model.parameters()) > MOST_PARAMETERS:
        return False
    plain = problem.autocast is None and all(p.device.type == "cpu" for p in look.model.parameters())
    free = not (capture.own_loss or capture.random or capture.ends or capture.hooked)
    mixing = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in look.model.modules())
    return plain and free and not mixing


def _without_samples(look: Look) -> set[int]:
    """The calls made of parameters and of what has no axis of samples: places in a sequence, a mask."""
    found: set[int] = set()
    for call in look.capture.calls:
        if look.problem.batch_size not in call.shape and all(k in found for k in call.inputs):
            found.add(call.index)
    return found


def _factors(look: Look) -> list[float] | None:
    """By how much the loss of each chunk alone asks more of its outputs than the loss of all; None where otherwise."""
    problem, values = look.problem, look.capture.values
    chunks = chunks_of(problem)
    size = problem.batch_size
    outputs = [t for t in tensors(values) if t.is_floating_point()]
    if chunks is None or any(t.ndim == 0 or t.shape[0] != size for t in outputs):
        return None
    free = {id(t): t.detach().requires_grad_() for t in outputs}
    try:
        with torch.enable_grad(), look.capture.replay():
            whole = fresh(problem).loss(rebuild(values, lambda t: free.get(id(t), t)))
            asked = torch.autograd.grad(whole, list(free.values()), allow_unused=True)
            total = whole.new_zeros(())
            for k, chunk in enumerate(chunks):
                here = slice(k * size // CHUNKS, (k + 1) * size // CHUNKS)

                def cut(t: Tensor, here: slice = here) -> Tensor:
                    return free.get(id(t), t)[here] if t.ndim and t.shape[0] == size else t

                total = total + fresh(chunk).loss(rebuild(values, cut))
            parts = torch.autograd.grad(total, list(free.values()), allow_unused=True)
    except Exception:  # a loss that refuses a part of the outputs
        return None
    if any((a is None) != (b is None) for a, b in zip(asked, parts, strict=True)):
        return None
    pairs = [(a, b) for a, b in zip(asked, parts, strict=True) if a is not None and b is not None]
    return (
        [_ratio([(a.chunk(CHUNKS)[k], b.chunk(CHUNKS)[k]) for a, b in pairs]) for k in range(CHUNKS)] if pairs else None
    )


def _ratio(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The number that the first of each pair is to be multiplied by to give the second; nan where none does."""
    wide = [(a.double(), b.double()) for a, b in pairs]
    square, mixed = sum(float((a * a).sum()) for a, _ in wide), sum(float((a * b).sum()) for a, b in wide)
    if square == 0.0:
        return 1.0 if all(not b.any() for _, b in wide) else math.nan
    factor = mixed / square
    gap = math.hypot(*(norm_of(b - factor * a) for a, b in wide))
    return factor if gap <= AGREES * math.hypot(*(norm_of(b) for _, b in wide)) else math.nan


_Taken = Callable[[int, bool], _Pairs | Rows]
"""By number of an edge the gradients of the chunks that go there; and whether it leads to a leaf by turning alone."""


def _called(node: Any, given: Tensor, nr: int = 0) -> tuple[Any, ...]:
    """What a node sends to each of its edges where only this one of its outputs has a cotangent."""
    if is_custom(node):
        raise _Mixed  # a user's backward is called once, as training does
    others = len(node._input_metadata) - nr - 1
    found = node(*[None] * nr, given, *[None] * others)
    return found if isinstance(found, tuple) else (found,)


def _is_only_turned(child: Node) -> bool:
    turned = child.name() in ("TBackward0", "TransposeBackward0")
    return leaf_of(child) is not None or (turned and leaf_of(child.next_functions[0][0]) is not None)


def _taker(node: Any, shape: Sequence[int], given: Tensor, samples: int) -> _Taken:
    kind = node.name()
    if kind in ("AddmmBackward0", "MmBackward0") and given.ndim == 2:
        return _of_product(node, kind == "AddmmBackward0", shape, given, samples)
    axis = next((k for k in (0, 1) if k < given.ndim and given.shape[k] == samples), None)
    if axis is None:
        raise _Mixed
    if kind == "NativeLayerNormBackward0":
        return _of_layer_norm(node, given, axis)
    made: list[Any] = []

    def masked(place: int, turned: bool) -> Rows:
        if not made:
            for k in range(CHUNKS):
                alone = torch.zeros_like(given)
                alone.movedim(axis, 0).chunk(CHUNKS)[k].copy_(given.movedim(axis, 0).chunk(CHUNKS)[k])
                made.append(_called(node, alone))
        fitted = _shape_behind(*node.next_functions[place])
        return [each[place].sum_to_size(fitted) for each in made]

    return masked


def _of_layer_norm(node: Any, given: Tensor, axis: int) -> _Taken:
    """Of a layer norm: its weights meet the normalised input, its biases nothing."""
    width = tuple(node._saved_normalized_shape)
    normal = (node._saved_input - node._saved_result1) * node._saved_result2

    def taken(place: int, turned: bool) -> Tensor:
        sent = given * normal if place == 1 else given
        return sent.movedim(axis, 0).reshape(CHUNKS, -1, *width).sum(1)

    return taken


def _shape_behind(child: Any, nr: int) -> torch.Size:
    leaf = leaf_of(child)
    return leaf.shape if leaf is not None else torch.Size(child._input_metadata[nr].shape)


def _of_product(node: Any, biased: bool, shape: Sequence[int], given: Tensor, samples: int) -> _Taken:
    """Of rows @ weight (+ bias): by pairs of rows where these are few, else a product a chunk."""
    if biased and (node._saved_alpha != 1 or node._saved_beta != 1):
        raise _Mixed

    def by_chunk(rows: Tensor) -> Tensor:  # (chunks, rows of each, features)
        if rows.shape[0] % samples:
            raise _Mixed
        first = len(shape) < 3 or shape[0] == samples
        if not first and shape[1] != samples:
            raise _Mixed
        apart = rows.unflatten(0, (samples, -1) if first else (-1, samples))
        return (apart if first else apart.transpose(0, 1)).reshape(CHUNKS, -1, rows.shape[1])

    sent = by_chunk(given)
    weight = 2 if biased else 1

    def taken(place: int, turned: bool) -> _Pairs | Rows:
        if biased and place == 0:
            return sent.sum(1)
        if place != weight:
            raise _Mixed
        rows = by_chunk(node._saved_mat1 if biased else node._saved_self)
        count, inputs, outputs = given.shape[0], rows.shape[2], sent.shape[2]
        pairs = 2 * count**2 * (inputs + outputs)
        if not turned or pairs > max(FEW, (count + CHUNKS**2) * inputs * outputs):
            return rows.transpose(1, 2) @ sent
        a, d = rows.flatten(0, 1).double(), sent.flatten(0, 1).double()
        products = ((a @ a.T) * (d @ d.T)).view(CHUNKS, -1, CHUNKS, count // CHUNKS).sum((1, 3))
        return _Pairs(products, rows[0].T @ sent[0])

    return taken

"""Layers whose units all have the same weights and get the same gradient, so that no step tells them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unvanish.evidence.moving import loss_again, or_none
from unvanish.flow.layers import Layer
from unvanish.flow.look import Look
from unvanish.records import CopyFacts

CLOSE = 1e-5  # of the largest weight: after 400 steps, sums in another order had left 4e-7 between equal units
SAME = 1e-4  # of the largest entry of the gradient: they had left 4e-6


def copied_units(look: Look) -> tuple[CopyFacts, ...]:
    """Of each such layer its units; () where units have weights of their own, or the same ones and learn apart.

    Weights first, as they are at hand; only where all units of a layer have the same ones is the gradient taken again.
    Where they differ by their biases alone, or get gradients that differ, it is told by how much these do, if what they
    have in common is more than that.
    """
    equal = [
        layer for layer in look.layers if layer.first and _rows(layer.live) > 1 and all(map(_alike, _matrices(layer)))
    ]
    mixing = [layer for layer in equal if _mixes(layer) and not _looks_up(look, layer)]
    near = {layer.name for layer in mixing if _feeds_another(look, layer)}
    found = [layer for layer in equal if layer.name in near or all(map(_alike, layer.live))]
    if not found:
        return ()
    parameters = [p for layer in found for p in layer.live]
    with torch.enable_grad():
        made = or_none(
            lambda: torch.autograd.grad(loss_again(look.problem, look.model, look.seed), parameters, allow_unused=True)
        )
    if made is None:
        return ()
    gradients = {id(p): g for p, g in zip(parameters, made, strict=True)}
    facts = list[CopyFacts]()
    for layer in found:
        if all(map(_alike, layer.live)) and _stay([gradients[id(p)] for p in layer.live]):
            facts.append(CopyFacts(layer=layer.name, units=_rows(layer.live)))
        elif layer.name in near:
            apart = _apart([gradients[id(p)] for p in _matrices(layer)])
            facts += [CopyFacts(layer=layer.name, units=_rows(layer.live), apart=apart)] if apart < 1.0 else []
    return tuple(facts)


def stays_one_unit(live: Sequence[nn.Parameter]) -> int:
    """How many units a layer with these parameters has, where all are one by their weights and by their ``.grad``.

    0 where they differ, or the gradient is missing, or zero.
    """
    units = _rows(live)
    alike = units > 1 and all(map(_alike, live)) and _stay([p.grad for p in live])
    return units if alike else 0


def _matrices(layer: Layer) -> list[nn.Parameter]:
    return [p for p in layer.live if p.ndim > 1]


def _mixes(layer: Layer) -> bool:
    """Whether its units take several inputs each, and weights of another size than 0, at which layers start on purpose.

    Of one input, units that differ by their biases are all there can be.
    """
    return all(p.shape[1] > 1 and bool(p.detach()[:1].any()) for p in _matrices(layer))


def _looks_up(look: Look, layer: Layer) -> bool:
    """Whether it is a table: each of its rows has samples of its own, and tables of equal rows learned as others do."""
    return all(look.capture.calls[index].name in ("embedding", "embedding_bag") for index in layer.calls)


def _feeds_another(look: Look, layer: Layer) -> bool:
    """Whether it is not the last layer: each of whose units has a target of its own."""
    after = {k for each in look.layers if each is not layer and _matrices(each) for k in each.calls}
    own = set(layer.calls)
    return bool(own) and any(not own.isdisjoint(look.capture.leading_to([k])) for k in after - own)


def _apart(gradients: list[Tensor | None]) -> float:
    """The rms difference of the units' gradients from their mean, relative to that; inf where it cannot be told."""
    given = [g.detach().double() for g in gradients if g is not None and g.layout is torch.strided]
    mean = sum(float(g.mean(0).square().sum()) for g in given)
    rest = sum(float((g - g.mean(0)).square().sum()) / g.shape[0] for g in given)
    return math.sqrt(rest / mean) if mean > 0.0 and len(given) == len(gradients) else math.inf


def _rows(live: Sequence[nn.Parameter]) -> int:
    """The units of a layer that has a matrix or a kernel: the length of the first axis that all its tensors share."""
    sizes = {p.shape[0] if p.ndim else 0 for p in live}
    return sizes.pop() if len(sizes) == 1 and any(p.ndim > 1 for p in live) else 0


def _alike(parameter: Tensor) -> bool:
    rows = parameter.detach()
    if rows.layout is not torch.strided or not rows.is_floating_point() or type(parameter) is not nn.Parameter:
        return False
    first = rows[:1]
    if bool((rows[1:2] - first).abs().max() > CLOSE * first.abs().max()):  # two units tell most layers
        return False
    return bool((rows - first).abs().max() <= CLOSE * rows.abs().max())


def _stay(gradients: list[Tensor | None]) -> bool:
    """Whether every unit is asked to move in the same way, and is asked at all."""
    given = [g.detach() for g in gradients if g is not None and g.layout is torch.strided]
    largest = [float(g.abs().max()) for g in given]
    alike = all(float((g - g[:1]).abs().max()) <= SAME * top for g, top in zip(given, largest, strict=True))
    return len(given) == len(gradients) and max(largest, default=0.0) > 0.0 and alike

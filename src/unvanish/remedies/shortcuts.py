"""A way around each block of a Sequential, so that the signal need not pass through all of them."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.preserve import untouched
from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.anatomy import LINEAR, Anatomy, is_activation
from unvanish.remedies.draft import called

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)


@remedy(
    "residual",
    "residual connections, branches scaled by 1/√L",
    kind="residual",
    answers=("UV101",),
    cures_on=("sigmoid-20", "xavier-sigmoid-20"),
    no_help_on=("lr-too-small", "relu-on-logits"),
)
def residual(draft: Draft) -> Change:
    """Each of L blocks adds to what came in instead of replacing it: x + f(x)/√L.

    What: in an nn.Sequential, each Linear or convolution that keeps the shape, with the normalisation and activation
    that follow it, becomes one block x + f(x)/√L.
    Helps: vanishing in plain networks of any depth; 1,000 layers of 4 (σ − ½); plain sigmoids at a learning rate of 1.
    Does not help: with a small learning rate it looks dead at first. It is refused where layers do not stand in an
    nn.Sequential: a forward with branches cannot be cut safely.
    Source: He, Zhang, Ren & Sun 2016, Deep residual learning; Hanin & Rolnick 2018, How to start training.
    """
    blocks, count = _blocks(draft)
    scale = round(1.0 / math.sqrt(count), 6)
    code = [f"model = wrap_blocks(model, {blocks!r}, scale={scale!r}, learn=False)"]
    sentence = f"a residual connection around {_counted(count)}: x + {scale:.3g} · block(x)"
    return draft.apply(sentence, [surgery.Residual, surgery.wrap_blocks], code, _paths(blocks))


@remedy(
    "rezero",
    "residual connections behind gates that start at zero (ReZero)",
    kind="residual",
    answers=("UV101", "UV301"),
    cures_on=("xavier-sigmoid-20", "dead-relu"),
    no_help_on=("lr-too-small", "relu-on-logits"),
)
def rezero(draft: Draft) -> Change:
    """Each block adds to what came in, times a trainable number that starts at zero: x + α f(x).

    What: the blocks of ``residual``, with a trainable gate instead of the fixed 1/√L.
    Helps: vanishing in deep plain networks, narrow networks whose units die: at the start the network is shallow.
    Does not help: faults of the last layer, the loss or the step size; networks outside nn.Sequential (refused).
    Source: Bachlechner et al. 2021, ReZero is all you need.
    """
    blocks, count = _blocks(draft)
    code = [f"model = wrap_blocks(model, {blocks!r}, scale=0.0, learn=True)"]
    sentence = f"a residual connection around {_counted(count)}, behind a gate that starts at zero: x + α · block(x)"
    return draft.apply(sentence, [surgery.Residual, surgery.wrap_blocks], code, _paths(blocks))


def _blocks(draft: Draft) -> tuple[dict[str, list[tuple[int, int]]], int]:
    """Per Sequential the first and last child of each block that can be wrapped, and how many there are."""
    anatomy = Anatomy.of(draft)
    last = {layer.path for layer in anatomy.layers if layer.last}
    activations = {site.path for site in anatomy.hidden if site.module}
    shapes = _shapes(draft)
    found: dict[str, list[tuple[int, int]]] = {}
    for path, container in draft.model.named_modules():
        if isinstance(container, nn.Sequential):
            names = [f"{path}.{name}".lstrip(".") for name, _ in container.named_children()]
            spans = _spans(list(container), names, last, activations, shapes)
            if spans and len(names) == len(container):
                found[path] = spans
    if not found:
        raise Refused(
            "no block of an nn.Sequential keeps its shape (a Linear or convolution with as many outputs as inputs, and"
            " its activation); add x + f(x) in the forward by hand"
        )
    return found, sum(map(len, found.values()))


def _spans(
    children: list[nn.Module], names: list[str], last: set[str], activations: set[str], shapes: Shapes
) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    first = 0
    while first < len(children):
        end = first
        if isinstance(children[first], LINEAR) and names[first] not in last:
            while end + 1 < len(children) and _follows(children[end + 1]):
                end += 1
        inside = range(first, end + 1)
        ends = shapes.get(names[first]), shapes.get(names[end])
        if any(names[i] in activations for i in inside) and ends[0] and ends[1] and ends[0][0] == ends[1][1]:
            spans.append((first, end))
        first = end + 1
    return spans


def _follows(module: nn.Module) -> bool:
    """What belongs to the block of the layer before it."""
    return is_activation(module) or isinstance(module, NORMS)


def _shapes(draft: Draft) -> Shapes:
    """The shapes that go into and come out of each module called once with one tensor."""
    model = copy.deepcopy(draft.model)
    found: Shapes = {}
    twice: set[str] = set()
    for path, module in model.named_modules():

        def note(_: nn.Module, given: Any, result: Any, path: str = path) -> None:
            if path in found:
                twice.add(path)
            if len(given) == 1 and isinstance(given[0], Tensor) and isinstance(result, Tensor):
                found[path] = tuple(given[0].shape), tuple(result.shape)

        module.register_forward_hook(note)
    with untouched(model, 0), torch.no_grad():
        called(model, draft.inputs)
    shared = {path for path in twice if not is_activation(model.get_submodule(path))}
    return {path: shape for path, shape in found.items() if path not in shared}


def _paths(blocks: dict[str, list[tuple[int, int]]]) -> list[str]:
    return [f"{path}.{first}".lstrip(".") for path, spans in blocks.items() for first, _ in spans]


def _counted(count: int) -> str:
    return "1 block" if count == 1 else f"each of {count} blocks"

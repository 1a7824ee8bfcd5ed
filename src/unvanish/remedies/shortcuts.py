"""A way around each block of a Sequential, so that the signal need not pass through all of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unvanish.remedies import Change, Draft, remedy, surgery
from unvanish.remedies.anatomy import LINEAR, MODULE_NORMS, Anatomy, is_activation
from unvanish.remedies.draft import outputs_of
from unvanish.remedies.written import written_blocks

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


@remedy(
    "residual",
    "residual connections, branches scaled by 1/√L",
    kind="residual",
    answers=("UV101", "UV407"),
    cures_on=("sigmoid-20", "xavier-sigmoid-20"),
    no_help_on=("lr-too-small", "relu-on-logits"),
)
def residual(draft: Draft) -> Change:
    """Each of L blocks adds to what came in instead of replacing it: x + f(x)/√L.

    What: in an nn.Sequential, or in a forward that torch.fx can read (a loop over an nn.ModuleList), each Linear or
    convolution that keeps the shape, with the normalisation and activation that follow it, becomes one block
    x + f(x)/√L; so does a module of several layers.
    Helps: vanishing in plain networks of any depth; 1,000 layers of 4 (σ − ½); plain sigmoids at a learning rate of 1.
    Does not help: with a small learning rate it looks dead at first. It is refused, with the reason, where torch.fx
    cannot read a forward outside of nn.Sequential, and for blocks that have a shortcut of their own.
    Source: He, Zhang, Ren & Sun 2016, Deep residual learning; Hanin & Rolnick 2018, How to start training.
    """
    plan = _plan(draft)
    scale = round(1.0 / math.sqrt(plan.count), 6)
    sentence = f"a residual connection around {_counted(plan.count)}: x + {scale:.3g} · block(x)"
    return plan.apply(draft, sentence, scale, learn=False)


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
    Does not help: faults of the last layer, the loss or the step size.
    Source: Bachlechner et al. 2021, ReZero is all you need.
    """
    plan = _plan(draft)
    what = f"a residual connection around {_counted(plan.count)}"
    sentence = f"{what}, behind a gate that starts at zero: x + α · block(x)"
    return plan.apply(draft, sentence, 0.0, learn=True)


@dataclass(frozen=True)
class _Plan:
    """How blocks are given a way around: the blocks of each module, and what does it."""

    blocks: dict[str, Any]
    wrap: Callable[..., nn.Module]
    part: type[nn.Module]

    @property
    def count(self) -> int:
        return sum(map(len, self.blocks.values()))

    def apply(self, draft: Draft, sentence: str, scale: float, learn: bool) -> Change:
        code = f"model = {self.wrap.__name__}(model, {self.blocks!r}, scale={scale!r}, learn={learn})"
        paths = [f"{path}.{first}".lstrip(".") for path, spans in self.blocks.items() for first, _ in spans]
        return draft.apply(sentence, [self.part, self.wrap], [code], paths)


def _plan(draft: Draft) -> _Plan:
    """The blocks of every nn.Sequential; where there are none, those of forwards that are written out."""
    if blocks := _blocks(draft):
        return _Plan(blocks, surgery.wrap_blocks, surgery.Residual)
    return _Plan(written_blocks(draft), surgery.add_shortcuts, surgery.Shortcut)


def _blocks(draft: Draft) -> dict[str, list[tuple[int, int]]]:
    """Per Sequential the first and last child of each block that can be wrapped."""
    anatomy = Anatomy.of(draft)
    last = {layer.path for layer in anatomy.layers if layer.last}
    activations = {site.path for site in anatomy.hidden if site.module}
    shapes = shapes_of(draft)
    found: dict[str, list[tuple[int, int]]] = {}
    for path, container in draft.model.named_modules():
        if isinstance(container, nn.Sequential):
            names = [f"{path}.{name}".lstrip(".") for name, _ in container.named_children()]
            spans = _spans(list(container), names, last, activations, shapes)
            if spans and len(names) == len(container):
                found[path] = spans
    return found


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
    return is_activation(module) or isinstance(module, MODULE_NORMS)


def shapes_of(draft: Draft) -> Shapes:
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
    outputs_of(model, draft.inputs)
    shared = {path for path in twice if not is_activation(model.get_submodule(path))}
    return {path: shape for path, shape in found.items() if path not in shared}


def _counted(count: int) -> str:
    return "1 block" if count == 1 else f"each of {count} blocks"

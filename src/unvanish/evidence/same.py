"""Outputs that are the same for every sample of a batch, or at every step of each, although targets differ.

Zero or tiny last weights make outputs alike that the next step tells apart, and a unit that is off may come back: so
the weights are moved by as much as an ordinary initialisation has, and the outputs looked at again. Where they are the
same still, other numbers in place of the inputs tell what of these is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.evidence.moving import or_none, outputs_again, put_back, without_chance
from unvanish.evidence.output_loss import OutputLoss
from unvanish.flow.layers import natural_norm
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import SameFacts
from unvanish.trace.scaled import is_finite, normal_like
from unvanish.trace.structure import rebuild, tensors

FEWEST = 4  # samples: two or three may well be alike
ROUNDING = 64.0  # times the type's eps: rows of a matrix product differ by a few of it, and layers add up
LOOSELY = 1e-3  # of their size: outputs that differ by more are not asked; a batch normalisation enlarges rounding


def same_facts(look: Look, output_loss: OutputLoss | str = "") -> SameFacts | None:
    """What is known of such outputs; None where samples have outputs of their own, or it cannot be asked."""
    problem, capture, model = look.problem, look.capture, look.model
    samples = problem.batch_size
    given = {id(t) for t in capture.given}
    outputs = [t for t in _rows(capture.values, samples) if id(t) not in given]
    targets = _rows(problem.targets, samples, floats=False)
    axes = _axes(outputs, targets)
    if not capture.random:
        axes = [axis for axis in axes if _all_alike([t[:1] for t in outputs] if axis else outputs, axis, LOOSELY)]
    if axes and len(outputs) == 1 and not isinstance(output_loss, str):
        asked = or_none(lambda: _counted(output_loss, outputs[0], look.seed))
        axes = axes if asked is None else [axis for axis in axes if _apart(targets, asked, axis)]
    if not axes or (capture.random and look.effort == "quick"):
        return None
    with without_chance(model), torch.no_grad():
        return or_none(lambda: _asked(look, samples, axes))  # a pass may refuse other weights or inputs, or eval mode


def _axes(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[int]:
    """The axes of the outputs along which targets differ: 0 for samples, 1 or 2 for steps (of the one output)."""
    if not outputs or not targets:
        return []
    found = [0] if len(outputs[0]) >= FEWEST and any(map(_differ, targets)) else []
    if len(outputs) > 1 or (one := outputs[0]).ndim < 2:
        return found
    for target in targets:
        if target.ndim < 2 or target.shape[1] < FEWEST:
            continue
        behind = one.shape[2:] == target.shape[1:]  # (N, classes, steps) for (N, steps)
        first = one.shape[:2] == target.shape[:2] and target.ndim in (one.ndim, one.ndim - 1)
        if (behind or first) and _differ(target.movedim(1, 0)):
            found.append(2 if behind else 1)
    return found


def _counted(output_loss: OutputLoss, output: Tensor, seed: int) -> Tensor | None:
    """Of which entries of the outputs the loss depends: not where targets are padding, or masked out."""
    if [t.shape for t in output_loss.now] != [output.shape]:
        return None
    generator, counted = torch.Generator().manual_seed(seed), torch.zeros(output.shape, dtype=torch.bool)
    for share in (0.0, 1.0, -1.0):  # at one point a hinge may be flat
        with torch.enable_grad():
            at = [(t + share * normal_like(t, generator)).detach().requires_grad_() for t in output_loss.now]
            (slope,) = torch.autograd.grad(output_loss.at(at), at)
        counted |= (slope != 0).cpu()
    return counted


def _apart(targets: Sequence[Tensor], counted: Tensor, axis: int) -> bool:
    """Whether targets differ along the axis of the outputs among those entries that the loss counts."""
    for target in (t.cpu() for t in targets):
        steps = target.ndim > 1 and target.shape[1] > 1
        if steps and counted.shape[2:] == target.shape[1:] and axis != 1:  # (N, classes, steps) for (N, steps)
            mask = counted.any(1)
        elif steps and counted.shape[:2] == target.shape[:2]:
            mask = counted if counted.shape == target.shape else counted.flatten(2).any(2)
        else:
            mask = counted.flatten(1).any(1) if counted.ndim > 1 else counted
        along = min(axis, 1)
        if mask.ndim <= along:
            continue
        mask, target = mask.movedim(along, 0), target.movedim(along, 0)
        mask = mask.reshape(*mask.shape, *[1] * (target.ndim - mask.ndim))
        first = target.gather(0, mask.byte().argmax(0, keepdim=True).expand(1, *target.shape[1:]))
        if bool(((target != first) & mask).any()):
            return True
    return False


def _asked(look: Look, samples: int, axes: Sequence[int]) -> SameFacts | None:
    problem, model = look.problem, look.model

    def outputs(asked: Problem) -> list[Tensor]:
        return _rows(outputs_again(asked, model, look.seed), samples)

    now = outputs(problem)
    axis = next((k for k in axes if _all_alike(now, k)), None)
    if axis is None:
        return None
    live = [(name, p) for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()]
    if sum(p.numel() for _, p in live) <= sum(t[0].numel() for t in now):  # a constant is all that is meant
        return None
    with put_back([p for _, p in live], look.copy_of):
        _move(live, look.seed)
        moved = outputs(problem)
        if not _all_alike(moved, axis):
            return None
        held = _rows(problem.inputs, samples, floats=False)
        draw = _drawer(look.seed)
        if axis:
            own = bool(held) and not _all_alike(outputs(_with_others(problem, held, draw)), axis)
            one = now[0].stride(axis) == 0  # which takes an expand at the very end
            read = "others that are the same" if own else "nothing, expanded" if one else "nothing"
            return SameFacts(samples=now[0].shape[axis], read=read, axis=axis)
        varied = [t for t in held if _differ(t)]
        if not held or not varied:
            return SameFacts(samples=samples, read="nothing that differs")
        part = outputs(_with_others(problem, varied, draw))
        if not _all_alike(part):
            return SameFacts(samples=samples, read="a part that is the same")
        if len(varied) < len(held) and not _all_alike(outputs(_with_others(problem, held, draw))):
            return SameFacts(samples=samples, read="others that are the same")
        together = any(not _near(a, b) for a, b in zip(moved, part, strict=True))
        return SameFacts(samples=samples, read="the batch as a whole" if together else "nothing")


def _rows(tree: Any, samples: int, floats: bool = True) -> list[Tensor]:
    """The tensors that have an entry for each sample along their first axis."""
    found = [t for t in tensors(tree) if t.ndim and not t.is_nested and t.layout is torch.strided]
    return [t for t in found if t.shape[0] == samples and t.numel() and (t.is_floating_point() or not floats)]


def _differ(tensor: Tensor) -> bool:
    return bool((tensor != tensor[:1]).any())


def _all_alike(outputs: Sequence[Tensor], axis: int = 0, share: float | None = None) -> bool:
    return bool(outputs) and all(_alike(t.movedim(axis, 0), share) for t in outputs)


def _alike(tensor: Tensor, share: float | None) -> bool:
    """Whether all rows are the first one, to within this share of its largest entry (rounding); finite ones."""
    first = tensor[:1].expand_as(tensor)
    return is_finite(tensor) and _near(tensor, first, share)


def _near(one: Tensor, other: Tensor, share: float | None = None) -> bool:
    share = ROUNDING * torch.finfo(one.dtype).eps if share is None else share
    return bool((one - other).abs().max() <= share * other.abs().max())


def _move(parameters: Sequence[tuple[str, nn.Parameter]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters:
        size = natural_norm(name, parameter) / max(1, parameter.numel()) ** 0.5
        parameter.data.add_(normal_like(parameter.data, generator) * size)


def _drawer(seed: int) -> Callable[[Tensor], Tensor]:
    """Other numbers of the same kind: normal ones of the same mean and deviation, or the same ones in another order."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            deviation = tensor.std()
            noise = normal_like(tensor.detach(), generator)
            return tensor.mean() + noise * deviation.where(deviation > 0.0, 1.0)
        order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
        return tensor.reshape(-1)[order].reshape(tensor.shape)

    return drawn


def _with_others(problem: Problem, those: Sequence[Tensor], draw: Callable[[Tensor], Tensor]) -> Problem:
    chosen = {id(t) for t in those}
    return dataclasses.replace(
        problem, inputs=rebuild(problem.inputs, lambda t: draw(t.detach()) if id(t) in chosen else t)
    )

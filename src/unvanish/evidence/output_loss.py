"""The loss as a function of the outputs alone, and searches for the lowest value it can take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unvanish.evidence.closed import Known, known
from unvanish.problem import Problem
from unvanish.trace.calls import Capture
from unvanish.trace.capture import loss_factor, same_loss
from unvanish.trace.ends import unstretched
from unvanish.trace.scaled import is_finite, normal_like
from unvanish.trace.structure import inner_loss, rebuild, tensors

Loss = Callable[[Sequence[Tensor]], Tensor]
ENOUGH = 1e-4  # of the first value: what is left below that makes no difference to any scale
BARELY = 0.98  # of the loss of the best constant: outputs that are no better may have been sought where it is flat
FINE = 1e-8  # of the first value: a step that wins less than that is the last one
WIDE = 100_000  # output entries above which the search stays in their own dtype instead of float64


@dataclass(frozen=True)
class OutputLoss:
    """The loss as a function of the outputs alone, and the outputs where it stands now."""

    at: Loss
    now: list[Tensor]

    @cached_property
    def known(self) -> Known | None:
        """The loss as one whose best outputs are known, if it is."""
        return known(self.at, self.now)

    def drawn(self, seed: int) -> list[Tensor]:
        """A random direction in the space of the outputs, N(0, 1); the last one is kept until ``forget``."""
        if seed not in self._drawn:
            generator = torch.Generator().manual_seed(seed)
            self._drawn.clear()
            self._drawn[seed] = [normal_like(t, generator) for t in self.now]
        return self._drawn[seed]

    @cached_property
    def from_now(self) -> tuple[float | None, list[Tensor] | None]:
        """The lowest loss that a search from the outputs as they are finds, and where."""
        return minimise(
            lambda z: self.at([a.to(t.dtype) for a, t in zip(z, self.now, strict=True)]),
            [searchable(t) for t in self.now],
        )

    @cached_property
    def _drawn(self) -> dict[int, list[Tensor]]:
        return {}

    def forget(self, known: bool = False) -> None:
        """Let go of the random direction; of what is ``known``, too, where nothing will ask for the best outputs."""
        self._drawn.clear()
        if known:
            vars(self).pop("known", None)

    def worth(self, outputs: Sequence[Tensor]) -> float:
        """The loss of these outputs (one row stands for all samples), computed in the type of those there are."""
        with torch.no_grad():
            return float(self.at([a.expand(t.shape).to(t.dtype) for a, t in zip(outputs, self.now, strict=True)]))


def loss_of_outputs(problem: Problem, capture: Capture) -> OutputLoss | str:
    """The loss without its model, or the reason why it cannot be had."""
    if capture.inside:
        return "the loss is computed inside the model by no loss function that is recognised"
    if not capture.own_loss:
        return _of_outputs(capture, _loss_of(problem, capture))
    if capture.loss_call is None:
        return "the loss is computed inside the model by no loss function that is recognised"
    if not same_loss(capture):
        return "the loss inside the model is more than its recognised loss call"
    return loss_call(capture)


def _loss_of(problem: Problem, capture: Capture) -> Callable[[Any], Tensor]:
    """The problem's loss; one that changes its targets in place is handed a copy of them each time."""
    kept = capture.batch
    if not any(kept[id(t)].changed for t in tensors(problem.targets) if id(t) in kept):
        return problem.loss

    def loss(outputs: Any) -> Tensor:
        targets = rebuild(problem.targets, lambda t: kept[id(t)].copy.clone() if id(t) in kept else t)
        return dataclasses.replace(problem, targets=targets).loss(outputs)

    return loss


def loss_call(capture: Capture) -> OutputLoss:
    """The recognised loss call as a function of its first argument, in the precision it ran in.

    Of one that was stretched to the shape of the targets, as a function of what was stretched.
    """
    assert capture.loss_call is not None
    func, args, kwargs, _ = capture.loss_call
    replay, factor = capture.replay, loss_factor(capture) or 1.0
    free = unstretched(args[0]) if args[0].layout is torch.strided else args[0]
    stretched = free.shape != args[0].shape

    def at(z: Sequence[Tensor]) -> Tensor:
        with replay():
            given = z[0].expand(args[0].shape) if stretched else z[0]
            found = func(given, *args[1:], **kwargs)
            return found if factor == 1.0 else found * factor

    return where_finite(at, [free])


def _of_outputs(capture: Capture, loss: Callable[[Any], Tensor]) -> OutputLoss | str:
    """A single number beside outputs of more is a penalty that the model has worked out; one of 0 or more stays so."""
    values, replay = capture.values, capture.replay
    loss_inside = inner_loss(values) if not isinstance(values, Tensor) else None
    now = [t for t in tensors(values) if t.is_floating_point() and t is not loss_inside]
    given = {id(t) for t in capture.given}
    now = [t for t in now if id(t) not in given] or now  # none that a weight moves: the layers run inside the loss
    if not now:
        return "the outputs hold no floating-point tensor"
    if any(t.is_nested for t in now):
        return "an output is a nested tensor, whose parts have sizes of their own"

    above = [t.numel() == 1 < max(each.numel() for each in now) and float(t) >= 0.0 for t in now]

    def at(z: Sequence[Tensor]) -> Tensor:
        free = [a.clamp(min=0.0) if kept else a for a, kept in zip(z, above, strict=True)]
        instead = {id(t): new for t, new in zip(now, free, strict=True)}
        with replay():
            return loss(rebuild(values, lambda t: instead.get(id(t), t)))

    return where_finite(at, now)


def where_finite(loss: Loss, now: list[Tensor]) -> OutputLoss:
    """The loss of the outputs that are finite: those that a mask has set to infinity stay where they are."""
    masks = [None if is_finite(t) else torch.isfinite(t) for t in now]
    if all(mask is None for mask in masks):
        return OutputLoss(loss, now)

    def at(z: Sequence[Tensor]) -> Tensor:
        kept = zip(z, now, masks, strict=True)
        return loss([a if mask is None else torch.where(mask, a, t.to(a.dtype)) for a, t, mask in kept])

    return OutputLoss(at, [t.nan_to_num(0.0, 0.0, 0.0) for t in now])


def searchable(output: Tensor) -> Tensor:
    narrow = output.dtype in (torch.float16, torch.bfloat16)
    return output.float() if narrow and output.numel() > WIDE else output if output.numel() > WIDE else output.double()


def lowest(
    output_loss: OutputLoss, value: float | None = None, constant: list[Tensor] | None = None
) -> tuple[float | None, list[Tensor] | None]:
    """The lowest loss of any outputs, and the nearest that are as good for all that counts.

    In closed form where that is known, else as found from the outputs as they are (or from a constant, if those barely
    help; or from random ones, if that is no better than the constant: its own search may have ended where the loss is
    flat, as at the far ends of a sigmoid).
    """
    if output_loss.known is not None:
        best = output_loss.known.free(output_loss.now)
        least = output_loss.worth(best)
        if least <= (output_loss.worth(output_loss.now) if value is None else value):
            return least, output_loss.known.nearest(output_loss.now)

    least, place = output_loss.from_now
    if constant is not None and value is not None and (least is None or least > 0.9 * value):

        def at(z: Sequence[Tensor]) -> Tensor:
            return output_loss.at([a.to(t.dtype) for a, t in zip(z, output_loss.now, strict=True)])

        starts = [c.expand(t.shape) for c, t in zip(constant, output_loss.now, strict=True)]
        found = [(least, place), minimise(at, starts)]
        known_so_far = [each for each, _ in found if each is not None]
        if not known_so_far or min(known_so_far) >= BARELY * output_loss.worth(constant):
            generator = torch.Generator().manual_seed(0)
            found.append(minimise(at, [searchable(normal_like(t, generator)) for t in output_loss.now]))
        least, place = min(found, key=lambda each: math.inf if each[0] is None else each[0])
    return least, place


def minimise(loss: Loss, start: Sequence[Tensor]) -> tuple[float | None, list[Tensor] | None]:
    """The lowest loss L-BFGS finds, and where. Stops once a ten-thousandth of the first value is left.

    A loss may refuse outputs (probabilities outside of [0, 1]) or be undefined there: the search then goes on from the
    best point so far with shorter steps.
    """
    place = [t.detach().as_subclass(Tensor) for t in start]
    with torch.no_grad():
        first = best = float(loss(place))
    if not math.isfinite(first):
        return None, None
    unit = _unit(loss, place)
    for shorter in (1.0, 0.1, 0.01, 0.001):
        best, place, left = _search(loss, place, best, unit * shorter, abs(first) or 1.0)
        if not left:
            break
    return best, place


def _unit(loss: Loss, place: Sequence[Tensor]) -> float:
    """Units in which L-BFGS's first step, of length 1/|g|_1, goes as far as the loss asks.

    As far as the curvature along the gradient says; where that is not to be had, as far as the outputs are large.
    """
    entries = sum(t.numel() for t in place)
    size = math.sqrt(sum(float(t.double().pow(2).sum()) for t in place) / max(1, entries))
    usual = entries * max(1.0, size)
    try:
        with torch.enable_grad():
            z = [t.clone().requires_grad_(True) for t in place]
            first = torch.autograd.grad(loss(z), z, create_graph=True, allow_unused=True)
            along = [(g, t) for g, t in zip(first, z, strict=True) if g is not None and g.requires_grad]
            bent = torch.autograd.grad([g for g, _ in along], [t for _, t in along], [g.detach() for g, _ in along])
    except Exception:  # no second derivative, or not defined here
        return usual
    length = sum(float(g.detach().double().abs().sum()) for g, _ in along)
    square = sum(float(g.detach().double().pow(2).sum()) for g, _ in along)
    curvature = sum(float((g.detach() * h).double().sum()) for (g, _), h in zip(along, bent, strict=True))
    wanted = length * square / curvature if curvature > 0.0 else usual
    return min(max(wanted, usual), 1e6 * usual) if math.isfinite(wanted) else usual


def _search(
    loss: Loss, origin: list[Tensor], best: float, unit: float, scale: float
) -> tuple[float, list[Tensor], bool]:
    """One search from ``origin``: the best loss, its place, and whether the search left the loss's domain."""
    # The search flattens its variables and their gradients, which only contiguous tensors allow.
    move = [torch.zeros_like(t, requires_grad=True, memory_format=torch.contiguous_format) for t in origin]
    place, left = origin, False
    search = torch.optim.LBFGS(
        move, lr=1.0, max_iter=20, max_eval=40, tolerance_change=FINE, history_size=8, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        nonlocal best, place, left
        search.zero_grad()
        with torch.enable_grad():
            here = [t + unit * m for t, m in zip(origin, move, strict=True)]
            try:
                value = loss(here) / scale
            except Exception as error:  # whatever the loss raises there, it is not defined there
                left = True
                raise _Enough from error
            if value.requires_grad:  # not backward(): a loss with weights of its own would find gradients in them
                for variable, gradient in zip(move, torch.autograd.grad(value, move, allow_unused=True), strict=True):
                    variable.grad = None if gradient is None else gradient.contiguous()
        reached = float(value.detach())
        if math.isnan(reached):
            left = True
            raise _Enough
        if reached * scale < best:
            best, place = reached * scale, [t.detach() for t in here]
        if 0.0 <= reached < ENOUGH:
            raise _Enough
        return value.detach()

    with suppress(_Enough):
        search.step(closure)  # type: ignore[arg-type]
    return best, place, left


class _Enough(Exception):  # noqa: N818 - it ends a search that has found what it looked for
    pass

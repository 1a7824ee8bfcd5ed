"""What the loss alone says, with the outputs as free variables: no pass through the model is needed.

How much is there to gain? ``best_constant`` is the loss of the best constant output, ``best_free`` that of the best
output altogether. L_ref = max(L, L_const) − floor is the scale that "converged" needs; nothing is called so without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unvanish.capture import Capture
from unvanish.problem import Problem
from unvanish.records import LossFacts
from unvanish.structure import inner_loss, rebuild, tensors

Loss = Callable[[Sequence[Tensor]], Tensor]
FLAT = 1e-6  # a loss that moves by less than this share of itself does not react
PLATEAU = 0.98
ENOUGH = 1e-4  # of the first value: what is left below that makes no difference to any scale
WIDE = 100_000  # output entries above which the search stays in their own dtype instead of float64


@dataclass(frozen=True)
class FreeLoss:
    """The loss as a function of the outputs alone, and the outputs where it stands now."""

    at: Loss
    now: list[Tensor]


def free_loss(problem: Problem, capture: Capture) -> FreeLoss | str:
    """The loss without its model, or the reason why it cannot be had."""
    if problem.loss_fn is not None:
        return _of_outputs(capture.values, lambda outputs: problem.loss(outputs))
    if capture.loss_call is None:
        return "the loss is computed inside the model by no loss function that is recognised"
    func, args, kwargs, _ = capture.loss_call
    again = float(func(*args, **kwargs))
    if not math.isclose(again, capture.loss, rel_tol=1e-5):
        return "the loss inside the model is more than its recognised loss call"
    return FreeLoss(lambda z: func(z[0], *args[1:], **kwargs), [args[0]])


def _of_outputs(values: Any, loss: Callable[[Any], Tensor]) -> FreeLoss | str:
    own = inner_loss(values) if not isinstance(values, Tensor) else None
    now = [t for t in tensors(values) if t.is_floating_point() and t is not own]
    if not now:
        return "the outputs hold no floating-point tensor"
    free = {id(t) for t in now}

    def at(z: Sequence[Tensor]) -> Tensor:
        left = iter(z)
        return loss(rebuild(values, lambda t: next(left) if id(t) in free else t))

    return FreeLoss(at, now)


def loss_facts(problem: Problem, capture: Capture, seed: int) -> LossFacts:
    """The facts about the loss of this batch. What cannot be had is None, with the reason in ``why``."""
    value = capture.loss
    free = free_loss(problem, capture)
    if isinstance(free, str):
        return LossFacts(value=value, why=free)
    try:
        residual, curvature = _first_and_second(free, seed)
        moves = _moves(free, value, seed)
        best_constant, start = _best_constant(free)
        best_free = _best_free(free, value, start)
    except Exception as error:  # a user's loss may refuse detached outputs; what it says is the reason
        return LossFacts(value=value, why=f"loss_fn raised {type(error).__name__} on free outputs: {error}")
    reacts = max((abs(m) for m in moves), default=0.0) > FLAT * max(abs(value), best_constant or 0.0)
    minimum = residual == 0.0 and min(moves) >= 0.0 < max(moves)
    minimum = minimum and (best_constant is None or best_constant >= value)
    return _judge(value, residual, curvature, best_constant, best_free, reacts, minimum)


def _judge(
    value: float,
    residual: float,
    curvature: float | None,
    best_constant: float | None,
    best_free: float | None,
    reacts: bool,
    minimum: bool,
) -> LossFacts:
    facts = LossFacts(
        value=value,
        residual_norm=residual,
        best_constant=best_constant,
        best_free=best_free if best_free != -math.inf else None,
        curvature=curvature,
        reacts=reacts,
    )
    floor = best_free if best_free is not None else 0.0 if value > 0.0 else None
    if floor == -math.inf or (floor is not None and best_constant is not None and best_constant < floor - 1e-6 * value):
        floor = None
    if minimum:
        reference = None if floor is None else max(value, best_constant or value) - floor
        return facts.replace(relative_gap=0.0, reference=reference)
    if not reacts and best_free is None:
        return facts.replace(why="the loss is the same for every output that was tried, so its gap has no scale")
    if floor is None:
        return facts.replace(why="the loss has no lower bound that could be found, so there is no scale for its gap")
    if best_constant is None:
        reference = value - floor
        why = "no best constant output could be found (one sample?), so the loss now is the only reference"
    else:
        reference, why = max(value, best_constant) - floor, ""
    if not reference > 0.0:
        return facts.replace(why="the loss has nothing to gain on this batch from any output, so there is no scale")
    at_constant = best_constant is not None and value - floor >= PLATEAU * (best_constant - floor)
    return facts.replace(
        reference=reference, relative_gap=(value - floor) / reference, at_constant=at_constant, why=why
    )


def _first_and_second(free: FreeLoss, seed: int) -> tuple[float, float | None]:
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        z = [t.detach().clone().requires_grad_(True) for t in free.now]
        loss = free.at(z)
        if not loss.requires_grad:
            return 0.0, None
        first = torch.autograd.grad(loss, z, create_graph=True, allow_unused=True)
        norm = math.hypot(*(float(g.detach().double().norm()) for g in first if g is not None))
        draw = [torch.randn(t.shape, generator=generator).to(t) for t in z]
        along = sum((g * v).sum() for g, v in zip(first, draw, strict=True) if g is not None)
        try:
            second = torch.autograd.grad(along, z, allow_unused=True)  # type: ignore[arg-type]
        except RuntimeError:  # an operation without a second derivative
            return norm, None
    bend = sum(float((h * v).double().sum()) for h, v in zip(second, draw, strict=True) if h is not None)
    return norm, bend / max(sum(float((v * v).double().sum()) for v in draw), 1e-300)


def _moves(free: FreeLoss, value: float, seed: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed + 1)

    def noisy(t: Tensor) -> Tensor:
        size = t.pow(2).mean().sqrt() if bool(t.any()) else torch.ones((), dtype=t.dtype, device=t.device)
        return t + torch.randn(t.shape, generator=generator).to(t) * size

    with torch.no_grad():
        tried = ([t * 0.5 for t in free.now], [t * 1.5 for t in free.now], [noisy(t) for t in free.now])
        moves = [float(free.at(z)) - value for z in tried]
    return [m for m in moves if not math.isnan(m)] or [0.0]


def _best_constant(free: FreeLoss) -> tuple[float | None, list[Tensor] | None]:
    """The lowest loss of one output for all samples, found from the best of four starts."""
    rows = [t.shape[0] if t.ndim else 1 for t in free.now]
    if min(rows) < 2:
        return None, None
    means = [_searchable(t).mean(0, keepdim=True) for t in free.now]
    starts = [means, *([torch.full_like(m, c) for m in means] for c in (0.0, 0.5, 1.0))]

    def spread(z: Sequence[Tensor]) -> Tensor:
        return free.at([a.expand(t.shape).to(t.dtype) for a, t in zip(z, free.now, strict=True)])

    with torch.no_grad():
        values = [float(spread(s)) for s in starts]
    order = sorted(range(len(starts)), key=lambda i: values[i] if not math.isnan(values[i]) else math.inf)
    found, at = _minimise(spread, starts[order[0]])
    return found, at


def _searchable(output: Tensor) -> Tensor:
    narrow = output.dtype in (torch.float16, torch.bfloat16)
    return output.float() if narrow and output.numel() > WIDE else output if output.numel() > WIDE else output.double()


def _best_free(free: FreeLoss, value: float, constant: list[Tensor] | None) -> float | None:
    """The lowest loss of any output; -inf where it has no bound, None where nothing was found below ``value``."""
    found, _ = lowest(free, value, constant)
    if found is None or found >= value - 1e-9 * abs(value):
        return None
    return found if found >= -10.0 * abs(value) - 1e-12 else -math.inf


def lowest(
    free: FreeLoss, value: float | None = None, constant: list[Tensor] | None = None
) -> tuple[float | None, list[Tensor] | None]:
    """The lowest loss found from the outputs as they are (or from a constant, if those barely help), and where."""

    def at(z: Sequence[Tensor]) -> Tensor:
        return free.at([a.to(t.dtype) for a, t in zip(z, free.now, strict=True)])

    found, place = _minimise(at, [_searchable(t) for t in free.now])
    if constant is not None and value is not None and (found is None or found > 0.9 * value):
        other, there = _minimise(at, [c.expand(t.shape) for c, t in zip(constant, free.now, strict=True)])
        if found is None or (other is not None and other < found):
            found, place = other, there
    return found, place


def _minimise(loss: Loss, start: Sequence[Tensor]) -> tuple[float | None, list[Tensor] | None]:
    """The lowest loss L-BFGS finds, and where. Stops once a ten-thousandth of the first value is left."""
    origin = [t.detach().as_subclass(Tensor) for t in start]
    entries = sum(t.numel() for t in origin)
    size = math.sqrt(sum(float(t.double().pow(2).sum()) for t in origin) / max(1, entries))
    # L-BFGS starts with a step of length 1/|g|_1: in these units that step has the size of the outputs themselves.
    unit = entries * max(1.0, size)
    # The search flattens its variables and their gradients, which only contiguous tensors allow.
    move = [torch.zeros_like(t, requires_grad=True, memory_format=torch.contiguous_format) for t in origin]

    def here() -> list[Tensor]:
        return [t + unit * m for t, m in zip(origin, move, strict=True)]

    with torch.no_grad():
        first = float(loss(here()))
    if not math.isfinite(first):
        return None, None
    scale = abs(first) or 1.0
    search = torch.optim.LBFGS(move, lr=1.0, max_iter=20, max_eval=40, history_size=8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            value = loss(here()) / scale
            if value.requires_grad:  # not backward(): a loss with weights of its own would find gradients in them
                for variable, gradient in zip(move, torch.autograd.grad(value, move, allow_unused=True), strict=True):
                    variable.grad = None if gradient is None else gradient.contiguous()
        if 0.0 <= float(value.detach()) < ENOUGH:
            raise _Enough
        return value.detach()

    with suppress(_Enough):
        search.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        found = float(loss(here()))
        return (found, [t.detach() for t in here()]) if math.isfinite(found) else (None, None)


class _Enough(Exception):  # noqa: N818 - it ends a search that has found what it looked for
    pass

"""What the loss alone says, with the outputs as free variables: no pass through the model is needed.

How much is there to gain? ``best_constant`` is the loss of the best constant output, ``best_free`` that of the best
output altogether. L_ref = max(L, L_const) − floor is the scale that "converged" needs; nothing is called so without.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from unvanish.decide.limits import CONVERGED, FLAT, PLATEAU
from unvanish.evidence.last import Last
from unvanish.evidence.output_loss import ENOUGH, Loss, OutputLoss, lowest, minimise, searchable
from unvanish.records import LossFacts

CLOSER = (0.1, 0.01, 1e-3, 1e-4, 1e-5)  # shares of their spread to which outputs are drawn together


def loss_facts(output_loss: OutputLoss | str, last: Last | None, value: float, seed: int) -> LossFacts:
    """The facts about the loss of this batch, ``value`` now. What cannot be had is None, with the reason in ``why``.

    ``output_loss``: the loss without its model, or why there is none. ``last``: the call that makes the outputs.
    """
    if isinstance(output_loss, str):
        return LossFacts(value=value, why=output_loss)
    try:
        residual, curvature = first_and_second(output_loss, seed)
        moves = _moves(output_loss, value, seed)
        best_constant, best_free = _best(output_loss, last, value)
    except Exception as error:  # a user's loss may refuse detached outputs; what it says is the reason
        return LossFacts(value=value, why=f"loss_fn raised {type(error).__name__} on free outputs: {error}")
    # Targets far off make every move of the outputs' own size look like none; a better output that was found does not.
    won = value - best_free if best_free is not None else 0.0
    reacts = max(won, *(abs(m) for m in moves)) > FLAT * max(abs(value), best_constant or 0.0)
    # A residual of zero under a loss near the end of its type's range has been lost, not used up.
    lost = 0.0 < abs(value) < _least(output_loss)
    spent = residual == 0.0 or value == best_free or _rounded_off(output_loss, value, residual, best_constant)
    minimum = spent and not lost and (min(moves) >= 0.0 < max(moves) or _satisfied(value, best_constant))
    minimum = minimum and (best_constant is None or best_constant >= value) and _has_slopes(output_loss, seed)
    return _judge(value, residual, curvature, best_constant, best_free, reacts or minimum, minimum)


def _rounded_off(output_loss: OutputLoss, value: float, residual: float, best_constant: float | None) -> bool:
    """Whether a loss of exactly 0 has a derivative left that wins nothing, however far the outputs grow.

    A cross-entropy of float32 is 0 from logits on that are 17 apart, and its derivative is not before 88.
    """
    if value != 0.0 or best_constant is None:
        return False
    return residual * math.hypot(*map(_length, output_loss.now)) < FLAT * best_constant


def _satisfied(value: float, best_constant: float | None) -> bool:
    """Whether a loss of exactly 0 is one that every constant output would miss: margins kept by far, as of triplets."""
    return value == 0.0 and best_constant is not None and best_constant > 0.0


def _best(output_loss: OutputLoss, last: Last | None, value: float) -> tuple[float | None, float | None]:
    """The loss of the best constant output and of the best output altogether.

    A positive loss that turns negative or is undefined among free outputs was written for what the last call gives (log
    of a probability): then the search runs over what goes into that call. One of exactly 0 has then reached the best,
    where that search finds nothing below it.
    """
    best_constant, start = best_constant_of(output_loss)
    best_free = _best_free(output_loss, value, start)
    if last is None or not last.kind or not value >= 0.0:
        return best_constant, best_free
    if value == 0.0:
        below = any(found is not None and found < 0.0 for found in (best_constant, best_free))
        there = below and last.reach is not None and last.reach >= 0.0
        return (best_constant_of(last.through)[0], value) if there else (best_constant, best_free)
    meant_for_it = best_free is not None and best_free < 0.0
    through = last.reach if meant_for_it or best_free is None or best_free > 1e-3 * value else None
    if through is None or not (meant_for_it or best_free is None or through < best_free):
        return best_constant, best_free
    return best_constant_of(last.through)[0], through if through < value else None


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
    if floor is not None and best_constant is not None and 0.0 < floor - best_constant <= ENOUGH * abs(value):
        floor = best_constant  # the search of all outputs stopped that close to it
    below = floor is not None and best_constant is not None and best_constant < floor - 1e-6 * abs(value)
    if floor == -math.inf or below:
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
        return facts.replace(why="no output lowers the loss of this batch, so there is no scale")
    # Where a constant is the answer itself, as 0 is for the residual of an equation, no better than it says nothing:
    # what it misses of the best output is then less than what counts as left to gain.
    answer = best_constant is not None and best_constant - floor < CONVERGED * (value - floor)
    at_constant = best_constant is not None and not answer and value - floor >= PLATEAU * (best_constant - floor)
    return facts.replace(
        reference=reference, relative_gap=(value - floor) / reference, at_constant=at_constant, why=why
    )


def _least(output_loss: OutputLoss) -> float:
    """The smallest loss whose gradient by one output of many still is a normal number."""
    return max(torch.finfo(t.dtype).smallest_normal * max(1, t.numel()) for t in output_loss.now)


def first_and_second(output_loss: OutputLoss, seed: int) -> tuple[float, float | None]:
    """The norm of the loss's derivative with respect to the outputs, and its curvature in a random direction."""
    with torch.enable_grad():
        z = [t.detach().clone().requires_grad_(True) for t in output_loss.now]
        loss = output_loss.at(z)
        if not loss.requires_grad:
            return 0.0, None
        first = torch.autograd.grad(loss, z, create_graph=True, allow_unused=True)
        norm = math.hypot(*(_length(g.detach()) for g in first if g is not None))
        if all(g is None for g in first):  # a leaf made of the outputs' numbers alone: nothing leads back to them
            return 0.0, None
        draw = output_loss.drawn(seed)
        bent = [(g, v) for g, v in zip(first, draw, strict=True) if g is not None and g.requires_grad]
        if not bent:  # a slope that is the same everywhere
            return norm, None
        try:
            second = torch.autograd.grad([g for g, _ in bent], z, [v for _, v in bent], allow_unused=True)
        except RuntimeError:  # an operation without a second derivative
            return norm, None
    bend = sum(float((h * v).sum(dtype=torch.float64)) for h, v in zip(second, draw, strict=True) if h is not None)
    curvature = bend / max(math.fsum(_length(v) ** 2 for v in draw), 1e-300)
    return norm, curvature if math.isfinite(curvature) else None


def _length(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _moves(output_loss: OutputLoss, value: float, seed: int) -> list[float]:
    with torch.no_grad():
        moves = [_value(output_loss.at, z) - value for z in _others(output_loss, seed)]
    return [m for m in moves if not math.isnan(m)] or [0.0]


def _has_slopes(output_loss: OutputLoss, seed: int) -> bool:
    """Whether the loss has a derivative at other outputs: one that moves in steps has none, and 0 is no minimum of it.

    A share of wrong answers, rounded outputs. Where it refuses all others (probabilities alone), nothing speaks so.
    """
    now, found = output_loss.now, list[float]()
    closer = ([t.mean(0, keepdim=True).lerp(t, share) for t in now] for share in CLOSER)  # at last margins are missed
    for others in (*_others(output_loss, seed), *closer):
        with suppress(Exception):
            found.append(first_and_second(dataclasses.replace(output_loss, now=others), seed)[0])
        if found and found[-1] != 0.0:
            return True
    return not found


def _others(output_loss: OutputLoss, seed: int) -> tuple[list[Tensor], ...]:
    """Half the outputs, one and a half times, and with noise of their own size."""
    now = output_loss.now
    return [t * 0.5 for t in now], [t * 1.5 for t in now], list(map(_noisy, now, output_loss.drawn(seed)))


def _noisy(output: Tensor, noise: Tensor) -> Tensor:
    size = output.pow(2).mean().sqrt()
    return output + noise * size.where(size > 0.0, 1.0)


def _value(loss: Loss, outputs: Sequence[Tensor]) -> float:
    """The loss there; nan where it refuses these outputs."""
    try:
        return float(loss(outputs))
    except Exception:  # probabilities outside of [0, 1], say: this loss has no value there
        return math.nan


def best_constant_of(output_loss: OutputLoss) -> tuple[float | None, list[Tensor] | None]:
    """The lowest loss of one output for all samples: in closed form, or found from the best of four starts."""
    most = max(t.numel() for t in output_loss.now)
    rows = [t.shape[0] if t.ndim else 1 for t in output_loss.now if t.numel() > 1 or most == 1]  # no single penalty
    if min(rows) < 2:
        return None, None
    if output_loss.known is not None:
        best = output_loss.known.constant(output_loss.now)
        found = output_loss.worth(best)
        if math.isfinite(found):
            return found, best
    means = [searchable(t).mean(0, keepdim=True) for t in output_loss.now]
    starts = [means, *([torch.full_like(m, c) for m in means] for c in (0.0, 0.5, 1.0))]

    def spread(z: Sequence[Tensor]) -> Tensor:
        return output_loss.at([a.expand(t.shape).to(t.dtype) for a, t in zip(z, output_loss.now, strict=True)])

    with torch.no_grad():
        values = [_value(spread, s) for s in starts]
    order = sorted(range(len(starts)), key=lambda i: values[i] if not math.isnan(values[i]) else math.inf)
    found, at = minimise(spread, starts[order[0]])
    return found, at


def _best_free(output_loss: OutputLoss, value: float, constant: list[Tensor] | None) -> float | None:
    """The lowest loss of any output; -inf where it has no bound, None where nothing was found below ``value``."""
    found, _ = lowest(output_loss, value, constant)
    if found is None or found >= value - 1e-9 * abs(value):
        return None
    return found if output_loss.known is not None or found >= -10.0 * abs(value) - 1e-12 else -math.inf

"""What a loss computed inside the model says about the last tensors before it, found by putting others in their place.

The model runs again, and where one of its last calls with weights has a result, another tensor goes on instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unvanish.decide.limits import FLAT
from unvanish.evidence.loss import first_and_second, loss_facts
from unvanish.evidence.output_loss import OutputLoss
from unvanish.evidence.pairs import may_lack_pairs, pair_facts
from unvanish.flow.look import Look
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.records import LossFacts, PairFacts
from unvanish.trace.calls import Capture
from unvanish.trace.capture import autocast
from unvanish.trace.recorder import Recorder
from unvanish.trace.scaled import normal_like

SHIFTS = (-2.0, -1.0, -0.3, 0.3, 1.0, 2.0)
NOISES = (0.1, 0.3, 1.0)


def loss_of_ends(look: Look) -> OutputLoss | None:
    """The loss as a function of the last tensors before it; None where it does not come out the same again."""
    problem, model, seed, ends = look.problem, look.model, look.seed, look.capture.inside
    try:
        _, now = _run(problem, model, dict.fromkeys(ends), seed)
        found = OutputLoss(lambda z: _run(problem, model, dict(zip(ends, z, strict=True)), seed)[0], now)
        again = float(found.at(now).detach())
    except Exception:  # what the model does with other numbers is its own affair: nothing more is known
        return None
    return found if math.isclose(again, look.capture.loss, rel_tol=1e-5, abs_tol=1e-30) else None


def inside_facts(look: Look, why: str) -> tuple[LossFacts, PairFacts | None]:
    """What can be had without a scale: the loss's derivative by the last tensors, and whether it is at a minimum.

    A minimum is claimed only of a loss that is exactly zero and rises wherever the tensors were moved: a satisfied
    hinge. A ReLU that is off would let some move lower the loss. Where shapes were seen to meet each with each, it is
    asked, too, whether any output has a target of its own; the scale that this takes is then known.
    """
    value, seed = look.capture.loss, look.seed
    facts = LossFacts(value=value, why=why)
    output_loss = loss_of_ends(look)
    if output_loss is None:
        return facts, None
    if look.capture.compared is not None and may_lack_pairs(look, output_loss):
        measured = loss_facts(output_loss, None, value, seed)
        paired = pair_facts(look, output_loss, measured)
        if paired is not None:
            return measured, paired
    return _at_a_minimum(output_loss, facts, seed), None


def _at_a_minimum(output_loss: OutputLoss, facts: LossFacts, seed: int) -> LossFacts:
    value = facts.value
    try:
        residual, curvature = first_and_second(output_loss, seed)
        moves = _moves(output_loss, value, seed) if residual == 0.0 else []
    except Exception:  # what the model does with other numbers is its own affair: nothing more is known
        return facts
    facts = facts.replace(residual_norm=residual, curvature=curvature, reacts=residual > 0.0 or None)
    if not moves:
        return facts
    if value == 0.0 and min(moves) >= 0.0 < max(moves):
        return facts.replace(relative_gap=0.0, reacts=True, why="")
    return facts.replace(reacts=max(map(abs, moves)) > FLAT * abs(value))


def _moves(output_loss: OutputLoss, value: float, seed: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed + 1)
    sizes = [float(t.double().pow(2).mean().sqrt()) or 1.0 for t in output_loss.now]
    tried = [[t + c * s for t, s in zip(output_loss.now, sizes, strict=True)] for c in SHIFTS]
    tried += [
        [t + normal_like(t, generator) * (c * s) for t, s in zip(output_loss.now, sizes, strict=True)] for c in NOISES
    ]
    return [float(output_loss.at(z).detach()) - value for z in tried]


class _Instead(TorchFunctionMode):
    """Hands on other results in place of those of some calls; entered inside a recorder, which counts the calls."""

    def __init__(self, recorder: Recorder, instead: Mapping[int, Tensor | None]) -> None:
        super().__init__()
        self.recorder, self.instead = recorder, instead
        self.seen: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        capture = self.recorder.capture
        before = len(capture.calls)
        out = func(*args, **(kwargs or {}))
        index = len(capture.calls) - 1
        if index < before or index not in self.instead or not isinstance(out, Tensor):
            return out
        with torch._C.DisableTorchFunction():
            if capture.owner.get(out.grad_fn) != index:
                return out
            self.seen[index] = out.detach().clone()
            other = self.instead[index]
            if other is None:
                return out
            if not other.requires_grad:  # what is made of it would be no calls, and those after it be counted wrong
                other = other.detach().requires_grad_(True)
            handed = other.to(out.dtype) * 1.0  # in-place calls may follow, which a leaf does not allow
            if handed.grad_fn is not None:
                capture.owner[handed.grad_fn] = index
            return handed


def _run(
    problem: Problem, model: nn.Module, instead: Mapping[int, Tensor | None], seed: int
) -> tuple[Tensor, list[Tensor]]:
    """The loss with these results instead (None: as they are), and what the results were."""
    recorder = Recorder(Capture(model))
    mode = _Instead(recorder, instead)
    with torch.enable_grad(), seeded(seed), autocast(problem, model), recorder.watching_modules(), recorder, mode:
        found = problem.loss(problem.outputs(model))
    recorder.capture.release()
    if len(mode.seen) < len(instead):
        raise RuntimeError("a call that was to be replaced did not run")
    free = any(t is not None and t.requires_grad for t in instead.values())
    return found if free else found.detach(), [mode.seen[index] for index in instead]

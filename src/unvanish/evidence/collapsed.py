"""Outputs that are nearly the same for all samples, under a loss that any constant output satisfies.

A loss that only compares the network's outputs with one another, as those of two views of each sample, is at its lowest
where all outputs are one constant, whichever that is. Whether it is such a loss is asked of the loss alone: random
constants are all worth the same, random rows cost more, and neither the outputs nor what a search finds is worth less.
A contrastive loss, a variance term, a target or a cut-off side with outputs of its own fails one of these. A loss that
reads targets may ask for pairs that are alike on this batch and for others on the next: it is not asked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unvanish.decide.limits import ANY_CONSTANT, CONVERGED, UNTOLD
from unvanish.evidence.moving import or_none, outputs_again, put_back
from unvanish.evidence.output_loss import OutputLoss, minimise, searchable
from unvanish.evidence.same import moved_by_nature
from unvanish.flow.look import Look
from unvanish.records import SameFacts
from unvanish.trace.scaled import normal_like
from unvanish.trace.structure import rebuild, tensors

FEWEST = 4  # samples: two or three may well be alike
ROUNDED = 1e-6  # of the largest of these losses: about eight times the rounding of float32
CONSTANTS = 3


def collapsed_facts(look: Look, output_loss: OutputLoss | str, value: float) -> SameFacts | None:
    """What is known of such outputs; None where samples are apart, or something in the loss keeps them so."""
    samples = look.problem.batch_size
    if isinstance(output_loss, str) or samples < FEWEST or output_loss.known is not None:
        return None
    if any(t.ndim < 2 or t.shape[0] % samples or t.is_complex() for t in output_loss.now):
        return None
    return or_none(lambda: _asked(look, output_loss, value))  # a loss may refuse other outputs, or a pass other weights


def _asked(look: Look, output_loss: OutputLoss, value: float) -> SameFacts | None:
    now, generator = output_loss.now, torch.Generator().manual_seed(look.seed)
    constants = [output_loss.worth(_constant(now, generator)) for _ in range(CONSTANTS)]
    rows = [drawn * _rms(t) for drawn, t in zip(output_loss.drawn(look.seed), now, strict=True)]
    least, most, random = min(constants), max(constants), output_loss.worth(rows)
    rounded = ROUNDED * max(abs(least), abs(value), abs(random))
    if not most - least <= rounded or not least - rounded <= value < least + CONVERGED * (random - least) < math.inf:
        return None
    by_length = abs(output_loss.worth([t * _lengths(t, generator) for t in now]) - value) > rounded
    seen = _as_they_are if by_length else _unit
    apart = max(_variance(seen(t)) for t in now)  # against the same inputs: those may be alike, or far from zero
    apart /= max(_variance(seen(t)) for t in _at_other_weights(look, now))
    if not apart < UNTOLD or _reads_targets(look):
        return None

    def at(z: Sequence[Tensor]) -> Tensor:
        return output_loss.at([a.to(t.dtype) for a, t in zip(z, now, strict=True)])

    found = [minimise(at, list(map(searchable, start)))[0] for start in (now, rows)]
    if any(each is None or each < least - rounded for each in found):
        return None
    return SameFacts(
        samples=look.problem.batch_size, read=ANY_CONSTANT, apart=max(apart, torch.finfo(torch.float64).tiny)
    )


def _at_other_weights(look: Look, now: Sequence[Tensor]) -> list[Tensor]:
    """The outputs once all trainable weights are moved by the size of an ordinary initialisation."""
    live = [(name, p) for name, p in look.model.named_parameters() if p.requires_grad and p.is_floating_point()]
    with put_back([p for _, p in live]), torch.no_grad():
        moved_by_nature(live, look.seed)
        made = [t for t in tensors(outputs_again(look.problem, look.model, look.seed)) if t.is_floating_point()]
    return [t for t in made if t.shape in {each.shape for each in now}]


def _reads_targets(look: Look) -> bool:
    """Whether the loss is another one once half of the targets are others."""

    def other(target: Tensor) -> Tensor:
        half = torch.zeros_like(target, dtype=torch.bool)
        (half[: (len(half) + 1) // 2] if half.ndim else half).fill_(True)
        changed = target + 1.0 if target.is_floating_point() else (target == 0).to(target.dtype)
        return torch.where(half, changed, target)

    problem, capture = look.problem, look.capture
    with capture.replay():
        moved = dataclasses.replace(problem, targets=rebuild(problem.targets, other))
        return float(moved.loss(capture.values)) != float(problem.loss(capture.values))


def _variance(output: Tensor) -> float:
    """The mean square by which rows differ from their mean."""
    rows = output.detach().double().flatten(1)
    return float((rows - rows.mean(0)).square().sum(1).mean())


def _as_they_are(output: Tensor) -> Tensor:
    return output


def _unit(output: Tensor) -> Tensor:
    return torch.nn.functional.normalize(output.detach().double().flatten(1), dim=1)


def _lengths(output: Tensor, generator: torch.Generator) -> Tensor:
    """A positive factor for each row."""
    drawn = 0.5 + torch.rand(len(output), generator=generator, dtype=torch.float32, device="cpu").to(output)
    return drawn.reshape(-1, *[1] * (output.ndim - 1))


def _constant(outputs: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """One row for all samples, as large as the outputs: the same one for all outputs of one shape."""
    drawn = dict[torch.Size, Tensor]()
    for t in outputs:
        if t.shape[1:] not in drawn:
            drawn[t.shape[1:]] = normal_like(t[:1].detach(), generator) * _rms(t)
    return [drawn[t.shape[1:]] for t in outputs]


def _rms(output: Tensor) -> Tensor:
    return output.detach().pow(2).mean().sqrt()

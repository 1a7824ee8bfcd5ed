"""Does the optimizer walk a network back that starts with a loss absurdly above that of the best constant output?

Weights that are too large at the start multiply the signal from layer to layer. Whether the optimizer makes good for
them cannot be read off the first step: of networks that grew the signal alike, some were at the best constant's loss
within tens of steps and went on to fit, others never came near it. So the steps are really taken, and taken back.
"""

from __future__ import annotations

import math

import torch

from unvanish.decide.limits import FORWARD_GROWTH, FORWARD_LOSS
from unvanish.evidence.moving import loss_again, or_nan
from unvanish.evidence.step import stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers
from unvanish.records import Flow, LossFacts, StepFacts
from unvanish.rules.conditions import forward_growth_of, out_of_proportion

TRIED = (30, 60, 100, 200, 400, 800)
HALVED = 0.5
"""Share of the loss at the last look that must be left at most for more steps to be taken: at a slower pace the decades
that are left to go take hundreds of steps more."""
OFF = 2.0  # times the loss of the best constant output: most of the loss is then what the start is off by
WORK = 1e10  # parameters times samples times steps from which on no more are taken


def with_regained(look: Look, optimizer: Optimizers, flow: Flow, facts: StepFacts) -> StepFacts:
    """The facts with the loss of the batch after such steps, where forward growth or a raised loss asks for them.

    The first number of steps is the last one tried after which the loss is below that of the best constant output, is
    exactly zero, or has not halved since the look before; at the first it need
    only lie below the highest loss seen before.
    """
    loss = flow.loss
    if loss is None or loss.best_constant is None or not (_raised(facts, loss) or _grown(flow, loss)):
        return facts
    problem, model, constant = look.problem, look.model, loss.best_constant
    planned = problem.steps or max(TRIED)
    work = problem.batch_size * sum(p.numel() for p in model.parameters())
    tried = [n for n in TRIED if n <= planned and (n == TRIED[0] or n * work < WORK)] or [planned]
    taken, seen, top = 0, {0: facts.loss}, max(facts.loss, facts.walked or -math.inf)

    def measured() -> bool:
        nonlocal taken
        taken += 1
        if taken not in tried:
            return False
        enough = top if taken == tried[0] else HALVED * seen[max(seen)]
        with torch.no_grad():
            seen[taken] = or_nan(lambda: loss_again(problem, model, look.seed))
        return not constant < seen[taken] <= enough

    with stepped(problem, model, optimizer, 1.0, tried[-1], look.seed, measured) as end:
        pass
    last = max(seen)
    value = seen[last] if last else end
    return facts.replace(regained=value if math.isfinite(value) else math.inf, regained_after=last or max(1, taken))


def _raised(facts: StepFacts, loss: LossFacts) -> bool:
    """Whether a few real steps raise a loss most of which is what the start is off by."""
    return facts.walked is not None and not facts.walked <= facts.loss and out_of_proportion(loss, OFF)


def _grown(flow: Flow, loss: LossFacts) -> bool:
    grown = forward_growth_of(flow)
    return out_of_proportion(loss, FORWARD_LOSS) and grown is not None and grown.decades > FORWARD_GROWTH

"""Does plain gradient descent crawl once the steep directions are done with? The next step is asked where a few lead.

One step says how fast the loss falls where the weights stand. A little off the floor of a ravine most of it is won
across, within a few steps, and the way along its floor is not seen. So where the best step along the gradient leaves
most of the gap, a few are really taken, the same is asked where they end, and all is taken back.
"""

from __future__ import annotations

import math

import torch

from unvanish.decide import CRAWL
from unvanish.evidence.moving import loss_again
from unvanish.evidence.step import REAL_STEPS, SMALL, gap_left, ladder_of, needed_for, steepest, stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers
from unvanish.records import LossFacts, StepFacts

HALF = 0.5  # of the gap: what one step along the gradient, and the real steps, may win of it
LEFT = 0.1  # of the gap: what is left once nine tenths are closed


def crawling_later(look: Look, optimizer: Optimizers, facts: StepFacts, loss: LossFacts) -> StepFacts:
    """The facts after a few real steps of plain gradient descent, where only then they are those of a crawl.

    Unchanged for other optimizers, with momentum or weight decay, and where the pace keeps up.
    """
    gap = gap_left(loss, facts.loss)
    if type(optimizer) is not torch.optim.SGD or facts.best is None or facts.best >= SMALL or not gap > 0.0:
        return facts
    plain = all(not group["momentum"] and not group["weight_decay"] for group in optimizer.param_groups)
    if not plain or facts.loss - min(value for _, value in facts.ladder) > HALF * gap:
        return facts
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    with stepped(look.problem, look.model, optimizer, 1.0, REAL_STEPS, look.seed) as walked:
        if not math.isfinite(walked) or facts.loss - walked > HALF * gap:
            return facts
        moved = [p for p in look.model.parameters() if id(p) in rates and p.requires_grad]
        with torch.enable_grad():
            value = loss_again(look.problem, look.model, look.seed)
            found = torch.autograd.grad(value, moved, allow_unused=True)
        moves = [(p, -rates[id(p)] * g) for p, g in zip(moved, found, strict=True) if g is not None]
        now, ladder = ladder_of(look.problem, look.model, moves, look.seed)
        finite = {m: v for m, v in ladder.items() if math.isfinite(v)}
        left = 1.0 - (facts.loss - walked) / gap
        needed = REAL_STEPS + needed_for(now, ladder, finite, left * gap) * math.log10(left / LEFT)
        if not needed > CRAWL:
            return facts
        limit = steepest(look.problem, look.model, optimizer, look.seed)
    best = min(finite, key=lambda m: finite[m], default=1.0)
    return facts.replace(best=best, needed=needed, walked=walked, lr_limit=limit, after=REAL_STEPS)

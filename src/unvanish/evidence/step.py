"""The optimizer's own next step, tried on a ladder of sizes; and, on suspicion, a few real steps. All taken back.

One look at a learning rate is right within a factor of about three: a ladder alone is no verdict on it. Where it raises
a suspicion, the steps are really taken, and only what they do to the loss is evidence. A fall of the loss on the ladder
does prove something else: that the weights do not stand at a stationary point.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.decide import CRAWL
from unvanish.decide.limits import HORIZON
from unvanish.evidence.curvature import sharpest
from unvanish.evidence.moving import loss_again, or_nan, put_back
from unvanish.evidence.schedule import faded, forgetting, scheduled, taken_by
from unvanish.flow import adam
from unvanish.flow.look import Look
from unvanish.flow.optimizers import same_kind, undecorated_step
from unvanish.flow.updates import Updates
from unvanish.preserve.loaders import own_generators
from unvanish.problem import Optimizer, Optimizers, Problem, name_of, parts_of, rate_of
from unvanish.records import LossFacts, StepFacts
from unvanish.rules.pace import finds_its_rate, near_its_limit, needed_at_full_pace

RUNGS = 6  # tenfold changes of the step size tried beyond the first
DEEPEST = 60  # tenfold changes down where the loss keeps overshooting: from the end of float32 to below its rounding
NEAR = 3  # rungs within reach of the bottom after which a rate that lowers the loss would have shown itself
REAL_STEPS = 6
RISE = 0.5  # share of the gap by which one step may raise the loss before it is looked at more closely
SMALL = 100.0  # a best multiple from here on looks like a learning rate too small
WITHIN = 100.0  # times a rate may be below the best multiple of a step: six steps of it stay on the same slope
WON = 0.9  # share of the gap still left: below, the training so far has a pace of its own to judge by
BENT = 2.0  # times its share by which a longer step may win more: rounding of the shorter one's
ULPS = 8.0  # spacings of the narrowest type at the loss: two losses that differ by less may be the same one


def step_facts(look: Look, updates: Updates, loss: LossFacts) -> StepFacts | None:
    """What multiples of the optimizer's next step do to the loss of this batch. None where they cannot be had."""
    optimizer, problem, model = updates.optimizer, look.problem, look.model
    moves = [(p, updates.changes[id(p)]) for p in model.parameters() if id(p) in updates.changes]
    if updates.refused or not moves:
        return None
    sound = all(math.isfinite(updates.found[id(p)]) for p, _ in moves)
    known = look.capture.loss if sound and repeats(look) else None
    now, ladder = ladder_of(problem, model, moves, look.seed, known, look.copy_of)
    if not math.isfinite(now):
        return None
    finite = {m: v for m, v in ladder.items() if math.isfinite(v)}
    best = min(finite, key=lambda m: finite[m], default=None)
    gap = gap_left(loss, now)
    return StepFacts(
        optimizer=name_of(optimizer),
        lr=rate_of(optimizer.param_groups[0]),
        loss=now,
        ladder=tuple(sorted(ladder.items())),
        best=best if best is not None and finite[best] < now else None,
        needed=min(needed_for(now, ladder, finite, gap), _needed_so_far(loss, taken := taken_by(optimizer))),
        planned=problem.steps,
        taken=taken,
        lowered=_lowered(loss, now, finite, spacing_of(problem, model)),
        faded=faded(optimizer) if taken is None else None,
    )


def with_real_steps(
    look: Look, optimizer: Optimizers, facts: StepFacts, loss: LossFacts, walked: float | None = None
) -> StepFacts:
    """The facts with real steps wherever the ladder makes the learning rate look too large or too small.

    ``walked``: the loss after REAL_STEPS steps at the present rate, where it is known already.
    """
    problem, model, seed = look.problem, look.model, look.seed
    planned = problem.steps or HORIZON
    raised = not dict(facts.ladder)[1.0] - facts.loss <= RISE * gap_left(loss, facts.loss)
    many = min(planned, CRAWL) if type(optimizer) is torch.optim.SGD else planned
    slow = facts.best is not None and facts.best >= SMALL and (facts.needed or 0.0) > many
    if raised:
        return facts.replace(walked=walked) if walked is not None else _walked(look, optimizer, facts)
    if not slow or math.isnan(facts.lr):  # without a rate there is none to try a larger one of
        return facts.replace(scheduled=scheduled(optimizer, problem.steps)) if facts.lr == 0.0 else facts
    lr_limit = steepest(problem, model, optimizer, seed)
    scale = 100.0
    if lr_limit is not None:
        scale = min(scale, 0.5 * lr_limit / facts.lr) if facts.lr > 0 else scale
    # Far above the rounding of the weights, and on the same slope: of float32 at one of the two rates asked for anyway.
    long = scale if (facts.best or 0.0) >= WITHIN * scale else 1.0
    if spacing_of(problem, model) > torch.finfo(torch.float32).eps:
        long = (facts.best or WITHIN) / WITHIN
    first = First()
    end, lengths = measured_steps(problem, model, optimizer, long, seed, first)
    if long == 1.0:
        walked = end
    elif walked is None:
        walked = real_steps(problem, model, optimizer, 1.0, seed, first)
    facts = facts.replace(
        lengths=tuple(lengths),
        scheduled=scheduled(optimizer, problem.steps),
        forgetting=forgetting(optimizer, first.gradients(held_by(optimizer)), planned),
        lr_limit=lr_limit,
        scale=scale,
        walked=walked,
    )
    if long == scale:
        return facts.replace(walked_scaled=end)
    if near_its_limit(facts) or finds_its_rate(facts) or not needed_at_full_pace(facts) > planned:
        return facts  # whatever a larger rate does, nothing would be said of it
    return facts.replace(walked_scaled=real_steps(problem, model, optimizer, scale, seed, first))


def _walked(look: Look, optimizer: Optimizers, facts: StepFacts) -> StepFacts:
    """The facts with real steps, and the layers that had a gradient at the first of them and exactly none at the last.

    A step that throws every unit of a ReLU layer onto its flat side leaves nothing that could bring them back.
    """
    seen: list[set[str]] = []

    def measure(_: int) -> None:
        heard = (a.name for a in look.layers if any(p.grad is not None and bool(p.grad.any()) for p in a.live))
        seen.append(set(heard))

    with stepped(look.problem, look.model, optimizer, 1.0, REAL_STEPS, look.seed, measure) as loss:
        pass
    lost = seen[0] - seen[-1] if len(seen) == REAL_STEPS else set[str]()
    return facts.replace(walked=loss, silenced=tuple(a.name for a in look.layers if a.name in lost))


def _lowered(loss: LossFacts, now: float, finite: dict[float, float], spacing: float) -> float | None:
    """The largest fall on the ladder as a share of L_ref, less what rounding or other random numbers may have done.

    ``now`` is the loss of a second forward pass at the same weights, unless it is known to be the same (see
    ``repeats``): where it differs from the first, the network does not repeat itself, and a fall no larger than that is
    none. Where the loss bends upwards a longer step wins at most
    in proportion to its length: one that wins far more has left the place it began at and says nothing about it.
    """
    if not loss.reference:
        return None
    unsure = abs(now - loss.value) + ULPS * spacing * max(abs(now), abs(loss.value))
    falls = {m: now - value - unsure for m, value in sorted(finite.items())}
    most = max([0.0, *(fall for m, fall in falls.items() if m <= 1.0)])
    before, length = falls.get(1.0, 0.0), 1.0
    for multiple, fall in falls.items():
        if multiple > 1.0:
            if not before < fall <= BENT * multiple / length * before:
                break
            most, before, length = max(most, fall), fall, multiple
    return most / loss.reference


def repeats(look: Look) -> bool:
    """Whether a second forward pass is known to give the loss of the first: then it need not be made.

    Of a model in training, on the CPU, that draws no random numbers and whose passes have left everything as it was
    that they could depend on. In eval mode, and for dropout, torch may have other kernels for a pass without a graph.
    """
    on_cpu = all(p.device.type == "cpu" for p in look.model.parameters())
    plain = on_cpu and not look.capture.random and all(m.training for m in look.model.modules())
    return plain and look.unmoved()


def spacing_of(problem: Problem, model: nn.Module) -> float:
    """The relative spacing of numbers of the narrowest type the loss may have passed through."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()} | {problem.autocast or torch.float32}
    return max(torch.finfo(t).eps for t in types)


def gap_left(loss: LossFacts, now: float) -> float:
    known = loss.relative_gap is not None and loss.reference is not None
    return loss.relative_gap * loss.reference if known else abs(now)  # type: ignore[operator]


def ladder_of(
    problem: Problem,
    model: nn.Module,
    moves: list[tuple[nn.Parameter, Tensor]],
    seed: int,
    now: float | None = None,
    copy_of: Callable[[Tensor], Tensor | None] = lambda _: None,
) -> tuple[float, dict[float, float]]:
    """The loss of the batch at these weights (``now`` where it is known), and by multiple of the moves."""
    parameters = [p for p, _ in moves]
    ladder: dict[float, float] = {}
    with put_back(parameters, copy_of) as start, torch.no_grad():

        def at(multiple: float) -> float:
            for (parameter, change), before in zip(moves, start, strict=True):
                torch.add(before, change, alpha=multiple, out=parameter.data)  # makes no large tensors
            return or_nan(lambda: loss_again(problem, model, seed))

        first = None if now is None else at(1.0)
        # where the loss is known and that after the step is no number, it may be the pass without a graph that fails
        if now is None or first is None or not math.isfinite(first):
            now = at(0.0)
        if not math.isfinite(now):  # nothing can be compared with it: a forward pass more each would tell no more
            return now, {1.0: math.nan}
        same = ULPS * spacing_of(problem, model) * abs(now)  # a rise of rounding alone is none
        multiple, value = 1.0, at(1.0) if first is None else first
        ladder[1.0] = value
        down = not value <= now + same
        near = 0  # rungs in a row that do not overshoot: while they do, however large the rate, the way goes on down
        for rung in range(DEEPEST):  # down until the loss falls, or up until it rises
            if rung >= RUNGS and near >= NEAR:
                break
            multiple = multiple / 10.0 if down else multiple * 10.0
            before_value, value = value, at(multiple)
            ladder[multiple] = value
            near = near + 1 if not down or value - now <= RISE * abs(now) else 0
            if (down and value < now) or (not down and not value <= before_value + same):
                break
    return now, ladder


def needed_for(now: float, ladder: dict[float, float], finite: dict[float, float], gap: float) -> float:
    """Steps to close 90% of the gap, if each closes the same share of what is left as the first."""
    gained = now - ladder[1.0]
    if not gained > 1e-5 * abs(now):  # below the loss's own rounding: read it off a larger multiple
        gained = max(((now - v) / m for m, v in finite.items()), default=0.0)
    if not gained > 0.0:
        return math.inf
    return max(1.0, math.log(10.0) / -math.log1p(-gained / gap)) if gained < 0.9 * gap else 1.0


def _needed_so_far(loss: LossFacts, taken: int | None) -> float:
    """Steps for 90% of the gap at the pace of the training so far; inf where it says nothing yet.

    A second look beside that of one step: what has been won since the best constant output was won at this rate.
    """
    left = loss.relative_gap
    if taken is None or left is None or not 0.0 < left < WON:
        return math.inf
    return math.log(10.0) * taken / -math.log(left)


def real_steps(
    problem: Problem, model: nn.Module, optimizer: Optimizers, scale: float, seed: int, first: First | None = None
) -> float:
    """The loss of the batch after REAL_STEPS steps at ``scale`` times the learning rate (nan or inf if it diverges)."""
    with stepped(problem, model, optimizer, scale, REAL_STEPS, seed, first=first) as loss:
        return loss


class First:
    """What several walks from the same weights share: the loss and the gradients of their first step."""

    def __init__(self) -> None:
        self.known: tuple[Tensor, list[Tensor | None]] | None = None

    def of(self, pull: Callable[[], tuple[Tensor, Sequence[Tensor | None]]]) -> tuple[Tensor, Sequence[Tensor | None]]:
        """As ``pull`` gives them the first time; copies, since an optimizer may write into a gradient."""
        if self.known is None:
            loss, gradients = pull()
            self.known = loss.detach(), list(gradients)
        loss, gradients = self.known
        return loss, [None if g is None else g.clone() for g in gradients]

    def gradients(self, parameters: Sequence[nn.Parameter]) -> dict[int, Tensor]:
        """Those of the first step by id of a parameter, of the parameters that ``pull`` is asked about."""
        known = [] if self.known is None else self.known[1]
        return {id(p): g for p, g in zip(parameters, known, strict=False) if g is not None}


@contextmanager
def stepped(
    problem: Problem,
    model: nn.Module,
    optimizer: Optimizers,
    scale: float,
    steps: int,
    seed: int,
    each: Callable[[int], Any] | None = None,
    first: First | None = None,
    end: Callable[[], float] | None = None,
) -> Iterator[float]:
    """Inside, the parameters are where so many steps at ``scale`` times the learning rate take them.

    Yields the loss of the batch there (nan or inf if it diverges), by ``end`` where that is given; ``each`` is told
    after every step how many have been taken, and ends the walk where it returns True. Afterwards everything is back
    in its place.
    """
    parameters = held_by(optimizer)
    batches = batches_of(problem, model, steps, seed)

    def walk() -> Tensor | float:
        parts = [_step_of_a_copy(part, scale) for part in parts_of(optimizer)]
        for turn, batch in enumerate(batches):

            def pull(batch: Problem = batch) -> tuple[Tensor, Sequence[Tensor | None]]:
                with torch.enable_grad():
                    loss = loss_again(batch, model, seed)
                    return loss, torch.autograd.grad(loss, parameters, allow_unused=True)

            loss, gradients = pull() if turn or first is None else first.of(pull)
            if not math.isfinite(float(loss.detach())):
                break
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = None if gradient is None else adam.laid_out(gradient, parameter.data)
            for step in parts:
                step()
            if each is not None and each(turn + 1) is True:
                break
        if end is not None:
            return end()
        with torch.no_grad():
            return loss_again(problem, model, seed)

    with put_back(parameters):
        yield or_nan(walk)


def measured_steps(
    problem: Problem, model: nn.Module, optimizer: Optimizers, scale: float, seed: int, shared: First
) -> tuple[float, list[float]]:
    """The same, and how far each of the steps moves the weights; fewer lengths where the training breaks off.

    The rate is multiplied by ``scale``, which keeps the steps far above the rounding of the weights, and in proportion.
    That leads further along: where the gradient has grown since the first step, by so much a length is divided, since
    what is asked is whether the optimizer lengthens its steps by itself.
    """
    parameters, lengths = held_by(optimizer), list[float]()
    first = list[float]()
    before = [p.detach().clone() for p in parameters]

    def measure(_: int) -> None:
        pairs = zip(parameters, before, strict=True)
        gradient = math.hypot(*(float(p.grad.norm()) for p in parameters if p.grad is not None))
        first.append(gradient)
        grown = max(gradient / first[0], 1.0) if first[0] > 0.0 else 1.0
        lengths.append(math.hypot(*(float((p.detach() - b).double().norm()) for p, b in pairs)) / grown)
        for parameter, kept in zip(parameters, before, strict=True):
            kept.copy_(parameter.detach())

    with stepped(problem, model, optimizer, scale, REAL_STEPS, seed, measure, shared) as loss:
        return loss, lengths


def held_by(optimizer: Optimizers) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def batches_of(problem: Problem, model: nn.Module, steps: int, seed: int) -> list[Problem]:
    """The problem on each of the first training batches, from the first again where there are fewer.

    On its own batch again and again where there are none: a loss waits longer at its plateau where batches differ.
    Training batches are taken only if the model takes all of them as they are: they may lie on another device.
    """
    own = [problem] * steps
    if problem.train_batches is None:
        return own
    try:
        with own_generators(problem.train_batches, seed):
            first = list(islice(iter(problem.train_batches), steps))
        if problem.loss_fn is None:
            found = [dataclasses.replace(problem, inputs=batch) for batch in first]
        else:
            found = [dataclasses.replace(problem, inputs=inputs, targets=targets) for inputs, targets in first]
        with torch.no_grad():
            for batch in found:
                loss_again(batch, model, seed)
    except Exception:
        return own
    return list(islice(cycle(found), steps)) if found else own


def _step_of_a_copy(optimizer: Optimizer, scale: float) -> Callable[[], Any]:
    """The step of a copy of the optimizer that moves the same parameters but keeps its state to itself."""
    groups = [
        group if math.isnan(rate_of(group)) else {**group, "lr": group["lr"] * scale}
        for group in map(dict, optimizer.param_groups)
    ]
    alone = same_kind(optimizer, groups)
    for parameter, state in optimizer.state.items():
        alone.state[parameter] = {
            k: v.detach().clone() if isinstance(v, Tensor) else copy.deepcopy(v) for k, v in state.items()
        }
    for group in alone.param_groups:
        known = adam.is_adam(optimizer, group)
        if known and all(adam.applies(group, p, optimizer.state.get(p, {})) for p in group["params"]):
            group["fused"] = True  # one pass over the entries, with the same formula
    return undecorated_step(alone)


def steepest(problem: Problem, model: nn.Module, optimizer: Optimizers, seed: int) -> float | None:
    """2/λ_max, for plain gradient descent only: other optimizers rescale the directions."""
    if type(optimizer) is not torch.optim.SGD:
        return None
    top = sharpest(problem, model, seed)
    return 2.0 / top if top else None

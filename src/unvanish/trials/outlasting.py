"""Whether a finding about outputs or inputs outlasts an edit, told without another search for the lowest loss.

What the loss could reach depends on the loss, the targets and the last calls. Most edits change none of them: then
what was found for the network as it is holds, and one forward pass tells the rest. What comes near a limit is left to a
check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from unvanish.decide.limits import CONVERGED, PLATEAU
from unvanish.decide.stationary import floor_of, has_converged, is_stationary, may_be_stationary
from unvanish.evidence.curvature import with_decrement
from unvanish.evidence.inputs import as_they_are, at_best, input_facts
from unvanish.evidence.last import Last, last_call, output_call
from unvanish.evidence.loss import best_constant_of, first_and_second, loss_facts
from unvanish.evidence.output import at_the_end, held_loss, normalises, output_facts
from unvanish.evidence.output_loss import OutputLoss, loss_of_outputs, lowest
from unvanish.flow.look import Look, looking
from unvanish.flow.measure import measure
from unvanish.flow.observe import observe
from unvanish.flow.setting import setting_of
from unvanish.pipeline import quick_look
from unvanish.preserve import untouched
from unvanish.problem import Problem
from unvanish.records import CallFlow, Flow, LayerFlow, LossFacts, OutputFacts
from unvanish.rules.conditions import FAR, TAKES_LOGITS, UNREACHABLE
from unvanish.rules.uv707_input_scale import input_scale
from unvanish.trace.calls import Capture
from unvanish.trace.capture import forward_is_finite
from unvanish.trace.structure import tensors

OF_THE_LAST_CALLS = {"UV701", "UV706"}
"""Findings that need a last call of a certain kind: one that limits the outputs."""
OF_THE_SCALE = {"UV702", "UV707"}
"""Findings about the size of targets and inputs beside what the network gives and takes."""
SURELY = 1.25
"""Times above a limit, or below it, from which on it is believed: searches end within a hundredth of each other."""
FAR_FROM_CONVERGED = 10.0


@dataclass(frozen=True)
class Ends:
    """The loss of the network as it is, and its last calls.

    ``calls``: what they are, None where they are not known. ``constant``: the loss of the best constant output;
    ``through``: of the best that a last call with one end can give; ``floor``: the lowest loss there is; ``best``: that
    of any outputs; ``lost``: by how much the last calls keep the loss above it.
    """

    loss_fn: Any
    targets: Any
    calls: Any
    constant: float | None = None
    through: float | None = None
    floor: float | None = None
    best: float | None = None
    lost: float | None = None

    @classmethod
    def of(
        cls, problem: Problem, model: nn.Module, told: tuple[LossFacts | None, OutputFacts | None] = (None, None)
    ) -> Ends | None:
        """Those of this model; None where its loss cannot be had without it.

        ``told``: what a check of this very model has said of its loss and its outputs, which is not sought again.
        """
        with untouched(model, 0, problem.loss_fn), looking(problem, model) as look:
            output_loss = loss_of_outputs(problem, look.capture)
            if isinstance(output_loss, str) or not forward_is_finite(look.capture):
                return None
            last, own = last_call(look.capture, output_loss), output_call(look.capture, output_loss)
            loss = told[0] or loss_facts(output_loss, last, look.capture.loss, 0)
            ends = cls.of_loss(problem, loss, last, own)
            if last is None or not last.kind or loss.best_constant is None:
                return ends
            outputs = told[1] or output_facts(last, own, loss)
            best, share = lowest(last.output_loss, loss.value)[0], outputs.unreachable
            if best is None or share is None:
                return ends
            best = max(best, 0.0) if loss.value > 0.0 else best
            return replace(ends, best=best, lost=share * (max(loss.value, loss.best_constant) - best))

    @classmethod
    def of_loss(cls, problem: Problem, loss: LossFacts, last: Last | None, own: Last | None) -> Ends:
        """What the loss alone tells; nothing of how much the last calls keep out of reach."""
        through = best_constant_of(own.through)[0] if own is not None and own.kind == "clipped" else None
        floor = None if has_converged(loss) else floor_of(loss)
        return cls(problem.loss_fn, problem.targets, _described(last), loss.best_constant, through, floor)

    def are_of(self, problem: Problem, last: Last | None) -> bool:
        """Whether loss, targets and last calls of this problem are these."""
        mine, theirs = self.loss_fn, problem.loss_fn
        twins = isinstance(mine, nn.Module) and type(mine) is type(theirs) and repr(mine) == repr(theirs)
        same = problem.targets is self.targets and (theirs is mine or twins)
        return same and self.calls is not None and _described(last) == self.calls

    def out_of_reach(self, value: float) -> bool | None:
        """Whether the last calls keep more than a fifth of the reduction out of reach, with the loss at ``value``."""
        if self.lost is None or self.best is None or self.constant is None:
            return None
        scale = max(value, self.constant) - self.best
        if not scale > 0.0:
            return None
        return _beyond(self.lost / scale)

    def is_held(self, own: Last, value: float) -> bool | None:
        """Whether outputs on the flat end of the last call keep a loss that knows only their shares from falling."""
        if not normalises(own.output_loss, value):
            return False
        scale = self.reference(value)
        if self.through is None or scale is None or not self.has_far_to_go(value):
            return None
        return _beyond((held_loss(own, at_the_end(own), value) - self.through) / scale)

    def reference(self, value: float) -> float | None:
        """The achievable reduction, with the loss at ``value``."""
        return None if self.floor is None or self.constant is None else max(value, self.constant) - self.floor

    def is_at_constant(self, value: float) -> bool:
        """Whether a loss of ``value`` is no better than that of a constant, as ``loss_facts`` has it."""
        if self.floor is None or self.constant is None:
            return False
        won, gap = self.constant - self.floor, value - self.floor
        return won >= CONVERGED * gap and gap >= PLATEAU * won

    def has_far_to_go(self, value: float) -> bool:
        """Whether a loss of ``value`` is far from having converged."""
        scale = self.reference(value)
        if self.floor is None or scale is None:
            return False
        return value - self.floor > FAR_FROM_CONVERGED * CONVERGED * scale > 0.0


def _beyond(share: float) -> bool | None:
    """Whether so large a share is out of reach; None near the limit."""
    return True if share > SURELY * UNREACHABLE else False if share < UNREACHABLE / SURELY else None


def _described(last: Last | None) -> Any:
    """The last calls as something to compare; None where one of them takes another tensor."""
    if last is None:
        return None
    rows: list[Any] = []
    for call in last.calls:
        again = call.again
        if again is None or any(True for _ in tensors((again.args, again.kwargs))):
            return None
        rows.append((call.name, repr(again.args), repr(again.kwargs)))
    return last.kind, last.low, last.high, last.shape, tuple(rows)


def outlasts(
    problem: Problem,
    codes: Collection[str],
    ends: Callable[[], Ends | None],
    keep: Callable[[Sequence[LayerFlow]], object] = lambda _: None,
) -> bool | None:
    """Whether one of these findings is still there in an edited network; None where only a check can tell.

    ``ends``: gives those of the network as it is. ``keep`` is given the layers, where a walk was needed to tell.
    """
    if not {*OF_THE_LAST_CALLS, *OF_THE_SCALE}.issuperset(codes):
        return None
    model, _ = problem.build()
    with untouched(model, 0, problem.loss_fn, problem.inputs, problem.targets):
        with looking(problem, model) as look:
            output_loss = loss_of_outputs(problem, look.capture)
            if isinstance(output_loss, str):
                return False if OF_THE_LAST_CALLS.issuperset(codes) else None
            last = last_call(look.capture, output_loss)
            possible = set(_possible(look.capture, last))
            own = output_call(look.capture, output_loss) if "UV706" in codes else None
            own = own if own is not None and own.kind == "clipped" and bool(at_the_end(own).any()) else None
            if own is None and not (possible | OF_THE_SCALE) & set(codes):
                return False
            if not forward_is_finite(look.capture):
                return None
            value, known = look.capture.loss, ends()
            if known is None or not known.are_of(problem, last):
                if not OF_THE_SCALE.issuperset(codes):
                    return None
                # what a scale is held against is the loss alone, whichever it has become
                known = Ends.of_loss(problem, loss_facts(output_loss, last, value, look.seed), last, None)
            if possible & set(codes) and known.out_of_reach(value) is not False:
                return known.out_of_reach(value)
            if own is not None and (held := known.is_held(own, value)) is not False:
                return held
            if "UV702" in codes and (last is None or last.kind):
                return None
            far = "UV702" in codes and last is not None and _is_far(last, value, known)
            if not far and "UV707" not in codes:
                return False
            if (flow := _walked(look, output_loss, known)) is None:
                return None
            keep(flow.layers)
        return _scale_outlasts(look, output_loss, flow, known, (far, "UV707" in codes))


def _possible(capture: Capture, last: Last | None) -> Iterator[str]:
    """The findings about the reach of the last calls that their kinds allow."""
    kind = "" if last is None else last.kind
    ahead = () if last is None else capture.calls[last.call.index + 1 :]
    logits = any(call.name in TAKES_LOGITS for call in ahead)
    if kind in ("bounded", "clipped") and not logits:
        yield "UV701"
    if kind == "normalised" or (kind and logits):
        yield "UV706"


def _walked(look: Look, output_loss: OutputLoss, known: Ends) -> Flow | None:
    """What one walk tells, and what is known of the loss, with its first two derivatives here; None without a walk."""
    if look.capture.loss_root is None:
        return None
    residual, curvature = first_and_second(output_loss, look.seed)
    value = look.capture.loss
    loss = LossFacts(value=value, residual_norm=residual, curvature=curvature, best_constant=known.constant)
    loss = loss.replace(at_constant=known.is_at_constant(value))
    seen = observe(look.capture, look.layers, seed=look.seed)
    if seen.loss.broken is not None:
        return None
    layers, calls = measure(look.capture, look.layers, seen, look.problem.batch_size, loss)
    return Flow(setting=setting_of(look), layers=layers, calls=calls, loss=loss)


def _is_far(last: Last, value: float, known: Ends) -> bool:
    """Whether the loss asks outputs that nothing limits to move by far more than their size."""
    facts = output_facts(last, None, LossFacts(value=value, best_constant=known.constant))
    return facts.wanted is not None and FAR * max(facts.rms or 0.0, 0.1) < facts.wanted < math.inf


def _scale_outlasts(
    look: Look, output_loss: OutputLoss, flow: Flow, known: Ends, asked: tuple[bool, bool]
) -> bool | None:
    """Whether inputs or targets are still on another scale; None where it may be too late to ask.

    ``asked``: whether the targets are, and whether that of the inputs is asked for.
    """
    far, of_inputs = asked

    def again(new: Problem) -> tuple[tuple[LayerFlow, ...], tuple[CallFlow, ...]]:
        return quick_look(new, look.model)

    if of_inputs:
        # a second look is for what standardising cures, if it is to be cured at all
        facts = as_they_are(look.problem, flow.layers, flow.calls)
        if facts is not None and input_scale(flow.replace(inputs=at_best(facts))):
            flow = flow.replace(inputs=input_facts(look.problem, flow.layers, flow.calls, again))
    if not far and not input_scale(flow):
        return False
    value, scale = look.capture.loss, known.reference(look.capture.loss)
    if scale is None or not known.has_far_to_go(value):
        return None
    # where the weights stand at a stationary point, nothing is said of inputs and outputs
    return not may_be_stationary(flow) or not is_stationary(with_decrement(look, flow, output_loss, scale))

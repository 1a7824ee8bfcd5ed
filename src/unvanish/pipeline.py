"""From a problem to a report: capture, walk, measure, gather evidence, decide, judge."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from unvanish.decide import beside, decide, vanishing_level
from unvanish.decide.limits import STATE, VANISHED
from unvanish.decide.stationary import has_converged, is_stationary, may_be_stationary
from unvanish.evidence.across import across_facts
from unvanish.evidence.alike import alike_facts
from unvanish.evidence.arrival import next_step
from unvanish.evidence.birth import backward_birth, forward_birth, harmless_births, worn
from unvanish.evidence.collapsed import collapsed_facts
from unvanish.evidence.copies import copied_units
from unvanish.evidence.crawl import crawling_later
from unvanish.evidence.curvature import with_decrement
from unvanish.evidence.decay import with_decay
from unvanish.evidence.held_out import with_held_out
from unvanish.evidence.inputs import input_facts
from unvanish.evidence.inside import inside_facts
from unvanish.evidence.labels import label_facts
from unvanish.evidence.large_inputs import with_large_inputs
from unvanish.evidence.last import Last, last_call, of_sizes, output_call
from unvanish.evidence.layerwise import GradientCurvature, chosen, gradient_curvatures
from unvanish.evidence.loss import loss_facts
from unvanish.evidence.moved import moved
from unvanish.evidence.noise import noise_flags
from unvanish.evidence.output import log_mass, output_facts, shrunk, size_of_targets
from unvanish.evidence.output_loss import OutputLoss, loss_of_outputs
from unvanish.evidence.over_batch import over_batch
from unvanish.evidence.own_backward import with_functions
from unvanish.evidence.pairs import pair_facts
from unvanish.evidence.pinned import pinned_facts
from unvanish.evidence.price import with_price
from unvanish.evidence.rates import lost_at_all, may_lose_signal, rate_trials
from unvanish.evidence.recovery import HOPELESS, with_recovery
from unvanish.evidence.regained import with_regained
from unvanish.evidence.same import same_facts
from unvanish.evidence.samples import ChunkGrams
from unvanish.evidence.small_inputs import with_small_inputs
from unvanish.evidence.step import step_facts, with_real_steps
from unvanish.evidence.stopped import steps_of_weights, stopped_facts
from unvanish.evidence.time_axis import time_facts
from unvanish.evidence.time_steps import with_steps_in_time
from unvanish.evidence.trapped import trapped_facts
from unvanish.evidence.uphill import with_direction
from unvanish.evidence.zeros import without_normalisers, zero_facts
from unvanish.flow.bypassed import bypass_facts
from unvanish.flow.chosen import not_chosen
from unvanish.flow.look import Look, looking
from unvanish.flow.measure import measure
from unvanish.flow.observe import observe
from unvanish.flow.paths import Observed
from unvanish.flow.setting import notes_of, setting_of
from unvanish.flow.unused import unused_facts
from unvanish.flow.updates import Updates
from unvanish.preserve import untouched
from unvanish.preserve.outside import OuterNames
from unvanish.problem import Problem
from unvanish.records import CallFlow, Flow, LayerFlow, StepFacts, UnvanishError
from unvanish.report import Report
from unvanish.rules import judge
from unvanish.trace.backward import why_unsupported
from unvanish.trace.capture import forward_is_finite, one_clear_error
from unvanish.trace.tape import Tape

EFFORTS = {"quick": 1, "auto": 1, "full": 4}  # how many random output cotangents are averaged


def diagnose(
    problem: Problem | nn.Module,
    inputs: Any = None,
    targets: Any = None,
    loss_fn: Any = None,
    *,
    optimizer: Any = None,
    effort: str = "auto",
    seed: int = 0,
    **more: Any,
) -> Report:
    """Say per layer how much of the error signal arrives, which factor is to blame, and what that means.

    Takes a Problem, or its parts. ``effort``: "quick" (one walk and the loss alone), "auto", or "full" (four random
    output cotangents averaged instead of one, the batch cut into eight chunks to tell gradients from noise, and the
    curvature along the gradient of each of up to 64 layers). The model, its gradients, buffers, mode and every random
    state are left as they were. The same problem and seed give the same report. Raises UnvanishError where nothing can
    be checked.
    """
    if isinstance(problem, Problem):
        parts = {"inputs": inputs, "targets": targets, "loss_fn": loss_fn, "optimizer": optimizer}
        given = [name for name, value in parts.items() if value is not None]
        if given or more:
            raise UnvanishError(
                f"diagnose(problem) takes nothing from {', '.join([*given, *more])}: put it in the Problem"
            )
    else:
        if unknown := sorted(set(more) - set(Problem.__dataclass_fields__)):
            known = ", ".join(Problem.__dataclass_fields__)
            raise UnvanishError(f"diagnose() does not know {', '.join(unknown)}; a Problem has {known}")
        problem = Problem(problem, inputs, targets, loss_fn, optimizer, **more)
    if effort not in EFFORTS:
        raise UnvanishError(f"effort={effort!r} is unknown; choose one of {', '.join(EFFORTS)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UnvanishError(f"seed={seed!r} must be a whole number from 0 to 2^63 - 1")
    flow = decide(look(problem, effort, seed))
    return Report.from_flow(flow, judge(flow))


def look(problem: Problem, effort: str = "auto", seed: int = 0) -> Flow:
    """Everything measured in one look, before anything is decided."""
    model, optimizer = problem.build_all(seed)
    names = OuterNames(model)
    kept = untouched(model, seed, problem.loss_fn, problem.inputs, problem.targets, *names.containers)
    doors = kept.another_door(), kept.another_door(), kept.another_door()
    with one_clear_error(), kept, doors[0], doors[1], doors[2], _collector_waiting() as go_on, names:
        unmoved, copy_of = lambda: names.unmoved() and kept.unmoved(), kept.copy_of
        with looking(problem, model, optimizer, effort, seed, unmoved, copy_of) as this:
            flow, more = _walked(this)
        if more is not None:
            go_on()
            flow = more(flow)
        if not flow.nonfinite and flow.layers:
            flow = with_price(with_steps_in_time(this, _with_time(this, flow)))
    return flow.replace(notes=(*flow.notes, *kept.lost)) if kept.lost else flow


def _with_time(look: Look, flow: Flow) -> Flow:
    """With what sequences let through. A loop that goes along none loses nothing by a cut between its turns: each is
    given the same again, as where an estimate is refined.
    """
    time = time_facts(look, any(each.kind == STATE for each in flow.bypassed))
    bypassed = tuple(each for each in flow.bypassed if time or each.kind != STATE)
    return flow.replace(time=time, bypassed=bypassed)


@contextmanager
def _collector_waiting() -> Iterator[Callable[[], None]]:
    """Python's cyclic collector waits until the function yielded is called, or until the end.

    A walk makes several objects a call, none of them in cycles: a search through all that live, again and again while
    they pile up, finds nothing and took a fifth of the time of a check of 1,000 layers.
    """
    running = gc.isenabled()

    def go_on() -> None:
        if running:
            gc.enable()

    gc.disable()
    try:
        yield go_on
    finally:
        go_on()


More = Callable[[Flow], Flow]


def _walked(look: Look) -> tuple[Flow, More | None]:
    """What one walk and the loss alone tell, and how what is left is measured without the graph, if anything is."""
    problem, capture = look.problem, look.capture
    flow = Flow(setting=setting_of(look), notes=notes_of(capture))
    broken = forward_birth(look, flow)
    if broken is not None:
        return _bare(broken, look), None
    output_loss, several = of_sizes(capture, loss_of_outputs(problem, capture))
    last = None if isinstance(output_loss, str) else last_call(capture, output_loss)
    own = None if isinstance(output_loss, str) or capture.own_loss else output_call(capture, output_loss)
    if isinstance(output_loss, str) and capture.inside:
        facts, paired = inside_facts(look, output_loss)
    else:
        facts = loss_facts(output_loss, last, capture.loss, look.seed)
        paired = None if isinstance(output_loss, str) else pair_facts(look, output_loss, facts)
    same = same_facts(look, output_loss) or collapsed_facts(look, output_loss, facts.value)
    if not isinstance(output_loss, str):
        output_loss.forget(known=look.effort == "quick")
    facts = facts.replace(targets=size_of_targets(capture.compared))
    flow = flow.replace(loss=facts, pairs=paired, same=same, labels=label_facts(look, output_loss))
    if capture.loss_root is None:
        return _bare(flow, look), None
    if reason := why_unsupported():
        flow = flow.replace(setting=flow.setting.replace(exact=False), notes=(*flow.notes, _PLAIN.format(reason)))
    updates = None if look.optimizer is None else Updates(look.optimizer, keep=look.effort != "quick")
    lasts = ([] if last is None else [last]) + several if facts.relative_gap is None or facts.at_constant else []
    ends = {call.index for each in lasts for call in each.calls}
    apart = ChunkGrams(look) if look.effort == "full" else None
    flow = with_functions(look, flow)
    seen = _observed(look, updates, ends, apart)
    measured, calls = measure(capture, look.layers, seen, problem.batch_size, facts)
    flow = flow.replace(layers=measured, calls=calls, alike=alike_facts(capture, calls, output_loss, facts))
    if seen.loss.broken is not None and seen.loss.breaks_weights:
        return backward_birth(look, flow, seen.loss.broken), None
    flow = flow.replace(notes=(*flow.notes, *harmless_births(capture)), birth=worn(capture.model, measured))
    flow = flow.replace(
        pinned=pinned_facts(seen, capture, flow, lasts, look.seed),
        across=(*across_facts(look), *over_batch(look)),
        copies=copied_units(look),
    )
    if updates is not None and updates.refused:
        refused = (
            "update_to_weight_ratio",
            f"the optimizer cannot be stepped on some of its parameters alone ({updates.refused})",
        )
        flow = flow.replace(undecided=(*flow.undecided, refused))
    flow = flow.replace(next_step=next_step(updates, look), bypassed=bypass_facts(capture, look.layers))
    held = None if updates is None else updates.held
    flow = _with_zeros(look, _with_unused(look, flow, seen, held), seen, held)
    flow = flow.replace(zeros=(*flow.zeros, *trapped_facts(look, seen, output_loss, facts)))
    if look.effort == "full":
        flow = _with_noise(flow, noise_flags(look, flow.layers, apart))
    if look.effort == "quick" or isinstance(output_loss, str):
        return flow, None

    def more(flow: Flow) -> Flow:
        flow = _more_evidence(look, flow, output_loss, (last, own), updates)
        return _with_gradient_curvatures(look, flow, output_loss)

    return flow, more


def _with_zeros(look: Look, flow: Flow, seen: Observed, held: Callable[[nn.Parameter], bool] | None) -> Flow:
    """With what the layers without a gradient are behind, and the tensors that get none in layers that have one."""
    weak = {a.name for a in flow.layers if a.log10_transmission is not None and a.log10_transmission < VANISHED}
    steps, trunk = steps_of_weights(look, seen), [call.trunk for call in flow.calls]
    return flow.replace(
        zeros=without_normalisers(look, seen, weak, zero_facts(look, seen, steps)),
        stopped=stopped_facts(look, seen, steps, trunk, held),
    )


def _observed(look: Look, updates: Updates | None, ends: set[int], apart: ChunkGrams | None) -> Observed:
    """The one walk."""
    watch, probes = None if apart is None else apart.see, EFFORTS[look.effort]
    return observe(look.capture, look.layers, probes=probes, seed=look.seed, updates=updates, ends=ends, watch=watch)


def _with_unused(look: Look, flow: Flow, seen: Observed, held: Callable[[nn.Parameter], bool] | None) -> Flow:
    out = unused_facts(look.capture, look.layers, flow.layers, held, [call.trunk for call in flow.calls])
    return flow.replace(unused=(*out, *not_chosen(look.capture, look.layers, seen, held)))


def _with_noise(flow: Flow, flags: dict[str, bool] | str) -> Flow:
    if isinstance(flags, str):
        return flow.replace(undecided=(*flow.undecided, ("noise", flags)))
    return flow.replace(layers=tuple(a.replace(noise=flags.get(a.name)) for a in flow.layers))


def _with_gradient_curvatures(look: Look, flow: Flow, output_loss: OutputLoss) -> Flow:
    """Per layer how the loss bends along its gradient, and what the layer alone could gain, as a share of L_ref."""
    picked = chosen(look, flow)
    loss = flow.loss
    if not picked or loss is None:
        return flow
    found = gradient_curvatures(look, picked, {a.name: a for a in flow.layers}, output_loss)
    if isinstance(found, str):
        return flow.replace(undecided=(*flow.undecided, ("the curvature along each layer's gradient", found)))
    shared = {frozenset(map(id, a.live)): found[a.name] for a in picked if a.name in found}
    by_name = {a.name: shared[key] for a in look.layers if (key := frozenset(map(id, a.live))) in shared}

    def share(measured: GradientCurvature) -> float | None:
        if not loss.reference or loss.relative_gap is None:
            return None
        log = measured.log10_gain - math.log10(loss.reference)
        return min(loss.relative_gap, 10.0**log) if log < 300.0 else loss.relative_gap

    return flow.replace(
        layers=tuple(
            a.replace(log10_curvature=by_name[a.name].log10_curvature, newton_decrement=share(by_name[a.name]))
            if a.name in by_name
            else a
            for a in flow.layers
        )
    )


def _more_evidence(
    look: Look, flow: Flow, output_loss: OutputLoss, ends: tuple[Last | None, Last | None], updates: Updates | None
) -> Flow:
    """What a walk cannot tell: curvature, the next steps, the reach of the outputs, the scale of the inputs."""
    loss = flow.loss
    assert loss is not None
    if has_converged(loss):
        return flow
    last, own = ends
    if last is not None:
        facts, calls = output_facts(last, own, loss), look.capture.calls
        flow = flow.replace(output=facts.replace(log_mass=log_mass(last, calls), shrunk=shrunk(last, calls)))
    flow = flow.replace(
        inputs=input_facts(look.problem, flow.layers, flow.calls, lambda new: quick_look(new, look.model, look.seed))
    )
    if updates is not None:
        flow = with_large_inputs(look, updates.optimizer, with_small_inputs(look, updates.optimizer, flow))
        step = step_facts(look, updates, loss)
        updates.changes.clear()  # as large as the weights, and nothing asks for them any more
        step = None if step is None else with_direction(look, updates.optimizer, step)
        flow = flow.replace(step=_with_recovery(look, flow, updates, step))
    if may_be_stationary(flow) and loss.reference is not None:
        flow = with_decrement(look, flow, output_loss, loss.reference)
    step = flow.step
    if updates is None or step is None or is_stationary(flow):
        return flow
    if may_lose_signal(flow.layers, flow.calls):
        rates = rate_trials(look, updates.optimizer, flow.layers, lambda: moved(look))
        lost = lost_at_all(rates)
        flow = flow.replace(rates=rates, notes=(*flow.notes, lost) if lost else flow.notes)
    walked = flow.rates[0].loss if flow.rates else None
    step = with_real_steps(look, updates.optimizer, step, loss, walked)
    step = with_regained(look, updates.optimizer, flow, step)
    step = with_held_out(look, updates.optimizer, flow, step)
    step = with_decay(look, updates.optimizer, flow.next_step, step)
    return flow.replace(step=crawling_later(look, updates.optimizer, step, loss))


def _with_recovery(look: Look, flow: Flow, updates: Updates, step: StepFacts | None) -> StepFacts | None:
    besides = beside(flow)
    low = [(a, a.log10_transmission) for a in flow.layers if a.log10_transmission is not None and not a.gate]
    weak = {a.name: t for a, t in low if -math.inf < t < VANISHED and a.name not in besides}
    error = weak and vanishing_level(flow.replace(step=step), [a for a, _ in low if a.name in weak]) == "error"
    if step is None or flow.setting.eps is None or not error or min(weak.values()) < HOPELESS:
        return step
    end = None if flow.output is None else flow.output.call
    outputs = 0.0 if end is None else look.capture.calls[end].norm
    return with_recovery(look, updates.optimizer, step, frozenset(weak), flow.loss, lambda: moved(look), outputs)


def quick_look(problem: Problem, model: nn.Module, seed: int = 0) -> tuple[tuple[LayerFlow, ...], tuple[CallFlow, ...]]:
    """The layers and calls of this model by one forward pass and one walk, without evidence and without verdicts.

    ``model`` is looked at instead of the problem's own; both empty where its loss has no graph, and where loss or
    outputs are not finite. The caller sees to it that the model's state is kept (see ``preserve.untouched``).
    """
    with looking(problem, model, seed=seed) as look:
        if look.capture.loss_root is None or not forward_is_finite(look.capture):
            return (), ()
        seen = observe(look.capture, look.layers, seed=seed)
        return measure(look.capture, look.layers, seen, problem.batch_size)


_PLAIN = (
    "gradients were read off torch's own backward, which underflows with its dtype, because this torch lacks what the"
    " exact walk rests on ({})"
)


def _bare(flow: Flow, look: Look) -> Flow:
    """A flow of the forward pass alone: names, kinds, places and activations; no signal."""
    seen = Observed(Tape(), [], 1)
    measured, calls = measure(look.capture, look.layers, seen, 1)
    plain = tuple(m.replace(call=layer.call) for m, layer in zip(measured, look.layers, strict=True))
    return flow.replace(layers=plain, calls=calls)

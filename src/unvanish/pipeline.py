"""From a problem to a report: capture, walk, measure, gather evidence, decide, judge."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from unvanish.backward import Tape, plain_walk, supported, walk
from unvanish.capture import Call, Capture, record
from unvanish.decide import decide, has_converged, may_be_stationary
from unvanish.evidence.curvature import decrement
from unvanish.evidence.free import FreeLoss, free_loss
from unvanish.evidence.inputs import input_facts
from unvanish.evidence.last import Last, last_call
from unvanish.evidence.loss import loss_facts
from unvanish.evidence.noise import noise_flags
from unvanish.evidence.output import output_facts
from unvanish.evidence.step import step_facts
from unvanish.evidence.updates import Updates
from unvanish.evidence.zeros import zero_facts
from unvanish.layers import Layer, layers_of
from unvanish.measure import measure
from unvanish.observe import observe
from unvanish.paths import Observed
from unvanish.preserve import untouched
from unvanish.problem import Optimizer, Problem
from unvanish.records import CallFlow, Flow, LayerFlow, Setting, UnvanishError
from unvanish.report import Report
from unvanish.rules import judge
from unvanish.structure import tensors

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
    output cotangents averaged instead of one, and the batch cut into eight chunks to tell gradients from noise). The
    model, its gradients, buffers, mode and every random state are left as they were. The same problem and seed give the
    same report. Raises UnvanishError where nothing can be checked.
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
            raise UnvanishError(f"diagnose() does not know {', '.join(unknown)}; a Problem has {_fields()}")
        problem = Problem(problem, inputs, targets, loss_fn, optimizer, **more)
    if effort not in EFFORTS:
        raise UnvanishError(f"effort={effort!r} is unknown; choose one of {', '.join(EFFORTS)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UnvanishError(f"seed={seed!r} must be a whole number from 0 to 2^63 - 1")
    flow = decide(look(problem, effort, seed))
    return Report.from_flow(flow, judge(flow))


def _fields() -> str:
    return ", ".join(Problem.__dataclass_fields__)


def look(problem: Problem, effort: str = "auto", seed: int = 0) -> Flow:
    """Everything measured in one look, before anything is decided."""
    model, optimizer = problem.build(seed)
    with untouched(model, seed, problem.loss_fn):
        capture = record(problem, model)
        try:
            return _look(problem, capture, optimizer, effort, seed)
        finally:
            capture.release()


def _look(problem: Problem, capture: Capture, optimizer: Optimizer | None, effort: str, seed: int) -> Flow:
    layers = layers_of(capture)
    flow = Flow(setting=_setting(problem, capture, optimizer, effort, seed), notes=_notes(capture))
    broken = _born(problem, capture)
    if broken is not None:
        return _bare(flow, capture, layers).replace(nonfinite="forward", nonfinite_call=broken[0], notes=broken[1])
    free = free_loss(problem, capture)
    last = None if isinstance(free, str) else last_call(capture, free)
    facts = loss_facts(free, last, capture.loss, seed)
    flow = flow.replace(loss=facts)
    if capture.loss_root is None:
        return _bare(flow, capture, layers)
    reason = supported()
    if reason:
        flow = flow.replace(setting=flow.setting.replace(exact=False), notes=(*flow.notes, _PLAIN.format(reason)))
    updates = None if optimizer is None else Updates(optimizer, keep=effort != "quick")
    seen = observe(capture, layers, probes=EFFORTS[effort], seed=seed, exact=not reason, updates=updates)
    measured, calls = measure(capture, layers, seen, problem.batch_size, facts)
    flow = flow.replace(layers=measured, calls=calls)
    if seen.loss.broken is not None:
        return flow.replace(nonfinite="backward", nonfinite_call=seen.loss.broken)
    if updates is not None and updates.refused:
        refused = (
            "update_to_weight_ratio",
            f"the optimizer cannot be stepped one parameter at a time ({updates.refused})",
        )
        flow = flow.replace(undecided=(*flow.undecided, refused))
    flow = flow.replace(zeros=zero_facts(problem, capture, layers, seen, seed, plain_walk if reason else walk))
    if effort == "full":
        flow = _with_noise(flow, noise_flags(problem, capture.model, layers, seed))
    if effort == "quick" or isinstance(free, str):
        return flow
    return _more_evidence(problem, capture.model, flow, free, last, updates, seed)


def _with_noise(flow: Flow, flags: dict[str, bool] | str) -> Flow:
    if isinstance(flags, str):
        return flow.replace(undecided=(*flow.undecided, ("noise", flags)))
    return flow.replace(layers=tuple(a.replace(noise=flags.get(a.name)) for a in flow.layers))


def _more_evidence(
    problem: Problem,
    model: nn.Module,
    flow: Flow,
    free: FreeLoss,
    last: Last | None,
    updates: Updates | None,
    seed: int,
) -> Flow:
    """What a walk cannot tell: curvature, the next steps, the reach of the outputs, the scale of the inputs."""
    loss = flow.loss
    assert loss is not None
    if has_converged(loss):
        return flow
    if last is not None:
        flow = flow.replace(output=output_facts(last, loss))
    flow = flow.replace(
        inputs=input_facts(problem, flow.layers, flow.calls, lambda other: _flow_only(other, model, seed))
    )
    if may_be_stationary(flow) and loss.reference is not None:
        found = decrement(problem, model, free, loss.reference, seed)
        flow = flow.replace(decrement_refused=found) if isinstance(found, str) else flow.replace(decrement=found)
    if updates is not None and not any(a.verdict == "nonfinite" for a in flow.layers):
        flow = flow.replace(step=step_facts(problem, model, updates, loss, seed))
    return flow


def _flow_only(problem: Problem, model: nn.Module, seed: int) -> tuple[tuple[LayerFlow, ...], tuple[CallFlow, ...]]:
    capture = record(problem, model)
    try:
        layers = layers_of(capture)
        if capture.loss_root is None:
            return (), ()
        return measure(capture, layers, observe(capture, layers, seed=seed), problem.batch_size)
    finally:
        capture.release()


_PLAIN = (
    "gradients were read off torch's own backward, which underflows with its dtype, because this torch lacks what the"
    " exact walk rests on ({})"
)


def _born(problem: Problem, capture: Capture) -> tuple[int | None, tuple[str, ...]] | None:
    """Where the first non-finite number of the forward pass came from; None where loss and outputs are finite."""
    bad_outputs = any(not bool(torch.isfinite(t).all()) for t in tensors(capture.values) if t.is_floating_point())
    if math.isfinite(capture.loss) and not bad_outputs:
        return None
    notes: list[str] = []
    if any(not bool(torch.isfinite(t).all()) for t in tensors(problem.inputs) if t.is_floating_point()):
        notes.append("the inputs already hold numbers that are not finite")
    bad = [n for n, p in capture.model.named_parameters() if not bool(torch.isfinite(p.detach()).all())]
    if bad:
        notes.append(f"parameters already hold numbers that are not finite: {', '.join(bad[:3])}")
    masks = ("masked_fill", "masked_fill_", "where")

    def born_here(call: Call) -> bool:
        return not call.finite and all(capture.calls[j].finite for j in call.inputs) and call.name not in masks

    birth = next((c.index for c in capture.calls if born_here(c)), None)
    before = [c for c in capture.calls if c.finite and (birth is None or c.index < birth)]
    if before:
        top = max(before, key=lambda c: c.rms)
        notes.append(
            f"the largest activations before it: rms {top.rms:.3g} after {top.name} in {top.module or 'the model'}"
        )
    return birth, tuple(notes)


def _bare(flow: Flow, capture: Capture, layers: list[Layer]) -> Flow:
    """A flow of the forward pass alone: names, kinds, places and activations; no signal."""
    seen = Observed(Tape(), [], 1)
    measured, calls = measure(capture, layers, seen, 1)
    plain = tuple(m.replace(call=layer.call) for m, layer in zip(measured, layers, strict=True))
    return flow.replace(layers=plain, calls=calls)


def _setting(problem: Problem, capture: Capture, optimizer: Optimizer | None, effort: str, seed: int) -> Setting:
    model = capture.model
    first = next((p for p in model.parameters() if p.is_floating_point()), next(model.parameters()))
    return Setting(
        model=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        batch_size=problem.batch_size,
        dtype=str(first.dtype).removeprefix("torch."),
        device=str(first.device),
        mode="train" if model.training else "eval",
        effort=effort,
        seed=seed,
        autocast="" if problem.autocast is None else str(problem.autocast).removeprefix("torch."),
        optimizer="" if optimizer is None else type(optimizer).__name__,
        eps=None if optimizer is None else _eps(optimizer),
        torch=str(torch.__version__),
    )


def _eps(optimizer: Optimizer) -> float | None:
    """The eps beside the root of the second moment; other optimizers' eps means something else."""
    adaptive = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad")
    found = [float(group["eps"]) for group in optimizer.param_groups if "eps" in group]
    return max(found) if found and type(optimizer).__name__ in adaptive else None


def _notes(capture: Capture) -> tuple[str, ...]:
    notes = []
    if not capture.model.training:
        notes.append(
            "the model was checked in eval mode, as it was given; training behaves differently (dropout, norms)"
        )
    for place in sorted(capture.hooked):
        notes.append(f"a tensor hook is set at {place or 'an unknown place'}; gradients are shown without what it does")
    return tuple(notes)

"""Where the first number that is not finite was born, what it was given, and what replaces it later.

A loss may be finite although the forward pass was not: what is not finite is replaced on the way (``where``,
``nan_to_num``, an index that leaves rows out), and comes back as 0 times nan in the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from unvanish.evidence.moving import loss_again
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import Birth, Flow, LayerFlow
from unvanish.trace.births import hiders, origins
from unvanish.trace.calls import Call, Capture
from unvanish.trace.places import place
from unvanish.trace.scaled import entries_of, is_finite
from unvanish.trace.structure import arguments, tensors


def forward_birth(look: Look, flow: Flow) -> Flow | None:
    """The flow of a forward pass whose loss is not finite; None where it is."""
    capture = look.capture
    if math.isfinite(capture.loss):
        return None
    calls, found = capture.calls, origins(capture.calls)
    end = capture.loss_index if capture.loss_index is not None and capture.loss_index >= 0 else None
    index = None if end is None else found[end]
    if index is None and end is not None and calls[end].trouble is not None:
        index, facts = _masked_loss(capture, end)
    else:
        facts = _birth(look, index)
        if index is not None and not calls[index].inputs and not facts.given and not facts.row:
            facts = facts.replace(**_beyond(look.problem))
    notes = list(flow.notes)
    if "inputs" in _broken_batch(look.problem):
        notes.append("the inputs already hold numbers that are not finite")
    if facts.parameters:
        notes.append(f"parameters already hold numbers that are not finite: {', '.join(facts.parameters[:3])}")
    before = [c for c in calls if c.finite and (index is None or c.index < index)]
    if before:
        top = max(before, key=lambda c: c.rms)
        notes.append(f"the largest activations before it: rms {top.rms:.3g} after {top.place}")
    return flow.replace(nonfinite="forward", nonfinite_call=index, birth=facts, notes=tuple(notes))


def backward_birth(look: Look, flow: Flow, broken: int) -> Flow:
    """The flow of a gradient that is not finite from the call ``broken`` on back, although the loss is finite."""
    calls, found = look.capture.calls, origins(look.capture.calls)
    here = [found[index] for index in (broken, *calls[broken].inputs)]
    index = min((k for k in here if k is not None), default=None)
    if index is None:
        facts = _birth(look, broken) if _masked_row(calls[broken]) else None
        return flow.replace(nonfinite="backward", nonfinite_call=broken, birth=facts)
    hidden = next(hiders(calls, index), None)
    facts = _birth(look, index).replace(hidden_by=None if hidden is None else hidden.index)
    return flow.replace(nonfinite="forward", nonfinite_call=index, birth=facts)


def harmless_births(capture: Capture) -> tuple[str, ...]:
    """A remark about what was not finite inside, was replaced, and left loss and gradient finite."""
    born = [index for index in origins(capture.calls) if index is not None]
    if not born:
        return ()
    call = capture.calls[min(born)]
    kind = "nan" if call.trouble is not None and call.trouble.nan else "inf"
    hider = next(hiders(capture.calls, call.index), None)
    after = "nothing in the loss depends on it" if hider is None else f"{hider.place_and_line} replaces it"
    return (f"{call.place_and_line} makes {kind} of some numbers; {after}, and loss and gradient are finite",)


def worn(model: nn.Module, layers: Sequence[LayerFlow]) -> Birth | None:
    """Trainable tensors that hold such numbers although this batch does not meet them; None where there are none.

    ``layers``: all there are, with the norms of their weights.
    """
    if all(a.log10_weight_norm is not None and a.log10_weight_norm < math.inf for a in layers):
        return None
    live = {n for n, p in model.named_parameters() if p.requires_grad}
    found = tuple(n for n in already_broken(model) if n in live)
    return Birth(parameters=found) if found else None


def already_broken(model: nn.Module) -> tuple[str, ...]:
    """Trainable tensors that hold numbers which are not finite, and others that hold nan (-inf may be a mask).

    Not the running statistics of a BatchNorm in training, which the pass writes and does not read.
    """
    writing = {id(b) for m in model.modules() if isinstance(m, _NormBase) and m.training for b in m.buffers(False)}
    named = [(n, p, p.requires_grad) for n, p in model.named_parameters()]
    named += [(n, b, False) for n, b in model.named_buffers() if b.is_floating_point() and id(b) not in writing]
    return tuple(n for n, t, live in named if not _sound(t.detach(), live))


def _sound(tensor: Tensor, trainable: bool) -> bool:
    tensor = entries_of(tensor)
    return is_finite(tensor) or (not trainable and not bool(tensor.isnan().any()))


def _masked_loss(capture: Capture, end: int) -> tuple[int, Birth]:
    """A loss that asks for what a mask has set to infinity: its first call that is given it, and the mask's."""
    waiting, behind = [end], set[int]()
    while waiting:
        index = waiting.pop()
        if index not in behind and not capture.calls[index].finite:
            behind.add(index)
            waiting += capture.calls[index].inputs
    first = min(index for index in behind if capture.calls[index].part == "loss" or index == end)
    return first, Birth(numbers="inf", given="mask", maker=capture.calls[min(behind)].place_and_line)


def _beyond(problem: Problem) -> dict[str, str]:
    """What is known where the inputs do not fit into the type that autocast turns them into, else nothing."""
    if problem.autocast is None:
        return {}
    floating = [t.detach() for t in tensors(problem.inputs) if t.is_floating_point() and not t.is_nested and t.numel()]
    most, largest = max((float(t.abs().max()) for t in floating), default=0.0), torch.finfo(problem.autocast).max
    return {"given": "range", "maker": f"{most:.3g}"} if largest < most < math.inf else {}


def _masked_row(call: Call) -> bool:
    return call.trouble is not None and call.trouble.row


def _birth(look: Look, index: int | None) -> Birth:
    call = None if index is None else look.capture.calls[index]
    trouble = None if call is None else call.trouble
    facts = Birth(parameters=already_broken(look.model))
    if trouble is None:
        return facts
    if not trouble.given:  # a buffer may have got it from this very pass
        live = {name for name, p in look.model.named_parameters() if p.requires_grad}
        facts = facts.replace(parameters=tuple(name for name in facts.parameters if name in live))
    facts = facts.replace(numbers="nan" if trouble.nan else "inf", share=trouble.share, row=trouble.row)
    if trouble.nothing and not facts.parameters:
        return facts.replace(given="nothing", maker=trouble.nothing)
    if not trouble.given or facts.parameters:
        return facts
    if batch := _broken_batch(look.problem):
        return facts.replace(given=batch[0] if call is not None and call.part == "model" else batch[-1])
    kind = "weights" if trouble.weights else "constant"
    return facts.replace(given=kind, maker=_maker(look, _Watch(trouble.given == "nan", kind)))


def _broken_batch(problem: Problem) -> tuple[str, ...]:
    """Which parts of the batch hold numbers that are not finite."""
    parts = {"inputs": problem.inputs, "targets": problem.targets}
    floats = {n: [t for t in tensors(part) if t.is_floating_point() and not t.is_sparse] for n, part in parts.items()}
    return tuple(name for name, found in floats.items() if not all(map(is_finite, found)))


def _maker(look: Look, watch: _Watch) -> str:
    """The call that made of finite numbers the first that is not, found by one more pass; "" where none is seen."""
    with suppress(Exception), torch.enable_grad(), watch:
        loss_again(look.problem, look.model, look.seed)
    return watch.found


class _Watch(TorchFunctionMode):
    """Keeps the first call whose result is not finite although all it was given is; of constants, or of weights too."""

    def __init__(self, nan: bool, kind: str) -> None:
        super().__init__()
        self.nan, self.weights, self.found = nan, kind == "weights", ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.found and isinstance(out, Tensor) and out.is_floating_point():
            with torch._C.DisableTorchFunction():
                if self.weights or not out.requires_grad:
                    self.look(func, out, args, kwargs)
        return out

    def look(self, func: Any, out: Tensor, args: Any, kwargs: Any) -> None:
        given = [t for t in arguments((args, kwargs)) if t is not out and t.is_floating_point()]
        bad = out.isnan() if self.nan else ~torch.isfinite(out)
        if bool(bad.any()) and all(map(is_finite, given)) and not _infinite_numbers(args, kwargs):
            where = place()
            zeros = self.nan and any(t.numel() > 1 and not bool(t.any()) for t in given)  # over their norm or their sum
            self.found = getattr(func, "__name__", "a call") + (f" at {where}" if where else "")
            self.found += " out of zeros (0 divided by 0)" if zeros else ""


def _infinite_numbers(args: Any, kwargs: Any) -> bool:
    return any(isinstance(v, float) and not math.isfinite(v) for v in (*args, *kwargs.values()))

"""The next update of the user's own optimizer, a few parameters at a time, without touching them or the optimizer."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, optim

from unvanish.flow import adam
from unvanish.flow.arrived import Arrival, Pull
from unvanish.flow.optimizers import same_kind, undecorated_step
from unvanish.flow.sample import Sample
from unvanish.problem import Optimizer, Optimizers, parts_of
from unvanish.trace.scaled import norm_of, norms_of

TOGETHER = 2**18  # entries that wait for each other: small tensors share the cost of a step, large ones wait for none
AT_ONCE = 2**16  # entries that are stepped as one vector: with all their state they fit into a core's cache
BY_FORMULA = 2**17  # the same where the update takes one pass over them
WHOLE = 200_000  # entries up to which a tensor is stepped whole for its norm: a sixteenth of more tells it within 1%
IN_USE = 0.25  # share of entries with a gradient from which on a sample of them stands for all

# What these do to an entry depends on nothing but that entry, so that it may stand in any tensor.
ENTRY_BY_ENTRY = (
    optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop, optim.Adagrad,
    optim.Adadelta, optim.ASGD, optim.Rprop,
)  # fmt: skip

NARROW = (torch.float16, torch.bfloat16)
DOMINATED = 3.0  # times the gradient: a step that divides by the size of such a sum is mostly that of the decay


class Updates:
    """For each parameter: the norm of its next update by the optimizer that holds it, 0 where none does."""

    def __init__(self, optimizer: Optimizers, keep: bool) -> None:
        """``keep``: the updates themselves too, for trying them.

        Else Adam's update of a tensor of more than WHOLE entries is that of a random sample of them, whose norm tells
        that of all within 3%: Adam moves every entry by about as much. Tables of which few rows are in use are not
        sampled, nor anything where eps is no number to divide by: one entry in a million may be 0 / 0 there.
        """
        self.optimizer, self.keep = optimizer, keep
        self.changes: dict[int, Tensor] = {}
        self.arrivals: dict[int, Arrival] = {}
        self.pull: list[Pull] = []  # of each decaying parameter
        self.found: dict[int, float] = {}
        self.parts = [_Part(each, self) for each in parts_of(optimizer)]
        self.holder = {key: part for part in self.parts for key in part.groups}

    @property
    def refused(self) -> str:
        """Why some optimizer cannot be stepped, or ""."""
        return next((part.refused for part in self.parts if part.refused), "")

    def held(self, parameter: nn.Parameter) -> bool:
        return id(parameter) in self.holder

    def group(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The settings by which the optimizer that holds a parameter steps it."""
        part = self.holder[id(parameter)]
        return part.optimizer.param_groups[part.groups[id(parameter)]]

    def read(self, parameter: nn.Parameter, gradient: Tensor, scale: float = 1.0) -> None:
        """``gradient * scale``: what the user's backward would leave in ``parameter.grad`` (same shape and dtype)."""
        part = self.holder.get(id(parameter))
        if part is None:
            self.found[id(parameter)] = 0.0
        else:
            part.read(parameter, gradient, scale)

    def flush(self) -> None:
        """Step the parameters that wait; afterwards everything read so far is in ``found``."""
        for part in self.parts:
            part.flush()


class _Part:
    """One optimizer, and what of its parameters waits to be stepped."""

    def __init__(self, optimizer: Optimizer, into: Updates) -> None:
        self.optimizer, self.keep, self.changes, self.found = optimizer, into.keep, into.changes, into.found
        self.arrivals, self.pull = into.arrivals, into.pull
        self.groups = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self.refused = ""
        self.adam = [adam.is_adam(optimizer, group) for group in optimizer.param_groups]
        self.room = adam.Room(BY_FORMULA)
        self.waiting: list[tuple[nn.Parameter, Tensor, float]] = []
        self.entries = 0

    def read(self, parameter: nn.Parameter, gradient: Tensor, scale: float) -> None:
        if not self.refused:
            self.waiting.append((parameter, gradient, scale))
            self.entries += parameter.numel()
            if self.entries >= TOGETHER:
                self.flush()

    def flush(self) -> None:
        waiting, self.waiting, self.entries = self.waiting, [], 0
        if not waiting or self.refused:
            return
        any_tensor = type(self.optimizer) in ENTRY_BY_ENTRY
        # The state of a parameter without dimensions looks like a number that all entries share.
        whole = [(p, _times(g, scale)) for p, g, scale in waiting if not any_tensor or not p.ndim]
        try:
            self._step_tensors(whole)
            self._step_entries([(p, g, scale) for p, g, scale in waiting if any_tensor and p.ndim])
            if self.keep:
                sizes = norms_of([g for _, g, _ in waiting])
                pairs = zip(waiting, sizes, strict=True)
                self._arrive([(p, _times(g, scale)) for (p, g, scale), size in pairs if _may_break(p, scale * size)])
                pulled = (self._pulled(p, g, scale) for p, g, scale in waiting)
                self.pull += [each for each in pulled if each is not None]
        except Exception as error:  # optimizers that need a closure or the whole set of parameters
            self.refused = f"{type(self.optimizer).__name__}: {type(error).__name__}: {error}"

    def _arrive(self, waiting: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """The step taken by copies of the weights in their own type, rounding and overflow and all."""
        for parameter, gradient in waiting:
            before = parameter.detach().as_subclass(Tensor)
            stand_in = nn.Parameter(before.clone())
            kept = self.optimizer.state.get(parameter, {})
            state = {k: _copied(v, stand_in) for k, v in kept.items()}
            group = self.groups[id(parameter)]
            left = self._step([(group, stand_in, gradient, state)])
            first = stand_in.detach().clone()
            for _ in range(rectified_after(self.optimizer, group, kept) - 1):
                left = self._step([(group, stand_in, gradient, left[stand_in])])
            states = [v for v in left.get(stand_in, {}).values() if isinstance(v, Tensor) and v.shape == before.shape]
            after, asked = stand_in.detach(), self.changes[id(parameter)]
            changing, wide = asked != 0, _wide(asked)
            self.arrivals[id(parameter)] = Arrival(
                bad=int((~torch.isfinite(after)).sum()),
                bad_state=any(not bool(torch.isfinite(v).all()) for v in states),
                bad_gradient=not bool(torch.isfinite(gradient).all()),
                asked=int(changing.sum()),
                moved=int((changing & (first != before)).sum()),
                wanted=norm_of(wide) ** 2,
                given=float((wide.conj() * (_wide(first) - _wide(before))).real.sum()),
            )

    def _pulled(self, parameter: nn.Parameter, gradient: Tensor, scale: float) -> Pull | None:
        """How weight decay pulls at a parameter; None where it does not, or where that cannot be told."""
        group = self.optimizer.param_groups[self.groups[id(parameter)]]
        decay, lr = float(group.get("weight_decay") or 0.0), float(group.get("lr", 0.0))
        if not decay or group.get("maximize") or id(parameter) not in self.changes or parameter.is_complex():
            return None
        weights = parameter.detach().as_subclass(Tensor).double()
        change, size = self.changes[id(parameter)].double(), norm_of(weights)
        if adam.decays_apart(self.optimizer, group):
            return Pull(norm_of(change + lr * decay * weights), norm_of(change), size, lr * decay * size)
        wide = gradient.double() * scale
        without, whole = norm_of(wide), norm_of(wide + decay * weights)
        if type(self.optimizer) is optim.SGD:
            return Pull(without, whole, size, lr * decay / (1.0 - float(group["momentum"])) * size)
        straight = 2.0 * math.log(2.0) * norm_of(change)  # steps of one length, that halve as soon as such a share
        return Pull(without, whole, size, straight if whole > DOMINATED * without else 0.0)

    def _step_tensors(self, waiting: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        taken = []
        for parameter, gradient in waiting:
            group = self.groups[id(parameter)]
            start = _wide(parameter.detach().as_subclass(Tensor)) if self._needs_weights(group) else None
            stand_in = nn.Parameter(torch.zeros_like(gradient) if start is None else start.clone())
            state = self.optimizer.state.get(parameter, {})
            state = {k: _copied(v, stand_in) for k, v in state.items()}
            taken.append((parameter, start, (group, stand_in, gradient, state)))
        if taken:
            self._step([each for _, _, each in taken])
        for parameter, start, (_, stand_in, _, _) in taken:
            change = stand_in.detach() if start is None else stand_in.detach() - start
            if self.keep:
                self.changes[id(parameter)] = change.to(parameter.dtype)
            self.found[id(parameter)] = norm_of(change)

    def _step_entries(self, waiting: Sequence[tuple[nn.Parameter, Tensor, float]]) -> None:
        """Entries of one group with the same counters are stepped as one vector, as many as stay in a cache."""
        alike: dict[Any, list[_Vectors]] = {}
        for parameter, gradient, scale in waiting:
            group = self.groups[id(parameter)]
            options, state = self.optimizer.param_groups[group], self.optimizer.state.get(parameter, {})
            by_formula = self.adam[group] and adam.applies(options, parameter, state)
            if not by_formula:
                gradient, scale = _times(gradient, scale), 1.0
            tame = by_formula and float(options["eps"]) > torch.finfo(parameter.dtype).tiny
            sample = _sample(gradient) if tame and not self.keep else None
            vectors = _vectors(parameter, gradient, state, self._needs_weights(group), sample)
            vectors.by_formula, vectors.scale = by_formula, scale
            shared = tuple((name, _number(value)) for name, value in vectors.shared.items())
            key = (group, parameter.dtype, parameter.device, vectors.by_formula, tuple(vectors.state), shared)
            alike.setdefault(key, []).append(vectors)
            if self.keep:
                vectors.change = torch.empty_like(vectors.gradient)
                self.changes[id(parameter)] = vectors.change.view(parameter.shape)
        for (group, *_), several in alike.items():
            if several[0].by_formula:
                for parts in _parts(several, BY_FORMULA):
                    self._step_by_formula(group, parts)
            else:
                for parts in _parts(several, AT_ONCE):
                    self._step_parts(group, parts)
            self.found.update((v.key, v.stretch * math.hypot(*v.norms)) for v in several)

    def _step_by_formula(self, group: int, parts: Sequence[tuple[_Vectors, slice]]) -> None:
        first, dtype = parts[0][0], parts[0][0].gradient.dtype
        changes = [_cut(v.change, cut) for v, cut in parts if v.change is not None]
        changes = changes or self.room.views("change", dtype, [cut.stop - cut.start for _, cut in parts])
        options = self.optimizer.param_groups[group]
        adam.adam_update(
            options,
            adam.decays_apart(self.optimizer, options),
            [_cut(v.gradient, cut) for v, cut in parts],
            [v.scale for v, _ in parts],
            [_cut(v.weights, cut) for v, cut in parts if v.weights is not None],
            {name: [_cut(v.state[name], cut) for v, cut in parts] for name in first.state},
            float(first.shared.get("step", 0.0)),
            changes,
            self.room,
        )
        for (vectors, _), norm in zip(parts, norms_of(changes), strict=True):
            vectors.norms.append(norm)

    def _step_parts(self, group: int, parts: Sequence[tuple[_Vectors, slice]]) -> None:
        gradient = _joined([v.gradient[cut] for v, cut in parts])
        weights = [v.weights[cut] for v, cut in parts if v.weights is not None]
        start = _wide(_joined(weights)) if weights else None
        stand_in = nn.Parameter(torch.zeros_like(gradient) if start is None else start.clone())
        first = parts[0][0]
        state = {k: _copied(v, stand_in) for k, v in first.shared.items()}
        for name in first.state:
            state[name] = torch.cat([v.state[name][cut] for v, cut in parts]).to(stand_in.dtype)
        self._step([(group, stand_in, gradient, state)])
        change = stand_in.detach() if start is None else stand_in.detach() - start
        for (vectors, cut), moved in zip(parts, change.split([c.stop - c.start for _, c in parts]), strict=True):
            vectors.norms.append(norm_of(moved))
            if vectors.change is not None:
                vectors.change[cut] = moved

    def _needs_weights(self, group: int) -> bool:
        """Whether a step depends on the weights. Where it does not: from zero, nothing of it is lost to rounding.

        Of these classes it is known, and others may measure their step by the weights, as Adafactor and LARS do.
        """
        options = self.optimizer.param_groups[group]
        decays = bool(options.get("weight_decay") or options.get("lambd"))  # the latter is ASGD's decay
        return decays or type(self.optimizer) not in ENTRY_BY_ENTRY

    def _step(self, taken: Sequence[tuple[int, nn.Parameter, Tensor, dict[str, Any]]]) -> Any:
        """One step of the optimizer's own code on (group, stand-in, gradient, state); the state after it."""
        groups = {index: {**self.optimizer.param_groups[index], "params": []} for index, *_ in taken}
        alone = same_kind(self.optimizer, list(groups.values()))
        for index, stand_in, gradient, state in taken:
            # SparseAdam steps the rows of a table that were looked up, and takes no other gradient.
            rows = gradient.to_sparse(1) if isinstance(self.optimizer, optim.SparseAdam) else gradient
            stand_in.grad = rows.to(stand_in.dtype)
            groups[index]["params"].append(stand_in)
            if state:
                alone.state[stand_in] = state
        with torch.no_grad():
            undecorated_step(alone)()
        return alone.state


def rectified_after(optimizer: Optimizer, group: int, state: dict[str, Any]) -> int:
    """Steps until RAdam divides by its second moment, once its ρ is above 5; 1 for other optimizers and afterwards."""
    if type(optimizer) is not optim.RAdam:
        return 1
    beta = float(optimizer.param_groups[group]["betas"][1])
    taken = int(state.get("step", 0))
    for step in range(taken + 1, taken + 20):
        if 2 / (1 - beta) - 1 - 2 * step * beta**step / (1 - beta**step) > 5:
            return step - taken
    return 1


@dataclass(slots=True)
class _Vectors:
    """A parameter (where it decays), its gradient and its state without their shapes; all entries share ``shared``."""

    key: int
    weights: Tensor | None
    gradient: Tensor
    state: dict[str, Tensor]
    shared: dict[str, Any]
    norms: list[float] = field(default_factory=list)
    change: Tensor | None = None
    by_formula: bool = False
    scale: float = 1.0
    stretch: float = 1.0  # the norm of all entries over that of those that are stepped


def _sample(gradient: Tensor) -> Sample | None:
    if gradient.numel() <= WHOLE:
        return None
    sample = Sample.of(gradient.numel())
    taken = sample.taken_from(gradient)
    return sample if int(torch.count_nonzero(taken)) >= IN_USE * taken.numel() else None


def _vectors(
    parameter: nn.Parameter, gradient: Tensor, state: dict[str, Any], decays: bool, sample: Sample | None
) -> _Vectors:
    flat = (lambda t: t.reshape(-1)) if sample is None else sample.taken_from
    weights = flat(parameter.detach().as_subclass(Tensor)) if decays else None
    vectors = _Vectors(id(parameter), weights, flat(gradient).contiguous(), {}, {})
    vectors.stretch = 1.0 if sample is None else math.sqrt(parameter.numel() / vectors.gradient.numel())
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            vectors.state[name] = flat(value.detach())
        else:
            vectors.shared[name] = value
    return vectors


def _parts(several: Sequence[_Vectors], at_once: int) -> Iterator[list[tuple[_Vectors, slice]]]:
    """All entries in order, so many at a time."""
    parts: list[tuple[_Vectors, slice]] = []
    free = at_once
    for vectors in several:
        entries, done = vectors.gradient.numel(), 0
        while done < entries:
            size = min(free, entries - done)
            parts.append((vectors, slice(done, done + size)))
            done, free = done + size, free - size
            if not free:
                yield parts
                parts, free = [], at_once
    if parts:
        yield parts


def _cut(vector: Tensor, cut: slice) -> Tensor:
    return vector if cut.stop - cut.start == vector.numel() else vector[cut]  # most are stepped whole


def _joined(vectors: Sequence[Tensor]) -> Tensor:
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors)  # type: ignore[arg-type]


def _times(gradient: Tensor, scale: float) -> Tensor:
    return gradient if scale == 1.0 else gradient * scale


def _may_break(parameter: nn.Parameter, gradient_norm: float) -> bool:
    """Whether the step may not arrive as asked: weights of 16 bits, or a square near the end of a wider type."""
    return parameter.dtype in NARROW or not gradient_norm < 0.1 * math.sqrt(torch.finfo(parameter.dtype).max)


def _wide(weights: Tensor) -> Tensor:
    return weights.to(torch.complex128 if weights.is_complex() else torch.float64)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else repr(value)


def _copied(value: Any, stand_in: Tensor) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().clone()
        # A counter is a tensor without dimensions and keeps its type, unless the parameter has none either.
        return value.to(stand_in.dtype) if value.is_floating_point() and (value.ndim or not stand_in.ndim) else value
    return copy.deepcopy(value)

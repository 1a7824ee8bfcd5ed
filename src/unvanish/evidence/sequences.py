"""The sequences of one pass: zeros added to the inputs of recurrent modules, or of the whole network, to be asked.

x + 0 changes no number, and its gradient is that of x, whether x is an input of the network or made by a layer. Hooks
on the recurrent modules and a function mode add them for the time of one forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from unvanish.evidence.profile import log10_norms, together
from unvanish.trace.axes import LEAST, Axis
from unvanish.trace.scaled import LOG_ZERO, Scaled
from unvanish.trace.structure import rebuild

Arranged = Callable[[Tensor], Tensor]
Last = Callable[[Tensor], "Arranged | None"]


@dataclass(slots=True)
class Tapped:
    """One call of a recurrent module: what came in, and the zeros at its input, its output and its states."""

    inputs: Tensor
    lengths: Tensor | None  # of a packed sequence: how many samples each step has
    order: Tensor | None  # of a packed sequence: which sample each row is
    initial: tuple[Tensor, ...] | None
    at_input: Tensor
    at_output: Tensor | None = None
    at_states: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)  # what it gave: the output, then the states
    left: bool = False


@dataclass(slots=True)
class Given:
    """A tensor that holds a sequence without being given to a recurrent module: an input, or what embeds one."""

    values: Tensor
    axis: int
    zeros: Tensor
    call: str


def zeros_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format).requires_grad_()


class Taps(TorchFunctionMode):
    """``calls``: by the name of the recurrent module, in order. ``given``: where none of them runs, the sequence."""

    def __init__(self, modules: Mapping[str, nn.Module], axes: Sequence[Axis]) -> None:
        super().__init__()
        self.modules, self.axes = modules, axes
        self.names = {id(module): name for name, module in modules.items()}
        self.calls: dict[str, list[Tapped]] = {}
        self.given: Given | None = None
        self.taken: tuple[Tensor, Tensor] | None = None  # where no input holds the sequence: it, and it with the zeros

    def tap(self, tensor: Any) -> Any:
        """An input of the network, with zeros added where it is the sequence that is looked for."""
        if self.given is None and isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.is_nested:
            found = _axis_of(tuple(tensor.shape), self.axes)
            if found is not None:
                axis, call = found
                self.given = Given(tensor.detach(), axis, zeros_like(tensor), call)
                return tensor + self.given.zeros
        return tensor

    def tap_all(self, inputs: Any) -> Any:
        return rebuild(inputs, self.tap) if self.axes else inputs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if self.axes and args and isinstance(args[0], Tensor):
            args = (self.walked(name, args[0]), *args[1:])
        out = func(*args, **(kwargs or {}))
        embeds = self.axes and self.given is None and name == "embedding"
        return self.tap(out) if embeds and isinstance(out, Tensor) and out.ndim > 2 else out

    def walked(self, name: str, tensor: Tensor) -> Tensor:
        """What a call goes along, with zeros added the first time where no input was found to hold the sequence."""
        if self.taken is None and self.given is None and tensor.is_floating_point():
            for each in self.axes:
                if (each.call, each.shape) == (name, tuple(tensor.shape)):
                    self.given = Given(tensor.detach(), each.axis, zeros_like(tensor), name)
                    self.taken = tensor, tensor + self.given.zeros
        return self.taken[1] if self.taken is not None and self.taken[0] is tensor else tensor

    @contextmanager
    def watching(self) -> Iterator[None]:
        placed: list[RemovableHandle] = []
        try:
            for module in self.modules.values():
                placed.append(module.register_forward_pre_hook(self.enter, with_kwargs=True))
                placed.append(module.register_forward_hook(self.leave))
            with self:
                yield
        finally:
            for each in placed:
                each.remove()

    def enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        named = dict(zip(("input", "hx"), args, strict=False)) | kwargs
        if set(named) - {"input", "hx"} or "input" not in named:
            return None
        x, state = named["input"], named.get("hx")
        packed = isinstance(x, PackedSequence)
        data = x.data if packed else x
        if not isinstance(data, Tensor) or not data.is_floating_point() or data.is_nested:
            return None
        parts = None if state is None else tuple(state) if isinstance(state, (tuple, list)) else (state,)
        zeros = zeros_like(data)
        tapped = Tapped(
            data.detach(),
            x.batch_sizes if packed else None,
            x.sorted_indices if packed else None,
            None if parts is None else tuple(part.detach() for part in parts),
            zeros,
        )
        self.calls.setdefault(self.names[id(module)], []).append(tapped)
        new = PackedSequence(data + zeros, *x[1:]) if packed else data + zeros
        return (new, *([] if state is None else [state])), {}

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        calls = self.calls.get(self.names[id(module)])
        if not calls or calls[-1].left:
            return None
        call = calls[-1]
        call.left = True

        def asked(tensor: Tensor) -> Tensor:
            call.made.append(tensor.detach())
            call.at_states.append(zeros_like(tensor))
            return tensor + call.at_states[-1]

        if isinstance(module, nn.RNNCellBase):
            whole = isinstance(output, Tensor)
            return asked(output) if whole else tuple(asked(part) for part in output)
        if not isinstance(output, tuple) or len(output) != 2:  # a forward of its own
            return None
        sequence, state = output
        packed = isinstance(sequence, PackedSequence)
        data = sequence.data if packed else sequence
        call.made.append(data.detach())
        call.at_output = zeros_like(data)
        new = PackedSequence(data + call.at_output, *sequence[1:]) if packed else data + call.at_output
        return new, asked(state) if isinstance(state, Tensor) else tuple(asked(part) for part in state)


def _axis_of(shape: tuple[int, ...], axes: Sequence[Axis]) -> tuple[int, str] | None:
    """Which axis of a tensor is gone along: one of its own, else the only one as long as one that is."""
    own = [each for each in axes if each.shape == shape]
    if own:
        best = max(own, key=lambda each: each.steps)
        return best.axis, best.call
    for each in sorted(axes, key=lambda each: -each.steps):
        places = [place for place, size in enumerate(shape) if size == each.steps and place > 0]
        if each.steps >= LEAST and len(places) == 1:
            return places[0], each.call
    return None


@dataclass(slots=True)
class Strand:
    """One sequence. ``parts``: each tensor of zeros at its inputs, and how its steps are brought to the front.

    ``order``: of a packed sequence, which sample each row is, the longest first; ``whole``: how many have all the
    steps. ``call``: of a module that runs through all steps by itself.
    """

    layer: str
    kind: str
    parts: list[tuple[Tensor, Tensor, Arranged]]
    batch_first: bool
    order: Tensor | None = None
    whole: int = 0
    call: Tapped | None = None
    passed_on: list[list[Tensor]] = field(default_factory=list)

    @property
    def leaves(self) -> list[Tensor]:
        own = [self.call.at_output, *self.call.at_states] if self.call else []
        return (
            [zeros for zeros, _, _ in self.parts]
            + [t for t in own if t is not None]
            + [t for step in self.passed_on for t in step]
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0][1].dtype

    @property
    def steps(self) -> int:
        return sum(len(arranged(values)) for _, values, arranged in self.parts)

    @property
    def samples(self) -> int:
        """How many samples the batch has, those of other lengths among them."""
        return self.values().shape[1] if self.order is None else len(self.order)

    def values(self) -> Tensor:
        """The inputs as (steps, samples, …)."""
        return torch.cat([arranged(values) for _, values, arranged in self.parts])

    def told_apart(self, faint: Sequence[int], asked: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """The inputs as (steps, samples, …), what is asked of these samples, and which of the steps are faint.

        Of a packed sequence: of the samples that are at least half as long as the longest, the first steps that are
        faint for all of them, then the last ones, counted from each one's end, that are not.
        """
        call, order = self.call, self.order
        if call is None or order is None or call.lengths is None:
            return self.values(), asked, list(faint)
        sizes = call.lengths
        starts, steps = sizes.cumsum(0) - sizes, len(sizes)
        lengths = (sizes[:, None] > torch.arange(int(sizes[0]))).sum(0)
        lengths = lengths[2 * lengths >= steps]
        shortest = int(lengths.min())
        far = [step for step in range(shortest) if step + steps - shortest in faint]
        near = [steps - step for step in range(steps - shortest, steps) if step not in faint]
        rows = torch.arange(len(lengths))
        places = [starts[step] + rows for step in far] + [starts[lengths - back] + rows for back in near]
        values = call.inputs[torch.stack(places).to(call.inputs.device)] if places else call.inputs[:0, None]
        return values, asked[order[: len(lengths)].to(asked.device)], list(range(len(far)))

    def profile(self, found: Mapping[int, Scaled]) -> list[float]:
        """log10 of the norm of the signal at the inputs of each step."""
        signal: list[float] = []
        for zeros, values, arranged in self.parts:
            gradient = found.get(id(zeros))
            if gradient is None:
                signal += [LOG_ZERO] * len(arranged(values))
            else:
                dense = gradient.mantissa.to_dense() if gradient.mantissa.is_sparse else gradient.mantissa
                signal += log10_norms(gradient._replace(mantissa=arranged(dense)), 0)
        return signal

    def rise(self, found: Mapping[int, Scaled]) -> float | None:
        """How much the relative sensitivity of the outputs grows from what the module gives back to a step's input.

        Signal times size, in decades; None where it is not one call that runs through all steps.
        """
        if self.call is None or self.call.at_output is None:
            return None
        ((zeros, values, arranged),) = self.parts
        given = self._sensitivity(zeros, values, arranged, found)
        outputs = self._sensitivity(self.call.at_output, self.call.made[0], arranged, found)
        for zeros, values in zip(self.call.at_states, self.call.made[1:], strict=True):
            outputs += self._sensitivity(zeros, values, lambda t: t.reshape(1, -1), found)
        top, bottom = max(given, default=LOG_ZERO), together(outputs)
        return top - bottom if math.isfinite(top) and math.isfinite(bottom) else None

    @staticmethod
    def _sensitivity(zeros: Tensor, values: Tensor, arranged: Arranged, found: Mapping[int, Scaled]) -> list[float]:
        gradient = found.get(id(zeros))
        if gradient is None:
            return []
        sizes = log10_norms(Scaled(arranged(values), 0), 0)
        signal = log10_norms(gradient._replace(mantissa=arranged(gradient.mantissa)), 0)
        return [a + b for a, b in zip(signal, sizes, strict=True)]

    def states(self, found: Mapping[int, Scaled]) -> list[float]:
        """log10 of the norm of the signal at what each step passes on; [] where a module keeps it inside."""
        return [together([log10_norms(found.get(id(t)))[0] for t in step]) for step in self.passed_on]


def strands_of(taps: Taps, modules: Mapping[str, nn.Module]) -> list[Strand]:
    """One for each recurrent module that was called, else one for the inputs of the network."""
    found = [_of_module(name, modules[name], calls) for name, calls in taps.calls.items()]
    return found or ([] if taps.given is None else [_of_inputs(taps.given)])


def _of_module(name: str, module: nn.Module, calls: list[Tapped]) -> Strand:
    kind = type(module).__name__
    if isinstance(module, nn.RNNCellBase):
        parts = [(c.at_input, c.inputs, lambda t: t.reshape(1, -1, t.shape[-1])) for c in calls]
        return Strand(name, kind, parts, True, passed_on=[c.at_states for c in calls])
    assert isinstance(module, nn.RNNBase)
    each = [(c.at_input, c.inputs, _arranged(module, c)) for c in calls]
    lengths = [len(arranged(values)) for _, values, arranged in each]
    if len(calls) > 1 and max(lengths) == 1:  # a loop that hands the state on itself
        return Strand(name, kind, each, module.batch_first, passed_on=[c.at_states for c in calls])
    longest = lengths.index(max(lengths))
    call = calls[longest]
    strand = Strand(name, kind, [each[longest]], module.batch_first, call=call)
    if call.lengths is not None:
        strand.whole = int(call.lengths[-1])
        strand.order = torch.arange(int(call.lengths[0])) if call.order is None else call.order.cpu()
    return strand


def _arranged(module: nn.RNNBase, call: Tapped) -> Arranged:
    """How what has the shape of the call's inputs or outputs becomes (steps, samples, features)."""
    if call.lengths is not None:
        sizes = call.lengths.tolist()
        starts = [sum(sizes[:step]) for step in range(len(sizes))]
        places = torch.tensor(starts)[:, None] + torch.arange(sizes[-1])  # of the samples that have all the steps
        return lambda t: t[places.to(t.device)]
    if call.inputs.ndim == 2:
        return lambda t: t.unsqueeze(1)
    return (lambda t: t.transpose(0, 1)) if module.batch_first else (lambda t: t)


def _of_inputs(given: Given) -> Strand:
    axis = given.axis
    arranged: Arranged = lambda t: t.movedim(axis, 0) if t.ndim > 1 else t.unsqueeze(1)  # noqa: E731
    return Strand("", given.call, [(given.zeros, given.values, arranged)], axis > 0)


def last_of(strands: Sequence[Strand], targets: Any) -> Last:
    """For an output, how its part at the last step is taken, (samples, …); None where it has no steps."""
    known = sorted({(s.steps, s.samples, s.batch_first) for s in strands if s.steps > 1}, reverse=True)
    asked = tuple(targets.shape) if isinstance(targets, Tensor) else None

    def of(output: Tensor) -> Arranged | None:
        shape = tuple(output.shape)
        for steps, samples, batch_first in known:
            if len(shape) > 2 or (len(shape) == 2 and shape == asked):
                if shape[:2] == (samples, steps):
                    return lambda t: t[:, -1]
                if shape[:2] == (steps, samples):
                    return lambda t: t[-1]
                if shape[0] == samples and shape[-1] == steps:
                    return lambda t: t[..., -1]
            if shape and shape[0] == steps * samples and samples > 1:
                if batch_first:
                    return lambda t, first=steps - 1, step=steps: t[first::step]
                return lambda t, first=(steps - 1) * samples: t[first:]
        return None

    return of

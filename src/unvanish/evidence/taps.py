"""Zeros added to the inputs of recurrent modules, or of the whole network, so that their gradient can be asked.

x + 0 changes no number, and its gradient is that of x, whether x is an input of the network or made by a layer. Hooks
on all modules and a function mode do it, so that nothing is written into the user's modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from unvanish.trace.axes import LEAST, Axis
from unvanish.trace.structure import rebuild


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

    def __init__(self, modules: dict[int, str], axes: Sequence[Axis]) -> None:
        super().__init__()
        self.modules, self.axes = modules, axes
        self.calls: dict[str, list[Tapped]] = {}
        self.given: Given | None = None

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
        out = func(*args, **(kwargs or {}))
        embeds = self.axes and self.given is None and getattr(func, "__name__", "") == "embedding"
        return self.tap(out) if embeds and isinstance(out, Tensor) and out.ndim > 2 else out

    @contextmanager
    def watching(self) -> Iterator[None]:
        first = hooks.register_module_forward_pre_hook(self.enter)
        second = hooks.register_module_forward_hook(self.leave)
        try:
            with self:
                yield
        finally:
            first.remove()
            second.remove()

    def enter(self, module: nn.Module, args: Any) -> Any:
        name = self.modules.get(id(module))
        if name is None or not args:
            return None
        x = args[0]
        packed = isinstance(x, PackedSequence)
        data = x.data if packed else x
        if not isinstance(data, Tensor) or not data.is_floating_point() or data.is_nested:
            return None
        state = args[1] if len(args) > 1 else None
        parts = None if state is None else tuple(state) if isinstance(state, (tuple, list)) else (state,)
        zeros = zeros_like(data)
        tapped = Tapped(
            data.detach(),
            x.batch_sizes if packed else None,
            x.sorted_indices if packed else None,
            None if parts is None else tuple(part.detach() for part in parts),
            zeros,
        )
        self.calls.setdefault(name, []).append(tapped)
        new = PackedSequence(data + zeros, *x[1:]) if packed else data + zeros
        return (new, *args[1:])

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        name = self.modules.get(id(module))
        if name is None or not self.calls.get(name):
            return None
        call = self.calls[name][-1]

        def asked(tensor: Tensor) -> Tensor:
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

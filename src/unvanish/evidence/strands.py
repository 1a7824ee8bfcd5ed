"""The sequences of one pass: whose they are, where their steps lie in each tensor, and which outputs are the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.evidence.profile import NONE, together
from unvanish.evidence.taps import Given, Tapped, Taps
from unvanish.evidence.unrolled import log10_norms
from unvanish.trace.scaled import Scaled

Arranged = Callable[[Tensor], Tensor]
Last = Callable[[Tensor], "Arranged | None"]


@dataclass(slots=True)
class Strand:
    """One sequence. ``parts``: each tensor of zeros at its inputs, and how its steps are brought to the front.

    ``rows``: of a packed sequence, the samples that have all the steps. ``call``: of a module that runs through all
    steps by itself.
    """

    layer: str
    kind: str
    parts: list[tuple[Tensor, Tensor, Arranged]]
    batch_first: bool
    rows: Tensor | None = None
    all_samples: int = 0
    call: Tapped | None = None
    passed_on: list[list[Tensor]] = field(default_factory=list)

    @property
    def leaves(self) -> list[Tensor]:
        own = [self.call.at_output, *self.call.at_states] if self.call else []
        return [zeros for zeros, _, _ in self.parts] + [t for t in own if t is not None] + sum(self.passed_on, [])

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0][1].dtype

    @property
    def steps(self) -> int:
        return sum(len(arranged(values)) for _, values, arranged in self.parts)

    @property
    def samples(self) -> int:
        """How many samples the batch has, those of other lengths among them."""
        return self.all_samples or self.values().shape[1]

    def values(self) -> Tensor:
        """The inputs as (steps, samples, …)."""
        return torch.cat([arranged(values) for _, values, arranged in self.parts])

    def profile(self, found: Mapping[int, Scaled]) -> list[float]:
        """log10 of the norm of the signal at the inputs of each step."""
        signal: list[float] = []
        for zeros, values, arranged in self.parts:
            gradient = found.get(id(zeros))
            if gradient is None:
                signal += [NONE] * len(arranged(values))
            else:
                dense = gradient.mantissa.to_dense() if gradient.mantissa.is_sparse else gradient.mantissa
                signal += log10_norms(gradient._replace(mantissa=arranged(dense)), 0)
        return signal

    def states(self, found: Mapping[int, Scaled]) -> list[float]:
        """log10 of the norm of the signal at what each step passes on to the next; [] where a module keeps it inside."""
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
    whole = 0 if call.lengths is None else int(call.lengths[-1])
    order = call.order
    rows = None if call.lengths is None else torch.arange(whole) if order is None else order[:whole].cpu()
    everyone = 0 if call.lengths is None else int(call.lengths[0])
    return Strand(name, kind, [each[longest]], module.batch_first, rows, everyone, call)


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

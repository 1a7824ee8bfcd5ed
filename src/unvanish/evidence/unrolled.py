"""A twin of torch's LSTM, GRU or RNN, unrolled step by step in float64: what the fused call keeps to itself.

The fused call shows the gradient at its inputs and at its initial state, and nothing between. The twin is built of the
same weights, is compared with what the fused call gave, and has a state that can be asked at every step.

Source: Hochreiter & Schmidhuber 1997, Long short-term memory; Cho et al. 2014, Learning phrase representations using
RNN encoder-decoder; the equations as torch.nn documents them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unvanish.trace.backward import walk, why_inexact
from unvanish.trace.calls import Capture, Root
from unvanish.trace.scaled import Scaled
from unvanish.trace.tape import LOG10_2

NONE = -math.inf
MOST_WORK = 2e10
"""Multiplications of forward and backward together, a few seconds: a longer sequence is not unrolled."""
MOST_STATES = 4000
MOST_SAMPLES = 16


@dataclass(slots=True)
class Unrolled:
    """The outputs (steps, samples, features) of a twin, and the leaves at which its states and inputs can be asked.

    ``states``: by direction and layer, in the order of their steps, one after the other (LSTM: memory, then what is
    shown of it). ``inputs``: by step.
    """

    outputs: Tensor
    final: tuple[Tensor, ...]
    inputs: list[Tensor]
    states: list[list[list[Tensor]]] = field(default_factory=list)


def refusal(module: nn.RNNBase, steps: int) -> str:
    """Why no twin can be made of this module, or ""."""
    if module.mode not in _CELLS:
        return f"its mode {module.mode} is not one of {', '.join(_CELLS)}"
    if type(module).forward not in (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward):
        return f"{type(module).__name__} has a forward of its own"
    chains = module.num_layers * (2 if module.bidirectional else 1)
    if steps * chains > MOST_STATES:
        return f"{steps:,} steps of {chains} chains are too many to be unrolled"
    if _work(module, steps, 1) > MOST_WORK:
        return f"{steps:,} steps of {module.hidden_size:,} units are too many to be unrolled"
    return ""


def samples_to_unroll(module: nn.RNNBase, steps: int, samples: int) -> int:
    """How many samples the twin can be given."""
    return max(1, min(samples, MOST_SAMPLES, int(MOST_WORK / _work(module, steps, 1))))


def _work(module: nn.RNNBase, steps: int, samples: int) -> float:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    chains = module.num_layers * (2 if module.bidirectional else 1)
    return 6.0 * steps * chains * samples * gates * module.hidden_size * (module.hidden_size + module.input_size)


def unroll(module: nn.RNNBase, inputs: Tensor, initial: tuple[Tensor, ...] | None) -> Unrolled:
    """The module step by step on ``inputs`` (steps, samples, features), without its dropout.

    ``initial``: the state it begins with, (layers · directions, samples, units) each; zeros where it is None.
    """
    directions = 2 if module.bidirectional else 1
    leaves = [_leaf(x) for x in inputs.detach().double()]
    flow = [x + leaf for x, leaf in zip(inputs.detach().double(), leaves, strict=True)]
    made = Unrolled(inputs, (), leaves, [[] for _ in range(directions)])
    ends: list[list[Tensor]] = []
    for layer in range(module.num_layers):
        sides: list[list[Tensor]] = []
        for side in range(directions):
            begin = _begin(module, inputs, initial, layer * directions + side)
            steps = flow[::-1] if side else flow
            hidden, states, end = _chain(module, f"_l{layer}" + "_reverse" * side, steps, begin)
            made.states[side].append(states)
            sides.append(hidden[::-1] if side else hidden)
            ends.append(end)
        flow = sides[0] if directions == 1 else [torch.cat(pair, 1) for pair in zip(*sides, strict=True)]
    made.outputs = torch.stack(flow)
    made.final = tuple(torch.stack(part) for part in zip(*ends, strict=True))
    return made


def _leaf(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.float64).requires_grad_()


def _begin(module: nn.RNNBase, inputs: Tensor, initial: tuple[Tensor, ...] | None, chain: int) -> list[Tensor]:
    if initial is not None:
        return [part[chain].detach().double() for part in initial]
    sizes = [module.proj_size or module.hidden_size, *([module.hidden_size] if module.mode == "LSTM" else [])]
    return [torch.zeros(inputs.shape[1], n, dtype=torch.float64, device=inputs.device) for n in sizes]


def _chain(
    module: nn.RNNBase, suffix: str, steps: list[Tensor], state: list[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """One layer in one direction: its outputs, the leaves of its state (one or two a step), and its last state."""

    def weight(name: str) -> Tensor | None:
        found = getattr(module, name + suffix, None)
        return None if found is None else found.detach().double()

    w, u, b, c = weight("weight_ih"), weight("weight_hh"), weight("bias_ih"), weight("bias_hh")
    project, cell = weight("weight_hr"), _CELLS[module.mode]
    hidden: list[Tensor] = []
    leaves: list[Tensor] = []

    def asked(part: Tensor) -> Tensor:
        leaves.append(torch.zeros_like(part).requires_grad_())
        return part + leaves[-1]

    for x in steps:
        fed = nn.functional.linear(x, w, b)  # type: ignore[arg-type]
        back = nn.functional.linear(state[0], u, c)  # type: ignore[arg-type]
        shown, *memory = cell(fed, back, state, asked)
        state = [asked(shown if project is None else nn.functional.linear(shown, project)), *memory]
        hidden.append(state[0])
    return hidden, leaves, state


Asked = Callable[[Tensor], Tensor]


def _lstm(fed: Tensor, back: Tensor, state: list[Tensor], asked: Asked) -> list[Tensor]:
    write, keep, new, show = (fed + back).chunk(4, 1)
    memory = asked(keep.sigmoid() * state[1] + write.sigmoid() * new.tanh())
    return [show.sigmoid() * memory.tanh(), memory]


def _gru(fed: Tensor, back: Tensor, state: list[Tensor], asked: Asked) -> list[Tensor]:
    (fed_reset, fed_keep, fed_new), (back_reset, back_keep, back_new) = fed.chunk(3, 1), back.chunk(3, 1)
    keep = (fed_keep + back_keep).sigmoid()
    new = (fed_new + (fed_reset + back_reset).sigmoid() * back_new).tanh()
    return [(1.0 - keep) * new + keep * state[0]]


def _tanh(fed: Tensor, back: Tensor, state: list[Tensor], asked: Asked) -> list[Tensor]:
    return [(fed + back).tanh()]


def _relu(fed: Tensor, back: Tensor, state: list[Tensor], asked: Asked) -> list[Tensor]:
    return [(fed + back).relu()]


_CELLS = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _tanh, "RNN_RELU": _relu}


Channel = Sequence[tuple[Tensor, Tensor]]


def gradients(channels: Sequence[Channel], leaves: Sequence[Tensor]) -> list[dict[int, Scaled]]:
    """For each channel (pairs of a tensor and its cotangent) the gradient at each leaf, by its id.

    Carried with a power of two beside it, so that none underflows. A leaf without a gradient is left out.
    """
    wanted, found = {id(leaf) for leaf in leaves}, [dict[int, Scaled]() for _ in channels]
    live = [[(t, c) for t, c in channel if t.grad_fn is not None] for channel in channels]
    if why_inexact():
        for known, channel in zip(found, live, strict=True):
            given = torch.autograd.grad(
                [t for t, _ in channel], leaves, [c for _, c in channel], retain_graph=True, allow_unused=True
            )
            known.update((id(leaf), Scaled(g, 0)) for leaf, g in zip(leaves, given, strict=True) if g is not None)
        return found

    def keep(leaf: Tensor, channel: int, gradient: Scaled) -> None:
        if id(leaf) in wanted:
            found[channel][id(leaf)] = gradient

    starts = [
        [(Root((t.grad_fn, t.output_nr), tuple(t.shape), t.dtype, t.device, 1.0), c) for t, c in channel]
        for channel in live
    ]
    walk(Capture(nn.Module()), starts, keep)  # type: ignore[arg-type]
    return found


def log10_norms(gradient: Scaled | None, axis: int | None = None) -> list[float]:
    """log10 of the norm of a gradient, or of each of its entries along ``axis``."""
    if gradient is None:
        return [NONE]
    mantissa = gradient.mantissa.to_dense() if gradient.mantissa.is_sparse else gradient.mantissa
    values = mantissa.detach().double()
    values = values.reshape(1, -1) if axis is None else values.movedim(axis, 0).reshape(values.shape[axis], -1)
    exponent = float(gradient.exponent) * LOG10_2
    return [math.log10(n) + exponent if n > 0.0 else NONE for n in values.norm(dim=1).tolist()]

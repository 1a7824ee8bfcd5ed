"""A twin of torch's LSTM, GRU or RNN, unrolled step by step in float64: what the fused call keeps to itself.

The fused call shows the gradient at its inputs and at its initial state, and nothing between. The twin is built of the
same weights, is compared with what the fused call gave, and has a state that can be asked at every step.

Source: Hochreiter & Schmidhuber 1997, Long short-term memory; Cho et al. 2014, Learning phrase representations using
RNN encoder-decoder; the equations as torch.nn documents them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unvanish.evidence.profile import log10_norms, together, whole_gradients
from unvanish.evidence.sequences import Strand
from unvanish.trace.scaled import Scaled

MOST_WORK = 2e10
"""Multiplications of forward and backward together, a few seconds: a longer sequence is not unrolled."""
MOST_STATES = 4000
MOST_SAMPLES = 16
AGREES = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Largest difference of outputs, which are of the order of one, that is put down to rounding; 0.05 for 16 bits."""


class Twin(NamedTuple):
    """log10 of the signal at the inputs and at the states of each step; what the twin leaves out, or ""."""

    inputs: list[float]
    states: list[float]
    left_out: str


def twin_of(module: nn.RNNBase, strand: Strand, found: Mapping[int, Scaled]) -> Twin | str:
    """The twin's signals under the cotangents that the network sent to the module, or why there are none."""
    call = strand.call
    if call is None or call.at_output is None:
        return "its states were not looked at: it gives something else than outputs and a state"
    if why := refusal(module, strand.steps):
        return f"its states were not looked at: {why}"
    _, values, arranged = strand.parts[0]
    count = samples_to_unroll(module, strand.steps, arranged(values).shape[1])
    chosen = slice(count) if strand.order is None else strand.order[:count]
    inputs = arranged(values)[:, :count]

    def states(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple((t.unsqueeze(1) if values.ndim == 2 and call.lengths is None else t)[:, chosen] for t in parts)

    initial = None if call.initial is None else states(call.initial)
    made = unroll(module, inputs, initial)
    gap = _gap(module, inputs, initial, made.outputs)
    if not gap <= AGREES.get(inputs.dtype, 0.05):
        return f"its states were not looked at: a twin that is unrolled differs by {gap:.1g} from the fused call"
    sent = _on_one_scale([found.get(id(t)) for t in (call.at_output, *call.at_states)])
    channel = [] if sent[0] is None else [(made.outputs, arranged(sent[0])[:, :count])]
    ends = zip(made.final, sent[1:], strict=True)
    channel += [(end, states((given,))[0]) for end, given in ends if given is not None]
    signals = whole_gradients(
        channel, [*made.inputs, *(leaf for chain in made.states for leaves in chain for leaf in leaves)]
    )
    inside = [
        together([log10_norms(signals.get(id(leaf)))[0] for chain in made.states for leaf in chain[step]])
        for step in range(strand.steps)
    ]
    left_out = "the states are those without dropout" if _drops(module) else ""
    return Twin([log10_norms(signals.get(id(leaf)))[0] for leaf in made.inputs], inside, left_out)


def _drops(module: nn.RNNBase) -> bool:
    return module.training and module.dropout > 0.0 and module.num_layers > 1


def _gap(module: nn.RNNBase, inputs: Tensor, initial: tuple[Tensor, ...] | None, outputs: Tensor) -> float:
    """The largest difference between the outputs of twin and fused call, without dropout; of large ones a share."""
    weight = next(module.parameters())
    x = inputs.to(weight.dtype)
    state = None if initial is None else tuple(t.to(weight.dtype).contiguous() for t in initial)
    kept = module.dropout
    try:
        module.dropout = 0.0
        with torch.no_grad():
            given = state[0] if state is not None and module.mode != "LSTM" else state
            fused, _ = module.forward(x.transpose(0, 1) if module.batch_first else x.contiguous(), given)
    finally:
        module.dropout = kept
    fused = fused.transpose(0, 1) if module.batch_first else fused
    return float((fused.double() - outputs.detach()).abs().max() / fused.double().abs().max().clamp(min=1.0))


def _on_one_scale(parts: list[Scaled | None]) -> list[Tensor | None]:
    """The gradients in float64, divided by one power of two that all have in common."""
    top = max((float(p.exponent) for p in parts if p is not None), default=0.0)
    return [None if p is None else p.mantissa.double() * 2.0 ** (float(p.exponent) - top) for p in parts]


@dataclass(slots=True)
class Unrolled:
    """The outputs (steps, samples, features) of a twin, and the leaves at which its states and inputs can be asked.

    ``states``: of each layer in each direction, by step (LSTM: memory, then what is shown of it). ``inputs``: by step.
    """

    outputs: Tensor
    final: tuple[Tensor, ...]
    inputs: list[Tensor]
    states: list[list[list[Tensor]]]


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
    made = Unrolled(inputs, (), leaves, [])
    ends: list[list[Tensor]] = []
    for layer in range(module.num_layers):
        sides: list[list[Tensor]] = []
        for side in range(directions):
            begin = _begin(module, inputs, initial, layer * directions + side)
            steps = flow[::-1] if side else flow
            hidden, states, end = _chain(module, f"_l{layer}" + "_reverse" * side, steps, begin)
            made.states.append(states[::-1] if side else states)
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
) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor]]:
    """One layer in one direction: its outputs, the leaves of its state at each step, and its last state."""

    def weight(name: str) -> Tensor | None:
        found = getattr(module, name + suffix, None)
        return None if found is None else found.detach().double()

    w, u, b, c = weight("weight_ih"), weight("weight_hh"), weight("bias_ih"), weight("bias_hh")
    project, cell = weight("weight_hr"), _CELLS[module.mode]
    hidden: list[Tensor] = []
    leaves: list[list[Tensor]] = []

    def asked(part: Tensor) -> Tensor:
        leaves[-1].append(torch.zeros_like(part).requires_grad_())
        return part + leaves[-1][-1]

    for x in steps:
        leaves.append([])
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

"""The signal at the states of torch's fused LSTM, GRU and RNN, by a twin that gives the same outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from unvanish.evidence.profile import together
from unvanish.evidence.unrolled import gradients, log10_norms, refusal, samples_to_unroll, unroll
from unvanish.trace.scaled import Scaled

if TYPE_CHECKING:
    from unvanish.evidence.strands import Strand

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
    chosen = slice(count) if strand.rows is None else strand.rows[:count]
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
    chains = [chain for side in made.states for chain in side]
    (signals,) = gradients([channel], [*made.inputs, *(leaf for chain in chains for leaf in chain)])
    inside = [
        together([log10_norms(signals.get(id(leaf)))[0] for chain in chains for leaf in _of_step(chain, step, strand)])
        for step in range(strand.steps)
    ]
    left_out = "the states are those without dropout" if _drops(module) else ""
    return Twin([log10_norms(signals.get(id(leaf)))[0] for leaf in made.inputs], inside, left_out)


def _of_step(chain: list[Tensor], step: int, strand: Strand) -> list[Tensor]:
    each = len(chain) // strand.steps
    return chain[step * each : (step + 1) * each]


def _drops(module: nn.RNNBase) -> bool:
    return module.training and module.dropout > 0.0 and module.num_layers > 1


def _gap(module: nn.RNNBase, inputs: Tensor, initial: tuple[Tensor, ...] | None, outputs: Tensor) -> float:
    """The largest difference between the twin's outputs and the fused call's, without dropout."""
    weight = next(module.parameters())
    x = inputs.to(weight.dtype)
    state = None if initial is None else tuple(t.to(weight.dtype).contiguous() for t in initial)
    kept = module.dropout
    try:
        module.dropout = 0.0
        with torch.no_grad():
            given = state if state is None or len(state) > 1 else state[0]
            fused, _ = module.forward(x.transpose(0, 1) if module.batch_first else x.contiguous(), given)
    finally:
        module.dropout = kept
    fused = fused.transpose(0, 1) if module.batch_first else fused
    return float((fused.double() - outputs.detach()).abs().max())


def _on_one_scale(parts: list[Scaled | None]) -> list[Tensor | None]:
    """The gradients in float64, divided by one power of two that all have in common."""
    top = max((float(p.exponent) for p in parts if p is not None), default=0.0)
    return [None if p is None else p.mantissa.double() * 2.0 ** (float(p.exponent) - top) for p in parts]

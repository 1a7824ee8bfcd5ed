"""One walk, observed: the loss's cotangent and random output cotangents together, and what passes by on the way."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.flow import attention, slopes
from unvanish.flow.layers import Layer
from unvanish.flow.paths import Observed
from unvanish.flow.sample import BLOCK, LEAST, Sample
from unvanish.flow.transmission import output_cotangents, output_entries
from unvanish.flow.updates import Updates
from unvanish.trace.backward import walk
from unvanish.trace.calls import Call, Capture, Node
from unvanish.trace.projected import Projector
from unvanish.trace.scaled import Scaled, entries_of, shift
from unvanish.trace.tape import OnNode

_ONE_FACTOR = 120  # powers of two up to here are ordinary numbers of float32


def observe(
    capture: Capture,
    layers: list[Layer],
    *,
    probes: int = 1,
    seed: int = 0,
    updates: Updates | None = None,
    ends: Collection[int] = (),
    watch: OnNode | None = None,
) -> Observed:
    """Walk once for the loss and ``probes`` random output cotangents; the graph is consumed.

    ``updates`` reads the optimizer's next step from each complete gradient. ``ends``: last calls that may be a softmax
    whose rows are to be looked at. ``watch`` is told of every node on the way, with the loss's cotangent there.
    """
    assert capture.loss_root is not None
    dtypes = _dtypes(capture, layers)
    below: dict[int, tuple[Any, Any]] = {}
    saturated: dict[int, tuple[Any, Any]] = {}
    single = _single_nodes(capture)

    def on_leaf(parameter: nn.Parameter, channel: int, gradient: Scaled) -> None:
        if channel or id(parameter) not in dtypes:
            return
        below[id(parameter)] = _below(gradient, dtypes[id(parameter)])
        if updates is not None:
            updates.read(parameter, *_real(gradient, parameter))

    pinned: dict[int, tuple[float, float, float]] = {}
    rows: dict[int, float] = {}

    def on_node(index: int, node: Node, value: Scaled | None) -> None:
        if watch is not None:
            watch(index, node, value)
        cotangent = None if value is None else value.mantissa
        if index in ends and cotangent is not None and (found := slopes.pinned_rows(node, cotangent)) is not None:
            rows[index], pinned[index] = found[0], (found[1], found[1], 0.0)
        call = capture.calls[index]
        shares = slopes.shares(call, node, single[index]) if index in single else None
        if shares is not None:
            saturated[index] = shares
            share = None if cotangent is None else slopes.pinned(call, node, shares[0], cotangent)
            if share is not None:
                pinned[index] = share
        elif call.part == "model" and (alone := attention.alone(capture.calls, call, node)) is not None:
            saturated[index] = alone, 0.0

    start = torch.ones(capture.loss_root.shape, dtype=capture.loss_root.dtype, device=capture.loss_root.device)
    outputs = output_entries(capture)
    channels = [[(capture.loss_root, start)], *(output_cotangents(capture, seed + k) for k in range(probes))]
    sizes = [math.log10(root.rms) for root, _ in channels[1] if root.rms > 0.0]
    tapes = walk(capture, channels, on_leaf, on_node, Projector(seed))
    seen = Observed(tapes[0], tapes[1:], outputs, log10_output_rms=sum(sizes) / max(1, len(sizes)))
    seen.pinned, seen.rows = pinned, rows
    seen.saturated = {k: (float(a), float(b)) for k, (a, b) in saturated.items()}
    seen.underflow = {k: (float(a), float(b)) for k, (a, b) in below.items()}
    if updates is not None:
        updates.flush()
        seen.updates = updates.found
    return seen


def _dtypes(capture: Capture, layers: list[Layer]) -> dict[int, torch.dtype]:
    """The narrowest type each parameter's gradient passes through (float16 under autocast, for float32 weights)."""
    narrowest: dict[int, torch.dtype] = {}
    for layer in layers:
        for parameter in layer.live:
            kinds = [parameter.dtype, *(capture.calls[i].dtype for i in layer.calls)]
            floats = [k for k in dict.fromkeys(kinds) if k.is_floating_point]
            if len(floats) > 1:
                floats.sort(key=lambda k: -torch.finfo(k).smallest_normal)
            narrowest[id(parameter)] = floats[0] if floats else parameter.dtype
    return narrowest


def _below(gradient: Scaled, dtype: torch.dtype) -> tuple[Any, Any]:
    """How many non-zero entries lie below the smallest normal number of ``dtype``, and how many are not zero.

    Of a large tensor, 512 blocks of 64 neighbouring entries are counted, drawn by a generator of our own.
    """
    values = entries_of(gradient.mantissa)
    if values.is_complex():
        values = torch.view_as_real(values)
    if values.numel() > 2 * LEAST * BLOCK:
        values = Sample(values.numel()).taken_from(values)
    sizes = values.abs()
    sizes = sizes.float() if sizes.element_size() < 4 else sizes
    total = sizes.numel()
    limit = math.log2(torch.finfo(dtype).smallest_normal) - gradient.exponent
    if isinstance(limit, float):
        limit = _power_of_two(limit)
        if total and 0.0 < limit <= sizes.min().item():  # as a rule, and the cheapest to see
            return 0.0, float(total)
    else:
        limit = torch.exp2(limit)
    # Comparisons that write numbers are several times as quick as those that write truth values.
    zeros = sizes.clone().le_(0.0).sum()
    # A limit too small for the type counts as zero, below which nothing lies, not even a zero.
    return (sizes.lt_(limit).sum() - zeros).clamp(min=0.0), total - zeros


def _power_of_two(exponent: float) -> float:
    return math.ldexp(1.0, int(exponent)) if exponent < 1024.0 else math.inf


def _real(gradient: Scaled, parameter: nn.Parameter) -> tuple[Tensor, float]:
    """The gradient as the user's backward leaves it: in the parameter's dtype, underflow and all.

    As a tensor and a power of two that is still to be multiplied with.
    """
    mantissa, exponent = gradient.mantissa, gradient.exponent
    plain = mantissa.layout is torch.strided and mantissa.dtype in (torch.float32, torch.float64)
    one_factor = isinstance(exponent, int) and abs(exponent) <= _ONE_FACTOR
    if plain and one_factor and mantissa.dtype is parameter.dtype:
        return mantissa, 2.0**exponent
    if isinstance(gradient.exponent, int):
        real = shift(gradient.mantissa, gradient.exponent)
    else:
        half = torch.exp2(gradient.exponent / 2).to(gradient.mantissa.dtype)
        real = gradient.mantissa * half * half
    real = real.to_dense() if real.is_sparse else real
    return real if real.dtype is parameter.dtype else real.to(parameter.dtype), 1.0


def _single_nodes(capture: Capture) -> dict[int, bool]:
    """The calls made of one node: index -> whether their units are channels (they follow a convolution)."""
    counts: dict[int, int] = {}
    for index in capture.owner.values():
        counts[index] = counts.get(index, 0) + 1
    single = {}
    sources: list[Call] = []  # for each call the last one with weights on its way, or the first of all
    for call in capture.calls:
        sources.append(sources[call.inputs[-1]] if call.inputs and not call.parameters else call)
        if counts.get(call.index) == 1 and call.probe is not None and len(call.shape) > 0:
            single[call.index] = len(call.shape) == 4 or "conv" in sources[-1].name
    return single

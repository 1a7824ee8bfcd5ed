"""One walk back over a captured graph: the exact one, or torch's own where this torch lacks what that rests on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from unvanish.trace.calls import Capture, Root
from unvanish.trace.exact import exact_walk
from unvanish.trace.plain import plain_walk
from unvanish.trace.projected import Projector
from unvanish.trace.scaled import Scaled, shift
from unvanish.trace.tape import OnLeaf, OnNode, Start, Tape


def walk(
    capture: Capture,
    channels: Sequence[Start],
    on_leaf: OnLeaf | None = None,
    on_node: OnNode | None = None,
    projector: Projector | None = None,
) -> list[Tape]:
    """Send each channel's cotangents back through the captured graph, which is consumed.

    ``on_leaf(parameter, channel, gradient)`` sees each complete gradient once, ``on_node(call, node, cotangent)`` each
    node of a call just before it is released (not where ``why_unsupported`` has a reason). With a ``projector``, of the
    channels beyond the first only norms are wanted. Returns one Tape a channel. Without a graph the tapes are empty.
    """
    if why_unsupported():
        return plain_walk(capture, channels, on_leaf)
    return exact_walk(capture, channels, on_leaf, on_node, projector)


@cache
def why_unsupported() -> str:
    """ "" where this torch has the private details the walk rests on, else what went wrong on a small graph."""
    try:
        w = torch.full((2, 2), 0.5, dtype=torch.float64, device="cpu", requires_grad=True)
        b = torch.zeros(2, dtype=torch.float64, device="cpu", requires_grad=True)
        out = torch.sigmoid(torch.ones(3, 2, dtype=torch.float64, device="cpu") @ w + b).sum()
        expected = torch.autograd.grad(out, [w, b], retain_graph=True)
        capture = Capture(nn.Module())
        gradients: dict[int, Scaled] = {}
        root = Root((out.grad_fn, out.output_nr), (), out.dtype, out.device, 1.0)
        exact_walk(capture, [[(root, torch.ones_like(out) * 2.0**-900)]], lambda p, _, g: gradients.update({id(p): g}))
        for leaf, right in zip((w, b), expected, strict=True):
            got = shift(gradients[id(leaf)].mantissa, gradients[id(leaf)].exponent + 900)
            if not torch.allclose(got, right, rtol=1e-12, atol=0.0):
                return "a hand-walked gradient differs from autograd's"
    except Exception as error:  # whatever a future torch raises here, the answer is the same
        return f"{type(error).__name__}: {error}"
    return ""

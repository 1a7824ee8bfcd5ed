"""How many rows of an attention look at one entry alone, where a softmax is flat and what is looked at hardly learns.

Scores that are not divided by the root of their width, or made of large queries and keys, differ by far more than the
few units over which a softmax chooses gradually: each query then copies one value, at random before training.

Source: Vaswani et al. 2017, Attention is all you need, section 3.2.1, footnote 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unvanish.flow.slopes import is_alone
from unvanish.trace.calls import Call, Node, axis_of
from unvanish.trace.mixing import ATTENTIONS, PRODUCTS

SCORES = (*PRODUCTS, "einsum", "baddbmm")
MOST = 2**22  # weights looked at in one attention, from its first sample on


def alone(calls: Sequence[Call], call: Call, node: Node) -> float | None:
    """The share of an attention's rows that are one entry alone; None where the node is no softmax of an attention.

    Alone: the slope p(1 − p) of its largest entry p is below a hundredth of the largest that a softmax has, 1/4. Rows
    do not count in which only one entry was let through by a mask, nor those of a head that looks at one and the same
    place for all queries of a sample: a trained one rests there.
    """
    kind = type(node).__name__
    if kind.startswith(("SoftmaxBackward", "SafeSoftmaxBackward")):
        if call.name not in ATTENTIONS and not _of_scores(calls, call):
            return None
        weights = node._saved_result.movedim(axis_of(node), -1)
    elif kind.startswith("ScaledDotProduct"):
        found = _weights(node)
        if found is None:
            return None
        weights = found
    else:
        return None
    return _share(weights)


def _of_scores(calls: Sequence[Call], call: Call) -> bool:
    """Whether what it normalises are products of two results, scaled, shifted, masked and moved about at most."""
    waiting, seen = list(call.inputs), set[int]()
    while waiting:
        index = waiting.pop()
        maker = calls[index]
        if maker.name in SCORES and not maker.parameters:
            return len(maker.inputs) > 1
        if index not in seen and not maker.parameters and len(maker.inputs) == 1:
            seen.add(index)
            waiting += maker.inputs
    return False


def _weights(node: Node) -> Tensor | None:
    """The weights of a fused attention, made again from the queries and keys that it keeps; (heads, queries, keys)."""
    query, key = getattr(node, "_saved_query", None), getattr(node, "_saved_key", None)
    if not isinstance(query, Tensor) or not isinstance(key, Tensor) or query.shape[:-2] != key.shape[:-2]:
        return None
    if query.is_nested or not query.numel() or not key.numel():
        return None
    query, key = query.detach(), key.detach()
    scale = getattr(node, "_saved_scale", None) or 1.0 / math.sqrt(query.shape[-1])
    mask = getattr(node, "_saved_attn_mask", None)
    count = max(1, MOST // (query.shape[-2] * key.shape[-2] * max(1, math.prod(query.shape[1:-2]))))
    scores = (query[:count].float() @ key[:count].float().transpose(-1, -2)).mul_(scale)
    if isinstance(mask, Tensor):
        scores = scores + (mask[:count] if mask.ndim == query.ndim and mask.shape[0] > 1 else mask).float()
    if getattr(node, "_saved_is_causal", False):
        scores.masked_fill_(torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1), -math.inf)
    return scores.softmax(-1)


def _share(weights: Tensor) -> float | None:
    """``weights``: (…, queries, keys)."""
    if weights.ndim < 2 or weights.shape[-1] < 2 or not weights.numel():
        return None
    heads = weights.detach().reshape(-1, *weights.shape[-2:])
    heads = heads[: max(1, MOST // heads[0].numel())]
    most, place = heads.max(-1)
    single = is_alone(most)
    if not bool(single.any()):  # as a rule; a row of which a mask leaves one entry is single
        return 0.0
    chosen = torch.where(single, place, -1)
    if heads.shape[1] > 1:
        first = chosen.amax(1, keepdim=True)
        rests = ((chosen == first) | ~single).all(1, keepdim=True)
        single = single & ~rests
    if heads.shape[0] > 1:
        masked = (most == 1.0).all(0)  # as a row is that has one entry: only there all entries are looked at
        masked[masked.clone()] = ((heads[:, masked] > 0.0).sum(-1) == 1).all(0)
        single = single[:, ~masked]
    return float(single.double().mean()) if single.numel() else None

"""What kind of factor a call is, found by trying it: no list of layer types."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from unvanish.trace.calls import Call, Folded, Node, axis_of

SATURATED = 0.01  # a slope below this share of the function's largest one counts as saturated
EXACT = 2**24  # whole numbers up to here are exact in float32
_RANDOM = ("dropout", "rrelu", "bernoulli", "rand", "gumbel", "noise")
_PLAIN: Any = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults of this process are
_known: dict[Any, Slope | None] = {}


@dataclass(frozen=True)
class Slope:
    """Smallest and largest absolute slope, and range, of an element-wise function on [-50, 50]."""

    smallest: float
    largest: float
    low: float
    high: float

    @property
    def bends(self) -> bool:
        return self.smallest < 0.9 * self.largest

    @property
    def bounded(self) -> bool:
        """Whether its range ends on both sides."""
        return self.low > -20.0 and self.high < 20.0

    @property
    def activation(self) -> bool:
        """Bends like an activation function: bounded slope, flat somewhere."""
        return 0.0 < self.largest <= 2.5 and self.smallest <= 0.5 * self.largest


def slope_of(call: Call) -> Slope | None:
    """The slope range of a call that treats each element alone, else None."""
    if call.probe is None:
        return None
    if call.slope is False:  # it is asked for several times
        call.slope = slope_of_function(call.name, *call.probe)
    return call.slope


def slope_of_function(name: str, func: Any, args: Any, kwargs: Any) -> Slope | None:
    """The same of the function itself; each function with each set of further arguments is tried once."""
    if _is_random(name):
        return None
    key = (func, repr(args), repr(kwargs))
    if key not in _known:
        _known[key] = _try(func, args, kwargs)
    return _known[key]


@cache
def _is_random(name: str) -> bool:
    return any(word in name for word in _RANDOM)


def _try(func: Any, args: Any, kwargs: Any) -> Slope | None:
    grid = torch.cat([torch.linspace(-50, 50, 101, **_PLAIN), torch.linspace(-3, 3, 61, **_PLAIN)]).double()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a function tried on one vector may have something to say about it
            z = grid.clone().requires_grad_(True)
            y = func(z * 1.0, *args, **kwargs)
            alone = [float(func(grid[i : i + 1] * 1.0, *args, **kwargs)[0]) for i in (7, 60, 131)]
            if not isinstance(y, Tensor) or y.shape != z.shape:
                return None
            if not torch.allclose(
                torch.tensor(alone, **_PLAIN).double(), y.detach()[[7, 60, 131]].double(), equal_nan=True
            ):
                return None
            (slope,) = torch.autograd.grad(y.sum(), z)
    except Exception:  # a call that does not take one vector is not element-wise: nothing more to learn
        return None
    finite = slope[torch.isfinite(slope)].abs()
    if not finite.numel():
        return None
    low, high = (float(v) for v in y.detach().nan_to_num(0.0).aminmax())
    return Slope(float(finite.min()), float(finite.max()), low, high)


def role(call: Call) -> str:
    """The kind of factor a call puts into the gradient: weights, slopes, norm or join."""
    if ("norm" in call.name and "weight_norm" not in call.name) or "softmax" in call.name:
        return "norm"
    if call.parameters:
        return "slopes" if call.name in ("prelu", "_prelu_kernel") else "weights"
    slope = slope_of(call)
    return "slopes" if slope is not None and slope.bends else "join"


def shares(call: Call, node: Node, channels_first: bool) -> tuple[Any, Any] | None:
    """Share of an activation's entries that are saturated, and of its units that are for the whole batch.

    ``node`` must be the call's only node. A unit is a channel (dimension 1 where ``channels_first``, else the last).
    """
    slope = slope_of(call)
    if slope is None or not slope.activation or not call.shape:
        return None
    metadata = node._input_metadata[0]
    if not all(isinstance(size, int) for size in metadata.shape):  # of a jagged tensor the lengths are symbols
        return None
    low = _shut(node)
    if low is None:
        one = torch.ones((), dtype=metadata.dtype, device=metadata.device)
        found = node(one.expand(tuple(metadata.shape)))
        found = found[0] if isinstance(found, tuple) else found
        limit, least = SATURATED * slope.largest, -math.inf
        if found.is_complex():
            found = found.abs()
        if found.device.type == "cpu" and found.numel() and (least := found.min().item()) >= limit:
            return 0.0, 0.0
        own = found.data_ptr() != one.data_ptr()  # made by the node: it may be written over
        sizes = found if own and least >= 0.0 else found.abs_() if own else found.abs()
        low = sizes.lt_(limit)  # written as numbers: truth values take several times as long to make and to count
    axis = 1 if channels_first and low.ndim > 2 else low.ndim - 1
    others = [k for k in range(low.ndim) if k != axis]
    together = math.prod(low.shape[k] for k in others)
    if low.element_size() < 4 or together > EXACT:
        low = low.double()
    counts = low.sum(others) if others else low
    entries = counts.sum(dtype=torch.float64) / low.numel()
    return entries, counts.ge_(together).mean(dtype=torch.float64)


def _shut(node: Node) -> Tensor | None:
    """Of a ReLU 1 where its slope is 0, else 0, in one pass over the result it keeps; None of other nodes."""
    result = getattr(node, "_saved_result", None) if node.name() == "ReluBackward0" else None
    if not isinstance(result, Tensor) or result.layout is not torch.strided or result.is_nested:
        return None
    return torch.le(result.detach(), 0.0, out=torch.empty_like(result))


def pinned(call: Call, node: Node, saturated: Any, cotangent: Tensor) -> tuple[float, float, float] | None:
    """Of what the loss asks of a bounded activation, the share it asks of entries on a flat end to move away from it.

    In squares of the cotangent; and in squares of the cotangent times the way that is left in the direction it asks, so
    that what is asked to go on into an end does not count. And of all entries, the share of flat ones whose slope a
    call after it makes up for. None where half of the entries or fewer are flat, or the node keeps no result.
    """
    slope, result = slope_of(call), getattr(node, "_saved_result", None)
    if slope is None or not slope.bounded or not isinstance(result, Tensor) or not float(saturated) > 0.5:
        return None
    left = torch.where(cotangent > 0, result - slope.low, slope.high - result).double()
    asked = cotangent.double().square()
    one = torch.ones((), dtype=result.dtype, device=result.device).expand(result.shape)
    found = node(one)
    found = found[0] if isinstance(found, tuple) else found
    flat = found.abs() < SATURATED * slope.largest
    away = (cotangent * (result - 0.5 * (slope.low + slope.high)) > 0) & flat
    shares = [_share(weights, away) for weights in (asked, asked * left.square())]
    if shares[0] is None:
        return None
    return shares[0], shares[1] or 0.0, _made_up_for(found, cotangent, away)


def _share(weights: Tensor, chosen: Tensor) -> float | None:
    total = float(weights.sum())
    return float((weights * chosen).sum()) / total if 0.0 < total < math.inf else None


def _made_up_for(slopes: Tensor, cotangent: Tensor, away: Tensor) -> float:
    """Of all entries the share of flat ones, asked to leave their end, that send a gradient in spite of their slope.

    What an entry sends back is proportional to its slope, unless what comes after it grows as the slope falls: the
    logarithm of 1 - tanh² has the inverse of the slope for a derivative. Of the power of the slope with which it falls,
    1 or 0, the least squares line through the logarithms tells, by two of its standard errors.
    """
    x, sent = slopes.double().abs(), (slopes.double() * cotangent.double()).abs()
    passes = away & (x > 0.0) & (sent > 0.0)
    x, y = x[passes].log(), sent[passes].log()
    if len(x) < 3 or not (spread := float((x := x - x.mean()).square().sum())) > 0.0:
        return 0.0
    y = y - y.mean()
    power = float(x @ y) / spread
    error = math.sqrt(float((y - power * x).square().sum()) / (len(x) - 2) / spread)
    return float(passes.double().mean()) if power + 2.0 * error < 0.5 else 0.0


def pinned_rows(node: Node, cotangent: Tensor) -> tuple[float, float] | None:
    """Of the rows that a softmax gives the share that is one entry alone, and of what the loss asks the share pinned.

    In squares of the cotangent: what asks that entry to fall, or another one to rise, in such a row. None where the
    node is none of a softmax.
    """
    kind = type(node).__name__
    if not kind.startswith(("SoftmaxBackward", "LogSoftmaxBackward")):
        return None
    result, asked = (t.double().movedim(axis_of(node), -1) for t in (node._saved_result, cotangent))
    shares = result.exp() if kind.startswith("Log") else result
    most, place = shares.max(-1, keepdim=True)
    flat = is_alone(most)
    if not kind.startswith("Log"):  # only what the entries ask beside that one counts
        asked = asked - asked.gather(-1, place)
    alone = torch.zeros_like(asked, dtype=torch.bool).scatter_(-1, place, True)
    away = torch.where(alone, asked > 0.0, asked < 0.0) & flat
    total = float(asked.square().sum())
    if not 0.0 < total < math.inf:
        return None
    return float(flat.double().mean()), float((asked.square() * away).sum()) / total


def is_alone(most: Tensor) -> Tensor:
    """Whether a row's largest share leaves the softmax flat: its slope p(1 - p) is 1/4 at most."""
    return most * (1.0 - most) < SATURATED * 0.25


def constant_by_construction(call: Call | Folded) -> bool:
    """Whether a call passes no gradient whatever its input is (softmax over one unit, sign, round)."""
    tried = None if call.probe is None else _tried_alone(call, call.probe)
    if tried is None:
        return False
    _, made, gradient = tried
    return float(gradient.abs().max()) <= 1e-6 * max(float(made.abs().max()), math.ulp(0.0))


def _tried_alone(
    call: Call | Folded, probe: tuple[Any, ...], size: float = 1.0, alike: bool = False
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Numbers N(0, size²) in float64, what the call makes of them, and the gradient that a random cotangent sends back.

    ``alike``: of one sample, given again and again. None where it cannot be tried alone: then nothing is claimed.
    """
    func, args, kwargs = probe
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape = (1, *call.shape[1:]) if alike else call.shape
            z = size * torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            y = func(z.requires_grad_(True).expand(call.shape) * 1.0, *args, **kwargs)
            weights = torch.randn(y.shape, generator=generator, dtype=torch.float64, device="cpu")
            (gradient,) = torch.autograd.grad((y * weights).sum(), z)
    except Exception:  # whatever it raises on made-up numbers
        return None
    return z.detach(), y.detach(), gradient


LARGE_INPUTS = (1e3,)
ANY_INPUTS = (1e3, 1.0, 1e-3, 1e-6)
"""Sizes a normaliser is tried at: one beside which no eps counts, and down to those beside which all of them do."""


def remove_all(calls: Iterable[Call], sizes: Iterable[float] = LARGE_INPUTS) -> set[int]:
    """Those of the calls that are a normaliser which passes nothing; alike ones are tried once."""
    tried: dict[str, bool] = {}
    found = set[int]()
    for call in calls:
        if call.alone is not None:
            key = repr((call.shape, *map(_in_short, call.alone)))
            if key not in tried:
                tried[key] = all(removes_all(call, size) for size in sizes)
            if tried[key]:
                found.add(call.index)
    return found


def _in_short(value: Any) -> Any:
    """What tells two sets of arguments apart, tensors of ones by their shape."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), "ones") if value.is_floating_point() else id(value)
    if isinstance(value, (tuple, list)):
        return [_in_short(each) for each in value]
    return {k: _in_short(v) for k, v in value.items()} if isinstance(value, dict) else value


def removes_all(call: Call, size: float = 1e3, alike: bool = False) -> bool:
    """Whether a normaliser passes no gradient whatever its input is: of one number, less its mean, nothing is left.

    Tried in float64, with weights of 1 and inputs of that size: nine entries in ten send back less than a millionth of
    what any other normaliser does. In the network's own type rounding hides it. Of two numbers it leaves which is the
    larger, once its eps is nothing beside them; of one it leaves nothing at any size. ``alike``: on a batch of one
    sample, given again and again.
    """
    tried = None if call.alone is None else _tried_alone(call, call.alone, size, alike)
    if tried is None:
        return False
    z, _, gradient = tried
    return bool(torch.quantile((gradient * z).abs().reshape(-1)[:100_000], 0.9) < 1e-6)

"""The last calls before the loss: their range, and the loss as a function of what goes into them.

Outputs are not always free: after a softmax or a sigmoid they are probabilities, and a loss written for those may be
undefined or even lower outside of them. What can be reached through the last calls is what the network can reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from unvanish.evidence.moving import or_none
from unvanish.evidence.output_loss import ENOUGH, OutputLoss, loss_call, lowest
from unvanish.flow.slopes import slope_of
from unvanish.rules.conditions import MOVES, NORMALISERS
from unvanish.trace.calls import Again, Call, Capture
from unvanish.trace.capture import same_loss
from unvanish.trace.cosines import SIZED
from unvanish.trace.scaled import normal_like

EDGE = 40.0  # a function that stays inside ±EDGE everywhere has an end on that side
FAR = 1e4  # inputs between ± this are tried, or twice as far as the wanted results
GRID = 201  # inputs at which it is seen that a function only rises or only falls
HALVINGS = 64  # of the range of inputs, until they differ by less than float64 can tell
MOST = 6  # calls without weights that are followed back, besides those that only move numbers
TAKES_SHARES = ("binary_cross_entropy_with_logits", "binary_cross_entropy")
BETWEEN = ("mean", "pool", "amax", "amin", "interpolate")  # what they give lies between the numbers they are given


@dataclass(frozen=True)
class Last:
    """The calls without weights between the layers and the loss, and the loss as a function of their result.

    ``call``: the last of them that does more than move numbers or take their means, or that gives them their size.
    ``calls``: in order, each of one tensor; ``shape``: of what the first is given. ``kind``: normalised (a softmax
    among them, or a normaliser without weights), bounded, clipped on one
    side, or "" where nothing limits the result. ``low``, ``high``: its range. ``outside``: how far a target of a binary
    cross-entropy lies outside of 0 to 1 at most.
    """

    call: Call
    calls: tuple[Call, ...]
    output_loss: OutputLoss
    shape: tuple[int, ...]
    kind: str = ""
    low: float | None = None
    high: float | None = None
    outside: float | None = None

    def apply(self, z: Tensor) -> Tensor:
        """The result of the calls on another tensor."""
        return _apply(self.calls, z)

    @property
    def through(self) -> OutputLoss:
        """The loss as a function of what goes into the calls."""
        return OutputLoss(
            lambda z: self.output_loss.at([self.apply(z[0])]), [self.output_loss.now[0].new_zeros(self.shape)]
        )

    def through_from(self, call: Call) -> OutputLoss:
        """The loss as a function of what goes into this one of the calls."""
        rest = self.calls[self.calls.index(call) :]
        given = self.output_loss.now[0].new_zeros(_again(call).shape)
        return OutputLoss(lambda z: self.output_loss.at([_apply(rest, z[0])]), [given])

    @cached_property
    def reach(self) -> float | None:
        """The lowest loss that any input of the call gives."""
        now = self.output_loss.now[0]
        if now.shape != self.shape:
            now = normal_like(now.new_zeros(self.shape), torch.Generator().manual_seed(0))
        # Starts on both sides and in the middle: a ReLU has no gradient on its flat side.
        starts = (torch.full_like(now, 0.5), now, torch.zeros_like(now), now * 2.0)
        found: list[float] = []
        for start in starts:
            value = lowest(OutputLoss(self.through.at, [start]))[0]
            found += [] if value is None else [value]
            if len(found) > 1 and found[0] != 0.0 and abs(found[1] - found[0]) <= ENOUGH * abs(found[0]):
                break  # two that far apart that end alike have found it
        return min(found, default=None)

    def near(self, wanted: Tensor) -> float | None:
        """The loss of the results nearest to these that some input of the calls gives; None where none is found.

        Of functions of each number alone that only rise or only fall: the input of every entry is found by halving. A
        search from one input for all may end on a flat part, as where angles are taken of cosines that were clamped.
        """
        if not all(slope_of(call) is not None for call in self.calls) or tuple(wanted.shape) != self.shape:
            return None
        goal = wanted.detach().double()
        far = max(FAR, 2.0 * float(goal.abs().max()))
        with torch.no_grad():
            grid = torch.linspace(-1.0, 1.0, GRID, dtype=torch.float64, device=goal.device)
            made = self.apply(torch.cat([grid * far, grid]).sort().values)
            change = made[~made.isnan()].diff()
            if not change.numel() or (bool((change > 0.0).any()) and bool((change < 0.0).any())):
                return None
            falls = bool((change < 0.0).any())
            low, high = torch.full_like(goal, -far), torch.full_like(goal, far)
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                above = (self.apply(middle) > goal) != falls
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            found = float(self.output_loss.at([self.apply(low).to(self.output_loss.now[0].dtype)]))
        return found if math.isfinite(found) else None


def last_call(capture: Capture, output_loss: OutputLoss) -> Last | None:
    """What makes the recognised loss call's input, else the only output. To be read before a walk."""
    if capture.loss_call is not None and capture.loss_input is not None and same_loss(capture):
        index = capture.owner.get(capture.loss_input.slot[0])
        if index is not None and index >= 0:
            return replace(_limited(capture, index, loss_call(capture)), outside=_targets_outside(capture))
    return output_call(capture, output_loss)


def _targets_outside(capture: Capture) -> float | None:
    """None of other losses."""
    if capture.loss_call is None:
        return None
    func, args, kwargs, _ = capture.loss_call
    target = args[1] if len(args) > 1 else kwargs.get("target")
    if getattr(func, "__name__", "") not in TAKES_SHARES or not isinstance(target, Tensor) or not target.numel():
        return None
    low, high = (float(end) for end in target.aminmax())
    return max(0.0, -low, high - 1.0)


def output_call(capture: Capture, output_loss: OutputLoss) -> Last | None:
    """What makes the only output of the model, and the loss as a function of it. To be read before a walk."""
    if len(capture.outputs) != 1 or len(output_loss.now) != 1:
        return None
    index = capture.owner.get(capture.outputs[0].slot[0])
    return None if index is None or index < 0 else _limited(capture, index, output_loss)


def output_calls(capture: Capture, output_loss: OutputLoss) -> list[Last]:
    """The same for each of several outputs, the others staying as they are. To be read before a walk."""
    roots, now = capture.outputs, output_loss.now
    if len(roots) != len(now) or len(roots) < 2:
        return []

    def alone(place: int) -> OutputLoss:
        return OutputLoss(lambda z: output_loss.at([*now[:place], z[0], *now[place + 1 :]]), [now[place]])

    owners = [capture.owner.get(root.slot[0], -1) for root in roots]
    return [_limited(capture, index, alone(place)) for place, index in enumerate(owners) if index >= 0]


def of_sizes(capture: Capture, output_loss: OutputLoss | str) -> tuple[OutputLoss | str, list[Last]]:
    """The loss of several outputs, of which those that a normaliser gives their size keep it; and their last calls.

    Two embeddings of length 1 that are compared with each other (contrastive losses): what longer ones would win is no
    part of what can be achieved. Of a single output it is said where targets ask for another size.
    """
    if isinstance(output_loss, str):
        return output_loss, []
    lasts, free = output_calls(capture, output_loss), output_loss.at
    if len(lasts) != len(output_loss.now):
        return output_loss, lasts
    sizes = [_size_of(last, now) for last, now in zip(lasts, output_loss.now, strict=True)]
    if not any(sizes):
        return output_loss, lasts

    def at(z: Sequence[Tensor]) -> Tensor:
        return free([a if size is None else _apply((size,), a) for a, size in zip(z, sizes, strict=True)])

    return OutputLoss(at, output_loss.now), lasts


def _size_of(last: Last, now: Tensor) -> Call | None:
    """The normaliser that makes this output, if what it gives stays as it is when it is normalised once more."""
    call = last.call
    if last.kind != "normalised" or "softmax" in call.name or call.again is None or call.again.shape != now.shape:
        return None
    with torch.no_grad():
        again = or_none(lambda: _apply((call,), now))
    if again is None:  # whatever it is, the outputs are then taken as free
        return None
    return call if again.shape == now.shape and torch.allclose(again, now, rtol=1e-3, atol=1e-5) else None


def _limited(capture: Capture, index: int, output_loss: OutputLoss) -> Last:
    if any(type(t) is not Tensor or t.requires_grad for t in output_loss.now):
        output_loss = OutputLoss(output_loss.at, [t.detach().as_subclass(Tensor) for t in output_loss.now])
    calls = _behind_weights(capture, index)
    changing = [c for c in calls if c.name not in MOVES]
    limiting = [c for c in changing if slope_of(c) is not None or not any(word in c.name for word in BETWEEN)]
    call = limiting[-1] if limiting else capture.calls[index]
    if all(slope_of(c) is not None for c in changing):  # of each number alone: where it is moved to changes nothing
        calls = changing
    shape = tuple(output_loss.now[0].shape) if calls is changing else _again(calls[0]).shape
    sizing = [k for k, c in enumerate(limiting) if c.name in NORMALISERS or _again(c).func in SIZED]
    low, high = _range(limiting[sizing[-1] + 1 :] if sizing else limiting)
    if any("softmax" in c.name for c in changing):
        return Last(call, tuple(calls), output_loss, shape, "normalised")
    if sizing and low is None and high is None:
        return Last(limiting[sizing[-1]], tuple(calls), output_loss, shape, "normalised")
    if low is None and high is None:
        return Last(capture.calls[index], tuple(calls), output_loss, shape)
    kind = "clipped" if low is None or high is None else "bounded"
    return Last(call, tuple(calls), output_loss, shape, kind, low, high)


def _behind_weights(capture: Capture, index: int) -> list[Call]:
    """The calls of one tensor that lead to this one, in order, from the first that changes a number."""
    chain = list[Call]()
    here: Call | None = capture.calls[index]
    while here is not None and here.again is not None and sum(c.name not in MOVES for c in chain) < MOST:
        chain.insert(0, here)
        here = capture.calls[here.inputs[0]] if len(here.inputs) == 1 else None
    if here is not None and here.again is None and here.cosines:  # for which any numbers from -1 to 1 stand
        chain.insert(0, replace(here, again=Again(torch.tanh, (), {}, here.shape)))
    while chain and chain[0].name in MOVES:
        chain.pop(0)
    return chain


def _again(call: Call) -> Again:
    assert call.again is not None
    return call.again


def _apply(calls: Sequence[Call], z: Tensor) -> Tensor:
    for again in map(_again, calls):
        z = again.func(z * 1.0, *again.args, **again.kwargs)
    return z


def _range(calls: Sequence[Call]) -> tuple[float | None, float | None]:
    """The ends of an element-wise function; None on a side without one."""
    if not calls:
        return None, None
    far = torch.logspace(0, 30, 31, dtype=torch.float64, device="cpu")
    grid = torch.cat([-far, torch.linspace(-50, 50, 201, dtype=torch.float64, device="cpu"), far])
    try:
        with torch.no_grad():
            found = _apply(calls, grid)
    except Exception:  # not a function of each element alone
        return None, None
    found = found[~found.isnan()]
    if not found.numel() or (found.shape != grid.shape and found.ndim != 1):
        return None, None
    low, high = (float(v) for v in found.aminmax())
    return (low if low > -EDGE else None), (high if high < EDGE else None)

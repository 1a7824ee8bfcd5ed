"""The last calls before the loss: their range, and the loss as a function of what goes into them.

Outputs are not always free: after a softmax or a sigmoid they are probabilities, and a loss written for those may be
undefined or even lower outside of them. What can be reached through the last calls is what the network can reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unvanish.evidence.output_loss import OutputLoss, loss_call, lowest, where_finite
from unvanish.trace.calls import Call, Capture
from unvanish.trace.capture import same_loss

EDGE = 40.0  # a function that stays inside ±EDGE everywhere has an end on that side
MOST = 6  # calls without weights that are followed back
SHAPES = ("squeeze", "unsqueeze", "view", "reshape", "flatten", "contiguous")  # they change no value and no range


@dataclass(frozen=True)
class Last:
    """The calls without weights between the layers and the loss, and the loss as a function of their result.

    ``calls``: in order, each of one tensor. ``kind``: normalised (a softmax among them), bounded, clipped on one side,
    or "" where nothing limits the result. ``low``, ``high``: its range, where it is element-wise.
    """

    call: Call
    calls: tuple[Call, ...]
    output_loss: OutputLoss
    kind: str = ""
    low: float | None = None
    high: float | None = None

    def apply(self, z: Tensor) -> Tensor:
        """The result of the calls on another tensor."""
        return _apply(self.calls, z)

    @property
    def through(self) -> OutputLoss:
        """The loss as a function of what goes into the calls."""
        return OutputLoss(
            lambda z: self.output_loss.at([self.apply(z[0])]), [torch.zeros_like(self.output_loss.now[0])]
        )

    def reach(self) -> float | None:
        """The lowest loss that any input of the call gives."""
        now = self.output_loss.now[0]
        # Starts on both sides and in the middle: a ReLU has no gradient on its flat side.
        starts = (torch.full_like(now, 0.5), now, torch.zeros_like(now), now * 2.0)
        found = [lowest(OutputLoss(self.through.at, [start]))[0] for start in starts]
        return min((value for value in found if value is not None), default=None)


def last_call(capture: Capture, output_loss: OutputLoss) -> Last | None:
    """What makes the recognised loss call's input, else the only output. To be read before a walk."""
    if capture.loss_call is not None and capture.loss_input is not None and same_loss(capture):
        index = capture.owner.get(capture.loss_input.slot[0])
        if index is not None and index >= 0:
            return _limited(capture, index, where_finite(loss_call(capture), [capture.loss_call[1][0]]))
    return output_call(capture, output_loss)


def output_call(capture: Capture, output_loss: OutputLoss) -> Last | None:
    """What makes the only output of the model, and the loss as a function of it. To be read before a walk."""
    if len(capture.outputs) != 1 or len(output_loss.now) != 1:
        return None
    index = capture.owner.get(capture.outputs[0].slot[0])
    return None if index is None or index < 0 else _limited(capture, index, output_loss)


def _limited(capture: Capture, index: int, output_loss: OutputLoss) -> Last:
    output_loss = OutputLoss(output_loss.at, [t.detach().as_subclass(Tensor) for t in output_loss.now])
    call, chain = capture.calls[index], list[Call]()
    here: Call | None = call
    reshaped = False
    for _ in range(MOST):
        if here is None or here.parameters:
            break
        if here.name in SHAPES:
            reshaped = True
        elif here.probe is None or (reshaped and "softmax" in here.name):  # a softmax needs the dimension it was given
            break
        else:
            chain.insert(0, here)
        here = capture.calls[here.inputs[0]] if len(here.inputs) == 1 else None
    calls = tuple(chain)
    if any("softmax" in c.name for c in calls):
        return Last(call, calls, output_loss, "normalised")
    low, high = _range(calls)
    kind = "" if low is None and high is None else "clipped" if low is None or high is None else "bounded"
    return Last(call, calls, output_loss, kind, low, high)


def _apply(calls: tuple[Call, ...], z: Tensor) -> Tensor:
    for call in calls:
        func, args, kwargs = _parts(call)
        z = func(z * 1.0, *args, **kwargs)
    return z


def _parts(call: Call) -> tuple[Any, ...]:
    return call.probe if call.probe is not None else (lambda z: z, (), {})


def _range(calls: tuple[Call, ...]) -> tuple[float | None, float | None]:
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

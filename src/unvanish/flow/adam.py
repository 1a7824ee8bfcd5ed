"""The next update of torch's Adam and AdamW by their formula, a slice of every parameter at a time.

Their update does not depend on the weights but for the decay, which is added in closed form. So no copy of the weights
is stepped: torch's kernel of one pass over the entries writes the update itself, beginning at zero, where nothing of
it is lost to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

_kernels: Any = torch  # those over lists of tensors are not among its public names
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_UNASKED = ("fused", "foreach", "capturable", "differentiable", "maximize")


def is_adam(optimizer: Any, group: dict[str, Any]) -> bool:
    """Whether the optimizer steps this group by the formula of Adam, with plain numbers for settings."""
    if type(optimizer) not in (optim.Adam, optim.AdamW):
        return False
    tensors = any(isinstance(value, Tensor) for value in (group["lr"], *group["betas"]))
    return not tensors and not any(group.get(name) for name in _UNASKED)


def decays_apart(optimizer: Any, group: dict[str, Any]) -> bool:
    """Whether weight decay shrinks the weights themselves: always in AdamW, whose groups say so from torch 2.7 on."""
    return type(optimizer) is optim.AdamW or bool(group.get("decoupled_weight_decay"))


def applies(group: dict[str, Any], parameter: nn.Parameter, state: dict[str, Any]) -> bool:
    """Whether the formula can be had in the type of these weights, and the state is what it keeps."""
    if parameter.dtype not in (torch.float32, torch.float64) or parameter.device.type != "cpu":
        return False
    if not state:
        return True
    names, counter = _moments(group), state.get("step")
    for name in names:  # a plain loop: it runs for each parameter
        kept = state.get(name)
        if not isinstance(kept, Tensor) or kept.dtype is not parameter.dtype or kept.shape != parameter.shape:
            return False
    return len(state) == len(names) + 1 and isinstance(counter, Tensor) and counter.dtype is torch.float32


def _moments(group: dict[str, Any]) -> tuple[str, ...]:
    return MOMENTS if group.get("amsgrad") else MOMENTS[:2]


def laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in memory as its parameter is, as torch's backward leaves it.

    The kernel reads both from one end to the other: of a number that is expanded, as a sum sends it back, it would read
    what happens to lie behind it.
    """
    if gradient.layout is not torch.strided or gradient.is_nested or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)


class Room:
    """Memory for the moments of the slices that are stepped at once: used again and again, it stays in the cache."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.made: dict[tuple[str, torch.dtype], Tensor] = {}

    def views(self, name: str, dtype: torch.dtype, sizes: Sequence[int]) -> list[Tensor]:
        key = name, dtype
        if key not in self.made:
            self.made[key] = torch.empty(self.entries, dtype=dtype, device="cpu")
        total = sum(sizes)
        whole = self.made[key][:total]
        return list(whole.split(list(sizes))) if len(sizes) > 1 else [whole]


def adam_update(
    group: dict[str, Any],
    decoupled: bool,
    gradients: list[Tensor],
    scales: list[float],
    weights: list[Tensor],
    state: dict[str, list[Tensor]],
    steps: float,
    into: list[Tensor],
    room: Room,
) -> None:
    """Write the update of flat slices ``into`` tensors of their sizes.

    ``decoupled``: whether the decay is of the weights themselves. ``scales``: what each gradient is still to be
    multiplied with. ``weights``: where they decay, else empty. ``state``: per name of MOMENTS the slices' moments,
    empty before the first step. ``steps``: those taken so far. Nothing but ``into`` and ``room`` is written to.
    """
    sizes, dtype, kept = [t.numel() for t in gradients], gradients[0].dtype, []
    if any(scale != 1.0 for scale in scales):
        gradients = list(_kernels._foreach_mul(gradients, scales))
    decay, rate = float(group["weight_decay"]), float(group["lr"])
    for name in _moments(group):
        views = room.views(name, dtype, sizes)
        if name in state:
            _kernels._foreach_copy_(views, state[name])
        else:
            _kernels._foreach_zero_(views)
        kept.append(views)
    _kernels._foreach_zero_(into)
    if decay and not decoupled:
        gradients = list(_kernels._foreach_add(gradients, weights, alpha=decay))
    _kernels._fused_adam_(
        into,
        gradients,
        kept[0],
        kept[1],
        kept[2] if len(kept) > 2 else [],
        [torch.full((), steps + 1.0, dtype=torch.float32, device="cpu")] * len(into),
        lr=rate,
        beta1=float(group["betas"][0]),
        beta2=float(group["betas"][1]),
        weight_decay=0.0,
        eps=float(group["eps"]),
        amsgrad=len(kept) > 2,
        maximize=False,
    )
    if decay and decoupled:
        _kernels._foreach_add_(into, weights, alpha=-rate * decay)

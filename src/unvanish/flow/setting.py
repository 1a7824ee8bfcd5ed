"""What was looked at, and how."""

from __future__ import annotations

import torch

from unvanish.flow.look import Look
from unvanish.problem import Optimizers, name_of, parts_of
from unvanish.records import Setting
from unvanish.trace.calls import Capture


def setting_of(look: Look) -> Setting:
    """The model, the batch, the way of looking and the optimizer, as a report names them."""
    problem, model, optimizer = look.problem, look.model, look.optimizer
    parameters = list(model.parameters())
    first = next((p for p in parameters if p.is_floating_point()), parameters[0])
    return Setting(
        model=type(model).__name__,
        parameters=sum(p.numel() for p in parameters),
        batch_size=problem.batch_size,
        dtype=str(first.dtype).removeprefix("torch."),
        device=str(first.device),
        mode="train" if model.training else "eval",
        effort=look.effort,
        seed=look.seed,
        autocast="" if problem.autocast is None else str(problem.autocast).removeprefix("torch."),
        optimizer="" if optimizer is None else name_of(optimizer),
        eps=None if optimizer is None else _eps(optimizer),
        torch=str(torch.__version__),
    )


def _eps(optimizer: Optimizers) -> float | None:
    """The eps beside the root of the second moment, where all have one; other optimizers' eps means something else."""
    adaptive = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad")
    if not all(type(part).__name__ in adaptive for part in parts_of(optimizer)):
        return None
    return max((float(group["eps"]) for group in optimizer.param_groups if "eps" in group), default=None)


def notes_of(capture: Capture) -> tuple[str, ...]:
    """What of the model as it was given makes a training differ from what is shown."""
    notes = []
    if not capture.model.training:
        notes.append(
            "the model was checked in eval mode, as it was given; training behaves differently (dropout, norms)"
        )
    for place in sorted(capture.hooked):
        notes.append(f"a tensor hook is set at {place or 'an unknown place'}; gradients are shown without what it does")
    hooked = [name for name, p in capture.model.named_parameters() if p._backward_hooks]
    if hooked:
        more = f" and {len(hooked) - 1:,} more parameters" if len(hooked) > 1 else ""
        notes.append(f"a hook is set on the gradient of {hooked[0]}{more}; gradients are shown without what it does")
    return tuple(notes)

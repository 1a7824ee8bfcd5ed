"""Hugging Face: ``Trainer(callbacks=[Watch()])`` watches what ``train`` trains, as ``unvanish.watch`` would.

Losses are those that were run backward: a NaN that the Trainer logs as 0.0 (``logging_nan_inf_filter``) is a NaN here.
The gradient's norm is known before and after clipping, whatever a callback of theirs would see. Each sample is written
at once: an interrupted Trainer calls no callback, and the run ends with the program, or with the cell of a notebook.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unvanish
from unvanish.integrations.required import callback, required, where_its_cell_fails

if TYPE_CHECKING:
    from unvanish import Report

STATE = "unvanish"
"""The name under which a checkpoint's trainer_state.json holds what is needed to go on."""

UNDIVIDED = (
    "the model's forward takes **kwargs, so the Trainer leaves it to the model to divide the loss of each of {steps}"
    " accumulated parts by num_items_in_batch, which that forward does not mention: losses and gradients may be {steps}"
    " times those of one batch, and that is no explosion"
)


class Hooks:
    """A callback that watches a training; the arguments are those of ``unvanish.watch``.

    A checkpoint holds where the run file is and the step, and a training that goes on from it goes on in that file.
    """

    def __init__(
        self, *, every: int = 10, check_every: int | None = None, to: str | Path = "runs/",
        on_finding: Callable[[Any], Any] | None = None, log_to: Any = None, log_layers: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.given: dict[str, Any] = {"every": every, "check_every": check_every, "on_finding": on_finding,
                                      "log_to": log_to, "log_layers": log_layers}  # fmt: skip
        self.to = to
        self.run: Any = None

    def diagnose(self) -> Report | None:
        """A full check of the batch that is being trained on, for a hook after its backward: on_pre_optimizer_step.

        None where there is no training, or where the step cannot be run again.
        """
        return None if self.run is None else self.run.check()

    # What the Trainer calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.run is not None:
            self.run.close("another training has begun")
        states: Any = getattr(state, "stateful_callbacks", None) or {}
        before: dict[str, Any] = dict(states.get(STATE, {})) if state.global_step else {}
        model, steps = more["model"], args.gradient_accumulation_steps
        self.run = unvanish.watch(
            model, more["optimizer"], to=before.get("path", self.to), from_step=before.get("step") or None,
            **self.given,
        )  # fmt: skip
        where_its_cell_fails(self.run.close_after)
        if steps > 1 and _leaves_the_division_out(model):
            self.run.note(UNDIVIDED.format(steps=steps))

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.run is not None:
            self.run.flush()
            if getattr(state, "stateful_callbacks", None) is not None:
                at = {"path": str(self.run.path), "step": self.run.step}
                state.stateful_callbacks[STATE] = {"args": {}, "attributes": {}, **at}

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.run is not None:
            self.run.close()


def _leaves_the_division_out(model: Any) -> bool:
    """Whether the Trainer leaves the division by the number of items to a forward that shows no sign of it."""
    forward: Any = model.forward
    takes = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(forward).parameters.values())
    if not getattr(model, "accepts_loss_kwargs", takes):
        return False
    try:
        source = inspect.getsource(forward)
    except (OSError, TypeError):
        return False
    return "num_items_in_batch" not in source and "loss_function" not in source


if TYPE_CHECKING:
    Watch = Hooks


def __getattr__(name: str) -> Any:
    if name != "Watch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    theirs = required("transformers.trainer_callback", install="'transformers[torch]'")
    found = callback(Hooks, theirs.TrainerCallback)
    return globals().setdefault(name, found)

"""Lightning: ``Trainer(callbacks=[Watch()])`` watches what ``fit`` trains, as ``unvanish.watch`` would.

What a hook of Lightning sees differs by precision and by who optimizes: the optimizer's own pre-hook runs before
``training_step`` in float32 and bfloat16, and after it with a scaler. The watch reads where the gradients are complete,
unscaled and not clipped yet; only the moment for closures that run no backward (manual optimization) comes from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unvanish
from unvanish.integrations.required import callback, required

if TYPE_CHECKING:
    from unvanish import Report


class Hooks:
    """A callback that watches a training; the arguments are those of ``unvanish.watch``.

    ``log_to="trainer"`` sends the numbers to the trainer's own loggers. A checkpoint holds where the run file is and
    the step, and a training that goes on from it goes on in that file.
    """

    def __init__(
        self, *, every: int = 10, check_every: int | None = None, to: str | Path = "runs/",
        on_finding: Callable[[Any], Any] | None = None, log_to: Any = None, log_layers: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.every, self.check_every, self.to, self.on_finding = every, check_every, to, on_finding
        self.log_to, self.log_layers = log_to, log_layers
        self.run: Any = None
        self._before: dict[str, Any] = {}

    def diagnose(self) -> Report | None:
        """A full check of the batch that is being trained on, for a hook after its backward: on_before_optimizer_step.

        None where there is no training, or where the step cannot be run again.
        """
        return None if self.run is None else self.run.check(ready=True)  # in a closure: its backward may be before it

    # What Lightning calls

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._close("another training has begun")
        before, self._before = self._before, {}
        log_to = list(trainer.loggers) if self.log_to == "trainer" else self.log_to
        self.run = unvanish.watch(
            pl_module, list(trainer.optimizers), every=self.every, check_every=self.check_every,
            to=before.get("path", self.to), on_finding=self.on_finding, from_step=before.get("step") or None,
            log_to=log_to, log_layers=self.log_layers,
        )  # fmt: skip

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self.run is not None:
            self.run.gradients_are_ready(optimizer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._close("")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.run is not None:
            self.run.close_after(exception)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.run is None else {"path": str(self.run.path), "step": self.run.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = dict(state_dict)

    def _close(self, why: str) -> None:
        if self.run is not None:
            self.run.close(why)


if TYPE_CHECKING:
    Watch = Hooks


def __getattr__(name: str) -> Any:
    if name != "Watch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = callback(Hooks, required("lightning.pytorch", "pytorch_lightning", install="lightning").Callback)
    return globals().setdefault(name, found)

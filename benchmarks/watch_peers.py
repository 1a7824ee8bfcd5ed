"""The ways to look at a training beside ours: the loop that everybody writes, and the live monitors that are installed.

Each way is a function of a problem that gives what to call before a step, before and after the optimizer's step, and at
the end. A monitor that is not installed is left out; which ones ran stands in the result with their versions.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import unvanish

Call = Callable[[int, Any], None]


def nothing(step: int, loss: Any) -> None:
    """Where there is nothing to do."""


@dataclass
class Way:
    """What a way does in a step of a training."""

    first: Call = nothing  # before the forward pass
    before: Call = nothing  # between the backward pass and the optimizer's step
    after: Call = nothing  # behind the optimizer's step
    end: Callable[[], None] = lambda: None


def naive(problem: unvanish.Problem, every: int) -> Way:
    """``p.grad.norm().item()`` of each parameter, in a list."""
    kept: list[list[float]] = []

    def before(step: int, loss: Any) -> None:
        if step % every == 0:
            kept.append([p.grad.norm().item() for p in problem.model.parameters()])

    return Way(before=before)


def wandb(problem: unvanish.Problem, every: int) -> Way:
    """``wandb.watch`` of the gradients, offline."""
    os.environ.update(WANDB_SILENT="true", WANDB_MODE="offline")
    import wandb  # pyright: ignore[reportMissingImports]

    run = wandb.init(mode="offline", dir=tempfile.mkdtemp(), settings=wandb.Settings(x_disable_stats=True))
    wandb.watch(problem.model, log="gradients", log_freq=every)

    def end() -> None:
        wandb.unwatch(problem.model)
        run.finish()

    return Way(after=lambda step, loss: run.log({"loss": loss.item()}), end=end)


def torch_audit(problem: unvanish.Problem, every: int) -> Way:
    from torch_audit import autopatch  # pyright: ignore[reportMissingImports]

    auditor = autopatch(problem.model, optimizer=problem.optimizer, every_n_steps=every, reporters=[])
    return Way(end=auditor.unpatch)


def ormas_monitor(problem: unvanish.Problem, every: int) -> Way:
    from ormas_monitor import Monitor  # pyright: ignore[reportMissingImports]

    monitor = Monitor(problem.model, problem.optimizer, out=tempfile.mkdtemp() + "/run")
    return Way(before=lambda step, loss: monitor.step(loss), end=monitor.close)


def traintools(problem: unvanish.Problem, every: int) -> Way:
    from traintools import GradientHealthMonitor  # pyright: ignore[reportMissingImports]

    monitor = GradientHealthMonitor(max_grad_norm=1.0)
    rate = problem.optimizer.param_groups[0]["lr"]
    return Way(before=lambda step, loss: monitor.inspect(problem.model, step=step, lr=rate))


def neural_observatory(problem: unvanish.Problem, every: int) -> Way:
    from neural_observatory import Observatory  # pyright: ignore[reportMissingImports]

    observatory = Observatory(problem.model)
    observatory.watch()
    return Way(first=lambda step, loss: observatory.step(step=step, epoch=0))


def torchmortem(problem: unvanish.Problem, every: int) -> Way:
    from torchmortem import Autopsy  # pyright: ignore[reportMissingImports]

    autopsy = Autopsy(problem.model, optimizer=problem.optimizer)
    autopsy.__enter__()
    end = lambda: autopsy.__exit__(None, None, None)  # noqa: E731
    return Way(after=lambda step, loss: autopsy.step(loss=loss.item()), end=end)


PEERS: dict[str, tuple[str, Callable[[unvanish.Problem, int], Way], int]] = {
    "naive loop": ("torch", naive, 1),
    "naive loop, every=10": ("torch", naive, 10),
    "wandb.watch, log_freq=1": ("wandb", wandb, 1),
    "wandb.watch, log_freq=10": ("wandb", wandb, 10),
    "torch-audit": ("torch-audit", torch_audit, 1),
    "ormas-monitor": ("ormas-monitor", ormas_monitor, 1),
    "traintools": ("traintools", traintools, 1),
    "neural-observatory": ("neural-observatory", neural_observatory, 1),
    "torchmortem": ("torchmortem", torchmortem, 1),
}
"""Name in the table, distribution, way, every how many steps."""


def quiet() -> contextlib.AbstractContextManager[Any]:
    """What a monitor prints is not measured."""
    return contextlib.redirect_stdout(io.StringIO())

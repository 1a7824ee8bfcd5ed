"""Where the numbers of a run go beside others: TensorBoard, W&B, MLflow, or anything with ``log(metrics, step)``.

Nothing of theirs is imported: a logger is known by what it can do. What one of them raises ends the logging to it with
one message, and neither the training nor the watching.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from unvanish.records import Finding, UnvanishError

LOG = logging.getLogger("unvanish")

FLOOR = 400.0
"""What stands for ±inf where infinity is not kept: no number of float64 has such a log10; the smallest is −323.3."""

MOST = 1_000
"""Metrics in one batch that MLflow takes."""

WAITING = 10_000
"""Messages that wait for MLflow; what comes on top is dropped and counted."""

PATIENCE = 30.0
"""Seconds that the end of a run waits for what MLflow has not written yet."""


@dataclass
class TensorBoard:
    """Anything with ``add_scalar(tag, value, step)``; findings are texts. Keeps ±inf."""

    writer: Any

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def tell(self, finding: Finding, step: int) -> None:
        if hasattr(self.writer, "add_text"):
            self.writer.add_text("unvanish/findings", _text(finding), step)

    def close(self) -> None:
        if hasattr(self.writer, "flush"):
            self.writer.flush()


@dataclass
class WeightsAndBiases:
    """A run of W&B; findings are alerts. Steps are a metric of their own: W&B ignores what comes with a past step."""

    run: Any

    def __post_init__(self) -> None:
        self.run.define_metric("unvanish/step")
        self.run.define_metric("unvanish/*", step_metric="unvanish/step")

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.run.log({**metrics, "unvanish/step": step})

    def tell(self, finding: Finding, step: int) -> None:
        level = "ERROR" if finding.level == "error" else "INFO"
        self.run.alert(title=f"unvanish {finding.code}", text=_text(finding), level=level)

    def close(self) -> None:
        pass


@dataclass
class MLflow:
    """The module ``mlflow`` with an active run; findings are tags of the run. Batches are sent off the training thread.

    The run is held by its id: to another thread than the one that began it, ``mlflow.log_metric`` begins a new one.
    """

    module: Any
    run_id: str = ""
    dropped: int = 0
    waiting: queue.Queue[tuple[str, Any] | None] = field(default_factory=lambda: queue.Queue(WAITING))
    thread: threading.Thread | None = None
    broken: Exception | None = None

    def __post_init__(self) -> None:
        active = self.module.active_run()
        if active is None:
            raise UnvanishError("watch(log_to=mlflow) needs an active run; call mlflow.start_run() before")
        self.run_id = active.info.run_id
        self.client = self.module.MlflowClient()

    def log(self, metrics: dict[str, float], step: int) -> None:
        now = int(time.time() * 1e3)
        made = self.module.entities.Metric
        self._send("metrics", [made(name, _bounded(value), now, step) for name, value in metrics.items()])

    def tell(self, finding: Finding, step: int) -> None:
        self._send("tag", (f"unvanish.{finding.code}", _text(finding)[:500]))

    def close(self) -> None:
        if self.thread is not None:
            try:
                self.waiting.put(None, timeout=PATIENCE)
                self.thread.join(PATIENCE)
            except queue.Full:
                self.dropped += self.waiting.qsize()
            self.thread = None
        if self.dropped:
            LOG.warning("MLflow was too slow: %d messages of this run were not sent", self.dropped)
        self._raise()

    def _send(self, kind: str, what: Any) -> None:
        self._raise()
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="unvanish-mlflow", daemon=True)
            self.thread.start()
        try:
            self.waiting.put_nowait((kind, what))
        except queue.Full:
            self.dropped += 1

    def _raise(self) -> None:
        if self.broken is not None:
            broken, self.broken = self.broken, None
            raise broken

    def _work(self) -> None:
        """Send what waits, as much at a time as there is."""
        over = False
        while not over:
            some = [self.waiting.get()]
            while not self.waiting.empty() and len(some) < MOST:
                some.append(self.waiting.get_nowait())
            over = None in some
            try:
                metrics = [each for message in some if message and message[0] == "metrics" for each in message[1]]
                for at in range(0, len(metrics), MOST):
                    self.client.log_batch(self.run_id, metrics[at : at + MOST])
                for message in some:
                    if message and message[0] == "tag":
                        self.client.set_tag(self.run_id, *message[1])
            except Exception as error:
                self.broken = error


@dataclass
class Anything:
    """What has ``log(metrics, step)``, or ``log_metrics(metrics, step)`` as the loggers of Lightning have."""

    target: Any

    def log(self, metrics: dict[str, float], step: int) -> None:
        (getattr(self.target, "log_metrics", None) or self.target.log)(dict(metrics), step)

    def tell(self, finding: Finding, step: int) -> None:
        pass

    def close(self) -> None:
        pass


def loggers_of(log_to: Any) -> list[Any]:
    """A logger for each object that was given; UnvanishError for one that takes no numbers."""
    several = [] if log_to is None else list(log_to) if isinstance(log_to, (list, tuple)) else [log_to]
    return [_logger(each) for each in several]


def _logger(target: Any) -> Any:
    name = getattr(target, "__name__", "")
    if name == "wandb":
        if target.run is None:
            raise UnvanishError("watch(log_to=wandb) needs a run; call wandb.init() before")
        target = target.run
    if name == "mlflow":
        return MLflow(target)
    if callable(getattr(target, "add_scalar", None)):
        return TensorBoard(target)
    if callable(getattr(target, "define_metric", None)) and callable(getattr(target, "alert", None)):
        return WeightsAndBiases(target)
    if callable(getattr(target, "log", None)) or callable(getattr(target, "log_metrics", None)):
        return Anything(target)
    raise UnvanishError(
        f"watch(log_to) holds a {type(target).__name__}; it takes a SummaryWriter, a run of W&B, the module mlflow, or"
        " anything with log(metrics, step)"
    )


class Loggers:
    """All the loggers of a run; one that fails is left out from then on."""

    def __init__(self, log_to: Any = None) -> None:
        self.targets = loggers_of(log_to)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._each("log", metrics, step)

    def tell(self, finding: Finding, step: int) -> None:
        self._each("tell", finding, step)

    def close(self) -> None:
        self._each("close")

    def _each(self, what: str, *args: Any) -> None:
        for target in tuple(self.targets):
            try:
                getattr(target, what)(*args)
            except Exception as error:
                self.targets.remove(target)
                LOG.warning("no more is logged to %s: %s: %s", type(target).__name__, type(error).__name__, error)


def _bounded(value: float) -> float:
    return max(-FLOOR, min(FLOOR, value)) if math.isinf(value) else value


def _text(finding: Finding) -> str:
    return f"{finding.code} {finding.level}: {finding.message}"

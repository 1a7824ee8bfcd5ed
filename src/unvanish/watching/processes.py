"""Several processes, each with a part of the batch or of the weights: one packed all-reduce a sample gives the whole.

With DistributedDataParallel each process has a part of the batch and all of the averaged gradient; with fully_shard
(FSDP2) a part of both. Sums of squares add up, so one sum over all processes makes every norm exact.

A process that waits for another that never comes is the end of a training. So nothing is summed before all processes
have said that they watch the same layers at the same steps, and one that stops watching joins in once more to say so.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from unvanish.watching.norms import norm, spread
from unvanish.watching.sample import NOTHING, Column
from unvanish.watching.step import DEAD, GRADIENT, LOST, RATIO, SATURATED, SIGNAL, WEIGHT, Step
from unvanish.watching.table import Place

SHARDED = (
    "some layers are spread over several processes (DTensor), which do not all watch them; a part of a norm is no norm,"
    " so they are left out"
)

ALONE = (
    "{count} processes train, and the numbers are of this one alone: the watched model is neither in"
    " DistributedDataParallel nor sharded by fully_shard over all of them"
)
NOT_ALL = (
    "{count} processes train, and the numbers are of this one alone, because not every process watches the same layers"
    " at the same steps"
)
GONE = "since step {step:,} the numbers are of this process alone: another one stopped watching"
TOGETHER = (
    "{count} processes train: signals, norms and the loss are of all of them together; saturated and dead fractions are"
    " means over them, so that a unit which is off in one process only counts in part"
)
SHARDED_NOISE = "the gradient noise scale is not measured: with fully_shard no process sees its own gradient"

PER_LAYER = 11
WAIT = 5.0
"""Seconds that the first process waits to hear from the others where a number was born that is not finite."""

_turns = itertools.count()


class Processes:
    """The processes that train the watched models together. ``together``: all of them watch, as far as is known."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.group: Any = None
        self.size, self.columns = 1, 0
        self.kinds: set[str] = set()
        self.apart: set[int] = set()  # models that train in this process alone, as far as is known
        self.turn, self.name, self.told, self.settled, self.note = next(_turns), "", "", False, ""
        self.said: set[str] = set()
        self.flat = False  # the older FullyShardedDataParallel: parts of one long vector, which look like parameters
        self.last = -1  # the step that was summed last
        self.hooks: list[Any] = []
        self.local: dict[int, float | Tensor] = {}

    # Who takes part

    def add(self, model: nn.Module) -> None:
        """A model is watched: ``model`` as it is called, with what it is wrapped in."""
        if self.settled or not several():
            return
        self.flat = self.flat or any(type(each).__name__ == "FullyShardedDataParallel" for each in model.modules())
        kind, group = _group_of(model)
        if not kind or (self.kinds and group is not self.group):
            self.apart.add(id(model))
            return
        self.kinds.add(kind)
        self.group, self.size = group, distributed.get_world_size(group)

    def called(self, model: nn.Module) -> None:
        """A model that was watched before it was wrapped is called from inside its wrapper."""
        active = getattr(DistributedDataParallel, "_active_ddp_module", None)
        if not self.settled and active is not None and active.module is model and "data" not in self.kinds:
            self.apart.discard(id(model))
            self.add(active)

    @property
    def together(self) -> bool:
        return self.size > 1

    def announce(self, columns: Sequence[Column]) -> None:
        """Before the first backward that is sampled: tell the others what this process watches."""
        if self.settled or self.name or not several():
            return
        if not self.together or self.apart:
            self._stay(ALONE)
            return
        self.columns = len(columns)
        self.told = json.dumps([self.every, sorted(self.kinds), [column.name for column in columns]])
        self.name = f"unvanish/{hashlib.sha256(self.told.encode()).hexdigest()}"
        self._say("turn", str(self.turn))
        self._say("watches", self.told)

    def _say(self, what: str, value: str) -> None:
        _store().set(f"{self.name}/{what}/{distributed.get_rank()}", value)

    def _said(self, what: str, rank: int) -> str | None:
        key = f"{self.name}/{what}/{rank}"
        return _store().get(key).decode() if _store().check([key]) else None

    def ends(self) -> None:
        """This process no longer watches: what it said is no answer to a later watch of the same layers."""
        if self.name and several():
            with contextlib.suppress(RuntimeError):  # the process that holds the store may be gone
                self._say("watches", "")
                self._say("alone", "")

    def settle(self) -> None:
        """After it: see whether they all watch the same. No backward ends before the last has begun."""
        if self.settled or not self.together:
            return
        self.settled = True
        if not self.name:  # no backward was seen to start
            self._stay(NOT_ALL)
            return
        ranks = distributed.get_process_group_ranks(self.group)
        if any(self._said("alone", each) or self._said("watches", each) != self.told for each in ranks):
            self._say("alone", "yes")
            self._stay(NOT_ALL)
            return
        self.note = TOGETHER.format(count=self.size)
        if "sharded" in self.kinds:
            self.note += f"; {SHARDED_NOISE}"

    def _stay(self, why: str, step: int = 0) -> None:
        """Go on alone."""
        self.note = why.format(count=distributed.get_world_size(), step=step)
        self.size, self.settled = 1, True
        self.disarm()

    # The gradient of this process, before it is averaged

    def arm(self, places: Iterable[Place], guard: Callable[[Any], Any]) -> None:
        """Look at the gradients of the coming backward before DistributedDataParallel averages them."""
        if not self.hooks and self.together and self.kinds == {"data"}:
            for place in places:
                for each in place.trainable:
                    seen = guard(functools.partial(self._see, id(each)))
                    self.hooks.append(each.register_post_accumulate_grad_hook(seen))

    def _see(self, key: int, parameter: nn.Parameter) -> None:
        if parameter.grad is not None:
            self.local[key] = norm(parameter.grad)

    def disarm(self) -> None:
        while self.hooks:
            self.hooks.pop().remove()
        self.local.clear()

    # The sum

    def add_up(self, step: int, now: Step, table: Sequence[Place]) -> None:
        """Make the numbers of ``now`` those of all processes; one all-reduce, in which every process takes part."""
        self.last = step
        parts = [number for at in range(self.columns) for number in self._of_layer(now, table[at])]
        loss = float(now.loss)
        samples = float(max(now.samples.values(), default=0))
        squares = [_square(now.unclipped) / self.size, _square(now.unclipped_parts), self._local()]
        self._receive(step, now, self._sum([0.0, loss, samples, *squares, *parts]))

    def part(self, step: int) -> None:
        """Take part once more, to say that this process watches no longer."""
        self.last = step
        self._sum([1.0, *[0.0] * (5 + PER_LAYER * self.columns)])
        self._stay(GONE, step)

    def _sum(self, numbers: list[float]) -> list[float]:
        nccl = "nccl" in str(distributed.get_backend(self.group))
        device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        packed = torch.tensor(numbers, dtype=torch.float64, device=device)
        distributed.all_reduce(packed, group=self.group)
        return packed.tolist()

    def _of_layer(self, now: Step, place: Place) -> list[float]:
        row = now.rows.get(place.at, NOTHING)
        same = 1.0 if place.sharded else 1.0 / self.size  # what every process has must not count several times
        update, weight = now.moved.get(place.at, (0.0, 0.0))
        shares = [value for at in (SATURATED, DEAD, LOST) for value in _counted(row[at])]
        signal = _square(row[SIGNAL]) / max(1, now.samples.get(place.at, 1))
        return [signal, same * _square(row[GRADIENT]), same * _square(row[WEIGHT]), update, weight, *shares]

    def _local(self) -> float:
        values = [float(each) for each in self.local.values()]
        return sum(each * each for each in values)

    def _receive(self, step: int, now: Step, summed: list[float]) -> None:
        failed, loss, samples, unclipped, parts, local = summed[:6]
        if failed:
            self._stay(GONE, step)
            return
        for at, row in now.rows.items():
            mine = summed[6 + PER_LAYER * at :][:PER_LAYER]
            if len(mine) == PER_LAYER:
                _fill(row, mine, samples, self.size)
                now.moved[at] = mine[3], mine[4]
        now.samples = {at: int(samples) for at in now.samples}
        now.loss = loss / self.size
        now.unclipped = _log10_root(unclipped + parts)
        if self.local:
            now.noise = noise_scale(local / self.size, unclipped, samples / self.size, samples)
            self.local.clear()

    def keep_what_is_whole(self, now: Step, table: Iterable[Place], notes: list[str]) -> list[str]:
        """Leave out what is a part of a norm; the notes of the run, with what is to be said of it."""
        notes = [each for each in notes if each not in self.said]
        if self.note:
            notes.append(self.note)
            self.said.add(self.note)
        parted = {place.at for place in table if place.sharded or self.flat}
        if self.together or not parted:
            return notes
        now.unclipped = math.nan
        for at in parted:
            now.rows.pop(at, None)
        now.groups = [tuple(at for at in group if at not in parted) for group in now.groups]
        return notes if SHARDED in notes else [*notes, SHARDED]

    # Where a number was born that is not finite

    def tell(self, step: int, message: str) -> None:
        """What this process found out of the step that broke; "" where its own part was in order."""
        if self.together and self.name:
            self._say(f"broken/{self.turn}/{step}", message)

    def hear(self, step: int) -> tuple[int, str] | None:
        """The first of the other processes in which something was born in this step, and what it says."""
        if not self.together or not self.name:
            return None
        until = time.monotonic() + WAIT
        ranks = set(distributed.get_process_group_ranks(self.group)) - {distributed.get_rank()}
        waiting = {rank: self._said("turn", rank) for rank in ranks if self._said("watches", rank) == self.told}
        while waiting and time.monotonic() < until:
            for rank, turn in list(waiting.items()):
                message = self._said(f"broken/{turn}/{step}", rank)
                if message:
                    return rank, message
                if message is not None:
                    del waiting[rank]
            time.sleep(0.01)
        return None


def noise_scale(of_part: float, of_all: float, part: float, samples: float) -> float:
    """The batch size at which noise and gradient are equal: tr(Σ)/‖G‖², from squared norms at two batch sizes.

    ``of_part``: the mean of ‖g‖² over parts of ``part`` samples each; ``of_all``: ‖ḡ‖² of all ``samples``. Infinite
    where the gradient is lost in the noise. Source: McCandlish et al. 2018, appendix A.1.
    """
    if not samples > part > 0.0 or not math.isfinite(of_part + of_all):
        return math.nan
    gradient = (samples * of_all - part * of_part) / (samples - part)
    noise = (of_part - of_all) / (1.0 / part - 1.0 / samples)
    return max(0.0, noise) / gradient if gradient > 0.0 else math.inf


def _fill(row: list[float], mine: list[float], samples: float, size: int) -> None:
    if not math.isnan(row[SIGNAL]):  # of the mean of the losses: each process's own signal counts as 1/size of it
        row[SIGNAL] = _log10_root(mine[0] * samples) - math.log10(size)
    row[GRADIENT], row[WEIGHT], row[RATIO] = _log10_root(mine[1]), _log10_root(mine[2]), math.nan
    for at, (share, count) in zip((SATURATED, DEAD, LOST), (mine[5:7], mine[7:9], mine[9:11]), strict=True):
        row[at] = share / count if count else math.nan


def _counted(value: float) -> tuple[float, float]:
    return (0.0, 0.0) if math.isnan(value) else (value, 1.0)


def _square(log10: float) -> float:
    """The square of a norm; nothing of one that was not measured."""
    if math.isnan(log10) or log10 == -math.inf:
        return 0.0
    return math.inf if log10 > 150.0 else 10.0 ** (2.0 * log10)


def _log10_root(square: float) -> float:
    if square == 0.0:
        return -math.inf
    return 0.5 * math.log10(square) if math.isfinite(square) else math.inf


def several() -> bool:
    """Whether more than one process trains."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _group_of(model: nn.Module) -> tuple[str, Any]:
    """How the processes share the work on a model, and the group that does: ("data" or "sharded" or "", group)."""
    from torch.distributed.fsdp import FSDPModule

    parts: list[Any] = [each for each in model.parameters() if spread(each)]
    meshes = {each.device_mesh for each in parts}
    sharded = bool(parts) and any(isinstance(each, FSDPModule) for each in model.modules())
    if sharded and len(meshes) == 1 and all(_by_rows(each) for each in parts):
        mesh = meshes.pop()
        if mesh.ndim == 1:
            return "sharded", mesh.get_group()
        return ("sharded", distributed.group.WORLD) if mesh.size() == distributed.get_world_size() else ("", None)
    for module in () if parts else model.modules():
        if isinstance(module, DistributedDataParallel) and not module._join_config.enable:
            return "data", module.process_group
    return "", None


def _by_rows(parameter: Any) -> bool:
    """Whether it is sharded as fully_shard does, in which every process has a batch of its own."""
    sharded = [each.is_shard() for each in parameter.placements]
    return sum(sharded) == 1 and not any(each.is_partial() for each in parameter.placements)


def _store() -> Any:
    return distributed.distributed_c10d._get_default_store()

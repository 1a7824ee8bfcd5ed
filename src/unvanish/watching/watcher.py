"""The watch loop: what happens at each forward, backward and optimizer step of a training that is watched.

Most steps cost a look at the loss and at one small gradient. A sampled step carries hooks, and its numbers are read
just before the optimizer moves the weights. Nothing here changes what the training does: every hook returns nothing,
the random state is put back after a repetition, and an error of ours ends the watching, never the training.
"""

from __future__ import annotations

import logging
import math
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from unvanish.evidence.copies import stays_one_unit
from unvanish.watching.box import Box
from unvanish.watching.broken import Scene, odd_rate
from unvanish.watching.calls import Calls
from unvanish.watching.gradients import Moves, gone, held, looks_finite, odd, scale_of, sizes
from unvanish.watching.guard import Guard
from unvanish.watching.loss_call import Proportion, stake_of
from unvanish.watching.nesting import Nesting
from unvanish.watching.processes import Processes
from unvanish.watching.resting import Resting
from unvanish.watching.sample import Column, Sample, total
from unvanish.watching.signals import Signals, unread
from unvanish.watching.step import Step, is_sampled
from unvanish.watching.table import Table, smallest
from unvanish.watching.without import Idle, Without

LOG = logging.getLogger("unvanish")


class Watcher:
    """Follows a training loop. ``on_sample(sample)`` and ``on_broken(step, what)`` are told what it saw."""

    def __init__(
        self, every: int, on_sample: Callable[[Sample], None], on_broken: Callable[[int, str], None],
    ) -> None:  # fmt: skip
        self.every, self.on_sample, self.on_broken = every, on_sample, on_broken
        self.table, self.box, self.processes = Table(self._emptied), Box(), Processes(every)
        self.guard = Guard(self._fails)
        self.guarded = self.guard.around
        self.signals = Signals(self.table, self.guarded)
        self.calls = Calls(self.box, self.signals, self.processes, self.guard, self._broken_off)
        self.columns: list[Column] = []
        self.optimizers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.resting = Resting(self.table, self.optimizers, self.guarded)
        self.expected: set[int] = set()  # the optimizers that make a step together
        self.step, self.skipped, self.sampled = 0, 0, True  # whether the coming step is sampled
        self.now, self.process = Step(), os.getpid()
        self.nesting, self.backwards, self.proportion = Nesting(), 0, Proportion()
        self.looks, self.written = 0, False  # sampled steps so far, and whether gradients are changed after a backward
        self.notes, self.without, self.idle = list[str](), Without(), Idle()
        self.first: Tensor | None = None
        self.firsts: dict[int, Tensor | None] = {}  # of each optimizer
        self.broken_off, self.lazy = False, False  # a pass was, since the last step; a parameter has no shape yet
        self.apart = False  # several optimizers make steps of their own, and come again
        self._moving: Callable[[], Any] = lambda: None  # the optimizer whose step runs, or was the last to, weakly
        self.inside: Any = None  # that is calling its closure
        self.due: Callable[[], Any] | None = None  # a check that waits for the backward inside the closure
        told = self._backward_starts, self._backward_ends, self._scaler_updates
        self.backward_starts, self.backward_ends, self.scaler_updates = map(self.guarded, told)
        self._steps, self._stepped, self._finish = map(self.guarded, (self._before_step, self._after_step, self.finish))

    def add_model(
        self, name: str, model: nn.Module, outer: nn.Module | None = None, wrapped: nn.Module | None = None
    ) -> None:
        """Watch a model's outermost calls, and its layers on sampled steps.

        ``outer``: what is called in its stead, such as its compiled form, inside which no hook of ours runs;
        ``wrapped``: the model in what spreads it over several processes.
        """
        self.table.add(name, model)
        self.processes.add(model if wrapped is None else wrapped)
        self._columns()
        if outer is not None:
            self.signals.hidden.update({id(each): each for each in model.modules()})
        self.calls.add(model, outer)
        self._arm()

    def rename(self, name: str) -> None:
        """The one model has a name from now on; nothing must have been sampled yet."""
        self.table.rename(name)
        self.columns.clear()
        self._columns()

    def add_optimizer(self, optimizer: Any) -> None:
        """Expect the steps of an optimizer; who calls ``before_step`` and ``after_step`` is up to the caller."""
        self.expected &= {*self.optimizers}
        self.optimizers[id(optimizer)] = optimizer
        self.expected.add(id(optimizer))

    def _emptied(self, places: list[int]) -> None:
        """A model is gone: let go of what is its own. This may come in the middle of anything."""
        self.first, self.firsts = smallest(self.table), {}
        self.now.seen.known = {}
        self.signals.let_go(places)

    @property
    def moving(self) -> Any:
        """The optimizer whose step runs, or was the last to; None where there was none, or it is gone."""
        return self._moving()

    def _columns(self) -> None:
        for place in list(self.table):
            new = Column(place.name, place.kind, place.count, not place.trainable)
            if place.at == len(self.columns):
                self.columns.append(new)
            elif place.parameters:  # else its model is gone
                self.columns[place.at] = replace(new, source=self.columns[place.at].source)
        self.lazy = any(is_lazy(p) for place in self.table for p in place.parameters)
        self.first, self.firsts = smallest(self.table), {}

    def _first_of(self, optimizer: Any) -> Tensor | None:
        """The first parameter that it moves."""
        key = id(optimizer)
        if key not in self.firsts:
            self.firsts[key] = smallest(self.table.of(held(optimizer)))
        return self.firsts[key]

    def _fails(self) -> None:
        LOG.warning("unvanish stopped watching at step %d: %s", self.step, self.failed)
        self.calls.leave_mode()

    @property
    def failed(self) -> str:
        """The error of ours that ended the watching, or ""."""
        return self.guard.failed

    def detach(self) -> None:
        """Take every hook away."""
        self.signals.disarm()
        self.processes.disarm()
        self.calls.detach()

    def _arm(self) -> None:
        before = self.sampled
        self.sampled = self.calls.sampled = is_sampled(self.step, self.every, self.apart)
        self.signals.gauging = self.sampled and self.proportion.asks(self.looks)
        if self.sampled:
            self.signals.arm()
            self.processes.arm(self.table, self.guarded)
        elif before:
            self.signals.disarm()
            self.processes.disarm()

    # The backward pass (see ``interposed``)

    def _backward_starts(self, loss: Tensor) -> None:
        self.calls.look_whether_it_runs()
        self.signals.open = True
        self.backwards += 1
        if self.sampled:
            self.processes.announce(self.columns)
            self.processes.arm(self.table, self.guarded)
            self.now.kept.look(self.optimizers)
        now = self.now
        plain, now.plain = now.plain, None
        value = loss if plain is None else plain  # a scaled loss that overflows is no fault
        known = value.item() if value.is_cpu and value.numel() == 1 else value.detach().float().mean()
        stake = stake_of(loss.grad_fn, float(known)) if self.signals.gauging else None
        now.lowers(known, stake, self.inside is not None)
        if isinstance(known, float) and not math.isfinite(known):
            now.suspicious = True
        self.box.loss_is(loss, not now.suspicious)

    def _backward_ends(self, whole: bool) -> None:
        self.signals.open = False
        if not whole:
            self._broken_off()
            return
        self.now.fresh = True
        self.now.inner += self.inside is not None
        if self.sampled and self.now.inner <= 1:
            self.now.seen.look(self.table, few=self.looks if self._unwritten else None)
        if self.inside is not None:
            self._look(self.inside)
            due, self.due = self.due, None
            if due is not None:
                due()

    def _broken_off(self) -> None:
        """A pass was left in its middle: what it has come to is a part of no step, and its step is not sampled."""
        self.broken_off, self.inside = True, None
        self.now.forget_losses()
        self.now.suspicious = False
        self.box.clear()
        self.signals.forget()
        if self.sampled and not self.processes.together:
            self.sampled = self.calls.sampled = False
            self.signals.disarm()

    @property
    def _unwritten(self) -> bool:
        """Whether nothing is known to change the gradients between backward and step, as a scaler or a clip does."""
        return self.looks > 1 and not self.written and self.now.scaler is None and not self.processes.together

    def gradients_are_ready(self, optimizer: Any) -> None:
        """An optimizer that was given a closure has all its gradients, and has not moved the weights yet.

        For closures that run no backward, which nothing else tells apart from those that will.
        """
        if optimizer is self.inside:
            self.guarded(self._look)(optimizer)

    def loss_is_scaled(self, scaler: Any, outputs: Any) -> None:
        if scaler.is_enabled():
            self.now.scaler, self.now.plain = scaler, outputs if isinstance(outputs, Tensor) else None

    def _scaler_updates(self, scaler: Any) -> None:
        if self.now.scaler is None or self.now.stepped or not self.now.losses:
            self.now.scaler = None
            return
        self.skipped += 1
        self.on_broken(self.step, "loss" if self.now.suspicious else "scale")
        self._next(count=False)

    # The optimizer's step

    def before_step(self, optimizer: Any, args: Any = (), kwargs: Any = None) -> None:
        """The optimizer is about to move the weights."""
        if (key := id(optimizer)) in self.now.stepped:  # it comes again before the others: they make no step together
            self.expected = self.expected if self.broken_off else set(self.now.stepped)  # broken off: begun anew
            step = self.step
            self._finish(True)
            self._take_part(step, over=True)
        if (last := self.moving) is not optimizer:  # else it is there: a look costs time in every step
            self.optimizers[key] = optimizer
            self.apart |= key in self.expected and last is not None and id(last) not in self.expected
        self.now.stepped.add(key)
        self._steps(optimizer, args, kwargs or {})

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.sampled or not self.step:
            self._find_new(optimizer)
        elif self.idle.near:
            self.idle.glance(self.table.of(held(optimizer)))
        self._moving = weakref.ref(optimizer)
        if self.now.losses and not self.box.entries:
            self.calls.parts.none_was_called(self.table.models.values(), self.signals.hidden)
        if odd_rate(optimizer) is not None:
            self.on_broken(self.step, "rate")
        if (len(args) > 1 or kwargs) and any(callable(each) for each in (*args[1:], *kwargs.values())):
            self.inside, self.now.inner = optimizer, 0
        else:
            self._look(optimizer)
            self.now.fresh = False  # already here: a step that is interrupted comes to no end
        if self.sampled:
            self.now.moves[id(optimizer)] = Moves(self.table.of(held(optimizer)))

    def gradients_are(self, scale: float) -> None:
        """The losses and signals of this step are ``scale`` times too large, its gradients are not any more."""
        now = self.now
        now.divide(scale)
        if self.sampled:
            now.seen.look(self.table, scale)

    def _look(self, optimizer: Any) -> None:
        """The gradients are complete, the weights are as they were: read what this step asks for, once."""
        if id(optimizer) in self.now.read:
            return
        if self.sampled or self.now.suspicious or not looks_finite(self._first_of(optimizer)):
            self._read(optimizer)

    def _find_new(self, optimizer: Any) -> None:
        # lazy ones have got their shapes in the first forward pass
        if self.lazy or (not self.table.holds(held(optimizer)) and self.table.look_again()):
            self.signals.let_go(self.table.renewed)
            self._columns()

    def _read(self, optimizer: Any, late: bool = False) -> None:
        """The numbers of the layers that this optimizer holds, before it moves them; ``late``: after it has."""
        parameters, processes = held(optimizer), self.processes.size
        now, places = self.now, self.table.of(parameters)
        now.read.add(id(optimizer))
        now.scale = self.scale()  # before the scaler's update changes it
        now.loss = sum(now.losses) if now.losses else math.nan
        found, now.again[id(optimizer)], each = sizes(places, scale_of(optimizer), processes)
        found = found or gone(places, now.seen.known)
        whole, parts = now.seen.together(parameters, each, processes)
        now.unclipped, now.unclipped_parts = total((now.unclipped, whole)), total((now.unclipped_parts, parts))
        before = now.taken
        samples = self.box.samples() if now.fresh or before is None else before[2]
        now.outputs |= self.signals.sizes()
        if self.signals.gauging:
            now.one_unit |= {place.at: units for place in places if (units := stays_one_unit(place.trainable))}
        signals, shares = self.signals.take(samples)
        if not now.fresh and before is not None:  # the same backward made the gradients of the optimizer before
            signals, shares = before[0] | signals, before[1] | shares
        now.taken = signals, shares, samples
        shares = now.shares = now.shares | shares  # a GAN's layers may have run before the step of another optimizer
        now.enter(found, signals, shares, samples, places)
        now.goes_by(optimizer)
        overflow = getattr(optimizer, "found_inf", None)
        if late:
            return
        if overflow is not None and float(overflow):
            self.skipped += 1
            self.on_broken(self.step, "loss" if now.suspicious else "scale")
        elif now.suspicious or any(size == math.inf for size, _, _ in found.values()):
            self.on_broken(self.step, "gradient")
            now.suspicious = False
        elif self.sampled and (change := self.idle.seen(places, found)):
            self.on_broken(self.step, change)

    def scene(self) -> Scene:
        """What is known of the step in which a number is not finite."""
        now, names = self.now, [column.name for column in self.columns]
        loss = math.fsum(float(each) for each in now.losses) if now.losses else math.nan
        return Scene(
            self.step, loss, tuple(names[at] for at in odd(now.rows, self.table)),
            tuple(names[at] for at, (update, _) in now.moved.items() if not math.isfinite(update)),
            now.seen.was_finite, is_sampled(self.step - 1, self.every, self.apart), self.moving,
        )  # fmt: skip

    def scale(self) -> float:
        """By which the losses of this step were multiplied before their backward."""
        return self.now.scale if self.now.scaler is None else float(self.now.scaler.get_scale())

    def after_step(self, optimizer: Any) -> None:
        """The weights have moved."""
        step, stepped = self.step, self.now.stepped
        self._stepped(optimizer, over := stepped >= self.expected or not stepped & self.expected)
        self._take_part(step, over)

    def _after_step(self, optimizer: Any, over: bool) -> None:
        """``over``: every optimizer has made its step now."""
        now = self.now
        if self.inside is not None:
            self._read_again(optimizer)
        self.inside, now.fresh = None, False
        if (moves := now.moves.pop(id(optimizer), None)) is not None:
            now.moved |= (moved := moves.squares())
            if any(not math.isfinite(update) for update, _ in moved.values()):
                self.on_broken(self.step, "step")
        self.finish() if over else self.box.forget({id(each) for each in held(optimizer)})

    def _read_again(self, optimizer: Any) -> None:
        """Gradients that were clipped inside of a step are known after it; where several were made, none is the one."""
        if not self.sampled or self.now.inner > 1:
            return
        if id(optimizer) not in self.now.read:
            self._read(optimizer, late=True)
            return
        places = self.table.of(held(optimizer))
        found, self.now.again[id(optimizer)], _ = sizes(places, processes=self.processes.size)
        for at, (size, _, _) in found.items():
            if at in self.now.rows:
                self.now.rows[at][1] = size

    def _take_part(self, step: int, over: bool) -> None:
        """Where we failed in this step and it is over all the same, what the other processes wait for is due."""
        if over and self.guard.off and self.step == step and self.processes.together:
            if self.sampled and self.processes.settled and self.processes.last != self.step:
                self.processes.part(self.step)
            self.step, self.now = self.step + 1, Step()
            self.sampled = is_sampled(self.step, self.every, self.apart)

    def finish(self, begun: bool = False) -> None:
        """The training step is over: tell what was sampled; ``begun``: the passes of the next have been already."""
        if self.sampled:
            self.looks, self.written = self.looks + 1, self.written or self.now.seen.written
            self.processes.settle()
            if self.processes.together:
                self.processes.add_up(self.step, self.now, self.table.places)
            if self.now.rows:
                if self.without.ends():
                    self.on_broken(self.step, "joined")
                said = unread(self.now.losses, self.now.samples.values(), self.signals)
                self.notes += [each for each in said if each not in self.notes]
                self.notes = self.processes.keep_what_is_whole(self.now, self.table, self.notes)
                renewed, self.table.renewed = self.table.renewed, set()
                sample = self.now.sample(self.step, self.signals.before, renewed)
                sample.stale = self.signals.casts.ends(self.step, self.now.moved)
                self.proportion.of(sample)
                self.on_sample(sample)
            elif self.now.stepped and self.now.losses:
                if self.without.of_others(self.table.models.values(), self.optimizers.values()):
                    self.on_broken(self.step, "apart")
                self.without.add(self.step, self.notes)
        self._next(begun=begun)

    def _next(self, count: bool = True, begun: bool = False) -> None:
        self.step, self.broken_off = self.step + count, False
        self.now = self.now.following() if begun else self.now.over()
        if not begun:
            if self.sampled:
                self.signals.forget()
            self.box.clear()
        self._arm()

"""``unvanish.watch``: a training loop, watched from inside the process that runs it."""

from __future__ import annotations

import atexit
import functools
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unvanish.records import Finding, UnvanishError, from_builtins, to_builtins
from unvanish.report import Report
from unvanish.watching import alive, interposed
from unvanish.watching.beside import Beside
from unvanish.watching.broken import Scene, findings_of, of_the_optimizer, of_the_rate, of_the_scale
from unvanish.watching.carried import explained
from unvanish.watching.dated import dated
from unvanish.watching.earlier import end_if_left, end_others, has_begun
from unvanish.watching.given import ended_by, fitting, names_of, optimizers_of, rank, run_path, unwrapped
from unvanish.watching.gradients import held
from unvanish.watching.history import HELD
from unvanish.watching.judging import Judging
from unvanish.watching.loggers import Loggers
from unvanish.watching.replay import Replay, replay
from unvanish.watching.resuming import refuse_another_model, remembered
from unvanish.watching.run import Run, in_a_notebook
from unvanish.watching.run_file import Reader, RunFile
from unvanish.watching.sample import Sample
from unvanish.watching.tags import known_fields, of_the_layers, of_the_step
from unvanish.watching.unmoved import KINDS, Unmoved
from unvanish.watching.watcher import Watcher

LOG = logging.getLogger("unvanish")
ENDED = "the program ended while it was watched"


class Watch:
    """A training that is being watched; ``with unvanish.watch(…) as run:`` or ``run.close()`` ends it."""

    def __init__(
        self, *, every: int, check_every: int | None, path: Path, on_finding: Callable[[Finding], Any] | None,
        from_step: int | None = None, loggers: Loggers | None = None, log_layers: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.check_every, self.on_finding = check_every, on_finding
        self.watcher = Watcher(every, self._sampled, self._broken)
        self.found: list[Finding] = []
        self.news: list[Finding] = []
        self.hooks: list[Any] = []  # of the optimizers: where other processes wait for this one, they outlive it
        self.nonfinite = False
        self.broke, self.sampled, self.tried = -1, 0, 0  # last step that broke, last sample, skips that were repeated
        self.closed, self.refused = False, set[str]()
        self.path, self.first = path, rank() == 0
        self.loggers, self.log_layers = loggers or Loggers(), tuple(log_layers)
        facts = {"every": every, "torch": str(torch.__version__), **alive.here()}
        goes_on = self.first and from_step is not None and path.exists()
        self.file = RunFile(path if self.first else None, facts, from_step)
        if from_step is not None:
            self.watcher.step = from_step
        self.judging = Judging(self.watcher.columns, self.found, self._tell, self.file.over)
        if goes_on:
            self.judging.history, before, self.judging.episodes = remembered(Reader(path))
            self.found.extend(before)
        self.beside = Beside(self.file, Reader(path).facts if goes_on else None)
        self.unmoved = Unmoved(self.watcher, self.file, self.found, self._tell, self._repeat)
        interposed.listen(self.watcher)
        atexit.register(self._end_with_the_program)

    # What the user asks

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that was found so far, in the order in which it began."""
        self._catch_up()
        return tuple(self.found)

    @property
    def step(self) -> int:
        """How many steps the optimizer has made."""
        return self.watcher.step

    def report(self) -> Report:
        """The last sampled step with all that was found; UnvanishError where no step was sampled yet."""
        if not self.first:
            raise UnvanishError("only the process of rank 0 writes a run file, and has its report")
        end_if_left(self)
        if not self.closed:
            self._catch_up()
            self.file.flush()
        return Run(self.path).report()

    def flush(self) -> None:
        """Write now what waits to be written within the second."""
        self._catch_up()
        if self.file.waiting and not self.closed:
            self.file.flush()

    def note(self, text: str) -> None:
        """Say something of the whole run in its report, with the next sample."""
        self.watcher.notes.append(text)

    def close(self, why: str = "", fails: bool = False) -> None:
        """End the watching; the training may go on. Once is enough. ``fails``: the program ends with an error."""
        if self.closed or self.watcher.process != os.getpid():  # a forked child leaves all to its parent
            return
        self.watcher.guarded(self._look_at_the_rest)(fails)
        self.closed = True
        atexit.unregister(self._end_with_the_program)
        watcher = self.watcher
        if watcher.now.stepped and not watcher.processes.together:
            watcher.guarded(watcher.finish)()
        self._catch_up()
        watcher.guard.close()
        watcher.processes.ends()
        if not watcher.processes.together:
            self._unhook()
        watcher.detach()
        interposed.stop_listening(watcher)
        self.beside.write_notes(watcher)
        self.file.close(steps=watcher.step, skipped=watcher.skipped, failed=watcher.failed, why=why)
        self._announce()
        self.loggers.close()

    def _end_with_the_program(self) -> None:
        if self.watcher.processes.together:  # the others may be gone, and nothing is asked of them any more
            self._catch_up()
            self.file.close(steps=self.watcher.step, skipped=self.watcher.skipped, why=ENDED)
        else:
            last = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)  # at a prompt it is any line's
            self.close_after(last) if isinstance(last, BaseException) else self.close(ENDED)

    def close_after(self, error: BaseException) -> None:
        """End the watching because of an error; where somebody interrupted the training, the log says what is left."""
        says = self.first and not self.closed and isinstance(error, KeyboardInterrupt)
        self.close(ended_by(error), fails=not isinstance(error, KeyboardInterrupt) and getattr(error, "code", 1) != 0)
        if says:
            LOG.warning("unvanish watched %d steps until it was interrupted; its run is %s", self.step, self.path)

    def _unhook(self) -> None:
        while self.hooks:
            self.hooks.pop().remove()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.close() if error is None else self.close_after(error)

    def __repr__(self) -> str:
        count = len(self.found)
        return f"<Watch of {self.path}: step {self.step:,}, {count} finding{'' if count == 1 else 's'}>"

    def _repr_html_(self) -> str:
        return in_a_notebook(self.report)

    # What the watcher tells

    def before_step(self, optimizer: Any, args: Any = (), kwargs: Any = None) -> None:
        if not self.watcher.nesting.enters(optimizer, self.watcher.backwards):
            return
        self.watcher.before_step(optimizer, args, kwargs)
        if self.check_every is not None and self.watcher.step % self.check_every == 0:
            self.check()
        if self.news:
            self._announce()

    def after_step(self, optimizer: Any, args: Any = (), kwargs: Any = None) -> None:
        del args, kwargs
        if self.watcher.nesting.leaves(optimizer):
            self.watcher.after_step(optimizer)
            if self.news:
                self._announce()

    def gradients_are_ready(self, optimizer: Any) -> None:
        """An optimizer that runs a closure has all its gradients: for frameworks that know, where no backward tells."""
        self.watcher.gradients_are_ready(*optimizers_of(optimizer))

    def gradients_are(self, scale: float) -> None:
        """What was run backward in this step is ``scale`` times what the optimizer lowers; ``.grad`` holds the true.

        For frameworks that scale, or average over parts, outside of what torch shows.
        """
        self.watcher.guarded(self.watcher.gradients_are)(scale)

    def add_model(self, name: str, model: nn.Module) -> None:
        """Watch a model, or the one inside what it is wrapped in."""
        inner = unwrapped(model)
        compiled = hasattr(model, "_orig_mod")
        self.watcher.add_model(name, inner, model if compiled else None, model)

    def begin_again(self) -> None:
        """A model takes the place of one that is gone."""
        self.watcher.guarded(self.judging.begin_again)(self.step)

    def check(self, why: str = "check", ready: bool = False) -> Report | None:
        """A full check on the batch of the step that is running, after its backward and before the weights move.

        None where there is no such step, or where it cannot be run again; the logger "unvanish" says why, once. Where
        the optimizer calls a closure that has not run its backward yet, the check waits for it, and None is returned;
        ``ready`` says that the backward was before the closure.
        """
        if self.watcher.inside is not None and not self.watcher.now.inner and not ready:
            self.watcher.due = functools.partial(self._check, why)
            return None
        made: list[Report] = []
        self.watcher.guarded(lambda: made.extend(self._check(why)))()
        return made[0] if made else None

    def _repeat(self, plain: bool = False) -> Replay:
        """Run the step again; no hook of ours looks at that."""
        watcher = self.watcher
        moving = [*watcher.optimizers.values()] if watcher.moving is None else [watcher.moving]
        moved = {id(each) for one in moving for each in held(one)}
        try:
            watcher.guard.busy(True)
            return replay(watcher.box, watcher.table.models, moved, watcher.scale(), plain)
        finally:
            watcher.guard.busy(False)

    def _check(self, why: str) -> list[Report]:
        if not self.first:  # this process writes nothing
            return []
        self.judging.catch_up()
        found, step = self._repeat(), self.watcher.step
        if found.report is None:
            if found.reason not in self.refused:  # the same at each check, as a rule
                LOG.warning("no full check at step %d: %s", step, found.reason)
            self.refused.add(found.reason)
            return []
        self.file.report(step, why, found.report.to_json(indent=None))
        told = {(each.code, each.layers) for each in self.found}
        for finding in found.report.findings:
            if finding.level == "error" and (finding.code, finding.layers) not in told:
                self._tell(finding.replace(message=dated("at", step, finding.message)), step)
                if why == "stop":  # the report of the end, which comes now, says it
                    self.news.pop()
        return [found.report]

    def _announce(self) -> None:
        """Tell what is new, outside of what keeps our errors from the training: the callback is the user's."""
        news, self.news = self.news, []
        for finding in news if self.first else ():
            LOG.warning("%s %s", finding.code, finding.message)
            self.loggers.tell(finding, self.step)
        if self.on_finding is not None:
            for finding in news:
                self.on_finding(finding)

    def _catch_up(self) -> None:
        """Judge the samples that wait to be judged together."""
        if self.judging.waiting:
            self.watcher.guarded(self.judging.catch_up)()

    def _tell(self, finding: Finding, step: int) -> None:
        last, now, moving = self.judging.last, self.watcher.now, self.watcher.moving
        rows, rate = (last.rows, last.series["learning_rate"]) if last is not None else (now.rows, now.rate)
        name = "" if moving is None else type(moving).__name__
        finding = explained(finding, self.judging.recent, rows, rate, name, self.judging.large)
        self.found.append(finding)
        self.news.append(finding)
        self.file.event(step, finding)

    def _sampled(self, sample: Sample) -> None:
        setting = self.beside.write(self.watcher, sample)
        self.file.sample(sample)
        self.judging.add(sample, setting)
        self.unmoved.sampled(sample, self.beside)
        self._log(sample)
        over = self.broke < self.sampled and not any(row[1] == math.inf for row in sample.rows.values())
        self.nonfinite, self.sampled = self.nonfinite and not over, sample.step
        if self.file.broken:
            raise UnvanishError(f"the run file cannot be written ({self.file.broken}); the training goes on unwatched")

    def _log(self, sample: Sample) -> None:
        if self.first and self.loggers.targets:
            metrics = of_the_step(sample, self.nonfinite + self.judging.told)
            self.loggers.log(metrics | of_the_layers(sample, self.watcher.columns, self.log_layers), sample.step)

    def _broken(self, step: int, what: str) -> None:
        """A number that is not finite: run the step again before the weights move, and say where it was born."""
        if what == "scale":
            self._skipped(step)
            return
        if what in KINDS:
            self.unmoved.seen(step, what)
            return
        self.broke = step
        if self.nonfinite:
            return
        self.judging.catch_up()
        self.nonfinite = True
        scene = self.watcher.scene()
        if what == "rate":
            self._tell(of_the_rate(scene), step)
        elif what == "step":
            self._tell(of_the_optimizer(scene), step)
        else:
            self._of_the_repetition(scene, self._repeat())

    def _of_the_repetition(self, scene: Scene, found: Replay) -> None:
        for finding in self._of_all(scene, found):
            self._tell(finding, scene.step - (found.born == "parameters" and scene.step > 0))
        if found.report is not None:
            self.file.report(scene.step, "nonfinite", found.report.to_json(indent=None))

    def _of_all(self, scene: Scene, found: Replay) -> list[Finding]:
        """What a repetition showed, here or in another process: an averaged gradient does not tell where it broke."""
        mine, processes, step = findings_of(scene, found), self.watcher.processes, scene.step
        processes.tell(step, json.dumps(to_builtins(mine[0])) if found.born else "")
        guessed = found.born == "backward" and found.report is None  # from gradients that all processes have added to
        if (found.born and not guessed) or not self.first or (heard := processes.hear(step)) is None:
            return mine
        finding = from_builtins(json.loads(heard[1]), Finding)
        return [finding.replace(message=f"{finding.message.rstrip('.')} (in process {heard[0]}).")]

    def _look_at_the_rest(self, fails: bool) -> None:
        """A program that stops because its loss is not finite leaves a step without an end: say where it came from."""
        left = () if (watcher := self.watcher).processes.together else watcher.box.entries
        if left and watcher.now.suspicious:
            self._broken(watcher.step, "loss")
        elif fails and not self.nonfinite and any(each.made_nan for each in left):
            found = self._repeat()
            if found.born:
                self._of_the_repetition(watcher.scene(), found)
        self.unmoved.look_at_what_rests(watcher.step, last=True)

    def _skipped(self, step: int) -> None:
        """The scale has overflowed; or the step holds a fault that no smaller scale would mend."""
        if not self.nonfinite and self.tried <= HELD + step // 200:  # a run that skips again and again pays no more
            self.tried += 1
            found = self._repeat(plain=True)
            if found.born in ("forward", "backward"):
                self.nonfinite, self.broke = True, step
                self._of_the_repetition(self.watcher.scene(), found)
                return
        if self.watcher.skipped == HELD:
            self._tell(of_the_scale(step, HELD), step)


def _moved(run: Watch, _: Any, optimizer: Any, *given: Any) -> None:
    """The hook of an optimizer whose weights have moved; it keeps alive, as long as that lives, what it moves."""
    run.after_step(optimizer, *given)


def watch(
    model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module],
    optimizer: Any,
    *,
    every: int = 10,
    check_every: int | None = None,
    to: str | Path = "runs/",
    on_finding: Callable[[Finding], Any] | None = None,
    from_step: int | None = None,
    log_to: Any = None,
    log_layers: Sequence[str] = (),
) -> Watch:
    """Watch a training loop from now on, without changing what it does.

    ``model``: one module, a sequence of them, or names and modules. ``optimizer``: one, or a sequence of them; wrapped
    ones, such as accelerate's, are looked through. Every ``every``-th step of the optimizer is sampled: error signals,
    gradient and weight norms, updates, shut activations. ``to``: a folder, in which the run gets a file of its own, or
    the name of a file that is not there yet. ``on_finding(finding)`` is called once for each finding, which the logger
    "unvanish" shows as well; of samples that follow each other closely, within ten steps.

    ``from_step``: a training that goes on from a checkpoint has made so many steps; where ``to`` is the file of its
    run, that goes on as well. ``log_to``: a TensorBoard SummaryWriter, a run of W&B, the module ``mlflow``, anything
    with ``log(metrics, step)``, or a sequence of them; ``log_layers``: fields of each layer that go there beside the
    numbers of the whole, such as "log10_signal".

    Use it as a context, or call ``close()``. Raises UnvanishError where these do not fit together; once it runs, an
    error of ours is logged, never raised.
    """
    models, optimizers = fitting(model, optimizer, every, from_step)
    path, loggers, fields = run_path(to), Loggers(log_to), known_fields(log_layers)
    if from_step is not None and path.exists() and rank() == 0:
        refuse_another_model(path, names_of(models))
    end_others(optimizers)
    run = Watch(
        every=every, check_every=check_every, path=path, on_finding=on_finding, from_step=from_step, loggers=loggers,
        log_layers=fields,
    )  # fmt: skip
    has_begun(run)
    try:
        for name, each in models.items():
            run.add_model(name, each)
        for each in optimizers:
            run.watcher.add_optimizer(each)
            run.hooks.append(each.register_step_pre_hook(run.before_step))
            run.hooks.append(each.register_step_post_hook(functools.partial(_moved, run, [*models.values()])))
    except BaseException as error:  # a model that takes no hook: nothing of ours stays behind
        run.close(ended_by(error))
        raise
    return run

"""What a run says that the numbers of its layers do not show, each once: layers that no step moves, outputs that do not
fit the loss, units that are one, nan in what is no part of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from unvanish.evidence.replaced import in_the_place_of
from unvanish.problem import name_of
from unvanish.records import CopyFacts, Finding, Setting
from unvanish.rules import ask
from unvanish.watching.beside import Beside
from unvanish.watching.dated import dated
from unvanish.watching.gradients import held
from unvanish.watching.history import HELD
from unvanish.watching.kept_elsewhere import odd_copies, of_the_copy, was_watched
from unvanish.watching.paired import PAIRED, finding_of
from unvanish.watching.passes import odd_pass, of_a_validation
from unvanish.watching.replay import Replay
from unvanish.watching.resting import odd_buffers, of_the_buffers, of_what_rests
from unvanish.watching.run_file import RunFile
from unvanish.watching.sample import Column, Sample, flow_of
from unvanish.watching.unpaired import UNPAIRED, of_the_unpaired
from unvanish.watching.watcher import Watcher
from unvanish.words.spans import named

ONE_UNIT = "UV408"
KINDS = ("idle", "used", "apart", "joined")
"""What the watcher tells of them."""


class Aside:
    """``found`` is the run's own list; ``tell(finding, step)`` adds to it, ``repeat()`` runs the step again."""

    def __init__(
        self, watcher: Watcher, file: RunFile, found: list[Finding], tell: Callable[[Finding, int], None],
        repeat: Callable[[], Replay],
    ) -> None:  # fmt: skip
        self.watcher, self.file, self.found, self.tell, self.repeat = watcher, file, found, tell, repeat
        watcher.calls.ended = self._ended
        self.out: list[tuple[str, ...]] = []  # layers that were told of, and that no step has moved since

    def seen(self, step: int, what: str) -> None:
        """One of ``KINDS`` has come."""
        if what == "apart":
            self.tell(_of_other_parameters(step, self.watcher.moving), step)
        elif what == "joined":
            self.file.over(step, "UV605", ())
        else:
            self._idle(step)

    def _idle(self, step: int) -> None:
        names = [column.name for column in self.watcher.columns]
        idle = [names[at] for at in self.watcher.idle.layers]
        mine = [each for each in self.found if each.code == "UV602"]
        for finding in [each for each in mine if not {*idle}.issuperset(each.layers)]:
            self.file.over(step, "UV602", finding.layers)
        told = {name for finding in mine for name in finding.layers}
        if new := [name for name in idle if name not in told]:
            for finding in _of_idle(new, names, step, self.repeat()):
                self.tell(finding, step)

    def sampled(self, sample: Sample, beside: Beside) -> None:
        """Tell of layers left out for several samples in a row, of outputs that do not fit the loss, of equal units."""
        step = sample.step
        if (pair := self.watcher.box.pair) and not any(each.code == PAIRED for each in self.found):
            self.tell(finding_of(pair, step), step)
        met = self.watcher.box.met
        if met is not None and beside.setting is not None and not any(each.code == UNPAIRED for each in self.found):
            self.tell(of_the_unpaired(met, step, beside.setting), step)
        self.look_at_what_rests(step)
        names = [column.name for column in self.watcher.columns]
        if (one := self.watcher.now.one_unit) and not any(each.code == ONE_UNIT for each in self.found):
            for finding in _of_one_unit(one, sample, self.watcher.columns, beside.setting):
                self.tell(finding, step)
        moved = {names[at] for at in self.watcher.now.rows}
        for layers in [each for each in self.out if not moved.isdisjoint(each)]:
            self.out.remove(layers)
            self.file.over(step, "UV605", layers)
        for out in (beside.left_out, beside.waiting):
            layers = tuple(names[at] for at in out.news)
            idle = self._idle_optimizer() if layers and out is beside.waiting else ""
            if layers and not any({*layers} <= {*each} for each in self.out):
                self.out.append(layers)
                instead = 0 if idle else self._in_their_place(out.news)
                self.tell(_of_left_out(layers, names, step, idle, instead), step)

    def _idle_optimizer(self) -> str:
        watcher = self.watcher
        idle = [each for each in watcher.optimizers.values() if id(each) not in watcher.nesting.stepped]
        return " and ".join(dict.fromkeys(name_of(each) for each in idle))

    def _in_their_place(self, places: Iterable[int]) -> int:
        """Entries that the optimizers hold instead of these layers', and that no model has, nor any loss uses."""
        table = self.watcher.table
        own = {id(p) for model in table.models.values() for p in model.parameters()}
        every = (p for each in self.watcher.optimizers.values() for p in held(each))
        strange = [p for p in every if id(p) not in own and p.grad is None]
        return in_the_place_of([p for at in places for p in table.places[at].trainable], strange)

    def look_at_what_rests(self, step: int, last: bool = False) -> None:
        """Tell of nan in weights and statistics that no step moves; ``last``: when the run ends, of all."""
        if last:
            was_watched(self.watcher.table.models.values())
        if self._broken():
            return
        for model, names in self.watcher.resting.look(few=not last).items():
            self.tell(of_what_rests(step, model, names, last), step)
            last = False  # it has been said
        copies = odd_copies(dict(self.watcher.table.models), self.watcher.resting.copies) if last else []
        for what, names in copies:
            self.tell(of_the_copy(step, what, names), step)
        if last and (names := odd_buffers(self.watcher.table.models)):
            self.tell(of_the_buffers(step, names), step)

    def _ended(self, module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> bool:
        """A pass without gradients has come to its end; whether the next is to be looked at, before the next sample."""
        if self._broken():
            return False
        finding = odd_pass(self.watcher, module, args, kwargs, outputs)
        told = any(each.code == "UV501" and each.level == "note" for each in self.found)
        if finding is not None and not (told and finding.level == "note"):
            self.tell(finding, self.watcher.step)
        return finding is None and of_a_validation(module, outputs)

    def _broken(self) -> bool:
        return any(each.verdict == "nonfinite" and each.level == "error" for each in self.found)


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _of_idle(names: Sequence[str], all_names: Sequence[str], step: int, found: Replay) -> list[Finding]:
    """Layers that get no gradient: what a repetition of the step says of them, or that they get none."""
    report = found.report
    said = [] if report is None else [f for f in report.findings if f.code == "UV602" and {*f.layers} & {*names}]
    if said:
        return [each.replace(message=dated("at", step, each.message)) for each in said]
    return [
        Finding(
            code="UV602", verdict="unused", level="note", layers=tuple(names),
            message=f"at step {step:,}: {named(names, all_names)} had no gradient in the last samples in which"
            f" an optimizer was to move {_them(names)}: nothing of the loss came back.",
        )
    ]  # fmt: skip


def _of_one_unit(
    one: Mapping[int, int], sample: Sample, columns: Sequence[Column], setting: Setting | None
) -> list[Finding]:
    """Layers all of whose units are the same one, as the rule of a check says it; ``one``: how many these are."""
    if setting is None:
        return []
    flow = flow_of(sample, columns, setting, one)
    copies = tuple(CopyFacts(layer=columns[at].name, units=units) for at, units in one.items())
    return [
        each.replace(message=dated("at", sample.step, each.message))
        for each in ask(ONE_UNIT, flow.replace(copies=copies))
    ]


def _of_left_out(names: Sequence[str], all_names: Sequence[str], step: int, idle: str, instead: int) -> Finding:
    """Layers that get a gradient which no optimizer uses.

    ``idle``: the one that holds them and makes no step; ``instead``: entries that one holds and no model has any more.
    """
    if idle:
        text = (
            f"{named(names, all_names)} had a gradient in the last {HELD} samples, but {idle}, which holds"
            f" {_them(names)}, has made no step so far: nothing moves {_them(names)}."
        )
        return Finding(
            code="UV605", verdict="left_out", level="note", layers=tuple(names), cause="optimizer",
            message=f"at step {step:,}: {text}",
        )  # fmt: skip
    more = "If that is meant, requires_grad_(False) says so."
    if instead:
        more = (
            f"One holds {instead:,} parameters of such shapes that no model has any more: it was made before they were"
            " replaced by new ones. Make it after that."
        )
    return Finding(
        code="UV605", verdict="left_out", level="error" if instead else "note", layers=tuple(names), cause="optimizer",
        message=f"at step {step:,}: {named(names, all_names)} had a gradient in the last {HELD} samples, but no"
        f" optimizer that was seen holds {_them(names)}: no step moves {_them(names)}. {more}",
    )  # fmt: skip


def _of_other_parameters(step: int, optimizer: Any) -> Finding:
    """The optimizer has nothing to move, as the model has got other parameters than it holds."""
    return Finding(
        code="UV605", verdict="left_out", level="error", cause="optimizer",
        message=f"at step {step:,}: none of the parameters that {name_of(optimizer)} holds is the model's any"
        " more, and none had a gradient, so no step changes the loss: make the optimizer after its layers were"
        " replaced, or load_state_dict(assign=True) has put new parameters in their place.",
    )  # fmt: skip

"""What only the past of a layer tells: it was otherwise before. Needs no torch.

A departure is at least a decade from the layer's own baseline, held over several samples; what it is a departure of is
taken relative to the other layers of the same step, so that a loss that falls, or a rate that changes, is none.
These findings are notes: a change is no illness by itself, and the rules of a check say where there is one. A rate that
has come to nothing becomes an error once half of the training was made so, for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

from unvanish.decide.limits import CONVERGED
from unvanish.records import Evidence, Finding
from unvanish.rules import rules
from unvanish.rules.events import EVENTS
from unvanish.watching.sample import FIELDS, LARGE, Column, Sample, Stake, relative_sizes, whole_move
from unvanish.words.numbers import number, times
from unvanish.words.spans import called

WARM_UP = 8
"""Samples that make the first baseline."""

HELD = 3
"""Samples in a row that a departure must last, and that it must be away to be over."""

DECADE = 1.0
"""log10: below a factor of ten is the range of ordinary training."""

BACK = 0.5
"""Share of its limit that a departure which has been told must fall below to be over: many swing about the limit."""

SHUT = 0.5
"""Share of units; that half of a layer has gone dead is more than the sparsity that training settles at."""

SPIKE = 1.0
"""log10 of the loss over its running median."""


LEFT = 0.9
"""Share of the first losses, and of what there is to learn; with more of it left a training has hardly begun."""

SHORT = 0.1
"""All steps laid end to end, in norms of the weights, below which it was their length that kept anything from being
learned: a loss may also stay where it is because there is only noise left in it, but it takes a way to get there."""

STEP_SIZE = "log10 of the step over the norm of the weights"
MOVES = FIELDS.index("update_to_weight_ratio")

SHARES = tuple(
    (code, name, FIELDS.index(name)) for code, name in (("UV803", "dead_fraction"), ("UV804", "saturated_fraction"))
)


@dataclass
class Episode:
    """A change while it lasts."""

    began: int
    told: bool = False
    level: str = ""
    on: int = 0
    off: int = 0


@dataclass
class History:
    """The baselines so far, and the episodes that are open. ``watch(sample, columns)`` gives what is new."""

    baselines: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    episodes: dict[tuple[str, int], Episode] = field(default_factory=dict)
    settled: set[tuple[int, str]] = field(default_factory=set)
    losses: list[float] = field(default_factory=list)
    highest_rate: float = 0.0
    first_losses: list[float] = field(default_factory=list)
    constant: float = math.inf
    first_loss: float = math.nan
    first_move: float = math.nan
    stake: Stake | None = None  # of the first loss that is known
    way: float = 0.0  # of all steps so far, in norms of the weights, at the most
    move: float = 0.0  # of the last sampled step
    at: int = -1  # which it was

    def watch(self, sample: Sample, columns: list[Column]) -> tuple[list[Finding], list[tuple[str, str]]]:
        """New findings, and (code, layer) of those that are over."""
        for key in [each for each in self.baselines if each[0] in sample.renewed] if sample.renewed else ():
            del self.baselines[key]
            self.settled.discard(key)
        self._goes(sample)
        began: list[Finding] = []
        over: list[tuple[str, str]] = []
        for code, at, value, base, there in [*self._layers(sample), *self._whole(sample)]:
            key, episode = (code, at), self.episodes.get((code, at))
            if not there and (episode is None or not episode.told):  # nearly all, at each sample
                if episode is not None:
                    del self.episodes[key]
                continue
            name = columns[at].name if at >= 0 else ""
            if episode is None:
                episode = self.episodes[key] = Episode(sample.step)
            if there and not episode.on:
                episode.began = sample.step
            episode.on, episode.off = (episode.on + 1, 0) if there else (0, episode.off + 1)
            if not episode.told and episode.on >= (1 if code == "UV805" else HELD):
                episode.told = True
                if code == "UV704":
                    rate = sample.series.get("learning_rate", math.nan)
                    began.append(self._too_large(value, base, rate, episode.began))
                else:
                    began.append(_finding(code, name, value, base, episode.began))
            elif episode.told and episode.off >= HELD:
                over.append((code, name))
                del self.episodes[key]
            elif code == "UV807" and episode.level != "error" and self._for_nothing(sample.step, episode.began):
                episode.level = "error"
                over.append((code, name))
                wasted = _of_the_wasted(_finding(code, name, value, base, episode.began), sample.step, self.way)
                began.append(wasted)
        return began, over

    def _layers(self, sample: Sample) -> list[tuple[str, int, float, float, bool]]:
        found: list[tuple[str, int, float, float, bool]] = []
        of_group, moves = relative_sizes(sample), relative_sizes(sample, MOVES)
        for at, row in sample.rows.items():
            size = of_group.get(at)
            base = self._baseline(at, "size", size)
            if base is not None and size is not None:
                found.append(("UV801", at, size, base, base - size > self._limit("UV801", at, DECADE)))
                found.append(("UV802", at, size, base, size - base > self._limit("UV802", at, DECADE)))
            for code, name, place in SHARES:
                share = row[place]
                start = self._baseline(at, name, share)
                if start is not None and not math.isnan(share):
                    found.append((code, at, share, start, share - start > self._limit(code, at, SHUT)))
            move = moves.get(at)
            first = self._baseline(at, "move", move)
            if first is not None and move is not None:
                found.append(("UV806", at, move, first, first - move > self._limit("UV806", at, 2 * DECADE)))
        return found

    def _limit(self, code: str, at: int, limit: float) -> float:
        """What a departure must exceed to begin, or to go on."""
        return BACK * limit if self.episodes and self._told(code, at) else limit

    def _told(self, code: str, at: int) -> bool:
        episode = self.episodes.get((code, at))
        return episode is not None and episode.told

    def _whole(self, sample: Sample) -> list[tuple[str, int, float, float, bool]]:
        found: list[tuple[str, int, float, float, bool]] = []
        loss = sample.series.get("loss", math.nan)
        if loss > 0.0 and math.isfinite(loss):
            if len(self.losses) >= WARM_UP:
                usual = median(self.losses)
                found.append(("UV805", -1, loss, usual, math.log10(loss / usual) > SPIKE))
            self.losses = [*self.losses[-4 * WARM_UP :], loss]
            self.first_losses = [*self.first_losses, loss][:HELD]
            if sample.stake is not None and sample.stake.constant > 0.0:
                self.constant = min(self.constant, sample.stake.constant)
            # one of them may be far off, at the start or in a blow-up after it, and all, where the start is absurd
            start = min(*self.first_losses, self.constant)
            recent = self.losses[-WARM_UP:]
            share = 10.0 * CONVERGED if self._told("UV809", -1) else CONVERGED
            low = len(self.losses) > WARM_UP and max(recent) < share * start
            found.append(("UV809", -1, loss, start, low))
        if math.isfinite(loss):
            move = whole_move(sample.rows)
            if math.isnan(self.first_loss):
                self.first_loss, self.first_move = loss, move
            large = move >= LARGE or self.first_move >= 0.0
            found.append(("UV704", -1, move, loss, large and loss >= self.first_loss))
        rate = sample.series.get("learning_rate", math.nan)
        self.highest_rate = max(self.highest_rate, 0.0 if math.isnan(rate) else rate)
        known = [row[MOVES] for row in sample.rows.values() if not math.isnan(row[MOVES])]
        if known and self.highest_rate and not math.isnan(rate):
            still = rate < 1e-3 * self.highest_rate and max(known) < 1e-6
            found.append(("UV807", -1, rate, self.highest_rate, still))
        return found

    def _goes(self, sample: Sample) -> None:
        """Steps between two samples are as long as the longer of those."""
        move = whole_move(sample.rows)
        before, self.move = self.move, 0.0 if math.isnan(move) else 10.0**move
        self.way += max(before, self.move) * (sample.step - self.at)
        self.at, self.stake = sample.step, self.stake or sample.stake

    def _for_nothing(self, step: int, began: int) -> bool:
        """Whether half of all steps were made since the rate is at nothing, and those before led nowhere.

        A schedule that has come to its end ends the training with it.
        """
        if step < 2 * began or self.way >= SHORT or self.stake is None:
            return False
        now, constant, free = median(self.losses[-WARM_UP:]), self.stake.constant, self.stake.free
        return now > LEFT * min(self.first_losses) and now - free > LEFT * (constant - free) > 0.0

    def _too_large(self, move: float, loss: float, rate: float, step: int) -> Finding:
        """Steps that throw the weights about, or have wiped out those of the start, and lower nothing."""
        known = next(each for each in rules() if each.code == "UV704")
        what, size = f"a step moves the weights by {10.0**move:.0%} of their norm", move
        if move < LARGE:
            factor = times(self.first_move).removeprefix("×")
            what, size = f"the first step moved the weights by {factor} times their norm", self.first_move
        return Finding(
            code="UV704", verdict=known.verdict, level="note", cause="learning rate", remedies=known.remedies,
            message=f"since step {step:,}: {what}, where about 0.1% is usual, and the loss ({loss:.3g}) is not below"
            f" that of the first sample ({self.first_loss:.3g}): the learning rate ({number(rate)}) is too large.",
            evidence=(Evidence(name=STEP_SIZE, value=size, relation=">", threshold=LARGE),),
        )  # fmt: skip

    def _baseline(self, at: int, name: str, value: float | None) -> float | None:
        """The median of the first samples; None while there are too few of them."""
        key = at, name
        values = self.baselines.get(key)
        if values is None:
            values = self.baselines[key] = []
        elif len(values) == 1 and key in self.settled:
            return values[0]
        if value is not None and math.isfinite(value):
            values.append(value)
        if len(values) >= WARM_UP:
            self.settled.add(key)
            values[:] = [median(values)]
        return None


MEASURED = {
    "UV801": ("log10 of the gradient over that of the other layers", "in the first samples"),
    "UV802": ("log10 of the gradient over that of the other layers", "in the first samples"),
    "UV803": ("share of the units that are off", "in the first samples"),
    "UV804": ("share of the entries that are saturated", "in the first samples"),
    "UV805": ("loss", "usually"),
    "UV806": ("log10 of the update over that of the other layers", "in the first samples"),
    "UV807": ("learning rate", "at most"),
    "UV809": ("loss", "in the first samples"),
}
"""What the two numbers of a finding are: what was compared, and with when."""


def _beside(log10: float) -> str:
    return "exactly 0" if log10 == -math.inf else f"{times(log10)} that of the other layers"


def _finding(code: str, layer: str, value: float, base: float, step: int) -> Finding:
    event = EVENTS[code]
    where = f" in {called(layer)}" if layer else ""
    what, before = MEASURED[code]
    sense = {
        "UV801": f"{_beside(value)}; in its first samples {_beside(base)}",
        "UV802": f"{_beside(value)}; in its first samples {_beside(base)}",
        "UV803": f"{value:.0%} of its units are off for the whole batch, {base:.0%} in the first samples",
        "UV804": f"{value:.0%} of its entries are saturated, {base:.0%} in the first samples",
        "UV805": f"{value:.3g}, usually {base:.3g}",
        "UV806": f"its update, relative to its weights, is {_beside(value)}; at first {_beside(base)}",
        "UV807": f"it is {value:.2g}, at most it was {base:.2g}",
        "UV809": f"the loss is {value:.2g}, in the first samples it was {base:.2g}",
    }[code]
    return Finding(
        code=code, verdict=event.verdict, level="note", layers=(layer,) if layer else (),
        message=f"since step {step:,}: {event.title}{where} ({sense}).",
        evidence=(Evidence(name=what, value=value), Evidence(name=f"{what}, {before}", value=base)),
    )  # fmt: skip


def _of_the_wasted(finding: Finding, step: int, way: float) -> Finding:
    """Of a rate at nothing, before anything was learned: ``step`` is twice as far, and more. ``way``: of all steps."""
    more = (
        f" By step {step:,} half of all steps and more have moved nothing, those before went less than a tenth of the"
        " weights' norm, and the loss is where it began: the schedule is over too soon (a decay in every batch that was"
        " meant for every epoch, a plateau that was never waited for, a rate set by hand)."
    )
    told = Evidence(name="way of all steps, in norms of the weights", value=way, relation="<", threshold=SHORT)
    evidence = (*finding.evidence, told)
    return finding.replace(level="error", cause="learning rate", message=finding.message + more, evidence=evidence)

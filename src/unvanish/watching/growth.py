"""The signal that grows on its way forward until the loss is out of all proportion, and what the training makes of it.

A check tries real steps of the optimizer to see whether they make good for it. A training makes them anyway, so its
loss is looked at after as many of them, and judged by the same law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from unvanish.evidence.regained import TRIED, falls_to
from unvanish.records import CallFlow, Finding, Flow, LossFacts, OutputFacts, Setting, StepFacts
from unvanish.rules import ask
from unvanish.rules.conditions import to_reach
from unvanish.watching.sample import Column, Sample, flow_of

GROWN = "UV202"
ASKED = ("calls", "loss")
"""What its rule rests on."""


@dataclass
class Growth:
    """What was seen of it: ``begun``, the flow of the step ``began``; the loss at that step and at each look since."""

    begun: Flow | None = None
    began: int = 0
    enough: float = math.nan
    highest: float = -math.inf
    seen: dict[int, float] = field(default_factory=dict)
    step: StepFacts | None = None

    def judged(self, sample: Sample, columns: Sequence[Column], setting: Setting) -> Finding | None:
        """A note until it is known what the steps make of it, then an error; None where nothing has grown, or no more.

        Only where all layers are of one loss: of several the sample holds the last.
        """
        loss = sample.series.get("loss", math.nan)
        if self.begun is None:
            found = self._begins(sample, columns, setting, loss) if sample.stake and len(sample.groups) == 1 else None
        elif 0.0 < loss < self.enough:
            self.begun = found = None
        else:
            self._look(sample.step - self.began, loss, sample.series.get("learning_rate", math.nan))
            found = _said(self.begun.replace(step=self.step))
        return found

    def _begins(self, sample: Sample, columns: Sequence[Column], setting: Setting, loss: float) -> Finding | None:
        flow = _flow(sample, columns, setting)
        found = _said(flow)
        if found is not None and flow.loss is not None:
            enough = to_reach(flow.loss)
            self.begun, self.began, self.enough = flow, sample.step, math.nan if enough is None else enough
            self.highest, self.seen, self.step = loss, {0: loss}, None
        return found

    def _look(self, taken: int, loss: float, rate: float) -> None:
        """After so many steps: what they have made of the loss, unless it is still on its way down."""
        highest, last = self.highest, max(self.seen)
        self.highest = max(highest, loss)
        if self.step is not None or self.begun is None or not math.isfinite(loss):
            return
        if not any(last < each <= taken for each in TRIED):
            return
        before, self.seen[taken] = self.seen[last], loss
        if not last:
            goes_on = self.enough < loss <= highest and taken < TRIED[-1]
        else:
            goes_on = falls_to(self.enough, loss, before, taken - last, TRIED[-1] - taken) and taken < TRIED[-1]
        if not goes_on:
            name = self.begun.setting.optimizer
            self.step = StepFacts(
                optimizer=name, lr=rate, loss=self.seen[0], ladder=(), regained=loss, regained_after=taken,
            )  # fmt: skip


def _flow(sample: Sample, columns: Sequence[Column], setting: Setting) -> Flow:
    """The sample as its rule reads it: each layer is a call, and of its calls the largest result counts."""
    stake, flow = sample.stake, flow_of(sample, columns, setting, sample.groups[0])
    places = {column.name: at for at, column in enumerate(columns)}
    known = [each for each in flow.layers if places[each.name] in sample.outputs]
    if stake is None:
        return flow
    layers = tuple(each.replace(call=order) for order, each in enumerate(known))
    calls = tuple(
        CallFlow(
            index=order, name=each.kind, module=each.name, source=each.source, part="model", role="weights",
            log10_rms=sample.outputs[places[each.name]],
        )
        for order, each in enumerate(known)
    )  # fmt: skip
    return flow.replace(
        layers=layers, calls=calls, asked=ASKED,
        loss=LossFacts(value=stake.value, best_constant=stake.constant, best_free=stake.free),
        output=OutputFacts(rms=stake.rms, wanted=stake.wanted),
    )  # fmt: skip


def _said(flow: Flow) -> Finding | None:
    return next(iter(ask(GROWN, flow)), None)

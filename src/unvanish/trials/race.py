"""The copies in a race: each is trained no further than asked, and all of them draw on one budget of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from unvanish.problem import Problem
from unvanish.records import Finding, Record, UnvanishError
from unvanish.remedies import Refused, get
from unvanish.remedies.draft import Draft
from unvanish.report import Report
from unvanish.trials.batches import KEPT_BYTES, Batches
from unvanish.trials.plan import Plan
from unvanish.trials.score import Scale
from unvanish.trials.train import AS_IS, Candidate, Copy, Made, prototype, start, title, train
from unvanish.trials.veto import VETO, transmission

Key = tuple[Candidate, int, int]
"""Candidate, seed, and the number of steps it has been trained for."""
STAYING = ("UV701", "UV702", "UV706", "UV707")
"""Findings about the outputs and inputs: an edit that leaves one of them is put last, as one that cuts a layer off is.

Training does not remove them, and on a quarter of the steps their price does not show yet.
"""
BLIND = ("optimizer", "rate", "clip")
"""Kinds of edits that leave the flow of the gradient as it is."""
FALL = 0.05


class Measure(Record, frozen=True, kw_only=True):
    """What a copy was worth after so many steps; ``spent`` of them were taken since it was measured before.

    ``score``: on the data that chooses. ``judged``: on the data that judges, where that was asked.
    """

    score: float
    fall: float
    spent: int
    failure: str = ""
    judged: tuple[float, ...] = ()

    @property
    def key(self) -> float:
        """score + 0.05 × relative fall of the training loss; −inf where the training failed."""
        return -math.inf if self.failure else self.score + FALL * self.fall


@dataclass(frozen=True)
class Standing:
    """How far a search is: steps spent of the budget, what was done last, and the ranking so far, best first.

    ``ranking``: (title, score on the data that chooses, steps) of each candidate that still counts.
    """

    spent: int
    budget: int
    doing: str
    unit: str
    ranking: tuple[tuple[str, float, int], ...]


class BudgetSpentError(Exception):
    """The next measure would cost more steps than are left."""


@dataclass
class Race:
    """The copies, what they were worth at which step, and the one budget they draw on.

    ``told`` hears of every measure; ``keep`` is called after each, to write it down; ``replay`` holds measures written
    down earlier: they are taken over as they are, and counted, without training again. Without ``veto`` no
    candidate is put last for the layers it leaves cut off, or the finding it leaves.
    """

    problem: Problem
    plan: Plan
    batches: Batches
    scale: Scale
    seed: int
    report: Report
    pretrained: bool
    findings: tuple[Finding, ...]
    told: Callable[[Standing], None]
    identity: str = ""
    veto: bool = True
    keep: Callable[[], None] = lambda: None
    replay: dict[Key, Measure] = field(default_factory=dict)
    measures: dict[Key, Measure] = field(default_factory=dict)
    spent: int = 0
    originals: dict[int, Draft] = field(default_factory=dict)
    made: dict[int, Made] = field(default_factory=dict)
    copies: dict[tuple[Candidate, int], Copy] = field(default_factory=dict)
    reached: dict[tuple[Candidate, int], int] = field(default_factory=dict)
    at_start: dict[tuple[Candidate, int], tuple[float, ...]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    flows: dict[Candidate, float] = field(default_factory=dict)
    vetoed: list[Candidate] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.plan.budget - self.spent

    def inform(self, findings: tuple[Finding, ...]) -> None:
        """Let the remedies of all copies made from now on know of these findings."""
        self.findings = findings
        for original in self.originals.values():
            original.findings = findings
        self.made.clear()

    def fresh(self, candidate: Candidate, seed: int) -> Copy:
        """A new, untrained copy of that candidate and seed; raises Refused."""
        if seed not in self.originals:
            known = self.report.replace(findings=self.findings)
            self.originals[seed] = prototype(self.problem, seed, self.batches, known, self.pretrained)
        made = self.made.setdefault(seed, {}) if self.roomy else {}
        return start(self.originals[seed], candidate, seed, self.batches, made)

    def copy(self, candidate: Candidate, seed: int) -> Copy:
        """The copy of that candidate and seed, trained as far as has been counted; raises Refused."""
        if (candidate, seed) not in self.copies:
            self.copies[candidate, seed] = self.fresh(candidate, seed)
        each = self.copies[candidate, seed]
        done = self.reached.get((candidate, seed), 0)
        for stop in sorted(s for c, d, s in self.measures if (c, d) == (candidate, seed) and each.steps < s <= done):
            train(each, self.problem, stop)  # what came of these steps was read from a file, and counted then
        return each

    def price(self, candidate: Candidate, seed: int, steps: int) -> int:
        """Steps still to be taken to have this candidate trained for so many."""
        return max(0, steps - self.reached.get((candidate, seed), 0))

    def reach(self, candidate: Candidate, seed: int, steps: int, doing: str) -> Measure:
        """Train that copy up to ``steps`` and score it; what was measured before is not trained again.

        Raises BudgetSpentError, before any step, where it would cost more than is left.
        """
        key = (candidate, seed, steps)
        if key in self.measures:
            return self.measures[key]
        if self.price(candidate, seed, steps) > self.left:
            raise BudgetSpentError
        if key in self.replay:
            found = self.replay[key]
            self.spent += found.spent
        else:
            found = self._measured(candidate, seed, steps)
        self.measures[key] = found
        self.reached[candidate, seed] = max(self.reached.get((candidate, seed), 0), steps)
        self.keep()
        self.told(Standing(self.spent, self.plan.budget, doing, self.scale.unit, self.ranking()))
        return found

    def _measured(self, candidate: Candidate, seed: int, steps: int) -> Measure:
        each = self.copy(candidate, seed)
        before = each.steps
        try:
            train(each, self.problem, steps)
        finally:
            self.spent += each.steps - before
        if candidate == AS_IS and "raised" in each.failure:
            raise UnvanishError(f"training the network as it is: {each.failure}")
        judge = candidate == AS_IS or steps >= self.plan.rungs[-1]
        return Measure(
            score=self.scale.of(each),
            fall=each.loss_fall,
            spent=each.steps - before,
            failure=each.failure,
            judged=tuple(self.scale.judged(each)) if judge else (),
        )

    def judged(self, candidate: Candidate, seed: int, steps: int) -> tuple[float, ...]:
        """Its scores on the data that judges; () where its copy was not trained for exactly so many steps."""
        known = self.measures.get((candidate, seed, steps))
        if known is None or known.judged:
            return () if known is None else known.judged
        each = self.copies.get((candidate, seed))
        return tuple(self.scale.judged(each)) if each is not None and each.steps == steps else ()

    def untrained(self, candidate: Candidate, seed: int) -> tuple[float, ...]:
        """Its scores before any step, on the data that judges."""
        if (candidate, seed) not in self.at_start:
            self.at_start[candidate, seed] = tuple(self.scale.judged(self.fresh(candidate, seed)))
        return self.at_start[candidate, seed]

    def standings(self) -> list[tuple[int, float, Candidate]]:
        """(steps, key, candidate) with the first seed: those that got furthest first, the best of them ahead."""
        last: dict[Candidate, int] = {}
        for candidate, seed, steps in self.measures:
            if seed == self.seed:
                last[candidate] = max(steps, last.get(candidate, 0))
        found = [(steps, self.measures[c, self.seed, steps].key, c) for c, steps in last.items()]
        return sorted(found, key=lambda each: each[:2], reverse=True)

    def ranking(self) -> tuple[tuple[str, float, int], ...]:
        """Title, score and steps of every candidate measured, best first."""
        found = self.standings()
        return tuple((title(c), self.measures[c, self.seed, steps].score, steps) for steps, _, c in found)

    def key(self, candidate: Candidate) -> float:
        """The key of its last measure with the first seed."""
        return next((key for _, key, c in self.standings() if c == candidate), -math.inf)

    @property
    def roomy(self) -> bool:
        """Whether all copies of a heat may stay in memory."""
        original = next(iter(self.originals.values()))
        size = sum(p.numel() * p.element_size() for p in original.model.parameters())
        return size * self.plan.start <= KEPT_BYTES

    def forget(self, wanted: Iterable[Candidate]) -> None:
        """Let go of the other copies where memory is short; what they were worth stays known."""
        if self.roomy:
            return
        kept = {AS_IS, *wanted}
        for candidate, seed in [each for each in self.copies if each[0] not in kept and each[1] == self.seed]:
            del self.copies[candidate, seed]
            self.reached.pop((candidate, seed), None)

    def admitted(self, stream: Iterator[Candidate], count: int) -> list[Candidate]:
        """The next ``count`` candidates that apply and leave no layer cut off; those that do only where others run out.

        At most three times as many are looked at: a look costs a pass through the network.
        """
        found: list[Candidate] = []
        demoted: list[Candidate] = []
        looked = 0
        while len(found) < count and (looked < 3 * count or len(found) + len(demoted) < count):
            candidate = next(stream, None)
            if candidate is None:
                break
            looked += 1
            kind = self._look(candidate)
            if kind == "applies":
                found.append(candidate)
            elif kind == "cut off":
                demoted.append(candidate)
        self.vetoed += demoted
        return [*found, *filter(self._applies, demoted[: count - len(found)])]

    def _look(self, candidate: Candidate) -> str:
        if any(slug in self.refused for slug in candidate):
            return "refused"
        structure = tuple(slug for slug in candidate if get(slug).kind not in BLIND)
        if self.veto and self.flows.get(structure, 0.0) < VETO:
            return "cut off"
        if not self._applies(candidate):
            return "refused"
        if not self.veto:
            return "applies"
        if structure not in self.flows:
            staying = {f.code for f in self.findings if f.level == "error" and f.code in STAYING}
            self.flows[structure] = transmission(self.problem, self.copy(candidate, self.seed), staying)
        cut_off = self.flows[structure] < VETO
        if cut_off or not self.roomy:
            del self.copies[candidate, self.seed]
        return "cut off" if cut_off else "applies"

    def _applies(self, candidate: Candidate) -> bool:
        try:
            self.copy(candidate, self.seed)
        except Refused as refusal:
            if len(candidate) == 1:
                self.refused[candidate[0]] = str(refusal)
            return False
        return True

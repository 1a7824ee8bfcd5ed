"""The candidates of a search: which are admitted, and how far each is trained, all on one budget of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from unvanish.decide import VANISHED
from unvanish.problem import Problem
from unvanish.records import Finding
from unvanish.remedies import Refused, get
from unvanish.report import Report
from unvanish.trials.ledger import BudgetSpentError, Key, Ledger, Standing
from unvanish.trials.plan import Plan
from unvanish.trials.train import AS_IS, Candidate, Copy
from unvanish.trials.trial import Copies, Measure
from unvanish.trials.veto import transmission

STAYING = ("UV701", "UV702", "UV706", "UV707")
"""Findings about the outputs and inputs: an edit that leaves one of them is put last, as one that cuts a layer off is.

Training does not remove them, and on a quarter of the steps their price does not show yet.
"""
BLIND = ("optimizer", "rate", "clip")
"""Kinds of edits that leave the flow of the gradient as it is."""


@dataclass
class Race:
    """The copies of one objective, and the ledger of what they were worth and of the steps that took.

    ``on_measure`` is called after every measure; ``keep`` too, to write it down; ``replay`` holds measures and costs
    written down earlier: they are taken over as they are, and counted, without training again. Without ``veto`` no
    candidate is put last for the layers it leaves cut off, or the finding it leaves. ``refused``: why a remedy does not
    apply; ``flows``: the transmission of candidates that were looked at; ``vetoed``: those put last.
    """

    plan: Plan
    copies: Copies
    ledger: Ledger
    report: Report
    on_measure: Callable[[Standing], None]
    identity: str = ""
    veto: bool = True
    keep: Callable[[], None] = lambda: None
    replay: dict[Key, tuple[Measure, int]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    flows: dict[Candidate, float] = field(default_factory=dict)
    vetoed: list[Candidate] = field(default_factory=list)
    at_start: dict[tuple[Candidate, int], tuple[float, ...]] = field(default_factory=dict)

    @property
    def problem(self) -> Problem:
        return self.copies.objective.problem

    @property
    def seed(self) -> int:
        return self.ledger.seed

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.copies.objective.findings

    def set_findings(self, findings: tuple[Finding, ...]) -> None:
        """Let the remedies of all copies made from now on know of these findings."""
        self.copies.set_findings(findings)

    def copy(self, candidate: Candidate, seed: int) -> Copy:
        """The copy of that candidate and seed, trained as far as has been counted; raises Refused."""
        copy = self.copies.copy(candidate, seed)
        # what came of these steps was read from a file, and counted then
        self.copies.train(copy, self.ledger.reached.get((candidate, seed), 0))
        return copy

    def reach(self, candidate: Candidate, seed: int, steps: int, doing: str) -> Measure:
        """Train that copy up to ``steps`` and score it; what was measured before is not trained again.

        Raises BudgetSpentError, before any step, where it would cost more than is left.
        """
        key, ledger = (candidate, seed, steps), self.ledger
        if key in ledger.measures:
            return ledger.measures[key]
        if ledger.price(candidate, seed, steps) > ledger.left:
            raise BudgetSpentError
        if key in self.replay:
            measure, cost = self.replay[key]
            ledger.spent += cost
        else:
            measure, cost = self._measured(candidate, seed, steps)
        ledger.enter(key, measure, cost)
        self.keep()
        self.on_measure(Standing(ledger.spent, ledger.budget, doing, self.copies.scale.unit, ledger.ranking()))
        return measure

    def _measured(self, candidate: Candidate, seed: int, steps: int) -> tuple[Measure, int]:
        """The measure and the steps it took, which count also where it is interrupted."""
        self.copy(candidate, seed)
        before = self.copies.taken
        try:
            measure = self.copies.measured(candidate, seed, steps)
        finally:
            cost = self.copies.taken - before
            self.ledger.spent += cost
        return measure, cost

    def judged(self, candidate: Candidate, seed: int, steps: int) -> tuple[float, ...]:
        """Its scores on the data that judges; () where its copy was not trained for exactly so many steps."""
        known = self.ledger.measures.get((candidate, seed, steps))
        if known is None or known.judged:
            return () if known is None else known.judged
        copy = self.copies.trained.get((candidate, seed))
        return tuple(self.copies.scale.judged(copy)) if copy is not None and copy.steps == steps else ()

    def untrained(self, candidate: Candidate, seed: int) -> tuple[float, ...]:
        """Its scores before any step, on the data that judges."""
        if (candidate, seed) not in self.at_start:
            self.at_start[candidate, seed] = tuple(self.copies.scale.judged(self.copies.fresh(candidate, seed)))
        return self.at_start[candidate, seed]

    def forget(self, wanted: Iterable[Candidate]) -> None:
        """Let go of the other copies where memory is short; what they were worth stays known."""
        if self.copies.fits_in_memory:
            return
        kept = {AS_IS, *wanted}
        for candidate, seed in [key for key in self.copies.trained if key[0] not in kept and key[1] == self.seed]:
            del self.copies.trained[candidate, seed]
            self.ledger.reached.pop((candidate, seed), None)

    def admitted(self, stream: Iterator[Candidate], count: int) -> list[Candidate]:
        """The next ``count`` candidates that apply and leave no layer cut off; those that do only where others run out.

        At most three times as many are looked at: a look costs a pass through the network.
        """
        admitted: list[Candidate] = []
        demoted: list[Candidate] = []
        looked = 0
        while len(admitted) < count and (looked < 3 * count or len(admitted) + len(demoted) < count):
            candidate = next(stream, None)
            if candidate is None:
                break
            looked += 1
            kind = self._look(candidate)
            if kind == "applies":
                admitted.append(candidate)
            elif kind == "cut off":
                demoted.append(candidate)
        self.vetoed += demoted
        return [*admitted, *filter(self.applies, demoted[: count - len(admitted)])]

    def _look(self, candidate: Candidate) -> str:
        if any(slug in self.refused for slug in candidate):
            return "refused"
        structure = tuple(slug for slug in candidate if get(slug).kind not in BLIND)
        if self.veto and self.flows.get(structure, 0.0) < VANISHED:
            return "cut off"
        if not self.applies(candidate):
            return "refused"
        if not self.veto:
            return "applies"
        if structure not in self.flows:
            staying = {f.code for f in self.findings if f.level == "error" and f.code in STAYING}
            self.flows[structure] = transmission(self.problem, self.copy(candidate, self.seed), staying)
        cut_off = self.flows[structure] < VANISHED
        if cut_off or not self.copies.fits_in_memory:
            del self.copies.trained[candidate, self.seed]
        return "cut off" if cut_off else "applies"

    def applies(self, candidate: Candidate) -> bool:
        """Whether these edits can be made; why a single one cannot is noted in ``refused``."""
        try:
            self.copy(candidate, self.seed)
        except Refused as refusal:
            if len(candidate) == 1:
                self.refused[candidate[0]] = str(refusal)
            return False
        return True

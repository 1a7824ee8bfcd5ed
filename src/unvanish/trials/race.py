"""The candidates of a search: which are admitted, and how far each is trained, all on one budget of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from unvanish.decide.limits import VANISHED
from unvanish.problem import Problem
from unvanish.records import Finding
from unvanish.remedies import Refused, get
from unvanish.report import Report
from unvanish.trials.crew import Crew
from unvanish.trials.ledger import BudgetSpentError, Key, Ledger, Standing
from unvanish.trials.plan import Plan
from unvanish.trials.questions import LOOKS, Ahead, Answer, Describe, Look, Question, Train, answered
from unvanish.trials.train import AS_IS, Candidate, Copy
from unvanish.trials.trial import Copies, Measure
from unvanish.trials.turns import SPARE

STAYING = ("UV701", "UV702", "UV706", "UV707")
"""Findings about the outputs and inputs: an edit that leaves one of them is put last, as one that cuts a layer off is.

Training does not remove them, and on a quarter of the steps their price does not show yet.
"""
PARTS = 4
"""Of a training to the last rung that nobody has asked for yet: whoever is at it is free again after one of them."""
BLIND = ("optimizer", "rate", "clip")
"""Kinds of edits that leave the flow of the gradient as it is."""


@dataclass
class Race:
    """The copies of one objective, and the ledger of what they were worth and of the steps that took.

    ``on_measure`` is called after every measure; ``keep`` too, to write it down; ``replay`` holds measures and costs
    written down earlier: they are taken over as they are, and counted, without training again. Without ``veto`` no
    candidate is put last for the layers it leaves cut off, or the finding it leaves. ``refused``: why a remedy does not
    apply; ``flows``: the transmission of candidates that were looked at; ``vetoed``: those put last. ``crew``: who
    answers the questions of a race beside this process; ``stood``: the steps that copies elsewhere have taken.
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
    crew: Crew | None = None
    stood: dict[tuple[Candidate, int], int] = field(default_factory=dict)

    @property
    def problem(self) -> Problem:
        return self.copies.objective.problem

    @property
    def seed(self) -> int:
        return self.ledger.seed

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.copies.objective.findings

    def problem_of(self, copy: Copy, steps: int | None) -> Problem:
        """The training problem as a copy has it, with so many steps planned: to be checked."""
        draft, autocast = copy.draft, self.problem.autocast
        return replace(draft.problem, optimizer=copy.optimizer, steps=steps, autocast=autocast)

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

    def enlist(self, crew: Crew | None) -> None:
        """Let these answer from now on, and those before them no longer."""
        if self.crew is not None:
            self.crew.close()
        self.crew = crew
        self.stood = {key: copy.steps for key, copy in self.copies.trained.items()}
        if crew is not None:
            crew.start(self.findings, self.stood)
        self.foresee([])

    def begin(self, crew: Crew | None) -> None:
        """Let these train the network as it is with the seeds that judge, while this process checks and probes it."""
        if crew is not None and self.copies.fits_in_memory:
            others = range(self.seed + 1, self.seed + self.plan.seeds)
            crew.foresee(self._ahead(((AS_IS, seed) for seed in others), self.plan.rungs[-1]))

    def foresee(self, others: Iterable[tuple[Candidate, int]], own: Candidate | None = None) -> None:
        """Let processes that have nothing to do train what may be needed to the last rung, in short parts.

        The network as it is with every seed that judges, first; then ``others``, a candidate and a seed each. ``own``:
        the candidate whose copy with the first seed will be needed in this process.
        """
        judging = [(AS_IS, seed) for seed in range(self.seed, self.seed + self.plan.seeds)]
        self._foresee([*judging, *others], own, self.plan.rungs[-1])

    def foresee_further(self, places: Iterable[tuple[Candidate, int]], own: Candidate, steps: int) -> None:
        """The same for trainings beyond the last rung, of those that have been measured there."""
        known, rung = {*self.ledger.measures, *self.replay}, self.plan.rungs[-1]
        self._foresee([place for place in places if (*place, rung) in known], own, steps)

    def _foresee(self, places: Iterable[tuple[Candidate, int]], own: Candidate | None, last: int) -> None:
        if self.crew is None or not self.copies.fits_in_memory:
            return
        others = self._ahead(places, last)
        mine = [] if own is None else [Ahead(own, self.seed, last)]
        if own is not None and (here := self.copies.trained.get((own, self.seed))) and here.steps >= last:
            mine = []
        self.crew.foresee([*mine, *others], mine)

    def _ahead(self, places: Iterable[tuple[Candidate, int]], last: int) -> list[Ahead]:
        """The parts of the trainings that lead there, of those that have not been measured there."""
        part = max(self.plan.rungs[0], -(-self.plan.rungs[-1] // PARTS))
        ahead: list[Ahead] = []
        for candidate, seed in dict.fromkeys(places):
            if not {(candidate, seed, last)} & {*self.ledger.measures, *self.replay}:
                start = self.ledger.reached.get((candidate, seed), 0)
                ahead += [Ahead(candidate, seed, min(stop, last)) for stop in range(start + part, last + part, part)]
        return ahead

    def expect(self, keys: Iterable[Key], own: Candidate | None = None) -> None:
        """Let others begin with what will be reached next, as far as the budget carries it.

        ``own``: a candidate whose copy with the first seed will be needed in this process, trained as far as that.
        """
        if self.crew is None:
            return
        wanted: list[Question] = []
        left = self.ledger.left
        for candidate, seed, steps in keys:
            if (candidate, seed, steps) in self.ledger.measures or (candidate, seed, steps) in self.replay:
                continue
            left -= self.ledger.price(candidate, seed, steps)
            if left < 0:
                break
            wanted.append(Train(candidate, seed, steps))
        self.crew.expect(wanted, [each for each in wanted if each.candidate == own and each.seed == self.seed])

    def ask(self, question: Question) -> Answer:
        """The answer, by whoever has it first."""
        return answered(self.copies, question) if self.crew is None else self.crew.take(question)

    def expect_descriptions(self) -> None:
        """Let those who have nothing better to do describe the trials there are so far."""
        if self.crew is not None:
            standings = self.ledger.standings()
            self.crew.expect((Describe(candidate, self.seed) for _, _, candidate in standings), rank=SPARE)

    def _measured(self, candidate: Candidate, seed: int, steps: int) -> tuple[Measure, int]:
        """The measure and the steps it took, which count also where it is interrupted."""
        if self.crew is not None:
            return self._measured_by_crew(candidate, seed, steps)
        self.copy(candidate, seed)
        before = self.copies.taken
        try:
            measure = self.copies.measured(candidate, seed, steps)
        finally:
            cost = self.copies.taken - before
            self.ledger.spent += cost
        return measure, cost

    def _measured_by_crew(self, candidate: Candidate, seed: int, steps: int) -> tuple[Measure, int]:
        """The same by any process; it counts what this one would have taken, going on with the copy it had."""
        answer = self.ask(Train(candidate, seed, steps))
        if answer.measure is None:
            raise Refused(answer.refused)
        before = max(self.stood.get((candidate, seed), 0), self.ledger.reached.get((candidate, seed), 0))
        cost = answer.steps if before > steps else max(0, answer.steps - before)
        self.stood[candidate, seed] = max(before, answer.steps)
        self.ledger.spent += cost
        return answer.measure, cost

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
        known = {*self.copies.trained, *self.ledger.reached}
        for key in [key for key in known if key[0] not in kept and key[1] == self.seed]:
            self.copies.trained.pop(key, None)
            self.ledger.reached.pop(key, None)
            self.stood.pop(key, None)

    def admitted(self, stream: Iterator[Candidate], count: int) -> list[Candidate]:
        """The next ``count`` candidates that apply and leave no layer cut off; those that do only where others run out.

        At most three times as many are looked at: a look costs a pass through the network.
        """
        admitted: list[Candidate] = []
        demoted: list[Candidate] = []
        looked = 0
        while len(admitted) < count:
            # so many will be looked at in any case, whatever is seen
            sure = max(min(count - len(admitted), LOOKS * count - looked), count - len(admitted) - len(demoted))
            some = list(islice(stream, max(0, sure)))
            if not some:
                break
            self._expect_looks(some)
            looked += len(some)
            for candidate in some:
                kind = self._look(candidate)
                if kind == "applies":
                    admitted.append(candidate)
                elif kind == "cut off":
                    demoted.append(candidate)
        self.vetoed += demoted
        return [*admitted, *filter(self.applies, demoted[: count - len(admitted)])]

    def _expect_looks(self, candidates: Iterable[Candidate]) -> None:
        if self.crew is None:
            return
        wanted: dict[Candidate, Look] = {}
        for each in candidates:
            structure = _structure(each)
            if any(slug in self.refused for slug in each) or self.flows.get(structure, 0.0) < VANISHED:
                continue
            if not self.veto or structure in self.flows:
                wanted[each] = Look(each, self.seed)
            elif structure not in wanted:
                wanted[structure] = Look(each, self.seed, self._staying())
        self.crew.expect(wanted.values())

    def _staying(self) -> frozenset[str] | None:
        """What a look asks for; None: only whether it applies."""
        if not self.veto:
            return None
        return frozenset(f.code for f in self.findings if f.level == "error" and f.code in STAYING)

    def _look(self, candidate: Candidate) -> str:
        if any(slug in self.refused for slug in candidate):
            return "refused"
        structure = _structure(candidate)
        if self.veto and self.flows.get(structure, 0.0) < VANISHED:
            return "cut off"
        staying = None if structure in self.flows else self._staying()
        answer = self._ask_about(candidate, staying)
        if answer is None:
            return "refused"
        if answer.flow is not None:
            self.flows[structure] = answer.flow
        cut_off = self.veto and self.flows[structure] < VANISHED
        return "cut off" if cut_off else "applies"

    def leaves_a_fault(self, candidate: Candidate) -> bool:
        """Whether a layer is cut off, or an error about outputs or inputs still there, after these edits."""
        return self._look(candidate) == "cut off"

    def applies(self, candidate: Candidate) -> bool:
        """Whether these edits can be made; why a single one cannot is noted in ``refused``."""
        return self._ask_about(candidate, None) is not None

    def _ask_about(self, candidate: Candidate, staying: frozenset[str] | None) -> Answer | None:
        """The answer to a look; None where it does not apply, which is noted."""
        answer = self.ask(Look(candidate, self.seed, staying))
        if answer.refused and len(candidate) == 1:
            self.refused[candidate[0]] = answer.refused
        return None if answer.refused else answer


def _structure(candidate: Candidate) -> Candidate:
    """The edits that touch the flow of the gradient."""
    return tuple(slug for slug in candidate if get(slug).kind not in BLIND)

"""One trial: what a candidate is worth after so many steps, which depends on nothing that was tried before it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.records import Finding, LayerFlow, LossFacts, OutputFacts, Record, UnvanishError
from unvanish.remedies.draft import Draft
from unvanish.trials.batches import KEPT_BYTES, Batches
from unvanish.trials.outlasting import Ends
from unvanish.trials.score import CannotScoreError, Scale
from unvanish.trials.train import AS_IS, Candidate, Copy, Made, prototype, start, train

FALL = 0.05


class Measure(Record, frozen=True, kw_only=True):
    """What a copy is worth after so many steps.

    ``score``: on the data that chooses. ``fall``: the relative fall of its training loss. ``judged``: on the data that
    judges, where the objective asks for it. ``failure``: why it could not be trained or scored. ``loss``: of the last
    training steps; ``judged_loss``: its own loss on the data that judges; ``falling``: the training loss still fell.
    """

    score: float
    fall: float
    failure: str = ""
    judged: tuple[float, ...] = ()
    loss: float | None = None
    judged_loss: float | None = None
    falling: bool = False

    @property
    def key(self) -> float:
        """score + 0.05 × relative fall of the training loss; −inf where the training failed."""
        return -math.inf if self.failure else self.score + FALL * self.fall


@dataclass(frozen=True)
class Objective:
    """The problem, and the settings under which all candidates are measured alike.

    ``steps``: planned length of a training; an epoch has no more batches. ``judged_from``: a candidate trained for so
    many steps is scored on the data that judges as well; the network as it is always. ``findings`` and ``layers``: what
    a check says of the network, which remedies go by; ``loss`` and ``output``: the same, for looks at candidates, which
    all are made with the seed of that check. ``pretrained``: no weights are drawn anew. ``start`` and
    ``reference``: zero and unit of the score where there is no metric. ``whole``: the validation data are not cut.

    It can be pickled where its problem can: model, loss, optimizer and metric then are functions of a module, and
    ``train_batches`` a list or a loader over such data.
    """

    problem: Problem
    steps: int
    judged_from: int
    findings: tuple[Finding, ...] = ()
    layers: tuple[LayerFlow, ...] = ()
    loss: LossFacts | None = None
    output: OutputFacts | None = None
    pretrained: bool = False
    start: float = 0.0
    reference: float | None = None
    whole: bool = False


def measure(objective: Objective, candidate: Candidate, seed: int, steps: int) -> Measure:
    """Train a new copy for ``steps`` optimizer steps and score it.

    The same four arguments give the same Measure bit for bit, in this process or another one on the same kind of
    machine, and whatever was measured before: from a race that goes on with a trained copy, too. The problem is left as
    it was. Raises Refused where an edit does not apply, UnvanishError where the network as it is cannot be trained.
    """
    with torch.inference_mode(False), torch.enable_grad(), seeded(seed):
        return Copies(objective).measured(candidate, seed, steps)


class Copies:
    """The copies that belong to one objective, kept where they stand, so that going on takes no step twice.

    A cache and no more. ``expected``: how many copies will be wanted at once; where so many do not fit in memory, none
    is kept for others to begin with. ``taken``: optimizer steps taken so far.
    """

    def __init__(self, objective: Objective, expected: int = 1) -> None:
        self.objective = objective
        self.expected = expected
        self.batches = Batches(objective.problem, objective.steps)
        self.scale = Scale(objective.problem, objective.start, objective.reference, objective.whole)
        self.trained: dict[tuple[Candidate, int], Copy] = {}
        self.taken = 0
        self._originals: dict[int, Draft] = {}
        self._edited: dict[int, Made] = {}
        self._ends: dict[int, Ends | None] = {}

    def set_start(self, seed: int) -> None:
        """Take the loss of the network as it is, with this seed, for the zero of the scale.

        Where it takes no half of the validation data, but the whole, they are left whole.
        """
        copy, uncut = self.copy(AS_IS, seed), replace(self.objective, whole=True)
        if self.scale.split and not self.scale.can_be_cut(copy):
            self.objective, self.scale = uncut, Scale(uncut.problem, uncut.start, uncut.reference, whole=True)
        start, reference = self.scale.set_start(copy)
        self.objective = replace(self.objective, start=start, reference=reference)

    def set_findings(self, findings: tuple[Finding, ...]) -> None:
        """Let the remedies of all copies made from now on know of these findings."""
        self.objective = replace(self.objective, findings=findings)
        for original in self._originals.values():
            original.findings = findings
        self._edited.clear()
        for key in [key for key, copy in self.trained.items() if key[0] != AS_IS and not copy.steps]:
            del self.trained[key]  # made by what was known before, and not yet by what others would make them by

    def fresh(self, candidate: Candidate, seed: int) -> Copy:
        """A new, untrained copy of that candidate and seed; raises Refused."""
        original = self._original(seed)
        made = self._edited.setdefault(seed, {}) if self.fits_in_memory else {}
        return start(original, candidate, seed, self.batches, made)

    def _original(self, seed: int) -> Draft:
        objective = self.objective
        if seed not in self._originals:
            self._originals[seed] = prototype(
                objective.problem,
                seed,
                self.batches,
                findings=objective.findings,
                layers=objective.layers,
                pretrained=objective.pretrained,
            )
        return self._originals[seed]

    def ends(self, seed: int) -> Ends | None:
        """The loss and the last calls of the network as it is, untrained, with that seed."""
        if seed not in self._ends:
            original = self._original(seed)
            problem = replace(original.problem, autocast=self.objective.problem.autocast)
            self._ends[seed] = Ends.of(problem, original.model, (self.objective.loss, self.objective.output))
        return self._ends[seed]

    def copy(self, candidate: Candidate, seed: int) -> Copy:
        """The copy of that candidate and seed as far as it has been trained; raises Refused."""
        if (candidate, seed) not in self.trained:
            self.trained[candidate, seed] = self.fresh(candidate, seed)
        return self.trained[candidate, seed]

    def train(self, copy: Copy, steps: int) -> None:
        """Train that copy up to ``steps``."""
        before = copy.steps
        try:
            train(copy, self.objective.problem, steps)
        finally:
            self.taken += copy.steps - before

    def measured(self, candidate: Candidate, seed: int, steps: int) -> Measure:
        """What ``measure`` gives, from the copy that is there; one that has gone further gives way to a new one."""
        copy = self.copy(candidate, seed)
        if copy.steps > steps:
            copy = self.trained[candidate, seed] = self.fresh(candidate, seed)
        self.train(copy, steps)
        if candidate == AS_IS and "raised" in copy.failure:
            raise UnvanishError(f"training the network as it is: {copy.failure}")
        score, failure = -math.inf, copy.failure
        try:
            score = self.scale.of(copy)
        except CannotScoreError as error:
            failure = str(error)
        full = candidate == AS_IS or steps >= self.objective.judged_from
        judged = tuple(self.scale.judged(copy)) if full else ()
        return Measure(
            score=score,
            fall=copy.loss_fall,
            failure=failure,
            judged=judged,
            loss=copy.loss_now if math.isfinite(copy.loss_now) else None,
            judged_loss=self.scale.own_loss(copy) if full else None,
            falling=copy.falling,
        )

    @property
    def fits_in_memory(self) -> bool:
        """Whether all the copies that are expected may stay in memory."""
        return self.fit_in_memory(self.expected)

    def fit_in_memory(self, many: int) -> bool:
        """Whether so many copies may stay in memory."""
        original = next(iter(self._originals.values()))
        return many * sum(p.numel() * p.element_size() for p in original.model.parameters()) <= KEPT_BYTES

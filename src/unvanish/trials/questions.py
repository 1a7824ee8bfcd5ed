"""What a race asks of its copies, in this process or another one: the answers depend on the questions alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from unvanish.decide.limits import VANISHED
from unvanish.preserve import seeded
from unvanish.records import Finding, Trial, UnvanishError
from unvanish.remedies import Change, Refused, get, script
from unvanish.trials.train import AS_IS, Candidate, Copy, title
from unvanish.trials.trial import Copies, Measure, Objective
from unvanish.trials.veto import transmission
from unvanish.workers.process import LostError, Process, UnstartedError, Work

PREAMBLE = '''\
"""A snippet, no whole program: {what}

Run this where these names stand for your own objects:
  model, loss_fn      the untrained network and its loss; both are changed
  inputs, targets     one batch of training data
  sample_inputs, sample_targets   some thousand training samples, for statistics (the batch will do)
  restore_outputs     None; afterwards a function that gives outputs their old meaning, or still None
Afterwards `optimizer` trains the changed network.
"""

'''
RATE = re.compile(r"learning rate (\S+) instead of (\S+)")
"""The sentence of a change of the learning rate alone."""
TRIES = 2
"""How many processes a question may cost before it is taken for the reason."""
STARTS = 4
"""How often a process is started for a question before this process answers it."""
LOOKS = 3
"""Times as many candidates as are raced are looked at, at the most; those put last are raced where others run out."""


@dataclass(frozen=True)
class Look:
    """Does it apply, and if ``staying`` is given: what is its lowest transmission? See ``veto.transmission``."""

    candidate: Candidate
    seed: int
    staying: frozenset[str] | None = None


@dataclass(frozen=True)
class Train:
    """What is it worth after so many steps?"""

    candidate: Candidate
    seed: int
    steps: int


@dataclass(frozen=True)
class Ahead:
    """Go on with the training as far as that, for it may be asked what it is worth later."""

    candidate: Candidate
    seed: int
    steps: int


@dataclass(frozen=True)
class Describe:
    """What do its edits do, in words and code?"""

    candidate: Candidate
    seed: int


Question = Look | Train | Ahead | Describe


@dataclass(frozen=True)
class Learn:
    """What the probe has found, for a process that began before it: remedies go by it."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Answer:
    """``refused``: why its edits do not apply, else "". The rest belongs to one kind of question each.

    ``flow``: log10 transmission, where it was asked for. ``measure``, and ``steps`` that its copy has taken. ``trial``:
    one that only says what was changed.
    """

    refused: str = ""
    flow: float | None = None
    measure: Measure | None = None
    steps: int = 0
    trial: Trial | None = None


def answered(copies: Copies, question: Question) -> Answer:
    """The answer from these copies."""
    try:
        if isinstance(question, Look):
            return Answer(flow=_flow(copies, question))
        if isinstance(question, Train):
            measure = copies.measured(question.candidate, question.seed, question.steps)
            stands = copies.trained[question.candidate, question.seed].steps
            return Answer(measure=measure, steps=min(stands, question.steps))
        if isinstance(question, Ahead):
            return Answer(steps=_gone_ahead(copies, question))
        return Answer(trial=_described(copies, question))
    except Refused as refusal:
        return Answer(refused=str(refusal))


def _gone_ahead(copies: Copies, ahead: Ahead) -> int:
    copy = copies.copy(ahead.candidate, ahead.seed)
    copies.train(copy, ahead.steps)
    return copy.steps


def _flow(copies: Copies, look: Look) -> float | None:
    copy = copies.copy(look.candidate, look.seed)
    if look.staying is None:
        return None
    flow = transmission(copies.objective.problem, copy, look.staying, lambda: copies.ends(look.seed))
    if not copies.fit_in_memory(copies.expected * (LOOKS if flow < VANISHED else 1)):
        del copies.trained[look.candidate, look.seed]
    return flow


def _described(copies: Copies, asked: Describe) -> Trial:
    """What the edits do, as made on a fresh copy where the one of the trial is gone."""
    candidate = asked.candidate
    remedy, each = title(candidate), copies.trained.get((candidate, asked.seed))
    try:
        each = each or copies.fresh(candidate, asked.seed)
    except Refused as refusal:
        return Trial(remedy=remedy, edits=candidate, reason=str(refusal))
    if not candidate:
        return Trial(remedy=remedy, edits=candidate, change="nothing")
    change = "; ".join(sentences(each.changes)) or ", ".join(get(slug).title for slug in candidate)
    return Trial(remedy=remedy, edits=candidate, change=change, code=code_of(each))


def sentences(changes: Iterable[Change]) -> list[str]:
    """What the edits do; of changes of the learning rate that follow one another, what they come to."""
    said: list[str] = []
    for sentence in (change.sentence for change in changes):
        before, now = RATE.fullmatch(said[-1]) if said else None, RATE.fullmatch(sentence)
        if before and now:
            said[-1] = f"learning rate {now[1]} instead of {before[2]}"
        else:
            said.append(sentence)
    return said


def code_of(copy: Copy) -> str:
    """The Python text that makes the change of this copy without unvanish."""
    what = "; ".join(sentences(copy.changes)).replace('"""', "'''").replace("\\", "\\\\")
    return PREAMBLE.format(what=what) + script(copy.changes, copy.draft.recipe, copy.draft.model)


class Desk:
    """The copies of another process: all of those it was asked about, or where memory is short the last alone."""

    def __init__(self, objective: Objective, expected: int) -> None:
        self.objective, self.expected = objective, expected

    @cached_property
    def copies(self) -> Copies:
        return Copies(self.objective, self.expected)

    def learn(self, findings: tuple[Finding, ...]) -> None:
        """Let the remedies of all copies made from now on know of these findings."""
        self.objective = replace(self.objective, findings=findings)
        self.copies.set_findings(findings)

    def answer(self, question: Question) -> Answer:
        """The answer from its copies."""
        trained = self.copies.trained
        if trained and not self.copies.fits_in_memory:
            for key in [key for key in trained if key != (question.candidate, question.seed)]:
                del trained[key]
        return answered(self.copies, question)


def answer(desk: Desk, question: Question | Learn) -> Answer:
    """What a process that works for a race is asked."""
    if isinstance(question, Learn):
        desk.learn(question.findings)
        return Answer()
    with torch.inference_mode(False), torch.enable_grad(), seeded(question.seed):
        return desk.answer(question)


def asked(process: Process, work: Work | None, question: Question) -> Answer | None:
    """The answer of another process, whatever becomes of it; None where it raised and this process should see why."""
    del work
    lost_at, unstarted = 0, 0
    while True:
        try:
            return process.ask(question)
        except UnstartedError:
            unstarted += 1
            if unstarted >= STARTS:
                return None
        except LostError as error:
            lost_at += 1
            if lost_at >= TRIES:
                return lost(question, str(error))
        except (UnvanishError, RuntimeError):
            return None


def lost(question: Question, said: str) -> Answer:
    """The answer where none could be had: such a candidate is as good as one whose training failed."""
    if isinstance(question, Train) and question.candidate != AS_IS:
        return Answer(measure=Measure(score=-math.inf, fall=0.0, failure=said), steps=question.steps)
    if isinstance(question, Describe):
        return Answer(trial=Trial(remedy=title(question.candidate), edits=question.candidate, reason=said))
    if isinstance(question, Look):
        return Answer(refused=said)
    if isinstance(question, Ahead):
        return Answer()
    raise UnvanishError(f"training the network as it is: {said}")

"""Which question each of several processes answers next, so that none waits while there is something of use to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from unvanish.trials.questions import Ahead, Describe, Question, Train
from unvanish.trials.train import Candidate

HERE = -1
"""The number of the race's own process."""
SURE, LIKELY, SPARE = range(3)
"""Ranks of questions: the race will come to it, it may come to it, and it can do without."""
LOOK = 5
"""What a look or a new copy is taken to cost, in steps of a training."""
FIRST = 250
"""What a description may cost a process that has not made its first edit yet, in steps: what that edit imports.

The package dks takes as long as so many steps of a network of 20 narrow layers, and nothing waits for a description
until the end.
"""
Place = tuple[Candidate, int]
"""A copy: its candidate and its seed."""


class Turns:
    """The questions that are waiting, and how far each process has trained which copies.

    A process goes on with copies of its own, then takes what nobody has a copy for, then what another has but could not
    have answered before this one had caught up. The race's process takes the first, the others the last that waits: so
    the most promising candidates are trained where the answer is put together. ``forgetful``: numbers of those that
    keep no copies.
    """

    def __init__(self, forgetful: Collection[int] = ()) -> None:
        self.forgetful = frozenset(forgetful)
        self._waiting: dict[Question, int] = {}
        self._own: set[Question] = set()
        self._stands: dict[int, dict[Place, int]] = {}
        self._at: dict[int, Question] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, question: Question) -> bool:
        return question in self._waiting

    def add(self, question: Question, rank: int, own: bool = False) -> None:
        """Let it wait for a process; ``own``: for the race's process alone."""
        if own:
            self._own.add(question)
        if rank == SURE:
            self._waiting.pop(question, None)  # it goes behind those that were sure before
            for ahead in [a for a in self._waiting if isinstance(a, Ahead) and _place(a) == _place(question)]:
                if isinstance(question, Train):
                    del self._waiting[ahead]
        self._waiting[question] = rank

    def foresee(self, questions: Iterable[Ahead], own: Collection[Ahead] = ()) -> None:
        """Let these be the only likely ones, in this order."""
        for known in [each for each, rank in self._waiting.items() if rank == LIKELY]:
            del self._waiting[known]
        sure = {_place(each) for each in self._waiting if isinstance(each, Train)}
        for each in questions:
            if _place(each) not in sure:
                self.add(each, LIKELY, each in own)

    def stood(self, number: int, stands: dict[Place, int]) -> None:
        """How far a process has come with copies when it begins."""
        self._stands[number] = dict(stands)

    def take(self, number: int, wanted: Question | None = None) -> Question | None:
        """The next question of a process; None where it has to wait. ``wanted``: what the race stands before."""
        question = self.next(number, wanted)
        if question is not None:
            del self._waiting[question]
            self._at[number] = question
            if number not in self.forgetful:
                self._stands.setdefault(number, {}).setdefault(_place(question), 0)
        return question

    def next(self, number: int, wanted: Question | None = None) -> Question | None:
        """The same, which stays there."""
        best, chosen = (SPARE + 1, 0.0, 0), None
        for at, (each, rank) in enumerate(self._waiting.items()):
            if each == wanted:
                rank = SURE if number == HERE else SURE - 1
            if (distance := self._distance(number, each, rank)) is None:
                continue
            first = number == HERE or number in self.forgetful or rank != SURE
            if (key := (rank, distance, at if first else -at)) < best:
                best, chosen = key, each
        return chosen

    def answered(self, number: int, question: Question, steps: int) -> None:
        """A process has answered; its copy now stands at so many steps."""
        self._at.pop(number, None)
        if number not in self.forgetful and isinstance(question, (Train, Ahead)):
            self._stands.setdefault(number, {})[_place(question)] = steps

    def gone(self, number: int) -> None:
        """A process has ended, and its copies with it."""
        self._stands.pop(number, None)
        self._at.pop(number, None)

    def _distance(self, number: int, question: Question, rank: int) -> float | None:
        """0 or less for a question about a copy of its own, about 1 for nobody's; None where it leaves it to another.

        From 2 on where another has a better copy, by the steps that would have to be taken again.
        """
        if question in self._own and number != HERE:
            return None
        ahead = isinstance(question, Ahead)
        if ahead and (number in self.forgetful or self._is_reached(question)):
            return None
        home = self._home(question)
        if home is None:
            return self._strangeness(number, question)
        mine, theirs = self._price(number, question), self._price(home, question)
        if number == home or mine <= theirs:
            return 0 if mine > 0 else -1  # what is there already holds the race up for nothing
        if question in self._own:
            return 1
        # a look is made anew sooner than the one who has the copy is through with a training
        worth = theirs > 0 or not isinstance(question, (Train, Ahead))
        return 2 + mine - theirs if not ahead and worth and mine < self._backlog(home, rank) else None

    def _strangeness(self, number: int, question: Question) -> float:
        """Less than 1 where this process has made the first edit already, more where another one has.

        It then begins with what is there, and what the remedy needs has been imported.
        """
        first = question.candidate[:1]
        made = {other for other, stands in self._stands.items() if any(c[:1] == first for c, _ in stands)}
        return 1.0 if not first or not made else 0.5 if number in made else 1.5

    def _home(self, question: Question) -> int | None:
        """Who has come furthest with the copy, and not too far."""
        stands = {
            number: places[_place(question)] for number, places in self._stands.items() if _place(question) in places
        }
        if isinstance(question, (Train, Ahead)):
            stands = {number: steps for number, steps in stands.items() if steps <= question.steps}
        return max(stands, key=lambda number: (stands[number], -number), default=None)

    def _is_reached(self, question: Ahead) -> bool:
        """Whether somebody has come as far, or is on the way."""
        far = any(stands.get(_place(question), -1) >= question.steps for stands in self._stands.values())
        return far or any(_place(each) == _place(question) for each in self._at.values())

    def _price(self, number: int, question: Question) -> int:
        """Steps that this process would have to take."""
        stands = self._stands.get(number, {}).get(_place(question))
        if isinstance(question, Describe) and stands is None and self._strangeness(number, question) > 1:
            return LOOK + FIRST
        if not isinstance(question, (Train, Ahead)):
            return LOOK if stands is None else 0
        return question.steps - stands if stands is not None and stands <= question.steps else question.steps + LOOK

    def _backlog(self, number: int, rank: int) -> float:
        """Steps before that process, until it has answered all that is its own and as urgent.

        Of several trainings of one copy the longest counts: the others are the way there. Half of what it is at counts:
        nobody knows how far it is with that.
        """
        mine = [each for each, other in self._waiting.items() if other <= rank and self._home(each) == number]
        done = 0.0
        if (at := self._at.get(number)) is not None:
            mine.append(at)
            done = (LOOK + self._price(number, at)) / 2
        looks = sum(LOOK for each in mine if not isinstance(each, (Train, Ahead)))
        trainings: dict[Place, int] = {}
        for each in mine:
            if isinstance(each, (Train, Ahead)):
                trainings[_place(each)] = max(trainings.get(_place(each), 0), LOOK + self._price(number, each))
        return looks + sum(trainings.values()) - done


def _place(question: Question) -> Place:
    return question.candidate, question.seed

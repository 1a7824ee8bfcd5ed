"""From samples to findings: when one begins, and when it is over.

Samples that follow each other closely are judged together, ten steps at a time: the code that judges has then to come
into the processor's caches once, not at each step between two passes of a network.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from unvanish.decide import decide
from unvanish.records import Finding, Setting
from unvanish.rules import judge
from unvanish.watching.between import ADDED_UP, WIPED, found_between
from unvanish.watching.carried import TOO_LARGE
from unvanish.watching.casts import STALE, of_the_casts
from unvanish.watching.dated import dated
from unvanish.watching.eaten import Eaten
from unvanish.watching.growth import Growth
from unvanish.watching.history import HELD, Episode, History
from unvanish.watching.sample import Column, Sample, flow_of
from unvanish.watching.thrown import Thrown
from unvanish.watching.unmoved import UNMOVED, Unmoved

TOGETHER = 10
"""So many steps wait for each other at most; the first so many samples of a run do not wait."""

PATIENCE = 0.25
"""Seconds after which none waits any longer: where a step takes its time, judging costs nothing beside it."""

AT_ONCE = frozenset((WIPED, ADDED_UP, STALE, UNMOVED))
"""Findings that one sample proves; of the first two, until some sample has shown that it is otherwise as a rule."""


class Judging:
    """``tell(finding, step)`` is called for what begins, ``over(step, code, layers)`` for what has ended.

    ``columns`` and ``found`` are the run's own lists, and grow.
    """

    def __init__(
        self, columns: Sequence[Column], found: list[Finding], tell: Callable[[Finding, int], None],
        over: Callable[[int, str, Sequence[str]], None],
    ) -> None:  # fmt: skip
        self.columns, self.found, self.tell, self.over = columns, found, tell, over
        self.history, self.lock = History(), threading.RLock()
        self.episodes: dict[str, Episode] = {}
        self.thrown, self.growth, self.unmoved, self.eaten = Thrown(), Growth(), Unmoved(), Eaten()
        self.waiting: list[tuple[Sample, Setting]] = []
        self.last: Sample | None = None  # that is being judged
        self.recent: deque[Sample] = deque(maxlen=HELD + 1)  # that were judged; a finding may wait for HELD of them
        self.count, self.since, self.first = 0, 0.0, 0
        self.proper: set[str] = set()  # of WIPED and ADDED_UP, those that some sample has not shown

    def add(self, sample: Sample, setting: Setting) -> None:
        """Judge this sample, now or with the next ones."""
        if not self.waiting:
            self.since, self.first = time.monotonic(), sample.step
        with self.lock:
            self.waiting.append((sample, setting))
        self.count += 1
        steps = sample.step - self.first + 1
        if self.count <= TOGETHER or steps >= TOGETHER or time.monotonic() - self.since > PATIENCE:
            self.catch_up()

    def catch_up(self) -> None:
        """Judge what still waits; another thread than the training's may ask for it."""
        with self.lock:
            waiting, self.waiting = self.waiting, []
            for sample, setting in waiting:
                self._judge(sample, setting)

    def begin_again(self, step: int) -> None:
        """Another model is trained from this step on: what was usual before is no measure for it."""
        self.catch_up()
        with self.lock:
            for (code, at), episode in self.history.episodes.items():
                if episode.told:
                    self.over(step, code, (self.columns[at].name,) if at >= 0 else ())
            for finding in self.found:
                if finding.code in self.episodes:
                    self.over(step, finding.code, finding.layers)
            self.history, self.episodes = History(), {}
            self.thrown, self.growth, self.unmoved, self.eaten = Thrown(), Growth(), Unmoved(), Eaten()
            self.recent.clear()

    @property
    def told(self) -> int:
        """How many findings hold now."""
        self.catch_up()
        return sum(each.told for each in (*self.episodes.values(), *self.history.episodes.values()))

    @property
    def large(self) -> Finding | None:
        """What was found of steps that are too large, while that holds."""
        episodes = self.history.episodes.get((TOO_LARGE, -1)), self.episodes.get(TOO_LARGE)
        holds = any(each is not None and each.told for each in episodes)
        told = [each for each in self.found if each.code == TOO_LARGE] if holds else []
        return told[-1] if told else None

    def _judge(self, sample: Sample, setting: Setting) -> None:
        now: dict[str, Finding] = {}
        self.recent.append(sample)
        self.eaten.add(sample)
        self.last = sample
        for group in sample.groups:
            for finding in judge(decide(flow_of(sample, self.columns, setting, group))):
                if finding.verdict not in ("nonfinite", "undecided"):
                    now.setdefault(finding.code, self.eaten.explains(finding, sample))
        between = {each.code: each for each in found_between(sample, setting.dtype, setting.optimizer)}
        now |= between
        if (stale := of_the_casts(sample, self.columns, setting.autocast)) is not None:
            now[STALE] = stale
        if (unmoved := self.unmoved.judged(sample, self.columns, setting)) is not None:
            now[UNMOVED] = unmoved
        if (grown := self.growth.judged(sample, self.columns, setting)) is not None:
            now[grown.code] = grown
        self.thrown.add(sample)
        why = self.thrown.explains(now.values(), sample, self.columns)
        if why is not None and (self.large is None or TOO_LARGE in self.episodes):
            now = {TOO_LARGE: why, **now}  # first, as the others follow from it
        self.proper |= {WIPED, *((ADDED_UP,) if sample.step else ())} - between.keys()
        self._follow(sample.step, now)
        began, ended = self.history.watch(sample, list(self.columns))
        for code, layer in ended if self.large is None else [each for each in ended if each[0] != TOO_LARGE]:
            self.over(sample.step, code, (layer,) if layer else ())
        for finding in began if TOO_LARGE not in self.episodes else [f for f in began if f.code != TOO_LARGE]:
            whole = self.history.episodes.get((finding.code, -1))
            self.tell(finding, whole.began if whole is not None and finding.code < "UV8" else sample.step)
        self.last = None

    def _follow(self, step: int, now: Mapping[str, Finding]) -> None:
        """One finding an episode: at once in the first sample, later when it has held; over when it is long gone."""
        for code, finding in now.items():
            episode = self.episodes.setdefault(code, Episode(step))
            if not episode.on and not episode.told:
                episode.began = step
            episode.on, episode.off = episode.on + 1, 0
            if worse := episode.told and finding.level == "error" and episode.level == "note":
                self._over(step, code)
            due = step == 0 or episode.on >= HELD or code in AT_ONCE - self.proper
            if worse or (due and not episode.told):
                episode.told, episode.level = True, finding.level
                self.tell(finding.replace(message=dated("since", episode.began, finding.message)), episode.began)
        for code in [code for code in self.episodes if code not in now]:
            episode = self.episodes[code]
            episode.on, episode.off = 0, episode.off + 1
            if not episode.told or episode.off >= HELD:
                del self.episodes[code]
                if episode.told and (code != TOO_LARGE or self.large is None):
                    self._over(step, code)

    def _over(self, step: int, code: str) -> None:
        for finding in self.found:
            if finding.code == code:
                self.over(step, code, finding.layers)

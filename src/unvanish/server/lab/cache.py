"""The outcomes of the settings that were asked for last."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable

from unvanish.lab import Outcome, Stopped
from unvanish.lab.outcome import drawn_at
from unvanish.server.lab.asked import Asked

REMEMBERED = 64
LONGEST = 2_000
"""Rows: a table of more is worked out again instead of being kept."""


class Cache:
    """Outcomes by experiment and settings, the oldest forgotten first; at any number of threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Outcome] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, request: Asked) -> Outcome | None:
        """The outcome of these settings, if it is known at any width of its pictures."""
        with self._lock:
            return self._known.get(_key(request, 0))

    def run(self, request: Asked, progress: Callable[[float, str], None], *, at_width: bool) -> Outcome:
        """The outcome, run only where it is not known. One that was stopped early is not remembered.

        ``at_width``: worked out again for another width of the pictures, as is right for what takes no time.
        """
        key = _key(request, request.pixels if at_width else 0)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        stopped = False

        def watched(share: float, what: str) -> None:
            nonlocal stopped
            try:
                progress(share, what)
            except Stopped:
                stopped = True
                raise

        with drawn_at(request.pixels):
            outcome = request.experiment.run(watched, **request.settings)
        if not stopped and len(outcome.rows) <= LONGEST:
            with self._lock:
                self._known[key] = outcome
                while len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
        return outcome


def _key(request: Asked, pixels: int) -> str:
    settled = request.experiment.settle(**request.settings)
    return json.dumps([request.experiment.name, settled.plain(), pixels], sort_keys=True)

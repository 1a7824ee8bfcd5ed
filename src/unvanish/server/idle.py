"""Connections that ask for nothing, or never finish asking, are let go: so many of them take no place from who asks."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary

LONGEST = 10.0
"""Seconds in which a connection has to finish its first line and its headers."""
MOST = 128
"""Connections that may be about to ask; of more, those go that have waited longest."""


class Idle:
    """Called once a second by uvicorn, whose connections these are."""

    def __init__(self, connections: Collection[Any]) -> None:
        self.connections = connections
        self._since: WeakKeyDictionary[Any, tuple[Any, float]] = WeakKeyDictionary()

    async def __call__(self) -> None:
        now = time.monotonic()
        waiting: list[tuple[float, Any]] = []
        for each in list(self.connections):
            last, since = self._since.get(each, (None, now))
            if each.cycle is not last:  # it has asked for something since
                since = now
            self._since[each] = each.cycle, since
            if each.cycle is None or each.cycle.response_complete:
                waiting.append((since, each))
        waiting.sort(key=lambda pair: pair[0])
        for place, (since, each) in enumerate(waiting):
            if now - since > LONGEST or place < len(waiting) - MOST:
                each.transport.close()

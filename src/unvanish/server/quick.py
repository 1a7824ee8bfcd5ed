"""What is answered at once: work of a few seconds beside the server, which ends when the visitor leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
from starlette.requests import Request

from unvanish.lab import Progress, Stopped
from unvanish.records import UnvanishError
from unvanish.server.jobs import TICK

PATIENCE = 20.0
"""Seconds that it may take."""


async def quickly(limiter: anyio.CapacityLimiter, request: Request, work: Callable[[Progress], Any]) -> Any:
    """The result of something short, computed beside the server; UnvanishError where it takes too long.

    It ends at its next sign of progress when time is up or the visitor has gone.
    """
    over = threading.Event()

    def limit(share: float, what: str) -> None:
        if over.is_set():
            raise Stopped

    async def wait() -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not await request.is_disconnected():
            await asyncio.sleep(TICK)
        over.set()

    watching = asyncio.create_task(wait())
    running = anyio.to_thread.run_sync(work, limit, limiter=limiter, abandon_on_cancel=True)
    try:
        return await asyncio.wait_for(running, PATIENCE + 1)
    except (Stopped, TimeoutError):
        raise UnvanishError(f"this takes more than {PATIENCE:.0f} seconds here; run it on the command line") from None
    finally:
        over.set()
        watching.cancel()

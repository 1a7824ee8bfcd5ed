"""Signals wait while something is put back: an interrupt must not leave it half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2")
_ALL = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


def finish(work: Callable[[], None]) -> None:
    """Run ``work`` to its end, however often it is interrupted, then let the interrupts through.

    ``work`` may be begun again after it was cut short. Handlers of signals run afterwards; what is raised by other
    means (an exception that another thread sends) begins it anew and is raised at the end.
    """
    waiting = _Waiting()
    last: BaseException | None = None
    done = False
    while not done or waiting.handlers:
        try:
            if not done:
                waiting.start()
                work()
                done = True
            waiting.stop()
        except Exception:
            waiting.stop()
            raise
        except BaseException as error:
            last = error
    waiting.run()
    if last is not None:
        raise last


class _Waiting:
    """Python's own handlers, replaced by one that only remembers."""

    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {}
        self.came: list[tuple[Any, int, Any]] = []

    def start(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # signals are handled in the main thread
        for number in _ALL:
            handler = signal.getsignal(number)
            if callable(handler) and handler != self.remember:
                self.handlers[number] = handler
                signal.signal(number, self.remember)

    def remember(self, number: int, frame: Any) -> None:
        self.came.append((self.handlers.get(number), number, frame))

    def stop(self) -> None:
        while self.handlers:
            number, handler = next(iter(self.handlers.items()))
            signal.signal(number, handler)
            self.handlers.pop(number, None)

    def run(self) -> None:
        for handler, number, frame in self.came:
            if handler is not None:
                handler(number, frame)

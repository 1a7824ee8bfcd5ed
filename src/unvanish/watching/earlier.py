"""Runs that go on no more: their optimizers are watched anew, or are gone, as where a notebook runs a cell again."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unvanish.watching.watch import Watch

LOG = logging.getLogger("unvanish")
ANEW = "its optimizer was watched anew"
GONE = "its optimizer is gone"
NOTE = (
    "the optimizer of this run is gone after step {:,}, and the run ends there: what was trained since is not in it,"
    " unless unvanish.watch(model, optimizer) was called again"
)

_begun: weakref.WeakSet[Watch] = weakref.WeakSet()  # by unvanish.watch, which says what each is to watch


def has_begun(run: Watch) -> None:
    """``run`` has been given its optimizers, and ends with them at the latest."""
    _begun.add(run)


def end_others(optimizers: Sequence[Any]) -> None:
    """End the runs of these optimizers, and those whose own are gone."""
    mine = {id(each) for each in optimizers}
    for run in [each for each in _begun if not each.closed]:
        if not mine.isdisjoint(run.watcher.optimizers):
            LOG.warning("the run in %s ends here: its optimizer is watched anew", run.path)
            run.close(ANEW)
        else:
            end_if_left(run)


def end_if_left(run: Watch) -> None:
    """End a run whose optimizers are all gone: it would say for ever what was before."""
    if run in _begun and not run.closed and not len(run.watcher.optimizers):
        run.note(NOTE.format(run.step))
        run.close(GONE)

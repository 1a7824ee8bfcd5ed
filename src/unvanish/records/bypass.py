"""What was measured of cuts beside which the signal goes on."""

from __future__ import annotations

from unvanish.records.base import Record


class BypassFacts(Record, frozen=True, kw_only=True):
    """A cut that takes from trained ``layers`` a part of their signal: they are in the graph by another way.

    ``kind``: "sum" where one summand was cut and the other, made of it by layers, was not; "choice" where a later layer
    is given what they only choose. ``cut``: detach, no_grad or the name of a call without a gradient, ``cut_at`` its
    source line; ``at``: where what was cut is consumed.
    """

    kind: str
    cut: str
    cut_at: str
    at: str
    layers: tuple[str, ...]

"""The zoo's networks by name. To add one, write its builder and one row in ``listing.py``. No torch here."""

from __future__ import annotations

import difflib
from functools import cache

from unvanish.records import UnvanishError
from unvanish.zoo.listing import NETWORKS
from unvanish.zoo.network import Network


def names() -> tuple[str, ...]:
    """The names of all networks, family by family."""
    return tuple(_table())


def describe(name: str) -> str:
    """One line: what the network is and what is, or is not, wrong with it."""
    return get(name).about


def get(name: str) -> Network:
    """The network of that name; UnvanishError with the nearest names where there is none."""
    if name in _table():
        return _table()[name]
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`unvanish zoo --list` shows them all"
    raise UnvanishError(f"the zoo has no network {name!r}; {hint}")


@cache
def _table() -> dict[str, Network]:
    table = {network.name: network for network in NETWORKS}
    if len(table) != len(NETWORKS):
        raise ValueError("two networks of the zoo have the same name")
    return table

"""The table of the zoo's networks: name, builder, what is wrong with it, and which verdicts are right.

No torch here. A builder is a function of this folder, named ``"file.function"`` and imported when a network is built.
To add a network, write its builder and one row in ``listing.py``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from unvanish.records import UnvanishError

if TYPE_CHECKING:
    from unvanish.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network whose state is known by construction or by training it.

    ``expects``: the words of ``report.verdict`` that are right. ``codes``: the findings that name what is there.
    ``layers``: the verdict a layer must have, by module path, where that is known. ``builder``: ``"file.function"`` in
    this folder, called with ``options``. ``learns``: whether its own optimizer lowers its loss within a few steps
    (None: it has no optimizer, or neither answer would say anything). ``harmless``: what is there is not a fault.
    """

    name: str
    about: str
    builder: str
    expects: tuple[str, ...]
    codes: tuple[str, ...] = ()
    layers: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    learns: bool | None = None
    harmless: bool = False

    @property
    def healthy(self) -> bool:
        """Whether a finding of level "error" would be a false alarm: every word accepted is harmless, or is so here."""
        return self.harmless or set(self.expects) <= {"healthy", "converged", "frozen", "gated"}

    def build(self, seed: int = 0) -> Problem:
        """The training problem; the same seed gives the same numbers, and torch's own random state does not move."""
        import torch

        module, function = self.builder.split(".")
        build = getattr(importlib.import_module(f"unvanish.zoo.{module}"), function)
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
            torch.default_generator.manual_seed(seed)
            return build(**self.options)


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
    from unvanish.zoo.listing import NETWORKS

    table = {network.name: network for network in NETWORKS}
    if len(table) != len(NETWORKS):
        raise ValueError("two networks of the zoo have the same name")
    return table

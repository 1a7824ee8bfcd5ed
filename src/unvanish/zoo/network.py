"""A network of the zoo: a row of the listing. No torch here.

A builder is a function of this folder, named ``"file.function"`` and imported when a network is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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

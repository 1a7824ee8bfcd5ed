"""How many names are said in few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Order:
    """Names in network order, each found without a search through all of them."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self.places: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            self.places.setdefault(name, []).append(place)

    def sorted(self, names: Iterable[str]) -> list[int]:
        """The places of these names, in network order; a name that is not in it has none."""
        return sorted(place for name in set(names) for place in self.places.get(name, ()))


def span(names: Iterable[str], order: Sequence[str] | Order) -> str:
    """The named layers in network order with neighbours folded, such as "fc1 … fc14 (14 layers), head".

    Who asks for many spans of one network makes its Order once.
    """
    order = order if isinstance(order, Order) else Order(order)
    runs: list[list[str]] = []
    last = -2
    for place in order.sorted(names):
        if place != last + 1:
            runs.append([])
        runs[-1].append(order.names[place])
        last = place
    shown = runs if len(runs) <= 4 else runs[:3]
    text = ", ".join(f"{run[0]} … {run[-1]} ({len(run)} layers)" if len(run) > 2 else ", ".join(run) for run in shown)
    hidden = sum(len(run) for run in runs[len(shown) :])
    return f"{text} and {hidden} more layers" if hidden else text

"""How many names are said in few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def span(names: Iterable[str], order: Sequence[str]) -> str:
    """The named layers in network order with neighbours folded, such as "fc1 … fc14 (14 layers), head"."""
    wanted = set(names)
    runs: list[list[str]] = [[]]
    for name in order:
        if name in wanted:
            runs[-1].append(name)
        elif runs[-1]:
            runs.append([])
    runs = [run for run in runs if run]
    shown = runs if len(runs) <= 4 else runs[:3]
    text = ", ".join(f"{run[0]} … {run[-1]} ({len(run)} layers)" if len(run) > 2 else ", ".join(run) for run in shown)
    hidden = sum(len(run) for run in runs[len(shown) :])
    return f"{text} and {hidden} more layers" if hidden else text

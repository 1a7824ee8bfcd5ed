"""How many names are said in few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unvanish.words.numbers import listing


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

    Where that leaves many pieces, because blocks of a kind repeat, "blocks.N.query, key with N = 0 … 3 (8 layers)". Who
    asks for many spans of one network makes its Order once.
    """
    order = order if isinstance(order, Order) else Order(order)
    runs: list[list[str]] = []
    last = -2
    for place in order.sorted(names):
        if place != last + 1:
            runs.append([])
        runs[-1].append(order.names[place])
        last = place
    if len(runs) > 2 and (repeated := in_blocks([name for run in runs for name in run], "layers")):
        return repeated
    shown = runs if len(runs) <= 4 else runs[:3]
    text = ", ".join(f"{run[0]} … {run[-1]} ({len(run)} layers)" if len(run) > 2 else ", ".join(run) for run in shown)
    hidden = sum(len(run) for run in runs[len(shown) :])
    return f"{text} and {hidden} more layers" if hidden else text


def named(names: Iterable[str], order: Sequence[str] | Order) -> str:
    """The span as it stands in a sentence: "layers 0 … 18 (10 layers)" where bare numbers alone would puzzle."""
    several = set(names)
    text = span(several, order)
    return f"{'layer' if len(several) == 1 else 'layers'} {text}" if text[:1].isdigit() else text


def called(name: str) -> str:
    """A layer in running text: "layer 38" for a bare number, else its path."""
    return f"layer {name}" if name[:1].isdigit() else name


def in_blocks(names: Sequence[str], what: str) -> str:
    """Names that differ in one number alone, and in few other parts, as one; "" where they are not of that form."""
    families: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name in names:
        parts = name.split(".")
        shape = tuple("#" if part.isdigit() else part for part in parts)
        families.setdefault(shape, []).append(tuple(part for part in parts if part.isdigit()))
    told = [_family(shape, numbers) for shape, numbers in families.items()]
    known = [each for each in told if each is not None]
    if len(names) < 4 or len(told) > 3 or len(known) < len(told):
        return ""
    values = {value for _, value in known}
    if len(values) > 1:
        return " and ".join(f"{name} with N = {value}" for name, value in known) + f" ({len(names)} {what})"
    first, *others = [name for name, _ in known]
    stem = first.rpartition(".")[0]
    alike = [other.rpartition(".")[2] if other.rpartition(".")[0] == stem else other for other in others]
    return f"{', '.join([first, *alike])} with N = {values.pop()} ({len(names)} {what})"


def _family(shape: tuple[str, ...], numbers: list[tuple[str, ...]]) -> tuple[str, str] | None:
    """The common form with N in place of the one number that varies, and the values of N in words."""
    columns = [list(dict.fromkeys(column)) for column in zip(*numbers, strict=True)]
    varying = [place for place, column in enumerate(columns) if len(column) > 1]
    if len(varying) != 1:
        return None
    values = sorted(map(int, columns[varying[0]]))
    in_a_row = values[-1] - values[0] == len(values) - 1
    told = f"{values[0]} … {values[-1]}" if in_a_row else listing(map(str, values), 5)
    fixed = iter(["N" if place in varying else column[0] for place, column in enumerate(columns)])
    return ".".join(next(fixed) if part == "#" else part for part in shape), told

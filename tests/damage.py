"""Files and JSON with something wrong in them, drawn by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

ODD = (
    None, True, -1, 0, 7, 10**6, 10**30, 2**63, -(2**63), 1.5, 1e308, -1e308, 5e-324, "", "nan", "inf", "-inf", "x",
    "\ud800", "\u202e", "<b>", "1" * 3_000, [], {}, [None], [[]],
)  # fmt: skip
"""Values that stand where others belong."""


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """Bits turned over, the end cut off, a part zeroed or replaced, two pages exchanged."""
    data = bytearray(whole)
    kind = chance.choice(("flip", "cut", "zero", "replace", "swap"))
    at = chance.randrange(len(data))
    if kind == "flip":
        for _ in range(chance.choice((1, 1, 3, 30))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "swap":
        one, other = (4096 * chance.randrange(len(data) // 4096 or 1) for _ in range(2))
        data[one : one + 4096], data[other : other + 4096] = data[other : other + 4096], data[one : one + 4096]
    else:
        length = min(chance.choice((1, 4, 40, 512, 4096)), len(data) - at)
        data[at : at + length] = bytes(length) if kind == "zero" else chance.randbytes(length)
    return bytes(data)


def mistaken(text: str, chance: random.Random) -> str:
    """JSON of which some values are missing, doubled, or others; now and then no JSON at all."""
    if chance.random() < 0.2:
        return damaged(text.encode(), chance).decode("utf-8", "surrogateescape")
    data = json.loads(text)
    for _ in range(chance.choice((1, 1, 2, 5))):
        holder, key = chance.choice(list(_places(data)))
        change = chance.random()
        if change < 0.2:
            del holder[key]
        elif change < 0.35 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = chance.choice(ODD)
        if not data:
            break
    return json.dumps(data)


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from _places(data[key])

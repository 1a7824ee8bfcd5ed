"""How much room text takes, so that labels can be placed and names shortened before anything is drawn.

The widths are those of DejaVu Sans, rounded up: it is among the widest of the common fonts, so that what fits here
fits elsewhere.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence

from unvanish.words.markup import visible

_HUNDREDTHS = {
    25: "′",
    30: "'IJijl",
    35: " ,./:;\\|·",
    40: "()-[]ft",
    45: "!r⁰¹²³⁴⁵⁶⁷⁸⁹₁₂",
    50: '"*_`–‖',
    55: "?csz⁻",
    60: "FLkvxyχ",
    65: "$0123456789EPSTYabdeghnopqu{}σ",
    70: "ABCKRVXZφ",
    75: "NU",
    80: "&DGHOQ",
    85: "#+<=>^w~×→←∞",
    90: "M",
    95: "%",
    100: "@Wm…",
}
_WIDTH = {character: width / 100 for width, characters in _HUNDREDTHS.items() for character in characters}
_OTHER, _BOLD = 0.8, 1.13
ELLIPSIS = "…"


def text_width(text: str, size: float = 11, *, bold: bool = False) -> float:
    """The room a line of text takes, in pixels, a little on the wide side."""
    ems = sum(_WIDTH.get(each) or (1.05 if unicodedata.east_asian_width(each) in "WF" else _OTHER) for each in text)
    return ems * size * (_BOLD if bold else 1.0)


def shorten(text: str, room: float, size: float = 11, *, bold: bool = False, head: float = 0.4) -> str:
    """The text in at most ``room`` pixels: the middle gives way; ``head`` is the share of the rest that stays in front.

    Characters that would not show, or would turn the line around, are written as escapes.
    """
    text = visible(text)
    if text_width(text, size, bold=bold) <= room:
        return text

    def cut(kept: int) -> str:
        front = int(kept * head)
        return text[:front] + ELLIPSIS + text[len(text) - (kept - front) :]

    # what is kept of a longer cut holds what is kept of a shorter one, so that the widths rise
    fitting = bisect_right(range(1, len(text)), room, key=lambda kept: text_width(cut(kept), size, bold=bold))
    return cut(fitting)


def shorten_all(names: Sequence[str], room: float) -> tuple[str, ...]:
    """The names in at most ``room`` pixels each, cut where they still differ: what all begin with gives way first."""
    names = [visible(name) for name in names]
    if all(text_width(name) <= room for name in names):
        return tuple(names)
    common = common_start(names)
    bare = [ELLIPSIS + name[len(common) :] if common else name for name in names]
    tried = [tuple(shorten(name, room, head=head) for name in bare) for head in (0.4, 0.7, 0.2, 1.0, 0.0)]
    return max(tried, key=lambda short: len(set(short)))


def common_start(names: Sequence[str]) -> str:
    """The leading parts of the module paths that all of them share, with the last dot."""
    first, last = min(names), max(names)
    same = next((at for at, (one, two) in enumerate(zip(first, last, strict=False)) if one != two), len(first))
    return first[: first.rfind(".", 0, same) + 1]


def wrap(text: str, room: float, size: float = 11, *, bold: bool = False) -> list[str]:
    """The text in lines of at most ``room`` pixels; a word that is longer than a line is shortened."""
    lines: list[str] = []
    for word in text.split():
        word = shorten(word, room, size, bold=bold)
        if lines and text_width(f"{lines[-1]} {word}", size, bold=bold) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines

"""HTML by construction: an element is a call of ``h``, and every text in it is escaped.
Names come from other people's programs. ``Html`` marks what is markup already; any other string is shown as it is
spelled, with control and invisible characters (among them those that turn the direction of writing) as escapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from unvanish.words.numbers import POWER

VOID = {"br", "col", "hr", "meta"}


class Html(str):
    """A string that is markup. Only ``h`` and drawings that escape on their own make one."""

    __slots__ = ()


Child = str | Html | None | Iterable["Child"]


def h(tag: str, *children: Child, **attributes: str | int | bool | None) -> Html:
    """The element ``tag`` around its children: texts, elements, or iterables of them; None is nothing.

    Attributes are written with "_" for "-" and may end in "_" (``class_``); True is a bare one, False and None are left
    out. ``h("p", "1 < 2", class_="note")`` is ``<p class="note">1 &lt; 2</p>``.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{''.join(_parts(children, lines=tag == 'pre'))}</{tag}>")


def join(*children: Child) -> Html:
    """The children one after the other, escaped where they are not markup yet."""
    return Html("".join(_parts(children)))


def prose(text: str) -> Html:
    """Text with its powers of ten raised."""
    parts = POWER.split(text)
    return join(_power(part) if place % 2 else part for place, part in enumerate(parts))


def _power(exponent: str) -> Html:
    return h("span", "10", h("sup", exponent.replace("-", "−")), class_="power")


def visible(text: str) -> str:
    """The text with every control, invisible and unpaired character written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _parts(children: Iterable[Child], *, lines: bool = False) -> Iterable[str]:
    """Pieces of markup; ``lines`` keeps the line feeds of the texts."""
    for child in children:
        if isinstance(child, Html):
            yield child
        elif isinstance(child, str):
            shown = "\n".join(map(visible, child.split("\n"))) if lines else visible(child)
            yield escape(shown, quote=False)
        elif child is not None:
            yield from _parts(child, lines=lines)


def _attribute(name: str, value: str | int | bool | None) -> str:
    written = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {written}" if value is True else f' {written}="{escape(visible(str(value)))}"'

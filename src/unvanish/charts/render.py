"""From a Vega-Lite drawing to SVG, PNG, PDF and compiled Vega, with neither a browser nor the network."""

from __future__ import annotations

import os
import re
from html import escape
from typing import Any

from unvanish.charts.theme import THEMES, resolve, token
from unvanish.records import UnvanishError

VEGA_LITE = "6.4"
_TAG = re.compile(r"<[^>]+>")
_ID = re.compile(r'(\bid="|url\(#|href="#)')
# the parts have no names of their own, and the picture as a whole has its description
_ATTRIBUTES = re.compile(r' (?:role="graphics-[a-z]+"|aria-[a-z]+="[^"]*")')
HALO = f'<text stroke="{token("bg")}" stroke-width="3" stroke-linejoin="round" paint-order="stroke" '
"""How every text begins: with a rim in the colour of the ground, at which the lines that cross it break off."""
_first_process: list[int] = []
"""The process that rendered first: the engine's threads do not survive a fork, and a child would wait for ever."""


def svg(spec: dict[str, Any], prefix: str = "uv", theme: str | None = None, description: str = "") -> str:
    """SVG text whose ids begin with ``prefix``; colours stay CSS variables unless a theme is named."""
    drawn = _engine().vegalite_to_svg(spec, vl_version=VEGA_LITE)
    drawn = _TAG.sub(lambda match: _ATTRIBUTES.sub("", _ID.sub(rf"\g<1>{escape(prefix)}-", match[0])), drawn)
    drawn = drawn.replace("<text ", HALO)
    if description:
        drawn = drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
    if theme is None:
        return drawn
    ground = f'<rect width="100%" height="100%" fill="{token("bg")}"/>'
    return resolve(re.sub(r"(<svg[^>]*>)", lambda match: match[1] + ground, drawn, count=1), known(theme))


def png(spec: dict[str, Any], theme: str, scale: float) -> bytes:
    """A PNG image with ``scale`` pixels per unit of the drawing."""
    return _engine().svg_to_png(svg(spec, theme=theme), scale=scale)


def pdf(spec: dict[str, Any], theme: str) -> bytes:
    """A PDF page of the size of the drawing."""
    return _engine().svg_to_pdf(svg(spec, theme=theme))


def vega(spec: dict[str, Any]) -> dict[str, Any]:
    """The drawing compiled to Vega, for a page that draws it live."""
    return _engine().vegalite_to_vega(spec, vl_version=VEGA_LITE)


def known(theme: str) -> str:
    """The theme, if there is one of that name."""
    if theme not in THEMES:
        raise UnvanishError(f"a picture in the theme {theme!r}: there is none of that name; use {', '.join(THEMES)}")
    return theme


def missing(error: ImportError) -> UnvanishError:
    """What to say where the packages that draw are not installed."""
    return UnvanishError(
        f"drawing a picture needs the package {error.name or 'altair'}, which is not installed; "
        "try: pip install 'unvanish[pictures]'"
    )


def _engine() -> Any:
    if not _first_process:
        _first_process.append(os.getpid())
    if _first_process[0] != os.getpid():
        raise UnvanishError(
            "drawing a picture in a forked process whose parent has already drawn one: the drawing engine would hang; "
            "draw in the parent, save the report as .json here and draw it later, or start processes with 'spawn'"
        )
    try:
        import vl_convert
    except ImportError as error:
        raise missing(error) from None
    return vl_convert

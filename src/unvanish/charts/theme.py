"""Colours by what they mean, in three themes; fonts; and the settings every picture shares.

A picture names a colour as a CSS variable with the light colour behind it, so that one drawing follows the page it
stands on; a file that has no page gets the colours of one theme written in.
"""

from __future__ import annotations

import re
from typing import Any

THEMES = ("light", "dark", "print")
FONT = '"DejaVu Sans", system-ui, sans-serif'
SIZE = 11
"""Pixels of ordinary text in a picture."""

TOKENS: dict[str, tuple[str, str, str]] = {
    "bg": ("#ffffff", "#15171a", "#ffffff"),
    "fg": ("#1b1b1b", "#ececec", "#000000"),
    "mut": ("#595959", "#b3b3b3", "#404040"),
    "grid": ("#dedede", "#33383e", "#cfcfcf"),
    "down": ("#0072b2", "#56b4e9", "#005b8f"),
    "up": ("#b04b00", "#f0883e", "#9c4300"),
    "ok": ("#00755b", "#3fc39b", "#00604b"),
    "acc": ("#7a4a00", "#e69f00", "#6b4100"),
    "vio": ("#96407a", "#dd93c0", "#7f3467"),
    "wash": ("#eaf3f9", "#1b2a35", "#eeeeee"),
    "pale": ("#8fb8d4", "#3f6f8f", "#9a9a9a"),
    "cold4": ("#0072b2", "#56b4e9", "#005b8f"),
    "cold3": ("#4097c7", "#4a93bd", "#3f87ad"),
    "cold2": ("#80bbdc", "#3e7291", "#80b3cc"),
    "cold1": ("#bfdef0", "#325165", "#c0dcea"),
    "even": ("#f4f4f2", "#25292d", "#f6f6f6"),
    "warm1": ("#f6d5bc", "#5c4431", "#efd2bf"),
    "warm2": ("#ecac7d", "#8e5b36", "#dea780"),
    "warm3": ("#e0853e", "#bf713a", "#c87a40"),
    "warm4": ("#d55e00", "#f0883e", "#b14e00"),
}
"""The colours of Okabe and Ito, darkened where they carry text: contrast at least 4.5 on their ground.

bg ground · fg text · mut quiet text · grid lines · down, up, ok, acc, vio series and what the numbers say · wash a
shaded region · pale marks behind the subject · cold4 … even … warm4 a diverging scale in nine steps.
"""

SERIES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("down", (1, 0)), ("up", (7, 3)), ("ok", (2, 2)), ("vio", (9, 3, 2, 3)), ("acc", (4, 2)), ("fg", (1, 3)),
    ("down", (12, 4)), ("up", (2, 4)),
)  # fmt: skip
"""Colour and dash of the first, second, … series: never told apart by colour alone."""

DIVERGING = ("cold4", "cold3", "cold2", "cold1", "even", "warm1", "warm2", "warm3", "warm4")

_VARIABLE = re.compile(r"var\(--uv-(\w+), #[0-9a-f]{6}\)")


def token(name: str) -> str:
    """The colour of that meaning as a CSS variable with the light colour behind it."""
    return f"var(--uv-{name}, {TOKENS[name][0]})"


def colour(name: str, theme: str) -> str:
    """The colour of that meaning in one theme, as a hexadecimal code."""
    return TOKENS[name][THEMES.index(theme)]


def resolve(text: str, theme: str) -> str:
    """The text with every colour variable replaced by its colour in the theme."""
    return _VARIABLE.sub(lambda match: colour(match[1], theme), text)


def css(selector: str = ":root") -> str:
    """Style rules that give the variables their colours: light, dark by the reader's setting or the page's, print.

    A page chooses with ``data-theme="dark"`` or ``"light"`` on its root; the dark themes of JupyterLab and VS Code are
    recognised.
    """

    def block(theme: str) -> str:
        return ";".join(f"--uv-{name}:{colour(name, theme)}" for name in TOKENS)

    inside = "" if selector == ":root" else f" {selector}"
    dark = ('[data-theme="dark"]', '[data-jp-theme-light="false"]', ".vscode-dark", ".vscode-high-contrast")
    light = ('[data-theme="light"]', '[data-jp-theme-light="true"]', ".vscode-light")
    return (
        f"{selector}{{{block('light')}}}"
        f"@media (prefers-color-scheme:dark){{{selector}{{{block('dark')}}}}}"
        f"{','.join(mark + inside for mark in light)}{{{block('light')}}}"
        f"{','.join(mark + inside for mark in dark)}{{{block('dark')}}}"
        f"@media print{{{','.join((selector, *(mark + inside for mark in (*light, *dark))))}{{{block('print')}}}}}"
    )


def config() -> dict[str, Any]:
    """The Vega-Lite configuration of every picture: a quiet horizontal grid, no frame, no legend, no boxes."""
    quiet = {"labelColor": token("mut"), "titleColor": token("mut"), "labelFontSize": SIZE, "titleFontSize": SIZE}
    axis = {
        **quiet, "grid": True, "gridColor": token("grid"), "gridWidth": 1, "domain": False, "ticks": False,
        "titleFontWeight": "normal", "labelPadding": 6, "titlePadding": 8, "labelFlush": False,
        "labelOverlap": "greedy", "labelLimit": 0, "labelFont": FONT, "titleFont": FONT,
    }  # fmt: skip
    return {
        "aria": False,
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "axisX": {"grid": False},
        "header": {**quiet, "labelFont": FONT, "titleFont": FONT},
        "legend": {"disable": True},
        "text": {"color": token("fg"), "fontSize": SIZE, "font": FONT},
        "title": {
            "color": token("fg"), "font": FONT, "fontSize": 13, "fontWeight": "bold", "anchor": "start",
            "frame": "bounds", "subtitleColor": token("mut"), "subtitleFont": FONT, "subtitleFontSize": SIZE,
        },
    }  # fmt: skip

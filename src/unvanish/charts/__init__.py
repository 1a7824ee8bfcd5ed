"""One file a picture. A picture is a drawing over named tables, and a function that works out their columns.

A picture's file holds ``template()``, decorated with ``@picture(name, question, tables=…)``: an Altair chart over
``alt.NamedData`` only, with no rows inside; and ``tables(…)``, which turns plain numbers into finished columns. Numbers
travel as base-10 logarithms on linear axes, because depth leaves the range of floats.

The table "frame" is special: its one row may hold ``width``, ``height`` (of the whole picture, in pixels) and, all four
or none, the margins ``left``, ``right``, ``top``, ``bottom`` inside it; every other key sets the top-level parameter of
that name.
"""

from __future__ import annotations

import copy
import importlib
import json
import pkgutil
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from unvanish.charts import render, theme
from unvanish.charts.measure import wrap
from unvanish.records import UnvanishError
from unvanish.words.markup import visible

Row = dict[str, Any]
Tables = dict[str, list[Row]]
MARGINS = ("left", "right", "top", "bottom")
TITLE_SIZE, TITLE_LINE, TITLE_GAP = 13, 17, 6
WIDTH = 620
_registry: dict[str, Picture] = {}


@dataclass(frozen=True)
class Picture:
    """A registered picture: its name, the question it answers, the tables it draws, and its drawing without data."""

    name: str
    question: str
    tables: tuple[str, ...]
    template: Callable[[], Any]

    @property
    def example(self) -> Callable[[float], Tables] | None:
        """The function ``example(width)`` of its file, with which the documentation draws it and tests look at it."""
        return getattr(sys.modules[self.template.__module__], "example", None)


def picture(name: str, question: str, *, tables: tuple[str, ...]) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a picture. What does not fit is refused when its file is imported, with what to write instead."""

    def register(template: Callable[[], Any]) -> Callable[[], Any]:
        made = Picture(name, question, tables, template)
        if fault := _fault(made):
            raise ValueError(fault)
        _registry[name] = made
        return template

    return register


def _fault(made: Picture) -> str:
    """What is wrong with a registration and what to write instead; "" where nothing is."""
    if made.name in _registry:
        return f"the picture {made.name!r} is registered twice: give one of the two another name"
    if not made.question.endswith("?"):
        return f"the picture {made.name!r} asks {made.question!r}: write the question that it answers"
    if isinstance(made.tables, str) or not made.tables:  # pyright: ignore[reportUnnecessaryIsInstance]
        return f"the picture {made.name!r}: tables={made.tables!r} must be a tuple with the names of its tables"
    if made.template.__module__ != f"{__name__}.{made.name}":
        return f"the picture {made.name!r} belongs into a file of its name: {made.name}.py of unvanish/charts"
    if not sys.modules[made.template.__module__].__doc__:
        return f"the picture {made.name!r} needs a docstring at the top of its file: it says what is to be seen"
    return ""


@cache
def pictures() -> tuple[Picture, ...]:
    """Every picture, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    for name in _registry:
        if not callable(getattr(sys.modules[f"{__name__}.{name}"], "tables", None)):
            raise ValueError(f"the picture {name!r} needs a function tables(…): it turns numbers into finished columns")
    return tuple(_registry[name] for name in sorted(_registry))


def find(name: str) -> Picture:
    """The picture of that name; UnvanishError if there is none."""
    for each in pictures():
        if each.name == name:
            return each
    known = ", ".join(each.name for each in pictures())
    raise UnvanishError(f"drawing the picture {name!r}: there is none of that name; there are {known}")


def draw(
    name: str,
    tables: Mapping[str, Sequence[Row]],
    *,
    title: str = "",
    description: str = "",
    width: int | None = None,
    height: int | None = None,
) -> Chart:
    """The picture ``name`` of these tables. ``title`` stands above it; without one the page says what it shows.

    ``width`` and ``height`` in pixels are those of the whole picture without its title. The labels of a picture with
    margins were placed for one size: give another to the function that made its tables.
    """
    wanted = find(name)
    frame = (tables.get("frame") or [{}])[0]
    for key, value in (("width", width), ("height", height)):
        if "left" in frame and value not in (None, frame[key]):
            raise UnvanishError(
                f"drawing the picture {name!r} with {key}={value}: its labels were placed for a {key} of "
                f"{frame[key]:g}; give the {key} to tables(…) instead"
            )
    if set(tables) - {"frame"} != set(wanted.tables) - {"frame"}:
        raise UnvanishError(
            f"drawing the picture {name!r}: it needs the tables {', '.join(wanted.tables)}; "
            f"found {', '.join(tables) or 'none'}"
        )
    kept = {key: [dict(row) for row in rows] for key, rows in tables.items()}
    return Chart(name, title, description or wanted.question, kept, width, height)


@dataclass(frozen=True)
class Chart:
    """One picture of one set of numbers; a notebook shows it by itself."""

    name: str
    title: str
    description: str
    tables: Tables
    width: int | None = None
    height: int | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite drawing with its data; colours are CSS variables."""
        spec = copy.deepcopy(_template(self.name))
        frame = dict((self.tables.get("frame") or [{}])[0])
        frame.update({key: value for key, value in (("width", self.width), ("height", self.height)) if value})
        title = visible(self.title)
        lines = wrap(title, frame.get("width", WIDTH) - 8, TITLE_SIZE, bold=True) if title else []
        spec["description"] = visible(self.description)
        spec["datasets"] = {key: shown(rows) for key, rows in self.tables.items() if key != "frame"}
        if "left" in frame:
            spec["autosize"] = "none"
            _lay_out(spec, frame, lines)
        else:
            spec.update({key: frame[key] for key in ("width", "height") if key in frame})
            if lines:
                spec["title"] = lines
        for parameter in spec.get("params", ()):
            if parameter["name"] in frame:
                parameter["value"] = frame[parameter["name"]]
        return spec

    def svg(self, prefix: str = "uv", theme: str | None = None) -> str:
        """SVG text; ids begin with ``prefix``, colours stay CSS variables unless a theme is named."""
        return render.svg(self.spec, prefix, theme, visible(self.description))

    def png(self, theme: str = "light", scale: float = 2.0) -> bytes:
        """A PNG image in one of the themes, ``scale`` times the size in pixels."""
        return render.png(self.spec, theme, scale)

    def pdf(self, theme: str = "light") -> bytes:
        """A PDF page in one of the themes."""
        return render.pdf(self.spec, theme)

    def vega(self) -> dict[str, Any]:
        """The compiled Vega drawing, for a live page."""
        return render.vega(self.spec)

    def save(self, path: str | Path, theme: str = "light") -> None:
        """Write the picture in the format its suffix names: .svg, .png, .pdf, or .json (Vega-Lite)."""
        target = Path(path)
        write: dict[str, Callable[[], bytes]] = {
            ".svg": lambda: self.svg(theme=theme).encode(),
            ".png": lambda: self.png(theme),
            ".pdf": lambda: self.pdf(theme),
            ".json": lambda: _json(self.spec, theme).encode(),
        }
        suffix = target.suffix.lower()
        if suffix not in write:
            ending = f"the suffix {target.suffix!r}" if target.suffix else "no suffix"
            raise UnvanishError(f"saving a picture to {str(path)!r}: {ending}; use one of {', '.join(write)}")
        content = write[suffix]()
        try:
            target.write_bytes(content)
        except OSError as error:
            raise UnvanishError(f"cannot write {str(path)!r}: {error.strerror or error}") from None

    def _repr_html_(self) -> str:
        # fresh ids every time: the same picture may be shown twice on one page
        drawn = self.svg(prefix=f"uv{secrets.token_hex(4)}")
        return f'<div class="unvanish-chart"><style>{theme.css(".unvanish-chart")}</style>{drawn}</div>'


@cache
def _template(name: str) -> dict[str, Any]:
    """The drawing without data, checked against the Vega-Lite schema once."""
    try:
        drawing = find(name).template()
    except ImportError as error:
        raise render.missing(error) from None
    spec = {**drawing.to_dict(), "config": theme.config()}
    if "layer" in spec or "mark" in spec:
        framed = any(each["name"] == "x_low" for each in spec.get("params", ()))
        spec["autosize"] = "none" if framed else {"type": "fit", "contains": "padding"}
    return spec


def _lay_out(spec: dict[str, Any], frame: Mapping[str, Any], title: Sequence[str]) -> None:
    """Fix the margins, so that a pixel worked out in Python is that pixel of the drawing, and set the title above."""
    margins = {side: frame[side] for side in MARGINS}
    spec["width"] = frame["width"] - margins["left"] - margins["right"]
    spec["height"] = frame["height"] - margins["top"] - margins["bottom"]
    room = TITLE_LINE * len(title) + TITLE_GAP if title else 0
    spec["padding"] = {**margins, "top": margins["top"] + room}
    # Vega sets its own titles against what the marks happen to cover, which pushes them out of a fixed margin
    look = {"color": theme.token("fg"), "fontSize": TITLE_SIZE, "fontWeight": "bold", "align": "left"}
    for line, text in enumerate(title):
        place = {"x": 6 - margins["left"], "y": TITLE_LINE * (line + 0.75) - room - margins["top"]}
        mark = {"type": "text", "text": text, "baseline": "middle", **look, **place}
        spec["layer"].append({"data": {"values": [{}]}, "mark": mark})


def shown(value: Any) -> Any:
    """The value with every text in it as a picture may show it: without control and invisible characters."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {key: shown(each) for key, each in cast("Mapping[str, Any]", value).items()}
    return [shown(each) for each in cast("Sequence[Any]", value)] if isinstance(value, (list, tuple)) else value


def _json(spec: dict[str, Any], name: str) -> str:
    return theme.resolve(json.dumps(spec, ensure_ascii=False, indent=1, allow_nan=False), render.known(name))

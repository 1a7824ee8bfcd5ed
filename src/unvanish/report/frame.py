"""The frame of every saved page: its head with the content security policy, the theme and the style sheet.

A page carries everything in itself: the policy lets it load nothing and run no script.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import secrets
from functools import cache
from importlib.resources import files

from unvanish.charts import theme
from unvanish.words.markup import Child, Html, h

_SESSION = secrets.token_hex(3)
_shown = itertools.count()


def page(title: str, *body: Child) -> str:
    """A whole page: the frame around these elements, such as a header and a main part, and a closing line."""
    closing = h("footer", h("p", "Made by unvanish ", _version(), ". This file is complete: it loads nothing."))
    return f"<!doctype html>\n{h('html', _head(title), h('body', body, closing, class_='uv page'), lang='en')}"


def cell(label: str, *parts: Child, name: str = "") -> Html:
    """The parts as the output of a notebook's cell, in the notebook's own theme; ``name``: the element's id."""
    sheet = h("style", Html(theme.css(".uv.cell") + style("parts.css", "notebook.css")))
    return h("section", sheet, parts, class_="uv cell", id=name or fresh_name(), aria_label=label)


def fresh_name() -> str:
    """An id, or the beginning of ids, that no other output of the notebook has."""
    # a page may hold outputs of a session that has been restarted: the counter alone would begin again
    return f"uv-{_SESSION}-{next(_shown)}"


def style(*names: str) -> str:
    """The rules of these style sheets, which stand beside this module."""
    here = files("unvanish.report")
    return "".join(here.joinpath(name).read_text(encoding="utf-8") for name in names)


@cache
def _page_style() -> str:
    return theme.css() + style("parts.css", "page.css")


def _head(title: str) -> Html:
    sheet = _page_style()
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=policy),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("meta", name="referrer", content="no-referrer"),
        h("title", title),
        h("style", Html(sheet)),
    )


def _version() -> str:
    from unvanish import __version__

    return __version__

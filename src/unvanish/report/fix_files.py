"""The answer of a search for programs: everything, a comment, the code, and the diff."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unvanish.report.fix_text import render
from unvanish.report.formats import writer
from unvanish.report.markdown import listing

if TYPE_CHECKING:
    from unvanish.trials.fixes import Fixes


@writer("json", suffix=".json", of="fix", media="application/json")
def json(fixes: Fixes) -> str:
    """Everything but the model, for programs; numbers that are not finite are strings."""
    return fixes.to_json()


@writer("md", suffix=".md", of="fix", media="text/markdown; charset=utf-8")
def markdown(fixes: Fixes) -> str:
    """The text answer as a listing, for a comment or an issue."""
    return listing(render(fixes))


@writer("code", suffix=".py", of="fix", media="text/x-python; charset=utf-8")
def code(fixes: Fixes) -> str:
    """Python text that makes the change without unvanish; nothing where nothing is to be changed."""
    return fixes.code.rstrip("\n")


@writer("diff", suffix=".patch", of="fix", media="text/x-diff; charset=utf-8")
def diff(fixes: Fixes) -> str:
    """The change as a diff of the checked file; nothing where it is no literal swap in it."""
    return fixes.patch.rstrip("\n")

"""A finding's message with the step it is of. Needs no torch."""

from __future__ import annotations

import re

STEP = re.compile(r"^(at|since) step [\d,]+: ")
STARTS = re.compile(r"^(The|An|In|Of|No|None|All|After|With|Without|Under) (?=[a-z])")
"""Words that begin a sentence and no layer's name, which has to keep its letters."""


def dated(word: str, step: int, message: str) -> str:
    """``word``: "at" or "since"; after the colon the sentence goes on with a small letter."""
    return f"{word} step {step:,}: {STARTS.sub(lambda found: found[0].lower(), message)}"


def undated(message: str) -> str:
    """The message without its step."""
    return STEP.sub("", message)

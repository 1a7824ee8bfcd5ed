"""The five source documents, by the numbers that the lab cites them with."""

from __future__ import annotations

SOURCES = {
    "000": "a question and its answer: why a vanishing gradient is not an optimum",
    "001": "a chapter of a course: what causes the vanishing gradient",
    "002": "a question about Nielsen's book: is a small gradient good news?",
    "003": "a blog post: how the gradient vanishes in a chain of four",
    "004": "an encyclopedia entry: the problem, its causes and remedies",
}

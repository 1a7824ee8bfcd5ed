"""The order of the pages, by parts. A page that stands in none of them makes the build fail.

The pages of single codes and remedies are left out: a hundred more lines in the bar of every page would hide the rest,
and take most of the time of a build. They begin with ``ALONE``, and the tables of codes and of remedies lead to each.
"""

from __future__ import annotations

ALONE = "---\norphan: true\n---\n\n"

PARTS: dict[str, tuple[str, ...]] = {
    "First steps": ("quick-start", "vanished-or-converged", "reading-a-report", "adopting"),
    "Guides": (
        "guides/plain-loop", "Lightning, Hugging Face, Keras <integrations>", "guides/several-optimizers",
        "guides/recurrent", "guides/ci", "guides/amp", "guides/several-processes", "guides/compile",
        "guides/huge-models",
    ),
    "What it does": ("watching", "viewing", "fixing", "lab", "sweeps", "pictures", "examples"),
    "Reference": ("rules", "remedies", "zoo", "glossary", "api", "command-line"),
    "Why to believe it": (
        "theory", "how-it-works", "claims", "performance", "comparison", "benchmarks/verdicts", "benchmarks/strangers",
        "benchmarks/repair", "benchmarks/repair_own", "benchmarks/deep_rescue", "benchmarks/sweep_papers", "versions",
    ),
    "Contributing": ("contributing/index", "changelog"),
}  # fmt: skip
BELOW = {
    "contributing/index.md": tuple(f"{kind}" for kind in ("rule", "remedy", "picture", "experiment", "format")),
}
"""Pages that hang below another one, by their names as seen from there."""


def trees() -> str:
    """The tables of contents that the first page carries, for the bar at the side."""
    return "".join(tree(pages, caption) for caption, pages in PARTS.items())


def tree(pages: tuple[str, ...], caption: str = "") -> str:
    """A hidden table of contents."""
    head = ["", "```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), ""]
    return "\n".join([*head, *pages, "```", ""])


def below(address: str) -> str:
    """The table of contents of a page that others hang below; "" for the rest."""
    return tree(BELOW[address]) if address in BELOW else ""

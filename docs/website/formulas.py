"""Formulas as MathML, which browsers draw by themselves: no script and no font is needed."""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert


def inline(writer: Any, node: Any) -> None:
    """A formula within a line of text."""
    from docutils import nodes

    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def displayed(writer: Any, node: Any) -> None:
    """A formula on a line of its own, which scrolls where it is wider than the page."""
    from docutils import nodes

    formula = convert(node.astext(), display="block")
    writer.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

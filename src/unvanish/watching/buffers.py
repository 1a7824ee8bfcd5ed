"""Buffers that hold nan at the end of a training whose losses and gradients were finite: nothing trained reads them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from unvanish.records import Finding
from unvanish.watching.dated import dated
from unvanish.watching.norms import local
from unvanish.words.numbers import listing


def odd_buffers(models: Mapping[str, nn.Module]) -> list[str]:
    """The names of those that hold nan. An infinity can be meant, as in a mask or a running minimum."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, model in models.items()
        for name, each in model.named_buffers()
        if each.is_floating_point() and bool(local(each).isnan().any())
    ]


def of_the_buffers(step: int, names: list[str]) -> Finding:
    """``step``: how many the run has made."""
    few = listing(names)
    text = (
        f"when the run ends there is nan in {'the buffer' if len(names) == 1 else 'the buffers'} {few}, though losses"
        " and gradients were finite: what reads it in eval mode, as a normaliser does its running mean, gives nan."
        " Buffers are looked at once, at the end, so since when is not known."
    )
    return Finding(code="UV501", verdict="nonfinite", level="error", cause="buffer", message=dated("at", step, text))

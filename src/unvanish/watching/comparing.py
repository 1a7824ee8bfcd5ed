"""Two runs beside each other: where they part, in numbers and in findings. Needs no torch."""

from __future__ import annotations

import math

from unvanish.watching.run import Run
from unvanish.words.markup import visible


def comparison(one: Run, other: Run) -> str:
    """A few lines of text: losses, the layers that differ most at the last common step, findings of one alone."""
    lines = [f"{one.path.name} against {other.path.name}"]
    common = sorted(set(one.steps) & set(other.steps))
    if not common:
        return "\n".join([*lines, "the two runs have no sampled step in common"])
    step = common[-1]
    at, there = one.steps.index(step), other.steps.index(step)
    lines.append(f"at step {step}, the last that both sampled:")
    lines.append(f"  loss {one.whole('loss')[at]:.4g} against {other.whole('loss')[there]:.4g}")
    for name in ("log10_signal", "log10_grad_norm"):
        lines += _apart(one, other, name, at, there)
    for run, rest in ((one, other), (other, one)):
        known = {(finding.code, finding.layers) for finding in rest.findings}
        alone = [finding for finding in run.findings if (finding.code, finding.layers) not in known]
        lines += [f"only in {run.path.name}: {finding.code} {visible(finding.message)}" for finding in alone]
    return "\n".join(lines)


def _apart(one: Run, other: Run, name: str, at: int, there: int) -> list[str]:
    mine, theirs = one.by_layer(name), other.by_layer(name)
    gaps = {layer: mine[layer][at] - theirs[layer][there] for layer in mine if layer in theirs}
    known = {layer: gap for layer, gap in gaps.items() if math.isfinite(gap)}
    if not known:
        return []
    layer = max(known, key=lambda each: abs(known[each]))
    return [f"  {name}: most apart in {visible(layer)}, {mine[layer][at]:.2f} against {theirs[layer][there]:.2f}"]

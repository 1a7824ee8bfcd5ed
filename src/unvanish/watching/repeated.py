"""A step that was run again because a number in it is not finite: what that showed, as findings."""

from __future__ import annotations

from unvanish.records import Finding
from unvanish.watching.box import Replay


def named(step: int, found: Replay, loss: bool) -> list[Finding]:
    """What a repetition showed, as findings with the step; ``loss``: whether that is not finite."""
    mine = [] if found.report is None else [f for f in found.report.findings if f.verdict == "nonfinite"]
    if mine and found.born != "loss":
        return [each.replace(message=f"at step {step}: {each.message}") for each in mine]
    code = "UV502" if found.born == "backward" else "UV501"
    what = f"{_where(found, loss)}{found.reason}"
    return [
        Finding(
            code=code,
            verdict="nonfinite",
            level="error",
            cause=found.born,
            message=f"at step {step}: {what}.",
        )
    ]


def _where(found: Replay, loss: bool) -> str:
    """What is not finite, where the reason does not say it itself."""
    if found.born in ("data", "parameters"):
        return ""
    if found.born == "loss":
        return "the loss made a number that is not finite: "
    return "the loss is not finite: " if loss and found.report is not None else "a gradient is not finite: "

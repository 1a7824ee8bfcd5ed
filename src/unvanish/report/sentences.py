"""What every form of a report says in the same words: the headline, the facts, a finding's message and its numbers.

Plain text without markup or line breaks. It may hold names from the user's program: who sets it on a page cleans it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from unvanish.decide.stationary import constant_wins, has_converged
from unvanish.records import EVERYTHING, Evidence, Finding, LayerFlow
from unvanish.report.index import index
from unvanish.words.numbers import amount, listing, number, percent

if TYPE_CHECKING:
    from unvanish.report import Report

WORDS = {
    "log10_transmission": "transmission",
    "log10_jacobian_norm": "dependence of the outputs on the weights",
    "log10_sensitivity_rise": "rise of the relative sensitivity",
    "underflow_fraction": "lost to underflow",
    "dead_fraction": "dead units",
    "saturated_fraction": "saturated entries",
    "saturated_fraction, standardised": "saturated entries with standardised inputs",
    "relative_gap": "achievable reduction left",
    "decrement": "reduction a quadratic model promises",
    "residual_norm": "norm of the loss's derivative with respect to the outputs",
    "largest log10_rms before it": "largest root mean square before it",
}
"""Names of evidence in words; the names of the others are words already."""
SHARES = {
    "underflow_fraction", "dead_fraction", "saturated_fraction", "saturated_fraction, standardised", "relative_gap",
    "decrement", "unreachable share of the loss",
}  # fmt: skip


INTENDED = ("frozen", "gated", "skipped")
"""Verdicts of notes that say what a training is meant to be; the layers that learn are no worse for it."""

ASIDE = ("frozen", "gated", "unused")
"""Verdicts of layers beside those that learn, of which a headline of no fault tells."""

KEPT = ("left out by the optimizer", "this batch", "library", "switched off", "inside a Function")
"""How causes begin of layers that have no gradient and no fault: kept by no optimizer, and so frozen in another way, or
left out by this batch, by a library's own forward, or by a factor of zero."""

MEANT = ("a part cut off", "the end of a schedule", "a branch that hardly counts")
"""Causes of notes on what may be meant and is to be looked at: no word for an illness stands above them."""

CHANGES = ("UV801", "UV802", "UV803", "UV804", "UV805")
"""Codes of changes against the training's own past. A note of one is no verdict: one batch can make a loss jump."""


def called(report: Report) -> str:
    """The word of the headline: that of the verdict, but "Healthy" where all there is to say is no fault.

    So where layers are frozen, run without gradients and are in no optimizer, or wait behind a gate, as they do in a
    fine-tuning, while others learn, where a scaler has left steps out, where this batch or a library left layers out,
    and where every layer was judged healthy and only the loss leaves a question open. "Noted" where it is a note of a
    change against the training's own past, or of what may be meant, and no layer was judged to have a fault.
    """
    kept = index(report)
    if not kept.called:
        kept.called = _called(report)
    return kept.called


def _called(report: Report) -> str:
    verdicts = {layer.verdict for layer in report.layers}
    if not report.findings or not report.healthy or "healthy" not in verdicts:
        return words(report.verdict).capitalize()
    open_questions = [f for f in report.findings if f.verdict == "undecided"]
    kept = [f for f in report.findings if f.verdict in INTENDED or (f.verdict == "unused" and f.cause.startswith(KEPT))]
    others = [f for f in report.findings if f not in kept and f not in open_questions]
    first = index(report).deciding
    if first is not None and first.code in CHANGES and verdicts <= {"healthy", *INTENDED}:
        return "Noted"
    if others or not verdicts <= {"healthy", "unused", *INTENDED}:
        meant = verdicts <= {"healthy", "underflow", *ASIDE} and all(f.cause in MEANT for f in others)
        return "Noted" if meant else words(report.verdict).capitalize()
    if not open_questions:
        return "Healthy"
    count = len(report.undecided)
    return f"Healthy; {'one question' if count == 1 else f'{count} questions'} open"


def looks_like(report: Report) -> str:
    """The verdict in whose colour the headline is set."""
    word = called(report)
    return "healthy" if word.startswith("Healthy") else "undecided" if word == "Noted" else report.verdict


def headline(report: Report) -> str:
    """The first sentence of the finding the verdict rests on; without one, what the absence of findings means."""
    first = deciding(report)
    if first is not None:
        return sentences(first)[0]
    if report.findings:
        return _no_fault(report)
    unjudged = sum(layer.verdict in ("undecided", "not_asked") for layer in report.layers)
    if not report.layers:
        return "nothing was found, but no layer was measured either."
    if unjudged:
        return f"no fault was found, but {unjudged:,} of {len(report.layers):,} layers could not be judged."
    judged = " that was judged" if any(": not judged, because" in note for note in report.notes) else ""
    return f"no fault was found; the error signal reaches every layer{judged} at a usable size{_not_looked_at(report)}."


def _not_looked_at(report: Report) -> str:
    """What a quick check leaves out, where nothing else says that it was not asked."""
    if report.setting.effort != "quick" or set(report.asked) != set(EVERYTHING):
        return ""
    return "; effort quick has not looked at what the last call can give the loss, nor at steps"


def _no_fault(report: Report) -> str:
    """That nothing is wrong with the layers that learn; what is intended, and what is open."""
    counts = Counter(layer.verdict for layer in report.layers)
    learn = counts["healthy"]
    said = f"no fault was found; the error signal reaches {'all' if learn == len(report.layers) else ''}"
    said = f"{said.rstrip()} {learn:,} {'layer that learns' if learn == 1 else 'layers that learn'} at a usable size"
    aside = [f"{counts[word]:,} {word}" for word in ASIDE if counts[word]]
    what = f" ({', '.join(aside)})" if aside else ""
    asked = "".join(f"; open: {what}: {why}" for what, why in report.undecided[:1])
    return f"{said}{what}{asked}{_not_looked_at(report)}."


def deciding(report: Report) -> Finding | None:
    """The finding the verdict rests on; None where the headline is that nothing is wrong."""
    return None if called(report).startswith("Healthy") else index(report).deciding


def sentences(finding: Finding) -> list[str]:
    """The first sentence of the message, and the rest if there is one."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", finding.message, maxsplit=1)


def beyond_headline(report: Report, finding: Finding) -> str:
    """The message, less the sentence that already stands at the top of the page."""
    return " ".join(sentences(finding)[1:]) if finding is deciding(report) else finding.message


def loss_fact(report: Report) -> str:
    """The loss, and how much of the achievable reduction remains, where that is known.

    Where one constant output would win it, there is no start to compare with, and it is always all that can be won.
    """
    loss = report.loss
    if loss is None:
        return "what is left of the loss: not known"
    gap = loss.relative_gap
    if loss.best_constant is not None and constant_wins(loss) and not has_converged(loss):
        best = number(loss.best_constant)
        return f"loss {number(loss.value)} (all of its reduction one constant output would win, to {best})"
    left = "" if gap is None else f" ({percent(gap)} of the achievable reduction remains)"
    return f"loss {number(loss.value)}{left}"


def words(verdict: str) -> str:
    """A verdict as people say it: "learning rate too large" for "lr_too_large"."""
    return verdict.replace("lr_", "learning_rate_").replace("_", " ")


def tally(layers: Sequence[LayerFlow]) -> str:
    """How many layers there are, and how many of each verdict: "20 Linear layers: 16 vanished, 4 healthy"."""
    counts = Counter(words(layer.verdict) for layer in layers).most_common()
    verdicts = counts[0][0] if len(counts) == 1 else ", ".join(f"{count:,} {word}" for word, count in counts)
    kinds = {layer.kind for layer in layers}
    kind = f"{kinds.pop()} " if len(kinds) == 1 else ""
    unmeasured = "" if any(layer.log10_signal is not None for layer in layers) else "; no error signal was measured"
    return f"{len(layers):,} {kind}{'layer' if len(layers) == 1 else 'layers'}: {verdicts}{unmeasured}"


class Said(NamedTuple):
    """One number a finding rests on, in words: what was measured, its field's name, the value, its error, the limit."""

    words: str
    field: str
    value: str
    error: str
    limit: str


def said(evidence: Evidence) -> Said:
    """The number in words; parts there is nothing to say about are empty, and so is a field that is no name."""
    name, limit = evidence.name, evidence.threshold
    words = WORDS.get(name, re.sub(r"^log10 (of )?", "", name))
    if evidence.relation == "of":
        return Said(words, "", f"{number(evidence.value)} of {number(limit)}", "", "")
    say = amount if "log10" in name else percent if name in SHARES else number
    error = "" if evidence.error is None else f"± {number(evidence.error, 2)}{' decades' if say is amount else ''}"
    field = name if words != name and name.isidentifier() else ""
    told = "" if limit is None or limit == evidence.value else f"{evidence.relation} {say(limit)}".strip()
    return Said(words, field, say(evidence.value), error, told)


def evidence_fact(evidence: Evidence) -> str:
    """The number in words, with the field's name, and the limit it was held against."""
    words, field, value, error, limit = said(evidence)
    asides = ", ".join(filter(None, (field, limit and f"limit {limit}")))
    return f"{words}: {value}" + (error and f" {error}") + (f" ({asides})" if asides else "")


def checked(report: Report) -> list[str]:
    """What was checked, and how: one fact an entry."""
    setting = report.setting
    facts = (
        f"{setting.model} with {setting.parameters:,} parameters, in {setting.mode} mode",
        f"{batch(setting.batch_size)}, {setting.dtype} on {setting.device}",
        f"autocast {setting.autocast}" if setting.autocast else "",
        loss_fact(report),
        f"optimizer {setting.optimizer}" if setting.optimizer else "",
        f"effort {setting.effort}, seed {setting.seed}",
    )
    return [fact for fact in facts if fact]


def batch(size: int) -> str:
    """How many samples were looked at, in words; a watch does not know it where the calls of a model are hidden."""
    return {0: "an unknown number of samples", 1: "1 sample"}.get(size) or f"{size:,} samples"


def places(report: Report, finding: Finding) -> str:
    """The source lines where a finding's layers are called, the first few spelled out; "" if its message has them."""
    called = {layer.name: layer.source for layer in index(report).named(finding.layers) if layer.source}
    lines = list(dict.fromkeys(called[name] for name in finding.layers if name in called))
    if not lines or lines[0] in finding.message:
        return ""
    return listing(lines)


def title(finding: Finding) -> str:
    """What the finding's rule finds, such as "vanishing gradient"; its verdict where the rule is not known here."""
    from unvanish.rules import known

    titles = {rule.code: rule.title for rule in known()}
    return titles.get(finding.code, words(finding.verdict))

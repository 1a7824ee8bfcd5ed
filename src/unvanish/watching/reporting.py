"""A run as a report: the same record, text and pictures as a check's. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from unvanish.decide import NOT_ASKED, decide
from unvanish.records import LIVE, REPEATED, Finding, Flow, Setting, UnvanishError, from_builtins
from unvanish.report import Report
from unvanish.rules import judge, rules
from unvanish.watching.carried import FOLLOWS, TOO_LARGE, handed_on
from unvanish.watching.dated import undated
from unvanish.watching.layouts import SIGNAL, laid_out, rows_of
from unvanish.watching.run_file import Reader
from unvanish.watching.sample import SERIES, Column, Sample, flow_of
from unvanish.watching.thrown import OFF
from unvanish.words.spans import named

WHAT = (
    "read off a running training at step {}: how strongly the outputs depend on each layer is asked by a check of the"
    " running batch (check_every=K), whether there is anything left to learn only by unvanish check"
)


CONVERGED = "UV809"
"""The first of the notes: it says how the others are meant."""

APART = (
    "{}: not judged, because no error signal is known where the module of a weight is not called itself (a parameter"
    " that stands alone, or that other code reads); gradient, weights and updates are in the run"
)
NOTHING_CAME = (
    "{}: not judged, because no gradient that came here was used in this step or shortly before: it took no part in the"
    " loss, its optimizer made no step, or none that is watched holds it"
)
EARLIER = "{}: as of step {}, the last sample in which an optimizer moved anything there"
LEFT_OUT = (
    "{}: not judged, because no optimizer that was seen holds it: a gradient comes, and no step moves it; if that is"
    " meant, requires_grad_(False) says so"
)
GIVEN_UP = "{}: not judged, because the model that they were a part of was given up before this step"

UNMOVED = ("UV602", "UV605")
"""Findings that say themselves why there is nothing to judge."""
LOOKS = 10
"""Samples among which the newest of each layer is shown: the optimizers of a GAN take turns, and need not alternate."""
NEWEST = "WHERE step IN (SELECT step FROM samples WHERE level = 0 ORDER BY step DESC LIMIT ?)"
AT = "WHERE step IN (SELECT step FROM samples WHERE step <= ? ORDER BY step DESC LIMIT ?)"
THINNED = "steps {} to {} were thinned: of each number of a layer this is the highest"


def report_of(file: Reader, at: int | None = None) -> Report:
    """The last sampled step, and what was found in the whole run; or a step ``at`` and what was found until then.

    Where old steps were thinned it is the stretch with that step, and a note says so. UnvanishError without a sample.
    """
    samples, last = _newest(file, at)
    columns, gone = file.columns(), set[int](file.facts.get("gone") or ())
    sample = _shown(samples, at)
    chosen = _chosen(samples, sample, gone)
    setting = from_builtins(file.facts.get("setting"), Setting)
    flow = _together([decide(flow_of(of, columns, setting, group)) for of, group in chosen], setting)
    notes = [note for note in flow.notes if not note.startswith(NOT_ASKED)]
    thinned = [THINNED.format(sample.step, last[sample.step])] if last[sample.step] > sample.step else []
    of_run = file.facts.get("notes", ())
    told = [each for _, until, each in file.findings() if until is None and each.code in UNMOVED]
    unmoved = {name for each in told for name in each.layers}
    why = dict.fromkeys(file.facts.get("left_out") or (), LEFT_OUT) | dict.fromkeys(gone, GIVEN_UP)
    why |= {at: "" for at, column in enumerate(columns) if column.name in unmoved}
    flow = flow.replace(
        notes=(
            *notes,
            *thinned,
            WHAT.format(sample.step),
            *_not_judged(sample, chosen, columns, of_run, why),
            *of_run,
        )
    )
    return Report.from_flow(flow, _all(judge(flow), file, at))


def shown(file: Reader, at: int | None = None) -> tuple[int, int, Sequence[float]]:
    """The step of ``report_of(file, at)``, the last step of its stretch, and the numbers of the whole step."""
    samples, last = _newest(file, at)
    sample = _shown(samples, at)
    return sample.step, last[sample.step], [*sample.series.values()]


def nothing_sampled(steps: int) -> str:
    """Why a run that has ended after so many steps of its optimizers has no sample."""
    if not steps:
        return "no step() of a watched optimizer was seen"
    return (
        f"of {steps:,} optimizer steps none had a gradient to go by; does loss.backward() run before each, on a loss of"
        " the model whose parameters the optimizer holds?"
    )


def _newest(file: Reader, at: int | None) -> tuple[list[Sample], dict[int, int]]:
    """The newest samples (until ``at``), the newest first; and of each the last step that it stands for."""
    rows = list(file.samples(NEWEST, (LOOKS,)) if at is None else file.samples(AT, (at, LOOKS)))[::-1]
    if not rows:
        raise UnvanishError(f"no step was sampled in {str(file.path)!r}: {nothing_sampled(file.facts.get('steps', 0))}")
    samples = [
        laid_out(Sample(step, rows_of(numbers), dict(zip(SERIES, series, strict=False))), file.facts)
        for step, _, series, _, numbers in rows
    ]
    return samples, {step: until for step, until, *_ in rows}


def _shown(samples: Sequence[Sample], at: int | None) -> Sample:
    """That at the step, or the newest with an error signal: a step that uses gradients a second time has none."""
    return samples[0] if at is not None else next((each for each in samples if _signals(each)), samples[0])


def _chosen(samples: Sequence[Sample], shown: Sample, gone: AbstractSet[int]) -> list[tuple[Sample, Sequence[int]]]:
    """Groups of layers, each in its newest of these samples; first those of the step that is shown."""
    found: list[tuple[Sample, Sequence[int]]] = [(shown, group) for group in shown.groups]
    known = {*shown.rows, *gone}
    for earlier in [each for each in samples if each.step < shown.step]:
        found += [(earlier, group) for group in earlier.groups if group and known.isdisjoint(group)]
        known |= {*earlier.rows}
    return found


def _signals(sample: Sample) -> set[int]:
    return {at for at, row in sample.rows.items() if not math.isnan(row[SIGNAL])}


def _not_judged(
    sample: Sample, chosen: Sequence[tuple[Sample, Sequence[int]]], columns: Sequence[Column], notes: Sequence[str],
    why: Mapping[int, str],
) -> list[str]:  # fmt: skip
    """Which layers are trained and yet missing in the report, and why; what a note of the run says is not said again.

    ``why``: the text for some of them by place, "" where a finding tells it.
    A step of which no signal is known at all, or in which parts lie in other processes, has a note of its own.
    """
    names = [each.name for each in columns]
    known = _signals(sample)
    if not known or any("spread over several processes" in each for each in notes):
        return []
    apart = [names[at] for at in sample.rows if at < len(names) and at not in known]
    earlier = [(group, of.step) for of, group in chosen if of is not sample]
    seen = {*sample.rows, *(at for group, _ in earlier for at in group)}
    without = [at for at, each in enumerate(columns) if not each.frozen and at not in seen]
    said = [(APART, apart)]
    for text in (LEFT_OUT, NOTHING_CAME, GIVEN_UP):
        said.append((text, [names[at] for at in without if why.get(at, NOTHING_CAME) == text]))
    return [
        *(EARLIER.format(named([names[at] for at in group], names), step) for group, step in earlier),
        *(text.format(named(those, names)) for text, those in said if those),
    ]


def last_of(file: Reader) -> Report:
    """The newer of the last full check and the last sampled step."""
    checks = file.typed("SELECT step, report FROM reports WHERE why != 'nonfinite' ORDER BY id", (int, str))
    (newest,) = file.ask("SELECT MAX(step) FROM samples WHERE level = 0")[0]
    if not checks or (newest is not None and checks[-1][0] < newest):
        return report_of(file)
    reports = [Report.from_json(text) for step, text in checks if step == checks[-1][0]]
    last = list({each.layers[0].name if each.layers else "": each for each in reports}.values())
    flow = last[0].flow if len(last) == 1 else _of_all_models([each.flow for each in last])
    return Report.from_flow(flow, _all([finding for each in last for finding in each.findings], file, checked=True))


def _of_all_models(flows: list[Flow]) -> Flow:
    """The checks before the steps of several optimizers, each of a model of its own, as one."""
    settings = [each.setting for each in flows]
    setting = settings[0].replace(
        model=" and ".join(dict.fromkeys(each.model for each in settings)),
        parameters=sum(each.parameters for each in settings),
    )
    return _together(flows, setting).replace(
        setting=setting, calls=(), time=tuple(facts for each in flows for facts in each.time)
    )


def _together(flows: list[Flow], setting: Setting) -> Flow:
    if not flows:
        return Flow(setting=setting, asked=LIVE)
    notes = tuple(dict.fromkeys(note for each in flows for note in each.notes))
    undecided = tuple(dict.fromkeys(pair for each in flows for pair in each.undecided))
    broken = next((each.nonfinite for each in flows if each.nonfinite), "")
    layers = tuple(layer for each in flows for layer in each.layers)
    return flows[0].replace(layers=layers, notes=notes, undecided=undecided, nonfinite=broken)


def _all(said: Sequence[Finding], file: Reader, at: int | None = None, checked: bool = False) -> list[Finding]:
    """What the rules have ``said`` of the last step, then what the run's own record holds beside it.

    ``checked``: the step had a full check, which has measured what earlier samples could only guess at: what these
    found and still holds is not said a second time, nor against it.
    """
    asked = {each.code for each in rules() if {*REPEATED} >= {*each.needs}}
    found = [each for each in file.findings() if at is None or each[0] <= at]
    named = any(until is None and finding.verdict == "nonfinite" for _, until, finding in found)
    # of a step that was run again the call is known, which numbers of layers cannot tell
    now = [each for each in said if not (named and each.verdict == "nonfinite")]
    held = {(each.code, each.layers): each for _, until, each in found if until is None}
    large = held.get((TOO_LARGE, ()))
    now = [handed_on(each, held.get((each.code, each.layers), each), large) for each in now]
    known = {(each.code, each.layers) for each in now}
    going_on = {
        each.code for each in now if each.code < "UV8" and each.verdict != "nonfinite"
    }  # in other layers by now
    before = [
        (until, finding.replace(
            message=f"{_when(began, until)}: {undated(finding.message)}" if finding.code < "UV8" else finding.message
        ))
        for began, until, finding in found
        if (finding.code, finding.layers) not in known
        and not (until is None and finding.code in going_on)
        and (until is None or finding.level == "error")
        and not (checked and until is None and finding.code in asked and finding.verdict != "nonfinite")
    ]  # fmt: skip
    holding = [*now, *(each for until, each in before if until is None)]
    holding = _by_their_cause(holding, any(each.verdict == "nonfinite" for each in said))
    over = [each for until, each in before if until is not None]
    return sorted([*holding, *over], key=lambda each: each.level != "error")


def _by_their_cause(found: Sequence[Finding], broken: bool) -> list[Finding]:
    """What a number that is not finite has brought about comes behind it (``broken``: there are some in the last step).

    So does what steps that are too large have, and where that is an error they are one.
    """
    follows = any(each.level == "error" and each.verdict in (*FOLLOWS, *OFF) for each in found)
    named = [each.replace(level="error") if follows and each.code == TOO_LARGE else each for each in found]
    ranks = {CONVERGED: 1, TOO_LARGE: 2}
    return sorted(named, key=lambda each: 0 if broken and each.verdict == "nonfinite" else ranks.get(each.code, 3))


def _when(began: int, until: int | None) -> str:
    return f"at step {began:,}" if until is None else f"from step {began:,}, over at step {until:,}"

"""A run as a report: the same record, text and pictures as a check's. Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from unvanish.decide import NOT_ASKED, decide
from unvanish.records import LIVE, Finding, Flow, Setting, UnvanishError, from_builtins
from unvanish.report import Report
from unvanish.rules import judge
from unvanish.watching.carried import handed_on
from unvanish.watching.run_file import Reader
from unvanish.watching.sample import FIELDS, SERIES, Column, Sample, flow_of
from unvanish.words.spans import named

WHAT = (
    "read off a running training at step {}: how strongly the outputs depend on each layer is asked by a check of the"
    " running batch (check_every=K), whether there is anything left to learn only by unvanish check"
)


STEP = re.compile(r"^(at|since) step \d+: ")
"""How a message begins that was written while the training went on."""
CONVERGED = "UV809"
"""The first of the notes: it says how the others are meant."""

APART = (
    "{}: not judged, because no error signal is known where the module of a weight is not called itself (a parameter"
    " that stands alone, or that other code reads); gradient, weights and updates are in the run"
)
NOTHING_CAME = (
    "{}: not judged, because no gradient came in this step: it took no part in the loss, or no optimizer that is"
    " watched holds it"
)
GIVEN_UP = "{}: not judged, because the model that they were a part of was given up before this step"
SIGNAL = FIELDS.index("log10_signal")

NEWEST = "WHERE step = (SELECT MAX(step) FROM samples WHERE level = 0)"
AT = "WHERE step = (SELECT MAX(step) FROM samples WHERE step <= ?)"
THINNED = "steps {} to {} were thinned: of each number of a layer this is the highest"


def report_of(file: Reader, at: int | None = None) -> Report:
    """The last sampled step, and what was found in the whole run; or a step ``at`` and what was found until then.

    Where old steps were thinned it is the stretch with that step, and a note says so. UnvanishError without a sample.
    """
    rows = list(file.samples(NEWEST) if at is None else file.samples(AT, (at,)))
    if not rows:
        raise UnvanishError(f"no step was sampled in {str(file.path)!r}: the optimizer has not made a step yet")
    columns = file.columns()
    step, last, series, _, numbers = rows[0]
    width = len(FIELDS)
    sample = Sample(step, series=dict(zip(SERIES, series, strict=False)))
    for place in range(len(numbers) // width):
        row = tuple(numbers[place * width : (place + 1) * width])
        if not all(math.isnan(value) for value in row):
            sample.rows[place] = row
    sample.order = file.facts.get("order") or sorted(sample.rows)
    sample.before = dict(file.facts.get("before") or ())
    groups = file.facts.get("groups") or [sorted(sample.rows)]
    setting = from_builtins(file.facts.get("setting"), Setting)
    flow = _together([decide(flow_of(sample, columns, setting, group)) for group in groups], setting)
    notes = [note for note in flow.notes if not note.startswith(NOT_ASKED)]
    thinned = [THINNED.format(step, last)] if last > step else []
    of_run, gone = file.facts.get("notes", ()), set(file.facts.get("gone") or ())
    flow = flow.replace(
        notes=(*notes, *thinned, WHAT.format(step), *_not_judged(sample, columns, of_run, gone), *of_run)
    )
    return Report.from_flow(flow, _all(judge(flow), file, at))


def _not_judged(sample: Sample, columns: Sequence[Column], notes: Sequence[str], gone: AbstractSet[int]) -> list[str]:
    """Which layers are trained and yet missing in the report, and why; what a note of the run says is not said again.

    A step of which no signal is known at all, or in which parts lie in other processes, has a note of its own.
    """
    names = [each.name for each in columns]
    known = {at for at, row in sample.rows.items() if not math.isnan(row[SIGNAL])}
    if not known or any("spread over several processes" in each for each in notes):
        return []
    apart = [names[at] for at in sample.rows if at < len(names) and at not in known]
    without = [at for at, each in enumerate(columns) if not each.frozen and at not in sample.rows]
    nothing = [names[at] for at in without if at not in gone]
    given_up = [names[at] for at in without if at in gone]
    said = ((APART, apart), (NOTHING_CAME, nothing), (GIVEN_UP, given_up))
    return [text.format(named(those, names)) for text, those in said if those]


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
    found = [each for each in file.findings() if at is None or each[0] <= at]
    named = any(until is None and finding.verdict == "nonfinite" for _, until, finding in found)
    # of a step that was run again the call is known, which numbers of layers cannot tell
    now = [each for each in said if not (named and each.verdict == "nonfinite")]
    held = {(each.code, each.layers): each for _, until, each in found if until is None}
    now = [handed_on(each, held.get((each.code, each.layers), each)) for each in now]
    known = {(each.code, each.layers) for each in now}
    before = [
        finding.replace(
            message=f"{_when(began, until)}: {STEP.sub('', finding.message)}"
            if finding.code < "UV8"
            else finding.message
        )
        for began, until, finding in found
        if (finding.code, finding.layers) not in known
        and (until is None or finding.level == "error")
        and not (checked and until is None and finding.code < "UV8" and finding.verdict != "nonfinite")
    ]
    return sorted([*now, *before], key=lambda each: (each.level != "error", each.code != CONVERGED))


def _when(began: int, until: int | None) -> str:
    return f"at step {began:,}" if until is None else f"from step {began:,}, over at step {until:,}"

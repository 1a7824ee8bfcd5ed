"""What the page is told of a run: the verdict now, pictures, findings and numbers; plain values for JSON."""

from __future__ import annotations

import math
from typing import Any

from unvanish.lab.outcome import Drawing, drawn_at
from unvanish.records import Finding, LayerFlow, UnvanishError
from unvanish.report import Report
from unvanish.report.sentences import headline, words
from unvanish.report.staircase import starts
from unvanish.server.view.folder import about
from unvanish.server.view.history import History
from unvanish.server.view.over_steps import heat, series, shown, speeds
from unvanish.watching.reporting import report_of
from unvanish.watching.reporting import shown as shown_step
from unvanish.watching.run_file import Reader
from unvanish.words.markup import visible
from unvanish.words.numbers import amount, number, percent, raise_powers

TABLE = (
    ("error signal", "log10_signal", amount),
    ("weight gradient", "log10_grad_norm", amount),
    ("weights", "log10_weight_norm", amount),
    ("update over weights", "update_to_weight_ratio", number),
    ("saturated", "saturated_fraction", percent),
    ("dead", "dead_fraction", percent),
    ("underflow", "underflow_fraction", percent),
)
"""The columns of the table of layers, in words; the fields of the run file."""
SAID = {"log10_grad_norm": "gradient's norm", "log10_grad_norm_clipped": "after clipping"}


def state(
    file: Reader, history: History, seen: str, at: int | None, wide: int, half: int, *, tables: bool
) -> dict[str, Any]:  # fmt: skip
    """All that the page shows of one run: of the last sampled step, or of the step ``at``.

    ``wide``, ``half``: pixels of a picture, and of one that stands beside another; ``small`` of them come last.
    ``tables``: whether the numbers of all of it are sent along, as texts; without them it is a third less.
    """
    run = about(file)
    answer: dict[str, Any] = {"run": run, "status": status(run), "findings": findings(file)}
    if run["step"] is None:
        return {**answer, "sentence": waiting(run), "tone": "quiet", "pictures": [], "steps": []}
    report = report_of(file, at)
    step, last, values = sample(file, at)
    with drawn_at(wide):
        drawings = [staircase(report, step, last), speeds(history)]
    with drawn_at(half):
        small = series(history)
    return {
        **answer,
        "sentence": sentence(report), "tone": tone(report), "step": step, "last": last, "values": values,
        "idealised": can_be_idealised(report), "heat": heat(history, seen, table=tables),
        "pictures": [shown(each, table=tables) for each in (*drawings, *small) if each is not None],
        "small": len(small), "notes": [visible(each) for each in report.notes],
        **({"layers": table(report, file)} if tables else {}),
    }  # fmt: skip


def sentence(report: Report) -> str:
    """The verdict and the sentence it rests on; a note is no verdict, but it is said."""
    said = raise_powers(visible(f"{words(report.verdict).capitalize()}: {headline(report)}"))
    if report.healthy and report.findings and report.verdict not in ("converged", "undecided"):
        return f"No fault was found. A note: {said[0].lower()}{said[1:]}"
    return said


def tone(report: Report) -> str:
    """Whether there is a fault: what the sentence says, for the colour beside it."""
    if report.healthy and report.verdict == "undecided":
        return "quiet"
    return "fine" if report.healthy else "fault"


def waiting(run: dict[str, Any]) -> str:
    """What to say while nothing was sampled."""
    if run["state"] == "running":
        return "No step was sampled yet: the optimizer has not made one."
    return "No step was sampled, and none will be: the optimizer did not make one that was seen."


def status(run: dict[str, Any]) -> str:
    """How far a run is, in a line."""
    step = "no step yet" if run["step"] is None else f"last sampled step {run['step']:,}, every {run['every']}"
    steps = run["steps"]
    made = "ended" if steps is None else f"ended after {steps:,} {'step' if steps == 1 else 'steps'}"
    state = {"running": "running", "ended": made, "lost": "its process is gone and did not end the file"}[run["state"]]
    why = f": {run['why']}" if run["why"] else ""
    parts = [f"{state}{why}", step, run["model"], run["script"], f"began {run['began']}" if run["began"] else ""]
    return visible(" · ".join(filter(None, parts)))


def findings(file: Reader) -> list[dict[str, Any]]:
    """Each finding with its steps, and the full report of a step that was run again, where there is one."""
    made = file.typed("SELECT id, step FROM reports ORDER BY id", (int, int))
    reports = {step: number for number, step in made}
    found = [finding_row(began, until, each, reports) for began, until, each in file.findings()]
    known = {each["from"] for each in found if each["report"]}
    for number_, step in made:
        if step not in known:
            found.append({"code": "", "level": "check", "from": step, "until": step, "layers": [], "report": number_,
                          "text": f"at step {step:,}: a full check"})  # fmt: skip
    return sorted(found, key=lambda each: each["from"])


def finding_row(began: int, until: int | None, finding: Finding, reports: dict[int, int]) -> dict[str, Any]:
    return {
        "code": finding.code, "level": finding.level, "from": began, "until": until,
        "layers": [visible(each) for each in finding.layers[:20]], "text": raise_powers(visible(finding.message)),
        "report": reports.get(began),
    }  # fmt: skip


def sample(file: Reader, at: int | None) -> tuple[int, int, list[dict[str, str]]]:
    """The step that is shown, the last of its stretch, and the numbers of the whole step in words."""
    from unvanish.watching.sample import SERIES

    first, last, values = shown_step(file, at)
    said: list[dict[str, str]] = []
    for name, value in zip(SERIES, values, strict=True):
        if not math.isnan(value):
            text = amount(value) if name.startswith("log10_") else number(value)
            said.append({"name": SAID.get(name, name.replace("_", " ")), "value": raise_powers(text)})
    return first, last, said


def staircase(report: Report, step: int, last: int) -> Drawing | None:
    """The error signal of every layer in one step, as a check draws it."""
    layers = report.layers
    if not layers or all(each.log10_signal is None for each in layers):
        return None
    when = f"step {step:,}" if step == last else f"steps {step:,} to {last:,}"
    return Drawing.of(
        "staircase", f"Where did the gradient go? The staircase of {when}",
        f"The error signal of each layer at {when}, from the output on the right back to the input.",
        [visible(each.name) for each in layers], [each.log10_signal for each in layers],
        [each.log10_grad_norm for each in layers], report.setting.autocast or report.setting.dtype,
        [each.verdict for each in layers], starts=starts(layers),
    )  # fmt: skip


def table(report: Report, file: Reader) -> dict[str, Any]:
    """Every number of the layers, as texts; columns in which nothing was measured are left out."""
    columns = [each for each in TABLE if any(getattr(layer, each[1]) is not None for layer in report.layers)]
    names = ["layer", "class", "verdict", *(name for name, _, _ in columns)]
    rows = [
        [visible(layer.name), visible(layer.kind), words(layer.verdict), *(_cell(layer, *each) for each in columns)]
        for layer in report.layers
    ]
    if any(layer.source for layer in report.layers):
        names.append("called at")
        rows = [[*row, visible(each.source) or "–"] for row, each in zip(rows, report.layers, strict=True)]
    judged = {layer.name for layer in report.layers}
    unseen = [visible(each.name) for each in file.columns() if each.name not in judged]
    return {"columns": names, "rows": rows, "unseen": unseen}


def _cell(layer: LayerFlow, _: str, field: str, say: Any) -> str:
    value = getattr(layer, field)
    return "–" if value is None else raise_powers(say(value))


def can_be_idealised(report: Report) -> bool:
    """Whether the lab's what-if takes this report: two layers with a signal, which at the last is a number."""
    known = [each.log10_signal for each in report.layers if each.log10_signal is not None and not each.frozen]
    return len(known) > 1 and math.isfinite(known[-1])


def report_at(file: Reader, number_: int) -> Report:
    """The full report that was made while the run went on; UnvanishError where there is none of that number."""
    rows = file.typed("SELECT report FROM reports WHERE id = ?", (str,), (number_,))
    if not rows:
        raise UnvanishError(f"the run holds no full report {number_}")
    return Report.from_json(rows[0][0])

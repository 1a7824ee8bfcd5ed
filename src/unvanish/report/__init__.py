"""The report: what was found, what it rests on, and what was not decided."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unvanish.records import (
    SCHEMA,
    Birth,
    CallFlow,
    Finding,
    Flow,
    InputFacts,
    LayerFlow,
    LossFacts,
    NextStep,
    OutputFacts,
    PairFacts,
    RateTrial,
    Record,
    Setting,
    StepFacts,
    UnvanishError,
    ZeroFacts,
    from_builtins,
    to_builtins,
)

if TYPE_CHECKING:
    from unvanish.charts import Chart

WHERE_NEEDED = ("decrement_refused", "nonfinite", "nonfinite_call", "birth", "next_step", "pairs")
"""Fields that the JSON holds only where they say something: programs that read reports have not seen them before."""

PICTURE_SUFFIXES = (".png", ".svg", ".pdf")


class Report(Record, frozen=True, kw_only=True):
    """One check of one network. ``print(report)`` shows it; ``report.save("x.json")`` keeps it.

    ``verdict`` is the word of the first finding of level "error", else of the first note, else "healthy"; ``healthy``
    says that no finding has level "error"; ``undecided`` holds pairs (what, why). It has every field of the Flow it is
    about, so that it can be judged again from its file.
    """

    schema: str = SCHEMA
    verdict: str
    healthy: bool
    findings: tuple[Finding, ...]
    layers: tuple[LayerFlow, ...]
    undecided: tuple[tuple[str, str], ...]
    calls: tuple[CallFlow, ...]
    loss: LossFacts | None
    setting: Setting
    notes: tuple[str, ...]
    zeros: tuple[ZeroFacts, ...] = ()
    step: StepFacts | None = None
    output: OutputFacts | None = None
    inputs: InputFacts | None = None
    decrement: float | None = None
    rates: tuple[RateTrial, ...] = ()
    decrement_refused: str = ""
    nonfinite: str = ""
    nonfinite_call: int | None = None
    birth: Birth | None = None
    next_step: NextStep | None = None
    pairs: PairFacts | None = None

    @classmethod
    def from_flow(cls, flow: Flow, findings: Iterable[Finding]) -> Report:
        """The report on a flow whose layers have been decided and on which the rules have spoken."""
        found = tuple(findings)
        measured = {name: getattr(flow, name) for name in Flow.__struct_fields__}
        return cls(verdict=_verdict(found), healthy=_healthy(found), findings=found, **measured)

    @property
    def flow(self) -> Flow:
        """All that was measured and decided: ``judge(report.flow)`` gives the findings again, of a saved report too."""
        return Flow(**{name: getattr(self, name) for name in Flow.__struct_fields__})

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that ``to_json`` wrote; UnvanishError if the text is no report of this schema."""
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise UnvanishError(f"reading a report: this is not valid JSON ({error})") from None
        found = cast("dict[str, Any]", data).get("schema") if isinstance(data, dict) else None
        if found != SCHEMA:
            what = f"its schema is {found!r}" if found is not None else 'it has no "schema" at the top level'
            raise UnvanishError(f"reading a report: expected a JSON object of schema {SCHEMA!r}, but {what}")
        return from_builtins(data, cls)

    def to_json(self, indent: int | None = 1) -> str:
        """ASCII JSON, the same for the same report; ``indent=None`` puts it on one line.

        Numbers that are not finite are the strings "-inf", "inf" and "nan"; null means not measured.
        """
        separators = (",", ":") if indent is None else None
        data = {
            key: value
            for key, value in to_builtins(self).items()
            if key not in WHERE_NEEDED or getattr(self, key) not in ("", None)
        }
        return json.dumps(data, indent=indent, separators=separators, allow_nan=False)

    def chart(self, name: str = "staircase", *, title: str | None = None, width: int = 620) -> Chart:
        """The picture "staircase", "plane" or "factors" of this report; a notebook shows it, ``save`` keeps it.

        ``title``: None for the question it answers, "" for none; ``width`` in pixels. UnvanishError where its numbers
        were not measured or the packages that draw are missing.
        """
        from unvanish.report.pictures import chart

        return chart(self, name, title=title, width=width)

    def save(self, path: str | Path, theme: str = "light") -> None:
        """Write the report in the format its suffix names: .json, .txt, .md, .html, .sarif, .xml (JUnit).

        With .png, .svg or .pdf it is the staircase, in the theme "light", "dark" or "print".
        """
        from unvanish.report.formats import named_by

        target = Path(path)
        if target.suffix.lower() in PICTURE_SUFFIXES:
            self.chart("staircase").save(target, theme)
        else:
            write_text(target, named_by(target, "check", "a report", *PICTURE_SUFFIXES).write(self))

    def __str__(self) -> str:
        from unvanish.report.text import render

        return render(self)

    def _repr_html_(self) -> str:
        from unvanish.report.notebook import notebook_html

        return notebook_html(self)

    # an interactive prompt shows the repr, and a page of field values would help nobody there
    __repr__ = __str__


def filter_findings(report: Report, select: Sequence[str] = (), ignore: Sequence[str] = ()) -> Report:
    """The report with only the selected findings; verdict and healthy follow from what is left.

    A code is named by a prefix: UV1 means UV101. Of two prefixes that fit, the longer decides; ``ignore`` wins a tie.
    An empty ``select`` selects everything.
    """
    found = tuple(f for f in report.findings if _fit(f.code, select or ("",)) > _fit(f.code, ignore))
    return report.replace(findings=found, verdict=_verdict(found), healthy=_healthy(found))


def write_text(path: Path, content: str | bytes) -> None:
    """Write text and a closing newline in UTF-8, or the bytes of a picture; UnvanishError where it cannot be done."""
    data = f"{content}\n".encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UnvanishError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def _verdict(findings: Sequence[Finding]) -> str:
    ordered = [f for f in findings if f.level == "error"] or findings
    return ordered[0].verdict if ordered else "healthy"


def _healthy(findings: Sequence[Finding]) -> bool:
    return all(f.level != "error" for f in findings)


def _fit(code: str, prefixes: Sequence[str]) -> int:
    return max((len(prefix) for prefix in prefixes if code.startswith(prefix.upper())), default=-1)


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is no JSON number; non-finite numbers are the strings "-inf", "inf" and "nan"')

"""The report: what was found, what it rests on, and what was not decided."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from unvanish.records import (
    SCHEMA,
    Finding,
    Flow,
    Record,
    UnvanishError,
)
from unvanish.report.saved import flattened, parts_of

if TYPE_CHECKING:
    from unvanish.charts import Chart

PICTURE_SUFFIXES = (".png", ".svg", ".pdf")


T = TypeVar("T")


class _OfFlow(Generic[T]):
    """A field of a report's Flow as an attribute of the report."""

    def __init__(self, get: Callable[[Flow], T]) -> None:
        self.get = get

    def __get__(self, report: Report, owner: object = None) -> T:
        return self.get(report.flow)


class Report(Record, frozen=True, kw_only=True, dict=True):
    """One check of one network. ``print(report)`` shows it; ``report.save("x.json")`` keeps it.

    ``verdict`` is the word of the first finding of level "error", else of the first note, else "healthy"; ``healthy``
    says that no finding has level "error"; ``undecided`` holds pairs (what, why). ``flow`` is all that was measured and
    decided, and its fields are attributes of the report, too: ``judge(report.flow)`` gives the findings again, of a
    report read from its file as well.
    """

    schema: str = SCHEMA
    flow: Flow
    findings: tuple[Finding, ...]

    layers = _OfFlow(lambda flow: flow.layers)
    undecided = _OfFlow(lambda flow: flow.undecided)
    calls = _OfFlow(lambda flow: flow.calls)
    loss = _OfFlow(lambda flow: flow.loss)
    setting = _OfFlow(lambda flow: flow.setting)
    notes = _OfFlow(lambda flow: flow.notes)
    zeros = _OfFlow(lambda flow: flow.zeros)
    step = _OfFlow(lambda flow: flow.step)
    output = _OfFlow(lambda flow: flow.output)
    inputs = _OfFlow(lambda flow: flow.inputs)
    decrement = _OfFlow(lambda flow: flow.decrement)
    rates = _OfFlow(lambda flow: flow.rates)
    decrement_refused = _OfFlow(lambda flow: flow.decrement_refused)
    nonfinite = _OfFlow(lambda flow: flow.nonfinite)
    nonfinite_call = _OfFlow(lambda flow: flow.nonfinite_call)
    next_step = _OfFlow(lambda flow: flow.next_step)
    unused = _OfFlow(lambda flow: flow.unused)
    asked = _OfFlow(lambda flow: flow.asked)
    time = _OfFlow(lambda flow: flow.time)
    pairs = _OfFlow(lambda flow: flow.pairs)
    birth = _OfFlow(lambda flow: flow.birth)
    alike = _OfFlow(lambda flow: flow.alike)
    pinned = _OfFlow(lambda flow: flow.pinned)
    across = _OfFlow(lambda flow: flow.across)
    copies = _OfFlow(lambda flow: flow.copies)
    same = _OfFlow(lambda flow: flow.same)
    functions = _OfFlow(lambda flow: flow.functions)
    labels = _OfFlow(lambda flow: flow.labels)
    bypassed = _OfFlow(lambda flow: flow.bypassed)
    stopped = _OfFlow(lambda flow: flow.stopped)

    @classmethod
    def from_flow(cls, flow: Flow, findings: Iterable[Finding]) -> Report:
        """The report on a flow whose layers have been decided and on which the rules have spoken."""
        return cls(flow=flow, findings=tuple(findings))

    @property
    def verdict(self) -> str:
        """The report in one word."""
        ordered = [f for f in self.findings if f.level == "error"] or self.findings
        return ordered[0].verdict if ordered else "healthy"

    @property
    def healthy(self) -> bool:
        """Whether no finding has level "error"."""
        return all(f.level != "error" for f in self.findings)

    def replace(self, **changes: Any) -> Report:
        """A copy with some fields, of the report or of its flow, changed."""
        inner = {name: changes.pop(name) for name in Flow.__struct_fields__ if name in changes}
        flow = changes.pop("flow", self.flow)
        return super().replace(flow=flow.replace(**inner), **changes)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that ``to_json`` wrote; UnvanishError if the text is no report of this schema."""
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise UnvanishError(f"reading a report: this is not valid JSON ({error})") from None
        schema = cast("dict[str, Any]", data).get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            what = f"its schema is {schema!r}" if schema is not None else 'it has no "schema" at the top level'
            raise UnvanishError(f"reading a report: expected a JSON object of schema {SCHEMA!r}, but {what}")
        return cls.from_flow(*parts_of(data))

    def to_json(self, indent: int | None = 1) -> str:
        """ASCII JSON, the same for the same report; ``indent=None`` puts it on one line.

        Numbers that are not finite are the strings "-inf", "inf" and "nan"; null means not measured.
        """
        separators = (",", ":") if indent is None else None
        return json.dumps(flattened(self), indent=indent, separators=separators, allow_nan=False)

    def chart(self, name: str = "staircase", *, title: str | None = None, width: int = 620) -> Chart:
        """The picture "staircase", "plane", "factors" or "through_time" of this report, for a notebook or ``save``.

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
    kept = tuple(f for f in report.findings if _fit(f.code, select or ("",)) > _fit(f.code, ignore))
    return report.replace(findings=kept)


def write_text(path: Path, content: str | bytes) -> None:
    """Write text and a closing newline in UTF-8, or the bytes of a picture; UnvanishError where it cannot be done."""
    data = f"{content}\n".encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UnvanishError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def _fit(code: str, prefixes: Sequence[str]) -> int:
    return max((len(prefix) for prefix in prefixes if code.startswith(prefix.upper())), default=-1)


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is no JSON number; non-finite numbers are the strings "-inf", "inf" and "nan"')

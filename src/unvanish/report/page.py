"""The page a text report is set on: what characters it may use, how wide it is, and how paragraphs are wrapped."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from unvanish.words.markup import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Subject = TypeVar("Subject")
NARROWEST = 40
MOST_PARTS = 20
"""Parts of a module path: of a longer one the middle is cut out, whatever stands there."""
FAULT, FINE, QUIET, STRONG = "#d55e00", "#0072b2", "dim", "bold"
STYLES = {"healthy": FINE, "converged": FINE, "gated": QUIET, "frozen": QUIET, "undecided": QUIET, "not_asked": QUIET}

ASCII = str.maketrans("▏▎▍▌▋▊▉█┊⋮×·–…▁▂▃▄▅▆▇", "---#####::x,-~_.-=+*%")
"""Stand-ins of the same width for what the layout draws; the rest is spelled out by ``clean`` beforehand."""
SPELLED = {"…": "...", "·": "-", "±": "+-", "−": "-", "–": "-", "×": "x", "√": "sqrt", "‖": "||", "≥": ">=", "≤": "<="}


class Page(NamedTuple):
    """Where a report is set: the console, the width in cells, and whether the page may use more than ASCII."""

    console: Console
    width: int
    unicode: bool

    def clean(self, text: str) -> str:
        """The text with control, invisible and (on an ASCII page) foreign characters written as escapes."""
        safe = visible(text)
        if self.unicode:
            return safe
        spelled = "".join(SPELLED.get(c, c) for c in safe)
        return spelled.encode("ascii", "backslashreplace").decode()

    def short(self, text: str, width: int, *, keep_end: bool = False) -> str:
        """The clean text in at most ``width`` cells: its middle gives way, or its beginning with ``keep_end``."""
        from rich.cells import cell_len, set_cell_size

        if cell_len(text) <= width:
            return text
        head = 0 if keep_end else (width - 1) // 2
        room = width - head - 1
        start = bisect_left(range(len(text)), -room, key=lambda place: -cell_len(text[place:]))
        return f"{set_cell_size(text, head)}…{text[start:]}"

    def path(self, name: str, width: int) -> str:
        """The clean module path in at most ``width`` cells: whole parts give way, numbers and the last one last."""
        from rich.cells import cell_len

        parts = name.split(".")
        count = len(parts)
        if cell_len(name) <= width or count > MOST_PARTS:
            return self.short(name, width)
        shorter = [
            (sum(part.isdigit() for part in parts[:start] + parts[stop:]), parts[:start], parts[stop:])
            for start in range(count)
            for stop in range(start + 1, count)
        ]
        written = [(kept, len(tail), len(head), f"{'.'.join(head)}…{'.'.join(tail)}") for kept, head, tail in shorter]
        fitting = [each for each in written if cell_len(each[-1]) <= width]
        return max(fitting)[-1] if fitting else self.short(name, width)

    def widest(self, texts: Iterable[str], least: int, most: int) -> int:
        """The cells that the longest of the texts takes, within limits."""
        from rich.cells import cell_len

        return min(max([least, *(cell_len(self.clean(text)) for text in texts)]), most)

    def print(self, *parts: tuple[str, str], label: str = "") -> None:
        """A paragraph of styled parts beside a label, wrapped; its further lines are indented by the label's width."""
        from rich.text import Text

        lines = Text.assemble(*parts).wrap(self.console, self.width - len(label))
        for place, line in enumerate(lines):
            line.rstrip()
            self.line((label if place == 0 else " " * len(label), QUIET), line)

    def facts(self, label: str, facts: Iterable[str]) -> None:
        """Clean facts one after the other; a line ends between two facts, inside one only if it is too long."""
        from rich.cells import cell_len

        lines = [label]
        for fact in facts:
            joined = lines[-1] + (" " if lines[-1] == label else " · ") + fact
            fits = cell_len(joined) <= self.width or lines[-1] == label
            lines[-1:] = [joined] if fits else [lines[-1], fact]
        for line in lines:
            self.print((line, QUIET))

    def listed(self, head: str, text: str) -> None:
        """Text beside its head, its further lines under each other; below the head where that is too long."""
        from rich.cells import cell_len

        if 2 * cell_len(head) < self.width:
            self.print((text, ""), label=f"{head}  ")
        else:
            self.print((head, QUIET), (f"  {text}", ""))

    def line(self, *parts: tuple[str, str] | Text) -> None:
        """One line as it is, neither wrapped nor cropped."""
        from rich.text import Text

        self.console.print(Text.assemble(*parts), soft_wrap=True)

    def title(self, text: str) -> None:
        self.line()
        self.print((text, STRONG))


def style_of(verdict: str) -> str:
    """The colour of a verdict, never the only sign of it."""
    return STYLES.get(verdict, QUIET if verdict == "mixed" else FAULT)


def laid_out(
    parts: Sequence[Callable[[Subject, Page], None]], subject: Subject, width: int, color: bool = False,
    unicode: bool = True,
) -> str:  # fmt: skip
    """What each part prints of the subject, on one page of ``width`` cells (40 at least)."""
    from rich.console import Console

    width, sheet = max(width, NARROWEST), io.StringIO()
    console = Console(
        file=sheet, width=width, force_terminal=color, color_system="256" if color else None, markup=False, emoji=False,
        highlight=False, legacy_windows=False, force_jupyter=False, _environ={},
    )  # fmt: skip
    page = Page(console, width, unicode)
    for part in parts:
        part(subject, page)
    return "\n".join(line.rstrip() for line in sheet.getvalue().splitlines())

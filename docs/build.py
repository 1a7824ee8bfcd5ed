"""Writes the generated pages and the generated parts of README.md. Without --example no network is built or measured.

python docs/build.py             # rules.md, glossary.md, zoo.md, and the table of costs in README.md
python docs/build.py --example   # also runs the example of README.md and writes down what it prints
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unvanish import glossary, records, report, zoo
from unvanish.rules import Rule, rules

ROOT = Path(__file__).resolve().parents[1]
COSTS = ROOT / "benchmarks" / "results" / "check_cost.json"
GENERATED = "<!-- written by docs/build.py -->"
RECORDS = (
    report.Report, records.Finding, records.Evidence, records.LayerFlow, records.CallFlow, records.LossFacts,
    records.StepFacts, records.OutputFacts, records.InputFacts, records.ZeroFacts, records.Setting, records.Flow,
)  # fmt: skip


def rules_page() -> str:
    """Every rule in the order of the report, with its documentation."""
    rows = [
        (f"[{rule.code}](#{_anchor(_heading(rule))})", rule.verdict, " or ".join(levels(rule)), rule.title)
        for rule in rules()
    ]
    verdicts = [(word, glossary.GLOSSARY[word]) for word in glossary.VERDICT_WORDS]
    return _page(
        "Rules",
        "Every finding has the code of the rule that speaks. Errors come first, then notes, both in the order of this"
        " table; only errors make a network unhealthy. `unvanish explain CODE` shows the same text.",
        _table(("code", "verdict", "level", "what it finds"), rows),
        "## Verdicts",
        _table(("verdict", "meaning"), verdicts),
        *(part for rule in rules() for part in (f"## {_heading(rule)}", *_rule(rule))),
    )


def levels(rule: Rule) -> list[str]:
    """The levels that a rule's file names."""
    text = inspect.getsource(inspect.getmodule(rule.judge) or rule.judge)
    return [level for level in ("error", "note") if f'"{level}"' in text] or ["note"]


def glossary_page() -> str:
    """Every field of every record, and the terms."""
    parts: list[str] = []
    described: set[str] = set()
    for record in RECORDS:
        fields = record.__struct_fields__
        entries = [(f"`{field}`", glossary.field_entry(record.__name__, field) or "") for field in fields]
        described |= {*fields, *(f"{record.__name__}.{field}" for field in fields)}
        parts += [f"## {record.__name__}", _prose(record.__doc__ or ""), _table(("field", "meaning"), entries)]
    terms = [
        (key, entry)
        for key, entry in glossary.GLOSSARY.items()
        if key not in described and key not in glossary.VERDICT_WORDS
    ]
    return _page(
        "Glossary",
        "The fields of the records that a report is made of, and the words it uses. In JSON the fields have the same"
        ' names; numbers that are not finite are the strings "-inf", "inf" and "nan", and null means not measured. The'
        " verdicts stand in [rules.md](rules.md).",
        "## Terms",
        _table(("term", "meaning"), sorted(terms, key=lambda row: row[0].lower())),
        *parts,
    )


def zoo_page() -> str:
    """Every network of the zoo with the verdicts that are right for it."""
    networks = [zoo.get(name) for name in zoo.names()]
    rows = [(f"`{each.name}`", each.about, ", ".join(each.expects), ", ".join(each.codes) or "–") for each in networks]
    return _page(
        "Zoo",
        f"{len(rows)} small networks whose state is known, by construction or by training them. `unvanish zoo NAME`"
        " checks one of them. *Accepted* are the verdicts that are right, *codes* the findings that name what is"
        " there.",
        _table(("network", "what it is", "accepted", "codes"), rows),
    )


def example_output(readme: str) -> str:
    """What the first Python block of README.md prints."""
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    if code is None:
        raise SystemExit("README.md has no Python block")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code[1], "README.md", "exec"), {"__name__": "example"})
    return f"```text\n{printed.getvalue().rstrip()}\n```"


def costs(path: Path = COSTS) -> str:
    """The measured costs as a table with a title; "" where they have not been measured."""
    if not path.is_file():
        return ""
    data = json.loads(path.read_text(encoding="utf-8"))
    efforts = ("quick", "auto", "full")
    rows = [
        (
            name, f"{found['step_ms']:.1f} ms", *(f"{found[f'{e}_in_steps']:.1f}" for e in efforts),
            f"{found['auto_in_step_peaks']:.1f}",
        )
        for name, found in data["networks"].items()
    ]  # fmt: skip
    machine, versions = data["machine"], data["versions"]
    return "\n\n".join((
        "## What it costs",
        "A check, in training steps (forward, backward and optimizer step) of the same network on the same batch; in"
        " the last column its peak memory, in those of a training step.",
        _table(("network", "one step", *(f"effort {e}" for e in efforts), "memory, auto"), rows),
        f"Measured on {machine['processor']}, {machine['threads']} threads, torch {versions['torch']}, by"
        " `benchmarks/check_cost.py`.",
    ))  # fmt: skip


def filled(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of this name replaced; without markers, the text as it is."""
    between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return between.sub(lambda found: f"{found[1]}{content}{chr(10) if content else ''}{found[2]}", text)


def pages() -> dict[Path, str]:
    """Every generated file with what it should hold, the example's output left as it is."""
    readme = ROOT / "README.md"
    return {
        ROOT / "docs" / "rules.md": rules_page(),
        ROOT / "docs" / "glossary.md": glossary_page(),
        ROOT / "docs" / "zoo.md": zoo_page(),
        readme: filled(readme.read_text(encoding="utf-8"), "costs", costs()),
    }


def _heading(rule: Rule) -> str:
    return f"{rule.code} {rule.title}"


def _rule(rule: Rule) -> Iterable[str]:
    yield f"Verdict `{rule.verdict}`, level {' or '.join(levels(rule))}."
    yield _prose(rule.doc)
    yield "Shown on: " + ", ".join(f"`{name}`" for name in rule.fires_on) + "."


def _prose(doc: str) -> str:
    """A docstring in Markdown: double backticks become single ones, indented paragraphs become listings."""
    paragraphs: list[str] = []
    for text in inspect.cleandoc(doc).replace("``", "`").split("\n\n"):
        if "\n " in text:
            head = [line for line in text.split("\n") if not line.startswith(" ")]
            rest = [line.strip() for line in text.split("\n") if line.startswith(" ")]
            paragraphs += [*filter(None, [" ".join(head)]), "```text\n" + "\n".join(rest) + "\n```"]
        else:
            paragraphs.append(" ".join(text.split()))
    return "\n\n".join(paragraphs)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _page(title: str, *parts: str) -> str:
    return "\n\n".join((GENERATED, f"# {title}", *parts)) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", action="store_true", help="run the example of README.md too")
    options: Any = parser.parse_args(argv)
    for path, text in pages().items():
        if options.example and path.name == "README.md":
            text = filled(text, "output:example", example_output(text))
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Starts the one file of an addition, with the tests that will hold it to its word.

    python -m tools.new rule UV799 "abrupt loss"
    python -m tools.new remedy activation-softsign "softsign in place of the hidden activations"
    python -m tools.new picture ladder "How much of the signal is left at each layer?"
    python -m tools.new experiment halves "Halves of halves"
    python -m tools.new format oneline "The verdict in one line"

Run from the top of a checkout. docs/contributing/ has a page for each kind. Nothing that exists is written over.
"""

from __future__ import annotations

import argparse
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[1]
SKELETONS = Path(__file__).resolve().parent / "skeletons"


@dataclass(frozen=True)
class Kind:
    """What a kind of addition is called, where its files lie, and what proves one.

    ``name``: what its name must look like, and in ``letters`` in words. ``proofs``: commands; $name is filled in.
    """

    folder: str
    name: str
    letters: str
    example: str
    title: str
    proofs: tuple[str, ...]


FRESH = "python docs/build.py"
KINDS = {
    "rule": Kind(
        "rules", r"UV\d{3}", "for a rule (UV and three digits)", "UV799", "what it finds",
        (FRESH, 'pytest tests/test_rules_on_zoo.py tests/test_docs.py -k "$name or fresh"'),
    ),
    "remedy": Kind(
        "remedies", r"[a-z][a-z0-9]*(-[a-z0-9.]+)*", "for a remedy (small letters, digits, - and .)",
        "activation-softsign", "what it does",
        (FRESH, 'pytest tests/test_remedies.py tests/test_remedies_code.py tests/test_docs.py -k "$name or fresh"'),
    ),
    "picture": Kind(
        "charts", r"[a-z][a-z0-9_]*", "for a picture (small letters, digits and _)", "ladder",
        "the question it answers",
        ("python docs/pictures/render.py $name", FRESH,
         'pytest tests/test_charts_drawn.py tests/test_more_charts.py tests/test_docs.py'
         ' -k "$name or fresh or every_picture"'),
    ),
    "experiment": Kind(
        "lab", r"[a-z]+", "for an experiment (small letters only)", "halves", "what it is about",
        (FRESH, 'pytest tests/test_lab.py tests/test_lab_experiments.py tests/test_docs.py -k "$name or fresh"'),
    ),
    "format": Kind(
        "report", r"[a-z][a-z0-9]*", "for a format (small letters and digits)", "oneline", "what it is",
        (FRESH, 'pytest tests/test_formats.py tests/test_docs.py -k "$name or fresh or format"'),
    ),
}  # fmt: skip


class Refusal(Exception):  # noqa: N818 - not a fault of the program
    """Why nothing was written, and what to do instead."""


def start(kind: str, name: str, title: str, root: Path = ROOT) -> Path:
    """Write the skeleton of an addition and return its path; Refusal where the name is wrong or already there."""
    what = KINDS[kind]
    if not re.fullmatch(what.name, name):
        raise Refusal(f"{name!r} is no name {what.letters}: write one such as {what.example}")
    if not title.strip() or any(each in title for each in '"\\\n'):
        raise Refusal(f"the title says {what.title}: write it as one line without quotes")
    if kind == "picture" and not title.endswith("?"):
        raise Refusal(f"a picture answers a question: {title!r} needs a question mark")
    stem = re.sub(r"\W+", "_", f"{name} {title}" if kind == "rule" else name).strip("_").lower()
    path = root / "src" / "unvanish" / what.folder / f"{stem}.py"
    taken = sorted(path.parent.glob(f"{name.lower()}_*.py")) if kind == "rule" else [path][: path.exists()]
    if taken:
        raise Refusal(f"{taken[0].relative_to(root)} is already there: choose another name, or change that file")
    function = re.sub(r"\W+", "_", title if kind == "rule" else name).strip("_").lower()
    if not function.isidentifier() or keyword.iskeyword(function):
        function = f"the_{function}"
    words = {"name": name, "title": title, "function": function, "Title": title[:1].upper() + title[1:]}
    skeleton = (SKELETONS / f"{kind}.txt").read_text(encoding="utf-8")
    path.write_text(Template(skeleton).substitute(words), encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.new", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS, help="what to add")
    parser.add_argument("name", help="the code of a rule, else its name")
    parser.add_argument("title", help="what it finds, does, asks or is, in a few words")
    args = parser.parse_args()
    try:
        path = start(args.kind, args.name, args.title)
    except Refusal as refusal:
        parser.exit(2, f"nothing was written: {refusal}\n")
    print(f"{path.relative_to(ROOT)} is to be filled in where it says FILL IN; until then its import is refused,")
    print("and every check and test with it. To give up, delete the file.")
    print("Then these must pass:")
    for command in KINDS[args.kind].proofs:
        print(f"    {Template(command).substitute(name=args.name)}")
    print("    make check")
    print(f"docs/contributing/{args.kind}.md goes through one from beginning to end.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Puts the sources of the site together: the pages of docs/, the generated ones, parts of README.md, what they link to.

The pages are written to be read in a checkout. Here their links get the addresses of the site, and pictures that follow
the reader's system follow the switch of the site.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from website import codes, interface, navigation, remedy_pages

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
ELSEWHERE = {
    "README.md": "index.md", "CONTRIBUTING.md": "contributing/index.md", "CHANGELOG.md": "changelog.md",
    "examples": "examples.md",
}  # fmt: skip
"""Where what lies outside of docs/ is found on the site."""
LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(\))")
NAMED = re.compile(r"\[([\w./-]+\.md)\](\([^)#\s]+\.md)")
"""A link whose text is the name of a file."""
PICTURE = re.compile(
    r'<picture>\s*<source media="[^"]*"\s+srcset="([^"]+)">\s*<img\s+alt="([^"]*)"\s+src="([^"]+)">\s*</picture>'
)
IMAGE = re.compile(r'<img\s+alt="([^"]*)"\s+src="([^"]+)">')
PART = re.compile(r"^<!-- README( output)?: (.+) -->$", re.MULTILINE)
"""Where a part of README.md is put in: what stands under a heading, or an output that it shows."""
ALONE = re.compile(r"(rules|remedies)\.md#(uv\d+)?([\w.-]*)")
"""A link to one code or one remedy: in a checkout a place on the page of all, on the site a page."""
MARKER = re.compile(r"^<!-- .* -->\n", re.MULTILINE)

Pages = dict[str, str]
"""Markdown by the address within the site."""


def pages() -> Pages:
    """Every page of the site, as Markdown with the links and pictures of the site."""
    found: Pages = {}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        address = path.relative_to(ROOT / "docs").as_posix()
        found[address] = _fitted(path.read_text(encoding="utf-8"), f"docs/{address}", address)
    for source in ("CONTRIBUTING.md", "CHANGELOG.md"):
        found[ELSEWHERE[source]] = _fitted((ROOT / source).read_text(encoding="utf-8"), source, ELSEWHERE[source])
    made: tuple[Callable[[], Pages], ...] = (codes.pages, remedy_pages.pages, interface.pages)
    for make in made:
        found |= make()
    found |= {"examples.md": _examples()}
    titles = {address: _title(text) for address, text in found.items()}
    found = {address: _called(text, address, titles) for address, text in found.items()}
    found["index.md"] += navigation.trees()
    found["contributing/index.md"] += navigation.below("contributing/index.md")
    return found


def stage(folder: Path) -> None:
    """Write every page, and copy every file that one of them shows or offers, into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for address, text in pages().items():
        target = folder / address
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        for file in _files(text):
            name = posixpath.normpath(posixpath.join(posixpath.dirname(address), file))
            source = ROOT / (name.removeprefix("files/") if name.startswith("files/") else f"docs/{name}")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)


def _title(text: str) -> str:
    return re.search(r"^# (.+)$", text, re.MULTILINE)[1]  # pyright: ignore[reportOptionalSubscript]


def _called(text: str, address: str, titles: Mapping[str, str]) -> str:
    """The text with links to pages called by their titles where they are called by a file's name."""

    def title(found: re.Match[str]) -> str:
        page = posixpath.normpath(posixpath.join(posixpath.dirname(address), found[2][1:]))
        return f"[{titles[page]}]{found[2]}"

    return NAMED.sub(title, text)


def _files(text: str) -> set[str]:
    """What a page shows or offers that is no page."""
    shown = re.findall(r"^:::\{image\} (\S+)$", text, re.MULTILINE)
    linked = [
        link for _, link, _, _ in LINK.findall(text) if not link.endswith(".md") and "." in posixpath.basename(link)
    ]
    return {*shown, *linked}


def _fitted(text: str, source: str, address: str) -> str:
    """A page of the checkout as a page of the site: parts of README.md put in, links and pictures rewritten."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pieces: list[str] = []
    at = 0
    for found in PART.finditer(text):
        part = output(readme, found[2]) if found[1] else section(readme, found[2])
        pieces += [_moved(text[at : found.start()], source, address), _moved(part, "README.md", address)]
        at = found.end()
    return MARKER.sub("", "".join((*pieces, _moved(text[at:], source, address))))


def section(readme: str, heading: str) -> str:
    """What stands under a heading of README.md, without the heading."""
    _, found, after = readme.partition(f"\n## {heading}\n")
    if not found:
        raise SystemExit(f"README.md has no heading {heading!r}")
    return re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)[0].strip()


def output(readme: str, name: str) -> str:
    """What README.md shows as the output of a program."""
    found = re.search(rf"<!-- output:{name} -->\n(.*?)<!-- /output:{name} -->", readme, re.DOTALL)
    if found is None:
        raise SystemExit(f"README.md shows no output {name!r}")
    return found[1].strip()


def _moved(text: str, source: str, address: str) -> str:
    """The text with links that lead from ``address`` of the site to what they name from ``source`` of the checkout."""

    def target(link: str) -> str:
        named = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        there = ELSEWHERE.get(named) or (named.removeprefix("docs/") if named.startswith("docs/") else f"files/{named}")
        return posixpath.relpath(there, posixpath.dirname(address) or ".")

    text = LINK.sub(lambda found: f"{found[1]}{_alone(target(found[2]) + (found[3] or ''))}{found[4]}", text)
    text = PICTURE.sub(lambda found: _themed(target(found[3]), target(found[1]), found[2]), text)
    return IMAGE.sub(lambda found: _image(target(found[2]), found[1]), text)


def _alone(link: str) -> str:
    """The link, or the page of the one code or remedy that it leads to."""
    found = ALONE.search(link)
    if not found or (found[1] == "rules" and not found[2]):
        return link
    page = f"codes/{found[2].upper()}.md" if found[2] else f"remedies/{found[3]}.md"
    return link[: found.start()] + page


def _themed(light: str, dark: str, alt: str) -> str:
    return _image(light, alt, "only-light") + "\n\n" + _image(dark, alt, "only-dark")


def _image(path: str, alt: str, kind: str = "") -> str:
    """A picture in a box of its own, in which a narrow page scrolls it sideways instead of making its texts tiny.

    Where there is a narrow drawing beside it, a narrow page shows that one.
    """
    said = " ".join(alt.split()).replace("&quot;", '"')
    stem, _, theme = path.rpartition("-")
    narrow = f"{stem}-narrow-{theme}"
    both = {"wide": path, "narrow": narrow} if (PICTURES / posixpath.basename(narrow)).is_file() else {"": path}
    boxes = ((" ".join(filter(None, ("picture", size, kind))), file) for size, file in both.items())
    return "\n\n".join(
        f"::::{{container}} {names}\n:::{{image}} {file}\n:alt: {said}\n:::\n::::" for names, file in boxes
    )


def _examples() -> str:
    """The scripts of examples/, each with its own first sentence."""
    paths = [path for path in sorted((ROOT / "examples").iterdir()) if path.suffix in (".py", ".toml", ".yml")]
    parts = [
        "# Examples",
        "Programs and grids of the folder `examples`, each of which a test runs. A click saves the file.",
        *(f"- [{path.name}](files/examples/{path.name}): {_first_sentence(path)}" for path in paths),
    ]
    return "\n\n".join(parts) + "\n"


def _first_sentence(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        head = text.split('"""')[1]
    else:
        head = " ".join(line.lstrip("# ") for line in re.match(r"(?:#.*\n)*", text)[0].splitlines())  # pyright: ignore[reportOptionalSubscript]
    return " ".join(re.split(r"(?<=[.?])\s", " ".join(head.split()) + " ")[0].split())

"""The site of the documentation: it builds without a warning, is whole, and loads nothing from another host."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import open_page

from unvanish.remedies import remedies
from unvanish.rules import known

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("sphinx", "furo", "myst_parser", "latex2mathml")
LOADING = {
    "img": ("src", "srcset"), "script": ("src",), "iframe": ("src",), "source": ("src", "srcset"), "object": ("data",),
    "embed": ("src",), "video": ("src", "poster"), "audio": ("src",), "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}  # fmt: skip
FOREIGN = re.compile(r"^\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)


class Page(HTMLParser):
    """What one page loads, where its links lead, and which places of it can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("index", "search", "next", "prev", "canonical"):
            self.loads.append(given["href"])
        self.loads += [given[name] for name in LOADING.get(tag, ()) if name in given]


@cache
def read(path: Path) -> Page:
    return Page(path)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages."""
    for tool in TOOLS:
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"the site is built with {tool}, which is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs" / "website" / "make.py"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return out / "html"


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_a_warning_fails_the_build() -> None:
    text = (ROOT / "docs" / "website" / "make.py").read_text(encoding="utf-8")
    assert '"-W"' in text and "suppress_warnings" not in (ROOT / "docs" / "website" / "conf.py").read_text("utf-8")


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loaded = {(page.name, address) for page in pages(site) for address in read(page).loads}
    assert loaded and not [each for each in loaded if FOREIGN.match(each[1])]
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        named = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", text)
        assert not [each for each in named if FOREIGN.match("".join(each))], style


def test_what_is_loaded_is_there(site: Path) -> None:
    for page in pages(site):
        for address in read(page).loads:
            if not address.startswith(("data:", "#")):
                assert (page.parent / unquote(urlsplit(address).path)).is_file(), f"{page.name}: {address}"


def test_every_narrow_drawing_is_on_a_page_beside_the_wide_one(site: Path) -> None:
    narrow = {path.name for path in (ROOT / "docs" / "pictures").glob("*-narrow-*.svg")}
    shown = [{Path(address).name for address in read(page).loads} for page in pages(site)]
    assert narrow and narrow <= set().union(*shown)
    assert all(each.replace("-narrow", "") in on_page for on_page in shown for each in on_page & narrow)


def test_every_link_within_the_site_leads_to_a_place(site: Path) -> None:
    for page in pages(site):
        for address in read(page).links:
            there = urlsplit(address)
            if there.scheme or there.netloc:
                continue
            target = (page.parent / unquote(there.path)).resolve() if there.path else page
            assert target.is_file(), f"{page.relative_to(site)} leads to {address}"
            if there.fragment and target.suffix == ".html" and page.name not in ("genindex.html", "search.html"):
                assert unquote(there.fragment) in read(target).places, f"{page.relative_to(site)} leads to {address}"


def test_every_page_can_be_reached_from_the_first(site: Path) -> None:
    reached, left = {site / "index.html"}, [site / "index.html"]
    while left:
        page = left.pop()
        links = (urlsplit(address) for address in read(page).links)
        inside = {(page.parent / unquote(each.path)).resolve() for each in links if each.path and not each.netloc}
        new = {each for each in inside if each.suffix == ".html" and each.is_file()} - reached
        reached |= new
        left += new
    assert {page.resolve() for page in pages(site)} - reached - {(site / "search.html").resolve()} == set()


def test_every_code_has_a_page_with_an_example_that_shows_it(site: Path) -> None:
    for each in known():
        text = (site / "codes" / f"{each.code}.html").read_text(encoding="utf-8")
        assert each.title.replace("'", "’") in text.replace("'", "’").replace("&#39;", "’")
        (_, _, example) = text.partition("What it looks like")
        assert each.code in re.sub(r"<[^>]+>", "", example.partition("<h2>")[0])


def test_every_remedy_has_a_page_with_its_measurements_and_its_code(site: Path) -> None:
    for each in remedies():
        text = (site / "remedies" / f"{each.slug}.html").read_text(encoding="utf-8")
        for heading in ("What it does", "Where it helps", "Where it does not help", "What the benchmark found"):
            assert f"<h2>{heading}" in text
        assert "The code it writes" in text and "highlight-python" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1280])
def test_pages_fit_their_window_and_ask_nobody(site: Path, width: int, scheme: str) -> None:
    with open_page(width=width, scheme=scheme) as page:
        for name in ("index", "quick-start", "theory", "codes/UV101", "remedies/batchnorm", "performance", "api"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.goto((site / "index.html").as_uri())
        shown = "[...document.querySelectorAll('.picture img')].filter(each => each.offsetWidth)"
        size = "-narrow" if width < 600 else ""
        assert page.evaluate(f"{shown}.map(each => each.getAttribute('src'))") == [
            f"_images/two-runs{size}-{scheme}.svg"
        ]
        assert page.evaluate(f"{shown}.every(each => each.offsetWidth >= each.naturalWidth)"), (
            "its texts are as large as drawn"
        )


def test_the_search_works_without_a_server_or_a_network(site: Path) -> None:
    with open_page() as page:
        page.goto(f"{(site / 'search.html').as_uri()}?q=vanishing+gradient")
        page.wait_for_selector("#search-results li a")
        assert page.locator("#search-results li a").count() > 3

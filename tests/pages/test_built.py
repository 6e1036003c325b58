"""The built pages: every link leads somewhere, and nothing is fetched from elsewhere.

These run after the build in `make test`; without a built book they are skipped.
"""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
PAGES = sorted(p for folder in ("book", "notebooks") for p in (HTML / folder).glob("*.html"))

pytestmark = [
    pytest.mark.built,
    pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="no built book: `make book`"),
]

# Attributes that make a browser fetch something as the page opens.
FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("link", "href"),
    ("iframe", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
    ("object", "data"),
    ("embed", "src"),
}
# Relations of <link> that are fetched; the others are mere pointers.
RELATIONS = {"stylesheet", "icon", "shortcut icon", "preload", "prefetch", "modulepreload"}


class Page(HTMLParser):
    """Links, ids and fetched addresses of one page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.fetched, self.images = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if values.get("id"):
            self.ids.append(values["id"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)
        for name, value in attributes:
            pointer = tag == "link" and values.get("rel", "").lower() not in RELATIONS
            if (tag, name) in FETCHED and value and not pointer:
                self.fetched.append(value)


@cache
def parsed(path):
    """A page, read once."""
    return Page(path.read_text(encoding="utf-8"))


def external(address):
    """Whether an address leads off this machine."""
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https", "ftp")


def missing(page, address):
    """Why a local address of a page leads nowhere; None where it does lead somewhere."""
    parts = urlsplit(address)
    if external(address) or parts.scheme in ("mailto", "data", "javascript"):
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file():
        return f"{address}: no such file"
    anchor = unquote(parts.fragment)
    if anchor and target.suffix == ".html" and anchor not in parsed(target).ids:
        return f"{address}: no such place in {target.name}"
    return None


def test_every_chapter_was_built():
    chapters = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert chapters <= {p.stem for p in PAGES}
    assert {"index", "claims", "glossary", "reproduce", "references"} <= {p.stem for p in PAGES}


def test_the_front_door_leads_to_the_first_page():
    text = (HTML / "index.html").read_text(encoding="utf-8")
    (target,) = re.findall(r"url=([^\"]+)\"", text)
    assert (HTML / target).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    addresses = dict.fromkeys(parsed(page).links + parsed(page).fetched)
    assert [text for address in addresses if (text := missing(page, address))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_ids_are_unique(page):
    ids = parsed(page).ids
    assert sorted({name for name in ids if ids.count(name) > 1}) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_nothing_is_fetched_from_elsewhere(page):
    assert [address for address in parsed(page).fetched if external(address)] == []


def test_stylesheets_fetch_nothing_from_elsewhere():
    found = []
    for sheet in HTML.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8", errors="replace")
        hits = re.findall(
            r"(?:@import|url\()\s*(?:url\()?[\"']?\s*((?:https?:)?//[^\"')\s]+)", text
        )
        found += [f"{sheet.name}: {hit}" for hit in hits]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_have_an_alt_text(page):
    named = [image for image in parsed(page).images if not (image.get("alt") or "").strip()]
    # An alt text that is a path is what Sphinx writes where none was given.
    pathlike = [i for i in parsed(page).images if re.search(r"\.(png|svg)$", i.get("alt") or "")]
    assert [image.get("src") for image in named + pathlike] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_unresolved_markup_is_shown(page):
    text = re.sub(
        r"<(script|pre|code)\b.*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.S
    )
    shown = re.sub(r"<[^>]+>", " ", text)
    assert re.findall(r"\{[a-z]+(?::[a-z]+)?\}`|:::\{\w+|\{\{\s*\w+", shown) == []


# ------------------------------------------------------------------- negative controls


def test_link_check_sees_what_is_missing(tmp_path):
    page = tmp_path / "a.html"
    page.write_text('<a href="b.html#x">b</a><p id="here">', encoding="utf-8")
    (tmp_path / "b.html").write_text('<p id="y">', encoding="utf-8")
    assert missing(page, "#here") is None
    assert missing(page, "b.html#y") is None
    assert "no such place" in missing(page, "b.html#x")
    assert "no such place" in missing(page, "#gone")
    assert "no such file" in missing(page, "c.html")


def test_fetch_check_sees_what_is_external():
    page = Page(
        '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" href="//x/y.css">'
        '<link rel="canonical" href="https://example.org"><a href="https://example.org">'
    )
    assert [a for a in page.fetched if external(a)] == ["https://cdn.example/x.js", "//x/y.css"]

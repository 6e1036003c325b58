"""The built pages in a browser that has no network: light and dark, on a phone and on a desk.

Runs after the build in `make test`; skipped, with the reason, where there is no Chromium or no
built book.
"""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
PAGES = sorted(p for folder in ("book", "notebooks") for p in (HTML / folder).glob("*.html"))
CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
PHONE, DESK = 390, 1400
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHECKS = Path(__file__).with_name("browser_checks.js")
# Contrast that WCAG 2 asks of text in AA.
LEAST_CONTRAST = 4.5

pytestmark = [
    pytest.mark.built,
    pytest.mark.browser,
    pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="no built book: `make book`"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH"),
]


@pytest.fixture(scope="module")
def browser():
    """A Chromium without network."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


class Visit:
    """One page, opened, with everything that went wrong meanwhile."""

    def __init__(self, browser, path, scheme, settle):
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": DESK, "height": 900}, offline=True
        )
        self.complaints, self.requests = [], []
        self.context.add_init_script(path=CHECKS)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "requestfailed", lambda request: self.complaints.append(f"failed {request.url}")
        )
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("console", self.listen)
        self.page.goto(path.as_uri(), wait_until="load")
        if settle:
            self.settle()

    def listen(self, message):
        """Keep what the page's console says of errors."""
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def check(self, name, *arguments):
        """What one of the checks in browser_checks.js says of the page as it stands."""
        return self.page.evaluate(f"([...a]) => kvChecks.{name}(...a)", list(arguments))

    def settle(self):
        """Wait until MathJax has set every formula and the lazy pictures are there."""
        self.page.evaluate(
            "() => window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 1) : 1"
        )
        self.page.evaluate(
            "() => { for (const i of document.images) i.loading = 'eager';"
            " return Promise.all([...document.images].map(i => i.decode().catch(() => 0))); }"
        )

    def resize(self, width):
        """Another width of the window."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.wait_for_timeout(150)


@pytest.fixture
def visit(browser):
    """Open pages, and close them in the end."""
    opened = []

    def open_page(path, scheme="light", settle=True):
        opened.append(Visit(browser, path, scheme, settle))
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()


def formulas(path):
    """Number of formulas in a page's source."""
    text = path.read_text(encoding="utf-8")
    return len(re.findall(r'class="[^"]*\bmath (?:notranslate nohighlight|[^"]*)"', text))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page(visit, path, scheme):
    seen = visit(path, scheme)
    page = seen.page
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    if formulas(path):
        assert page.locator("mjx-container").count() > 0
    assert page.locator("mjx-merror").count() == 0
    assert page.locator(".math:not(:has(mjx-container))").count() == 0
    images = seen.check("images")
    assert [image for image in images if not image["loaded"] or not image["alt"].strip()] == []
    assert seen.check("contrast", LEAST_CONTRAST) == []
    for width in (DESK, PHONE):
        seen.resize(width)
        assert seen.check("overflow") == {"page": 0, "elements": []}, f"at {width} px"
    assert [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert seen.complaints == []


def test_front_door_opens_the_book(visit):
    # The page leaves for another one by itself, so there is nothing to wait for on it.
    seen = visit(HTML / "index.html", settle=False)
    seen.page.wait_for_url("**/book/index.html")
    assert seen.page.locator(".bd-article h1").count() == 1


def test_search_works_without_network(visit):
    seen = visit(HTML / "search.html")
    seen.page.goto((HTML / "search.html").as_uri() + "?q=quantizer")
    seen.page.wait_for_selector("#search-results li", timeout=10_000)
    assert [url for url in seen.requests if url.startswith("http")] == []


# ------------------------------------------------------------------- negative controls


def test_the_checks_see_a_bad_page(visit, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><html data-theme='light'><body><main><div class='bd-article'>"
        "<p style='width: 2000px'>wide</p><p style='color: #ddd'>faint</p>"
        "<img src='gone.png' alt=''><script>throw new Error('broken')</script>"
        "<script src='https://cdn.example/x.js'></script></div></main></body></html>",
        encoding="utf-8",
    )
    seen = visit(bad)
    seen.resize(PHONE)
    assert seen.check("overflow")["page"] > 0
    assert len(seen.check("contrast", LEAST_CONTRAST)) == 1
    assert [image["loaded"] for image in seen.check("images")] == [False]
    assert any(text.startswith("script: broken") for text in seen.complaints)
    assert any("gone.png" in text for text in seen.complaints)
    assert any("cdn.example" in text for text in seen.complaints)

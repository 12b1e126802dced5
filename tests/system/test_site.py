"""The documentation site: built with every link checked, and looked at in a browser."""

import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.browser import FAINT, needs_browser

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SOURCES = ("Makefile", "mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
MORE = ("CITATION.cff", "LICENSE", "docs", "examples", "benchmarks")

if not (BIN / "zensical").exists():
    pytest.skip("zensical is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for name in (*SOURCES, *MORE):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


def build(folder):
    installed = ".venv/.installed-dev"
    line = ["make", "docs", f"BIN={BIN}", f"--old-file={installed}", "--no-print-directory"]
    (folder / ".venv").mkdir(exist_ok=True)
    (folder / installed).touch()
    return subprocess.run(line, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(copy):
    done = build(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    return copy / "build" / "site"


@pytest.fixture(scope="module")
def address(site):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Article(HTMLParser):
    """The levels of a page's headings, and its images without a text."""

    def __init__(self, text):
        super().__init__()
        self.levels, self.silent, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside |= tag == "article"
        if self.inside and tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.levels.append(int(tag[1]))
        if self.inside and tag == "img" and not dict(attributes).get("alt"):
            self.silent.append(dict(attributes)["src"])

    def handle_endtag(self, tag):
        self.inside &= tag != "article"


def test_the_site_is_built(site):
    assert "Three commands for your adapter" in (site / "index.html").read_text(encoding="utf-8")
    for page in ("tutorial", "how-to", "concepts", "merging", "reference/options"):
        assert (site / "docs" / page / "index.html").is_file()


def test_headings_are_in_order_and_pictures_have_a_text(site):
    pages = sorted(site.rglob("index.html"))
    assert len(pages) > 90
    for page in pages:
        article, name = Article(page.read_text(encoding="utf-8")), page.relative_to(site)
        assert article.levels[0] == 1, name
        assert article.levels.count(1) == 1, name
        steps = zip(article.levels, article.levels[1:], strict=False)
        assert all(after <= before + 1 for before, after in steps), name
        assert article.silent == [], name


@needs_browser
@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("", "light"),
        ("", "dark"),
        ("docs/reference/options/", "light"),
        ("examples/gemma/", "dark"),
    ],
)
def test_pages_can_be_read_on_a_phone(page, address, path, scheme):
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.goto(address + path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(FAINT) == []
    assert [url for url in page.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert page.said == []
    if path.endswith("options/"):
        third = "[...document.querySelectorAll('article td:nth-child(3)')]"
        widths = page.evaluate(f"{third}.map((td) => [td.clientWidth, td.parentNode.clientWidth])")
        assert all(width >= row - 2 for width, row in widths), (
            "what an option does has its own line"
        )
    if not path:
        picture = page.locator("article picture img")
        assert f"before-after-narrow-{scheme}" in picture.evaluate("(image) => image.currentSrc")


def test_the_search_knows_decisions_by_their_index(site):
    items = json.loads((site / "search.json").read_text(encoding="utf-8"))["items"]
    found = {item["location"].partition("#")[0] for item in items}
    assert {"docs/merging/", "docs/decisions/"} <= found
    assert not [place for place in found if place.startswith("docs/decisions/") and place[15:]]
    assert (site / "docs" / "decisions" / "plots" / "index.html").exists()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_large_screen_has_navigation_and_search(page, address, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(address + "docs/merging/")
    assert page.evaluate(FAINT) == []
    assert page.locator("a.md-nav__link--active:visible").inner_text() == "Merging"
    footer = page.locator(".md-footer__link").all_inner_texts()
    assert ["Training" in footer[0], "An adapter for each language" in footer[1]] == [True, True]
    page.keyboard.press("Control+k")
    page.get_by_label("Search").and_(page.locator("input:visible")).fill("preserve")
    page.get_by_role("status").filter(has_text="results").wait_for()
    assert page.said == []


@pytest.mark.parametrize("link", ["nowhere.md", "merging.md#nothing"])
def test_a_broken_link_is_found(copy, site, link):
    tutorial = copy / "docs" / "tutorial.md"
    before = tutorial.read_text(encoding="utf-8")
    tutorial.write_text(f"{before}\n[broken]({link})\n", encoding="utf-8")
    assert build(copy).returncode != 0
    tutorial.write_text(before, encoding="utf-8")

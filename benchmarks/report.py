"""The size of a report page with many examples, and its speed in a browser.

python benchmarks/report.py --examples 60000
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.records import write_evaluation

from adaptermix.reports.page import report
from adaptermix.settings.reports import ReportSettings

SYSTEMS = ("base", "task", "align", "merged")
LANGS = [f"l{number}" for number in range(20)]


def main() -> None:
    """Create the page, open it and filter it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=60_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder) / "eval", arguments.examples)
        started = time.perf_counter()
        page = Path(folder) / "report.html"
        summary = report([Path(folder) / "eval"], ReportSettings(out=page))
        print(f"{summary.examples:,} examples of {len(SYSTEMS)} systems")
        print(f"made in {time.perf_counter() - started:.1f} s, {summary.bytes / 1e6:.1f} MB")
        browse(page)


def write_examples(folder: Path, count: int) -> None:
    """Write an evaluation with texts of random words, 9 per prompt and 4 per answer."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(20_000)]
    examples = {
        lang: [" ".join(rng.choices(words, k=9)) for _ in range(count // len(LANGS))]
        for lang in LANGS
    }

    def answer(system: int, number: int) -> str:
        return "time: five" if rng.random() < system / 4 else " ".join(rng.choices(words, k=4))

    write_evaluation(folder, examples, systems=SYSTEMS, answer=answer)


def browse(path: Path) -> None:
    """Open the page and time the actions of a reader."""
    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("#list .row")
        print(f"unpacked and shown in {page.evaluate('document.body.dataset.loadMs')} ms")
        acts = {
            "mended": lambda: page.select_option("#filter-show", "fixed"),
            "first search": lambda: page.fill("#filter-search", "abc"),
            "next search": lambda: page.fill("#filter-search", "abcd"),
        }
        for name, act in acts.items():
            before = page.inner_text("#count")
            act()
            expect(page.locator("#count")).not_to_have_text(before)
            print(f"{name}: {page.evaluate('document.body.dataset.filterMs')} ms")
        print(f"longest frame while scrolling: {scroll(page):.0f} ms")
        browser.close()


def scroll(page: Page) -> float:
    """Scroll through the list in 60 jumps and return the longest frame time, in ms."""
    return float(
        page.evaluate(
            """async () => {
              const list = document.getElementById('list');
              const frame = () => new Promise(requestAnimationFrame);
              let last = await frame(), longest = 0;
              for (let step = 0; step < 60; step++) {
                list.scrollTop = list.scrollHeight * step / 60;
                const now = await frame();
                longest = Math.max(longest, now - last);
                last = now;
              }
              return longest;
            }"""
        )
    )


if __name__ == "__main__":
    main()

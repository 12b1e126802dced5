"""The documentation site is built from the pages, with every link among them checked."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SOURCES = ("Makefile", "mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
MORE = ("CITATION.cff", "LICENSE", "docs", "examples", "benchmarks")

if not (BIN / "zensical").exists():
    pytest.skip("zensical is not installed", allow_module_level=True)


@pytest.fixture
def copy(tmp_path):
    for name in (*SOURCES, *MORE):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def build(folder):
    installed = ".venv/.installed-dev"
    line = ["make", "docs", f"BIN={BIN}", f"--old-file={installed}", "--no-print-directory"]
    (folder / ".venv").mkdir(exist_ok=True)
    (folder / installed).touch()
    return subprocess.run(line, cwd=folder, capture_output=True, text=True)


def test_the_site_is_built(copy):
    done = build(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    site = copy / "build" / "site"
    assert "Three commands for your adapter" in (site / "index.html").read_text(encoding="utf-8")
    for page in ("tutorial", "how-to", "concepts", "merging", "reference/options"):
        assert (site / "docs" / page / "index.html").is_file()


@pytest.mark.parametrize("link", ["nowhere.md", "merging.md#nothing"])
def test_a_broken_link_is_found(copy, link):
    with (copy / "docs" / "tutorial.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[broken]({link})\n")
    assert build(copy).returncode != 0

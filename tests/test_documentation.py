"""What the documentation tells to type and to write is understood."""

import inspect
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from adaptermix.cli.main import program
from adaptermix.commands.catalog import sections
from adaptermix.commands.settings_file import load_settings
from adaptermix.evaluation.comparison import ALL, Comparison
from adaptermix.evaluation.report import EvalReport
from adaptermix.merging.report import MergeReport
from adaptermix.merging.weights import read_weighting
from adaptermix.recipes.recipe import read_recipe
from adaptermix.retrieval.report import RetrievalReport
from adaptermix.search.record import SearchReport
from adaptermix.tasks.custom import load_task_file

app = program()

ROOT = Path(__file__).parents[1]
WITHOUT_LINES = ("architecture", "concepts", "exit-codes", "loaders", "mutants", "python")
GUIDES = [page for page in sorted(ROOT.glob("docs/*.md")) if page.stem not in WITHOUT_LINES]
PAGES = [ROOT / "README.md", *GUIDES, *sorted(ROOT.glob("examples/*/README.md"))]
WRITTEN = ("*.md", "benchmarks/*.md", "docs/**/*.md", "examples/*/README.md")
MARKDOWN = [page for pattern in WRITTEN for page in sorted(ROOT.glob(pattern))]
SETTINGS = sections()
PROGRAM = typer.main.get_command(app)


def lines_of(page):
    """Yield every command line, written on a line of its own or between backticks."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^    (adaptermix [^#\n]+)|`(adaptermix [a-z][^`]+)`", text, re.M):
        yield " ".join((found[1] or found[2]).split())


def examples_of(command):
    """Yield the examples at the end of a command's help."""
    text = inspect.getdoc(command.callback) or command.help
    for part in re.findall(r"(?:^ +|Example: )(adaptermix (?:\\\n|.)+)", text, re.M):
        yield " ".join(part.replace("\\\n", " ").split())


def understand(line):
    """Parse a line as the shell and the program do, and check the settings that it makes."""
    command, words = PROGRAM, shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    given = command.make_context(command.name, words).params
    if command.name in SETTINGS:
        kind = SETTINGS[command.name]
        stated = {n: v for n, v in given.items() if n in kind.model_fields and v not in (None, [])}
        load_settings(kind, stated)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_of_a_page_is_understood(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = list(lines_of(page))
    assert lines
    for line in lines:
        understand(line)


@pytest.mark.parametrize("name", [name for name in PROGRAM.commands if name in SETTINGS])
def test_every_example_in_the_help_is_understood(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = list(examples_of(PROGRAM.commands[name]))
    assert lines
    for line in lines:
        understand(line)


def leaves(command, words=()):
    """Yield the words of every command that has no commands below it."""
    if not hasattr(command, "commands"):
        yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from leaves(below, (*words, name))


@pytest.mark.parametrize("words", [(), *leaves(PROGRAM)], ids=" ".join)
def test_help_fits_80_columns_and_its_examples_can_be_pasted(words):
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}).stdout
    assert shown
    assert "…" not in shown
    assert "<" not in shown.replace("<|eot_id|>", "")  # the names of types in Python
    lines = [line.strip() for line in shown.splitlines()]
    starts = [line for line in lines if line.startswith("adaptermix ")]
    following = [lines[lines.index(line) + 1] for line in starts if not line.endswith("\\")]
    assert all(line == "" or line.startswith("adaptermix ") for line in following), shown


@pytest.mark.parametrize("line", ["adaptermix merge a b --wieght 1", "adaptermix eval --limit 0"])
def test_a_line_with_a_slip_is_not(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="wieght|limit"):
        understand(line)


def files_in(page, tmp_path):
    """Write every TOML file of a page, and return where."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    paths = [tmp_path / f"{Path(page).stem}-{number}.toml" for number in range(len(blocks))]
    for path, block in zip(paths, blocks, strict=True):
        path.write_text(block, encoding="utf-8")
    return paths


def test_every_file_in_a_page_can_be_read(tmp_path):
    """Settings, a recipe, weights and a task of one's own."""
    (readme,), (settings,) = files_in("README.md", tmp_path), files_in("docs/training.md", tmp_path)
    assert load_settings(SETTINGS["eval"], {}, readme).langs == ("en", "de", "es", "cy", "sw")
    assert load_settings(SETTINGS["train-task"], {}, settings).langs == ("en", "de", "es")
    (weights,), (recipe,) = (
        files_in("docs/merging.md", tmp_path),
        files_in("docs/recipes.md", tmp_path),
    )
    assert len(read_weighting(weights, 2).rules) == 2
    assert [step.name for step in read_recipe(recipe).steps] == ["task", "align", "merged", "test"]
    (task,) = files_in("docs/evaluation.md", tmp_path)
    assert load_task_file(task).name == "intent"
    task, settings = files_in("docs/tutorial.md", tmp_path)
    task.rename(tmp_path / "intent.toml")
    tested = load_settings(SETTINGS["eval"], {}, settings)
    assert load_task_file(Path(tested.task)).name == "intent"
    assert tested.langs == ("en", "de", "cy")


def test_every_key_in_the_page_of_json_outputs_is_in_a_record():
    page = (ROOT / "docs/json.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?m)^\| key \|.*\n\|---\|---\|\n((?:\|.*\n)+)", page)
    records = (EvalReport, MergeReport, SearchReport, RetrievalReport)
    assert len(tables) == len(records)
    for table, record in zip(tables, records, strict=True):
        keys = [
            key for row in table.splitlines() for key in re.findall("`(.+?)`", row.split("|")[1])
        ]
        assert keys
        assert [key for key in keys if key not in {f.name for f in fields(record)}] == []
    values = {*(f.name for f in fields(Comparison)), ALL}
    (row,) = re.findall(r"\| `comparisons` \| (.+)", page)
    assert [key for key in re.findall("`(.+?)`", row) if key not in values] == []


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_module_in_a_page_exists(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!\w+:)([^)#]+)", text)
    modules = re.findall(r"\badaptermix/[\w/]+\.py", text)
    places = [page.parent / link for link in links] + [ROOT / module for module in modules]
    assert [str(place) for place in places if not place.exists()] == []

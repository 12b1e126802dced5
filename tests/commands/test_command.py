"""A command is a value: added to the catalog, it is everywhere where commands are."""

import importlib
import inspect
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import jsonschema
import pytest
from pydantic import Field
from typer.testing import CliRunner

from adaptermix.cli.main import program
from adaptermix.cli.progress import RecipeWatcher
from adaptermix.cli.reference import options_page, reference
from adaptermix.commands.catalog import COMMANDS
from adaptermix.commands.command import Call, Command
from adaptermix.commands.merging import MERGE
from adaptermix.commands.schema import recipe_schema, settings_schema
from adaptermix.commands.settings_file import load_settings
from adaptermix.errors import ConfigError
from adaptermix.files.outputs import Report
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.merging import MergeSettings, SearchSettings
from adaptermix.settings.shared import Settings
from adaptermix.tables import View

ROOT = Path(__file__).parents[2]
TOML_FILES = sorted(
    path
    for folder in ("examples", "adaptermix")
    for path in ROOT.glob(f"{folder}/**/*.toml")
    # Numbers: tests/reports/test_published.py; a task: tests/system/test_gemma_example.py.
    if path.name != "published.toml" and not path.name.endswith("-task.toml")
)


@pytest.fixture(scope="module")
def validators():
    schemas = {"settings": settings_schema(), "recipe": recipe_schema()}
    return {name: jsonschema.Draft202012Validator(schema) for name, schema in schemas.items()}


class GreetSettings(Settings):
    section: ClassVar[str] = "greet"

    name: str = Field(default="world", description="Whom to greet.")
    words: Path | None = Field(default=None, description="File with the words to greet with.")


@dataclass(frozen=True)
class Greeting(Report):
    text: str

    def view(self):
        return View([self.text])


def greet(call):
    """Greet somebody.

    Example: adaptermix greet --name Ann
    """
    words = call.settings.words
    return Greeting(f"{words.read_text() if words else 'hello'} {call.settings.name}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the command's file of words, where the command is in the catalog."""
    command = Command(GreetSettings, greet, output=".json", can_dry_run=False, shows_progress=False)
    monkeypatch.setitem(COMMANDS, "greet", command)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").write_text("good day")
    program.cache_clear()
    yield tmp_path
    program.cache_clear()


def run(*line):
    done = CliRunner().invoke(program(), line, catch_exceptions=False, standalone_mode=False)
    assert done.exit_code == 0
    return done.stdout


def test_it_is_on_the_command_line(folder, capsys):
    assert "hello Ann" in run("greet", "--name", "Ann")
    assert json.loads(run("greet", "--words", "words", "--json")) == {"text": "good day world"}
    told = run("greet", "--help")
    assert all(part in told for part in ("Greet somebody", "--name", "Whom to greet", "--words"))
    assert "Greet somebody" in run("--help")


def test_it_has_a_section_in_the_settings_file(folder):
    file = folder / "project" / "adaptermix.toml"
    file.parent.mkdir()
    file.write_text('[greet]\nname = "Ben"\nwords = "words"\n')
    settings = load_settings(GreetSettings, {}, file)
    assert (settings.name, settings.words) == ("Ben", file.with_name("words"))
    file.write_text('[greet]\nname = "Ben"\nnmae = "Ann"\n')
    with pytest.raises(ConfigError, match=r"toml:3: unknown key 'nmae' in \[greet\]"):
        load_settings(GreetSettings, {}, file)


def test_it_is_a_step_of_a_recipe(folder):
    recipe = '[hi]\ncommand = "greet"\nname = "Ann"\nwords = "words"\n'
    (folder / "recipe.toml").write_text(recipe)
    assert "greet" in run("run", "recipe.toml", "--dry-run")
    assert not (folder / "runs").exists()
    run("run", "recipe.toml", "--quiet")
    made = json.loads((folder / "runs" / "recipe" / "hi.json").read_text())
    assert made == {"text": "good day Ann"}


def test_it_is_in_the_schemas_and_the_reference(folder):
    keys = settings_schema()["properties"]["greet"]["properties"]
    assert keys["name"]["description"] == "Whom to greet."
    step = {"command": "greet", "name": "Ann", "words": "words"}
    jsonschema.validate({"hi": step}, recipe_schema())
    jsonschema.validate({"greet": {"name": "Ann"}}, settings_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"hi": step | {"nmae": "Ann"}}, recipe_schema())
    page = options_page()
    assert "## adaptermix greet\n" in page
    assert "| `--name` | world | Whom to greet. |" in page


def test_the_written_reference_is_that_of_the_commands():
    folder = ROOT / "docs" / "reference"
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    fix = "write it again: python -m adaptermix.cli.reference docs/reference"
    assert written == reference(), fix


@pytest.mark.parametrize("path", TOML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_toml_files_fit_their_schema_and_a_slip_does_not(path, validators):
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    validator = validators["settings" if path.name == "adaptermix.toml" else "recipe"]
    validator.validate(content)
    slips = [{**content, "sede": 1}]
    for name, table in content.items():
        if isinstance(table, dict):
            slips.append({**content, name: {**table, "sede": 1}})
    assert not any(validator.is_valid(slip) for slip in slips)


def test_a_search_and_a_step_of_a_recipe_say_what_looks_like_a_slip(capsys):
    own = SearchSettings(search="auto", task="my.toml")
    assert "uses the languages of massive" in MERGE.remark(own)
    assert MERGE.remark(MergeSettings(weight=0.5)) is None
    assert MERGE.remark(SearchSettings(search="auto", task="my.toml", langs="en")) is None
    step = SimpleNamespace(name="search", command=MERGE, settings=own)
    watcher = RecipeWatcher(quiet=False, json=False)
    watcher.begin(1, 2, step, is_finished=True)
    assert "languages of massive" not in capsys.readouterr().err
    watcher.begin(1, 2, step, is_finished=False)
    assert "languages of massive" in " ".join(capsys.readouterr().err.split())


def test_joint_steps_are_counted_where_task_and_pairs_have_the_same_names():
    command = COMMANDS["train-joint"]
    langs, pairs = ("cs-en", "en-cs"), ("cs-en",)
    settings = command.settings(task="wmt23", langs=langs, pairs=pairs, epochs=1, batch_size=32)
    size = command.size(Call(settings), {"cs-en": 100, "en-cs": 60})
    assert size == {"planned_steps": 10}  # 160 examples and 160 pairs


FAMILY = {"search": "0.5", "per_language": True, "out": Path("family")}
SMALL = {"langs": ("en", "cy"), "data_dir": Path("d")}
# The function that does the work of a command, and settings with which it does.
DONE_BY = [
    ("train-task", "training.task.train_task", {}),
    ("train-align", "training.align.train_align", {}),
    ("train-joint", "training.joint.train_joint", {}),
    ("merge", "merging.merge.merge", {"weight": 0.5}),
    ("merge", "merging.fold.merge_into", {"weight": 0.5, "into": "base"}),
    ("merge", "search.run.search", {"search": "auto"}),
    ("merge", "search.run.plan_search", {"search": "auto"}),
    ("merge", "search.by_language.search_by_language", FAMILY),
    ("merge", "search.by_language.plan_by_language", FAMILY),
    ("eval", "evaluation.evaluate.evaluate", {}),
    ("eval", "evaluation.evaluate.plan", {}),
    ("score", "evaluation.score.score_files", {}),
    ("inspect", "adapters.inspection.inspect", {}),
    ("export", "export.export.export", {}),
    ("retrieval", "retrieval.analysis.analyze", SMALL),
    ("retrieval", "retrieval.analysis.plan", SMALL),
    ("report", "reports.page.report", {}),
]


def test_every_command_is_done_by_a_function():
    assert {name for name, _, _ in DONE_BY} == COMMANDS.keys()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("name", "place", "changes"), DONE_BY)
def test_what_is_asked_of_a_command_reaches_the_function_that_does_it(
    monkeypatch, name, place, changes, force
):
    """The settings, the inputs, and whatever else it takes."""
    module, _, function = f"adaptermix.{place}".rpartition(".")
    signature = inspect.signature(getattr(importlib.import_module(module), function))
    asked = []
    monkeypatch.setattr(
        f"{module}.{function}", lambda *a, **o: asked.append(signature.bind(*a, **o).arguments)
    )
    command = COMMANDS[name]
    is_planned = function.startswith("plan") or (force and "dry_run" in signature.parameters)
    settings = command.settings.for_keys(changes)(**changes)
    call = Call(settings, [Path("a"), Path("b")], force, is_planned, lambda progress: None)
    command.run(call)
    (given,) = asked
    assert any(value is settings for value in given.values())
    assert command.argument is None or call.inputs in given.values()
    for flag in ("force", "dry_run", "on_progress"):
        if flag in signature.parameters:
            assert given.get(flag) == getattr(call, flag), flag


@pytest.mark.parametrize(
    ("settings", "extra"),
    [
        ({}, "eval"),
        ({"task": "lm-eval:a"}, "lm-eval"),
        ({"server": ("http://h",)}, "server"),
    ],
    ids=str,
)
def test_a_command_needs_the_packages_of_what_it_is_asked(monkeypatch, settings, extra):
    wanted = []
    monkeypatch.setattr("adaptermix.commands.command.require_extra", wanted.append)
    COMMANDS["eval"].require(EvalSettings(**settings))
    assert wanted == [extra]

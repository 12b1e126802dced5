"""Folders that reports export to: what they may replace, and when they are written again."""

import shutil
from dataclasses import dataclass, replace

import pytest
from helpers.records import write_evaluation

from adaptermix.commands.catalog import COMMANDS
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.files.outputs import NotedReport, whole_output
from adaptermix.recipes.plan import plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import run
from adaptermix.tables import View

PAGE = '[{}]\ncommand = "report"\nruns = ["old"]\n'


@dataclass(frozen=True)
class Written(NotedReport):
    def view(self):
        return View([])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a run; reports are a line of text, and so is what they export."""

    def write(call):
        if call.settings.export is not None:
            with whole_output(call.settings.export) as partial:
                partial.mkdir()
                (partial / "plot.svg").write_text(call.settings.title)
        with whole_output(call.settings.out) as partial:
            partial.write_text(call.settings.title)
        return Written()

    monkeypatch.setitem(COMMANDS, "report", replace(COMMANDS["report"], run=write))
    write_evaluation(tmp_path / "old", {"en": ["hello"]})
    return tmp_path


def recipe_of(folder, text):
    path = folder / "recipe.toml"
    path.write_text(text)
    return read_recipe(path)


def statuses(report):
    return {step.name: step.status for step in report.steps}


@pytest.mark.parametrize(
    ("export", "words"),
    [
        (".", "contains "),
        ("..", "contains "),
        ("runs", "contains "),
        ("runs/recipe", "contains "),
        ("old", "old, which is named at "),
        ("runs/recipe/other", "is written by the step other, too"),
        ("runs/recipe/page.html/x", "is written by the step page, too"),
        ("runs/recipe/other.search", "is named like outputs of the step other"),
    ],
)
def test_an_export_that_would_replace_the_recipe_its_inputs_or_outputs_is_refused(
    folder, export, words
):
    other = '[other]\ncommand = "eval"\nlangs = ["en"]\n'
    with pytest.raises(ConfigError) as caught:
        recipe_of(folder, f'{PAGE.format("page")}export = "{export}"\n{other}')
    assert caught.value.message.startswith(f"{folder}/recipe.toml:4: [page] export: ")
    assert words in caught.value.message


def test_two_reports_do_not_export_to_one_folder(folder):
    for path in ("figs", "figs/of-b"):
        text = f'{PAGE.format("a")}export = "figs"\n{PAGE.format("b")}export = "{path}"\n'
        with pytest.raises(ConfigError, match=r"toml:8: \[b\] export: .*by the step a, too"):
            recipe_of(folder, text)
    with pytest.raises(ConfigError, match=r"\[b\] export: .*by the step a, too"):
        recipe_of(folder, f'export = "figs"\n{PAGE.format("a")}{PAGE.format("b")}')


def test_a_folder_of_the_user_is_not_replaced_by_an_export(folder):
    (folder / "figs").mkdir()
    (folder / "figs" / "notes.txt").write_text("mine")
    recipe = recipe_of(folder, f'{PAGE.format("page")}export = "figs"\n')
    (problem,) = plan(recipe).problems
    words = r"recipe.toml:4: \[page\] export: .*figs exists, and was not made by this step"
    with pytest.raises(ArtifactError, match=words) as caught:
        run(recipe)
    assert problem.message == caught.value.message
    assert (folder / "figs" / "notes.txt").read_text() == "mine"
    assert plan(recipe, force=True).problems == []
    run(recipe, force=True)
    assert [path.name for path in (folder / "figs").iterdir()] == ["plot.svg"]


def test_a_recipe_replaces_its_own_export_unless_the_user_added_to_it(folder):
    text = f'{PAGE.format("page")}export = "figs"\ntitle = "one"\n'
    run(recipe_of(folder, text))
    assert statuses(run(recipe_of(folder, text.replace("one", "two")))) == {"page": "done"}
    assert (folder / "figs" / "plot.svg").read_text() == "two"
    (folder / "figs" / "notes.txt").write_text("mine")
    assert statuses(run(recipe_of(folder, text.replace("one", "two")))) == {"page": "done before"}
    with pytest.raises(ArtifactError, match="figs exists, and has changed since this step"):
        run(recipe_of(folder, text))
    assert (folder / "figs" / "notes.txt").read_text() == "mine"


def test_a_finished_report_runs_again_for_a_new_or_missing_export(folder):
    text = PAGE.format("page")
    run(recipe_of(folder, text))
    for more in ('export = "figs"\n', 'export = "others"\n'):
        assert statuses(run(recipe_of(folder, text + more))) == {"page": "done"}
        assert statuses(run(recipe_of(folder, text + more))) == {"page": "done before"}
    assert (folder / "others" / "plot.svg").is_file()
    shutil.rmtree(folder / "others")
    assert statuses(run(recipe_of(folder, text + more))) == {"page": "done"}
    assert statuses(run(recipe_of(folder, text))) == {"page": "done before"}

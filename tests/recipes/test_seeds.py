"""Steps with several seeds: what they are expanded to, and what refers to them."""

import json
import shutil

import jsonschema
import pytest
from helpers.adapters import peft_adapter
from typer.testing import CliRunner

from adaptermix.cli.main import program
from adaptermix.commands.schema import recipe_schema
from adaptermix.errors import ConfigError
from adaptermix.recipes.plan import plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import run
from adaptermix.recipes.step import Overrides

CHAIN = """
[task]
command = "train-task"
langs = ["en"]
seeds = [1, 2]

[align]
command = "train-align"
seeds = [1, 2]

[merged]
command = "merge"
adapters = ["@task", "@align"]
search = "0.5,0.9"

[again]
command = "merge"
adapters = ["@merged", "x/y"]
weights-file = "@merged.search/weights.toml"

[on-task]
command = "train-align"
on = ["@task=0.5"]
seed = 7

[test]
command = "eval"
adapters = ["@task", "@merged", "@again", "bought/adapter"]

[page]
command = "report"
runs = ["@test", "@merged.search"]
"""


def read(folder, text, **values):
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path, overrides=Overrides(values))


def settings_of(recipe):
    return {step.name: step.settings for step in recipe.steps}


def test_a_step_is_made_for_each_seed_and_for_what_builds_on_it(tmp_path):
    recipe = read(tmp_path, CHAIN)
    out = tmp_path / "runs" / "recipe"
    seeded = ("task", "align", "merged", "again", "on-task")
    names = [f"{name}-seed-{seed}" for name in seeded for seed in (1, 2)]
    assert {step.name for step in recipe.steps} == {*names, "test", "page"}
    made = settings_of(recipe)
    steps = {step.name: step for step in recipe.steps}
    for seed in (1, 2):
        assert made[f"task-seed-{seed}"].seed == made[f"align-seed-{seed}"].seed == seed
        merged = steps[f"merged-seed-{seed}"]
        assert merged.inputs == tuple(
            str(out / f"{name}-seed-{seed}.safetensors") for name in ("task", "align")
        )
        assert merged.settings.seed == 1, "it has no seeds of its own"
        weights = out / f"merged-seed-{seed}.search" / "weights.toml"
        assert made[f"again-seed-{seed}"].weights_file == weights
        assert made[f"on-task-seed-{seed}"].on == (f"{out / f'task-seed-{seed}.safetensors'}=0.5",)
        assert made[f"on-task-seed-{seed}"].seed == 7


def test_what_reads_results_takes_all_seeds(tmp_path):
    recipe = read(tmp_path, CHAIN)
    steps = {step.name: step for step in recipe.steps}
    out = tmp_path / "runs" / "recipe"
    names = [f"{name}-seed-{seed}" for name in ("task", "merged", "again") for seed in (1, 2)]
    adapters = [*(str(out / f"{name}.safetensors") for name in names), "bought/adapter"]
    assert list(steps["test"].settings.adapters) == adapters
    assert steps["page"].inputs == tuple(
        str(out / name) for name in ("test", "merged-seed-1.search", "merged-seed-2.search")
    )
    assert set(steps["test"].needs) == {*names}


def test_an_export_is_made_of_each_seed(tmp_path):
    recipe = read(tmp_path, CHAIN + '[gguf]\ncommand = "export"\nadapters = ["@merged"]\n')
    steps = {step.name: step for step in recipe.steps}
    for seed in (1, 2):
        (merged,) = steps[f"gguf-seed-{seed}"].inputs
        assert merged == str(recipe.out / f"merged-seed-{seed}.safetensors")


def test_adapters_as_text_are_those_of_a_list(tmp_path):
    text = CHAIN.replace('["@task", "@merged", "@again", "bought/adapter"]', '"@task, @merged"')
    (test,) = (step for step in read(tmp_path, text).steps if step.name == "test")
    names = [f"{name}-seed-{seed}" for name in ("task", "merged") for seed in (1, 2)]
    out = tmp_path / "runs" / "recipe"
    assert test.settings.adapters == tuple(str(out / f"{name}.safetensors") for name in names)
    assert {*test.needs} == {*names}
    top = text.replace('adapters = "@task, @merged"\n', "")
    (same,) = (
        step
        for step in read(tmp_path, f'adapters = "@task, @merged"\n{top}').steps
        if step.name == "test"
    )
    assert same.settings.adapters == test.settings.adapters


def test_seeds_at_the_top_are_those_of_trainings_without_a_seed(tmp_path):
    text = 'seeds = [3, 4]\n[a]\ncommand = "train-task"\n[b]\ncommand = "train-task"\nseed = 9\n'
    text += '[m]\ncommand = "merge"\nadapters = ["x/y"]\nweights = [1]\n'
    assert {n: s.seed for n, s in settings_of(read(tmp_path, text)).items()} == {
        "a-seed-3": 3,
        "a-seed-4": 4,
        "b": 9,
        "m": 1,
    }
    of_merge = text.replace("weights = [1]", "weights = [1]\nseeds = [5]")
    assert settings_of(read(tmp_path, of_merge))["m-seed-5"].seed == 5


def test_the_command_line_sets_seeds_for_all_or_for_one(tmp_path):
    text = '[a]\ncommand = "train-task"\n[b]\ncommand = "train-task"\n'
    assert {*settings_of(read(tmp_path, text, seeds="1,2"))} == {
        f"{name}-seed-{seed}" for name in "ab" for seed in (1, 2)
    }
    assert {*settings_of(read(tmp_path, text, **{"b.seeds": "5"}))} == {"a", "b-seed-5"}
    made = settings_of(
        read(tmp_path, text, **{"seeds": "1,2", "a.rank": "4", "a-seed-2.rank": "3"})
    )
    assert [made[f"a-seed-{seed}"].rank for seed in (1, 2)] == [4, 3]
    assert made["b-seed-1"].rank == 8


def test_seeds_of_the_command_line_take_the_place_of_a_seed(tmp_path):
    text = '[a]\ncommand = "train-task"\nseed = 9\n'
    made = settings_of(read(tmp_path, text, **{"a.seeds": "1,2"}))
    assert {name: settings.seed for name, settings in made.items()} == {
        "a-seed-1": 1,
        "a-seed-2": 2,
    }


def test_one_of_the_seeds_can_be_named(tmp_path):
    recipe = read(tmp_path, CHAIN + '[one]\ncommand = "eval"\nadapters = ["@task-seed-2"]\n')
    one = recipe.with_needs("one")
    assert [step.name for step in one.steps] == ["task-seed-2", "one"]
    both = recipe.with_needs("task")
    assert [step.name for step in both.steps] == ["task-seed-1", "task-seed-2"]
    assert plan(recipe, only="task", force=True).steps[1].status == "to do"


def test_a_plan_names_seeds_together_and_a_problem_once(tmp_path):
    text = CHAIN.replace('langs = ["en"]', 'langs = ["en"]\ndata-dir = "nowhere"')
    recipe = read(tmp_path, text)
    (table, _) = plan(recipe).view().shown
    after = {row[0]: row[3] for row in table.rows}
    names = ("task", "merged", "again")
    assert after["test"] == ", ".join(f"{name}-seed-1, 2" for name in names)
    assert after["page"] == "test, merged-seed-1, 2"
    assert after["merged-seed-2"] == "task-seed-2, align-seed-2"
    line = ["run", str(recipe.path), "--dry-run", "--only", "task"]
    done = CliRunner().invoke(program(), line)
    assert done.output.count("data-dir: no such file or folder") == 1
    assert done.exit_code == 4


def test_each_hint_of_a_plan_is_printed_once(tmp_path):
    step = 'command = "train-task"\nlangs = ["en"]\ndata-dir = "nowhere"\n'
    (tmp_path / "recipe.toml").write_text(f"[one]\n{step}[two]\n{step}")
    done = CliRunner().invoke(program(), ["run", str(tmp_path / "recipe.toml"), "--dry-run"])
    assert done.output.count("data-dir: no such file or folder") > 1
    assert done.output.count("hint: adaptermix data check ") == 1
    assert f"datacheck{tmp_path / 'recipe.toml'}prints" in "".join(done.output.split())


BUILDS = '[m]\ncommand = "merge"\nadapters = ["@a", "@b"]\nweight = 1\n'
MISTAKES = {
    "no list": ("seeds = []", 3, "seeds: expected whole numbers"),
    "no number": ('seeds = [1, "x"]', 3, "seeds: expected whole numbers"),
    "below zero": ("seeds = [-1]", 3, "seeds: expected whole numbers"),
    "true": ("seeds = [true]", 3, "seeds: expected whole numbers"),
    "twice": ("seeds = [1, 1]", 3, "seeds: a seed is listed twice"),
    "both": ("seed = 1\nseeds = [1, 2]", 4, "seeds: the step also has 'seed'"),
    "wrong step": ('seeds = [1]\n[t]\ncommand = "eval"\nseeds = [1]', 6, "unknown key 'seeds'"),
    "name is taken": (
        'seeds = [1]\n[a-seed-1]\ncommand = "train-task"',
        3,
        "already a step [a-seed-1]",
    ),
    "others": (
        f'seeds = [1, 2]\n[b]\ncommand = "train-task"\nseeds = [1]\n{BUILDS}',
        *(9, "adapters: @b has the seeds 1, but @a has 1, 2"),
    ),
    "not its own": (
        f'seeds = [1, 2]\n[b]\ncommand = "train-task"\n{BUILDS}seeds = [2]',
        *(8, "adapters: @a has the seeds 1, 2, but seeds has 2"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_file_and_line(tmp_path, name):
    more, line, words = MISTAKES[name]
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f'[a]\ncommand = "train-task"\n{more}\n')
    assert words in caught.value.message
    assert caught.value.message.startswith(f"{tmp_path / 'recipe.toml'}:{line}: ")


def test_a_mistake_in_the_seeds_of_the_command_line_is_named(tmp_path):
    text = '[a]\ncommand = "train-task"\n'
    for values, words in (
        ({"seeds": ""}, "--set seeds: expected whole numbers"),
        ({"a.seeds": "x"}, "--set a.seeds: expected whole numbers"),
        ({"seeds": "1,2", "seed": "3"}, r"--set seed: \[a\] has several seeds"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(tmp_path, text, **values)


def test_an_error_in_a_step_with_seeds_names_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"toml:4: \[a-seed-1\] rank: must be greater"):
        read(tmp_path, '[a]\ncommand = "train-task"\nseeds = [1]\nrank = 0\n')


def test_the_schema_takes_seeds_where_there_is_a_seed():
    schema = recipe_schema()
    step = {"command": "train-task", "seeds": [1, 2]}
    jsonschema.validate({"seeds": [1], "a": step}, schema)
    merge = {"command": "merge", "adapters": ["x"], "seeds": [3]}
    jsonschema.validate({"a": merge}, schema)
    for wrong in ({"command": "eval", "seeds": [1]}, step | {"seeds": [1, 1]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"a": wrong}, schema)


def test_merges_of_several_seeds_run_and_are_not_run_again(tmp_path, model_dir):
    for seed, name in enumerate(("one", "two")):
        peft_adapter(model_dir, tmp_path / name, seed=seed)
    text = """
[m]
command = "merge"
adapters = ["one", "two"]
weight = 0.5
method = "dare"
density = 0.5
seeds = [1, 2]

[whole]
command = "merge"
adapters = ["@m", "two"]
weight = 0.5
"""
    recipe = read(tmp_path, text)
    report = run(recipe)
    names = [f"{name}-seed-{seed}" for name in ("m", "whole") for seed in (1, 2)]
    assert sorted(step.name for step in report.steps) == names
    outputs = {step.out.read_bytes() for step in recipe.steps}
    assert len(outputs) == 4, "each seed draws other samples"
    more = read(tmp_path, text.replace("[1, 2]", "[1, 2, 3]"))
    done = {step.name: step.status for step in run(more).steps}
    assert {name for name, status in done.items() if status == "done"} == {
        "m-seed-3",
        "whole-seed-3",
    }
    assert {"m-seed-3", "m-seed-1"} <= json.loads((recipe.out / "steps.json").read_text())[
        "steps"
    ].keys()
    shutil.rmtree(recipe.out)


def test_of_a_base_the_seeds_that_are_needed_are_taken(tmp_path):
    (tmp_path / "base.toml").write_text('seeds = [1, 2]\n[a]\ncommand = "train-task"\n')
    text = 'base = "base.toml"\n[t]\ncommand = "eval"\nadapters = ["@a"]\n'
    assert [step.name for step in read(tmp_path, text).steps] == ["a-seed-1", "a-seed-2", "t"]
    one = read(tmp_path, text.replace("@a", "@a-seed-2"))
    assert [step.name for step in one.steps] == ["a-seed-2", "t"]


def test_a_plan_looks_at_the_seeds_of_a_step_once(tmp_path, monkeypatch):
    """A look loads a tokenizer and reads the data; it would be the same for each seed."""
    asked = []

    def look(step, *, is_ready):
        asked.append((step.name, is_ready))
        return {"examples": {step.settings.langs[0]: step.settings.limit}}

    monkeypatch.setattr("adaptermix.recipes.plan.costs", look)
    step = '[{}]\ncommand = "train-task"\nlangs = ["{}"]\nlimit = 7\nmodel = "."\n'
    text = "seeds = [1, 2, 3]\n" + "".join(map(step.format, ("a", "b", "c"), ("en", "en", "de")))
    steps = plan(read(tmp_path, text)).steps
    assert asked == [("a-seed-1", True), ("c-seed-1", True)]
    assert [step.cost["examples"] for step in steps] == 6 * [{"en": 7}] + 3 * [{"de": 7}]

"""Recipes as they are written: what is read out of the file, and what is refused, and where."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaptermix.cli import main as cli
from adaptermix.cli.main import program
from adaptermix.commands.catalog import COMMANDS
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, DataError
from adaptermix.recipes import plan as pipeline
from adaptermix.recipes.keys import step_key
from adaptermix.recipes.plan import plan
from adaptermix.recipes.recipe import _trial, read_recipe
from adaptermix.recipes.run import run
from adaptermix.recipes.step import Overrides
from adaptermix.settings.shared import keys_of
from adaptermix.tasks.custom import load_task_file

app = program()

INSPECT = 'command = "inspect"\nadapters = ["@a"]\n'
FAMILY = """\
[a]
command = "merge"
adapters = ["x/y", "x/z"]
search = "0.7"
per-language = true
"""


def write(folder, text, name="recipe.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def train(name="a", more=""):
    return f'[{name}]\ncommand = "train-task"\nlangs = ["en"]\n{more}'


def test_steps_take_keys_at_the_top_and_outputs_of_others(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "bought.safetensors").touch()
    path = write(
        tmp_path,
        'model = "x/y"\ndata-dir = "data"\nseed = 3\nout = "o"\nmax-new-tokens = 9\n'
        + '[test]\ncommand = "eval"\nmodel = "@whole"\nadapters = ["@m", "bought.safetensors"]\n'
        + '[whole]\ncommand = "merge"\nadapters = ["@a"]\nweights = [1]\ninto = "x/y"\n'
        + '[m]\ncommand = "merge"\nadapters = ["@a", "them/theirs"]\n'
        + 'weights-file = "@a.search/weights.toml"\n'
        + train(more='dtype = "float32"\nseed = 4\n'),
    )
    recipe = read_recipe(path)
    assert [step.name for step in recipe.steps] == ["a", "whole", "m", "test"]
    a, whole, m, test = recipe.steps
    out = tmp_path / "o"
    assert (a.settings.model, a.settings.seed, a.settings.dtype) == ("x/y", 4, "float32")
    assert (a.out, a.settings.out, a.settings.data_dir) == (
        *[out / "a.safetensors"] * 2,
        tmp_path / "data",
    )
    assert (m.settings.seed, m.needs) == (3, ("a",))
    assert m.inputs == (str(out / "a.safetensors"), "them/theirs")
    assert m.settings.weights_file == out / "a.search" / "weights.toml"
    assert whole.out == out / "whole"
    assert test.settings.model == str(out / "whole")
    assert test.settings.adapters == (
        str(out / "m.safetensors"),
        str(tmp_path / "bought.safetensors"),
    )
    assert (test.out, test.settings.max_new_tokens) == (out / "test", 9)
    assert read_recipe(path, tmp_path / "p").steps[0].out == tmp_path / "p" / "a.safetensors"


def test_tables_at_the_top_are_settings_unless_they_have_a_command(tmp_path):
    text = 'engine-args = {seed = 1}\n[t]\ncommand = "eval"\n[groups]\nmine = ["cy"]\n'
    text += '[columns]\ncommand = "eval"\n'
    steps = read_recipe(write(tmp_path, text)).steps
    assert [step.name for step in steps] == ["t", "columns"]
    for step in steps:
        assert step.settings.engine_args == {"seed": 1}
        assert step.settings.groups == {"mine": ("cy",)}


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    text = 'out = "~/runs"\n' + train(more='data-dir = "~/data"\non = ["~/a=0.5", "~b/c"]\n')
    recipe = read_recipe(write(tmp_path, text))
    (step,) = recipe.steps
    assert (recipe.out, step.settings.data_dir) == (tmp_path / "runs", tmp_path / "data")
    assert step.settings.on[0] == f"{tmp_path / 'a'}=0.5"
    base = write(tmp_path, 'data-dir = "data"\n', "base.toml")
    (step,) = read_recipe(write(tmp_path, f'base = "~/{base.name}"\n{train()}')).steps
    assert step.settings.data_dir == tmp_path / "data"
    files = '[files]\ntest = "~/{lang}.csv"\n'
    task = 'name = "t"\nprompt = "{a}"\nanswer = "b"\nmetrics = ["exact-match"]\n'
    read = load_task_file(write(tmp_path, task + files, "task.toml"))
    assert read.files["test"] == str(tmp_path / "{lang}.csv")


def test_keys_at_the_top_and_of_a_trial_are_not_noted_as_unused(tmp_path):
    text = 'task = "massive"\nlangs = ["en"]\n[a]\ncommand = "train-task"\nchat = "c.jsonl"\n'
    text += '[b]\ncommand = "train-joint"\n[d]\ncommand = "train-task"\nchat = "c.jsonl"\n'
    text += 'task = "uner"\n[c]\ncommand = "train-joint"\nprompt = "paper"\n'
    path = write(tmp_path, f'{text}chat = "c.jsonl"\n')
    for limit in (None, 8):
        steps = read_recipe(path, overrides=Overrides(limit=limit)).steps
        notes = [step.command.remark(step.settings) for step in steps]
        told = [f"note: {flag} has no effect with --chat" for flag in ("--task", "--prompt")]
        assert notes == [None, None, *told]
    path = write(tmp_path, 'max-new-tokens = 64\n[b]\ncommand = "train-joint"\n')
    (step,) = read_recipe(path, overrides=Overrides({"b.stop-on": "score"})).steps
    assert step.settings.max_new_tokens == 64


def test_the_command_line_overrides_all_steps(tmp_path):
    steps = train() + '[t]\ncommand = "eval"\nadapters = ["@a"]\nmax-new-tokens = 8\nlimit = 3\n'
    steps += '[al]\ncommand = "train-align"\n[f]\ncommand = "merge"\nadapters = ["@a"]\n'
    steps += 'weight = 1\ninto = "x/y"\n[u]\ncommand = "eval"\nmodel = "@f"\n'
    overrides = Overrides({"model": "o/p", "seed": "7"}, limit=6)
    steps = read_recipe(write(tmp_path, steps), overrides=overrides).steps
    a, t, al, f, u = (step.settings for step in steps)
    assert [s.model for s in (a, t, al)] == ["o/p"] * 3
    assert (f.into, u.model) == ("o/p", str(tmp_path / "runs" / "recipe" / "f"))
    assert (a.seed, f.seed) == (7, 7)
    assert (a.limit, a.dev_limit, a.max_steps) == (6, 6, 6)
    assert (t.limit, t.max_new_tokens, u.max_new_tokens) == (3, 8, 32)
    assert (al.limit, al.contrastive_batch) == (6, 4)  # 4 divides the batch of 128
    path = tmp_path / "recipe.toml"
    values = {
        "max-new-tokens": "40",
        "t.max-new-tokens": "50",
        "batch-size": "6",
        "contrastive-batch": "3",
    }
    steps = read_recipe(path, overrides=Overrides(values, limit=6)).steps
    # Who says it, means it.
    assert [steps[at].settings.max_new_tokens for at in (1, 4)] == [50, 40]
    assert (steps[2].settings.batch_size, steps[2].settings.contrastive_batch) == (6, 3)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_trial_limits_all_numbers_of_examples_steps_and_tokens(name):
    kind = COMMANDS[name].settings
    ends = ("limit", "max-steps", "learn-steps", "max-new-tokens")
    counts = [key for key in keys_of(kind) if key.endswith(ends)]
    most = {key: 32 if key == "max-new-tokens" else 6 for key in counts}
    for stated in ({}, dict.fromkeys(counts, 1000), dict.fromkeys(counts, "1000")):
        found = _trial(kind, stated | {"stop-on": "score"}, 6)
        assert {key: found[key] for key in counts} == most
    few = dict.fromkeys(counts, 2)
    assert {key: _trial(kind, few, 6)[key] for key in counts} == few


def test_keys_for_all_steps_leave_tasks_of_lm_eval_alone(tmp_path):
    text = 'langs = "cy"\n' + train() + '[k]\ncommand = "eval"\ntask = "lm-eval:b,c"\n'
    overrides = Overrides({"langs": "sw", "scorer": "paper"}, limit=6)
    a, k = (step.settings for step in read_recipe(write(tmp_path, text), overrides=overrides).steps)
    assert (a.langs, k.langs, k.scorer) == (("sw",), ("b", "c"), "strict")
    assert (k.limit, k.max_new_tokens) == (6, 32)
    with pytest.raises(ConfigError, match="--langs does not apply"):
        read_recipe(tmp_path / "recipe.toml", overrides=Overrides({"k.langs": "sw"}))


def test_a_folder_of_lm_eval_at_the_top_is_for_steps_with_such_tasks(tmp_path):
    merge = 'command = "merge"\nadapters = ["one", "two"]\nsearch = "0.5,0.7"\n'
    for name in ("one", "two", "tasks"):
        (tmp_path / name).mkdir()
    text = f'lm-eval-path = "tasks"\n[m]\n{merge}task = "lm-eval:a"\n[n]\n{merge}'
    m, n = (step.settings for step in read_recipe(write(tmp_path, text)).steps)
    assert (m.lm_eval_path, n.lm_eval_path) == (tmp_path / "tasks", None)
    overrides = Overrides({"lm-eval-path": tmp_path / "one", "n.task": "lm-eval:b"})
    m, n = (s.settings for s in read_recipe(tmp_path / "recipe.toml", overrides=overrides).steps)
    assert m.lm_eval_path == n.lm_eval_path == tmp_path / "one"


def test_sentences_at_the_top_are_for_tests_and_not_for_searches(tmp_path):
    for name in ("one", "two", "t.en", "t.de", "dev.en"):
        (tmp_path / name).touch()
    text = (
        'rank = 16\ntask = "wmt23"\nlangs = ["en-de"]\nsrc = "t.en"\nref = ["t.de"]\n'
        '[t]\ncommand = "eval"\n'
        '[m]\ncommand = "merge"\nadapters = ["one", "two"]\nsearch = "0.5,0.7"\n'
    )
    t, m = (step.settings for step in read_recipe(write(tmp_path, text)).steps)
    assert (t.src, t.ref) == (tmp_path / "t.en", (tmp_path / "t.de",))
    assert (m.src, m.ref) == (None, ())
    assert m.rank is None, "a training has that rank; a merge would be truncated to it"
    with pytest.raises(ConfigError, match="--set rank: a merge does not take this") as error:
        read_recipe(tmp_path / "recipe.toml", overrides=Overrides({"rank": "4"}))
    assert error.value.hint == "write m.rank=VALUE"
    for more, rank in (({}, None), ({"m.rank": "4"}, 4)):
        overrides = Overrides({"src": tmp_path / "dev.en"} | more)
        steps = read_recipe(tmp_path / "recipe.toml", overrides=overrides).steps
        assert [step.settings.src for step in steps] == [tmp_path / "dev.en", None]
        assert steps[1].settings.rank == rank


PLAIN = """\
[task]
command = "train-task"
model = "@whole"

[whole]
command = "merge"
adapters = ["x/y"]
weights = [1]
into = "x/base"

[into-whole]
command = "merge"
adapters = ["x/y"]
weights = [1]
into = "@whole"

[plain]
command = "merge"
adapters = ["x/y"]
weights = [1]

[test]
command = "eval"
adapters = ["@plain"]
"""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"task.model": "x"}, r"--set task.model: this step takes the output of @whole"),
        ({"into-whole.into": "x"}, r"--set into-whole.into: this step takes the output of @whole"),
        ({"plain.limit": "5"}, "--set plain.limit has no effect without 'search'"),
        ({"plain.into": "x"}, r"--set into: \[plain\] has no 'into'"),
        ({"into": "x"}, r"--set into: \[plain\] has no 'into'"),
        ({"test.adapters": "x/y,@plain"}, "steps can only be named in the recipe"),
    ],
)
def test_overrides_that_could_not_be_followed_are_refused(tmp_path, values, words):
    with pytest.raises(ConfigError, match=words):
        read_recipe(write(tmp_path, PLAIN), overrides=Overrides(values))


def test_a_model_on_the_command_line_replaces_no_step_and_nothing_that_is_named(tmp_path):
    path = write(tmp_path, PLAIN)
    values = {"model": "o/p", "whole.into": "q/r"}
    made = {s.name: s.settings for s in read_recipe(path, overrides=Overrides(values)).steps}
    whole = str(tmp_path / "runs" / "recipe" / "whole")
    assert (made["task"].model, made["into-whole"].into) == (whole, whole)
    assert (made["whole"].into, made["test"].model) == ("q/r", "o/p")


def test_overrides_replace_what_excludes_them(tmp_path):
    test = '[t]\ncommand = "eval"\nengine = "vllm"\ntask = "wmt23"\nlangs = ["en-de"]\n'
    merge = '[m]\ncommand = "merge"\nadapters = ["x/y", "x/z"]\nsearch = "0.5,0.7"\nlimit = 5\n'
    values = {
        "server": "http://host:8000",
        "t.src": "a.en",
        "t.ref": "a.de,b.de",
        "m.weight": "0.7",
    }
    search = 'search = "0.5,0.7"\n'
    for text in (test + merge, search + test + merge.replace(search, "")):
        path = write(tmp_path, text)
        t, m = (s.settings for s in read_recipe(path, overrides=Overrides(values)).steps)
        assert (t.engine, t.server) == ("auto", ("http://host:8000/v1",))
        assert t.ref == (Path("a.de"), Path("b.de"))
        assert (m.weight, m.search) == (0.7, None)


def test_a_merge_into_a_model_at_the_top_writes_a_folder(tmp_path):
    merge = '[m]\ncommand = "merge"\nadapters = ["x/y"]\nweights = [1]\n'
    path = write(tmp_path, f'into = "x/base"\n{merge}')
    for values, model in (({}, "x/base"), ({"model": "o/p"}, "o/p"), ({"into": "q/r"}, "q/r")):
        (step,) = read_recipe(path, overrides=Overrides(values)).steps
        assert (step.out.name, step.settings.into) == ("m", model)


@pytest.mark.parametrize(
    ("more", "limit", "values", "expected"),
    [
        ("batch-size = 25\ncontrastive-batch = 25\n", 4, {}, (4, 16, 4)),
        ("batch-size = 25\ncontrastive-batch = 25\n", 6, {}, (5, 20, 6)),
        ("batch-size = 6\ncontrastive-batch = 3\n", 9, {}, (3, 6, 9)),
        ("", 8, {"contrastive-batch": "64"}, (64, 128, 64)),
        ("", 6, {"batch-size": "6"}, (6, 6, 6)),
        ("contrastive-batch = 11\n", 8, {"batch-size": "11"}, (11, 11, 11)),
    ],
)
def test_the_batches_of_a_trial_fit_each_other(tmp_path, more, limit, values, expected):
    path = write(tmp_path, f'[a]\ncommand = "train-align"\n{more}')
    (step,) = read_recipe(path, overrides=Overrides(values, limit=limit)).steps
    made = step.settings
    assert (made.contrastive_batch, made.batch_size, made.limit) == expected


def test_a_wrong_batch_is_told_in_a_trial_as_well(tmp_path):
    path = write(tmp_path, '[a]\ncommand = "train-align"\ncontrastive-batch = 0\n')
    with pytest.raises(ConfigError, match="contrastive-batch: must be greater than 1, not 0"):
        read_recipe(path, overrides=Overrides(limit=4))


def test_text_is_no_path_even_if_it_ends_like_one(tmp_path):
    for title in ("Results of exp.toml", "@ACL 2026", "@page"):
        text = f'[page]\ncommand = "report"\nruns = ["."]\ntitle = "{title}"\n'
        (step,) = read_recipe(write(tmp_path, text)).steps
        assert (step.missing, step.settings.title, step.needs) == (None, title, ())


def test_colons_in_paths_of_data_that_is_there_separate_nothing(tmp_path):
    (tmp_path / "corpus:2024").mkdir()
    (tmp_path / "chats 10:30.jsonl").touch()
    align = '[al]\ncommand = "train-align"\npairs-dir = "corpus:2024"\n'
    path = write(tmp_path, align + train(more='chat = "chats 10:30.jsonl"\n'))
    assert [step.missing for step in read_recipe(path).steps] == [None, None]
    write(tmp_path, align.replace("2024", "2025"))
    assert "no such file or folder" in read_recipe(path).steps[0].missing.message


def test_commas_in_the_folder_of_outputs_separate_nothing(tmp_path):
    text = f'{train()}[t]\ncommand = "eval"\nadapters = ["@a"]\n{train("b")}on = ["@a=0.5"]\n'
    out = tmp_path / "lr=0.1,seed=2"
    _, t, b = read_recipe(write(tmp_path, text), out).steps
    assert t.settings.adapters == (str(out / "a.safetensors"),)
    assert b.settings.on == (f"{out / 'a.safetensors'}=0.5",)


def test_a_model_of_the_hub_is_named_with_its_owner(tmp_path):
    (step,) = read_recipe(write(tmp_path, train(more='model = "gpt2"\n'))).steps
    assert step.missing.message.endswith("model: no such file or folder: gpt2")
    assert step.missing.hint == "for a model on the Hub, name its owner, too: OWNER/gpt2"


def test_of_a_base_the_needed_steps_are_taken(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").mkdir()
    base = 'data-dir = "data"\nseed = 5\nout = "o"\n' + train() + train("unused", "rank = 4\n")
    write(tmp_path / "shared", base, "base.toml")
    recipe = read_recipe(write(tmp_path, 'base = "shared/base.toml"\nseed = 6\n[b]\n' + INSPECT))
    assert [step.name for step in recipe.steps] == ["a", "b"]
    settings = recipe.steps[0].settings
    assert (settings.seed, settings.data_dir) == (6, tmp_path / "shared" / "data")
    assert recipe.out == tmp_path / "shared" / "o"


@given(st.data())
def test_every_step_comes_after_what_it_needs(tmp_path_factory, data):
    """Any graph without a cycle is put in order, whatever the order in the file."""
    count = data.draw(st.integers(1, 8))
    needs = [
        sorted(data.draw(st.sets(st.integers(0, at - 1)))) if at else [] for at in range(count)
    ]
    text = ""
    for at in data.draw(st.permutations(range(count))):
        inputs = [f"@s{need}" for need in needs[at]] or ["x/y"]
        text += f'[s{at}]\ncommand = "merge"\nadapters = {inputs}\nweights = {[1] * len(inputs)}\n'
    recipe = read_recipe(write(tmp_path_factory.mktemp("graph"), text))
    order = [step.name for step in recipe.steps]
    assert sorted(order) == sorted(f"s{at}" for at in range(count))
    for at, below in enumerate(needs):
        assert all(order.index(f"s{need}") < order.index(f"s{at}") for need in below)
    wanted = data.draw(st.integers(0, count - 1))
    reached = {wanted}
    for at in range(wanted, -1, -1):
        reached |= set(needs[at]) if at in reached else set()
    chosen = recipe.with_needs(f"s{wanted}").steps
    assert {step.name for step in chosen} == {f"s{at}" for at in reached}


MISTAKES = {
    "no steps": ('model = "x/y"\n', 0, "no steps"),
    "unknown top key": ('modle = "x"\n' + train(), 1, "unknown top-level key 'modle'"),
    "no command": ("[a]\nlangs = ['en']\n", 1, "[a] no command"),
    "unknown command": (f'{train()}[b]\ncommand = "train"\n', 5, "unknown command 'train'"),
    "unknown key": (train(more="rnk = 3\n"), 4, "[a] unknown key 'rnk'"),
    "managed key": (train(more='out = "x"\n'), 4, "the output of a step is named after the step"),
    "wrong value": (train(more="rank = 0\n"), 4, "rank: must be greater than 0, not 0"),
    "wrong value at the top": ("rank = 0\n" + train(), 1, "rank: must be greater"),
    "unknown step": (train() + "[b]\n" + INSPECT.replace("@a", "@A"), 6, "no step 'A'"),
    "itself": (f"[a]\n{INSPECT}", 3, "cycle: a -> a"),
    "no adapter": (
        f'{train()}[t]\ncommand = "eval"\n[i]\n{INSPECT.replace("@a", "@t")}',
        8,
        "@t is",
    ),
    "file in a file": (
        f'{train()}[t]\ncommand = "eval"\nadapters = ["@a/x"]\n',
        6,
        "the output of a is a file",
    ),
    "weight": (
        f'{train()}[t]\ncommand = "eval"\nadapters = ["@a=0.5"]\n',
        6,
        "adapters: the step a does not write a=0.5",
    ),
    "wrong suffix": (
        f'{train()}[t]\ncommand = "eval"\nadapters = ["@a.safetensor"]\n',
        6,
        "adapters: the step a does not write a.safetensor",
    ),
    "missing adapter": ('[t]\ncommand = "eval"\nadapters = ["no"]\n', 3, "no such file or folder"),
    "missing data": (train(more='data-dir = "nowhere"\n'), 4, "data-dir: no such file or folder"),
    "missing data at the top": ('data-dir = "nowhere"\n' + train(), 1, "data-dir: no such file"),
    "folder as base": ('base = "."\n' + train(), 1, "base: a folder, not a file: ."),
    "missing base": ('base = "nowhere.toml"\n' + train(), 1, "base: no such file: nowhere.toml"),
    "bad name": ('["a b"]\ncommand = "eval"\n', 1, "not a valid step name"),
    "no adapters": (
        '[m]\ncommand = "merge"\nweight = 0.5\n',
        1,
        "adapters: expected a list of steps",
    ),
    "two ways": (
        f'{train()}[m]\ncommand = "merge"\nadapters = ["@a"]\nweight = 1\nsearch = "auto"\n',
        4,
        "[m] give exactly one of --weight W",
    ),
    "list as command": ('[a]\ncommand = ["eval"]\n', 2, "unknown command '['eval']'"),
    "no list": ('[a]\ncommand = "train-task"\nlangs = 5\n', 3, "langs: expected a list, not 5"),
    "no path": (train(more="data-dir = 4\n"), 4, "data-dir: expected a path, not 4"),
    "no text": (train(more='model = ["x"]\n'), 4, "model: expected text, not ['x']"),
    "too few": (train(more="").replace('["en"]', "[]"), 3, "langs: expected at least 1"),
    "true": (train(more="rank = true\n"), 4, "rank: expected a number or text, not True"),
    "numbers as adapters": (
        '[m]\ncommand = "merge"\nweight = 1\nadapters = [1, 2]\n',
        1,
        "adapters: expected a list of steps and paths",
    ),
    "adapter as model": (f'{train()}[t]\ncommand = "eval"\nmodel = "@a"\n', 6, "@a is not a model"),
    "family as adapter": (
        f'{FAMILY}[b]\ncommand = "merge"\nweights = [1]\nadapters = ["@a"]\n',
        9,
        "adapters: @a is a family of adapters",
    ),
    "family as model": (f'{FAMILY}[t]\ncommand = "eval"\nmodel = "@a"\n', 8, "@a is not a model"),
    "family to train on": (f'{FAMILY}{train("b")}on = ["@a"]\n', 9, "on: @a is a family"),
    "missing interpreter": (
        '[t]\ncommand = "eval"\ncomet-python = "no/python"\n',
        3,
        "comet-python: no such file or folder",
    ),
    "missing task": ('[t]\ncommand = "eval"\ntask = "no.toml"\n', 3, "no such file or folder"),
    "several tables": ('[[a]]\ncommand = "eval"\n', 1, "unknown top-level key 'a'"),
    "too deep": (f"a = {'[' * 3000}{']' * 3000}\n", 1, "nested too deeply"),
    "table": (train(more="groups.x = ['en']\n"), 4, "unknown key 'groups'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_file_and_line(tmp_path, name):
    text, line, words = MISTAKES[name]
    path = write(tmp_path, text)
    with pytest.raises(AdaptermixError) as caught:
        run(read_recipe(path, tmp_path / "o"))
    assert words in caught.value.message
    assert caught.value.message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert "\n" not in caught.value.message


def test_a_cycle_is_named_whole(tmp_path):
    merges = [
        f'[{name}]\ncommand = "merge"\nweight = 1\nadapters = ["@{need}"]\n'
        for name, need in (("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"))
    ]
    with pytest.raises(ConfigError, match=r"recipe.toml:16: .*cycle: a -> b -> c -> a"):
        read_recipe(write(tmp_path, "".join(merges)))


def test_what_is_wrong_in_the_base_is_told_there(tmp_path):
    write(tmp_path, train(more="rnk = 1\n"), "base.toml")
    path = write(tmp_path, f'base = "base.toml"\n[b]\n{INSPECT}')
    with pytest.raises(ConfigError, match=r"base.toml:4: \[a\] unknown key 'rnk'"):
        read_recipe(path)
    write(tmp_path, train(), "base.toml")
    with pytest.raises(ConfigError, match=r"recipe.toml:2: .*step \[a\] is already defined"):
        read_recipe(write(tmp_path, 'base = "base.toml"\n' + train()))
    write(tmp_path, 'base = "x.toml"\n' + train(), "base.toml")
    with pytest.raises(ConfigError, match=r"base.toml:1: .*cannot have a base of its own"):
        read_recipe(path)


def test_a_run_lets_the_libraries_talk_where_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "let_libraries_talk", lambda: asked.append(True))
    monkeypatch.setattr(
        pipeline, "plan", lambda *a, **k: sys.stdout.write("talk") and plan(*a, **k)
    )
    path = write(tmp_path, "[i]\n" + INSPECT.replace("@a", "x/y"))
    for flags in ([], ["-v"]):
        result = CliRunner().invoke(app, ["run", str(path), "--dry-run", "--json", *flags])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout), "without the talk"
    assert asked == [True]


def test_overrides_are_checked(tmp_path):
    path = write(tmp_path, train())
    with pytest.raises(ConfigError, match="--set sede: no step has this key"):
        read_recipe(path, overrides=Overrides({"sede": "1"}))
    with pytest.raises(ConfigError, match="--set rank: must be"):
        read_recipe(path, overrides=Overrides({"rank": "0"}))


def test_an_error_of_a_command_is_told_with_the_line_of_its_cause(tmp_path):
    text = train(more="pairs = 1\n").replace("pairs = 1\n", "rank = 2\n") + "[b]\n" + INSPECT
    a, b = read_recipe(write(tmp_path, text.replace('["en"]', '["en", "xx"]'))).steps
    told = a.blame(DataError("MASSIVE has no language 'xx'", hint="it has others"))
    assert (told.message, told.hint) == (
        f"{tmp_path}/recipe.toml:3: [a] MASSIVE has no language 'xx'",
        "it has others",
    )
    assert isinstance(told, DataError)
    assert ":4: [a] --rank 2 is" in a.blame(ConfigError("--rank 2 is too much")).message
    assert ":1: [a] out of memory" in a.blame(ConfigError("out of memory")).message
    assert ":5: [b] no" in b.blame(ConfigError("no")).message
    text = '[t]\ncommand = "eval"\nlangs = ["cy"]\n[s]\ncommand = "score"\nlang = "cy"\n'
    path = write(tmp_path, text + 'predictions = "@t/predictions/base/cy.jsonl"\n')
    step = read_recipe(path).steps[-1]
    told = step.blame(DataError(f"{step.settings.predictions}: 10 outputs for 250 gold rows"))
    assert told.message.startswith(f"{path}:7: [s] "), (
        "of values in a message, the longest is meant"
    )


LOST = "the model no/model is not a local folder"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('model = "no/model"\n' + train(), "1: model", LOST),
        (train(more='model = "no/model"\n'), "4: model", LOST),
        ("seeds = [1, 2]\n" + train(more='model = "no/model"\n'), "5: model", LOST),
        ('[t]\ncommand = "eval"\nadapters = ["them/theirs"]\n', "3: adapters", "them/theirs: no"),
    ],
)
def test_a_name_that_is_not_on_the_hub_is_told_with_file_line_and_key(
    tmp_path, text, place, message
):
    path = write(tmp_path, text)
    told = read_recipe(path).steps[0].blame(ArtifactError(message, hint="name another"))
    assert (told.message, told.hint) == (f"{path}:{place}: {message}", "name another")


def test_a_wrong_override_is_quoted_as_it_was_typed(tmp_path):
    path = write(tmp_path, train(more="limit = 2\n"))
    with pytest.raises(ConfigError, match="--set limit: .*, not 'no'"):
        read_recipe(path, overrides=Overrides({"limit": "no"}))


def test_a_training_on_the_output_of_another_step_waits_for_it(tmp_path):
    """And runs again where that output has other content or another weight."""
    (tmp_path / "bought=2").mkdir()
    align = '[al]\ncommand = "train-align"\non = ["@a=0.5", "bought=2", "them/theirs=3"]\n'
    path = write(tmp_path, align + train())
    recipe = read_recipe(path)
    a, al = recipe.steps
    out = tmp_path / "runs" / "recipe"
    assert (a.name, al.needs) == ("a", ("a",))
    assert al.settings.on == (
        f"{out / 'a.safetensors'}=0.5",
        str(tmp_path / "bought=2"),
        "them/theirs=3",
    )
    out.mkdir(parents=True)
    keys = set()
    for content in ("one", "two"):
        a.out.write_text(content)
        for weight in ("0.5", "0.6"):
            write(tmp_path, align.replace("0.5", weight) + train())
            keys.add(step_key(read_recipe(path).steps[1], out))
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ('["@b=0.5"]', r"recipe.toml:3: \[al\] on: no step 'b'"),
        ('["@t=0.5"]', r"recipe.toml:3: \[al\] on: @t is an output of eval, not an adapter"),
        ('["@a=0"]', r"recipe.toml:3: \[al\] on: the weight of .* must be finite and not 0"),
        ('["@a/x=0.5"]', r"recipe.toml:3: \[al\] on: the output of a is a file"),
    ],
)
def test_a_slip_in_what_a_step_trains_on_is_named(tmp_path, on, message):
    test = '[t]\ncommand = "eval"\nadapters = ["@a"]\n'
    path = write(tmp_path, f'[al]\ncommand = "train-align"\non = {on}\n' + train() + test)
    with pytest.raises(ConfigError, match=message):
        read_recipe(path)


def test_an_adapter_to_train_on_that_is_not_there_is_named(tmp_path):
    path = write(tmp_path, '[al]\ncommand = "train-align"\non = ["./gone=0.5"]\n')
    missing = read_recipe(path).steps[0].missing
    assert "recipe.toml:3: on: no such file or folder" in str(missing)


def test_the_output_of_a_choice_per_language_is_a_folder(tmp_path):
    steps = '[t]\ncommand = "eval"\nadapters = ["@a", "@a/task"]\n[i]\n' + INSPECT
    a, t, i = read_recipe(write(tmp_path, FAMILY + steps)).steps
    assert a.settings.out == a.out == tmp_path / "runs" / "recipe" / "a"
    assert t.settings.adapters == (str(a.out), str(a.out / "task"))
    assert i.inputs == (str(a.out),)
    off = FAMILY.replace("true", "false") + "[i]\n" + INSPECT
    assert read_recipe(write(tmp_path, off)).steps[0].out.suffix == ".safetensors"


def test_a_folder_in_place_of_a_file_is_not_overridden(tmp_path):
    for key in ("per-language", "a.per-language"):
        with pytest.raises(ConfigError, match=f"--set {key}: set this key in the recipe"):
            read_recipe(write(tmp_path, FAMILY), overrides=Overrides({key: "true"}))


def test_a_report_names_a_family_and_not_its_search(tmp_path):
    text = FAMILY + '[r]\ncommand = "report"\nruns = ["@a.search"]\n'
    recipe = read_recipe(write(tmp_path, text))
    step = recipe.steps[-1]
    with pytest.raises(ConfigError, match="a search per language writes no such folder"):
        step.command.check(step.call(), recipe.maker)


# The paper's recipes -------------------------------------------------------------------------

PAPER = Path(__file__).parent.parent.parent / "examples" / "paper"
# Appendix D.1 and section 4.3; 128 examples per step, and 32 pairs that are contrasted.
TRAINING = {
    "rank": 8,
    "alpha": 16,
    "dropout": 0.1,
    "target_modules": tuple(f"{m}_proj" for m in ("q", "k", "v", "o", "gate", "up", "down")),
    "epochs": 5,
    "lr": 5e-4,
    "schedule": "inverse_sqrt",
    "warmup_ratio": 0.03,
    "eval_steps": 200,
    "patience": 5,
    "batch_size": 128,
}
ALIGNMENT = {
    "contrastive_batch": 32,
    "pooling": "mean",
    "directions": "one",
    "resample": 0,
}
LOW = ("cy-en", "ja-en", "jv-en", "sw-en", "tl-en")
INTO = ("cs-en", "de-en", "is-en", "ru-en", "zh-en")
BOTH = (*INTO, *(f"en-{pair[:2]}" for pair in INTO))
HIGH = ("ar", "en", "es", "ru", "zh")
# The languages of tasks and the pairs of alignments: table 1, section 6.1 and table 5.
LANGUAGES = {
    "sft": (HIGH, None),
    "english": (("en",), None),
    "joint": (HIGH, LOW),
    "joint-top": (HIGH, LOW),
    "joint-bottom": (HIGH, LOW),
    "joint-medium": (HIGH, ("el-en", "hi-en", "th-en", "tr-en")),
    "joint-high": (HIGH, ("ar-en", "es-en", "ru-en", "zh-en")),
    "align": (None, ("ar-en", "es-en", "ru-en", "zh-en", "sw-en")),
    "align-de": (None, ("de-en",)),
    "align-es": (None, ("es-en",)),
    "align-zh": (None, ("zh-en",)),
    "align-de-flores": (None, ("de-en",)),
    "align-de-iwslt": (None, ("de-en",)),
    "mt-sft": (BOTH, None),
    "mt-joint": (BOTH, INTO),
    "mt-joint-top": (BOTH, INTO),
    "mt-joint-bottom": (BOTH, INTO),
    "mt-align": (None, INTO),
    "json-sft": (("en", "pt", "zh"), None),
    "json-joint": (("en", "pt", "zh"), ("da-en", "sv-en")),
}


@pytest.mark.slow
def test_the_papers_trainings_have_the_papers_settings():
    steps = {s.name: s for path in PAPER.glob("*-*.toml") for s in read_recipe(path).steps}
    seeds = {}
    for name, step in steps.items():
        if not step.command.name.startswith("train-"):
            continue
        settings = step.settings
        family, _, seed = name.partition("-seed-")
        seeds.setdefault(family.removeprefix("llama-").removeprefix("qwen-"), set()).add(int(seed))
        for key, value in TRAINING.items():
            assert getattr(settings, key) == value, (name, key)
        is_qwen = "Qwen" in settings.model
        assert is_qwen == name.startswith("qwen-")
        langs, pairs = LANGUAGES[family.removeprefix("llama-").removeprefix("qwen-")]
        assert getattr(settings, "langs", None) == langs, name
        assert getattr(settings, "turn_newline", None) == (langs and not is_qwen), name
        assert getattr(settings, "pairs", None) == pairs, name
        if pairs:
            for key, value in ALIGNMENT.items():
                assert getattr(settings, key) == value, (name, key)
            assert settings.temperature == ((1.5,) if is_qwen else (0.1,)), name
            layers = [layer for layer in ("top", "bottom") if layer in name] or ["middle"]
            assert [settings.layer] == layers, name
            # ALMA's pairs are those of the task; appendix B filters Tatoeba.
            is_task_data = "-mt-" in name
            assert settings.several_sentences == is_task_data, name
            assert settings.check_script != is_task_data, name
    assert seeds == dict.fromkeys(LANGUAGES, {1, 2, 3})

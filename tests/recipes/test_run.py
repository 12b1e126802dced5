"""What of a recipe is run, and what is known from before: real merges of tiny adapters."""

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from functools import partial

import pytest
from helpers.adapters import peft_adapter
from helpers.families import WELSH, use_known_effects, write_adapters, write_dev_data
from helpers.records import write_evaluation

from adaptermix.commands.catalog import COMMANDS
from adaptermix.errors import (
    EXTRAS,
    AdaptermixError,
    ArtifactError,
    ConfigError,
    DataError,
    ResourceError,
    StoppedError,
)
from adaptermix.recipes import keys
from adaptermix.recipes.keys import content_hash
from adaptermix.recipes.plan import plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import Watcher, run
from adaptermix.recipes.state import alone_in

CHAIN = """
out = "o"

[half]
command = "merge"
adapters = ["one", "two"]
weight = 0.5

[again]
command = "merge"
adapters = ["@half", "two"]
weights = [1, 0.25]

[small]
command = "merge"
adapters = ["@half"]
weights = [1]
rank = 2

[look]
command = "inspect"
adapters = ["@again", "one"]
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("sources")
    for seed, name in enumerate(("one", "two", "other")):
        peft_adapter(model_dir, folder / name, seed=seed)
    return folder


@pytest.fixture
def folder(tmp_path, sources):
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    (tmp_path / "recipe.toml").write_text(CHAIN)
    return tmp_path


def ran(folder, old="", new="", **options):
    """Change the recipe, run it, and return the names of the steps that were run."""
    path = folder / "recipe.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if old else text)
    report = run(read_recipe(path), **options)
    assert len(report.steps) == len(json.loads((folder / "o" / "steps.json").read_text())["steps"])
    return {step.name for step in report.steps if step.status == "done"}


def test_a_change_runs_a_step_again_and_those_whose_inputs_change(folder):
    assert ran(folder) == {"half", "again", "small", "look"}
    assert ran(folder) == set()
    assert ran(folder, "0.25", "0.5") == {"again", "look"}
    assert ran(folder, "weight = 0.5", "weight = 0.6") == {"half", "again", "small", "look"}
    assert ran(folder, "rank = 2", "rank = 3") == {"small"}
    assert ran(folder, "[look]", "[look]\nby = 'kind'") == {"look"}
    assert ran(folder, "[half]", "# a comment\n[half]") == set()
    # Another way to write the same weights: the merge is made again, and comes out the same.
    assert ran(folder, "weight = 0.6", "weights = [0.6, 0.4]") == {"half"}


def test_a_changed_file_runs_what_reads_it(folder):
    ran(folder)
    shutil.rmtree(folder / "one")
    shutil.copytree(folder / "other", folder / "one")
    assert ran(folder) == {"half", "again", "small", "look"}
    (folder / "o" / "look.json").write_text("{}")
    assert ran(folder) == {"look"}
    (folder / "o" / "small.safetensors").unlink()
    assert ran(folder) == {"small"}
    (folder / "weights.toml").write_text("weights = [1, 0.25]\n")
    ran(folder, "weights = [1, 0.25]", 'weights-file = "weights.toml"')
    assert ran(folder) == set()
    (folder / "weights.toml").write_text("weights = [1, 0.5]\n")
    assert ran(folder) == {"again", "look"}


def test_another_version_runs_all_again(folder, monkeypatch):
    ran(folder)
    monkeypatch.setattr(keys, "__version__", "0.0.0")
    assert ran(folder) == {"half", "again", "small", "look"}


def test_one_step_runs_with_what_it_needs(folder):
    assert {s.name for s in run(read_recipe(folder / "recipe.toml"), only="again").steps} == {
        "half",
        "again",
    }
    report = run(read_recipe(folder / "recipe.toml"), only="look")
    assert [(s.name, s.status) for s in report.steps] == [
        ("half", "done before"),
        ("again", "done before"),
        ("look", "done"),
    ]
    report = run(read_recipe(folder / "recipe.toml"), only="again", force=True)
    assert [s.status for s in report.steps] == ["done before", "done"]
    assert ran(folder, force=True) == {"half", "again", "small", "look"}
    with pytest.raises(ConfigError, match="no step 'agian'"):
        run(read_recipe(folder / "recipe.toml"), only="agian")


def test_a_plan_says_what_would_run_and_writes_nothing(folder):
    recipe = read_recipe(folder / "recipe.toml")
    statuses = [(step.name, step.status) for step in plan(recipe).steps]
    assert statuses == [(name, "to do") for name in ("half", "again", "small", "look")]
    assert plan(recipe).steps[0].cost == {"rank": 8, "modules": 8}
    assert not recipe.out.exists()
    run(recipe)
    assert {step.status for step in plan(recipe).steps} == {"finished"}
    text = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(text.replace("weight = 0.5", "weight = 0.6"))
    assert [step.status for step in plan(read_recipe(folder / "recipe.toml")).steps] == [
        "to do",
        *["runs again if its inputs change"] * 3,
    ]
    assert json.dumps(plan(recipe).as_record())


def test_a_step_that_stops_keeps_what_was_done(folder, monkeypatch, capsys):
    def stop(work):
        sys.stdout.write("output of a library")
        raise DataError("no more")

    with monkeypatch.context() as patched:
        patched.setitem(COMMANDS, "inspect", replace(COMMANDS["inspect"], run=stop))
        with pytest.raises(DataError, match=r"recipe.toml:20: \[look\] no more"):
            ran(folder)
    assert capsys.readouterr().out == "", "no result"
    assert ran(folder) == {"look"}


def test_what_others_made_is_not_replaced(folder):
    (folder / "o").mkdir()
    (folder / "o" / "half.safetensors").write_text("mine")
    with pytest.raises(
        ArtifactError, match=r"recipe.toml:4: .*exists, and was not made by a recipe"
    ):
        run(read_recipe(folder / "recipe.toml"))
    assert (folder / "o" / "half.safetensors").read_text() == "mine"
    assert ran(folder, force=True) == {"half", "again", "small", "look"}


def test_two_runs_do_not_share_a_folder(folder, monkeypatch):
    inside = []

    def again(work):
        with pytest.raises(ResourceError, match="another run is using this folder"):
            run(read_recipe(folder / "recipe.toml"))
        inside.append(work)
        raise DataError("enough")

    monkeypatch.setitem(COMMANDS, "merge", replace(COMMANDS["merge"], run=again))
    with pytest.raises(DataError, match="enough"):
        run(read_recipe(folder / "recipe.toml"))
    assert inside


def test_a_killed_run_keeps_nobody_out_of_its_folder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from adaptermix.recipes.state import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print('in', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "o")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        refused = pytest.raises(ResourceError, match="o: another run is using this folder")
        with refused as caught, alone_in(tmp_path / "o"):
            pass
        process.kill()
    assert caught.value.hint == "wait until it finishes, or choose another --out"
    with alone_in(tmp_path / "o"):
        pass


def test_a_run_needs_no_locks_of_its_file_system(tmp_path, monkeypatch):
    def refuse(code, *_):
        raise OSError(code, os.strerror(code))

    for code in (errno.ENOLCK, errno.EOPNOTSUPP):
        monkeypatch.setattr("fcntl.flock", partial(refuse, code))
        with alone_in(tmp_path / "o"):
            pass
    monkeypatch.setattr("fcntl.flock", partial(refuse, errno.EIO))
    with pytest.raises(ResourceError, match="cannot be written to"), alone_in(tmp_path / "o"):
        pass


def test_a_damaged_record_of_steps_is_told(folder):
    ran(folder)
    for text in ("{", '{"steps": {"one": 1}}', '{"steps": [1]}', "[" * 100_000):
        (folder / "o" / "steps.json").write_text(text)
        with pytest.raises(ArtifactError, match="steps.json: not the record"):
            ran(folder)


def test_leftovers_of_a_killed_run_are_swept(folder):
    (folder / "o" / ".half.safetensors.abc").mkdir(parents=True)
    (folder / "o" / ".half.safetensors.training").mkdir()
    ran(folder)
    assert [path.name for path in (folder / "o").glob(".*")] == [".lock"]


def run_four_times(path, model_dir, corpus_dir, more=""):
    """Run a training of alignment that stops, twice for 3 steps and twice for 4."""
    for steps in (3, 3, 4, 4):
        path.write_text(
            f'model = "{model_dir}"\ndata-dir = "{corpus_dir}"\n[align]\ncommand = "train-align"\n'
            f'pairs = ["cy-en"]\nmax-steps = {steps}\ncontrastive-batch = 4\nbatch-size = 4\n'
            f"{more}\n"
        )
        with pytest.raises(DataError, match="stopped"):
            run(read_recipe(path))


def test_a_stopped_step_resumes_only_with_unchanged_settings(
    tmp_path, model_dir, corpus_dir, monkeypatch
):
    """It then finds its checkpoints, and the adapters of the temperatures that are done."""
    kept = [f".align.safetensors.{end}" for end in ("candidates", "training")]
    begun = []

    def stop(work):
        folder = work.settings.out.parent
        there = sorted(path.name for path in folder.glob(".align*"))
        begun.append((work.settings.max_steps, work.settings.resume, there))
        for name in (*kept, ".align.safetensors.abc"):
            (folder / name).mkdir(exist_ok=True)
        raise DataError("stopped")

    monkeypatch.setitem(COMMANDS, "train-align", replace(COMMANDS["train-align"], run=stop))
    run_four_times(tmp_path / "recipe.toml", model_dir, corpus_dir, "temperature = [0.1, 0.2]")
    assert begun == [(3, False, []), (3, True, kept), (4, False, []), (4, True, kept)]
    with pytest.raises(DataError, match="stopped"):
        run(read_recipe(tmp_path / "recipe.toml"), force=True)
    assert begun[4:] == [(4, False, [])]


def test_an_adapter_that_a_killed_run_has_written_is_kept(
    tmp_path, model_dir, corpus_dir, monkeypatch
):
    """It was killed before it recorded that the step is finished; older outputs are replaced."""
    begun = []

    def train(work):
        if not begun:
            work.settings.out.touch()
        begun.append((work.settings.resume, work.force))
        raise DataError("stopped")

    monkeypatch.setitem(COMMANDS, "train-align", replace(COMMANDS["train-align"], run=train))
    run_four_times(tmp_path / "recipe.toml", model_dir, corpus_dir)
    assert begun == [(False, True), (True, False), (False, True), (True, True)]


def test_gaps_in_the_data_are_seen_before_the_first_step(tmp_path, model_dir, corpus_dir):
    head = f'model = "{model_dir}"\ndata-dir = "{corpus_dir}"\n'
    first = '[first]\ncommand = "train-task"\nlangs = ["en"]\n'
    test = '[test]\ncommand = "eval"\nadapters = ["@first"]\nlangs = ["en", "de"]\n'
    align = '[align]\ncommand = "train-align"\npairs = ["cy-en",\n"de-en"]\n'
    for step, line, words in ((test, 9, "no MASSIVE de-DE"), (align, 8, "no parallel text de-en")):
        path = tmp_path / "recipe.toml"
        path.write_text(head + first + step)
        recipe = read_recipe(path, tmp_path / "o")
        with pytest.raises(DataError) as caught:
            run(recipe)
        assert caught.value.message.startswith(f"{path}:{line}: [")
        assert words in caught.value.message
        assert list(recipe.out.iterdir()) == [recipe.out / ".lock"]
        (problem,) = plan(recipe).problems
        assert problem.message == caught.value.message


LATER = {  # the line to blame, counted from the step's header, and what is said
    "two tasks": (
        '[ner]\ncommand = "eval"\ntask = "own.toml"\nlangs = ["en"]\n[test]\ncommand = "eval"\n'
        'langs = ["en"]\n[page]\ncommand = "report"\nruns = ["@first", "@test",\n"@ner"]\n',
        (10, "[page] runs: @ner has the task 'own', but @test has 'massive'", 3),
    ),
    "two tasks, one on disk": (
        '[test]\ncommand = "eval"\nlangs = ["en"]\n[page]\ncommand = "report"\n'
        'runs = ["@test", "old"]\n',
        (6, "old has the task 'uner', but @test has 'massive'", 3),
    ),
    "a search of another task": (
        '[test]\ncommand = "eval"\ntask = "own.toml"\nlangs = ["en"]\n'
        '[m]\ncommand = "merge"\nadapters = ["@first", "one"]\nsearch = "0.5,1"\n'
        'langs = ["en"]\n[page]\ncommand = "report"\nruns = ["@test", "@m.search"]\n',
        (12, "@m.search has the task 'massive', but @test has 'own'", 3),
    ),
    "no search": (
        '[m]\ncommand = "merge"\nadapters = ["@first"]\nweights = [1]\n'
        '[page]\ncommand = "report"\nruns = ["@m.search"]\n',
        (7, "@m.search: the step m does not search weights", 3),
    ),
    "no run": ('[page]\ncommand = "report"\nruns = ["@first", "one/x"]\n', (3, "not a run", 4)),
    "a page in a page": (
        '[look]\ncommand = "inspect"\nadapters = ["@first"]\n'
        '[page]\ncommand = "report"\nruns = ["@look"]\n',
        (6, "@look runs inspect, which has no scores to report", 3),
    ),
    "baseline": (
        '[t]\ncommand = "eval"\nlangs = ["en"]\nadapters = ["@first"]\nbaseline = "x"\n',
        (5, "--baseline x: no such system", 3),
    ),
    "metric": (
        '[t]\ncommand = "eval"\nlangs = ["en"]\nadapters = ["@first"]\nmetrics = ["bleu"]\n',
        (5, "massive has no metric 'bleu'", 3),
    ),
    "no model of COMET": (
        '[t]\ncommand = "eval"\ntask = "wmt23"\nlangs = ["en-de"]\nmetrics = ["bleu", "comet"]\n'
        'comet-python = "one/adapter_config.json"\ncomet-model = "own.toml"\n',
        (7, "hparams.yaml: no such file; COMET needs it next to the folder of own.toml", 5),
    ),
    "weights": (
        '[m]\ncommand = "merge"\nadapters = ["@first", "one"]\nweights = [1]\n',
        (4, "--weights has 1 number for 2 adapters", 3),
    ),
    "pivot": (
        '[r]\ncommand = "retrieval"\nlangs = ["en", "cy"]\npivot = "de"\nadapters = ["@first"]\n',
        (4, "--pivot de: not one of the languages", 3),
    ),
    "scores": (
        '[test]\ncommand = "eval"\nlangs = ["fr"]\n[r]\ncommand = "retrieval"\n'
        'langs = ["en", "cy"]\nscores = "@test"\n',
        (7, "@test: none of its languages is analyzed in this run", 4),
    ),
    "scores of a training": (
        '[r]\ncommand = "retrieval"\nlangs = ["en", "cy"]\nscores = "@first"\n',
        (4, "@first runs train-task, not eval", 3),
    ),
}


@pytest.mark.parametrize("name", LATER)
def test_what_stops_a_later_step_is_told_before_the_first(
    tmp_path, model_dir, corpus_dir, sources, name
):
    steps, (line, words, code) = LATER[name]
    write_evaluation(tmp_path / "old" / "eval", {"en": ["hello"]}, task="uner")
    (tmp_path / "old" / "first").mkdir()
    shutil.copytree(sources / "one", tmp_path / "one")
    (tmp_path / "one" / "x").mkdir()
    records = 'test = "{lang}.jsonl"\ntrain = "{lang}.jsonl"\ndev = "{lang}.jsonl"\n'
    fields = 'name = "own"\nmetrics = ["exact-match"]\nprompt = "{utt}"\nanswer = "utt"\n'
    (tmp_path / "own.toml").write_text(f"{fields}[files]\n{records}")
    first = f'model = "{model_dir}"\ndata-dir = "{corpus_dir}"\n'
    first += '[first]\ncommand = "train-task"\nlangs = ["en"]\n'
    path = tmp_path / "recipe.toml"
    path.write_text(first + steps)
    recipe = read_recipe(path, tmp_path / "o")
    with pytest.raises(AdaptermixError) as caught:
        run(recipe)
    assert caught.value.message.startswith(f"{path}:{5 + line}: [")
    assert words in caught.value.message
    assert caught.value.exit_code == code
    assert [entry.name for entry in recipe.out.iterdir()] == [".lock"]
    assert caught.value.message in [problem.message for problem in plan(recipe).problems]


def test_an_input_without_a_key_is_told_with_its_line(folder):
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{")
    path = folder / "recipe.toml"
    path.write_text('[g]\ncommand = "export"\nadapters = ["one"]\nto = "mlx"\nmodel = "base"\n')
    (problem,) = plan(read_recipe(path)).problems
    assert problem.message.startswith(f"{path}:5: [g] ")
    with pytest.raises(ArtifactError) as caught:
        run(read_recipe(path))
    assert caught.value.message == problem.message


def test_times_and_counts_of_a_run_are_no_content(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, seconds in ((one, 1), (two, 2)):
        (folder / "deep").mkdir(parents=True)
        record = {"score": 0.5, "decoded": seconds, "seconds": seconds}
        (folder / "deep" / "scores.json").write_text(json.dumps(record))
        (folder / "table.csv").write_text("a,b\n")
    assert content_hash(one) == content_hash(two)
    (two / "deep" / "scores.json").write_text('{"score": 0.6}')
    assert content_hash(one) != content_hash(two)
    assert content_hash(tmp_path / "no") == content_hash(tmp_path / "none")


def test_a_family_is_chosen_tested_and_reported(monkeypatch, tmp_path, model_dir):
    """Each language by its route; the same line again does nothing."""
    paths = write_adapters(model_dir, tmp_path)
    data = write_dev_data(tmp_path / "data", examples=60)
    (tmp_path / "recipe.toml").write_text(
        f'''
model = "{model_dir}"
data-dir = "data"
langs = ["en", "cy", "sw"]
engine = "transformers"
system-prompt = ""
max-new-tokens = 6

[family]
command = "merge"
adapters = ["task", "align"]
search = "0.7"
per-language = true

[test]
command = "eval"
adapters = ["task", "@family"]

[page]
command = "report"
runs = ["@test"]
'''
    )
    (data / "massive" / "sw-KE.jsonl").write_text(
        (data / "massive" / "sw-KE.jsonl").read_text().replace('"dev"', '"train"')
    )
    recipe = read_recipe(tmp_path / "recipe.toml")
    planned = plan(recipe)
    assert planned.problems == []
    assert planned.steps[0].cost["examples"] == {"en": 60, "cy": 60, "sw": 0}
    assert planned.steps[0].cost["candidates"] == ["task", "align-0.7"]
    assert planned.steps[0].cost["answers"] == 2 * 120
    with monkeypatch.context() as patched:
        use_known_effects(patched, paths[0], WELSH)
        run(recipe, only="family")
    report = run(recipe)
    assert [step.status for step in report.steps] == ["done before", "done", "done"]
    scores = json.loads((recipe.out / "test" / "scores.json").read_text())
    assert scores["systems"] == ["base", "task", "family"]
    assert scores["adapters"]["family"]["routes"]["cy"] == "align-0.7"
    assert "Routes by language: family" in (recipe.out / "page.html").read_text()
    assert {step.status for step in run(recipe).steps} == {"done before"}


class Told(Watcher):
    """What a run tells while it goes on."""

    def __init__(self):
        self.begun = []
        self.ended = []

    def begin(self, number, total, step, *, is_finished):
        self.begun.append((number, total, step.name, is_finished))

    def end(self, step, report):
        self.ended.append(step.name)


def test_a_run_counts_its_steps_and_says_which_are_finished(folder):
    names = ["half", "again", "small", "look"]
    recipe = read_recipe(folder / "recipe.toml")
    whole, rest = Told(), Told()
    run(recipe, only="again")
    run(recipe, watcher=whole)
    run(recipe, watcher=rest, only="look", force=True)
    assert whole.begun == [(at, 4, name, at < 3) for at, name in enumerate(names, 1)]
    assert whole.ended == ["small", "look"]
    assert rest.begun == [(1, 3, "half", True), (2, 3, "again", True), (3, 3, "look", False)]


def test_seconds_are_those_of_the_step_and_are_kept(folder, monkeypatch):
    """Each step's time, also in the report of a later run; no part of the stored report."""
    waits = {"inspect": 0.4, "merge": 0.0}
    for name, seconds in waits.items():
        command = COMMANDS[name]

        def slow(work, seconds=seconds, command=command):
            time.sleep(seconds)
            return command.run(work)

        monkeypatch.setitem(COMMANDS, name, replace(command, run=slow))
    recipe = read_recipe(folder / "recipe.toml")
    before = time.monotonic()
    first = run(recipe)
    passed = time.monotonic() - before
    seconds = {step.name: step.seconds for step in first.steps}
    assert 0.4 <= seconds["look"] <= passed
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) <= passed + 0.05 * len(seconds)
    later = run(recipe)
    assert {step.name: step.seconds for step in later.steps} == seconds
    stored = json.loads((folder / "o" / "steps.json").read_text())["steps"]
    assert {name: entry["seconds"] for name, entry in stored.items()} == seconds
    assert not any(keys.VOLATILE[0] in entry["record"] for entry in stored.values())


def test_what_a_step_leaves_in_a_circle_is_freed_before_the_next_step(folder, monkeypatch):
    """As models and trainers do, which refer to each other."""

    class Model:
        pass

    command, alive = COMMANDS["merge"], []

    def leaves(work):
        assert not [reference for reference in alive if reference() is not None]
        one, other = Model(), Model()
        one.other, other.other = other, one
        alive.append(weakref.ref(one))
        return command.run(work)

    monkeypatch.setitem(COMMANDS, "merge", replace(command, run=leaves))
    gc.disable()
    try:
        run(read_recipe(folder / "recipe.toml"))
    finally:
        gc.enable()
    assert len(alive) == 3


def test_a_package_that_a_later_step_needs_is_missed_before_the_first(folder, monkeypatch):
    command = COMMANDS["inspect"]
    monkeypatch.setitem(COMMANDS, "inspect", replace(command, extra="gone"))
    monkeypatch.setitem(EXTRAS, "gone", ("no_such_package",))
    recipe = read_recipe(folder / "recipe.toml")
    with pytest.raises(ResourceError, match=r"recipe.toml:20: \[look\] .*no_such_package"):
        run(recipe)
    assert [path.name for path in recipe.out.iterdir()] == [".lock"]
    (problem,) = plan(recipe).problems
    assert "no_such_package" in problem.message


def test_a_step_whose_output_is_gone_is_to_do(folder):
    recipe = read_recipe(folder / "recipe.toml")
    run(recipe)
    for name in ("half", "again"):
        (folder / "o" / f"{name}.safetensors").unlink()
    statuses = {step.name: step.status for step in plan(recipe).steps}
    again = "runs again if its inputs change"
    assert statuses == {"half": "to do", "again": "to do", "small": again, "look": again}


def test_a_stopped_step_is_continued_by_running_the_recipe_again(folder):
    step = read_recipe(folder / "recipe.toml").steps[0]
    told = step.blame(StoppedError("stopped at step 3", hint="add --resume"))
    assert told.hint == "to continue, run the recipe again"
    assert step.blame(DataError("no", hint="look there")).hint == "look there"

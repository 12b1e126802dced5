"""A step is finished only if everything its output depends on is as it was.

The law, for every command: another value of a setting, or another content of what it names, is
another key. The exceptions are named here, with the reason.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from adaptermix.commands.catalog import COMMANDS
from adaptermix.recipes.keys import content_hash, data_hash, step_key
from adaptermix.recipes.step import Step
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.locations import location_of
from adaptermix.tasks.metrics import comet_environment

# Settings that change how a step runs, and not what comes out.
NO_MATTER = {
    "out": "the recipe decides it",
    "resume": "a resumed training ends as one that was not stopped",
    "threads": "speed",
    "cache": "answers and representations are the same with it",
    "tensorboard": "a log beside the output",
    "report_to": "the same log elsewhere",
    "gradient_checkpointing": "memory and time; the gradient is the same",
    "comet_python": "where COMET is; whether it is there counts",
    "export": "the same tables and plots once more, beside the page",
    "server_folder": "where adapters are staged",
    "server_requests": "speed",
    "server_timeout": "when a server is given up",
}
FIELDS = [
    (command, field) for command in COMMANDS.values() for field in command.settings.model_fields
]
NAMED = [
    (command, field)
    for command, field in FIELDS
    if location_of(command.settings.model_fields[field]) and field not in NO_MATTER
]


def ids(value):
    return value if isinstance(value, str) else value.name


def step_of(command, inputs=(), name="step", **values):
    """Return a step with settings that nobody has checked."""
    settings = command.settings.model_construct(**values)
    return Step(
        name, name, command, settings, tuple(map(str, inputs)), Path("o/step"), (), Path(), {}
    )


def key_of(command, inputs=(), **values):
    return step_key(step_of(command, inputs, **values), Path("o"))


def other_than(value, annotation):
    """Return another value of the same kind."""
    if isinstance(value, bool) or annotation is bool:
        return not value
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return {**value, "more": 1}
    if isinstance(value, tuple):
        return (*value, Path("more") if Path in get_args(annotation) else "more")
    return Path("other") if Path in get_args(annotation) else f"other than {value}"


@pytest.mark.parametrize(("command", "field"), FIELDS, ids=ids)
def test_another_value_is_another_key(tmp_path, monkeypatch, command, field):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").write_text("content")
    info = command.settings.model_fields[field]
    value = other_than(info.default, info.annotation)
    is_another = key_of(command) != key_of(command, **{field: value})
    assert is_another == (field not in NO_MATTER), NO_MATTER.get(field)


def put(path, location, text):
    """Lay out what a setting of this kind may name."""
    if location == "model":
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps({"about": text}))
    elif location == "tokenizer":
        path.mkdir(exist_ok=True)
        (path / "chat_template.jinja").write_text(text)
    elif location == "task":
        content = 'name = "own"\nmetrics = ["exact-match"]\nprompt = "{p}"\nanswer = "a"\n'
        path.write_text(f"{content}# {text}\n")
    else:
        path.write_text(text)


@pytest.mark.parametrize(("command", "field"), NAMED, ids=ids)
def test_another_content_of_what_a_setting_names_is_another_key(
    tmp_path, monkeypatch, command, field
):
    monkeypatch.chdir(tmp_path)
    location = location_of(command.settings.model_fields[field])
    path = Path("there.toml" if location == "task" else "there")
    value = {
        "path": path,
        "paths": (Path("first"), path),
        "adapters": ("first", str(path)),
        "weighted-adapters": ("first", f"{path}=0.5"),
    }.get(location, str(path))
    Path("first").write_text("the same")
    keys = []
    for text in ("one", "another", "one"):
        put(path, location, text)
        keys.append(key_of(command, **{field: value}))
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


def test_what_a_step_writes_is_not_in_its_own_key(tmp_path, monkeypatch):
    """A report may cover the folder that it is written to."""
    monkeypatch.chdir(tmp_path)
    Path("o/test").mkdir(parents=True)
    Path("o/test/scores.json").write_text("{}")
    before = key_of(COMMANDS["report"], ["o"])
    for name in ("step", "steps.json", ".lock"):
        (Path("o") / name).write_text("written")
    assert key_of(COMMANDS["report"], ["o"]) == before
    Path("o/test/scores.json").write_text('{"a": 1}')
    assert key_of(COMMANDS["report"], ["o"]) != before


def test_a_data_set_is_known_by_its_content_if_it_is_here_else_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS["train-task"]
    keys = {key_of(command, chat=Path(f"owner/{name}")) for name in ("a", "b", "a:train", "a@v1")}
    assert len(keys) == 4
    Path("here").mkdir()
    keys = set()
    for text in ("one", "two"):
        Path("here/train.csv").write_text(text)
        keys |= {key_of(command, chat=Path(f"here{end}")) for end in ("", ":default:train")}
    assert len(keys) == 4


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS.values() if command.argument], ids=ids
)
def test_another_content_or_name_of_an_input_is_another_key(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"r": 4}')
    before = key_of(command, ["one", "two"])
    assert key_of(command, ["two", "one"]) != before
    Path("two").rename("new")
    assert key_of(command, ["one", "new"]) != before, "tables show the name"
    Path("new").rename("two")
    assert key_of(command, ["one", "two"]) == before
    Path("two/adapter_config.json").write_text('{"r": 4, "lora_alpha": 9}')
    assert key_of(command, ["one", "two"]) != before


def test_another_command_is_another_key():
    keys = [key_of(command) for command in COMMANDS.values()]
    assert len(set(keys)) == len(keys)
    alike = replace(COMMANDS["eval"], settings=type("Other", (EvalSettings,), {"section": "other"}))
    assert key_of(alike) != key_of(COMMANDS["eval"])
    step = step_of(COMMANDS["eval"])
    assert step_key(step, Path("o")) == step_key(replace(step, name="renamed"), Path("o"))


def test_outputs_count_by_the_names_of_their_files(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "one.csv").write_text("a\n")
    before = content_hash(tmp_path / "run")
    (tmp_path / "run" / "one.csv").rename(tmp_path / "run" / "other.csv")
    assert content_hash(tmp_path / "run") != before


@pytest.fixture
def data(tmp_path):
    """A folder with data beside it and below."""
    for name in ("a.tsv", "b/c.tsv", "b/d/e.tsv", "b/f/g/train/f.csv"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    return tmp_path / "data"


def test_another_file_of_comet_is_another_key(tmp_path):
    command = COMMANDS["eval"]
    checkpoint = tmp_path / "model.ckpt"
    keys = [key_of(command, comet_model=str(checkpoint))]
    for content in (b"one", b"other"):
        checkpoint.write_bytes(content)
        keys.append(key_of(command, comet_model=str(checkpoint)))
    assert len({*keys}) == 3
    assert len({key_of(command, comet_model=name) for name in ("owner/one", "owner/two")}) == 2
    elsewhere = tmp_path / "other" / "model.ckpt"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"other")
    assert key_of(command, comet_model=str(elsewhere)) == keys[-1]


@pytest.mark.parametrize("name", ["a.tsv", "b/c.tsv", "b/d/e.tsv", "b/f/g/train/f.csv"])
def test_data_counts_by_name_place_and_content_at_any_depth(data, name):
    before = data_hash(data, data / "o")
    path = data / name
    text = path.read_text()
    path.write_text("changed\n")
    assert data_hash(data, data / "o") != before
    path.write_text(text)
    assert data_hash(data, data / "o") == before
    path.rename(path.with_name("z.tsv"))
    assert data_hash(data, data / "o") != before
    path.with_name("z.tsv").rename(path)
    moved = data / "b" / path.name if path.parent != data / "b" else data / path.name
    path.rename(moved)
    assert data_hash(data, data / "o") != before
    moved.unlink()
    assert data_hash(data, data / "o") != before


def test_the_data_of_an_own_task_counts(tmp_path):
    """Patterns may lead anywhere below the file; with a data folder, only that is read."""
    content = 'name = "own"\nmetrics = ["exact-match"]\nprompt = "{p}"\nanswer = "a"\n'
    path = tmp_path / "own.toml"
    path.write_text(f'{content}[files]\ntest = "test/{{lang}}.jsonl"\ndev = "{{lang}}.jsonl"\n')
    (tmp_path / "test").mkdir()
    files = [tmp_path / "test" / "cy.jsonl", tmp_path / "en.jsonl"]
    for file in files:
        file.write_text("{}\n")
    command = COMMANDS["eval"]
    before = key_of(command, task=str(path))
    for file in files:
        file.write_text('{"changed": 1}\n')
        assert key_of(command, task=str(path)) != before
        file.write_text("{}\n")
        assert key_of(command, task=str(path)) == before
        file.rename(file.with_name("sw.jsonl"))
        assert key_of(command, task=str(path)) != before
        file.with_name("sw.jsonl").rename(file)
    (tmp_path / "data").mkdir()
    elsewhere = key_of(command, task=str(path), data_dir=tmp_path / "data")
    files[0].write_text('{"changed": 1}\n')
    assert key_of(command, task=str(path), data_dir=tmp_path / "data") == elsewhere


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("a/b/c/{lang}.jsonl", "a/b/c/en.jsonl"),
        ("../beside/{lang}.jsonl", "../beside/en.jsonl"),
        ("{all}/beside/{lang}.jsonl", "../beside/en.jsonl"),
        ("[new] {lang}.jsonl", "[new] en.jsonl"),
        ("set:{lang}", "set/en/data/test/0.jsonl"),
    ],
)
@pytest.mark.parametrize("has_folder", [False, True])
def test_every_file_that_an_own_task_names_counts(tmp_path, pattern, name, has_folder):
    folder = tmp_path / "data"
    file = folder / name
    file.parent.mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    path = tmp_path / "own.toml" if has_folder else folder / "own.toml"
    content = 'name = "own"\nmetrics = ["exact-match"]\nprompt = "{p}"\nanswer = "a"\n'
    path.write_text(f'{content}[files]\ntest = "{pattern.replace("{all}", str(tmp_path))}"\n')
    named = {"task": str(path), "data_dir": folder if has_folder else None, "langs": ("en", "cy")}
    keys = []
    for text in ("one", "two", "one"):
        file.write_text(text)
        keys.append(key_of(COMMANDS["eval"], **named))
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


def test_a_link_to_a_folder_above_does_not_lead_into_a_circle(data):
    before = data_hash(data, data / "o")
    (data / "b" / "up").symlink_to(data)
    assert data_hash(data, data / "o") == before


def install_comet(folder):
    """Lay out what an installed environment looks like from outside."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    record = {"pins": list(comet_environment.PINS), "versions": {}, "megabytes": 1}
    (folder / comet_environment._RECORD).write_text(json.dumps(record))


@pytest.mark.parametrize("name", ["eval", "score"])
def test_the_presence_of_comet_counts_where_it_is_asked_for(tmp_path, name):
    """Without it the other metrics are given alone: a result that is not that of the step."""
    command = COMMANDS[name]
    asked = {"metrics": ("bleu", "comet")}
    without, plain = key_of(command, **asked), key_of(command, metrics=("bleu",))
    assert key_of(command, **asked, comet_python=Path("python")) != without
    install_comet(comet_environment.default_path())
    assert comet_environment.status().installed
    assert key_of(command, **asked) != without
    assert key_of(command, metrics=("bleu",)) == plain
    shutil.rmtree(comet_environment.default_path())
    assert key_of(command, **asked) == without


def test_the_config_is_enough_of_a_model_whose_weights_are_elsewhere(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors"}}')
    keys = set()
    for width in (8, 16):
        (tmp_path / "config.json").write_text(json.dumps({"hidden_size": width}))
        keys.add(key_of(COMMANDS["export"], model=str(tmp_path)))
    assert len(keys) == 2


BESIDE_THE_WEIGHTS = ("tokenizer.json", "chat_template.jinja", "generation_config.json")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", *BESIDE_THE_WEIGHTS])
def test_every_file_of_a_model_that_counts_is_in_the_key(tmp_path, model_dir, name):
    """What is asked depends on the template, and where an answer ends on the generation config."""
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    assert (model / name).is_file()
    before = key_of(COMMANDS["eval"], model=str(model))
    content = (model / name).read_bytes()
    half = len(content) // 2
    changed = content[:half] + bytes(byte ^ 1 for byte in content[half:])
    if name == "config.json":
        changed = json.dumps(json.loads(content) | {"rms_norm_eps": 0.1}).encode()
    (model / name).write_bytes(changed)
    assert key_of(COMMANDS["eval"], model=str(model)) != before
    (model / name).write_bytes(content)
    (model / "README.md").write_text("about")
    model.rename(tmp_path / "moved")
    assert key_of(COMMANDS["eval"], model=str(tmp_path / "moved")) == before


def test_what_only_tells_how_a_model_was_made_is_not_in_the_key(tmp_path, model_dir):
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    before = key_of(COMMANDS["eval"], model=str(model))
    config = json.loads((model / "config.json").read_text()) | {"transformers_version": "0"}
    (model / "config.json").write_text(json.dumps(config))
    assert key_of(COMMANDS["eval"], model=str(model)) == before
    (model / "adaptermix.json").write_text('{"sources": []}')
    assert key_of(COMMANDS["eval"], model=str(model)) == before


def test_data_are_all_files_that_a_reader_may_find(tmp_path):
    """Hidden files, weights, recipes and outputs are no data; other files are."""
    out = tmp_path / "runs"
    for name in ("a.txt", "b/c/d.txt", "b/c/e/deep.txt", ".hidden", "runs/o.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for name in ("b/figures", "trial/deep", "eval"):
        (tmp_path / name).mkdir(parents=True)
    names = ("m.safetensors", "b/m.bin", "b/.cache", os.fsdecode(b"caf\xe9.txt"))
    for name in (*names, "trial/steps.json", "eval/scores.json"):
        (tmp_path / name).write_text("x")
    before = data_hash(tmp_path, out)
    for name, counts in {
        "a.txt": True,
        "b/c/d.txt": True,
        "b/c/e/deep.txt": True,
        os.fsdecode(b"caf\xe9.txt"): True,
        ".hidden": False,
        "runs/o.txt": False,
        "m.safetensors": False,
        "b/m.bin": False,
        "b/.cache": False,
        "recipe.toml": False,
        "b/figures/plot.svg": False,
        "trial/task.log.jsonl": False,
        "trial/page.json": False,
        "trial/deep/table.json": False,
        "eval/en.jsonl": False,
    }.items():
        (tmp_path / name).write_text("y")
        assert (data_hash(tmp_path, out) != before) == counts, name
        (tmp_path / name).write_text("x")
    assert data_hash(tmp_path, out) == before
    assert data_hash(tmp_path / "none", out) == data_hash(tmp_path / "nothing", out)


def test_outputs_are_no_data_however_deep_they_lie(tmp_path):
    out = tmp_path / "a" / "runs"
    out.mkdir(parents=True)
    before = data_hash(tmp_path, out)
    (out / "report.txt").write_text("x")
    assert data_hash(tmp_path, out) == before


@pytest.mark.parametrize(("place", "counts"), [("data", False), ("o/step", True)])
def test_weights_count_in_an_output_and_not_beside_data(tmp_path, monkeypatch, place, counts):
    monkeypatch.chdir(tmp_path)
    Path(place).mkdir(parents=True)
    keys = []
    for content in (b"one", b"other"):
        (Path(place) / "model.safetensors").write_bytes(content)
        keys.append(key_of(COMMANDS["eval"], data_dir=Path(place)))
    assert (keys[0] != keys[1]) == counts


def test_only_a_file_of_toml_is_an_own_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = key_of(COMMANDS["eval"], task="massive")
    Path("massive").write_text("no TOML")
    assert key_of(COMMANDS["eval"], task="massive") == before
    assert key_of(COMMANDS["eval"], task="none.toml") != before


def test_weights_beside_a_tokenizer_are_no_part_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    keys = []
    for content in (b"one", b"other"):
        (folder / "adapter_model.safetensors").write_bytes(content)
        keys.append(key_of(COMMANDS["eval"], tokenizer="t"))
    assert keys[0] == keys[1]
    (folder / "tokenizer.json").write_text('{"a": 1}')
    assert key_of(COMMANDS["eval"], tokenizer="t") != keys[0]


def test_adapters_of_the_hub_count_by_their_whole_names_and_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["OWNER/one", "OWNER/two", "OTHER/one", "OWNER/one@v2"]
    assert len({key_of(COMMANDS["eval"], adapters=(name,)) for name in names}) == 4
    assert len({key_of(COMMANDS["merge"], inputs=(name,)) for name in names}) == 4
    weighted = [*names, *(f"OWNER/one={weight}" for weight in (0.2, 0.5))]
    assert len({key_of(COMMANDS["train-task"], on=(name,)) for name in weighted}) == 6

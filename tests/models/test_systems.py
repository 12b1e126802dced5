"""Evaluation, retrieval and search open what they work with in one way."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.adapters import peft_adapter
from helpers.families import hand_written
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.systems import (
    adapters_of,
    choose_baseline,
    read_routed_systems,
    read_systems,
    system_names,
)
from adaptermix.adapters.writing import write_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.merging.merge import merge
from adaptermix.models.files import fingerprint
from adaptermix.models.systems import open_systems
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.shared import ModelSettings


def test_systems_are_the_base_and_adapters_in_their_order(model_dir, tmp_path):
    paths = [tmp_path / name for name in ("b", "a")]
    for seed, path in enumerate(paths):
        peft_adapter(model_dir, path, seed=seed)
    settings = ModelSettings(model=str(model_dir))
    systems = open_systems(settings, read_systems(paths))
    assert systems.names == ["base", "b", "a"]
    assert open_systems(settings, systems.adapters, has_base=False).names == ["b", "a"]
    assert systems.record() == {
        "base_fingerprint": fingerprint(model_dir),
        "adapters": {
            path.name: {"path": str(path), "hash": adapter_hash(read_adapter(path))}
            for path in paths
        },
    }
    assert systems.notes() == []
    noted = dict(systems.adapters)
    noted["a"] = replace(noted["a"], notes=("a note of its own",))
    assert replace(systems, adapters=noted).notes() == ["a note of its own"]
    with pytest.raises(ConfigError, match="a system named 'a'"):
        read_systems([*paths, paths[1]])
    short = AutoModelForCausalLM.from_pretrained(model_dir, num_hidden_layers=1)
    short.save_pretrained(tmp_path / "short")
    with pytest.raises(ArtifactError, match="has no linear layer"):
        open_systems(ModelSettings(model=str(tmp_path / "short")), systems.adapters)


def test_an_adapter_of_another_revision_is_noted(model_dir, tmp_path):
    peft_adapter(model_dir, tmp_path / "a")
    settings = ModelSettings(model=str(model_dir), revision="v1")
    systems = open_systems(settings, read_systems([tmp_path / "a"]))
    adapter = systems.adapters["a"]
    assert systems.notes() == []  # a folder has no revisions
    config = adapter.config | {"base_model_name_or_path": "owner/model", "revision": "v2"}
    named = replace(systems, base="owner/model", adapters={"a": replace(adapter, config=config)})
    (note,) = named.notes()
    assert note.startswith("a was trained on revision v2 of its base model, and is used on")
    assert "revision v1;" in note


def test_files_of_another_shape_than_the_config_says_are_named(model_dir, tmp_path):
    folder = shutil.copytree(model_dir, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(ArtifactError, match="in its files, but config.json says .*128"):
        open_systems(ModelSettings(model=str(folder)), {})


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["run1/checkpoint-200", "run2/checkpoint-200"], ["run1-checkpoint-200", "run2-..."]),
        (["x/a/c", "y/a/c", "d"], ["x-a-c", "y-a-c", "d"]),
        (["a.safetensors", "b/a"], ["{here}-a", "b-a"]),
        (["runs/base"], ["runs-base"]),
        (["me/lora", "you/lora@v1", "me/lora/checkpoint-2"], ["lora", "lora@v1", "checkpoint-2"]),
        (["me/lora@refs/pr/1", "https://hf.co/you/lora"], ["lora@refs-pr-1", "lora"]),
        (["me/lora", "you/lora"], ["me-lora", "you-lora"]),
    ],
)
def test_names_are_as_short_as_tells_adapters_apart(tmp_path, monkeypatch, paths, names):
    monkeypatch.chdir(tmp_path)
    wanted = [n.format(here=tmp_path.name).replace("...", "checkpoint-200") for n in names]
    assert system_names(map(Path, paths)) == wanted


def test_the_baseline_is_what_counts_most_in_a_merge(model_dir, tmp_path):
    paths = {name: tmp_path / name for name in ("task", "align", "merged")}
    for seed, name in enumerate(("task", "align")):
        peft_adapter(model_dir, paths[name], seed=seed)
    merge([paths["align"], paths["task"]], MergeSettings(weights="0.2,0.8", out=paths["merged"]))

    def baseline(*names, **changes):
        settings = EvalSettings(adapters=[str(paths[name]) for name in names], **changes)
        found = choose_baseline(settings, read_systems(paths[name] for name in names))
        return found.name, found.reason

    assert baseline("align", "task", "merged") == ("task", "the main adapter of merged")
    assert baseline("merged", "align") == ("base", "the base model"), "task is not tested"
    assert baseline("task", "align") == ("base", "the base model"), "nothing was merged"
    assert baseline("merged", "align", exclude_base=True) == ("merged", "the first system")
    chosen = baseline("task", "merged", baseline="base")
    assert chosen == ("base", "chosen by --baseline")
    peft_adapter(model_dir, paths["task"], seed=9)
    assert baseline("task", "merged")[0] == "base", "another adapter of the same name"


@pytest.mark.parametrize("weights", ["0.5,0.5", "0.7,0.3"])
def test_an_adapter_trained_for_alignment_is_no_baseline_beside_a_task(
    model_dir, tmp_path, weights
):
    """Every merge with a task adapter is better than an alignment adapter alone."""
    paths = {name: tmp_path / name for name in ("align", "task", "merged")}
    for seed, name in enumerate(("align", "task")):
        peft_adapter(model_dir, tmp_path / f"{name}-peft", seed=seed)
        source = read_adapter(tmp_path / f"{name}-peft")
        record = {"command": f"train-{name}"}
        write_adapter(paths[name], dict(source.updates()), source.config, record)
    merge([paths["align"], paths["task"]], MergeSettings(weights=weights, out=paths["merged"]))
    systems = read_systems(paths.values())
    settings = EvalSettings(adapters=[str(path) for path in paths.values()])
    assert choose_baseline(settings, systems).name == "task"
    alone = {name: systems[name] for name in ("align", "merged")}
    assert choose_baseline(settings, alone).name == "align"
    del systems["align"]
    expected = "task" if weights == "0.5,0.5" else "base"
    assert choose_baseline(settings, systems).name == expected


def test_a_family_is_one_system_and_its_adapters_are_counted_once(model_dir, tmp_path):
    routes = 'default = "task"\n[routes.cy]\nadapter = "align"\n'
    family = hand_written(model_dir, tmp_path / "family", routes)
    systems = read_routed_systems([family / "task", family])
    assert list(systems) == ["task", "family"]
    assert list(adapters_of(systems)) == ["task", "family/align"]
    assert list(adapters_of({"family": systems["family"]})) == ["family/task", "family/align"]
    settings = EvalSettings(adapters=(str(family / "task"), str(family)))
    assert choose_baseline(settings, systems).name == "task"


def test_a_baseline_of_several_seeds_is_the_first_of_them(model_dir, tmp_path):
    paths = [tmp_path / name for name in ("other", "task-seed-1", "task-seed-2")]
    for seed, path in enumerate(paths):
        peft_adapter(model_dir, path, seed=seed)
    settings = EvalSettings(adapters=[str(path) for path in paths], baseline="task")
    found = choose_baseline(settings, read_systems(paths))
    assert (found.name, found.reason) == ("task-seed-1", "chosen by --baseline")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("0.2,0.3,0.5", "large"), ("0.3,0.2,0.5", "small"), ("-0.4,0.2,0.5", "large")],
)
def test_beside_an_alignment_the_task_adapter_of_the_largest_weight_is_the_baseline(
    model_dir, tmp_path, weights, expected
):
    """One that is taken away is none."""
    paths = {name: tmp_path / name for name in ("small", "large", "align", "merged")}
    for seed, name in enumerate(("small", "large", "align")):
        peft_adapter(model_dir, tmp_path / f"{name}-peft", seed=seed)
        source = read_adapter(tmp_path / f"{name}-peft")
        record = {"command": "train-align" if name == "align" else "train-task"}
        write_adapter(paths[name], dict(source.updates()), source.config, record)
    sources = [paths[name] for name in ("small", "large", "align")]
    merge(sources, MergeSettings(weights=weights, out=paths["merged"]))
    settings = EvalSettings(adapters=[str(path) for path in paths.values()])
    assert choose_baseline(settings, read_systems(paths.values())).name == expected

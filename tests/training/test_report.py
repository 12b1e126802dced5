"""What a training's record says, and what a resumed run is compared by."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.cards import TRAINED, write

from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings, TrainTaskSettings
from adaptermix.training.report import TrainReport, comparable

# Nothing else may change between a kill and --resume: these say where and how fast, not what.
FREE = {
    *("resume", "out", "threads", "workers", "tensorboard", "report_to"),
    "gradient_checkpointing",
}


@pytest.mark.parametrize("kind", [TrainTaskSettings, TrainAlignSettings, TrainJointSettings])
def test_a_run_resumes_only_with_the_settings_that_it_had(kind):
    settings = kind()
    names = kind.model_fields.keys() - {"on"}  # its content is compared
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the values are of no type of a setting
        changed = {
            name
            for name in names
            if comparable(settings.model_copy(update={name: Path("other")})) != comparable(settings)
        }
    assert names - changed == FREE & names


def test_a_run_resumes_only_on_the_adapters_that_it_had_at_their_weights(tmp_path):
    one, copy, other = (
        write(tmp_path / name, TRAINED, seed=seed)
        for name, seed in (("one", 1), ("copy", 1), ("other", 2))
    )

    def on(*adapters):
        return comparable(TrainTaskSettings(out=tmp_path / "a", on=adapters))

    usual = on(f"{one}=0.5")
    assert on(f"{copy}=0.5") == usual
    for changed in ([], [f"{one}=0.7"], [one], [f"{other}=0.5"], [f"{one}=0.5", f"{other}=0.5"]):
        assert on(*map(str, changed)) != usual, changed


def test_a_run_may_resume_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "work" / "data").mkdir(parents=True)
    (tmp_path / "work" / "massive").mkdir()  # the name of the task is no path
    seen = []
    for folder, prefix in ((tmp_path, "work/"), (tmp_path / "work", "")):
        monkeypatch.chdir(folder)
        for data in ("data", "gone"):
            place = Path(f"{prefix}{data}")
            settings = TrainTaskSettings(
                out=Path(f"{prefix}o/a"), data_dir=place, chat=Path(f"{place}:main:train")
            )
            seen.append(comparable(settings))
    assert seen[0] == seen[2]
    assert seen[0] != seen[1]


REPORT = TrainReport(
    out="a.safetensors",
    command="train-joint",
    examples={"en": 11, "cy-en": 12},
    dev_examples={"en": 1, "cy-en": 2},
    truncated=13,
    steps=1400,
    planned_steps=1500,
    trainable_parameters=16000,
    dev={"task_loss": 1.7, "retrieval_accuracy": 0.185},
    seconds=19.4,
    log="a.log.jsonl",
    written=True,
    dropped={"cy-en": {"too long": 21, "several sentences": 22}, "sw-en": {}},
)


def rows_of(report):
    """Return the rows of a report's table by their names, which are all different."""
    rows = report.view().shown[0].rows
    named = {str(name): str(value) for name, value in rows}
    assert len(named) == len(rows)
    return named


def test_every_number_of_a_result_is_in_its_row():
    assert rows_of(REPORT) == {
        "examples": "en 11  cy-en 12",
        "left out": "13 prompts longer than --max-length",
        "dropped cy-en": "too long 21  several sentences 22",
        "steps": "1,400 of at most 1,500",
        "trained": "16,000 parameters",
        "dev task loss": "1.7000",
        "dev retrieval accuracy": "18.5%",
        "time": "19 s",
        "log": "a.log.jsonl",
        "adapter": "a.safetensors",
    }
    layers = {"layer": "2", "pool_skip": 1, "accuracy": [0.25, 0.5]}
    assert rows_of(replace(REPORT, layers=layers)).items() - rows_of(REPORT).items() == {
        ("aligned", "layer 2; without the first token"),
        ("retrieval by layer before training", "1 25.0%  2 50.0%"),
    }
    several = replace(REPORT, layers={**layers, "pool_skip": 3})
    assert rows_of(several)["aligned"] == "layer 2; without the first 3 tokens"
    none = replace(REPORT, layers={**layers, "pool_skip": 0})
    assert rows_of(none)["aligned"] == "layer 2"
    tried = {"0.1": {"retrieval_accuracy": 0.2}, "0.5": {"retrieval_accuracy": 0.3}}
    several = replace(REPORT, kept="0.5", candidates=tried)
    assert rows_of(several).items() - rows_of(REPORT).items() == {
        ("temperature 0.1", "retrieval accuracy 20.0%"),
        ("temperature 0.5 (kept)", "retrieval accuracy 30.0%"),
    }


def test_every_number_of_a_plan_is_in_its_row():
    counts = {"held_parameters": 8_000_000, "tokens": 123_456, "memory_bytes": 2_340_000_000}
    plan = replace(REPORT, **counts, written=False, truncated=1, dropped={}, log=None)
    assert rows_of(plan) == {
        "examples": "en 11  cy-en 12",
        "left out": "1 prompt longer than --max-length",
        "steps": "at most 1,500",
        "tokens": "at most 123,456",
        "parameters": "16,000 trained, 8,000,000 frozen",
        "memory": "about 2.34 GB",
        "would write": "a.safetensors",
    }

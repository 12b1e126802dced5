"""Trackers of trainings, by TensorBoard's files; tests/system has the other trackers."""

import json
import sys
from pathlib import Path

import pytest
from helpers.training import align_settings, task_settings
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from adaptermix.errors import ResourceError
from adaptermix.training.align import train_align
from adaptermix.training.task import train_task
from adaptermix.training.trackers import place_of_run

SHORT = {"max_steps": 4, "eval_steps": 2, "report_to": ("tensorboard",)}


def values(folder, tag):
    """Return steps and values of a tag, over all files of a folder in the order of time."""
    return [
        (event.step, value)
        for path in sorted(folder.iterdir())
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == tag
    ]


def steps(folder, tag):
    return [step for step, _ in values(folder, tag)]


@pytest.mark.slow
def test_a_resumed_run_is_told_nothing_twice(tmp_path, model_dir, corpus_dir):
    """Stopped twice between checkpoints, once before what was told is reached again."""
    changes = {"max_steps": 6, "eval_steps": 3, "report_to": ("tensorboard",)}
    settings = task_settings(model_dir, corpus_dir, tmp_path / "a", **changes)

    def stop_after(step):
        def stop(progress):
            if progress.done == step:
                raise KeyboardInterrupt

        return stop

    for last in (5, 4):
        with pytest.raises(KeyboardInterrupt):
            train_task(settings, on_progress=stop_after(last))
        settings = settings.model_copy(update={"resume": True})
    cut = tmp_path / ".a.training" / "told.jsonl"
    assert cut.read_text() == ""
    log = tmp_path / "a.log.jsonl"  # as if a line had been logged between the checkpoints
    log.write_text(log.read_text() + '{"step": 6, "loss": 1.0, "grad_norm": 1.0, ')
    log.write_text(log.read_text() + '"learning_rate": 1.0, "epoch": 1.5}\n')
    notes = []
    train_task(settings, on_progress=lambda progress: notes.append(progress.note))
    assert f"tensorboard run a: {tmp_path / 'a.tensorboard'}" in notes
    assert steps(tmp_path / "a.tensorboard", "eval/loss") == [3, 6]
    assert steps(tmp_path / "a.tensorboard", "train/loss") == []  # told before, as the log said
    assert len(values(tmp_path / "a.tensorboard", "settings/text_summary")) == 1


def test_a_tracker_that_joins_late_gets_what_was_logged(tmp_path, model_dir, corpus_dir):
    def stop(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    settings = task_settings(model_dir, corpus_dir, tmp_path / "a", **SHORT)
    with pytest.raises(KeyboardInterrupt):
        train_task(settings.model_copy(update={"report_to": ()}), on_progress=stop)
    train_task(settings.model_copy(update={"resume": True}))
    assert steps(tmp_path / "a.tensorboard", "eval/loss") == [2, 4]


def test_the_settings_are_the_runs_configuration(tmp_path, model_dir, corpus_dir):
    settings = task_settings(
        model_dir, corpus_dir, tmp_path / "v1.5", **SHORT, rank=4, tensorboard=True
    )
    train_task(settings)
    ((_, value),) = values(tmp_path / "v1.5.tensorboard", "settings/text_summary")
    config = json.loads(value.tensor.string_val[0])
    assert config["command"] == "train-task"
    assert (config["rank"], config["langs"]) == (4, ["en"])
    assert "report_to" not in config


@pytest.mark.slow
def test_each_temperature_is_a_run_beside_the_output(tmp_path, model_dir, corpus_dir):
    settings = align_settings(
        model_dir, corpus_dir, tmp_path / "a.safetensors", temperature=(0.1, 1.0), **SHORT
    )
    train_align(settings)
    for name in ("a-0.1.tensorboard", "a-1.tensorboard"):
        assert steps(tmp_path / name, "eval/loss") == [2, 4]


@pytest.mark.parametrize(
    ("out", "place"),
    [
        ("runs/task.safetensors", "runs/task.safetensors"),
        ("runs/task-0.5", "runs/task-0.5"),
        ("runs/.task.safetensors.candidates/0.1.safetensors", "runs/task-0.1.safetensors"),
        ("runs/.v1.5.candidates/0.1.safetensors", "runs/v1.5-0.1.safetensors"),
    ],
)
def test_runs_are_named_by_the_output(out, place):
    assert place_of_run(Path(out)) == Path(place)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_first(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    settings = task_settings("no-model", tmp_path, tmp_path / "a", report_to=(name,))
    with pytest.raises(ResourceError, match=f"{name} is not installed") as stopped:
        train_task(settings)
    assert stopped.value.hint == f'pip install "adaptermix[{name}]"'

"""Runs in the stores of the trackers themselves, without their servers: after a kill and a resume.

wandb, mlflow and trackio are installed for the developers; where they are not, these tests skip.
"""

import json
import shutil
import signal
import sqlite3
import struct
import time

import pytest
from helpers import warm
from helpers.training import task_settings

from adaptermix.training.task import train_task

SECRETS = {
    "HF_TOKEN": "hf_secretofthehub",
    "WANDB_API_KEY": "secret00000000000000000000000000000wandb",
    "MLFLOW_TRACKING_TOKEN": "secretofmlflow",
    "TRACKIO_WRITE_TOKEN": "secretoftrackio",
}
# (step, name) of every number that a run of 12 steps logs more than once
LOSSES = {(4, "eval_loss"), (8, "eval_loss"), (10, "loss"), (12, "eval_loss")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_dir, corpus_dir):
    """A training that is killed after it has logged step 10, the last checkpoint being of 8."""
    for package in ("wandb", "mlflow", "trackio"):
        pytest.importorskip(package)
    place = tmp_path_factory.mktemp("tracked")
    line = ["train-task", "--model", str(model_dir)]
    line += ["--data-dir", str(corpus_dir), "--langs", "en", "--batch-size", "16", "--resume"]
    line += ["--micro-batch-size", "8", "--max-steps", "12", "--eval-steps", "4", "--json"]
    line += ["--report-to", "wandb,mlflow,trackio,tensorboard", "-o", "task.safetensors"]
    environment = {**SECRETS, "WANDB_MODE": "offline", "TRACKIO_DIR": str(place / "trackio")}
    child = warm.command(*line, cwd=place, **environment)
    log = place / "task.log.jsonl"
    while child.poll() is None and not (log.is_file() and '"step": 10' in log.read_text()):
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    done = warm.command(*line, cwd=place, **environment)
    assert done.wait() == 0, done.stderr
    (place / "stderr").write_text(child.stderr + done.stderr)
    assert json.loads(done.stdout)["steps"] == 12  # nothing but the result
    return place


def records(path):
    """Yield the records of wandb's file: a log of blocks, in the format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def logged_in_wandb(folder):
    """Of the second run: what a killed process has sent never gets into the file of the first."""
    return logged_in_wandb_files(sorted(folder.glob("wandb/offline-run-*/*.wandb"))[1:])


def logged_in_wandb_files(paths):
    found = []
    for path in paths:
        for record in records(path):
            items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            for name, key in (("loss", "train/loss"), ("eval_loss", "eval/loss")):
                if key in items:
                    found.append((int(items["train/global_step"]), name))
    return found


def wandb_runs(folder):
    return [
        record.run
        for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        for record in records(path)
        if record.WhichOneof("record_type") == "run"
    ]


def logged_in_trackio(folder):
    found = []
    with sqlite3.connect(folder / "trackio" / "adaptermix.db") as store:
        for (text,) in store.execute("select metrics from metrics"):
            row = json.loads(text)
            for name, key in (("loss", "train/loss"), ("eval_loss", "eval/loss")):
                if key in row:
                    found.append((row["train/global_step"], name))
    return found


def logged_in_mlflow(folder):
    with sqlite3.connect(folder / "mlflow.db") as store:
        rows = store.execute("select step, key from metrics where key in ('loss', 'eval_loss')")
        return rows.fetchall()


def logged_in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for path in (folder / "task.tensorboard").iterdir():
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag in ("train/loss", "eval/loss"):
                    found.append((event.step, value.tag.removeprefix("train/").replace("/", "_")))
    return found


@pytest.mark.parametrize(
    "logged", [logged_in_wandb, logged_in_mlflow, logged_in_trackio, logged_in_tensorboard]
)
def test_a_resumed_run_has_every_number_once(folder, logged):
    found = logged(folder)
    assert len(found) == len(set(found))
    assert LOSSES - {(10, "loss")} <= set(found) <= LOSSES  # the kill comes while that is sent


def test_the_run_has_the_outputs_name_and_the_settings(folder):
    *_, run = wandb_runs(folder)
    assert run.display_name == "task"
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["rank"], config["max_steps"], config["command"]) == (8, 12, "train-task")
    with sqlite3.connect(folder / "mlflow.db") as store:
        assert store.execute("select name, status from runs").fetchall() == [("task", "FINISHED")]
        params = dict(store.execute("select key, value from params"))
    assert (params["rank"], params["langs"]) == ("8", "['en']")
    with sqlite3.connect(folder / "trackio" / "adaptermix.db") as store:
        ((name, text),) = store.execute("select run_name, config from configs").fetchall()
    assert name == "task" and json.loads(text)["rank"] == 8


def test_no_key_is_in_any_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not any(secret.encode() in content for secret in SECRETS.values()), path


def test_a_run_of_wandb_that_was_interrupted_goes_on(tmp_path, model_dir, corpus_dir, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))

    def stop(progress):
        if progress.done == 11:
            raise KeyboardInterrupt

    changes = {"max_steps": 12, "eval_steps": 4, "report_to": ("wandb",)}
    settings = task_settings(model_dir, corpus_dir, tmp_path / "a-0.5", **changes)
    with pytest.raises(KeyboardInterrupt):
        train_task(settings, on_progress=stop)
    train_task(settings.model_copy(update={"resume": True}))
    first, second = wandb_runs(tmp_path)
    assert (first.display_name, first.run_id) == ("a-0.5", second.run_id)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert sorted(logged_in_wandb_files(files)) == sorted(LOSSES)


def test_a_tracker_that_cannot_be_reached_costs_a_note(
    folder, tmp_path, model_dir, corpus_dir, monkeypatch
):
    """Its database goes away while the training runs; the adapter is written."""
    shutil.copy(folder / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    notes = []

    def told(progress):
        if progress.note:
            notes.append(progress.note)
        if progress.done == 3:
            (tmp_path / "mlflow.db").write_bytes(b"no database")

    settings = task_settings(
        model_dir, corpus_dir, tmp_path / "a.safetensors", max_steps=6, report_to=("mlflow",)
    )
    assert train_task(settings, on_progress=told).written
    assert (tmp_path / "a.safetensors").is_file()
    assert notes[0].startswith("mlflow run a: sqlite:///")
    assert notes[1].startswith("mlflow failed: ")

"""Which of several adapters is kept, and what its report says; test_align.py trains them."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.adapters import peft_adapter
from helpers.training import align_settings, assert_same

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import write_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.training.report import TrainReport, recorded
from adaptermix.training.run import finished_report
from adaptermix.training.sweep import train_best

TEMPERATURES = (0.1, 0.5, 1.0)


@pytest.fixture
def sweep(tmp_path, model_dir, monkeypatch):
    """Keep the best of three adapters with these accuracies, which are written, not trained."""
    for seed, name in enumerate(map("{:g}".format, TEMPERATURES)):
        peft_adapter(model_dir, tmp_path / "made" / name, seed=seed)
    monkeypatch.chdir(tmp_path)
    settings = align_settings(model_dir, "..", tmp_path / "a.safetensors", temperature=TEMPERATURES)
    variants = {
        f"{each:g}": settings.model_copy(update={"temperature": (each,)}) for each in TEMPERATURES
    }

    def run(*accuracies):
        scores = dict(zip(variants, accuracies, strict=True))

        def train(variant):
            name = variant.out.name.removesuffix(".safetensors")
            source = read_adapter(tmp_path / "made" / name)
            log = variant.out.with_name(f"{name}.log.jsonl")
            log.write_text(f"{name}\n")
            report = TrainReport(
                **{"out": str(variant.out), "command": "train-align", "log": str(log)},
                **{"examples": {}, "dev_examples": {}, "truncated": 0, "written": True},
                **{"steps": 1, "planned_steps": 1, "trainable_parameters": 1},
                dev={"retrieval_accuracy": scores[name]},
                seconds=1.5,
            )
            record = report.as_record() | {"settings": recorded(variant)}
            del record["seconds"]
            write_adapter(variant.out, dict(source.updates()), source.config, record)
            return report

        return settings, train_best(settings, variants, train)

    return run


@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [((0.1, 0.3, 0.2), "0.5"), ((0.3, 0.2, 0.3), "0.1"), ((0.2, 0.3, 0.4), "1")],
)
def test_the_highest_accuracy_is_kept_and_of_a_tie_the_first(sweep, tmp_path, accuracies, kept):
    settings, report = sweep(*accuracies)
    assert report.kept == kept
    assert report.candidates == {
        f"{each:g}": {"retrieval_accuracy": score}
        for each, score in zip(TEMPERATURES, accuracies, strict=True)
    }
    assert report.dev == report.candidates[kept]
    assert report.seconds == 3 * 1.5
    assert_same(settings.out, tmp_path / "made" / kept)
    assert (tmp_path / "a.log.jsonl").read_text() == f"{kept}\n"
    assert report.log == str(tmp_path / "a.log.jsonl")
    record = read_adapter(settings.out).record
    assert record["settings"] == recorded(settings)
    assert not list(tmp_path.glob(".*"))
    stored = TrainReport.of_record(record)
    assert stored == replace(report, seconds=0.0, data_notes=[])


def test_what_a_kill_leaves_is_removed_by_the_resumed_run(sweep, tmp_path, monkeypatch):
    """Killed after the adapter was written, before the candidates were deleted."""
    settings, report = sweep(0.1, 0.3, 0.2)
    left = [tmp_path / f".a.safetensors.{kind}" for kind in ("training", "candidates")]
    for folder in left:
        folder.mkdir()
    monkeypatch.chdir(tmp_path / "made")
    elsewhere = settings.model_copy(update={"resume": True, "data_dir": Path("../..")})
    other = elsewhere.model_copy(update={"data_dir": Path("..")})
    assert finished_report(other, False) is None
    found = finished_report(elsewhere, False)
    assert found is not None and found.kept == report.kept
    assert not any(folder.exists() for folder in left)


def test_a_sweep_goes_on_with_its_settings_only(sweep, tmp_path):
    settings, _ = sweep(0.1, 0.3, 0.2)
    other = settings.model_copy(update={"out": tmp_path / "b.safetensors", "resume": True})
    work = tmp_path / ".b.safetensors.candidates"
    stopped = RuntimeError("stopped")

    def stop(variant):
        (variant.out.parent / f".{variant.out.name}.training" / "checkpoint-3").mkdir(parents=True)
        raise stopped

    def seen(given, force=False):
        """Return whether the checkpoint of the stopped run is there for the variant."""
        found = []

        def look(variant):
            found.append(any(work.glob(".*/checkpoint-3")))
            raise stopped

        with pytest.raises(RuntimeError, match="stopped"):
            train_best(given, {"1": given}, look, force=force)
        return found == [True]

    with pytest.raises(RuntimeError, match="stopped"):
        train_best(other, {"1": other}, stop)
    assert seen(other)
    assert seen(other.model_copy(update={"temperature": (0.1, 2.0)})), "further variants"
    with pytest.raises(ArtifactError, match="candidates of an unfinished run"):
        train_best(other.model_copy(update={"resume": False}), {"1": other}, stop)
    with pytest.raises(ConfigError, match="made with different settings"):
        train_best(other.model_copy(update={"layer": "2"}), {"1": other}, stop)
    assert not seen(other.model_copy(update={"layer": "2", "resume": False}), force=True)

"""Which of several adapters is kept, and what its report says; test_align.py trains them."""

from dataclasses import replace

import pytest
from helpers.adapters import peft_adapter
from helpers.training import align_settings, assert_same

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import write_adapter
from adaptermix.training.report import TrainReport, recorded
from adaptermix.training.sweep import train_best

TEMPERATURES = (0.1, 0.5, 1.0)


@pytest.fixture
def sweep(tmp_path, model_dir):
    """Keep the best of three adapters with these accuracies, which are written, not trained."""
    for seed, name in enumerate(map("{:g}".format, TEMPERATURES)):
        peft_adapter(model_dir, tmp_path / "made" / name, seed=seed)
    settings = align_settings(model_dir, None, tmp_path / "a.safetensors", temperature=TEMPERATURES)
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
    stored = TrainReport.of_record(record)
    assert stored == replace(report, seconds=0.0, data_notes=[])

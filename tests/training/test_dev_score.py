"""The dev score of a joint training."""

from pathlib import Path

import pytest
from helpers.training import joint_settings, write_own_task

from adaptermix.errors import DataError, ResourceError
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models.loading import load_tokenizer
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.tasks.catalog import make_task
from adaptermix.tasks.metrics.comet import CometScores
from adaptermix.training.batches import IGNORED
from adaptermix.training.dev_score import DevScore
from adaptermix.training.task import task_data


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "paper"},
        {"prompt": "authors-code"},
        {"prompt": "zero-shot"},
        {"system_prompt": "Be brief."},
    ],
)
def test_a_dev_score_asks_as_the_training_and_an_evaluation_do(model_dir, corpus_dir, asked):
    changes = {"system_prompt": None, "max_length": 4000, **asked}
    settings = joint_settings(model_dir, corpus_dir, "x", **changes)
    encoder = PromptEncoder(load_tokenizer(model_dir, settings))
    trained = [
        row.input_ids[: row.labels.count(IGNORED)] for row in task_data(settings, encoder).dev
    ]
    given = EvalSettings(task="massive", langs=("en",), **asked)
    task = make_task(given.task, given.prompt, given.system_prompt, given)
    dev = task.read("en", "dev", corpus_dir)[:4]
    tested = [encoder.prompt_ids(task.messages(example)) for example in dev]
    assert DevScore(settings, encoder, [1]).prompts["en"] == trained == tested
    assert len({*map(len, tested)}) > 1
    room = min(map(len, tested))
    cut = DevScore(settings, encoder, [1], room).prompts["en"]
    assert cut == [[ids[0], *ids[len(ids) - room + 1 :]] for ids in tested]


def test_comet_starts_once_for_all_languages_of_a_dev_score(tmp_path, model_dir, monkeypatch):
    """It is looked for, and its languages are checked, before a model is trained."""
    own = write_own_task(tmp_path)
    text = Path(own["task"]).read_text().replace('"chrf"', '"comet"')
    Path(own["task"]).write_text(text)
    settings = joint_settings(model_dir, None, "x", langs=("en", "cy"), dev_limit=2, **own)
    encoder = PromptEncoder(load_tokenizer(model_dir, settings))
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ResourceError, match="COMET is not installed"):
        DevScore(settings, encoder, [1])
    started = []

    def lengths(systems, **_):
        started.append(len(systems))
        return CometScores([[float(len(text)) for text in s.hypotheses] for s in systems], "c")

    monkeypatch.setattr("adaptermix.tasks.metrics.text.segment_scores_many", lengths)
    monkeypatch.setattr("adaptermix.tasks.metrics.text.check_comet", lambda *_: None)
    judge = DevScore(settings, encoder, [1])
    said = iter(["a", "bbb", "cc", "dddddd"])
    monkeypatch.setattr(judge, "_answers", lambda *_: [next(said), next(said)])
    assert judge(None) == 3.0
    assert started == [2]


def test_a_metric_that_cannot_score_a_language_is_refused_before_training(tmp_path, model_dir):
    own = write_own_task(tmp_path)
    text = Path(own["task"]).read_text().replace('"chrf"', '"bleu"')
    Path(own["task"]).write_text(f'target-lang = "qqq"\n{text}')
    settings = joint_settings(model_dir, None, "x", langs=("en",), **own)
    with pytest.raises(DataError, match="'qqq' is an unknown language"):
        DevScore(settings, PromptEncoder(load_tokenizer(model_dir, settings)), [1])

"""The dev score of a joint training."""

import pytest
from helpers.training import joint_settings

from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models.loading import load_tokenizer
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.tasks.catalog import make_task
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

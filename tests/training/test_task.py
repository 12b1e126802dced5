"""The data of a task, as it is trained on."""

import json

import pytest
from helpers.training import joint_settings, task_settings

from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models.loading import load_tokenizer
from adaptermix.training.dev_score import DevScore
from adaptermix.training.task import task_data

LANGS = ("en", "cy")


@pytest.mark.parametrize("make", [task_settings, joint_settings], ids=["task", "joint"])
@pytest.mark.parametrize(("limit", "dev_limit"), [(3, 2), (2, 3), (5, None)])
def test_limits_are_numbers_of_examples_of_each_language(
    model_dir, corpus_dir, make, limit, dev_limit
):
    changes = {"langs": LANGS, "limit": limit, "dev_limit": dev_limit}
    settings = make(model_dir, corpus_dir, "x", **changes)
    encoder = PromptEncoder(load_tokenizer(model_dir, settings))
    data = task_data(settings, encoder)
    all_of_dev = 10  # rows of the corpus
    wanted = dict.fromkeys(LANGS, dev_limit or all_of_dev)
    assert data.examples == dict.fromkeys(LANGS, limit)
    assert data.dev_examples == wanted
    assert [len(data.train), len(data.dev)] == [2 * limit, sum(wanted.values())]
    if make is joint_settings:
        examples = DevScore(settings, encoder, [1]).examples
        assert {lang: len(rows) for lang, rows in examples.items()} == wanted


@pytest.mark.parametrize(("dev_limit", "held"), [(1, 1), (3, 3), (None, 4), (9, 4)])
def test_a_tenth_of_the_conversations_is_held_out_at_most(tmp_path, model_dir, dev_limit, held):
    rows = [{"prompt": f"say {n}", "completion": f"lamp {n}"} for n in range(40)]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = task_settings(model_dir, None, "x", chat=path, dev_limit=dev_limit)
    data = task_data(settings, PromptEncoder(load_tokenizer(model_dir, settings)))
    assert (data.examples, data.dev_examples) == ({"chat": 40 - held}, {"chat": held})
    seen = {tuple(row.input_ids) for row in (*data.train, *data.dev)}
    assert len(seen) == 40

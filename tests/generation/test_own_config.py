"""A model's own generation config ends its answers, and changes nothing else."""

import json
import shutil

import pytest
from helpers.adapters import peft_adapter
from helpers.generation import answers_of, make_engine
from helpers.models import make_tokenizer

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import ArtifactError
from adaptermix.generation.engine import Request
from adaptermix.generation.own_config import find_stop_ids, greedy_changes, own_ends
from adaptermix.generation.prompts import PromptEncoder

PROMPTS = [[0, 20, 30, 40, 50, 60], [0, 33, 21, 45]]
# Qwen 2.5 has a penalty of 1.05 to 1.1.
CHANGING = [
    {"repetition_penalty": 1.5},
    {"suppress_tokens": list(range(100, 371))},
    {"num_return_sequences": 2, "do_sample": True},
    {"guidance_scale": 2.0},
    {"max_time": 0.0},
    {"use_cache": False, "encoder_repetition_penalty": 1.5},
    {"stop_strings": ["a"]},
]


def copy_with(model_dir, folder, **entries):
    shutil.copytree(model_dir, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def answers(model_dir, adapter=None):
    engine = make_engine(model_dir, max_new_tokens=8)
    return answers_of(engine, [Request(ids, adapter) for ids in PROMPTS])


@pytest.fixture(scope="module")
def plain(model_dir):
    return answers(model_dir)


@pytest.mark.parametrize("entries", CHANGING, ids=lambda entries: next(iter(entries)))
def test_answers_are_greedy_whatever_the_config_says(model_dir, plain, tmp_path, entries):
    other = copy_with(model_dir, tmp_path / "other", **entries)
    assert answers(other) == plain
    assert greedy_changes(other)


def test_adapters_answer_greedily_as_well(model_dir, plain, tmp_path):
    peft_adapter(model_dir, tmp_path / "adapter")
    adapter = stage_adapter(read_adapter(tmp_path / "adapter"), tmp_path)
    other = copy_with(model_dir, tmp_path / "other", repetition_penalty=1.5)
    assert answers(other, adapter) == answers(model_dir, adapter) != plain


@pytest.mark.parametrize(("own", "ends"), [(7, {7}), ([7, 9], {7, 9}), (None, set())], ids=str)
def test_an_answer_ends_with_any_end_of_template_tokenizer_or_model(model_dir, tmp_path, own, ends):
    """As those of Gemma, whose turns and texts end differently."""
    other = copy_with(model_dir, tmp_path / "other", eos_token_id=own)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<|pad|>"
    encoder = PromptEncoder(tokenizer)
    turn, text = encoder.end_id, tokenizer.eos_token_id
    assert turn != text
    assert own_ends(other) == ends
    assert find_stop_ids(other, encoder) == sorted({turn, text} | ends)
    tokenizer.eos_token = None
    assert find_stop_ids(other, encoder) == sorted({turn} | ends)


@pytest.mark.parametrize(
    ("config", "ends"),
    [
        ({"eos_token_id": [5, 6, 7]}, {5, 6, 7}),
        ({"eos_token_id": None, "text_config": {"eos_token_id": 5}}, {5}),
        ({"eos_token_id": 6, "text_config": {"eos_token_id": 5}}, {6}),
        ({}, set()),
    ],
    ids=str,
)
def test_without_a_generation_config_the_config_has_the_ends(tmp_path, config, ends):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert own_ends(tmp_path) == ends


def test_an_end_in_the_config_that_is_no_number_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ArtifactError, match=r"config\.json: eos_token_id is neither"):
        own_ends(tmp_path)


def test_sampling_defaults_and_token_ids_change_nothing(model_dir, tmp_path):
    other = copy_with(model_dir, tmp_path / "other", temperature=0.6, top_k=20, do_sample=True)
    assert not greedy_changes(other)
    assert not greedy_changes(tmp_path)

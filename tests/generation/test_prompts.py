"""Prompts that leave room for their answers."""

import json

import pytest
from helpers.evaluation import eval_settings
from helpers.models import CHAT_TEMPLATE, make_tokenizer
from helpers.tables import write_rows
from helpers.training import task_settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adaptermix.errors import ArtifactError, ConfigError, DataError
from adaptermix.generation.engine import read_answer
from adaptermix.generation.prompts import PromptEncoder, read_prompts
from adaptermix.models.loading import load_tokenizer
from adaptermix.tasks.catalog import make_task
from adaptermix.tasks.massive import Massive
from adaptermix.training.task import task_data


@pytest.mark.parametrize("context", [7, 8, 9, 20, 500])
def test_prompt_and_answer_fit_the_context(tmp_path, model_dir, corpus_dir, context):
    """A context that the longest answer fills is refused; longer prompts lose tokens."""
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    settings = eval_settings(model_dir, corpus_dir, "x", max_new_tokens=8)
    encoder = PromptEncoder.of(load_tokenizer(model_dir, settings), settings)
    arguments = settings, "test", Massive(system_prompt=""), encoder, tmp_path
    if context <= 8:
        with pytest.raises(ConfigError, match=f"accepts at most {context} tokens"):
            read_prompts(*arguments)
        return
    items = read_prompts(*arguments)
    assert max(len(item.prompt_ids) + 8 for item in items) <= context
    for item in items:
        whole = encoder.prompt_ids([{"role": "user", "content": item.example.utterance}])
        assert item.is_truncated == (len(whole) + 8 > context)
        assert item.prompt_ids[0] == whole[0]
        assert item.prompt_ids[1:] == whole[len(whole) - len(item.prompt_ids) + 1 :]


@pytest.mark.parametrize("newline", [False, True])
def test_an_encoder_follows_the_settings(tmp_path, newline):
    """A template in a file with its lines, and a newline after each end of a turn."""
    path = tmp_path / "own.jinja"
    lines = ["T", CHAT_TEMPLATE.replace("<|end|>", "<|eot_id|>")]
    path.write_text("\n".join(lines))
    settings = eval_settings("m", "d", "o", chat_template=path, turn_newline=newline)
    encoder = PromptEncoder.of(make_tokenizer("<|eot_id|>"), settings)
    said = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    end = "<|eot_id|>\n" if newline else "<|eot_id|>"
    text = f"T\n<|bos|><|user|>one{end}<|assistant|>"
    assert encoder.prompt_text(said[:1]) == text
    assert encoder.prompt_text(said, is_answered=True) == f"{text}two{end}"


@pytest.fixture
def own(tmp_path):
    """A task whose rows have an id."""
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\nmetrics = ["chrf"]\nprompt = "{asked}"\nanswer = "answered"\nid = "id"\n'
        '[files]\ntest = "{lang}.jsonl"\n'
    )
    return path


def read_own(own, model_dir, ids, tokenizer=None):
    rows = [{"id": id, "asked": f"say {id}", "answered": "lamp"} for id in ids]
    write_rows(own.with_name("en.jsonl"), rows)
    settings = eval_settings(model_dir, own.parent, "o", task=str(own), langs=("en",), limit=None)
    encoder = PromptEncoder(tokenizer or make_tokenizer())
    items = read_prompts(settings, "test", make_task(str(own)), encoder, model_dir)
    assert encoder.notes == []
    return items


def test_answers_that_the_tokenizer_cannot_write_are_noted():
    tokenizer = make_tokenizer()
    encoder = PromptEncoder(tokenizer)
    answers = {"en": ["time: five", "Caf\u00e9  noir"], "cy": ["d\u0175r"], "sw": ["taa"]}
    encoder.note_on_answers(answers)
    assert encoder.notes == []
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    encoder.note_on_answers(answers)
    assert encoder.notes == [
        "the tokenizer cannot write 2 of 4 correct answers as they are (en, cy); for example, "
        "'Caf\u00e9  noir' becomes 'cafe  noir'"
    ]


def test_spaces_of_answers_are_kept():
    """A tokenizer of whole words that removes spaces before punctuation, unless told not to."""
    text = "Quoi ? o 'neil , n't"
    words = models.WordLevel({"<e>": 0} | {word: 1 + at for at, word in enumerate(text.split())})
    backend = Tokenizer(words)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    options = {"eos_token": "<e>", "clean_up_tokenization_spaces": True}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    encoder = PromptEncoder(tokenizer)
    encoder.note_on_answers({"fr": [text]})
    assert encoder.notes == []
    ids = encoder.answer_ids(text)
    read = read_answer(ids, [encoder.end_id], tokenizer)
    assert (read.text, read.is_truncated, read.tokens) == (text, False, len(ids))
    cut = read_answer(ids[:-1], [encoder.end_id], tokenizer)
    assert (cut.is_truncated, cut.tokens) == (True, len(ids) - 1)


def test_what_the_tokenizer_cannot_write_is_noted_by_evaluations_and_trainings(
    model_dir, corpus_dir
):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(":", ";")
    settings = eval_settings(model_dir, corpus_dir, "o")
    found = []
    for read in (
        lambda encoder: read_prompts(settings, "test", Massive(""), encoder, model_dir),
        lambda encoder: task_data(task_settings(model_dir, corpus_dir, "o"), encoder),
    ):
        encoder = PromptEncoder(tokenizer)
        read(encoder)
        found += encoder.notes
    assert [note[:27] for note in found] == ["the tokenizer cannot write "] * 2
    assert all("'color_type: red; house_" in note for note in found)


def test_an_id_that_occurs_twice_is_refused(own, model_dir):
    assert len(read_own(own, model_dir, ["a", "b", "c"])) == 3
    with pytest.raises(DataError, match="en: an id occurs twice in the test data"):
        read_own(own, model_dir, ["a", "b", "a"])


def test_prompts_with_tokens_that_the_model_has_not_are_refused(own, model_dir):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["lamp-4711"])
    assert read_own(own, model_dir, ["a"], tokenizer)
    with pytest.raises(ArtifactError, match="the tokenizer has token"):
        read_own(own, model_dir, ["a", "lamp-4711"], tokenizer)

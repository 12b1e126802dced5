import copy

import pytest
import torch
from helpers.models import make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, processors

from adaptermix.data.chats import Chat
from adaptermix.data.pairs import ParallelPair
from adaptermix.errors import ArtifactError, DataError
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.tasks.massive import SYSTEM_PROMPTS
from adaptermix.training.batches import (
    IGNORED,
    AnswerCollator,
    EncodedPair,
    PairCollator,
    encode_chat,
    encode_example,
    encode_pairs,
    padded_length,
    token_count,
)

TOKENIZER = make_tokenizer()
MESSAGES = [{"role": "system", "content": "slots"}, {"role": "user", "content": "wake me"}]


def test_a_prompt_is_the_chat_template_with_one_bos():
    ids = PromptEncoder(TOKENIZER).prompt_ids(MESSAGES)
    text = "<|bos|><|system|>slots<|end|><|user|>wake me<|end|><|assistant|>"
    assert TOKENIZER.decode(ids) == text
    assert ids.count(TOKENIZER.bos_token_id) == 1


def test_an_answer_ends_with_the_templates_end_of_turn():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.eos_token = "<|pad|>"  # as in Gemma, where turns and texts end differently
    encoder = PromptEncoder(tokenizer)
    assert encoder.end_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert encoder.answer_ids("None")[-1] == encoder.end_id


def test_a_tokenizer_without_template_gets_paragraphs():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = None
    encoder = PromptEncoder(tokenizer)
    assert tokenizer.decode(encoder.prompt_ids(MESSAGES)) == "<|bos|>slots\n\nwake me\n\n"
    assert encoder.end_id == tokenizer.eos_token_id


def test_a_tokenizer_without_end_is_refused():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = tokenizer.eos_token = None
    with pytest.raises(ArtifactError, match="no end-of-sequence token"):
        PromptEncoder(tokenizer)


def test_turn_newlines_follow_each_eot_as_the_authors_trained_llama_3():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|eot_id|>")
    plain, authors = (
        tokenizer.decode(PromptEncoder(tokenizer, turn_newline=newline).prompt_ids(MESSAGES))
        for newline in (False, True)
    )
    assert authors == plain.replace("<|eot_id|>", "<|eot_id|>\n")
    assert authors.count("\n") == 2


def test_system_prompts_are_the_papers_and_the_released_datas():
    assert SYSTEM_PROMPTS["paper"] == (
        "Given a command from the user, a voice assistant will extract entities essential for "
        "carry out the command. Your task is to extract the entities as words from the command "
        "if they fall under a predefined list of entity types."
    )
    first, second, third = SYSTEM_PROMPTS["authors-code"].split("\n")
    assert f"{first} {third}" == SYSTEM_PROMPTS["paper"]
    assert second.startswith("For example, for a command about playing a specific song")


@given(st.integers(1, 8), st.integers(1, 8), st.integers(2, 20))
def test_labels_cover_the_answer_and_nothing_else(prompt_length, answer_length, max_length):
    prompt, answer = [7] * prompt_length, list(range(100, 100 + answer_length))
    encoded = encode_example(prompt, answer, max_length)
    if prompt_length >= max_length:
        assert encoded is None
        return
    assert encoded.input_ids == (prompt + answer)[:max_length]
    labelled = [label for label in encoded.labels if label != IGNORED]
    assert labelled == answer[: max_length - prompt_length]
    assert labelled == encoded.input_ids[prompt_length:]


def test_padding_has_no_attention_and_no_label():
    rows = [encode_example([5, 6], [7], 9), encode_example([5], [8, 9, 10], 9)]
    batch = AnswerCollator(pad_id=2)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2], [5, 8, 9, 10]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, IGNORED], [IGNORED, 8, 9, 10]]


def test_pairs_are_raw_text_with_the_tokenizers_bos_sources_first():
    pairs = [ParallelPair("helo", "hello", "cy-en"), ParallelPair("habari", "hi", "sw-en")]
    batch = PairCollator(pad_id=2)(encode_pairs(pairs, TOKENIZER, 64))
    texts = [
        TOKENIZER.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert texts == [f"<|bos|>{text}" for text in ("helo", "habari", "hello", "hi")]
    assert torch.equal(batch["input_ids"] == 2, batch["attention_mask"] == 0)


SENTENCE = st.lists(st.integers(0, 99), min_size=1, max_size=6)


@given(source=SENTENCE, target=SENTENCE, anchor=st.lists(st.integers(0, 99), max_size=6))
def test_a_pair_is_as_large_as_all_its_sentences(source, target, anchor):
    pair = EncodedPair(source, target, "here", anchor)
    sentences = (source, target, anchor)
    assert pair.largest_id == max(token for sentence in sentences for token in sentence)
    assert token_count(pair) == sum(map(len, sentences))
    assert padded_length(pair) == max(map(len, sentences))
    assert PairCollator(2)([pair])["input_ids"].shape[1] == padded_length(pair)
    assert PairCollator(2)([pair])["attention_mask"].sum() == token_count(pair)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_sentence_without_tokens_is_named_with_its_line(side):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    texts = {"source": "helo", "target": "hello"} | {side: "xxx"}
    pair = ParallelPair(**texts, pair="cy-en", location="cy-en.tsv:7")
    with pytest.raises(DataError, match=r"^cy-en\.tsv:7: the sentence 'xxx' has no tokens$"):
        encode_pairs([pair], tokenizer, 64)


THINKING = (
    "<|bos|>{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and loop.last and '</think>' not in m.content %}"
    "<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}{% for call in m.tool_calls or () %}<call>{{ call.function.name }}"
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def trained_text(content, **message):
    """Return the text of a conversation's sequence, and the part of it that has labels."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = THINKING
    encoder = PromptEncoder(tokenizer)
    answer = {"role": "assistant", "content": content, **message}
    chat = Chat([{"role": "user", "content": "hello"}, answer], "here")
    (example,) = encode_chat(chat, encoder, 200)
    labels = [label for label in example.labels if label >= 0]
    return tokenizer.decode(example.input_ids), tokenizer.decode(labels)


def test_an_answer_without_reasoning_follows_an_empty_block():
    asked = "<|bos|><|user|>hello<|end|><|assistant|><think>\n\n</think>\n\n"
    assert trained_text("five") == (asked + "five<|end|>", "five<|end|>")


@pytest.mark.parametrize("start", ["<think>\n", "<think>", ""])
def test_an_answer_with_reasoning_follows_the_open_block(start):
    asked, said = (
        "<|bos|><|user|>hello<|end|><|assistant|><think>\n",
        "a clock\n</think>\n\nfive<|end|>",
    )
    given = start + "a clock\n</think>\n\nfive"
    assert trained_text(given) == (asked + said, said)

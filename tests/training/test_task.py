"""The data of a task, as it is trained on."""

import json
from collections import Counter

import pytest
from helpers.tables import write_rows
from helpers.training import joint_settings, task_settings

from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models.loading import load_tokenizer
from adaptermix.training.batches import IGNORED
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


def langs_of(rows):
    return Counter(row.name.partition(":")[0] for row in rows)


def test_prompts_that_do_not_fit_are_counted_in_every_language_and_split(model_dir, corpus_dir):
    """What is left is counted by language, and what is missing over all of them."""
    settings = task_settings(model_dir, corpus_dir, "x", langs=LANGS)
    encoder = PromptEncoder(load_tokenizer(model_dir, settings))
    whole = task_data(settings, encoder)
    lengths = [
        [row.labels.count(IGNORED) for row in rows if row.name.startswith("en")]
        for rows in (whole.train, whole.dev)
    ]
    most = max(map(min, lengths)) + 1  # some of English, in both splits
    data = task_data(settings.model_copy(update={"max_length": most}), encoder)
    for counts, rows, all_of_them in (
        (data.examples, data.train, whole.examples),
        (data.dev_examples, data.dev, whole.dev_examples),
    ):
        assert counts == {lang: langs_of(rows)[lang] for lang in LANGS}
        assert 0 < counts["en"] < all_of_them["en"]
    rows = [len(each.train) + len(each.dev) for each in (whole, data)]
    assert data.truncated == rows[0] - rows[1]
    assert whole.truncated == 0


def chats(folder, name, numbers):
    """Write conversations; the prompts of numbers that are divisible by 5 are long."""
    rows = [{"prompt": f"say {n} " * (1 if n % 5 else 90), "completion": "lamp"} for n in numbers]
    return write_rows(folder / name, rows)


def chat_data(model_dir, **changes):
    settings = task_settings(model_dir, None, "x", **changes)
    return task_data(settings, PromptEncoder(load_tokenizer(model_dir, settings)))


@pytest.mark.parametrize(("limit", "dev_limit"), [(8, 3), (3, 8), (None, 2)])
def test_limits_of_conversations_are_those_of_their_own_file(tmp_path, model_dir, limit, dev_limit):
    data = chat_data(
        model_dir,
        chat=chats(tmp_path, "train.jsonl", range(1, 25)),
        dev_chat=chats(tmp_path, "dev.jsonl", range(31, 60)),
        limit=limit,
        dev_limit=dev_limit,
    )
    assert (data.examples, data.dev_examples) == ({"chat": limit or 24}, {"chat": dev_limit})
    assert all("train.jsonl:" in row.name for row in data.train)
    assert all("dev.jsonl:" in row.name for row in data.dev)
    assert data.dropped == {}


def test_conversations_whose_answers_do_not_fit_are_counted_apart(tmp_path, model_dir):
    data = chat_data(
        model_dir,
        chat=chats(tmp_path, "train.jsonl", range(1, 21)),
        dev_chat=chats(tmp_path, "dev.jsonl", range(1, 11)),
        max_length=100,
    )
    assert (data.examples, data.dev_examples) == ({"chat": 16}, {"chat": 8})
    assert [len(data.train), len(data.dev)] == [16, 8]
    assert data.dropped == {"chat": {"no answer within --max-length": 4 + 2}}


def test_a_system_prompt_is_put_before_conversations_without_one(tmp_path, model_dir):
    """As if it were written there; the same answers are learned."""
    system = {"role": "system", "content": "Be brief."}
    asked, said = {"role": "user", "content": "say 5"}, {"role": "assistant", "content": "lamp"}
    context = {**said, "weight": 0}
    given = [[asked, said], [asked, context, asked, said], [said, asked, said]]
    whole = [[system, *turns] for turns in [*given[:2], [context, asked, said]]]
    own = [{**system, "role": "developer"}, asked, said]
    found = []
    for name, rows, prompt in (("given", given, "Be brief."), ("whole", whole, "")):
        path = write_rows(tmp_path / f"{name}.jsonl", [{"messages": row} for row in [*rows, own]])
        data = chat_data(model_dir, chat=path, dev_chat=path, system_prompt=prompt)
        found.append([(row.input_ids, row.labels) for row in (*data.train, *data.dev)])
    assert found[0] == found[1]


def test_another_seed_holds_out_other_conversations(tmp_path, model_dir):
    path = chats(tmp_path, "all.jsonl", range(1, 60))
    held = [
        {row.name for row in chat_data(model_dir, chat=path, dev_limit=4, seed=seed).dev}
        for seed in (1, 1, 2)
    ]
    assert held[0] == held[1] != held[2]

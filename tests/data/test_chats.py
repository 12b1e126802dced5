"""Which tokens of a conversation are learned: the assistant's answers, and nothing else."""

import json

import pytest
from helpers.models import make_tokenizer
from helpers.training import factors, task_settings

from adaptermix.commands.settings_file import load_settings
from adaptermix.data.chats import Chat, read_chats
from adaptermix.errors import ConfigError, DataError
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.batches import IGNORED, encode_chat
from adaptermix.training.task import task_data, train_task

# The published templates of Llama 3 Instruct and of Qwen 2.5 (its branch without tools).
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] "
    "+ '<|im_end|>\n' }}{%- else %}{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}"
    "{%- endif %}{%- for message in messages %}{%- if not (message.role == 'system' and "
    "loop.first) %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + "
    "'\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# Leaves earlier answers out: no prompt goes on where the one before ended.
FORGETFUL = (
    "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}<|{{ m.role }}|>"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"]
TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "helo, habari"},
    {"role": "user", "content": "play jazz"},
    {"role": "assistant", "content": "music: jazz"},
]


def encoder_of(template, **options):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS})
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer, **options)


def learned(row, encoder):
    """The stretches of labelled tokens, as text; labels must be the tokens themselves."""
    stretches, before = [], False
    for token, label in zip(row.input_ids, row.labels, strict=True):
        assert label in (IGNORED, token)
        if label != IGNORED:
            stretches += [] if before else [[]]
            stretches[-1].append(label)
        before = label != IGNORED
    return [encoder.tokenizer.decode(stretch) for stretch in stretches]


@pytest.mark.parametrize(
    ("template", "end"), [(LLAMA3, "<|eot_id|>"), (CHATML, "<|im_end|>")], ids=["llama3", "chatml"]
)
def test_every_answer_and_its_end_are_learned_and_nothing_else(template, end):
    encoder = encoder_of(template)
    (row,) = encode_chat(Chat(TURNS, "f:1"), encoder, 1000)
    assert learned(row, encoder) == [f"helo, habari{end}", f"music: jazz{end}"]
    # The whole is what the template makes of the conversation, as far as the last answer's end.
    text = encoder.tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert encoder.tokenizer.decode(row.input_ids) == text[: text.rindex(end) + len(end)]
    # And what precedes each answer is what generation would be given there.
    for at, answer in ((2, TURNS[2]), (4, TURNS[4])):
        prompt = encoder.tokenizer.apply_chat_template(
            TURNS[:at], tokenize=False, add_generation_prompt=True
        )
        ids = encoder.text_ids(prompt)
        assert row.input_ids[: len(ids)] == ids
        assert encoder.tokenizer.decode(row.labels[len(ids)]) == answer["content"][:1] or (
            answer["content"].startswith(encoder.tokenizer.decode(row.labels[len(ids)]))
        )
    assert row.name == "f:1"


def test_a_template_that_rewrites_history_gets_one_sequence_an_answer():
    encoder = encoder_of(FORGETFUL)
    rows = encode_chat(Chat(TURNS, "f:1"), encoder, 1000)
    assert [learned(row, encoder) for row in rows] == [
        ["helo, habari<|end|>"],
        ["music: jazz<|end|>"],
    ]
    assert "habari" not in encoder.tokenizer.decode(rows[1].input_ids)


def test_an_assistant_that_opens_a_conversation_answers_nothing():
    encoder = encoder_of(CHATML)
    opening = {"role": "assistant", "content": "welcome"}
    (row,) = encode_chat(Chat([opening, *TURNS[1:]], "f:1"), encoder, 1000)
    assert learned(row, encoder) == ["helo, habari<|im_end|>", "music: jazz<|im_end|>"]
    assert "welcome" in encoder.tokenizer.decode(row.input_ids)
    assert encode_chat(Chat([opening], "f:1"), encoder, 1000) == []


def test_the_authors_newline_stays_between_turns():
    encoder = encoder_of(LLAMA3, turn_newline=True)
    (row,) = encode_chat(Chat(TURNS, "f:1"), encoder, 1000)
    assert "helo, habari<|eot_id|>\n<|start_header_id|>user" in encoder.tokenizer.decode(
        row.input_ids
    )


def test_answers_beyond_the_length_and_empty_ones_are_not_learned():
    encoder = encoder_of(CHATML)
    (row,) = encode_chat(Chat(TURNS, "f:1"), encoder, 1000)
    start = next(at for at, label in enumerate(row.labels) if label != IGNORED)
    assert encode_chat(Chat(TURNS, "f:1"), encoder, start) == []
    (cut,) = encode_chat(Chat(TURNS, "f:1"), encoder, start + 1)
    assert sum(label != IGNORED for label in cut.labels) == 1
    silent = [*TURNS[:2], {"role": "assistant", "content": " "}]
    assert encode_chat(Chat(silent, "f:1"), encoder, 1000) == []


def write(path, rows):
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def chat_settings(model_dir, out, **changes):
    changes = {"langs": ("en",), "batch_size": 4, "micro_batch_size": 2, "max_steps": 2} | changes
    return task_settings(model_dir, None, out, **changes)


def test_conversations_train_an_adapter_and_those_without_an_answer_are_counted(
    tmp_path, model_dir
):
    rows = [[*TURNS[:3], {"role": "user", "content": str(n)}, TURNS[4]] for n in range(20)]
    path = write(tmp_path / "chat.jsonl", [*rows, TURNS[:2]])
    settings = chat_settings(model_dir, tmp_path / "a", chat=path, dev_chat=path)
    report = train_task(settings)
    assert report.examples == report.dev_examples == {"chat": 20}
    assert report.dropped == {"chat": {"no answer within --max-length": 2}}
    assert factors(tmp_path / "a")


def test_dev_conversations_are_held_out(tmp_path):
    rows = [[{"role": "user", "content": str(n)}, TURNS[2]] for n in range(30)]
    path = write(tmp_path / "chat.jsonl", rows)
    settings = chat_settings("m", tmp_path / "a", chat=path)
    data = task_data(settings, encoder_of(CHATML))
    assert (data.examples, data.dev_examples) == ({"chat": 27}, {"chat": 3})
    names = [row.name for row in (*data.train, *data.dev)]
    assert sorted(names) == sorted(f"{path}:{n}" for n in range(1, 31))


def test_one_conversation_is_not_enough_for_training_and_dev_data(tmp_path):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(row))
    settings = task_settings(None, None, tmp_path / "a", chat=path)
    with pytest.raises(DataError, match="only one conversation") as caught:
        task_data(settings, encoder_of(CHATML))
    assert "--dev-chat" in caught.value.hint


def test_half_a_character_is_replaced(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(r'{"messages": [{"role": "user", "content": "a\ud83d \ud83e\udd99"}]}')
    (chat,) = read_chats(path)
    assert chat.messages[0]["content"] == "a\N{REPLACEMENT CHARACTER} 🦙"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "chat.jsonl:2: not JSON"),
        ('{"message": []}', "chat.jsonl:2: expected a list in 'messages'"),
        ('{"messages": []}', "chat.jsonl:2: expected a list in 'messages'"),
        ('{"messages": [{"content": "a"}]}', "chat.jsonl:2: a message has no 'role'"),
        ('{"messages": [{"role": "user", "content": null}]}', "chat.jsonl:2: the 'content'"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "chat.jsonl:2: the"),
    ],
)
def test_malformed_records_are_named(tmp_path, line, message):
    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": [{"text": "a"}]}]}\n' + line)
    with pytest.raises(DataError, match=message) as caught:
        read_chats(path)
    assert caught.value.hint


def test_what_a_template_refuses_is_named():
    encoder = encoder_of(CHATML)
    encoder.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(
        DataError, match="f:7: the model's chat template rejects the conversation: no system"
    ):
        encode_chat(Chat(TURNS, "f:7"), encoder, 100)


def test_dev_conversations_need_conversations(tmp_path):
    with pytest.raises(ConfigError, match="--dev-chat needs --chat"):
        load_settings(TrainTaskSettings, {"dev_chat": str(tmp_path)})

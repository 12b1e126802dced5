"""Conversations, pairs and tasks of one's own: every format and layout gives the same tokens."""

import json
from dataclasses import replace

import pytest
from helpers.models import make_tokenizer
from helpers.tables import FORMATS, write_rows
from helpers.training import align_settings, task_settings

from adaptermix.data.chats import Chat, read_chats
from adaptermix.data.layouts import Layout, recognize
from adaptermix.data.pair_tables import has_header, open_pairs
from adaptermix.data.pairs import PairPlace, read_pairs
from adaptermix.errors import AdaptermixError, ConfigError, DataError
from adaptermix.files.records import open_records
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.tasks.catalog import make_task
from adaptermix.training.align import align_data
from adaptermix.training.batches import IGNORED, encode_chat
from adaptermix.training.task import task_data

# Writes tools and their calls, as the templates of Qwen and Hermes do.
TOOLS = (
    "{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|end|>"
    "{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for call in m.tool_calls "
    "or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LAMP = {
    "name": "lamp",
    "description": "switch a lamp",
    "parameters": {"type": "object", "properties": {"color": {"type": "string"}}},
}
TOOL_LIST = [{"type": "function", "function": LAMP}]
ARGUMENTS = ({"color": "red"}, {"place": "hall"})  # in parquet, each call has both


def call_of(number):
    return {"name": "lamp", "arguments": ARGUMENTS[number % 2]}


def messages(number, call=None):
    call = call or {"type": "function", "function": call_of(int(number))}
    return [
        {"role": "user", "content": f'red lamp, "{number}"'},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "on"},
        {"role": "assistant", "content": "done"},
    ]


def encoder_of(template=TOOLS):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer)


def encoded(path, encoder, **columns):
    chats = read_chats(path, columns)
    rows = [row for chat in chats for row in encode_chat(chat, encoder, 1000)]
    return [(row.input_ids, row.labels) for row in rows]


SYSTEM_ONE = {"role": "system", "content": "s"}
USER_ONE = {"role": "user", "content": "u"}
ANSWER_ONE = {"role": "assistant", "content": "a"}
LAYOUTS = {
    "messages": [{"messages": messages(n), "tools": TOOL_LIST} for n in range(3)],
    "openai": [
        {
            "messages": messages(
                n,
                {
                    "id": "1",
                    "function": {"name": "lamp", "arguments": json.dumps(ARGUMENTS[n % 2])},
                },
            ),
            "tools": json.dumps(TOOL_LIST),
        }
        for n in range(3)
    ],
    "sharegpt": [
        {
            "conversations": [
                {"from": "human", "value": f'red lamp, "{n}"'},
                {"from": "function_call", "value": json.dumps(call_of(n))},
                {"from": "observation", "value": "on"},
                {"from": "gpt", "value": "done"},
            ],
            "tools": json.dumps([LAMP]),
        }
        for n in range(3)
    ],
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_conversation_with_tools_has_the_same_tokens_in_every_format(tmp_path, layout, suffix):
    encoder = encoder_of()
    expected = encoded(write_rows(tmp_path / "a.jsonl", LAYOUTS["messages"]), encoder)
    path = write_rows(tmp_path / f"chat.{suffix}", LAYOUTS[layout])
    assert encoded(path, encoder) == expected
    ids, labels = expected[0]
    assert encoder.tokenizer.decode([i for i in labels if i != IGNORED]) == (
        '<call>{"name": "lamp", "arguments": {"color": "red"}}</call><|end|>done<|end|>'
    )
    assert encoder.tokenizer.decode(ids).startswith('<|system|>{"type": "function", "function"')


SHORT = {
    "messages": [
        {
            "messages": [
                {"role": "user", "content": f"play\n\njazz {n}"},
                {"role": "assistant", "content": "ok"},
            ]
        }
        for n in range(3)
    ],
    "prompt": [{"prompt": f"play\n\njazz {n}", "completion": "ok", "id": n} for n in range(3)],
    "alpaca": [{"instruction": "play", "input": f"jazz {n}", "output": "ok"} for n in range(3)],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"play\n\njazz {n}"},
                           {"from": "gpt", "value": "ok"}]}
        for n in range(3)
    ],
    "prompt of messages": [
        {
            "prompt": [{"role": "user", "content": f"play\n\njazz {n}"}],
            "completion": [{"role": "assistant", "content": "ok"}],
        }
        for n in range(3)
    ],
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("layout", SHORT)
def test_layouts_of_one_conversation_have_the_same_tokens(tmp_path, layout, suffix):
    if layout == "prompt of messages" and suffix == "csv":
        pytest.skip("a cell is a text, which may begin with a bracket")
    encoder = encoder_of(PLAIN)
    expected = encoded(write_rows(tmp_path / "a.jsonl", SHORT["messages"]), encoder)
    assert encoded(write_rows(tmp_path / f"chat.{suffix}", SHORT[layout]), encoder) == expected


def test_columns_are_read_by_other_names(tmp_path):
    encoder = encoder_of(PLAIN)
    rows = [{"instruction": "q", "context": "c", "response": "r", "input": "no"}]
    names = {"input": "context", "output": "response"}
    path = write_rows(tmp_path / "dolly.csv", rows)
    alpaca = [{"instruction": "q", "input": "c", "output": "r"}]
    expected = encoded(write_rows(tmp_path / "a.csv", alpaca), encoder)
    assert encoded(path, encoder, **names) == expected


CALL = {"name": "lamp", "arguments": {"color": "red"}}
CALLED = {"type": "function", "function": CALL}
KEPT = {
    "weights after a system message": (
        {"system": "s", "conversations": [USER_ONE, {**ANSWER_ONE, "weight": 0}, ANSWER_ONE]},
        Chat([SYSTEM_ONE, USER_ONE, ANSWER_ONE, ANSWER_ONE], "", context=frozenset({2})),
    ),
    "a system speaker, and two calls in one message": (
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "u"},
                {"from": "function_call", "value": json.dumps([CALL, CALL])},
            ]
        },
        Chat(
            [
                SYSTEM_ONE,
                USER_ONE,
                {"role": "assistant", "content": "", "tool_calls": [CALLED, CALLED]},
            ],
            "",
        ),
    ),
    "ids of calls, names of tools, parts of a text": (
        {
            "messages": [
                {**USER_ONE, "name": "somebody", "content": [{"text": "u"}, {"text": "v"}]},
                {"role": "assistant", "content": "", "tool_calls": [{"id": "7", **CALLED}]},
                {"role": "tool", "name": "lamp", "tool_call_id": "7", "content": "on"},
            ]
        },
        Chat(
            [
                {"role": "user", "content": "uv"},
                {"role": "assistant", "content": "", "tool_calls": [{"id": "7", **CALLED}]},
                {"role": "tool", "content": "on", "name": "lamp", "tool_call_id": "7"},
            ],
            "",
        ),
    ),
    "tools and earlier answers of a completion": (
        {"prompt": [USER_ONE, ANSWER_ONE], "completion": "c", "tools": [LAMP]},
        Chat(
            [USER_ONE, ANSWER_ONE, {"role": "assistant", "content": "c"}],
            *("", tuple(TOOL_LIST), frozenset({0, 1})),
        ),
    ),
    "an instruction without input": (
        {"instruction": "u", "input": "", "output": "a", "system": "s"},
        Chat([SYSTEM_ONE, USER_ONE, ANSWER_ONE], ""),
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_nothing_of_a_conversation_is_lost(tmp_path, name):
    row, expected = KEPT[name]
    path = write_rows(tmp_path / "a.jsonl", [row])
    assert read_chats(path) == [replace(expected, location=f"{path}:1")]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("column", ["messages", "completion"])
def test_reasoning_that_is_not_read_is_told(tmp_path, column, suffix):
    rows = [
        {"prompt": [USER_ONE], column: [ANSWER_ONE | {"thinking": text, "reasoning_content": ""}]}
        for text in ("so", "", "well")
    ]
    told = []
    path = write_rows(tmp_path / f"chat.{suffix}", rows)
    chats = read_chats(path, on_progress=told.append)
    assert all(chat.messages[-1] == ANSWER_ONE for chat in chats)
    assert [progress.note for progress in told] == [
        f"{path}: 'thinking' of 2 conversations is left out: the reasoning before an answer is not "
        "trained"
    ]


def test_only_the_completion_is_learned(tmp_path):
    encoder = encoder_of(PLAIN)
    turns = [("user", "a"), ("assistant", "old"), ("user", "b")]
    prompt = [{"role": role, "content": content} for role, content in turns]
    completion = [{"role": "assistant", "content": "new"}]
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": prompt, "completion": completion}])
    ((_, labels),) = encoded(path, encoder)
    assert encoder.tokenizer.decode([i for i in labels if i != IGNORED]) == "new<|end|>"


def test_an_answer_of_weight_0_is_not_learned(tmp_path):
    encoder = encoder_of(PLAIN)
    listed = messages(0)[::3] * 2
    rows = [{"messages": [*listed[:1], listed[1] | {"content": "no", "weight": 0}, *listed[2:]]}]
    ((_, labels),) = encoded(write_rows(tmp_path / "a.jsonl", rows), encoder)
    assert encoder.tokenizer.decode([i for i in labels if i != IGNORED]) == "done<|end|>"


def test_a_template_without_tools_is_told(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", LAYOUTS["messages"])
    with pytest.raises(
        DataError, match=r"a.jsonl:1: the model's chat template does not write tool"
    ):
        encoded(path, encoder_of(PLAIN))
    encoder = encoder_of(PLAIN)
    talk = [{"messages": messages(0)[::3], "tools": TOOL_LIST}]
    encoded(write_rows(tmp_path / "b.jsonl", talk), encoder)
    assert encoder.notes == ["the model's chat template omits the tools that answers may call"]
    without = encoder_of()
    without.tokenizer.chat_template = None
    with pytest.raises(DataError, match="tools need a chat template"):
        encoded(path, without)


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "{"}, r":2: 'messages': not JSON"),
        ({"messages": {"role": "user"}}, ":2: 'messages' must be a list"),
        ({"messages": [USER], "tools": [1]}, ":2: a tool has no function name"),
        ({"messages": [USER], "tools": "x"}, ":2: 'tools': not JSON"),
        (
            {"messages": [{"from": "narrator", "value": "a"}]},
            ":2: a message has the unknown sender 'narrator'",
        ),
        ({"messages": [USER | {"tool_calls": [{}]}]}, ":2: a tool call has no function name"),
        ({"messages": [USER | {"tool_calls": 5}]}, ":2: 'tool_calls' must be a list"),
        ({"messages": [USER | {"weight": "0"}]}, ":2: the 'weight' of a message must be 0 or 1"),
        (
            {"messages": [USER | {"tool_calls": [{"name": "f", "arguments": "{"}]}]},
            ":2: 'arguments' of f: not JSON",
        ),
        (
            {"messages": [USER | {"tool_calls": [{"name": "f", "arguments": "1"}]}]},
            ":2: 'arguments' of f must be an object",
        ),
        ({"messages": [{"from": "function_call", "value": "x"}]}, ":2: a message from 'function"),
        ({}, ":2: expected a list in 'messages'"),
    ],
)
def test_a_malformed_conversation_is_named(tmp_path, row, message):
    path = write_rows(tmp_path / "chat.jsonl", [{"messages": [USER]}, row])
    with pytest.raises(DataError, match=f"chat.jsonl{message}") as caught:
        read_chats(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "chat.jsonl:2: 'completion' is missing"),
        ({"prompt": 1, "completion": "b"}, "chat.jsonl:2: 'prompt' must be text"),
        ({"prompt": "a", "completion": None}, "chat.jsonl:2: 'completion' is missing"),
        ({"prompt": [1], "completion": "b"}, "chat.jsonl:2: a message has no 'role'"),
    ],
)
def test_a_malformed_completion_is_named(tmp_path, row, message):
    path = write_rows(tmp_path / "chat.jsonl", [{"prompt": "a", "completion": "b"}, row])
    with pytest.raises(DataError, match=message) as caught:
        read_chats(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (("Prompt", "Completion"), "prompt=Prompt,completion=Completion"),
        (("prompt", "chosen", "rejected"), "completion=COLUMN"),
        (("conversation",), "conversations=conversation"),
        (("instruction", "context", "response"), "output=COLUMN"),
    ],
)
def test_columns_to_name_are_proposed(tmp_path, columns, hint):
    path = write_rows(tmp_path / "chat.csv", [dict.fromkeys(columns, "a")])
    with pytest.raises(DataError) as caught:
        read_chats(path)
    assert caught.value.hint == f"name them: --columns {hint}"


def test_senders_may_be_in_capitals(tmp_path):
    talk = [{"from": "Human", "value": "a"}, {"from": "GPT", "value": "b"}]
    (chat,) = read_chats(write_rows(tmp_path / "chat.jsonl", [{"conversations": talk}]))
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]


def test_columns_that_are_no_conversation_are_named_with_those_that_would_be(tmp_path):
    path = write_rows(tmp_path / "chat.csv", [{"question": "a", "answer": "b"}])
    with pytest.raises(DataError) as caught:
        read_chats(path)
    assert caught.value.message == (
        f"{path}:1: unknown columns question, answer; accepted: messages; conversations; prompt "
        "and completion; instruction and output"
    )
    assert caught.value.hint == "name them: --columns prompt=COLUMN,completion=COLUMN"
    with pytest.raises(ConfigError, match="--columns: unknown field 'question'"):
        read_chats(path, {"question": "question"})


@pytest.mark.parametrize(("name", "text"), [("a.csv", "prompt,completion\n"), ("a.json", "[]")])
def test_a_table_without_rows_is_not_said_to_have_no_columns(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name}: no records"):
        read_chats(tmp_path / name)


def test_columns_that_fit_two_layouts_are_refused_until_one_is_chosen(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "messages": messages(0)[::3]}]
    path = write_rows(tmp_path / "chat.jsonl", rows)
    with pytest.raises(DataError, match="chat.jsonl:1: ambiguous columns .* prompt and") as caught:
        read_chats(path)
    assert caught.value.hint == "choose by naming a column: --columns messages=messages"
    (chosen,) = read_chats(path, {"messages": "messages"})
    assert chosen.messages[1]["content"] == "done"
    layouts = [Layout(("prompt",)), Layout(("completion",))]
    (prompt, _) = layouts
    assert recognize(open_records(path, {"prompt": "messages"}), layouts, "--x") is prompt


def test_the_first_rows_are_read_alone(tmp_path):
    path = write_rows(tmp_path / "chat.jsonl", [{"prompt": "a", "completion": "b"}] * 2)
    with path.open("a") as file:
        file.write("{")
    assert len(read_chats(path, limit=2)) == 2


def test_columns_belong_to_conversations():
    with pytest.raises(ValueError, match="--columns needs --chat"):
        TrainTaskSettings(columns="prompt=a")
    with pytest.raises(ValueError, match="expected NAME=COLUMN"):
        TrainTaskSettings(chat="a.csv", columns="prompt")
    settings = TrainTaskSettings(chat="a.csv", columns="prompt=a b,completion=c")
    assert settings.columns == {"prompt": "a b", "completion": "c"}
    assert TrainTaskSettings(chat="a", columns='{"prompt": "a,b"}').columns == {"prompt": "a,b"}


PAIRS = [{"cy": f"helo {n}", "en": f"hello {n}"} for n in range(20)]


def renamed(**names):
    return [{names[key]: text for key, text in row.items()} for row in PAIRS]


PAIR_LAYOUTS = {
    "codes": PAIRS,
    "names": renamed(cy="Welsh", en="English"),
    "flores": renamed(cy="cym_Latn", en="eng_Latn"),
    "english": renamed(cy="non_english", en="english"),
    "source": renamed(cy="source", en="target"),
    "authors": [
        {"prefix": "p", "text": "t"} | row
        for row in renamed(cy="text_parallel_0", en="text_parallel_1")
    ],
}


def tokens(folder, **changes):
    settings = align_settings("m", None, "a", pairs_dir=folder, **changes)
    data = align_data(settings, make_tokenizer())
    return [(list(row.source_ids), list(row.target_ids)) for row in (*data.train, *data.dev)]


@pytest.mark.parametrize("layout", PAIR_LAYOUTS)
def test_pairs_have_the_same_tokens_in_every_format(tmp_path, layout):
    (tmp_path / "plain").mkdir()
    lines = "".join(f"{row['cy']}\t{row['en']}\n" for row in PAIRS)
    (tmp_path / "plain" / "cy-en.tsv").write_text(lines)
    expected = tokens(tmp_path / "plain")
    for suffix in FORMATS:
        folder = tmp_path / suffix
        folder.mkdir()
        path = write_rows(folder / f"cy-en.{suffix}", PAIR_LAYOUTS[layout])
        assert tokens(folder) == expected, suffix
        assert tokens(path) == expected, suffix


def test_languages_are_read_in_the_order_that_is_asked_for(tmp_path):
    for layout, rows in PAIR_LAYOUTS.items():
        folder = tmp_path / layout
        folder.mkdir()
        write_rows(folder / "cy-en.jsonl", rows)
        (pair, *_) = read_pairs("en-cy", folder)
        assert (pair.source, pair.target, pair.location) == ("hello 0", "helo 0", "cy-en.jsonl:1")


def test_one_table_has_many_languages(tmp_path):
    rows = [row | {"sw": f"habari {n}" if n else ""} for n, row in enumerate(PAIRS)]
    path = write_rows(tmp_path / "all.csv", rows)
    assert read_pairs("sw-en", path)[0].source == "habari 1"
    assert read_pairs("cy-sw", path)[0].target == "habari 1"
    other = write_rows(tmp_path / "other.csv", renamed(cy="a", en="b"))
    settings = {"pairs_columns": "cy=a,en=b"}
    assert tokens(other, **settings) == tokens(write_rows(tmp_path / "x.csv", PAIRS))


COLUMNS = "cy=welsh_text,sw=swahili_text,en=english_text"


@pytest.mark.parametrize("is_one_table", [True, False])
def test_columns_of_several_pairs_are_named_together(tmp_path, is_one_table):
    pairs = ("cym-en", "sw-en")
    rows = {
        "cym": renamed(cy="welsh_text", en="english_text"),
        "sw": renamed(cy="swahili_text", en="english_text"),
    }
    if is_one_table:
        merged = [one | other for one, other in zip(*rows.values(), strict=True)]
        place = write_rows(tmp_path / "all.csv", merged)
    else:
        place = tmp_path
        for lang, of_lang in rows.items():
            write_rows(tmp_path / f"{lang}-en.csv", of_lang)
    assert len(tokens(place, pairs=pairs, pairs_columns=COLUMNS)) == 40
    with pytest.raises(ConfigError, match="--pairs-columns sw=swahili_text: 'sw' is in none of"):
        tokens(place, pairs=("cym-en",), pairs_columns=COLUMNS)
    with pytest.raises(ConfigError, match="--pairs-columns: unknown field 'welsh_text'"):
        tokens(place, pairs=pairs, pairs_columns="welsh_text=english_text")


@pytest.mark.parametrize(
    ("header", "pair", "hint"),
    [
        ("id,English,Indonesian", "id-en", "Indonesian=Indonesian"),
        ("id,English,Indonesian", "en-id", "Indonesian=Indonesian"),
        ("id,eng_Latn,ind_Latn", "id-en", "ind_Latn=ind_Latn"),
        ("no,English,Norwegian", "no-en", "Norwegian=Norwegian"),
        ("no,en,Norwegian", "no-en", "Norwegian=Norwegian"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_numbers_of_rows_are_not_taken_for_a_language(tmp_path, header, pair, hint, suffix):
    """Numbers are no text; what names rows otherwise may be one."""
    lines = f"{header}\n1,Good morning,Selamat pagi\n"
    path = tmp_path / f"{pair}.{suffix}"
    path.write_text(lines.replace(",", {"csv": ",", "tsv": "\t"}[suffix]))
    (read,) = read_pairs(pair, tmp_path)
    assert {read.source, read.target} == {"Good morning", "Selamat pagi"}
    path.write_text(path.read_text().replace("1", "row 1"))
    with pytest.raises(
        DataError, match=f":1: ambiguous columns {header[:2]}, .*; they match "
    ) as e:
        read_pairs(pair, tmp_path)
    assert e.value.hint == f"choose by naming a column: --pairs-columns {hint}"
    name, column = hint.split("=")
    for columns in ({name: column}, {header[:2]: column}):
        (read,) = read_pairs(pair, PairPlace(path, columns))
        assert {read.source, read.target} == {"Good morning", "Selamat pagi"}


@pytest.mark.parametrize("english", ["en", "english"])
def test_a_column_of_numbers_is_not_read_as_the_only_text_of_a_language(tmp_path, english):
    (tmp_path / "en-id.csv").write_text(f"id,{english},bahasa\n1,good morning,selamat pagi\n")
    with pytest.raises(DataError, match=f":1: unknown columns id, {english}, bahasa"):
        read_pairs("en-id", tmp_path)
    (read,) = read_pairs("en-id", PairPlace(tmp_path, {"id": "bahasa"}))
    assert (read.source, read.target) == ("good morning", "selamat pagi")


def test_columns_of_another_region_are_refused_in_a_folder_too(tmp_path):
    path = tmp_path / "en-pt.csv"
    for column, place in (("pt_PT", tmp_path), ("pt_PT", path), ("pt_BR", tmp_path)):
        path.write_text(f"en,{column}\nbus,x\n")
        if column == "pt_BR":
            assert len(read_pairs("en-pt-BR", place)) == 1
        else:
            with pytest.raises(DataError, match=":1: unknown columns en, pt_PT"):
                read_pairs("en-pt-BR", place)


def test_rows_of_no_known_language_are_read_for_one_pair_only(tmp_path):
    path = write_rows(tmp_path / "train.json", PAIR_LAYOUTS["authors"])
    assert len(tokens(path, pairs=("mul-en",))) == 20
    with pytest.raises(DataError, match="the rows are not labeled with their pair"):
        tokens(path, pairs=("cy-en", "sw-en"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": "x", "b": "y"}], "cy-en.jsonl:1: unknown columns a, b; accepted: translation; cy"),
        ([*PAIRS, {"cy": "x"}], "cy-en.jsonl:21: 'en' must be text"),
        ([*PAIRS, {"cy": "x", "en": 5}], "cy-en.jsonl:21: 'en' must be text"),
        ([{"source": "x", "target": "y", "english": "e", "non_english": "n"}], "ambiguous columns"),
        ([{"en": "x", "eng_Latn": "z", "English": "e"}], "unknown columns"),
    ],
)
def test_malformed_pairs_are_named(tmp_path, rows, message):
    write_rows(tmp_path / "cy-en.jsonl", rows)
    with pytest.raises(DataError, match=message):
        read_pairs("cy-en", tmp_path)


def test_a_side_without_text_is_dropped_and_counted(tmp_path):
    path = write_rows(tmp_path / "p.parquet", [*PAIRS, {"cy": None, "en": "x"}])
    assert len(read_pairs("cy-en", path)) == 20
    rows = open_pairs(path, ("cy", "en"), {}, lambda progress: None)
    assert list(rows.rows)[-1] == (21, ("", "x"))
    assert rows.names_languages


def test_what_was_read_before_is_read_first(tmp_path):
    (tmp_path / "cy-en.tsv").write_text("un\tone\n")
    write_rows(tmp_path / "cy-en.jsonl", PAIRS)
    assert [pair.source for pair in read_pairs("cy-en", tmp_path)] == ["un"]


def test_a_header_is_told_from_a_pair():
    assert has_header(["en", "cy"], ("cy", "en"))
    assert has_header(["id", "source", "target"], ("cy", "en"))
    assert not has_header(["helo", "hello"], ("cy", "en"))
    assert not has_header(["de", "en"], ("cy", "en"))


TASK = """
name = "intent"
metrics = ["exact-match"]
prompt = "{utt}"
answer = "label"
columns = {label = "intent name"}

[files]
train = "{lang}.train.SUFFIX"
dev = "{lang}.train.SUFFIX"
"""


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_task_has_the_same_tokens_in_every_format(tmp_path, suffix):
    rows = [{"utt": f"wake me {n}", "intent name": "alarm", "n": n} for n in range(4)]
    encoder = encoder_of(PLAIN)
    read = {}
    for each in (suffix, "jsonl"):
        write_rows(tmp_path / f"en.train.{each}", rows)
        (tmp_path / f"{each}.toml").write_text(TASK.replace("SUFFIX", each))
        settings = task_settings("m", None, "a", task=str(tmp_path / f"{each}.toml"))
        data = task_data(settings, encoder)
        read[each] = [(row.input_ids, row.labels) for row in data.train]
    assert read[suffix] == read["jsonl"]
    assert len(read[suffix]) == 4


def test_a_task_names_a_column_that_is_not_there(tmp_path):
    write_rows(tmp_path / "en.train.csv", [{"utt": "a", "label": "b"}])
    (tmp_path / "my.toml").write_text(TASK.replace("SUFFIX", "csv"))
    with pytest.raises(AdaptermixError, match="intent: columns label=intent name: .* no column"):
        make_task(str(tmp_path / "my.toml")).read("en", "train", None)

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.errors import ConfigError, DataError
from adaptermix.settings.shared import ScorerSettings
from adaptermix.tasks.catalog import make_task
from adaptermix.tasks.custom import load_task_file
from adaptermix.tasks.entities import Entity
from adaptermix.tasks.massive import SlotExample
from adaptermix.tasks.metrics.text import notes_on_tokenizers
from adaptermix.tasks.translation import TranslationExample
from adaptermix.tasks.uner import EntityExample

SLOTS = SlotExample("1", "en", "wake me at five", "wake me at [time : five]", "en-US")
SENTENCE = TranslationExample("1", "en-zh", "Hello there!", ("你好！",))
JAPANESE = TranslationExample("1", "en-ja", "The cat is here.", ("猫はここにいます。",))
ENTITIES = EntityExample("1", "da", "I Rom", (Entity("LOC", "Rom", 2, 5),))
OWN = """
name = "intent"
metrics = ["exact-match"]
system = "Name the intent of this {scenario} command."
prompt = "{utt} ({not a field})"
answer = "intent"
id = "id"

[files]
test = "{lang}.test.jsonl"
"""
RECORD = {"id": 7, "utt": "wake me {up}", "scenario": "alarm", "intent": "alarm_set"}


def own_task(folder, content=OWN, records=(RECORD,), **options):
    (folder / "intent.toml").write_text(content, encoding="utf-8")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "en.test.jsonl").write_text(lines, encoding="utf-8")
    return make_task(str(folder / "intent.toml"), options=ScorerSettings(**options))


CASES = [
    ("massive", {}, SLOTS, "time: six; date: today"),
    ("massive", {"scorer": "paper"}, SLOTS, "time: at five"),
    ("wmt23", {"metrics": ("bleu",)}, SENTENCE, "你好 吗"),
    ("wmt23", {"metrics": ("chrf",)}, SENTENCE, "你好"),
    ("wmt23", {"metrics": ("bleu",)}, JAPANESE, "猫はここです。"),
    ("uner", {}, ENTITIES, '"Results": [{"TypeName": "LOC", "Text": "I"}]'),
    ("uner", {"match": "offsets"}, ENTITIES, '"Results": [{"TypeName": "LOC", "Text": "Rom"}]'),
]


@pytest.mark.parametrize(("name", "options", "example", "wrong"), CASES)
def test_the_score_is_the_value_of_the_sum(name, options, example, wrong):
    task = make_task(name, options=ScorerSettings(**options))
    right = task.outcome(example, task.answer(example))
    outcomes = [right, task.outcome(example, wrong), right]
    rows = task.statistics(outcomes)
    assert task.value(rows.sum(axis=0)) == task.score(outcomes).value
    resamples = np.array([[1, 1, 1], [3, 0, 0], [0, 3, 0]])
    values = task.value(resamples @ rows)
    assert values.shape == (3,)
    full = 1 if name != "wmt23" else task.score([right]).value
    assert values[1] == pytest.approx(full)
    assert values[1] > values[0] > values[2] or values[2] == 0
    assert task.statistics([]).shape == (0, rows.shape[1])


@pytest.mark.parametrize(("name", "options", "example", "wrong"), CASES)
def test_the_answers_models_are_trained_on_are_right(name, options, example, wrong):
    task = make_task(name, options=ScorerSettings(**options))
    outcome = task.outcome(example, task.answer(example))
    assert outcome.malformed == 0
    assert task.score([outcome]).value >= task.score([task.outcome(example, wrong)]).value
    json.dumps(outcome.as_record(), ensure_ascii=False).encode()


@pytest.mark.parametrize(("name", "options", "example", "wrong"), CASES)
@given(output=st.text())
def test_any_output_can_be_scored(name, options, example, wrong, output):
    task = make_task(name, options=ScorerSettings(**options))
    outcome = task.outcome(example, output)
    assert 0 <= task.score([outcome]).value <= 100 + 1e-9


def test_half_a_character_in_an_output_is_scored_too():
    for name, options, example, _ in CASES:
        task = make_task(name, options=ScorerSettings(**options))
        assert task.score([task.outcome(example, "\ud83d\0 a")]).value < 50


def test_the_prompts_are_those_of_the_paper():
    (system, user) = make_task("wmt23").messages(SENTENCE)
    assert system["content"] == (
        "Translate the following sentences from English to mandarin Chinese."
    )
    assert user["content"] == "Hello there!"
    (user,) = make_task("uner").messages(ENTITIES)
    assert user["content"].endswith(
        'Where in the world is Iguazu? "Results": [{"TypeName": "LOC", "Text": "Iguazu", '
        '"Start": 22, "End": 28}] Considering the input sentence below, what is the output '
        "result? I Rom"
    )
    (system, user) = make_task("massive", "zero-shot").messages(SLOTS)
    assert "any of the types given below" in system["content"]
    types = system["content"].split("description:")[1].split("Please")[0].split()
    assert len(set(types)) == 55  # as many as MASSIVE has
    assert user["content"] == "wake me at five"


@pytest.mark.parametrize("name", ["massive", "wmt23", "uner", "own"])
def test_a_system_prompt_takes_the_place_of_the_task_s_own(tmp_path, name):
    """An empty one leaves it out."""
    own_task(tmp_path)
    place = str(tmp_path / "intent.toml") if name == "own" else name
    for text, roles in (("Mine.", ["system", "user"]), ("", ["user"])):
        task = make_task(place, system_prompt=text)
        example = {"massive": SLOTS, "wmt23": SENTENCE, "uner": ENTITIES}.get(name)
        messages = task.messages(example or task.read("en", "test", None)[0])
        assert [message["role"] for message in messages] == roles
        assert text in (messages[0]["content"], "")


def test_what_cannot_be_read_is_counted_by_every_task(tmp_path):
    """The pieces of an answer, or an answer as a whole."""
    entities = '"Results": [{"TypeName": "LOC", "Text": "Rom"}, {"TypeName": "LOC"}]'
    counts = {}
    for name, options, example, output in (
        ("massive", {}, SLOTS, "well; time: ; date: "),
        ("massive", {"scorer": "paper"}, SLOTS, "time:five; date"),
        ("wmt23", {}, SENTENCE, " \n"),
        ("uner", {}, ENTITIES, entities),
    ):
        outcome = make_task(name, options=ScorerSettings(**options)).outcome(example, output)
        counts[name, *options.values()] = outcome.malformed
    for metric, output in (("slots", "well; time: "), ("entities", entities), ("bleu", "\t")):
        task = own_task(tmp_path, OWN.replace("exact-match", metric), [RECORD | {"intent": ""}])
        (example,) = task.read("en", "test", None)
        counts[metric,] = task.outcome(example, output).malformed
    assert counts == {
        **{("massive",): 3, ("massive", "paper"): 2, ("wmt23",): 1, ("uner",): 1},
        **{("slots",): 2, ("entities",): 1, ("bleu",): 1},
    }


def test_texts_are_scored_with_their_source_and_all_references(tmp_path):
    """COMET reads the source; the first reference is what a model is trained on."""
    sentence = replace(SENTENCE, references=("你好！", "您好！"))
    task = make_task("wmt23")
    outcome = task.outcome(sentence, "你好")
    assert (outcome.source, outcome.expected) == ("Hello there!", ["你好！", "您好！"])
    assert (outcome.lang, task.answer(sentence)) == ("zh", "你好！")
    own = own_task(tmp_path, OWN.replace('"exact-match"', '"chrf", "comet"'))
    (example,) = own.read("en", "test", None)
    outcome = own.outcome(example, "alarm")
    assert (outcome.source, outcome.expected) == (RECORD["utt"], ["alarm_set"])
    assert outcome.source.startswith("wake me")


def test_the_options_of_comet_reach_it():
    options = ScorerSettings(metrics=("comet",), comet_model="mine.ckpt", comet_python="/x/python")
    (comet,) = make_task("wmt23", options=options).metrics
    assert (comet.model, comet.python) == ("mine.ckpt", Path("/x/python"))


def test_several_metrics_come_in_the_order_asked_for():
    task = make_task("wmt23", options=ScorerSettings(metrics=("chrf", "bleu")))
    scores = task.scores([task.outcome(JAPANESE, "猫はここにいます。")])
    assert list(scores) == ["chrf", "bleu"]
    assert "tok:ja-mecab" in scores["bleu"].signature
    fixed = make_task("wmt23", options=ScorerSettings(metrics=("bleu",), tokenize="char"))
    assert "tok:char" in fixed.score([fixed.outcome(JAPANESE, "猫")]).signature


def test_a_task_of_ones_own_is_filled_in_from_records(tmp_path):
    task = own_task(tmp_path)
    (example,) = task.read("en", "test", None)
    assert (task.name, example.id) == ("intent", "7")
    system, user = task.messages(example)
    assert system["content"] == "Name the intent of this alarm command."
    assert user["content"] == "wake me {up} ({not a field})"
    assert task.answer(example) == "alarm_set"
    outcomes = [task.outcome(example, output) for output in ("alarm_set\n", "alarm set", "")]
    assert task.score(outcomes).value == pytest.approx(1 / 3)
    assert sum(outcome.malformed for outcome in outcomes) == 1


@pytest.mark.parametrize("name", ["Question text", "question.text", "प्रश्न", "a-b", "what?"])
def test_a_column_of_any_name_fills_a_template(tmp_path, name):
    text = OWN.replace("{utt}", f"{{{name}}}")
    (example,) = own_task(tmp_path, text, [RECORD | {name: "x"}]).read("en", "test", None)
    assert example.utterance == "x ({not a field})"
    task = own_task(tmp_path, text)
    if name in ("Question text", "what?"):  # may be text
        (example,) = task.read("en", "test", None)
        alone = own_task(tmp_path, text.replace(" ({not a field})", ""))
        assert alone.read("en", "test", None)[0].utterance == f"{{{name}}}"
        assert example.utterance == f"{{{name}}} ({{not a field}})"
    else:
        with pytest.raises(DataError, match=f"no field '{name}'"):
            task.read("en", "test", None)


@pytest.mark.parametrize(
    ("metric", "answer", "wrong"),
    [
        ("slots", "time: five", "time: six"),
        ("entities", '[{"TypeName": "LOC", "Text": "Rom"}]', "[]"),
        ("bleu", "one two three four five", "one"),
        ("chrf", "one two three", "four"),
    ],
)
def test_a_task_of_ones_own_has_any_metric(tmp_path, metric, answer, wrong):
    task = own_task(tmp_path, OWN.replace("exact-match", metric), [RECORD | {"intent": answer}])
    (example,) = task.read("en", "test", None)
    right = task.score([task.outcome(example, answer)]).value
    assert right == pytest.approx(100 if metric in ("bleu", "chrf") else 1)
    assert task.score([task.outcome(example, wrong)]).value < right / 2


@pytest.mark.parametrize(
    ("prompt", "source", "expected"),
    [
        ("Translate into Welsh: {utt}", "", RECORD["utt"]),
        ("{utt} means {utt}?", "", RECORD["utt"]),
        ("{utt} ({scenario})", "scenario", "alarm"),
        ("Translate it.", "utt", RECORD["utt"]),
    ],
)
def test_comet_reads_the_text_that_is_translated(tmp_path, prompt, source, expected):
    """Not the prompt around it. Which field has it must be said if the prompt leaves it open."""
    text = OWN.replace('"exact-match"', '"chrf", "comet"')
    text = text.replace("{utt} ({not a field})", prompt)
    if source:
        with pytest.raises(ConfigError, match='toml:3: metrics: comet needs .* source = "FIELD"'):
            own_task(tmp_path, text)
    named = f'source = "{source}"\n' * bool(source) + text
    (example,) = own_task(tmp_path, named).read("en", "test", None)
    assert own_task(tmp_path, named).outcome(example, "x").source == expected
    with pytest.raises(DataError, match="no field 'nope'"):
        own_task(tmp_path, 'source = "nope"\n' + text).read("en", "test", None)


def test_a_task_of_ones_own_is_scored_by_its_metrics_or_those_asked_for(tmp_path):
    text = OWN.replace('"exact-match"', '"bleu", "exact-match", "chrf"')
    assert [metric.name for metric in own_task(tmp_path, text).metrics] == [
        "bleu",
        "exact_match",
        "chrf",
    ]
    asked = own_task(tmp_path, text, metrics=("chrf", "bleu")).metrics
    assert [metric.name for metric in asked] == ["chrf", "bleu"]


def test_records_without_ids_are_numbered_by_their_line(tmp_path):
    task = own_task(tmp_path, OWN.replace('id = "id"\n', ""), [RECORD, RECORD])
    assert [example.id for example in task.read("en", "test", None)] == ["1", "2"]


@pytest.mark.parametrize(
    ("target", "lang", "tokenizer"),
    [
        *(("zh", "en", "zh"), ("ja", "en-de", "ja-mecab"), ("", "en-zh", "zh"), ("", "de", "13a")),
        *(("", "zh-tw", "zh"), ("", "en-zh-tw", "zh"), ("", "ja-jp", "ja-mecab")),
        *(("", "en-us", "13a"), ("", "zh-Hans-ja", "ja-mecab")),
    ],
)
def test_a_task_of_ones_own_tokenizes_the_language_it_names(tmp_path, target, lang, tokenizer):
    """Else that of the data: the right side of a pair."""
    text = f'target-lang = "{target}"\n' * bool(target) + OWN.replace("exact-match", "bleu")
    task = own_task(tmp_path, text)
    (example,) = task.read("en", "test", None)
    outcome = task.outcome(replace(example, lang=lang), "猫")
    assert f"tok:{tokenizer}" in task.score([outcome]).signature


@pytest.mark.parametrize(
    ("lang", "complaint"),
    [
        ("pirate", "'pirate' is an unknown language"),
        ("en-jp", "'jp' is an unknown language"),
        ("en_zh", "'en_zh' may be a pair"),
        ("zh_en", "'zh_en' may be a pair"),
        ("", "'' names no language"),
    ],
)
def test_a_language_without_a_tokenizer_is_refused_before_anything_is_decoded(
    tmp_path, lang, complaint
):
    text = OWN.replace("exact-match", "bleu")
    (example,) = own_task(tmp_path, text).read("en", "test", None)
    example = replace(example, lang=lang)
    for task in (own_task(tmp_path, text, tokenize="13a"), own_task(tmp_path)):
        task.check_metrics([example])
    with pytest.raises(DataError, match=f"^{complaint}, for which BLEU's") as raised:
        own_task(tmp_path, text).check_metrics([example])
    for option in ("--tokenize 13a", "target-lang", "--target-lang"):
        assert option in raised.value.hint


@pytest.mark.parametrize(
    "lang", ["aka_Latn", "lim_Latn", "zh_TW", "ja_jp", "pt_br", "mandarin_chinese"]
)
def test_a_language_with_a_tokenizer_has_no_errors_in_its_notes(tmp_path, lang):
    """They are made when all is decoded."""
    task = own_task(tmp_path, OWN.replace("exact-match", "bleu"))
    (example,) = task.read("en", "test", None)
    example = replace(example, lang=lang)
    task.check_metrics([example])
    assert notes_on_tokenizers(task.metrics, [task.outcome(example, "x")]) == []


@pytest.mark.parametrize(("match", "right"), [("text", "Rom"), ("offsets", "Roma")])
def test_entities_of_a_task_of_ones_own_match_as_asked(tmp_path, match, right):
    """By text, whatever the offsets; or by offsets, whatever the text."""
    entity = '[{{"TypeName": "LOC", "Text": "{}", "Start": {}, "End": 5}}]'
    record = RECORD | {"intent": entity.format("Rom", 2)}
    task = own_task(tmp_path, OWN.replace("exact-match", "entities"), [record])
    task = replace(task, options=ScorerSettings(match=match))
    (example,) = task.read("en", "test", None)
    answers = {"Rom": entity.format("Rom", 3), "Roma": entity.format("Roma", 2)}
    scores = {text: task.score([task.outcome(example, a)]).value for text, a in answers.items()}
    assert scores == {"Rom": float(right == "Rom"), "Roma": float(right == "Roma")}
    bare = '[{"TypeName": "LOC", "Text": "Rom"}]'
    outcome = task.outcome(replace(example, expected=bare), bare)
    assert task.score([outcome]).value == float(match == "text")


def test_correct_entities_without_offsets_cannot_match_by_offsets(tmp_path):
    """All entities of a type would be equal, Rome and Paris."""
    record = RECORD | {"intent": '[{"TypeName": "LOC", "Text": "Rome", "Start": 3}]'}
    for match in ("text", "offsets"):
        task = own_task(tmp_path, OWN.replace("exact-match", "entities"), [record], match=match)
        if match == "text":
            assert len(task.read("en", "test", None)) == 1
        else:
            with pytest.raises(DataError, match="jsonl:1: 'intent' has no Start and End of 'Rome'"):
                task.read("en", "test", None)


@pytest.mark.parametrize(
    ("metric", "answer"),
    [("slots", "five am"), ("slots", "a: b; c (d): e"), ("entities", "Rom (LOC)")],
)
def test_correct_answers_that_cannot_be_read_are_refused(tmp_path, metric, answer):
    """They would count as empty, and an empty answer as right."""
    task = own_task(tmp_path, OWN.replace("exact-match", metric), [RECORD | {"intent": answer}])
    with pytest.raises(DataError, match=f"jsonl:1: 'intent' cannot be read as {metric}"):
        task.read("en", "test", None)


def test_no_examples_are_read_for_two_languages(tmp_path):
    """Each copy would count as evidence: one file as 20 languages is significant by chance."""
    same = {"massive": ("cy", "Welsh"), "uner": ("zh", "zh-CN"), "wmt23": ("de-en", "ger-eng")}
    for name, langs in same.items():
        with pytest.raises(ConfigError, match=f"{langs[0]} and {langs[1]} are the same language"):
            make_task(name).check_langs(("en-cs", *langs), ("test",), None)
    make_task("massive").check_langs(("zh-CN", "zh-TW", "en-GB", "en-US", "cy"), ("test",), None)
    make_task("wmt23").check_langs(("de-en", "en-de", "zh-en", "zh-TW-en"), ("test",), None)
    with pytest.raises(ConfigError, match="test data of pt-BR and pt-PT are the same files, of pt"):
        make_task("uner").check_langs(("pt-BR", "en", "pt-PT"), ("test",), tmp_path)
    for region in ("pt-BR", "pt-PT"):
        (tmp_path / f"{region}_x-ud-test.iob2.gz").touch()
    make_task("uner").check_langs(("pt-BR", "pt-PT"), ("test",), tmp_path)
    make_task("wmt23").check_langs(("en-pt-BR", "en-pt-PT"), ("test",), tmp_path)
    for end in ("src", "ref"):
        (tmp_path / f"en-pt.{end}").write_text("a\n")
    pairs = ("en-pt-BR", "en-pt-PT")
    with pytest.raises(ConfigError, match="the test data of en-pt-BR and en-pt-PT are the same"):
        make_task("wmt23").check_langs(pairs, ("test",), tmp_path)
    (tmp_path / "en-pt-PT.src").write_text("b\n")
    make_task("wmt23").check_langs(pairs, ("test",), tmp_path)
    task = own_task(tmp_path, OWN + 'train = "train.csv"\ndev = "me/data:dev"\n')
    task.check_langs(("en", "en-GB"), ("test",), None)
    task.check_langs(("en",), ("train", "dev"), None)
    for split in ("train", "dev"):
        with pytest.raises(ConfigError, match=f"intent: {split} = .* is one file for 2") as error:
            task.check_langs(("en", "cy"), (split,), None)
        assert "--langs" in error.value.hint and "{lang}" in error.value.hint
    with pytest.raises(ConfigError, match="--langs: 'news/cy' contains a slash") as error:
        task.check_langs(("news/cy",), ("test",), None)
    assert '"news/{lang}.jsonl"' in error.value.hint


def test_its_files_may_be_in_the_data_folder(tmp_path):
    task = own_task(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="data/en.test.jsonl: no such file"):
        task.read("en", "test", tmp_path / "data")
    with pytest.raises(DataError, match="the task .* has no dev data"):
        task.read("en", "dev", None)
    with pytest.raises(DataError, match="cy.test.jsonl: no such file") as error:
        task.read("cy", "test", None)
    assert error.value.hint == "there are files for en"


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"id": 1, "utt": "a", "intent": "b"}, "jsonl:1: no field 'scenario'"),
        ({"id": 1, "utt": "a", "scenario": "c"}, "jsonl:1: no field 'intent'"),
        (RECORD | {"utt": ["a"]}, "jsonl:1: 'utt' must be text"),
        (RECORD | {"intent": math.nan}, "jsonl:1: 'intent' must be text or a number"),
        (["a"], "jsonl:1: not a JSON object"),
    ],
)
def test_records_that_lack_something_are_named(tmp_path, record, complaint):
    with pytest.raises(DataError, match=complaint):
        own_task(tmp_path, records=[record]).read("en", "test", None)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (OWN + 'tset = "x"\n', "toml:11: files.tset"),
        (OWN.replace("answer", "anser"), "toml:6: unknown key 'anser'"),
        (OWN + "[fils]\n", r"toml:11: unknown key 'fils'"),
        (OWN.replace('"exact-match"', '"rouge"'), "toml:3: metrics: .*rouge|toml:3: metrics"),
        (
            OWN.replace('"exact-match"', '"slots", "bleu"'),
            "toml:3: metrics: expected slots or entities alone",
        ),
        (OWN.replace('["exact-match"]', "[]"), "metrics: expected slots or entities alone"),
        (OWN.replace('prompt = "{utt} ({not a field})"', ""), "prompt: is missing"),
        (OWN.replace('"intent"', "3", 1), "toml:2: name"),
        ("name = [", "not valid TOML"),
    ],
)
def test_a_malformed_task_file_is_named_with_its_line(tmp_path, content, complaint):
    path = tmp_path / "my.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint):
        load_task_file(path)


def test_a_task_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown task 'nope'"):
        make_task("nope")
    with pytest.raises(ConfigError, match="no such file"):
        make_task(str(tmp_path / "nope.toml"))

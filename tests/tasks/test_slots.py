import gzip
import json
import random
import re

import pytest
from helpers.corpus import SHARED
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adaptermix.tasks.slots import (
    Slot,
    bio_tags,
    label_answer,
    label_gold,
    parse_answer,
    render_answer,
    slots_of,
    without_marks,
)

VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip)
PLAIN_VALUES = VALUES.filter(
    lambda v: v and not re.search(r"[;\n]\s*[\d.)*-]*\s*\w[^:;\n]*:", v) and v[-1] != ";"
)
SLOTS = st.lists(st.builds(Slot, st.from_regex(r"[a-z_]{1,12}", fullmatch=True), PLAIN_VALUES))


def test_slots_are_read_in_the_order_of_the_utterance():
    annotated = "wake me up at [time : five am] [date : this week]"
    slots = slots_of(annotated)
    assert slots == [("time", "five am"), ("date", "this week")]
    assert render_answer(slots) == "time: five am; date: this week"
    assert without_marks(annotated) == "wake me up at five am this week"


@pytest.mark.parametrize(
    ("answer", "slots", "malformed"),
    [
        ("None", [], 0),
        (" none. ", [], 0),
        ("time: 5:30 pm", [("time", "5:30 pm")], 0),
        ("time:five", [("time", "five")], 0),
        ("app_name: a; b; date: today", [("app_name", "a; b"), ("date", "today")], 0),
        ("well, time: five", [], 1),
        ("sure; time: five", [("time", "five")], 1),
        ("4. music_genre: jazz", [("music_genre", "jazz")], 0),
        ("3. None", [], 0),
        ("1. time: five\n2. date: today", [("time", "five"), ("date", "today")], 0),
        ("- time: five\n* date: 3. may", [("time", "five"), ("date", "3. may")], 0),
        ("song name: x; time: five", [("song name", "x"), ("time", "five")], 0),
        ("time: five; song name: x", [("time", "five"), ("song name", "x")], 0),
        ("time: five\ndate: today", [("time", "five"), ("date", "today")], 0),
        ("time: ; date: today", [("date", "today")], 1),
        ("a: b; toloc.city_name: c", [("a", "b"), ("toloc.city_name", "c")], 0),
        ("B/LOC: rome; I/LOC: x", [("B/LOC", "rome"), ("I/LOC", "x")], 0),
        ("समय: पाँच; दिन और तारीख: आज", [("समय", "पाँच"), ("दिन और तारीख", "आज")], 0),
        ("time: 5; 30. yes: no", [("time", "5"), ("yes", "no")], 0),
        ("time: at 5: 30; ok. so: no", [("time", "at 5: 30; ok. so: no")], 0),
        ("", [], 1),
        ("\n\n", [], 1),
    ],
)
def test_answers_are_read_as_documented(answer, slots, malformed):
    assert parse_answer(answer) == (slots, malformed)


@given(SLOTS)
@example([Slot("time", "10:30")])
def test_reading_a_rendered_answer_gives_the_slots_back(slots):
    assert parse_answer(render_answer(slots)) == (slots, 0)


@settings(max_examples=500)
@given(st.text())
def test_any_text_can_be_read(text):
    slots, malformed = parse_answer(text)
    assert all(slot.type and slot.value for slot in slots)
    assert malformed >= 0


def massive_files():
    return sorted((SHARED / "data" / "massive").glob("*.jsonl.gz"))


@pytest.mark.slow
@pytest.mark.skipif(not massive_files(), reason="the real MASSIVE files are not on this machine")
def test_every_row_of_massive_survives_rendering_and_reading():
    rng = random.Random(0)
    mutated = 0
    for path in massive_files():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                slots = slots_of(json.loads(line)["annot_utt"])
                answer = render_answer(slots)
                assert parse_answer(answer) == (slots, 0), line
                if rng.random() < 0.05:
                    cut = answer[: rng.randrange(len(answer))] + rng.choice("\n\t;:[]{}\0'\"")
                    parse_answer(cut + answer[rng.randrange(len(answer)) :])
                    mutated += 1
    assert mutated > 10_000


LABELLED = [
    # utterance, annotation, locale, labels of the tokens
    ("at five am", "at [time : five am]", "en-US", ["Other", "time", "time"]),
    ("a b c", "[x : a] [x : b] c", "en-US", ["x", "x", "Other"]),
    ("十秒停止", "[time : 十秒] 停止", "ja-JP", ["time"] * 2 + ["Other"] * 2),
    # The faults: ASCII stays whole, and the bracket after it does not end the slot.
    ("bbc見", "[media_type : bbc] 見", "ja-JP", ["media_type", "media_type"]),
    ("bbc見", "[media_type : bbc] 見", "zh-TW", ["media_type", "media_type"]),
]


@pytest.mark.parametrize(("utterance", "annotated", "locale", "labels"), LABELLED)
def test_tokens_are_labelled_as_the_authors_script_does(utterance, annotated, locale, labels):
    assert label_gold(utterance, annotated, locale).labels == labels


@pytest.mark.parametrize(
    ("answer", "labels", "malformed"),
    [
        ("None", "O O O O", 0),
        (" none ", "O O O O", 0),
        ("None.", "O O O O", 1),
        ("", "O O O O", 1),
        ("time: FIVE", "O B-time O B-time", 0),  # wherever it is, whatever its case
        ("x: six", "O O O O", 0),  # not in the utterance: no trace
        ("time: five; date: five o", "O B-date I-date B-time", 0),  # later parts over earlier
        ("time: five: five", "O O O O", 1),
        ("time:five", "O O O O", 1),
        ("time:  ; date: at", "B-date O O O", 1),  # the authors' script stops here
        ("time: ; date: at", "B-date O O O", 0),
        ("Other: five", "O O O O", 0),
        ("a: at; a: five", "B-a I-a O B-a", 0),  # neighbours of one type are one span
    ],
)
def test_answers_are_labelled_as_the_authors_script_does(answer, labels, malformed):
    gold = label_gold("at five o five", "at five o five", "en-US")
    found, count = label_answer(answer, gold, "en-US")
    assert (" ".join(bio_tags(found)), count) == (labels, malformed)


@given(st.text(), st.sampled_from(["en-US", "ja-JP"]), st.sampled_from(["a b", "[t : a] b", ""]))
def test_any_answer_has_as_many_labels_as_the_gold_one(text, locale, annotated):
    gold = label_gold(text, annotated, locale)
    labels, malformed = label_answer(text, gold, locale)
    assert len(labels) == len(gold.labels)
    assert malformed >= 0

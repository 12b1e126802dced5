from contextlib import nullcontext

import pytest

from adaptermix.errors import DataError
from adaptermix.generation.prompts import PromptedExample
from adaptermix.search.dev_data import check_gold, group_by_language, set_apart
from adaptermix.settings.merging import SearchSettings
from adaptermix.settings.shared import ScorerSettings
from adaptermix.tasks.massive import Massive, SlotExample
from adaptermix.tasks.translation import Translation, TranslationExample


def examples(lang, count):
    return [
        PromptedExample(
            lang, SlotExample(str(n), lang, f"take {n}", f"take [thing : {n}]"), [n], False
        )
        for n in range(count)
    ]


def test_a_language_is_shuffled_by_itself_and_the_same_every_time():
    """So a language that is added changes no answer of the others."""
    alone = group_by_language(examples("cy", 20), seed=1)
    both = group_by_language([*examples("en", 9), *examples("cy", 20)], seed=1)
    assert list(both) == ["en", "cy"]
    assert both["cy"] == alone["cy"] != examples("cy", 20)
    assert sorted(item.prompt_ids for item in both["cy"]) == [[n] for n in range(20)]
    assert group_by_language(examples("cy", 20), seed=2) != alone


def test_labeled_data_may_begin_with_rows_without_gold(monkeypatch):
    """A small --limit reads only the first rows; data without labels has none in any row."""
    plain = SlotExample("a", "cy", "hello", "hello")
    prompted = [PromptedExample("cy", plain, [1], False)]
    settings = SearchSettings(search="auto", limit=1)
    for rows, has_gold in (([plain, examples("cy", 1)[0].example], True), ([plain] * 2, False)):
        monkeypatch.setattr(Massive, "read", lambda *_, rows=rows: rows)
        for scorer in ("strict", "paper"):
            task = Massive(options=ScorerSettings(scorer=scorer))
            with nullcontext() if has_gold else pytest.raises(DataError, match="cy has no gold"):
                check_gold(prompted, task, settings)


@pytest.mark.parametrize("text", ["", " \n", "x"])
def test_text_without_gold_answers_is_refused(monkeypatch, text):
    row = TranslationExample("a", "cy-en", "helo", (text,))
    prompted = [PromptedExample("cy-en", row, [1], False)]
    monkeypatch.setattr(Translation, "read", lambda *_: [row])
    with nullcontext() if text == "x" else pytest.raises(DataError, match="cy-en has no gold"):
        check_gold(prompted, Translation(), SearchSettings(search="auto"))


def test_half_of_each_language_is_set_apart():
    items = {"en": examples("en", 5), "cy": examples("cy", 4)}
    learning = set_apart(items)
    assert [len(group) for group in items.values()] == [2, 2]
    assert len(learning) == 5
    assert not [item for item in learning if item in items[item.lang]]
    with pytest.raises(DataError, match="cy has one"):
        set_apart({"cy": examples("cy", 1)})

"""Tests of translation and entities as the hub and ALMA's repository have them."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from adaptermix.errors import DataError
from adaptermix.settings.shared import ScorerSettings
from adaptermix.tasks.aya import read_aya
from adaptermix.tasks.catalog import make_task
from adaptermix.tasks.translation import read_wmt

DANISH = "Angiv alle navngivne enheder i sætningen. Hvad er resultatet? "
ANSWER = '"Results": [{"TypeName": "LOC", "Text": "Aarhus", "Start": 0, "End": 6}]'


def table(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)


def test_wmt23_test_is_read_from_parquet(tmp_path):
    rows = [{"en": "hello", "cs": "ahoj"}, {"en": "bye", "cs": "sbohem"}]
    table(tmp_path / "en-cs.test.parquet", **{"en-cs": rows})
    table(tmp_path / "cs-en.test.parquet", **{"en-cs": rows})  # read backwards
    table(tmp_path / "de-en" / "test-00000-of-00001.parquet", **{"de-en": [{"de": "a", "en": "b"}]})
    read = read_wmt("en-cs", "test", tmp_path)
    assert [(e.source, e.references, e.id) for e in read] == [
        ("hello", ("ahoj",), "0"),
        ("bye", ("sbohem",), "1"),
    ]
    assert read_wmt("cs-en", "test", tmp_path)[1].references == ("bye",)
    assert read_wmt("de-en", "test", tmp_path)[0].source == "a"
    with pytest.raises(DataError, match="en-de source sentences"):
        read_wmt("en-de", "test", tmp_path)


def test_almas_copy_of_wmt22_is_the_test_part_where_there_is_no_other(tmp_path):
    rows = [{"translation": {"en": "hello", "cs": "ahoj"}}]
    (tmp_path / "en-cs.test.json").write_text(json.dumps(rows))
    assert read_wmt("en-cs", "test", tmp_path)[0].references == ("ahoj",)
    (tmp_path / "en-cs.src").write_text("good day\n")
    (tmp_path / "en-cs.ref").write_text("dobrý den\n")
    assert read_wmt("en-cs", "test", tmp_path)[0].references == ("dobrý den",)


def test_an_empty_reference_is_named_with_its_row(tmp_path):
    table(tmp_path / "en-cs.test.parquet", **{"en-cs": [{"en": "hello", "cs": None}]})
    with pytest.raises(DataError, match=r"en-cs\.test\.parquet:1: the reference is empty"):
        read_wmt("en-cs", "test", tmp_path)


def test_almas_parquet_is_read_for_training(tmp_path):
    for part, count in (("train", 4), ("validation", 2)):
        rows = [{"de": f"Satz {n}", "en": f"sentence {n}"} for n in range(count)]
        table(tmp_path / "de-en" / f"{part}-00000-of-00001-ab.parquet", translation=rows)
    assert len(read_wmt("de-en", "train", tmp_path)) == 4
    assert [e.source for e in read_wmt("en-de", "dev", tmp_path)] == ["sentence 0", "sentence 1"]


def aya(folder, part="test"):
    table(
        folder / f"{part}-00000-of-00001.parquet",
        inputs=[
            DANISH + "Aarhus er en by.",
            DANISH + "Aalborg også.",
            "Name them: Rome",
            "Name them: Paris",
        ],
        targets=[ANSWER, '"Results": []', ANSWER, ANSWER],
        language=["dan", "dan", "eng", "eng"],
        template_id=[1, 1, 1, 1],
    )


def test_the_aya_collections_questions_are_asked_as_they_are(tmp_path):
    aya(tmp_path)
    task = make_task("uner")
    first, second = task.read("da", "test", tmp_path)
    assert first.utterance == "Aarhus er en by."
    assert first.entities[0].text == "Aarhus"
    assert second.entities == ()
    assert task.messages(first) == [{"role": "user", "content": DANISH + "Aarhus er en by."}]
    assert [example.utterance for example in task.read("en", "test", tmp_path)] == ["Rome", "Paris"]


def test_dev_is_called_validation_there_and_iob2_comes_first(tmp_path):
    aya(tmp_path, "validation")
    task = make_task("uner")
    assert len(task.read("da", "dev", tmp_path)) == 2
    (tmp_path / "da.dev.iob2").write_text("# sent_id = 1\n1\tAarhus\tB-LOC\n\n")
    assert len(task.read("da", "dev", tmp_path)) == 1


def test_a_language_that_is_not_there_is_named_with_those_that_are(tmp_path):
    aya(tmp_path)
    with pytest.raises(DataError, match="no rows in the language 'pt'") as caught:
        read_aya(tmp_path / "test-00000-of-00001.parquet", "pt")
    assert caught.value.hint == "its languages are dan eng"
    table(tmp_path / "other.parquet", text=["a"])
    with pytest.raises(DataError, match="no column 'inputs'"):
        read_aya(tmp_path / "other.parquet", "pt")


def test_expected_entities_that_would_be_lost_are_refused(tmp_path):
    """An answer in words has none; scores would otherwise be too high, or 0."""
    path = tmp_path / "test-0.parquet"

    def written(answer):
        rows = {"inputs": ["Name them: Rome", "Name them: Oslo"], "language": ["eng", "eng"]}
        table(path, targets=["There are none.", answer], **rows)
        return make_task("uner").read("en", "test", tmp_path)

    assert [example.entities for example in written('"Results": []')] == [(), ()]
    with pytest.raises(DataError, match="row 2: an entity of the answer has no type or no text"):
        written('"Results": [{"TypeName": "LOC", "Text": "Oslo"}, {"TypeName": "LOC"}]')
    written('"Results": [{"TypeName": "LOC", "Text": "Oslo"}]')
    task = make_task("uner", options=ScorerSettings(match="offsets"))
    with pytest.raises(DataError, match="no Start and End of 'Oslo' in row 2, which --match"):
        task.read("en", "test", tmp_path)


def test_the_sentence_is_told_from_each_template(tmp_path):
    """Every template has its own text before the sentence; rows have the number of the file."""
    other = "Find the names in: "
    table(
        tmp_path / "test-0.parquet",
        inputs=["x", DANISH + "En by.", other + "To byer.", DANISH + "Tre.", other + "Fire."],
        targets=[ANSWER] * 5,
        language=["eng", *["dan"] * 4],
        template_id=[1, 1, 2, 1, 2],
    )
    read = make_task("uner").read("Danish", "test", tmp_path)
    assert [(e.id, e.utterance) for e in read] == [
        ("2", "En by."),
        ("3", "To byer."),
        ("4", "Tre."),
        ("5", "Fire."),
    ]
    assert {e.lang for e in read} == {"Danish"}


@pytest.mark.parametrize(
    ("code", "lang"),
    [("zho", "zh"), ("cmn", "zh"), ("slk", "sk"), ("srp", "sr"), ("hrv", "hr"), ("por", "pt")],
)
def test_the_collections_codes_are_those_of_the_languages(tmp_path, code, lang):
    table(tmp_path / "test-0.parquet", inputs=["a b"], targets=[ANSWER], language=[code])
    assert len(make_task("uner").read(lang, "test", tmp_path)) == 1

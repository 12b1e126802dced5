import gzip
import json

import pytest
from helpers.corpus import SHARED

from adaptermix.data.languages import language_code
from adaptermix.errors import DataError
from adaptermix.tasks.metrics.metric import Outcome
from adaptermix.tasks.metrics.text import SacreMetric, bleu_tokenizer, notes_on_tokenizers
from adaptermix.tasks.translation import read_translations, read_wmt


def write(folder, files):
    for name, lines in files.items():
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def alma(rows):
    return [json.dumps({"translation": row}, ensure_ascii=False) for row in rows]


@pytest.mark.parametrize(
    ("lang", "code", "tokenizer"),
    [
        ("de", "de", "13a"),
        ("zh", "zh", "zh"),
        ("zh-TW", "zh", "zh"),
        ("zho_Hans", "zh", "zh"),
        ("zho_Hant", "zh", "zh"),
        ("cmn", "zh", "zh"),
        ("yue", "yue", "zh"),
        ("yue_Hant", "yue", "zh"),
        ("ja", "ja", "ja-mecab"),
        ("jpn_Jpan", "ja", "ja-mecab"),
        ("ko", "ko", "13a"),
        ("liv", "liv", "13a"),
        ("nob", "nb", "13a"),
        ("fil_PH", "tl", "13a"),
    ],
)
def test_the_tokenizer_follows_the_language(lang, code, tokenizer):
    assert (language_code(lang), bleu_tokenizer(lang)) == (code, tokenizer)


def test_an_unknown_language_is_refused():
    with pytest.raises(DataError, match="unknown language 'xx'"):
        language_code("xx")


def test_only_newlines_end_a_sentence(tmp_path):
    lines = ["a\u2028b", "c\x0bd\x85e", "f\tg"]
    write(tmp_path, {"en-de.src": lines, "en-de.ref": lines})
    examples = read_wmt("en-de", "test", tmp_path)
    assert [example.source for example in examples] == lines
    assert [example.id for example in examples] == ["0", "1", "2"]


def test_the_names_of_wmt_are_found_too(tmp_path):
    names = ("generaltest2023.en-de.src.en", "generaltest2023.en-de.ref.refA.de")
    write(tmp_path, {names[0]: ["a"], names[1]: ["b"]})
    (example,) = read_wmt("en-de", "test", tmp_path)
    assert (example.source, example.references) == ("a", ("b",))


def test_several_sets_of_references_are_read_side_by_side(tmp_path):
    write(tmp_path, {"src": ["a", "b"], "ref": ["c", "d"], "refB": ["e", "f"]})
    examples = read_translations(tmp_path / "src", [tmp_path / "ref", tmp_path / "refB"], "en-de")
    assert [example.references for example in examples] == [("c", "e"), ("d", "f")]


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"en-de.src": ["a", "b"], "en-de.ref": ["c"]}, r"ref: 1 line, but .*src has 2"),
        ({"en-de.src": ["a", "b"], "en-de.ref": ["c", "  "]}, r"ref:2: the reference is empty"),
        ({"en-de.src": ["a"]}, "no en-de references"),
        ({}, "no en-de source sentences"),
    ],
)
def test_test_sets_that_do_not_fit_are_refused(tmp_path, files, complaint):
    with pytest.raises(DataError, match=complaint):
        read_wmt("en-de", "test", write(tmp_path, files))


def test_training_data_serves_both_directions(tmp_path):
    rows = alma([{"de": "Hallo", "en": "Hello"}, {"de": "Ja", "en": " "}])
    write(tmp_path, {"de-en.train.json": rows, "de-en.valid.json": ["[", rows[0], "]"]})
    (example,) = read_wmt("en-de", "train", tmp_path)
    assert (example.source, example.references, example.lang) == ("Hello", ("Hallo",), "en-de")
    (example,) = read_wmt("de-en", "dev", tmp_path)
    assert (example.source, example.references) == ("Hallo", ("Hello",))


def test_dev_rows_are_held_out_where_there_is_no_dev_file(tmp_path):
    rows = alma([{"is": f"s{number}", "en": f"e{number}"} for number in range(50)])
    with gzip.open(tmp_path / "is-en.train.json.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(rows))
    train, dev = (read_wmt("is-en", split, tmp_path) for split in ("train", "dev"))
    assert (len(train), len(dev)) == (45, 5)
    assert {row.source for row in train + dev} == {f"s{number}" for number in range(50)}
    assert read_wmt("is-en", "dev", tmp_path) == dev
    english = {row.source for row in read_wmt("en-is", "dev", tmp_path)}
    assert english == {row.references[0] for row in dev}


def test_at_most_a_thousand_rows_are_held_out(tmp_path):
    rows = alma([{"is": f"s{number}", "en": f"e{number}"} for number in range(10_020)])
    write(tmp_path, {"is-en.train.json": rows})
    sizes = [len(read_wmt("is-en", split, tmp_path)) for split in ("train", "dev")]
    assert sizes == [9_020, 1_000]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"translation": {"de": "a"}}', "json:1: no 'translation' with de and en"),
        ('{"translation": {"de": "a", "en": 3}}', "json:1: no 'translation' with de and en"),
        ("de\ten", "json:1: not JSON"),
        ('{"translation": {"de": "", "en": ""}}', "no de-en sentence pairs"),
    ],
)
def test_malformed_training_data_is_named_with_its_line(tmp_path, line, complaint):
    write(tmp_path, {"de-en.train.json": [line]})
    with pytest.raises(DataError, match=complaint):
        read_wmt("de-en", "train", tmp_path)


@pytest.mark.skipif(not (SHARED / "data" / "alma").is_dir(), reason="ALMA is not on this machine")
def test_the_training_data_of_the_paper_can_be_read():
    sizes = {
        lang: [
            len(read_wmt(f"{lang}-en", split, SHARED / "data" / "alma"))
            for split in ("train", "dev")
        ]
        for lang in ("de", "is")
    }
    assert sizes == {"de": [14211, 1002], "is": [1809, 200]}


@pytest.mark.parametrize("has_package", [True, False])
def test_korean_has_sacrebleus_own_tokenizer_where_it_is_installed(monkeypatch, has_package):
    monkeypatch.setattr("adaptermix.tasks.metrics.text._has_korean", lambda: has_package)
    assert bleu_tokenizer("ko") == ("ko-mecab" if has_package else "13a")
    notes = notes_on_tokenizers([SacreMetric("bleu")], [Outcome("a", ["a"], lang="ko")])
    assert ["sacrebleu[ko]" in note for note in notes] == ([] if has_package else [True])


def test_bleu_of_languages_without_spaces_is_noted():
    langs = ("th", "de", "km", "lo", "my", "bo", "dz", "zh")
    outcomes = [Outcome("a", ["a"], lang=lang) for lang in langs]
    names = [
        note.partition(" ")[0] for note in notes_on_tokenizers([SacreMetric("bleu")], outcomes)
    ]
    assert names == ["Thai", "Khmer", "Lao", "Burmese", "Tibetan", "Dzongkha"]
    assert "flores200" in notes_on_tokenizers([SacreMetric("bleu")], outcomes)[0]
    assert notes_on_tokenizers([SacreMetric("bleu", "flores200")], outcomes) == []
    assert notes_on_tokenizers([SacreMetric("chrf")], outcomes) == []

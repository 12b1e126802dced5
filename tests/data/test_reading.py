import gzip
import json
import random
from collections import Counter

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from adaptermix.data.languages import split_pair
from adaptermix.data.pairs import read_pairs
from adaptermix.data.sampling import hold_out, resample_evenly
from adaptermix.errors import DataError, ResourceError
from adaptermix.files.text import json_rows
from adaptermix.tasks.massive import MASSIVE_LOCALES, massive_locale, read_massive

ROW = {"id": "7", "partition": "test", "utt": "at five", "annot_utt": "at [time : five]"}


def write_massive(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_massive_has_52_locales_and_bare_codes():
    assert len(set(MASSIVE_LOCALES)) == len(MASSIVE_LOCALES) == 52
    assert massive_locale("cy") == massive_locale("cy-GB") == "cy-GB"
    assert massive_locale("zh") == "zh-CN"
    with pytest.raises(DataError, match="no language 'xx'"):
        massive_locale("xx")


@pytest.mark.parametrize("name", ["en-US.jsonl", "en-US.jsonl.gz", "1.1/data/en-US.jsonl"])
def test_massive_files_are_found_plain_gzipped_and_below(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    write_massive(tmp_path / name, [ROW, {**ROW, "partition": "train"}])
    (example,) = read_massive("en", "test", tmp_path)
    assert (example.id, example.lang, example.annotated) == ("7", "en", "at [time : five]")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1}\n', r"en-US.jsonl:1: no field 'partition'"),
        (json.dumps(ROW) + "\n{oops\n", r"en-US.jsonl:2: not JSON"),
        ("[]\n", r"en-US.jsonl:1: no field"),
        (json.dumps({**ROW, "utt": None}) + "\n", r"en-US.jsonl:1: 'utt' and 'annot_utt' must"),
        ("", r"en-US.jsonl: the file is empty"),
        (json.dumps({**ROW, "partition": "dev"}) + "\n", "no rows of the test partition"),
    ],
)
def test_bad_massive_files_are_named_with_the_line(tmp_path, content, message):
    (tmp_path / "en-US.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_massive("en", "test", tmp_path)


def test_text_that_is_not_utf8_or_not_gzip_is_named(tmp_path):
    (tmp_path / "cy-en.tsv").write_bytes(b"a\tb\n\xff\xfe\tc\n")
    with pytest.raises(DataError, match=r"cy-en.tsv:2: not UTF-8"):
        read_pairs("cy-en", tmp_path)
    (tmp_path / "sw-en.tsv.gz").write_bytes(b"plain text")
    with pytest.raises(DataError, match=r"sw-en.tsv.gz:1: not a valid gzip"):
        read_pairs("sw-en", tmp_path)


def test_pairs_are_read_from_columns_in_either_order(tmp_path):
    (tmp_path / "cy-en.tsv").write_text("helo\thello\n\tempty\nbore da\tgood morning\n")
    (tmp_path / "en-sw.tsv").write_text("hello\thabari\n")
    assert [(p.source, p.target) for p in read_pairs("cy-en", tmp_path)] == [
        ("helo", "hello"),
        ("bore da", "good morning"),
    ]
    (pair,) = read_pairs("sw-en", tmp_path)
    assert (pair.source, pair.target, pair.pair) == ("habari", "hello", "sw-en")


def test_the_name_of_the_file_says_the_order_and_not_that_of_its_folder(tmp_path):
    (tmp_path / "cy-en").mkdir()
    (tmp_path / "cy-en" / "en-cy.tsv").write_text(" hello\t helo \n")
    (pair,) = read_pairs("cy-en", tmp_path / "cy-en")
    assert (pair.source, pair.target) == ("helo", "hello")
    (tmp_path / "cy-en" / "en-cy.tsv").unlink()
    (tmp_path / "cy-en" / "en-cy.csv").write_text("source,target\nhello,helo\n")
    for place in ("cy-en", "cy-en/en-cy.csv"):
        (pair,) = read_pairs("cy-en", tmp_path / place)
        assert (pair.source, pair.target) == ("helo", "hello")


def test_of_two_files_of_a_pair_almas_comes_first(tmp_path):
    """It is named by what it is, and another table only by the pair."""
    rows = {name: json.dumps({"translation": {"de": name, "en": "x"}}) for name in ("alma", "own")}
    (tmp_path / "de-en.train.json").write_text(rows["alma"])
    (tmp_path / "de-en.jsonl").write_text(rows["own"])
    (pair,) = read_pairs("de-en", tmp_path)
    assert pair.source == "alma"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Tatoeba.cy-en.cy", "Tatoeba.cy-en.en"),
        ("Tatoeba.en-cy.cy", "Tatoeba.en-cy.en"),
        ("cym_Latn.dev", "eng_Latn.dev"),
    ],
)
def test_pairs_are_read_side_by_side(tmp_path, left, right):
    (tmp_path / left).write_text("helo\nbore da\n")
    (tmp_path / right).write_text("hello\ngood morning\n")
    assert [p.target for p in read_pairs("cy-en", tmp_path)] == ["hello", "good morning"]
    (tmp_path / right).write_text("hello\n")
    with pytest.raises(DataError, match="2 lines, but .* has 1"):
        read_pairs("cy-en", tmp_path)
    (tmp_path / right).write_text("hello\ngood morning\nbye\nand more\n")
    with pytest.raises(DataError, match="2 lines, but .* has 4"):
        read_pairs("cy-en", tmp_path)


@pytest.mark.parametrize(
    "table",
    [
        {"translation": [{"cy": "helo", "en": "hello"}]},
        {"english": ["hello"], "non_english": ["helo"]},
    ],
)
def test_pairs_are_read_from_the_hubs_parquet_layouts(tmp_path, table):
    parquet.write_table(pyarrow.table(table), tmp_path / "cy-en.parquet")
    (pair,) = read_pairs("cy-en", tmp_path)
    assert (pair.source, pair.target) == ("helo", "hello")


def test_only_newlines_end_a_line(tmp_path):
    (tmp_path / "cy-en.tsv").write_text("a\x85b\u2028c\td\x0be\n", encoding="utf-8")
    (pair,) = read_pairs("cy-en", tmp_path)
    assert (pair.source, pair.target) == ("a\x85b\u2028c", "d\x0be")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cy-en.tsv": "one column\n"}, r"cy-en.tsv:1: 1 tab-separated columns"),
        ({"cy-en.tsv": ""}, "the file is empty"),
        ({"cy-en.tsv": "\t\n"}, "no cy-en sentence pairs"),
        ({}, "no parallel text cy-en"),
        ({"a/cy-en.tsv": "x\ty\n", "b/cy-en.tsv": "x\ty\n"}, "several files"),
    ],
)
def test_bad_pair_files_are_named(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_pairs("cy-en", tmp_path)


@pytest.mark.parametrize("pair", ["cy", "cy-en-sw", "-en", "en-en", ""])
def test_what_is_not_a_pair_is_refused(pair):
    with pytest.raises(DataError, match="not a language pair"):
        split_pair(pair)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 100))
def test_resampling_makes_languages_equal_and_loses_nothing(sizes, seed):
    groups = [[(group, row) for row in range(size)] for group, size in enumerate(sizes)]
    even = resample_evenly(groups, random.Random(seed))
    per_group = Counter(group for group, _ in even)
    assert set(per_group.values()) == {max(sizes)}
    for group in groups:
        counts = Counter(row for row in even if row in group)
        assert set(counts) == set(group)
        assert max(counts.values()) - min(counts.values()) <= 1


@given(st.integers(2, 200), st.integers(1, 50), st.integers(0, 100))
def test_held_out_rows_are_apart_from_the_rest(count, most, seed):
    kept, held = hold_out(range(count), most, random.Random(seed))
    assert sorted(kept + held) == list(range(count))
    assert len(held) == min(most, max(1, count // 10))
    assert (kept, held) == (sorted(kept), sorted(held)), "both in the order of the rows"


def test_rows_are_mixed_and_the_rest_of_a_group_is_drawn():
    """Neither group by group, nor always the first rows of the smaller one."""
    groups = [[("a", n) for n in range(20)], [("b", n) for n in range(13)]]
    runs = [resample_evenly(groups, random.Random(seed)) for seed in range(3)]
    for rows in runs:
        names = [name for name, _ in rows]
        assert sorted(names) == ["a"] * 20 + ["b"] * 20
        assert 5 < names[:20].count("a") < 15
    often = [{row for row in rows if rows.count(row) == 2} for rows in runs]
    assert often[0] != often[1] != often[2] != often[0]


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_the_text(tmp_path):
    (tmp_path / "cy-en.tsv").write_bytes("\ufeffun\tone\r\n\ufeffdau\ttwo\r\n".encode())
    pairs = read_pairs("cy-en", tmp_path)
    assert [(pair.source, pair.target) for pair in pairs] == [("un", "one"), ("\ufeffdau", "two")]
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert list(json_rows(tmp_path / "rows.jsonl")) == [(1, {"a": 1})]


def test_parquet_without_its_reader_is_told_with_the_line_that_installs_it(tmp_path, monkeypatch):
    (tmp_path / "cy-en.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("adaptermix.files.text.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="reading Parquet needs pyarrow") as caught:
        read_pairs("cy-en", tmp_path)
    assert caught.value.hint == 'pip install "adaptermix[parquet]"'

"""One reader of tables: the same rows in every format, and what is wrong by file and line."""

import csv
import gzip
import io
import json
import re

import pyarrow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from adaptermix.errors import AdaptermixError, ConfigError, DataError, MissingDataError
from adaptermix.files.records import open_records

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ROWS = st.lists(st.fixed_dictionaries({"a": TEXTS, "b": TEXTS}), min_size=1, max_size=4)


def as_csv(rows):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_tsv(rows):
    lines = ["\t".join(rows[0]), *("\t".join(row[name] for name in rows[0]) for row in rows)]
    return "".join(f"{line}\n" for line in lines).encode()


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows):
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


FORMATS = {
    "csv": as_csv,
    "csv.gz": lambda rows: gzip.compress(as_csv(rows)),
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "jsonl": as_jsonl,
    "jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    "parquet": as_parquet,
}


def rows_of(path, *names, **columns):
    return [row for _, row in open_records(path, columns).rows(names)]


@given(rows=ROWS)
@example(rows=[{"a": '"quoted" text', "b": 'a, "b"'}])
@example(rows=[{"a": "007", "b": "None"}, {"a": "a\r\nb", "b": ""}])
def test_every_format_gives_the_same_rows(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    formats = dict(FORMATS)
    if not any(re.search(r"[\t\n\r]", text) for row in rows for text in row.values()):
        formats["tsv"] = as_tsv
    for suffix, write in formats.items():
        path = folder / f"rows.{suffix}"
        path.write_bytes(write(rows))
        assert rows_of(path, "a", "b") == rows, suffix
        assert rows_of(path, "x", "b", x="a") == [{"x": r["a"], "b": r["b"]} for r in rows], suffix


def test_rows_have_the_number_of_their_line(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n1,"two\nlines"\n\n3,4\n')
    assert [n for n, _ in open_records(tmp_path / "a.csv").rows(["a"])] == [2, 5]
    (tmp_path / "a.jsonl").write_text('\n{"a": 1}\n\n{"b": 2}\n')
    read = list(open_records(tmp_path / "a.jsonl").rows(["a", "b"]))
    assert read == [(2, {"a": 1}), (4, {"b": 2})]
    parquet.write_table(pyarrow.table({"a": [1, 2]}), tmp_path / "a.parquet")
    assert [n for n, _ in open_records(tmp_path / "a.parquet").rows(["a"])] == [1, 2]
    (tmp_path / "a.json").write_text('[{"a": 1},\n\n{"a": 2}]')
    assert [n for n, _ in open_records(tmp_path / "a.json").rows(["a"])] == [1, 2]


def test_a_column_that_takes_a_name_hides_the_one_that_had_it(tmp_path):
    (tmp_path / "a.csv").write_text("input,context\nx,y\n")
    records = open_records(tmp_path / "a.csv", {"input": "context"})
    assert records.names == ["input"]
    assert next(records.rows(["input"]))[1] == {"input": "y"}


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("none.csv", None, MissingDataError, "none.csv: no such file"),
        ("none.parquet", None, MissingDataError, "none.parquet: no such file"),
        ("a.csv", b"", DataError, "a.csv: the file is empty"),
        ("a.csv", b"a,b\n", MissingDataError, "a.csv: no records"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", DataError, "a.csv:3: 3 cells, but the header has 2"),
        ("a.csv", b'a,b\n"1,2\n', DataError, "a.csv:2: not valid CSV: unexpected end"),
        ("a.csv", b'a,b\n"1"x,2\n', DataError, "a.csv:2: not valid CSV"),
        ("a.csv", b"a,a\n1,2\n", DataError, "a.csv:1: two columns are named 'a'"),
        ("a.csv", b'a,b\n1,2\n"1,2\n\n\n', DataError, "a.csv:3: not valid CSV: unexpected end"),
        ("a.csv", b"a,b\r1,2\r", DataError, "a.csv:1: not valid CSV: a carriage return"),
        ("a.tsv", b"a\tb\r1\t2\r", DataError, "a.tsv:1: not valid TSV: a carriage return"),
        ("a.tsv", b"a,b\n1,2\n", DataError, "a.tsv:1: only one column, 'a,b'"),
        ("a.csv", b"\n\na,b\n1,2\n", DataError, "a.csv:1: the columns have no names"),
        ("a.csv", b"a,b\n1,\xff\n", DataError, "a.csv:2: not UTF-8 text"),
        ("a.csv.gz", b"a,b\n", DataError, "a.csv.gz:1: not a valid gzip file"),
        ("a.tsv", b"a\tb\n1\n", DataError, "a.tsv:2: 1 cell, but the header has 2"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', DataError, "a.jsonl:2: not JSON"),
        ("a.jsonl", b"1\n", DataError, "a.jsonl:1: not a JSON object"),
        ("a.json", b'[{"a": 1},\n{"a": }]', DataError, "a.json:2: not JSON"),
        ("a.json", b'[{"a": 1}, 2]', DataError, "a.json:2: not a JSON object"),
        ("a.json", b"[]", MissingDataError, "a.json: no records"),
        ("a.parquet", b"PAR1", DataError, "a.parquet: not a Parquet file"),
    ],
)
def test_what_is_malformed_is_named(tmp_path, name, content, kind, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AdaptermixError, match=message) as caught:
        list(open_records(tmp_path / name).rows(["a"]))
    assert type(caught.value) is kind
    assert "\n" not in caught.value.message
    assert caught.value.hint or "cell, but the header" in message


@pytest.mark.parametrize(
    "text",
    [
        "a;b\n1, 2;3\n",
        "a\tb\n1, 2\t3\n",
        "a|b\n1, 2|3\n",
        '"a";"b"\r\n"1, 2";"3"\r\n',
        ',a,b\n0,"1, 2",3\n',  # as pandas writes a table with its row numbers
        'a,b,\n"1, 2",3,\n',
        'a, b\n"1, 2",3\n',
        "\ufeffa;b\n1, 2;3\n",
    ],
)
def test_csv_as_spreadsheets_and_pandas_write_it(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert rows_of(tmp_path / "a.csv", "a", "b") == [{"a": "1, 2", "b": "3"}]
    assert open_records(tmp_path / "a.csv").columns == ("a", "b")


TWO = [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ({"data": TWO}, TWO),
        ({"version": 1, "tags": ["x"], "rows": TWO}, TWO),
        (TWO[0], TWO[:1]),
        ({"a": [{"role": "user"}]}, [{"a": [{"role": "user"}]}]),  # one conversation
        ({"a": "1", "b": ["x"]}, TWO[:1]),
        ({"a": "1", "b": TWO, "c": TWO}, TWO[:1]),  # no one knows which
    ],
)
def test_json_may_hold_the_rows_in_an_object(tmp_path, value, rows, indent):
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent))
    assert rows_of(tmp_path / "a.json", "a") == rows


def test_lines_of_json_are_no_object_that_holds_rows(tmp_path):
    line = json.dumps({"a": [{"b": 1}]})
    (tmp_path / "a.json").write_text(f"{line}\n{line}\n")
    (tmp_path / "a.jsonl").write_text(f"{line}\n")
    assert len(rows_of(tmp_path / "a.json", "a")) == 2
    assert rows_of(tmp_path / "a.jsonl", "a") == [{"a": [{"b": 1}]}]


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.jsonl", b"\x1f\x8b\x08\x00", "end in .gz"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", "zstd -d"),
        ("a.jsonl.bz2", b"BZh91AY", "bunzip2"),
        ("a.csv", b"\xfd7zXZ\x00", "unxz"),
        ("a.xlsx", b"PK\x03\x04\x14", "save the sheet as CSV"),
        ("a.json", b"PAR1\x15", "end in .parquet"),
        ("a.arrow", b"\xff\xff\xff\xff\x10", "save_to_disk"),
        ("a.pdf", b"%PDF-1.4", "PDF"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "iconv -f UTF-16"),
        ("a.csv", "a,b\n1,ö\n".encode("latin1"), "iconv -f LATIN1"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.tmx", b'\xef\xbb\xbf<?xml version="1.0"?>', "TMX"),
        ("a.json", b"<!DOCTYPE html>", "web page"),
        ("a.jsonl", b'{"a": 1},\n{"a": 2}\n', "one JSON object per line"),
        ("a.json", b'{\n "a": 1,\n', "an array of objects"),
    ],
)
def test_what_a_file_is_instead_is_told(tmp_path, name, content, hint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(open_records(tmp_path / name).rows(["a"]))
    assert hint in caught.value.hint


def test_a_damaged_parquet_file_is_one_line(tmp_path):
    parquet.write_table(pyarrow.table({"a": ["1"] * 50}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:4] + b"\xff" * 30 + content[34:])
    with pytest.raises(DataError, match="damaged Parquet file") as caught:
        list(open_records(tmp_path / "a.parquet").rows(["a"]))
    assert "\n" not in caught.value.message


def test_two_columns_of_one_name_are_refused_in_parquet_as_well(tmp_path):
    columns = [pyarrow.array(["1"]), pyarrow.array(["2"])]
    parquet.write_table(pyarrow.table(columns, names=["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: two columns are named 'a'"):
        open_records(tmp_path / "a.parquet")


def test_the_suffix_may_be_in_capitals(tmp_path):
    (tmp_path / "A.CSV").write_text("a,b\n1,2\n")
    (tmp_path / "A.TSV").write_text("a\tb\n1\t2\n")
    for name in ("A.CSV", "A.TSV"):
        assert rows_of(tmp_path / name, "a", "b") == [{"a": "1", "b": "2"}]


def test_a_damaged_parquet_file_is_named(tmp_path):
    content = as_parquet([{"a": "text " * 50}] * 50)
    path = tmp_path / "a.parquet"
    path.write_bytes(content[:4] + b"\0" * (len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(DataError, match=r"a\.parquet: "):
        list(open_records(path).rows(["a"]))


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ConfigError, match="--columns a=z: .*a.csv has no column 'z'") as caught:
        open_records(tmp_path / "a.csv", {"a": "z"})
    assert caught.value.hint == "it has x, y"

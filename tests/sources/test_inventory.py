"""What is there of public data, counted and compared with the record."""

import gzip
import json

import pyarrow
import pytest
from helpers.sources import tatoeba_zip
from pyarrow import parquet

from adaptermix.sources.catalog import SOURCES
from adaptermix.sources.get import Order, get
from adaptermix.sources.inventory import count_rows, stocks


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cy.txt", "a\nb\n", 2),
        ("cy.dev", "a\nb", 2),
        ("cy-en.tsv", "", 0),
        ("en-US.jsonl", '{"a": 1}\n\n{"a": 2}\n', 2),
        ("de-en.valid.json", json.dumps([{"a": 1}, {"a": 2}, {"a": 3}], indent=1), 3),
        ("de-en.train.json", '{"a": 1}\n{"a": 2}\n', 2),
        ("da.test.iob2", "# id = 1\n1\ta\tO\n2\tb\tO\n\n\n# id = 2\n1\tc\tO\n", 2),
        ("da.dev.iob2", "1\ta\tO\n\n1\tb\tO\n", 2),
    ],
)
def test_rows_are_counted_by_the_kind_of_file(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert count_rows(tmp_path / name) == expected
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    if text:
        assert count_rows(tmp_path / f"{name}.gz") == expected


def test_rows_of_parquet_are_in_its_footer(tmp_path):
    parquet.write_table(pyarrow.table({"a": [1, 2, 3]}), tmp_path / "a.parquet")
    assert count_rows(tmp_path / "a.parquet") == 3


def stock(folder, name):
    return next(found for found in stocks(folder) if found.source == name)


def test_files_are_as_recorded_changed_or_ones_own(tmp_path):
    copy = tmp_path / "cy-en.txt.zip"
    copy.write_bytes(tatoeba_zip("cy-en", [("Helo.", "Hello."), ("Ie.", "Yes.")]))
    data = tmp_path / "data"
    get(Order(SOURCES["tatoeba"], ("cy-en",), data, mirror=str(copy)))
    found = stock(data, "tatoeba")
    assert (found.files, found.rows, found.recorded, found.changed, found.others) == (
        2,
        4,
        2,
        [],
        0,
    )
    english = data / "tatoeba" / "Tatoeba.cy-en.en"
    english.with_name(f"{english.name}.gz").write_bytes(gzip.compress(english.read_bytes()))
    english.unlink()
    assert stock(data, "tatoeba") == found
    (data / "tatoeba" / "Tatoeba.cy-en.cy").write_text("arall\n")
    (data / "tatoeba" / "de-en.tsv").write_text("a\tb\n")
    (data / "tatoeba" / ".hidden").write_text("no data")
    found = stock(data, "tatoeba")
    assert found.changed == [str(data / "tatoeba" / "Tatoeba.cy-en.cy")]
    assert (found.files, found.recorded, found.others) == (3, 1, 1)
    assert stock(data, "massive").files == 0


def test_a_file_that_is_cut_short_is_told(tmp_path):
    folder = tmp_path / "data" / "flores200"
    folder.mkdir(parents=True)
    (folder / "cym_Latn.dev").write_text("a\n" * 996)
    (folder / "eng_Latn.dev").write_text("a\n" * 997)
    told = f"{folder / 'cym_Latn.dev'} has 996 rows, not 997"
    assert stock(tmp_path / "data", "flores").odd == [told]


@pytest.mark.parametrize(
    ("source", "folder", "name", "rows"),
    [
        ("massive", "massive", "cy-GB.jsonl", 16_521),
        ("flores", "flores200", "cym_Latn.dev", 997),
        ("flores", "flores200", "cym_Latn.devtest", 1_012),
    ],
)
def test_a_file_has_as_many_rows_as_were_published(tmp_path, source, folder, name, rows):
    path = tmp_path / folder / name
    path.parent.mkdir()
    for count in (rows - 1, rows, rows + 1):
        path.write_text("{}\n" * count)
        told = [] if count == rows else [f"{path} has {count:,} rows, not {rows:,}"]
        assert stock(tmp_path, source).odd == told


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_counted(tmp_path):
    folder = tmp_path / "data" / "wmt"
    folder.mkdir(parents=True)
    (folder / "cs-en.test.parquet").write_text("<html>")
    parquet.write_table(pyarrow.table({"a": [1, 2, 3]}), folder / "de-en.test.parquet")
    found = stock(tmp_path / "data", "wmt23")
    assert (found.files, found.rows) == (2, 3)
    assert found.odd[0].startswith(f"{folder}/cs-en.test.parquet: not a Parquet file")

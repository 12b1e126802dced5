"""Pairs that are downloaded where no folder is named, and the hub's data sets as folders."""

import json
from dataclasses import replace

import pyarrow
import pytest
from helpers.server import served
from helpers.sources import tatoeba_zip
from pyarrow import parquet
from typer.testing import CliRunner

from adaptermix.cli.main import program
from adaptermix.data import pairs as pairs_module
from adaptermix.data.pairs import PairPlace, read_pairs
from adaptermix.errors import DataError, ResourceError
from adaptermix.sources.catalog import TATOEBA

ROWS = [(f"Brawddeg {n}.", f"Sentence {n}.") for n in range(60)]


@pytest.fixture
def opus(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    files = {
        "cy-en.txt.zip": tatoeba_zip("cy-en", ROWS),
        "en-sw.txt.zip": tatoeba_zip("en-sw", [row[::-1] for row in ROWS]),
    }
    with served(files) as site:
        source = replace(TATOEBA, address=f"{site.address}/")
        monkeypatch.setattr(pairs_module, "TATOEBA", source)
        yield site


def test_without_a_folder_a_pair_is_downloaded_once(opus, answer_cache):
    assert [(p.source, p.target) for p in read_pairs("cy-en", None)] == ROWS
    assert [(p.source, p.target) for p in read_pairs("en-cy", None)][0] == ROWS[0][::-1]
    assert [path for path, _ in opus.asked] == ["cy-en.txt.zip"]
    assert (answer_cache / "data" / "tatoeba" / "Tatoeba.cy-en.cy").is_file()


def test_a_pair_is_downloaded_by_the_codes_of_its_languages(opus):
    (first, *_) = read_pairs("Welsh-English", None)
    assert ((first.source, first.target), first.pair) == (ROWS[0], "Welsh-English")
    assert [path for path, _ in opus.asked] == ["cy-en.txt.zip"]


def test_train_align_works_as_it_is_typed(opus, answer_cache, model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["train-align", "--model", str(model_dir), "--pairs", "cy-en,sw-en", "--dry-run"]
    result = CliRunner().invoke(program(), [*line, "--json"])
    assert result.exit_code == 0, result.output
    assert {path for path, _ in opus.asked} == {"cy-en.txt.zip", "en-sw.txt.zip"}
    assert json.loads(result.stdout)["examples"]
    told = [line for line in result.stderr.splitlines() if "downloading" in line]
    folder = answer_cache / "data" / "tatoeba"
    assert told[0].startswith(
        f"note: downloading cy-en of Tatoeba, OPUS v2021-07-22 (CC BY 2.0 FR) to {folder}; cite "
    )
    assert len(told) == 2
    again = CliRunner().invoke(program(), line)
    assert "downloading" not in again.stderr


def test_how_far_a_download_is_is_told(opus, answer_cache):
    told = []
    read_pairs("cy-en", PairPlace(None, on_progress=told.append))
    assert [bool(each.note) for each in told][0]
    assert told[-1].stage == "tatoeba: cy-en.txt.zip"


def test_a_pair_that_opus_does_not_have_is_told_with_the_way_on(opus):
    with pytest.raises(ResourceError, match="no such file") as caught:
        read_pairs("cy-sw", None)
    assert "adaptermix data get tatoeba --pairs cy-sw" in caught.value.hint


def test_without_a_network_what_was_downloaded_is_read(opus, monkeypatch):
    read_pairs("cy-en", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert len(read_pairs("cy-en", None)) == len(ROWS)
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE"):
        read_pairs("sw-en", None)


def table(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)


def test_data_sets_of_the_hub_are_read_from_a_folder(tmp_path):
    table(tmp_path / "en-cy" / "train-00000-of-00001.parquet", english=["hi"], non_english=["helo"])
    table(
        tmp_path / "de-en" / "train-00000-of-00001-ab12.parquet",
        translation=[{"de": "Hallo", "en": "hello"}, {"de": None, "en": "left out"}],
    )
    (pair,) = read_pairs("cy-en", tmp_path)
    assert (pair.source, pair.target) == ("helo", "hi")
    (pair,) = read_pairs("en-de", tmp_path)
    assert (pair.source, pair.target) == ("hello", "Hallo")


def test_a_column_may_have_the_name_of_the_pair(tmp_path):
    table(tmp_path / "de-en.parquet", **{"en-de": [{"en": "hello", "de": "Hallo"}]})
    (pair,) = read_pairs("de-en", tmp_path)
    assert (pair.source, pair.target) == ("Hallo", "hello")


def test_a_file_of_other_languages_is_refused(tmp_path):
    table(tmp_path / "de-en.parquet", **{"en-fr": [{"en": "hello", "fr": "salut"}]})
    with pytest.raises(
        DataError,
        match=r"de-en.parquet:1: unknown columns en-fr; accepted: translation; de and en; ",
    ):
        read_pairs("de-en", tmp_path)
    table(tmp_path / "de-en.parquet", text=["hello"])
    with pytest.raises(DataError, match="unknown columns text"):
        read_pairs("de-en", tmp_path)


def test_a_text_without_one_of_the_languages_is_named_with_its_row(tmp_path):
    rows = [{"de": "Hallo", "en": "hello"}]
    table(tmp_path / "fr-en.parquet", translation=rows)
    with pytest.raises(DataError, match="fr-en.parquet:1: no 'translation' with fr and en"):
        read_pairs("fr-en", tmp_path)

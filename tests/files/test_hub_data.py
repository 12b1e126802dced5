"""Data sets of the Hub: their names, and a local copy of one read by the library itself."""

from importlib.util import find_spec
from pathlib import Path

import pyarrow
import pytest
from helpers.tables import write_rows
from pyarrow import parquet

from adaptermix.data.chats import read_chats
from adaptermix.data.pairs import read_pairs
from adaptermix.errors import AdaptermixError, DataError, ResourceError
from adaptermix.files.hub_data import DataSet, find_data_set, open_data_set
from adaptermix.files.records import open_records
from adaptermix.progress import ignore

needs_datasets = pytest.mark.skipif(
    find_spec("datasets") is None, reason="the package datasets is not installed"
)
ROWS = [{"prompt": f"p {n}", "completion": f"c {n}"} for n in range(3)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", DataSet("owner/name")),
        ("owner/name:cy", DataSet("owner/name", parts=("cy",))),
        ("owner/name::train", DataSet("owner/name", parts=("", "train"))),
        ("owner/name:cy-en:train", DataSet("owner/name", parts=("cy-en", "train"))),
        ("owner/name@refs/pr/1:cy", DataSet("owner/name", "refs/pr/1", ("cy",))),
        ("owner/name.v2", DataSet("owner/name.v2")),
        ("owner/name.jsonl", None),
        ("owner/name.csv.gz", None),
        ("owner/name:a:b:c", None),
        ("owner", None),
        ("a/b/c", None),
        ("here/name", None),
        ("here/name@main", DataSet("here/name", "main")),
    ],
)
def test_names(tmp_path, text, expected):
    (tmp_path / "here").mkdir()
    assert find_data_set(text, tmp_path) == expected


def test_what_is_there_is_a_path(tmp_path):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    folder = str(tmp_path / "owner" / "name")
    assert find_data_set("owner/name:cy", tmp_path) == DataSet(folder, parts=("cy",))
    (tmp_path / "owner" / "a:b").mkdir()
    assert find_data_set("owner/a:b", tmp_path) == DataSet(str(tmp_path / "owner" / "a:b"))
    (tmp_path / "owner" / "rows").write_text("")
    assert find_data_set("owner/rows", tmp_path) is None


def test_without_the_library_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr("adaptermix.files.hub_data.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="owner/name is not a local file or folder") as caught:
        open_records(Path("owner/name"))
    assert 'pip install "adaptermix[datasets]"' in caught.value.hint


@pytest.fixture
def repository(tmp_path):
    """A folder as a repository of the Hub, with two configurations of which one has two splits."""
    folder = tmp_path / "owner" / "name"
    for config, splits in {"en-cy": ("train", "test"), "short": ("test",)}.items():
        (folder / config).mkdir(parents=True)
        for split in splits:
            write_rows(folder / config / f"{split}-00000-of-00001.parquet", ROWS)
    configs = [
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: {config}/{s}-*.parquet\n" for s in splits)
        for config, splits in {"en-cy": ("train", "test"), "short": ("test",)}.items()
    ]
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    return folder


def opened(place, pick=lambda names: None):
    return open_data_set(find_data_set(str(place)), pick, ignore)


@needs_datasets
def test_configuration_and_split_are_chosen(repository):
    assert opened(f"{repository}:en-cy").origin == f"{repository}:en-cy:train"
    assert opened(f"{repository}:en-cy:test").origin == f"{repository}:en-cy:test"
    assert opened(f"{repository}:short").origin == f"{repository}:short:test"
    assert opened(repository, lambda names: names[-1]).origin == f"{repository}:short:test"


@needs_datasets
@pytest.mark.parametrize(
    ("suffix", "message", "hint"),
    [
        ("", "the data set has 2 configurations", "name:en-cy; it has en-cy, short"),
        (":none", "the data set has 2 configurations", "it has en-cy, short"),
        (":none:train", "no configuration 'none'", "it has en-cy, short"),
        (":short:train", "no split 'train' in the configuration 'short'", "it has test"),
    ],
)
def test_what_a_data_set_does_not_have_is_told_with_what_it_has(repository, suffix, message, hint):
    with pytest.raises(DataError, match=message) as caught:
        opened(f"{repository}{suffix}")
    assert hint in caught.value.hint


@needs_datasets
def test_conversations_are_the_same_as_from_a_file(repository, tmp_path):
    told = []
    read = read_chats(Path(f"{repository}:en-cy"), None, 2, told.append)
    expected = read_chats(write_rows(tmp_path / "a.jsonl", ROWS), None, 2)
    assert [chat.messages for chat in read] == [chat.messages for chat in expected]
    assert read[1].location == f"{repository}:en-cy:train:2"
    assert [each.note for each in told] == [
        f"reading {repository}, configuration en-cy, split train"
    ]


@needs_datasets
def test_a_pair_is_read_from_the_configuration_of_its_name(repository):
    path = repository / "en-cy" / "train-00000-of-00001.parquet"
    pairs = [{"translation": {"cy": f"helo {n}", "en": f"hello {n}"}} for n in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(pairs), path)
    read = read_pairs("cy-en", Path(f"{repository}::train"))
    assert [(pair.source, pair.target) for pair in read][0] == ("helo 0", "hello 0")


@needs_datasets
def test_folders_of_save_to_disk_are_read(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one")
    both = datasets.DatasetDict({"train": one, "test": one.select([1])})
    both.save_to_disk(tmp_path / "both")
    for place, count in (("one", 3), ("both", 3), ("both:test", 1), ("both:default:test", 1)):
        chats = read_chats(tmp_path / place)
        assert len(chats) == count
        split = "test" if "test" in place else "train"
        assert chats[0].location == f"{tmp_path}/{place.partition(':')[0]}:{split}:1"
    with pytest.raises(DataError, match="no split 'dev'") as caught:
        read_chats(tmp_path / "both:dev")
    assert "train, test" in caught.value.hint
    pairs = datasets.Dataset.from_list([{"cy": "helo", "en": "hello"}])
    pairs.save_to_disk(tmp_path / "pairs")
    assert [pair.target for pair in read_pairs("cy-en", tmp_path / "pairs")] == ["hello"]


@needs_datasets
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_cells_in_a_folder_are_the_text_that_they_are_in_the_file(tmp_path, suffix):
    rows = [("1", "NA"), ("007", "null"), ("", "1.0"), ("x", "True"), ('say "ok"', "2024-01-01")]
    path = tmp_path / "set" / f"train.{suffix}"
    path.parent.mkdir()
    named = [dict(zip(("prompt", "completion"), row, strict=True)) for row in rows]
    write_rows(path, named)
    for place in (path, path.parent):
        assert [
            tuple(message["content"] for message in chat.messages) for chat in read_chats(place)
        ] == rows


@needs_datasets
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_of_different_columns_are_told(tmp_path, suffix):
    folder = tmp_path / "set"
    folder.mkdir()
    write_rows(folder / f"a.{suffix}", [{"prompt": "a", "completion": "b"}])
    write_rows(folder / f"b.{suffix}", [{"x": "a", "y": "b"}])
    with pytest.raises(DataError, match="different columns|'prompt' is missing") as caught:
        read_chats(folder)
    assert caught.value.hint


@needs_datasets
def test_code_of_a_data_set_is_not_run(tmp_path):
    folder = tmp_path / "owner" / "code"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="does not run code from data sets"):
        opened(folder)
    assert not (tmp_path / "ran").exists()


@needs_datasets
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": \n'),
        ("train.parquet", "no parquet"),
        ("train.jsonl", ""),
        ("notes.md", "no data"),
    ],
)
def test_malformed_data_is_told(tmp_path, name, content):
    folder = tmp_path / "owner" / "bad"
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    with pytest.raises(AdaptermixError, match="owner/bad"):
        read_chats(folder)


@needs_datasets
def test_files_with_other_columns_than_the_first_are_told(tmp_path):
    folder = tmp_path / "owner" / "mixed"
    folder.mkdir(parents=True)
    write_rows(folder / "a.jsonl", ROWS)
    write_rows(folder / "b.jsonl", [{"instruction": "a", "output": "b"}])
    with pytest.raises(DataError, match="owner/mixed.*data files have different columns"):
        read_chats(folder)


@needs_datasets
def test_without_a_network_one_line_has_the_name(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="^owner/name is not a local file, and could not be"):
        read_chats(Path("owner/name"))

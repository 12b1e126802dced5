"""``data get`` on the command line."""

import json

import pytest
from helpers.server import served
from helpers.sources import tatoeba_zip
from typer.testing import CliRunner

from adaptermix.cli.data import SourceName
from adaptermix.cli.main import program
from adaptermix.errors import AdaptermixError
from adaptermix.sources.catalog import SOURCES

app = program()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def failure(*arguments):
    result = run(*arguments)
    assert isinstance(result.exception, AdaptermixError), result.output
    return result.exception


def test_the_names_of_the_sources_are_those_of_the_table():
    assert [name.value for name in SourceName] == list(SOURCES)


def test_license_and_citation_are_printed_and_json_has_every_file(here):
    rows = [("Helo.", "Hello.")]
    with served({"cy-en.txt.zip": tatoeba_zip("cy-en", rows)}) as site:
        line = ("get", "tatoeba", "--pairs", "cy-en", "--mirror", site.address)
        said = run(*line).output
        assert "license: CC BY 2.0 FR" in said
        assert "cite: Tiedemann 2012" in said
        assert "downloaded: https://object.pouta.csc.fi/OPUS-Tatoeba/v2021-07-22" in said
        record = json.loads(run(*line, "--json", "-q").stdout)
    assert [file["status"] for file in record["files"]] == ["there", "there"]
    assert record["files"][0]["path"] == "data/tatoeba/Tatoeba.cy-en.cy"
    assert len(site.asked) == 1


def test_a_dry_run_needs_no_server(here):
    record = json.loads(run("get", "flores", "--langs", "cy,en,et", "--dry-run", "--json").stdout)
    assert [file["path"] for file in record["files"]][-1] == "data/flores200/est_*.devtest"
    assert record["downloads"][0]["status"] == "planned"
    assert record["downloads"][0]["size"] == 25_585_843
    assert not list(here.iterdir())


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_has_a_default(here, name):
    record = json.loads(run("get", name, "--dry-run", "--json").stdout)
    assert record["downloads"]
    assert record["files"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("massive", "--pairs", "cy-en"), 3, "--pairs: select parts of massive with --langs"),
        (("tatoeba", "--langs", "cy"), 3, "--langs: select parts of tatoeba with --pairs"),
        (("massive", "--langs", "xx"), 4, "no language 'xx'"),
        (("flores", "--langs", "Breton"), 4, "flores has no 'Breton'"),
        (("uner", "--langs", "cy"), 4, "uner has no 'cy'"),
        (("uner-aya", "--langs", "da"), 4, "uner-aya is not split by language"),
        (("alma", "--pairs", "cy-en"), 4, "alma has no 'cy-en'"),
        (("tatoeba", "--pairs", "cy"), 4, "'cy' is not a language pair"),
        (("tatoeba", "--mirror", "nowhere"), 3, "--mirror nowhere: expected a folder"),
    ],
)
def test_what_a_source_does_not_have_is_told_before_anything_is_downloaded(
    here, arguments, code, told
):
    error = failure("get", *arguments)
    assert error.exit_code == code
    assert told in error.message
    assert error.hint or "mirror" in told


def test_a_pair_of_training_data_may_be_turned(here):
    record = json.loads(run("get", "alma", "--pairs", "en-cs", "--dry-run", "--json").stdout)
    assert record["files"][0]["path"] == "data/alma/cs-en.train.json"


def test_a_file_that_is_not_there_has_exit_code_6_and_no_traceback(here):
    with served({}) as site:
        error = failure("get", "massive", "--mirror", site.address)
    assert error.exit_code == 6
    assert f"{site.address}/amazon-massive-dataset-1.1.tar.gz" in error.message
    assert "\n" not in error.message

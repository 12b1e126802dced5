"""The data of a recipe: what is there, what is missing, and the lines that get it."""

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers.corpus import write_corpus
from helpers.sources import tatoeba_zip
from typer.testing import CliRunner

from adaptermix.cli.main import program
from adaptermix.commands.data import names_of
from adaptermix.recipes.data import DataReport, Need, check_data, get_lines
from adaptermix.recipes.recipe import read_recipe
from adaptermix.sources.catalog import SOURCES
from adaptermix.sources.get import Order, get
from adaptermix.sources.inventory import Stock

PAPER = sorted((Path(__file__).parents[2] / "examples" / "paper").glob("*-*.toml"))
RECIPE = """
model = "somebody/model"
data-dir = "data/massive"
pairs-dir = "data/tatoeba"

[joint]
command = "train-joint"
langs = ["en"]
pairs = ["cy-en", "jv-en"]

[merged]
command = "merge"
adapters = ["@joint", "other.safetensors"]
weight = 0.5

[test]
command = "eval"
adapters = ["@joint"]
langs = ["en", "cy", "is"]

[where]
command = "retrieval"
data-dir = "data/flores200"
langs = ["en", "cy"]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    write_corpus(tmp_path / "data" / "massive")
    (tmp_path / "data" / "tatoeba").mkdir()
    (tmp_path / "data" / "tatoeba" / "cy-en.tsv").write_text("Helo.\tHello.\nIe.\tYes.\n")
    return tmp_path


def test_what_is_missing_is_told_language_by_language(folder):
    report = check_data(folder / "data", read_recipe(folder / "recipe.toml"))
    lacking = [(need.step, need.name) for need in report.missing]
    assert lacking == [("joint", "jv-en"), ("test", "is"), ("where", "en"), ("where", "cy")]
    pairs = next(need for need in report.needs if need.name == "cy-en")
    assert pairs.examples == 2
    data = folder / "data"
    assert report.get == [
        f"adaptermix data get tatoeba --pairs jv-en -o {data}",
        f"adaptermix data get massive --langs is -o {data}",
        f"adaptermix data get flores --langs en,cy -o {data}",
    ]


def test_the_command_fails_where_data_is_missing_and_only_there(folder):
    arguments = ["data", "check", str(folder / "recipe.toml")]
    result = CliRunner().invoke(program(), arguments)
    assert result.exit_code == 4
    assert "jv-en" in result.output
    assert "adaptermix data get flores --langs en,cy" in result.output
    text = RECIPE.replace(', "jv-en"', "").replace(', "is"', "").partition("[where]")[0]
    (folder / "recipe.toml").write_text(text)
    result = CliRunner().invoke(program(), [*arguments, "--json"])
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert {need["step"] for need in record["needs"]} == {"joint", "test"}
    assert not record["get"]
    assert "nothing is missing" in CliRunner().invoke(program(), arguments).output


def test_without_a_recipe_it_says_what_is_there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(program(), ["data", "check", "--json"])
    record = json.loads(result.stdout)
    assert [stock["source"] for stock in record["sources"]] == list(SOURCES)
    assert record["sources"][1]["files"] == 1
    assert "missing" in CliRunner().invoke(program(), ["data", "check"]).output


def test_traps_are_told(folder):
    alma, flores = folder / "data" / "alma", folder / "data" / "flores200"
    alma.mkdir()
    row = json.dumps({"translation": {"is": "Halló", "en": "Hello."}})
    (alma / "is-en.train.json").write_text(row)
    assert any(
        "contain all sentences of FLORES-200" in trap for trap in check_data(folder / "data").traps
    )
    flores.mkdir()
    (flores / "eng_Latn.dev").write_text("Hello.\nBye.\n")
    traps = check_data(folder / "data").traps
    assert any("contains 1 sentence of FLORES-200 in its 1 row" in trap for trap in traps)
    assert any("has 2 rows, not 997" in trap for trap in traps)
    (alma / "is-en.train.json").write_text("{")
    assert any("is-en.train.json:1: not JSON" in trap for trap in check_data(folder / "data").traps)


def test_a_downloaded_file_that_is_damaged_is_got_again_by_force(folder):
    data = folder / "data"
    copy = folder / "cy-en.txt.zip"
    copy.write_bytes(tatoeba_zip("cy-en", [("Helo.", "Hello.")]))
    (data / "tatoeba" / "cy-en.tsv").unlink()
    get(Order(SOURCES["tatoeba"], ("cy-en",), data, mirror=str(copy)))
    (data / "tatoeba" / "Tatoeba.cy-en.cy").write_text("un\ndau\n")
    report = check_data(data, read_recipe(folder / "recipe.toml"))
    assert report.get[0] == f"adaptermix data get tatoeba --pairs cy-en,jv-en --force -o {data}"
    assert not any("--force" in line for line in report.get[1:])


def test_pairs_of_a_text_in_many_languages_are_its_languages():
    need = Need("align", "data/flores200", "de-en", None, "not there")
    assert list(get_lines([need])) == ["adaptermix data get flores --langs de,en -o data"]
    assert not list(get_lines([Need("align", "elsewhere", "de-en", None, "not there")]))
    aya = [Need("json", "data/uner-aya", lang, None, "not there") for lang in ("da", "sv")]
    assert list(get_lines(aya)) == ["adaptermix data get uner-aya -o data"], "it is had as a whole"


def needed(report):
    """What a recipe reads, by source: the names of the source."""
    return [name_by_source(line) for line in get_lines(report.needs)]


def name_by_source(line):
    words = shlex.split(line)[3:]
    source = SOURCES[words[0]]
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert set(given) <= {"--langs", "--pairs", "-o"}
    langs, pairs = ([n for n in given.get(k, "").split(",") if n] for k in ("--langs", "--pairs"))
    return source.name, {*names_of(source, langs, pairs)}, given["-o"]


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_recipe_of_the_paper_begins_with_the_lines_that_get_its_data(path):
    """Checked against what its steps read, none of which is there."""
    head = path.read_text().partition("base =")[0]
    written = [
        name_by_source(line) for line in re.findall(r"^#     (adaptermix data get .+)$", head, re.M)
    ]
    assert all(out == "examples/paper/data" for _, _, out in written)
    told = {source: names for source, names, _ in written}
    recipe = read_recipe(path)
    reads = needed(check_data(path.parent / "data", recipe))
    assert {source for source, _, _ in reads} == told.keys()
    for source, names, _ in reads:
        assert names <= told[source]


def test_what_is_shown_of_each_step_is_its_own(folder):
    recipe = read_recipe(folder / "recipe.toml")
    report = check_data(folder / "data", recipe)
    view = report.view()
    steps = next(part for part in view.shown if getattr(part, "name", "") == "steps")
    rows = [[str(cell) for cell in row] for row in steps.rows]
    counts = {(need.step, need.name): need.examples for need in report.needs}
    data = folder / "data"
    assert rows == [
        ["joint", str(data / "massive"), f"{counts['joint', 'en']}", ""],
        ["joint", str(data / "tatoeba"), "2", "jv-en"],
        ["test", str(data / "massive"), f"{counts['test', 'en'] + counts['test', 'cy']}", "is"],
        ["where", str(data / "flores200"), "0", "en cy"],
    ]
    problems = [need.problem for need in report.missing]
    told = [str(part) for part in view.shown if str(part) in problems]
    assert told == [problems[0], problems[1], problems[2]], "one of each folder, the first"
    assert "nothing is missing" not in map(str, view.shown)


def test_all_examples_are_counted_whatever_the_limit(folder):
    counts = []
    for limit in ("", "limit = 1\n"):
        (folder / "recipe.toml").write_text(RECIPE.replace("[merged]", f"{limit}[merged]"))
        needs = check_data(folder / "data", read_recipe(folder / "recipe.toml")).needs
        counts.append({(n.step, n.name): n.examples for n in needs if n.step == "joint"})
    assert counts[0] == counts[1]
    assert counts[0]["joint", "en"] > 1


def test_data_that_is_downloaded_when_a_step_runs_is_said_to_be(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('[t]\ncommand = "eval"\nmodel = "x/y"\nlangs = ["en"]\n')
    report = check_data(tmp_path, read_recipe(path))
    steps = next(part for part in report.view().shown if getattr(part, "name", "") == "steps")
    (row,) = steps.rows
    assert [str(cell) for cell in row] == ["t", "none", "downloaded when the step runs", ""]


def test_a_missing_file_of_an_own_task_is_told(tmp_path):
    """It is read from the folder of the task if no folder is given; on the Hub, it is not."""
    fields = 'name = "own"\nmetrics = ["exact-match"]\nprompt = "{p}"\nanswer = "a"\n[files]\n'
    (tmp_path / "own.toml").write_text(fields + 'test = "{lang}.jsonl"\n')
    (tmp_path / "hub.toml").write_text(fields + 'test = "owner/name:{lang}"\n')
    (tmp_path / "en.jsonl").write_text('{"p": "x", "a": "y"}\n')
    step = '[{0}]\ncommand = "eval"\ntask = "{0}.toml"\nlangs = ["en", "cy"]\n'
    path = tmp_path / "recipe.toml"
    path.write_text(step.format("own") + step.format("hub"))
    report = check_data(tmp_path, read_recipe(path))
    (missing,) = report.missing
    assert (missing.step, missing.folder, missing.name) == ("own", str(tmp_path), "cy")
    assert "cy.jsonl: no such file" in missing.problem
    assert [(need.folder, need.examples) for need in report.needs] == [
        *((str(tmp_path), 1), (str(tmp_path), None)),
        *(("", None), ("", None)),
    ]


def test_each_source_is_shown_with_its_own_numbers():
    def shown(**changes):
        given = {"source": "alma", "folder": "d/alma", "files": 7, "rows": 1234, "recorded": 4}
        given |= {"changed": ["a", "b"], "odd": []}
        report = DataReport("d", [Stock(**given | changes)], [], [], [])
        (row,) = report.view().shown[0].rows
        return [str(cell) for cell in row]

    assert shown() == ["alma", "d/alma", "7", "1,234", "4 as recorded, 2 changed, 1 not recorded"]
    assert shown(files=4, changed=[])[-1] == "4 as recorded"
    assert shown(files=0) == ["alma", "d/alma", "0", "", "missing"]

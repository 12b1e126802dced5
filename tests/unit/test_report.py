"""Reports: what is found, what is shown, and what is refused. The page in a browser: e2e."""

import base64
import gzip
import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs_on_disk import write_evaluation, write_retrieval
from test_model_card import ALIGNED, TRAINED, write
from typer.testing import CliRunner

from adaptermix.cli import app
from adaptermix.config import MergeSettings, ReportSettings
from adaptermix.errors import AdaptermixError, ArtifactError, DataError
from adaptermix.merging import merge
from adaptermix.plots import PlottedScore, score_bars, search_plot
from adaptermix.report import is_right, report
from adaptermix.significance import Interval
from adaptermix.tables import Table, printable, ranges

UTTERANCES = {"en": ["wake me at five", "hello"], "cy": ["deffra fi am bump", "helo"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with an evaluation, a retrieval analysis, and adapters aligned at two layers."""
    folder = tmp_path_factory.mktemp("runs")
    write_evaluation(folder / "eval-massive", UTTERANCES)
    write_retrieval(folder / "retrieval")
    write(folder / "task.safetensors", TRAINED)
    write(folder / "early", ALIGNED | {"settings": {"layer": 1}}, seed=1)
    write(folder / "late", ALIGNED | {"settings": {"layer": 3}}, seed=2)
    sources = [folder / "task.safetensors", folder / "early"]
    merge(sources, MergeSettings(weight=0.9, out=folder / "merged.safetensors"))
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"not looked at")
    return folder


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    settings = ReportSettings(out=out / "report.html", export=out / "figures")
    summary = report([runs], settings)
    return summary, (out / "report.html").read_text(encoding="utf-8"), out / "figures"


def embedded(text):
    packed = re.search(r'id="data">([^<]*)<', text)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_a_folder_of_runs_is_found_and_shown(page, runs):
    summary, text, _ = page
    assert summary.task == "massive"
    assert len(summary.runs) == 2
    assert [path.rpartition("/")[2] for path in summary.adapters] == [
        *("early", "late", "merged.safetensors", "task.safetensors"),
    ]
    assert "merged is the exact merge 0.9 × task + 0.1 × early." in text
    assert "+50.0 [+40.0, +60.0] *" in text
    assert text.count("<svg") == len(summary.plots)
    for figure in ("layers", "systems", "placement", "correlation-1", "pairs-1"):
        assert f"retrieval-{figure}" in summary.plots


def test_a_report_is_the_same_every_time(page, runs, tmp_path):
    report([runs], ReportSettings(out=tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page[1]


def test_every_answer_is_in_the_page(page):
    (run,) = embedded(page[1])
    assert run["prompt"] == [*UTTERANCES["en"], *UTTERANCES["cy"]]
    assert [run["langs"][at] for at in run["lang"]] == ["en", "en", "cy", "cy"]
    assert run["answers"] == [["none of it"] * 4, ["time: five"] * 4]
    assert run["flags"] == ["2222", "1111"]  # unreadable; right
    assert run["gold"] == ["time: five"] * 4


def test_figures_and_tables_are_exported(page):
    summary, _, folder = page
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{n}.{end}" for n in summary.plots for end in ("svg", "png")} | {
        f"{n}.{end}" for n in summary.tables for end in ("md", "tex")
    }
    assert (folder / "scores-languages.png").read_bytes().startswith(b"\x89PNG")
    for path in folder.glob("*.svg"):
        ElementTree.parse(path)
    assert "| merged | 75.0 |" in (folder / "glance.md").read_text()
    assert "merged & 75.0 &" in (folder / "glance.tex").read_text()


def test_loss_placement_is_the_gain_over_the_base(page):
    """Early is 10 and late 20 points better at layer 1, nowhere else."""
    svg = (page[2] / "retrieval-placement.svg").read_text()
    points = re.findall(
        r'aria-label="layer: (\d); gain in accuracy \(points\): ([^;]*); line: ([^"]*)"', svg
    )
    assert {(layer, round(float(gain), 6), line) for layer, gain, line in points} == {
        *(("1", 10.0, "at layer 1"), ("1", 20.0, "at layer 3")),
        *((layer, 0.0, f"at layer {loss}") for layer in "023" for loss in (1, 3)),
    }


def test_an_adapter_is_not_compared_with_what_it_went_into(page):
    table = (page[2] / "adapters-interference.md").read_text()
    assert "early and task" in table
    assert "late and merged" in table
    assert "merged and task" not in table
    assert "early and merged" not in table


def test_adapters_that_an_evaluation_tested_are_read_where_they_are(tmp_path, runs, monkeypatch):
    from adaptermix.adapters import adapter_hash, read_adapter

    folder = write_evaluation(tmp_path / "eval", UTTERANCES)
    record = json.loads((folder / "scores.json").read_text())
    path = runs / "task.safetensors"
    good = {"path": str(path), "hash": adapter_hash(read_adapter(path))}
    record["adapters"] = {"a": good, "b": {"path": str(runs / "late"), "hash": "of before"}}
    (folder / "scores.json").write_text(json.dumps(record))
    summary = report([folder], ReportSettings(out=tmp_path / "r.html"), dry_run=True)
    assert summary.adapters == [str(path)]
    assert not (tmp_path / "r.html").exists()


def test_runs_of_different_tasks_do_not_go_together(tmp_path):
    one = write_evaluation(tmp_path / "one", UTTERANCES)
    other = write_evaluation(tmp_path / "other", UTTERANCES, task="uner")
    with pytest.raises(DataError, match=r"other/scores.json:4: .*'uner', but .*one.*'massive'"):
        report([one, other], ReportSettings(out=tmp_path / "r.html"))


def damaged(folder, change):
    path = write_evaluation(folder, UTTERANCES) / "scores.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("cells"), "damaged record: cells: Field required"),
        (lambda r: r["cells"].pop(), "damaged record: no scores of merged on cy"),
        (lambda r: r["macro"].pop("merged"), "no average of merged over all languages"),
        (lambda r: r["cells"][0]["score"].update(value="x"), r"cells\.0\.score\.value"),
        (lambda r: r.update(cells=[], systems=[]), "it holds no scores"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, change, message):
    folder = damaged(tmp_path / "eval", change)
    with pytest.raises(DataError, match=message) as caught:
        report([folder], ReportSettings(out=tmp_path / "r.html"))
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.json", b"{", "scores.json: not JSON"),
        ("scores.json", b"[]", "damaged record: the whole"),
        ("search.json", b"\xff", "not readable as UTF-8"),
        ("retrieval.json", b"{}", "damaged record: systems: Field required"),
        ("notes.txt", b"", "no run"),
        ("adapter.safetensors", b"no", "not a whole safetensors file"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, name, content, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(AdaptermixError, match=message):
        report([tmp_path / "run"], ReportSettings(out=tmp_path / "r.html"))


def test_the_command_plans_and_names_what_it_would_read(tmp_path, runs):
    arguments = ["report", str(runs), "-o", str(tmp_path / "r.html"), "--dry-run", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["examples"] == 4
    assert record["written"] is False
    assert list(tmp_path.iterdir()) == []


def test_missing_paths_and_existing_outputs_are_refused(tmp_path, runs):
    with pytest.raises(DataError, match="no such file or folder"):
        report([tmp_path / "nowhere"], ReportSettings(out=tmp_path / "r.html"))
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(ArtifactError, match="exists"):
        report([runs], ReportSettings(out=tmp_path / "r.html"))
    assert (tmp_path / "r.html").read_text() == "mine"


def test_answers_that_do_not_belong_together_are_refused(tmp_path):
    folder = write_evaluation(tmp_path / "eval", UTTERANCES)
    path = folder / "predictions" / "merged" / "cy.jsonl"
    path.write_text(path.read_text().replace('"id": "1"', '"id": "7"'))
    with pytest.raises(DataError, match="other examples than those of base"):
        report([folder], ReportSettings(out=tmp_path / "r.html"))
    path.write_text('{"id": "0"}\n')
    with pytest.raises(DataError, match=r"cy.jsonl:1: damaged record"):
        report([folder], ReportSettings(out=tmp_path / "r.html"))


SLOT = {"type": "time", "value": "Five  am"}
ENTITY = {"type": "LOC", "text": "Iguazu", "start": 3, "end": 9}


@pytest.mark.parametrize(
    ("predicted", "expected", "by_offsets", "answer"),
    [
        ([SLOT], [{"type": "time", "value": "five am"}], False, True),
        ([SLOT, SLOT], [SLOT], False, False),
        ([SLOT], [], False, False),
        ([], [], False, True),
        ([ENTITY], [ENTITY | {"start": 0}], False, True),
        ([ENTITY], [ENTITY | {"start": 0}], True, False),
        ([ENTITY], [ENTITY | {"text": "iguazu"}], False, False),
        (["B-time", "O"], ["B-time", "O"], False, True),
        (["O", "B-time"], ["B-time", "O"], False, False),
        ("a  b", ["c", "a b"], False, True),
        ("a", ["b"], False, False),
        (None, None, False, False),
    ],
)
def test_an_answer_is_right_when_it_says_all_and_no_more(predicted, expected, by_offsets, answer):
    assert is_right(predicted, expected, by_offsets=by_offsets) is answer


def test_a_plot_carries_its_numbers_and_no_markup():
    hostile = "</svg><script>alert(1)</script>"
    rows = [{"lang": hostile, "system": "base", "score": 25.5}]
    svg = score_bars(rows, {"base": "#123456"}, "F1", "bars").svg
    ElementTree.fromstring(svg)
    assert "<script" not in svg
    assert 'F1: 25.5"' in svg or "F1: 25.5;" in svg
    assert "currentColor" in svg


def test_numbers_that_are_none_are_left_out():
    rows = [{"lang": "en", "system": "a", "score": float("nan")}]
    assert "NaN" not in score_bars(rows, {"a": "red"}, "F1", "bars").svg


@pytest.mark.parametrize("weight", [0.5, None])
def test_the_plot_of_a_search_has_error_bars(weight):
    points = [PlottedScore("one", Interval(0.5, 0.25, 0.75), weight, True, False)]
    svg = search_plot(points, "F1").svg
    assert len(re.findall('aria-roledescription="rule mark"', svg)) == 1
    assert len(re.findall('aria-roledescription="point"', svg)) == 1
    assert "0.25" in svg
    assert "0.75" in svg


def test_weights_stand_below_a_plot_as_they_are():
    score = Interval(0.5, 0.25, 0.75)
    points = [PlottedScore(str(w), score, w, False, False) for w in (0.0, 0.8, 0.85, 0.9, 1.0)]
    shown = re.findall(r">([^<>]+)</text>", search_plot(points, "F1").svg)
    assert shown[:5] == ["0", "0.8", "0.85", "0.9", "1"]


@given(text=st.text())
def test_no_cell_ends_a_table(text):
    table = Table("t", "t", ["a", "b"], [[text, text]])
    markdown = table.as_markdown().split("\n")
    assert len(markdown) == 4
    assert len(re.findall(r"(?<!\\)\|", markdown[2].replace("\\\\", ""))) == 3
    assert "<" not in markdown[2]
    row = table.as_latex().splitlines()[5]
    assert len(re.findall(r"(?<!\\)&", row)) == 1
    assert not re.search(r"(?<!\\)[%$#_]", row)
    assert not row.lstrip().startswith(("[", "*"))  # an option of the row's end before it


@given(text=st.text(st.characters()))
def test_printable_text_can_be_written(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert "\x00" not in shown
    assert len(shown) == len(text)


def test_ranges():
    assert ranges([0, 1, 2, 5]) == "0-2, 5"
    assert ranges([]) == "none"

"""Reports: what is found, what is shown, and what is refused. The page in a browser: e2e."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.cards import ALIGNED, TRAINED, write
from helpers.families import hand_written
from helpers.records import write_evaluation, write_retrieval, write_search
from typer.testing import CliRunner

from adaptermix.adapters.family import family_hash, read_family
from adaptermix.cli import console
from adaptermix.cli.main import program
from adaptermix.errors import (
    EXTRAS,
    AdaptermixError,
    ArtifactError,
    ConfigError,
    DataError,
    ResourceError,
)
from adaptermix.merging.merge import merge
from adaptermix.reports import page as page_module
from adaptermix.reports.page import ReportSummary, _as_text, report
from adaptermix.reports.runs import find_runs
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import ReportSettings
from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings
from adaptermix.tasks.metrics.equality import is_right
from adaptermix.training.report import recorded

app = program()

UTTERANCES = {"en": ["wake me at five", "hello"], "cy": ["deffra fi am bump", "helo"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with an evaluation, a retrieval analysis, and adapters aligned at two layers."""
    folder = tmp_path_factory.mktemp("runs")
    write_evaluation(folder / "eval-massive", UTTERANCES)
    write_retrieval(folder / "retrieval")
    write(folder / "task.safetensors", TRAINED)
    early, late = TrainAlignSettings(layer="bottom"), TrainJointSettings(layer="3")
    write(folder / "early", ALIGNED | {"settings": recorded(early)}, seed=1)
    joint = {"command": "train-joint", "settings": recorded(late)}
    write(folder / "late", ALIGNED | joint, seed=2)
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


@pytest.mark.slow
def test_a_folder_of_runs_is_found_and_shown(page, runs):
    summary, text, _ = page
    assert summary.task == "massive"
    assert "Every sentence vector leaves out the first 2 tokens." in text
    assert len(summary.runs) == 2
    assert [path.rpartition("/")[2] for path in summary.adapters] == [
        *("early", "late", "merged.safetensors", "task.safetensors"),
    ]
    assert "merged is the exact merge 0.9 × task + 0.1 × early." in text
    assert "+50.0 [+40.0, +60.0] *" in text
    assert text.count("<figure") == len(summary.plots)
    for figure in ("layers", "systems", "placement", "correlation-1", "pairs"):
        assert f"retrieval-{figure}" in summary.plots


def test_mean_and_spread_over_seeds_are_shown(tmp_path):
    systems = ("base", "a-seed-1", "a-seed-2")
    write_retrieval(tmp_path / "retrieval", systems=systems)
    settings = ReportSettings(out=tmp_path / "report.html", export=tmp_path / "figures")
    report([tmp_path / "retrieval"], settings)
    table = (tmp_path / "figures" / "retrieval-seeds.md").read_text()
    assert "| all, even layers | 31.0 ± 0.0 |" in table
    assert "| | a |" in table.replace("|  |", "| |")


def test_a_report_is_the_same_every_time(page, runs, tmp_path):
    report([runs], ReportSettings(out=tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page[1]


def test_a_baseline_that_is_no_system_is_a_damaged_record(runs, tmp_path):
    record = json.loads((runs / "eval-massive" / "scores.json").read_text())
    record["baseline"]["name"] = "gone"
    (tmp_path / "scores.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="the baseline gone is not one of the systems"):
        report([tmp_path], ReportSettings(out=tmp_path / "page.html"))


def test_every_answer_is_in_the_page(page):
    (run,) = embedded(page[1])
    assert run["prompt"] == [*UTTERANCES["en"], *UTTERANCES["cy"]]
    assert [run["langs"][at] for at in run["lang"]] == ["en", "en", "cy", "cy"]
    assert run["answers"] == [["none of it"] * 4, ["time: five"] * 4]
    assert run["flags"] == ["2222", "1111"]  # unreadable; right
    assert run["gold"] == ["time: five"] * 4
    assert run["systems"][run["baseline"]] == "base"
    assert run["systems"][run["merge"]] == "merged"


@pytest.mark.parametrize(
    ("metric", "scores", "flags"),
    [
        ("exact_match", (1.0, 0.5), "12"),  # the second one equals what is expected, and is wrong
        ("mixed_scales", (1.0, 0.0), "12"),
        ("bleu_max", (40.0, 2.0), "03"),
    ],
)
def test_an_answer_to_lm_eval_is_right_if_its_score_is_1(tmp_path, metric, scores, flags):
    """What a task expects may be a whole solution. Scores above 1 do not say it."""
    folder = write_evaluation(tmp_path / "run", {"gsm8k": ["1 + 1?", "2 + 2?"]}, task="lm-eval")
    record = folder / "scores.json"
    record.write_text(record.read_text().replace('"slot_f1"', f'"{metric}"'))
    path = folder / "predictions" / "merged" / "gsm8k.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"predicted": "2", "expected": "It is 2.\n#### 2"}
    rows[1] |= {"predicted": "4", "expected": "4", "malformed": 1}
    rows = [row | {"scores": {metric: s}} for row, s in zip(rows, scores, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report([folder], ReportSettings(out=tmp_path / "page.html"))
    (run,) = embedded((tmp_path / "page.html").read_text())
    assert run["flags"][1] == flags


def test_the_values_of_the_answer_are_below_the_names_of_their_systems(page):
    table = (page[2] / "answer-values.md").read_text().splitlines()
    head, english = (
        [cell.strip() for cell in next(line for line in table if start in line).split("|")]
        for start in ("difference", "| en")
    )
    values = dict(zip(head, english, strict=True))
    assert (values["base"], values["merged"]) == ("25.0", "75.0")
    assert "+50.0" in values["difference"]


def test_every_table_and_plot_of_scores_names_the_baseline(page):
    for name in ("glance", "scores-table", "scores-difference-table"):
        assert "Baseline: base, the first system." in (page[2] / f"{name}.md").read_text()
    assert page[1].count("Baseline: base, the first system.") == 5


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


def test_an_adapter_is_not_compared_with_what_it_went_into(page):
    table = (page[2] / "adapters-interference.md").read_text()
    assert "early and task" in table
    assert "late and merged" in table
    assert "merged and task" not in table
    assert "early and merged" not in table


@pytest.mark.parametrize("kind", ["scores", "retrieval"])
def test_adapters_that_were_tested_are_read_where_they_are(tmp_path, runs, kind):
    from adaptermix.adapters.adapter import adapter_hash, read_adapter

    folder = tmp_path / "run"
    write_evaluation(folder, UTTERANCES) if kind == "scores" else write_retrieval(folder)
    record = json.loads((folder / f"{kind}.json").read_text())
    path = runs / "task.safetensors"
    good = {"path": str(path), "hash": adapter_hash(read_adapter(path))}
    record["adapters"] = {"a": good, "b": {"path": str(runs / "late"), "hash": "of before"}}
    (folder / f"{kind}.json").write_text(json.dumps(record))
    summary = report([folder], ReportSettings(out=tmp_path / "r.html"), dry_run=True)
    assert summary.adapters == [str(path)]
    assert not (tmp_path / "r.html").exists()


def test_adapters_of_several_base_models_are_not_compared(tmp_path):
    """Runs of two models go together, though nobody named their adapters."""
    bases = {"small": 6, "large": 12}
    paths = [write(tmp_path / name, TRAINED, f"x/{name}", width=w) for name, w in bases.items()]
    summary = report(paths, ReportSettings(out=tmp_path / "page.html"))
    assert summary.plots == ["adapters-norms"]
    assert "they are not compared" in (tmp_path / "page.html").read_text()


def test_a_family_is_shown_with_its_routes(tmp_path, model_dir):
    """Where it is named, where it lies in a folder of runs, and where it was tested."""
    family = hand_written(
        model_dir, tmp_path / "runs" / "mine", 'default = "task"\n[routes.cy]\nadapter = "align"\n'
    )
    run = write_evaluation(tmp_path / "run", UTTERANCES)
    record = json.loads((run / "scores.json").read_text())
    known = {"path": str(family), "hash": family_hash(read_family(family))}
    record["adapters"] = {"mine": known}
    (run / "scores.json").write_text(json.dumps(record))
    for at, path in enumerate((family, tmp_path / "runs", run)):
        out = tmp_path / f"r{at}.html"
        summary = report([path], ReportSettings(out=out))
        assert summary.adapters == [str(family)]
        assert "routes" in summary.tables
        text = out.read_text()
        assert "Routes by language: mine" in text
        assert re.search(r"<t[dh][^>]*>cy</t[dh]>\s*<td[^>]*>(<strong>)?align", text)
    record["adapters"]["mine"]["hash"] = "of before"
    (run / "scores.json").write_text(json.dumps(record))
    summary = report([run], ReportSettings(out=tmp_path / "r.html"), dry_run=True)
    assert summary.adapters == []


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
        (lambda r: r.pop("cells"), "damaged record: cells: is missing"),
        (lambda r: r["cells"].pop(), "damaged record: no scores of merged on cy"),
        (lambda r: r["macro"].pop("merged"), "no average of merged over all languages"),
        (lambda r: r["cells"][0]["score"].update(value="x"), r"cells\.0\.score\.value"),
        (lambda r: r.update(cells=[], systems=[]), "damaged record: no scores"),
        (lambda r: r.update(langs=[]), "damaged record: no scores"),
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
        ("scores.json", b"[]", "damaged record: expected a JSON object"),
        ("search.json", b"\xff", "not UTF-8"),
        ("retrieval.json", b"{}", "damaged record: systems: is missing"),
        ("notes.txt", b"", "not a run"),
        ("adapter.safetensors", b"no", "not a valid safetensors file"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, name, content, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(AdaptermixError, match=message):
        report([tmp_path / "run"], ReportSettings(out=tmp_path / "r.html"))


def test_only_files_of_plots_need_an_extra(tmp_path, runs, monkeypatch):
    monkeypatch.setitem(EXTRAS, "report", ("not_installed",))
    report([runs], ReportSettings(out=tmp_path / "r.html"))
    with pytest.raises(ResourceError, match="not_installed is not installed"):
        report([runs], ReportSettings(out=tmp_path / "s.html", export=tmp_path / "figures"))
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_the_command_plans_and_names_what_it_would_read(tmp_path, runs):
    arguments = ["report", str(runs), "-o", str(tmp_path / "r.html"), "--dry-run", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["examples"] == 4
    assert record["written"] is False
    assert list(tmp_path.iterdir()) == []


def test_paths_are_never_cut(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    paths = [f"{'folder/' * 20}{name}" for name in ("page", "figures", "run", "one", "two")]
    out, export, run, *adapters = paths
    summary = ReportSummary(out, export, "massive", [run], adapters, [], [], 0, 10, written=True)
    console.show(summary)
    shown = "".join(capsys.readouterr().out.split())
    assert "…" not in shown
    assert all(shown.count(path) == 1 for path in paths)


def test_missing_paths_and_existing_outputs_are_refused(tmp_path, runs):
    with pytest.raises(DataError, match="no such file or folder"):
        report([tmp_path / "nowhere"], ReportSettings(out=tmp_path / "r.html"))
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(ArtifactError, match="exists"):
        report([runs], ReportSettings(out=tmp_path / "r.html"))
    assert (tmp_path / "r.html").read_text() == "mine"
    with pytest.raises(ConfigError, match="is one of the inputs"):
        report([runs], ReportSettings(out=tmp_path / "new.html", export=runs), force=True)


def test_answers_that_do_not_belong_together_are_refused(tmp_path):
    folder = write_evaluation(tmp_path / "eval", UTTERANCES)
    path = folder / "predictions" / "merged" / "cy.jsonl"
    path.write_text(path.read_text().replace('"id": "1"', '"id": "7"'))
    with pytest.raises(DataError, match="examples differ from those of base"):
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
        ([ENTITY | {"end": None}], [ENTITY | {"end": None}], True, False),
        ([SLOT], [SLOT | {"value": "noon"}], True, False),
        (["B-time", "O"], ["B-time", "O"], False, True),
        (["O", "B-time"], ["B-time", "O"], False, False),
        ("a  b", ["c", "a b"], False, True),
        ("a", ["b"], False, False),
        (None, None, False, False),
    ],
)
def test_an_answer_is_right_when_it_says_all_and_no_more(predicted, expected, by_offsets, answer):
    assert is_right(predicted, expected, by_offsets=by_offsets) is answer


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (["O", "B-time", "I-time"], "O B-time I-time"),
        (["a reference", "another one"], "a reference\nanother one"),
        ([SLOT, SLOT | {"value": "noon"}], "time: Five  am; time: noon"),
        ([ENTITY], "LOC: Iguazu"),
        ([], ""),
        (None, ""),
        ("text", "text"),
    ],
)
def test_the_expected_answer_is_shown_as_text(expected, text):
    assert _as_text(expected) == text


def rewritten(folder, change, *, lang="en", system="merged"):
    """Change the predictions of a system."""
    path = folder / "predictions" / system / f"{lang}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | change(at)) + "\n" for at, row in enumerate(rows)))


def test_cut_answers_and_cut_prompts_have_their_own_flags(tmp_path):
    """As the page's script reads them: 1 right, 2 malformed, 4 cut, 8 a cut prompt."""
    script = (Path(page_module.__file__).parent / "assets" / "report.js").read_text()
    assert re.search(r"RIGHT = 1\b.*MALFORMED = 2\b.*CUT = 4\b.*TRUNCATED = 8\b", script, re.S)
    folder = write_evaluation(tmp_path / "eval", UTTERANCES)
    rewritten(folder, lambda at: {"is_cut": at == 0, "is_truncated": at == 1})
    report([folder], ReportSettings(out=tmp_path / "r.html"))
    (run,) = embedded((tmp_path / "r.html").read_text())
    assert run["flags"] == ["2222", "5911"]


def test_entities_are_right_by_what_the_evaluation_compared(tmp_path):
    folder = write_evaluation(tmp_path / "eval", UTTERANCES)
    moved = {"predicted": [ENTITY], "expected": [ENTITY | {"start": 0}]}
    rewritten(folder, lambda at: moved)
    flags = []
    for match in ("text", "offsets"):
        record = json.loads((folder / "scores.json").read_text())
        record["settings"] = {"match": match}
        (folder / "scores.json").write_text(json.dumps(record))
        report([folder], ReportSettings(out=tmp_path / f"{match}.html"))
        (run,) = embedded((tmp_path / f"{match}.html").read_text())
        flags.append(run["flags"][1])
    assert flags == ["1111", "0011"]


def test_the_examples_know_the_baseline_and_can_be_left_out(tmp_path):
    folder = write_evaluation(tmp_path / "eval", UTTERANCES, systems=("one", "two", "three"))
    record = json.loads((folder / "scores.json").read_text())
    record["baseline"]["name"] = "two"
    (folder / "scores.json").write_text(json.dumps(record))
    summary = report([folder], ReportSettings(title="Ŵ \x00", out=tmp_path / "r.html"))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    (run,) = embedded(text)
    assert (run["baseline"], run["merge"], summary.examples) == (1, 2, 4)
    assert "<title>Ŵ \N{REPLACEMENT CHARACTER}</title>" in text
    assert summary.bytes == (tmp_path / "r.html").stat().st_size > len(text)
    rows = {row[0]: row[1] for row in summary.view().shown[-1].rows}
    assert rows["report"] == f"{tmp_path / 'r.html'}, {summary.bytes / 1e6:.1f} MB"
    without = ReportSettings(examples=False, out=tmp_path / "s.html")
    assert report([folder], without).examples == 0
    assert 'id="data"' not in (tmp_path / "s.html").read_text()


def test_every_kind_of_run_is_in_the_summary_and_in_its_own_section(tmp_path):
    for name, make in (
        ("retrieval", write_retrieval),
        ("b.search", write_search),
        ("a.search", write_search),
    ):
        make(tmp_path / name)
    write_evaluation(tmp_path / "eval", UTTERANCES)
    summary = report([tmp_path], ReportSettings(out=tmp_path / "r.html"))
    assert [path.removeprefix(f"{tmp_path}/") for path in summary.runs] == [
        *("eval/scores.json", "a.search/search.json", "b.search/search.json"),
        "retrieval/retrieval.json",
    ]
    text = (tmp_path / "r.html").read_text()
    assert "42 of the 54 answers that an exhaustive search needs" in text
    assert text.count("0.9 is best.</dd>") == 2, "a fact of each search"
    assert re.findall(r'<section id="([^"]+)"', text) == [
        *("answer", "scores", "search-1", "search-2", "retrieval", "examples"),
    ]


def test_runs_are_found_by_their_places_and_once(tmp_path, monkeypatch):
    """Four folders down, not in hidden ones, whatever path leads there."""
    deep = write_evaluation(tmp_path / "a" / "b" / "c" / "run", UTTERANCES)
    write_evaluation(tmp_path / ".hidden" / "run", UTTERANCES)
    write_evaluation(tmp_path / "a" / "b" / "c" / "d" / "too-deep", UTTERANCES)
    assert [run.name for run in find_runs([tmp_path]).evaluations] == ["run"]
    (tmp_path / "link").symlink_to(deep)
    paths = [tmp_path, deep, deep / "scores.json", tmp_path / "link"]
    assert [run.name for run in find_runs(paths).evaluations] == ["run"]
    monkeypatch.chdir(deep)
    (run,) = find_runs([Path()]).evaluations
    assert run.name == "run"


def test_texts_of_a_record_are_printable(tmp_path):
    folder = write_evaluation(tmp_path / "eval", UTTERANCES, systems=("base", "a\x1bb"))
    (run,) = find_runs([folder]).evaluations
    assert run.report.systems == ["base", "a\N{REPLACEMENT CHARACTER}b"]


def test_a_curve_of_another_length_than_the_layers_is_a_damaged_record(tmp_path):
    folder = write_retrieval(tmp_path / "retrieval")
    record = json.loads((folder / "retrieval.json").read_text())
    for key in ("pairs", "by_layer"):
        damaged_one = json.loads(json.dumps(record))
        damaged_one[key][-1]["accuracy"].pop()
        (folder / "retrieval.json").write_text(json.dumps(damaged_one))
        with pytest.raises(DataError, match="damaged record: 3 accuracies, but 4 layers"):
            report([folder], ReportSettings(out=tmp_path / "r.html"))


def test_a_pivot_may_be_spelled_in_another_way_than_its_language(tmp_path):
    """The default pivot is ``en``, and the languages may be ``eng_Latn`` and ``cym_Latn``."""
    folder = write_retrieval(tmp_path / "retrieval", langs=("eng_Latn", "cym_Latn"))
    record = json.loads((folder / "retrieval.json").read_text())
    pages = []
    for pivot in ("eng_Latn", "en"):
        (folder / "retrieval.json").write_text(json.dumps(record | {"pivot": pivot}))
        report([folder], ReportSettings(out=tmp_path / f"{pivot}.html"))
        pages.append((tmp_path / f"{pivot}.html").read_text())
    assert "from eng_Latn" in pages[0]
    assert pages[1] == pages[0].replace("pairs with eng_Latn", "pairs with en")
    for changes, message in (({"pivot": "de"}, "the pivot de is not"), ({"systems": []}, "no sys")):
        (folder / "retrieval.json").write_text(json.dumps(record | changes))
        with pytest.raises(DataError, match=f"damaged record: {message}"):
            report([folder], ReportSettings(out=tmp_path / "r.html"))


def test_a_correlation_that_is_none_is_not_drawn(tmp_path):
    folder = write_retrieval(tmp_path / "retrieval")
    record = json.loads((folder / "retrieval.json").read_text())
    record["correlations"][0]["pearson"] = {"r": None, "p_value": None}
    (folder / "retrieval.json").write_text(json.dumps(record))
    summary = report([folder], ReportSettings(out=tmp_path / "r.html"))
    assert not [name for name in summary.plots if "correlation" in name]
    assert "retrieval-correlations" in summary.tables


def test_correlations_over_few_languages_are_left_out(tmp_path):
    """As records from before that rule have them."""
    write_retrieval(tmp_path / "run")
    path = tmp_path / "run" / "retrieval.json"
    record = json.loads(path.read_text())
    del record["correlations"][0]["points"][7:]
    path.write_text(json.dumps(record))
    summary = report([tmp_path / "run"], ReportSettings(out=tmp_path / "report.html"))
    assert not [name for name in (*summary.plots, *summary.tables) if "correlation" in name]


class _Elements(HTMLParser):
    """Collects the elements of a page, their attributes, and its title."""

    def __init__(self):
        super().__init__()
        self.elements, self.handlers, self.title, self.inside = [], [], "", ""

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.inside = tag
        self.handlers += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        if self.inside == "title" and "svg" not in self.elements:
            self.title += data

    def handle_endtag(self, tag):
        self.inside = ""


def test_hostile_names_are_texts_in_the_page(tmp_path):
    """As in a browser (tests/system/test_report_page.py), on machines that have none."""
    title = "</title><script>x</script>"
    hostile = "<b onclick=x>merged<b>"
    pages = []
    for at, (system, lang, heading) in enumerate(
        ((hostile, "<script>alert(1)</script>", title), ("merged", "cy", "plain"))
    ):
        folder = tmp_path / str(at)
        write_evaluation(folder / "eval", UTTERANCES, systems=("base", system))
        write_retrieval(folder / "retrieval", langs=("en", lang))
        report([folder], ReportSettings(title=heading, out=folder / "r.html"))
        text = (folder / "r.html").read_text(encoding="utf-8")
        page = _Elements()
        page.feed(text)
        pages.append(page)
        assert page.title == heading
        assert page.handlers == []
        assert not {"b", "img"} & {*page.elements}
    assert pages[0].elements.count("script") == pages[1].elements.count("script")

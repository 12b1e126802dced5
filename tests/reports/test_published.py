"""Published numbers beside measured ones, and the file of the paper's against the paper."""

import json
import re
from pathlib import Path
from statistics import fmean, stdev

import pytest
from helpers.corpus import SHARED
from helpers.records import write_evaluation, write_retrieval
from typer.testing import CliRunner

from adaptermix.cli.main import program
from adaptermix.errors import ConfigError, DataError
from adaptermix.recipes.recipe import read_recipe
from adaptermix.reports.page import report
from adaptermix.reports.published import PublishedTable, read_published
from adaptermix.settings.reports import ReportSettings

EXAMPLES = Path(__file__).parents[2] / "examples" / "paper"
PAPER = SHARED / "paper" / "paper.txt"
NUMBERS = """\
citation = "Somebody (2025)"

[table-1]
source = "table 1, page 3"
metric = "slot_f1"
over = ["en", "first", "all", "fr"]
values.base = [24.0, 25.0, 26.5, 1.0]
values.merged = [70.0, nan, 75.25, 1.0]
values.unknown = [1, 2, 3, 4]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "numbers.toml").write_text(NUMBERS)
    write_evaluation(tmp_path / "run", {"en": ["one", "two"], "cy": ["un", "dau"]})
    return tmp_path


def rescore(folder, scores):
    """Give systems scores by language in the record of a run."""
    path = folder / "scores.json"
    record = json.loads(path.read_text())
    for cell in record["cells"]:
        for score in (cell["score"], *cell["scores"].values()):
            score["value"] = scores[cell["system"]][cell["lang"]]
    path.write_text(json.dumps(record))


def compared(folder, *runs, numbers="numbers.toml"):
    settings = ReportSettings(out=folder / "page.html", published=folder / numbers)
    summary = report([folder / run for run in runs or ("run",)], settings, force=True)
    return summary, {(c.system, c.over): c for c in summary.published}


def test_every_number_that_a_run_has_is_compared(folder):
    summary, cells = compared(folder)
    rows = {key: (c.measured, c.published, round(c.difference, 9)) for key, c in cells.items()}
    assert rows == {
        ("base", "en"): (25.0, 24.0, 1.0),
        ("base", "first"): (25.0, 25.0, 0.0),
        ("base", "all"): (25.0, 26.5, -1.5),
        ("merged", "en"): (75.0, 70.0, 5.0),
        ("merged", "all"): (75.0, 75.25, -0.25),
    }
    (table,) = summary.compared
    assert [str(cell) for cell in table.rows[0]] == [
        "en",
        "25.00 vs 24.00 (+1.00)",
        "75.00 vs 70.00 (+5.00)",
    ]
    assert "5 numbers: mean absolute difference 1.55, largest 5.00." in table.note
    page = (folder / "page.html").read_text()
    assert "run beside table 1, page 3: slot F1 (%)" in page
    assert "75.00 vs 75.25 (-0.25)" in page
    assert "Somebody (2025)" in page
    assert table in summary.view().shown


def test_a_summary_is_of_its_own_table_and_of_sizes(folder):
    """The largest difference may be one below; groups of retrieval have their own averages."""
    more = '[r]\nsource = "table 2"\nmetric = "retrieval"\nvalues.early = [30.0, 41.5]\n'
    more += 'over = ["all", "low-resource"]\n'
    text = NUMBERS.replace("26.5", "46.5") + more
    (folder / "numbers.toml").write_text(text)
    write_retrieval(folder / "retrieval")
    record = json.loads((folder / "retrieval" / "retrieval.json").read_text())
    group = {"system": "early", "over": "low-resource", "accuracy": 0.425}
    record["aggregates"].append(record["aggregates"][0] | group)
    (folder / "retrieval" / "retrieval.json").write_text(json.dumps(record))
    summary, cells = compared(folder, "run", "retrieval")
    notes = [table.note for table in summary.compared]
    assert "5 numbers: mean absolute difference 5.55, largest 21.50." in notes[0]
    assert "2 numbers: mean absolute difference 1.0, largest 1.0." in notes[1]
    assert cells["early", "low-resource"].measured == pytest.approx(42.5)
    page = (folder / "page.html").read_text()
    assert page.index('<section id="answer"') < page.index('<section id="published"')
    assert page.index('<section id="published"') < page.index('<section id="scores"')


def test_scores_have_the_scale_of_the_paper(folder):
    rows = {"source": "t", "over": ["all"], "values": {"base": [1.0]}}
    factors = {
        metric: PublishedTable(metric=metric, **rows).factor
        for metric in ("slot_f1", "retrieval", "bleu", "chrf", "comet")
    }
    assert factors == {"slot_f1": 100, "retrieval": 100, "bleu": 1, "chrf": 1, "comet": 1}
    assert PublishedTable(metric="comet", scale=100, **rows).factor == 100


def test_runs_of_one_folder_name_have_a_table_each(folder):
    """Their names have those of the parent folders, everywhere on the page."""
    for parent, share in (("one", 0.5), ("two", 0.9)):
        write_evaluation(folder / parent / "eval", {"en": ["hello"]})
        rescore(folder / parent / "eval", {s: {"en": share} for s in ("base", "merged")})
    numbers = '["table 2/3"]\nsource = "table 2"\nmetric = "slot_f1"\nover = ["all"]\n'
    numbers += "values.merged = [70.0]\n"
    (folder / "numbers.toml").write_text(numbers)
    summary, _ = compared(folder, "one/eval", "two/eval")
    assert [(c.run, c.measured) for c in summary.published] == [("one-eval", 50), ("two-eval", 90)]
    titles = [table.title for table in summary.compared]
    assert titles == [f"{name}-eval beside table 2: slot F1 (%)" for name in ("one", "two")]
    assert all(
        f"Scores: {name}-eval" in (folder / "page.html").read_text() for name in ("one", "two")
    )
    for name, count in (("eval", 2), ("two-eval", 1), ("two", 0)):
        (folder / "numbers.toml").write_text(f'{numbers}runs = ["{name}"]\n')
        assert len(compared(folder, "one/eval", "two/eval")[0].published) == count
    for table in summary.compared:
        table.write(folder, "md")
    written = sorted(path.name for path in folder.glob("published-*"))
    assert written == [f"published-{name}-eval-table 2-3.md" for name in ("one", "two")]


def test_the_command_prints_them_and_its_json_holds_them(folder):
    line = ["report", str(folder / "run"), "--published", str(folder / "numbers.toml")]
    line += ["-o", str(folder / "new.html")]
    done = CliRunner().invoke(program(), [*line, "--json"])
    assert done.exit_code == 0, done.output
    first = json.loads(done.stdout)["published"][0]
    assert (first["system"], first["published"], first["difference"]) == ("base", 24.0, 1.0)
    done = CliRunner().invoke(program(), [*line, "--force"])
    assert "75.00 vs 70.00 (+5.00)" in done.output
    done = CliRunner().invoke(program(), [*line[:2], "-o", str(folder / "x.html"), "--json"])
    assert "published" not in json.loads(done.stdout)


def test_seeds_are_averaged_and_their_spread_is_told(folder):
    systems = ("base", "task-seed-1", "task-seed-2", "alone-seed-7")
    write_evaluation(folder / "seeds", {"en": ["one"], "cy": ["un"]}, systems=systems)
    scores = {
        "base": {"en": 0.1, "cy": 0.2},
        "task-seed-1": {"en": 0.5, "cy": 0.4},
        "task-seed-2": {"en": 0.7, "cy": 0.6},
        "alone-seed-7": {"en": 0.3, "cy": 0.3},
    }
    rescore(folder / "seeds", scores)
    text = NUMBERS.partition("values.")[0].replace('["en", "first", "all", "fr"]', '["all"]')
    (folder / "numbers.toml").write_text(f"{text}values.task = [50]\nvalues.alone = [31]\n")
    summary, cells = compared(folder, "seeds")
    shown = [str(cell) for cell in summary.compared[0].rows[0]]
    assert shown == ["all", "55.0 ± 14.1 vs 50.0 (+5.0)", "30.0 vs 31.0 (-1.0)"]
    task, alone = cells["task", "all"], cells["alone", "all"]
    assert task.measured == pytest.approx(55)
    assert task.deviation == pytest.approx(stdev([45, 65]))
    assert (alone.measured, alone.deviation) == (pytest.approx(30), None)


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("gain", (0.3 + 0.1) / 2),
        ("sd", stdev([0.5, 0.4])),
        ("sd-of-gains", stdev([0.3, 0.1])),
    ],
)
def test_other_statistics_than_the_mean(folder, statistic, expected):
    rescore(folder / "run", {"base": {"en": 0.2, "cy": 0.3}, "merged": {"en": 0.5, "cy": 0.4}})
    text = NUMBERS.partition("over")[0] + 'over = ["all"]\nbaseline = "base"\nscale = 1000\n'
    text += f'statistic = "{statistic}"\nvalues.merged = [1]\n'
    (folder / "numbers.toml").write_text(text)
    _, cells = compared(folder)
    assert cells["merged", "all"].measured == pytest.approx(1000 * expected)


def test_a_gain_is_that_over_the_baseline_with_the_same_seed(folder):
    systems = ("a-seed-1", "a-seed-2", "b-seed-1", "b-seed-2")
    write_evaluation(folder / "seeds", {"en": ["one"], "cy": ["un"]}, systems=systems)
    values = {"a-seed-1": (0.1, 0.5), "a-seed-2": (0.6, 0.2)}
    values |= {"b-seed-1": (0.2, 0.9), "b-seed-2": (0.8, 0.2)}
    rescore(
        folder / "seeds", {s: dict(zip(("en", "cy"), v, strict=True)) for s, v in values.items()}
    )
    text = NUMBERS.partition("over")[0] + 'over = ["all"]\nbaseline = "a"\n'
    text += 'statistic = "sd-of-gains"\nvalues.b = [1]\n'
    (folder / "numbers.toml").write_text(text)
    cell = compared(folder, "seeds")[1]["b", "all"]
    by_seed = [stdev([0.1, 0.4]), stdev([0.2, 0.0])]
    assert cell.measured == pytest.approx(100 * fmean(by_seed))


def test_retrieval_is_compared_by_its_reading_and_run(folder):
    write_retrieval(folder / "retrieval")
    text = '[r]\nsource = "table 2"\nmetric = "retrieval"\nover = ["all"]\nvalues.base = [30]\n'
    (folder / "numbers.toml").write_text(text)
    _, cells = compared(folder, "retrieval", "run")
    assert {key: c.measured for key, c in cells.items()} == {("base", "all"): 31.0}
    for more in ('runs = ["other"]\n', 'reading = "middle layer"\n'):
        (folder / "numbers.toml").write_text(text.replace("values", f"{more}values"))
        summary, cells = compared(folder, "retrieval")
        assert not cells
        assert "belongs to these runs" in (folder / "page.html").read_text()


MISTAKES = {
    "unknown key": ("over", "page = 3\nover", 6, "unknown key 'page'"),
    "too few": ("[24.0, 25.0, 26.5, 1.0]", "[24.0]", 3, "1 number, but over has 4 names"),
    "no number": ("24.0", "'x'", 7, "values.base.0: must be a number"),
    "nothing": ('over = ["en", "first", "all", "fr"]', "over = []", 6, "over: expected at least 1"),
    "statistic": ("over", 'statistic = "median"\nover', 6, "statistic: must be"),
    "no baseline": ("over", 'statistic = "gain"\nover', 3, "needs a baseline"),
    "no source": ('source = "table 1, page 3"\n', "", 3, "source: is missing"),
    "key at the top": ("citation", "cited", 1, "unknown top-level key 'cited'"),
    "not toml": ("citation =", "citation", 1, "not valid TOML"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_told_with_its_line(folder, name):
    old, new, line, words = MISTAKES[name]
    path = folder / "numbers.toml"
    path.write_text(NUMBERS.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        read_published(path)
    assert words in caught.value.message
    assert caught.value.message.startswith(f"{path}:{line}: ")


def test_a_file_that_is_not_there_is_named(folder):
    with pytest.raises(DataError, match=r"--published .*nowhere.toml: no such file"):
        compared(folder, numbers="nowhere.toml")


# The paper's own numbers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables():
    return read_published(EXAMPLES / "published.toml").tables


def test_numbers_are_shown_with_the_digits_of_the_paper(tables):
    assert {table.digits for table in tables.values()} == {1}


def by_over(table, system):
    return dict(zip(table.over, table.values[system], strict=True))


GROUPS = {
    "supervised": ["ar", "en", "es", "ru", "zh"],
    "transfer": [*"cy ja jv sw tl af az de el fr hi is th tr ur".split()],
    "transfer-aligned": ["cy", "ja", "jv", "sw", "tl"],
}


@pytest.mark.parametrize("system", ["llama-sft", "llama-joint", "qwen-sft", "qwen-joint"])
def test_table_2_is_the_mean_of_table_10(tables, system):
    single, means = by_over(tables["table-10"], system), by_over(tables["table-2-slots"], system)
    for name, langs in GROUPS.items():
        assert means[name] == pytest.approx(fmean(single[lang] for lang in langs), abs=0.1)


@pytest.mark.parametrize("model", ["llama", "qwen"])
@pytest.mark.parametrize("metric", ["bleu", "comet"])
@pytest.mark.parametrize("kind", ["sft", "joint"])
def test_table_2_is_the_mean_of_table_11(tables, model, metric, kind):
    system = f"{model}-mt-{kind}"
    single = by_over(tables[f"table-11-{metric}"], system)
    means = by_over(tables[f"table-2-{metric}-{model}"], system)
    values = list(single.values())
    parts = {"supervised": values[:10], "transfer-into-en": values[10:13]}
    for name, scores in (parts | {"transfer-from-en": values[13:]}).items():
        if (model, name) == ("qwen", "supervised"):  # the paper does not agree with itself
            assert abs(means[name] - fmean(scores)) > 0.5
            assert f"{fmean(scores):.1f}" in tables[f"table-2-{metric}-{model}"].note
        else:
            assert means[name] == pytest.approx(fmean(scores), abs=0.1)


def test_how_the_spread_of_table_3_is_read(tables):
    """Slot filling: of the gains, from table 10. Translation: not of these, but of the scores."""
    sft, joint = (by_over(tables["table-10"], f"llama-{kind}") for kind in ("sft", "joint"))
    gains = [joint[lang] - sft[lang] for lang in GROUPS["transfer"]]
    assert by_over(tables["table-3-slots-sd"], "llama-joint")["transfer"] == round(stdev(gains), 1)
    sft, joint = (by_over(tables["table-11-comet"], f"llama-mt-{k}") for k in ("sft", "joint"))
    langs = ["en-he", "en-ja", "en-uk"]
    assert round(stdev(joint[lang] for lang in langs), 1) == 3.6
    assert round(stdev(joint[lang] - sft[lang] for lang in langs), 1) == 0.4
    assert by_over(tables["table-3-comet-sd"], "llama-mt-joint")["transfer"] == 3.7


def test_gains_of_the_text_are_means_over_both_models(tables):
    groups = {"non-latin": ["el", "hi", "ja", "th", "ur"], "transfer-other": GROUPS["transfer"][5:]}
    for name, langs in groups.items():
        gains = []
        for model in ("llama", "qwen"):
            one, other = (by_over(tables["table-10"], f"{model}-{k}") for k in ("joint", "sft"))
            gains.append(fmean(one[lang] - other[lang] for lang in langs))
            told = by_over(tables[f"section-5-others-{model}"], f"{model}-joint")[name]
            assert round(gains[-1], 1) != told
            assert str(round(gains[-1], 1)) in tables[f"section-5-others-{model}"].note
        assert told == round(fmean(gains), 1)


def test_every_number_is_of_a_system_and_run_of_a_recipe(tables):
    """What the file names is what the recipes make, so that no number is left out in silence."""
    steps = {}
    for path in sorted(EXAMPLES.glob("*-*.toml")):
        steps |= {step.name: step for step in read_recipe(path).steps}
    tests = {n: s for n, s in steps.items() if s.command.name in ("eval", "retrieval")}
    assert all(s.header == n for n, s in tests.items()), "they take all seeds"
    for name, table in tables.items():
        own = [tests[run] for run in table.runs or tests]
        for system in table.values:
            assert any(system in systems_of(run) for run in own), (name, system)
        for over in table.over:
            assert over == "all" or any(over in names_over(run) for run in own), (name, over)


def systems_of(step):
    """The systems of a step, without their seeds."""
    return {"base", *(Path(path).stem.partition("-seed-")[0] for path in step.settings.adapters)}


def names_over(step):
    return {*step.settings.langs, *(step.settings.groups or {})}


@pytest.mark.skipif(not PAPER.is_file(), reason="the paper is not on this machine")
def test_every_number_is_printed_in_the_paper(tables):
    """In one line of it, in this order; the tests above need no paper."""
    lines = [re.findall(r"\d+\.\d", line) for line in PAPER.read_text().splitlines()]
    for name, table in tables.items():
        for system, numbers in table.values.items():
            wanted = [f"{abs(number):.1f}" for number in numbers]
            assert any(in_order(wanted, line) for line in lines), (name, system, wanted)


def in_order(wanted, line):
    rest = iter(line)
    return all(number in rest for number in wanted)

"""The tables of an evaluation."""

from dataclasses import replace

from helpers.records import write_evaluation

from adaptermix.evaluation.comparison import ALL, Comparison
from adaptermix.evaluation.report import (
    EvalPlan,
    SystemScores,
    count_table,
    difference_table,
    glance_table,
    score_table,
)
from adaptermix.reports.runs import find_runs
from adaptermix.tables import shown
from adaptermix.tasks.metrics.metric import Score


def test_the_table_of_a_metric_has_its_scores(tmp_path):
    """Those of every system and language; averages are of the first metric only."""
    langs, systems, metrics = ("en", "cy"), ("base", "one", "two"), ("bleu", "chrf", "comet")
    folder = write_evaluation(tmp_path / "run", dict.fromkeys(langs, ["a"]), systems=systems)
    (run,) = find_runs([folder]).evaluations
    values, cells = {}, []
    for at, (system, lang) in enumerate((s, lang) for s in systems for lang in langs):
        scores = {
            name: Score(10 * k + at, "made up", name) for k, name in enumerate(metrics, start=1)
        }
        values |= {(name, system, lang): score.value for name, score in scores.items()}
        cells.append(SystemScores(system, lang, scores["bleu"], 1, 0, 0, 0, scores))
    run.report.cells[:] = cells
    for name in metrics:
        table = score_table(run.report, name)
        rows = [[str(cell) for cell in row] for row in table.rows[:2]]
        expected = [
            [lang, *(shown(name, values[name, s, lang]) for s in systems)] for lang in langs
        ]
        assert rows == expected
        assert {"bleu": "BLEU", "chrf": "chrF", "comet": "COMET"}[name] in table.title
        assert len(table.rows) == (5 if name == "bleu" else 2)
    assert score_table(run.report) == score_table(run.report, "bleu")


def test_languages_better_and_worse_are_counted_in_this_order(tmp_path):
    """Only those of the system itself that differ significantly, and no averages."""
    langs = ("en", "cy", "sw", "ja")
    folder = write_evaluation(
        tmp_path / "run", dict.fromkeys(langs, ["a"]), systems=("base", "one", "two")
    )
    (run,) = find_runs([folder]).evaluations
    given = {"one": (0.2, 0.1, -0.1, 0.3), "two": (-0.1, -0.1, 0.1, -0.1)}
    run.report.comparisons[:] = [
        Comparison(system, "base", over, [over], 0, 0, gain, gain, gain, 0.01, True, p_holm)
        for system, gains in given.items()
        for over, gain, p_holm in zip(
            (*langs, ALL), (*gains, 0.5), [0.01] * 3 + [0.2] * 2, strict=True
        )
    ]
    counts = {str(row[0]): row[-1] for row in glance_table(run.report, "run").rows}
    assert counts == {"base": "baseline", "one": "2 / 1", "two": "1 / 2"}


def test_problems_with_answers_are_those_of_each_system(tmp_path):
    folder = write_evaluation(tmp_path / "run", {"en": ["a"] * 7, "cy": ["b"] * 5})
    (run,) = find_runs([folder]).evaluations
    found = {("base", "en"): (1, 0, 0), ("base", "cy"): (2, 0, 1), ("merged", "cy"): (4, 3, 0)}
    run.report.cells[:] = [
        replace(cell, malformed=bad, cut_answers=cut, truncated_prompts=short)
        for cell in run.report.cells
        for bad, cut, short in [found.get((cell.system, cell.lang), (0, 0, 0))]
    ]
    rows = [[str(cell) for cell in row] for row in count_table(run.report).rows]
    assert rows == [
        ["malformed answers", "3 of 12", "4 of 12"],
        ["cut answers", "0 of 12", "3 of 12"],
        ["truncated prompts", "1 of 12", "0 of 12"],
        ["examples", "12", "12"],
    ]


def test_a_plan_shows_systems_examples_and_the_longest_prompt():
    plan = EvalPlan(["base", "task"], {"en": 2974, "cy": 5}, 321, "out", notes=["a note"])
    (table,) = plan.view().shown
    assert {str(name): str(value) for name, value in table.rows} == {
        "systems": "base task",
        "examples": "en 2,974  cy 5",
        "longest prompt": "321 tokens",
        "would write": "out",
    }
    assert plan.notices == ["a note"]


def test_a_p_value_is_never_0(tmp_path):
    folder = write_evaluation(tmp_path / "run", {"en": ["a"], "cy": ["a"]}, systems=("a", "b"))
    report = find_runs([folder]).evaluations[0].report
    for p_value, text in ((0.0004, "<0.001"), (0.0014, "0.001"), (0.25, "0.250")):
        changed = [replace(c, p_value=p_value) for c in report.comparisons]
        table = difference_table(replace(report, comparisons=changed))
        assert f"] {text} " in str(table.rows[-1][1])

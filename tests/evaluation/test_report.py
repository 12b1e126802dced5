"""The tables of an evaluation."""

from helpers.records import write_evaluation

from adaptermix.evaluation.report import SystemScores, score_table
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

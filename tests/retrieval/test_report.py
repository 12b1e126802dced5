"""The tables of a retrieval analysis."""

from statistics import stdev

import pytest
from helpers.records import write_retrieval

from adaptermix.reports.runs import find_runs
from adaptermix.retrieval.report import seed_table
from adaptermix.retrieval.summary import Aggregate


@pytest.mark.parametrize("values", [(0.1, 0.3), (0.1, 0.3, 0.35)])
def test_the_spread_over_seeds_is_the_sample_deviation(tmp_path, values):
    systems = ("base", *(f"a-seed-{seed}" for seed in range(len(values))))
    (run,) = find_runs([write_retrieval(tmp_path / "run", systems=systems)]).retrievals
    run.report.aggregates[:] = [
        Aggregate(system, "all", "even layers", [2], value, 0.0)
        for system, value in zip(systems, (0.9, *values), strict=True)
    ]
    mean = 100 * sum(values) / len(values)
    ((name, cell),) = seed_table(run.report).rows
    assert name == "all, even layers"
    assert cell.text == f"{mean:.1f} ± {100 * stdev(values):.1f}"


def test_languages_are_averaged_over_the_layers_of_the_first_reading(tmp_path):
    (run,) = find_runs([write_retrieval(tmp_path / "run")]).retrievals
    report = run.report  # its reading has the layers 0 and 2
    for at, row in enumerate((*report.by_language, *report.by_layer)):
        row.accuracy[:] = [0.1, 0.9, 0.2 + at / 50, 0.9]
    (table,) = (table for table in report.view().shown if table.name == "languages")
    accuracy = {(row.system, row.lang): row.accuracy for row in report.by_language}
    accuracy |= {(row.system, row.over): row.accuracy for row in report.by_layer}
    for name, *cells in filter(None, table.rows):
        curves = [accuracy[system, name] for system in report.systems]
        assert cells == [f"{100 * (curve[0] + curve[2]) / 2:.1f}" for curve in curves]
    assert "even layers" in table.title

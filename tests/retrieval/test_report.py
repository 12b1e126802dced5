"""The tables of a retrieval analysis."""

import csv
from io import StringIO
from statistics import fmean, stdev

import pytest
from helpers.records import write_distinct_retrieval, write_retrieval

from adaptermix.reports.runs import find_runs
from adaptermix.retrieval.report import RetrievalPlan, files_of, seed_table
from adaptermix.retrieval.summary import Aggregate
from adaptermix.tables import Table


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


def percent(value):
    return f"{100 * value:.1f}"


@pytest.fixture
def distinct(tmp_path):
    """A record in which no two numbers are equal, and its report."""
    record = write_distinct_retrieval(tmp_path / "run")
    (run,) = find_runs([tmp_path / "run"]).retrievals
    return record, run.report


def test_every_number_in_the_terminal_is_that_of_the_record(distinct):
    record, report = distinct
    systems, layers = record["systems"], record["layers"]
    curves = {(row["system"], row["over"]): row for row in record["by_layer"]}
    curves |= {(row["system"], row["lang"]): row for row in record["by_language"]}
    means = {(a["system"], a["over"], a["reading"]): a for a in record["aggregates"]}
    readings = ["even layers", "middle layer"]

    def by_layer(over, value):
        return [
            ["layer", *systems],
            *(
                [str(layer), *(percent(curves[s, over][value][at]) for s in systems)]
                for at, layer in enumerate(layers)
            ),
            *([r, *(percent(means[s, over, r][value]) for s in systems)] for r in readings),
        ]

    def coefficient(found):
        return f"{found['r']:.3f}", "<0.001" if found[
            "p_value"
        ] < 0.001 else f"{found['p_value']:.3f}"

    def spread(over, reading):
        seeds = [means[f"task-seed-{n}", over, reading]["accuracy"] for n in (1, 2)]
        return f"{percent(fmean(seeds))} ± {percent(stdev(seeds))}"

    tables = [part for part in report.view().shown if isinstance(part, Table)]
    shown = [[[str(cell) for cell in row] for row in (t.columns, *filter(None, t.rows))]
             for t in tables]  # fmt: skip
    assert shown == [
        by_layer("all", "accuracy"),
        by_layer("low-resource", "accuracy"),
        by_layer("all", "mexa"),
        [
            ["language", *systems],
            *(  # the first reading has the second of the layers
                [name, *(percent(curves[s, name]["accuracy"][1]) for s in systems)]
                for name in (*record["langs"], *record["groups"], "all")
            ),
        ],
        [
            ["", "task"],
            *(
                [f"{over}, {reading}", spread(over, reading)]
                for over in ("all", *record["groups"])
                for reading in readings
            ),
        ],
        [
            ["scores of", "over", "languages", "Pearson", "p", "Spearman", "p"],
            *(
                [
                    *(found["scored"], found["over"], str(len(found["points"]))),
                    *(*coefficient(found["pearson"]), *coefficient(found["spearman"])),
                ]
                for found in record["correlations"]
                if found["reading"] == "middle layer"
            ),
        ],
    ]
    titles = [table.title for table in tables]
    assert titles[0] == "retrieval accuracy (%), all pairs: dev, 997 sentences, 3 languages"
    assert ("low-resource" in titles[1], "MEXA" in titles[2]) == (True, True)
    assert "middle layer" in titles[-1]
    assert report.view().remarks == [
        "note: one note",
        "note: another note",
        "representations: 1,013 from the cache, 1,009 extracted",
        f"record and tables: {record['out']}",
    ]


def test_the_files_have_every_number(distinct):
    record, report = distinct
    files = {table.name: list(csv.reader(StringIO(table.as_csv(), newline="")))
             for table in files_of(report)}  # fmt: skip
    for name, key, names, values in (
        ("layers", "by_layer", ["system", "over"], ["accuracy", "mexa"]),
        ("languages", "by_language", ["system", "lang"],
         ["accuracy", "as_source", "as_target", "mexa"]),
        ("pairs", "pairs", ["system", "source", "target"], ["accuracy", "mexa"]),
    ):  # fmt: skip
        assert files[name] == [
            [*names, "layer", *values],
            *(
                [*(row[n] for n in names), str(layer), *(str(row[value][at]) for value in values)]
                for row in record[key]
                for at, layer in enumerate(record["layers"])
            ),
        ]
    columns = ["system", "over", "reading", "accuracy", "mexa"]
    rows = [[str(row[name]) for name in columns] for row in record["aggregates"]]
    assert files["aggregates"] == [columns, *rows]


def test_a_plan_shows_what_is_to_be_extracted():
    """Of 3 systems in 4 languages, 5 are missing."""
    plan = RetrievalPlan(
        *(["base", "a", "b"], ["en", "cy", "sw", "ja"], 1012, [0, 2]), 12, 5, 7, 2_345_678, "out"
    )
    (rows,) = plan.view().shown
    shown = {str(name): str(value) for name, value in rows.rows}
    assert shown == {
        "systems": "base a b",
        "languages": "en cy sw ja",
        "sentences": "1,012",
        "layers": "0 2",
        "pairs": "12, both directions",
        "to extract": "5 of 12 languages",
        "disk": "2.3 MB",
        "would write": "out",
    }

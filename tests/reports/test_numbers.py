"""Every number of a report is that of the record, in its own column and row."""

import csv
import re
from html.parser import HTMLParser
from io import StringIO
from urllib.parse import unquote

import pytest
from helpers.records import write_distinct_evaluation, write_distinct_retrieval

from adaptermix.evaluation.comparison import ALL
from adaptermix.evaluation.report import files_of
from adaptermix.reports.page import report
from adaptermix.reports.runs import find_runs
from adaptermix.settings.reports import ReportSettings
from adaptermix.tables import Table


class Tables(HTMLParser):
    """The tables of a page by name, as rows of texts, and the files that they can be saved as."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.files, self.name, self.is_open = {}, {}, "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        if tag == "table":
            self.name = known["id"]
            self.rows[self.name] = []
        elif tag == "tr":
            self.rows[self.name].append([])
        elif tag in ("td", "th"):
            self.rows[self.name][-1].append("")
            self.is_open = True
        elif tag == "a" and "download" in known:
            text = unquote(known["href"].partition(",")[2])
            self.files[known["download"]] = list(csv.reader(StringIO(text, newline="")))

    def handle_endtag(self, tag):
        self.is_open = self.is_open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.is_open:
            self.rows[self.name][-1][-1] += data


def percent(value, sign=""):
    return f"{100 * value:{sign}.1f}"


def typeset(value, sign=""):
    return percent(value, sign).replace("-", "\N{MINUS SIGN}")


def squeezed(rows):
    return [[" ".join(str(cell).split()) for cell in row] for row in rows]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The record of an evaluation, its report, and the page about it."""
    folder = tmp_path_factory.mktemp("runs")
    record = write_distinct_evaluation(folder / "run")
    report([folder / "run"], ReportSettings(out=folder / "page.html"))
    (run,) = find_runs([folder / "run"]).evaluations
    return record, run.report, (folder / "page.html").read_text(encoding="utf-8")


def is_sure(row):
    return (row["p_value"] if row["p_holm"] is None else row["p_holm"]) < 0.05


def excludes_zero(low, high):
    return low > 0 or high < 0


def tables_of(record):
    """The tables of a page, from the record alone."""
    systems, langs = record["systems"], record["langs"]
    cells = {(c["system"], c["lang"]): c for c in record["cells"]}
    compared = {(c["over"], c["system"]): c for c in record["comparisons"]}
    seeds = {(s["over"], s["system"]): s for s in record["over_seeds"]}
    overs = [*langs, *record["groups"], ALL]
    others = [system for system in systems if system != "task-seed-1"]
    counts = {
        system: {
            name: sum(cells[system, lang][name] for lang in langs)
            for name in ("examples", "malformed", "cut_answers", "truncated_prompts")
        }
        for system in systems
    }

    def gain(row, *p_value):
        ends = f"[{percent(row['low'], '+')}, {percent(row['high'], '+')}]"
        star = " *" if is_sure(row) else ""
        return " ".join([percent(row["difference"], "+"), ends, *p_value]) + star

    def at_a_glance(system):
        if system == "task-seed-1":
            return ["", "baseline"]
        mine = [compared[lang, system]["difference"] for lang in langs
                if is_sure(compared[lang, system])]  # fmt: skip
        better = sum(size > 0 for size in mine)
        return [gain(compared[ALL, system]), f"{better} / {len(mine) - better}"]

    def values(over, group):
        row = compared[over, "other"]
        scores = (typeset(row["baseline_score"]), typeset(row["score"]))
        ends = f"{typeset(row['low'], '+')} to {typeset(row['high'], '+')}"
        holm = "" if row["p_holm"] is None else f"{row['p_holm']:.3f}"
        return [over, group, *scores, typeset(row["difference"], "+"), ends,
                f"{row['p_value']:.3f}", holm]  # fmt: skip

    def mean(row):
        ends = f"[{percent(row['low'])}, {percent(row['high'])}]"
        return f"{percent(row['mean'])} ± {percent(row['deviation'])} {ends}"

    def over_seeds(row):
        low, high = row["difference_low"], row["difference_high"]
        ends = f"[{percent(low, '+')}, {percent(high, '+')}]"
        star = " *" if len(row["langs"]) > 1 and excludes_zero(low, high) else ""
        return f"{percent(row['difference'], '+')} {ends}{star}"

    averages = {**record["group_macro"], ALL: record["macro"]}
    problems = {"malformed answers": "malformed", "cut answers": "cut_answers"}
    problems["truncated prompts"] = "truncated_prompts"
    members = {lang: name for name, group in record["groups"].items() for lang in group}
    by_group = [*record["groups"]["near"], *record["groups"]["far"]]
    by_group += [lang for lang in langs if lang not in members]
    means = [name for name in overs if name not in langs]
    return {
        "scores-table": [
            ["language", *systems],
            *(
                [lang, *(percent(cells[s, lang]["score"]["value"]) for s in systems)]
                for lang in langs
            ),
            *([name, *(percent(of[s]) for s in systems)] for name, of in averages.items()),
        ],
        "scores-table-chrf": [
            ["language", *systems],
            *(
                [lang, *(f"{cells[s, lang]['scores']['chrf']['value']:.1f}" for s in systems)]
                for lang in langs
            ),
        ],
        "scores-difference-table": [
            ["", *others],
            *(
                [over, *(gain(c, f"{c['p_value']:.3f}") for c in row)]
                for over in overs
                for row in [[compared[over, system] for system in others]]
            ),
        ],
        "scores-seeds": [
            ["language", "task", "merged"],
            *([over, mean(seeds[over, "task"]), mean(seeds[over, "merged"])] for over in overs),
        ],
        "scores-seed-differences": [
            ["", "merged"],
            *([over, over_seeds(seeds[over, "merged"])] for over in overs),
        ],
        "scores-counts": [
            ["", *systems],
            *(
                [label, *(f"{counts[s][n]:,} of {counts[s]['examples']:,}" for s in systems)]
                for label, n in problems.items()
            ),
            ["examples", *(f"{counts[s]['examples']:,}" for s in systems)],
        ],
        "glance": [
            ["system", "slot F1 (%)", "difference, 95% interval", "languages better / worse"],
            *([s, percent(record["macro"][s]), *at_a_glance(s)] for s in systems),
        ],
        "answer-values": [
            ["", "group", "task-seed-1", "other", "difference", "95% interval", "p", "p, Holm"],
            *(values(lang, members.get(lang, "other languages")) for lang in by_group),
            *(values(name, "") for name in means),
        ],
    }


def test_the_numbers_of_a_page_are_those_of_the_record(evaluated):
    record, _, page = evaluated
    assert {name: squeezed(rows) for name, rows in Tables(page).rows.items()} == tables_of(record)


def test_files_of_tables_have_all_digits(evaluated):
    """Those of the page's links; numbers that a table only shows in a text are left out."""
    record, _, page = evaluated
    files, expected = Tables(page).files, tables_of(record)
    assert {name.removesuffix(".csv") for name in files} == set(expected)
    cells = {(c["system"], c["lang"]): c for c in record["cells"]}
    compared = {(c["over"], c["system"]): c for c in record["comparisons"]}
    for name, key in (("scores-table", "slot_f1"), ("scores-table-chrf", "chrf")):
        for lang, *values in files[f"{name}.csv"][1 : 1 + len(record["langs"])]:
            scores = [cells[s, lang]["scores"][key]["value"] for s in record["systems"]]
            assert [float(value) for value in values] == scores
    head, *rows = files["scores-difference-table.csv"]
    for over, *values in rows:
        gains = [compared[over, system]["difference"] for system in head[1:]]
        assert [float(value) for value in values] == gains


def test_the_files_of_an_evaluation_have_every_number(evaluated):
    record, made, _ = evaluated
    scores, differences, seeds = (
        list(csv.DictReader(StringIO(table.as_csv(), newline=""))) for table in files_of(made)
    )
    cells = {(c["lang"], c["system"]): c["score"]["value"] for c in record["cells"]}
    for over, means in {**record["group_macro"], ALL: record["macro"]}.items():
        cells |= {(over, system): value for system, value in means.items()}
    read = {(r["lang"], s): float(r[s]) for r in scores for s in record["systems"]}
    assert read == cells
    for rows, key in ((differences, "comparisons"), (seeds, "over_seeds")):
        assert rows == [
            {
                name: " ".join(map(str, value)) if isinstance(value, list) else
                "" if value is None else str(value)
                for name, value in row.items()
            }
            for row in record[key]
        ]  # fmt: skip


def test_the_terminal_shows_the_tables_of_the_page_and_all_that_was_noted(evaluated):
    record, made, _ = evaluated
    view = made.view()
    shown = {part.name: squeezed([part.columns, *filter(None, part.rows)]) for part in view.shown
             if isinstance(part, Table)}  # fmt: skip
    expected = tables_of(record)
    problems = expected["scores-counts"][1:-1]
    assert shown == {
        "scores": [*expected["scores-table"], *problems],
        "differences": expected["scores-difference-table"],
        "seeds": expected["scores-seeds"],
        "seed-differences": expected["scores-seed-differences"],
    }
    titles = {part.name: part.title for part in view.shown if isinstance(part, Table)}
    assert titles == {
        "scores": "massive dev: slot F1 (%), transformers engine",
        "differences": "difference from task-seed-1, 95% interval, p-value; stars after Holm's "
        "correction",
        "seeds": "slot F1 (%) over seeds: mean ± standard deviation, 95% interval",
        "seed-differences": "difference from task over seeds, 95% interval; "
        "* average excludes zero",
    }
    lines = [part for part in view.shown if not isinstance(part, Table)]
    signatures = [f"slot_f1 of {lang}" for lang in record["langs"]]
    assert lines[: len(signatures)] == signatures
    assert "baseline: task-seed-1, the first one" in lines
    assert "signature of the test" in lines
    assert [remark for remark in view.remarks if remark.startswith("note: ")] == [
        "note: one note",
        "note: another note",
    ]
    answers = f"answers: {record['reused']:,} from the cache, {record['decoded']:,} decoded"
    assert answers in view.remarks
    assert view.remarks[0] == (
        "* p < 0.05, for single languages after Holm's correction over the languages; paired "
        f"bootstrap, {record['test']['samples']:,} resamples"
    )
    for part in view.shown:
        if isinstance(part, Table):
            sizes = [len(group) for group in part.groups]
            assert sizes == [4, 6 if part.name == "scores" else 3], "a line before the averages"
            assert "seeds" not in part.name or "Seeds of task: 1 2, merged: 1 2." in part.note


def test_every_system_of_a_page_has_its_own_numbers_on_hover(evaluated):
    """In the plots of differences and of scores, which show them as positions."""
    record, _, page = evaluated
    panels = panels_of(page)
    cells = {(c["system"], c["lang"]): 100 * c["score"]["value"] for c in record["cells"]}
    compared = {(c["over"], c["system"]): c for c in record["comparisons"]}
    for system in record["systems"]:
        if system == "task-seed-1":
            continue
        before = {lang: cells["task-seed-1", lang] for lang in record["langs"]}
        assert set(panels["scores-languages"][system]) == {
            f"{lang}: {before[lang]:.4g} → {cells[system, lang]:.4g}" for lang in record["langs"]
        }
        hovers = panels["scores-differences"][system]
        for over, label in (*((lang, lang) for lang in record["langs"]), (ALL, "all 4")):
            row = compared[over, system]
            ends = f"[{typeset(row['low'], '+')}, {typeset(row['high'], '+')}]"
            assert f"{label}: {typeset(row['difference'], '+')} {ends}" in hovers
        near = sorted(["en", "ja"], key=lambda lang: -compared[lang, "other"]["difference"])
        order = ["all 4", *near, "mean of 2", "cy", "sw"]
        assert [text.partition(":")[0] for text in hovers] == order, "that of the last system"
        near = compared["near", system]
        assert f"mean of 2: {typeset(near['difference'], '+')}" in " ".join(hovers)


def test_what_is_said_about_the_answer_has_its_numbers(evaluated):
    """The system of interest is the last; the facts are about it and the baseline alone."""
    record, _, page = evaluated
    cells = {(c["system"], c["lang"]): c for c in record["cells"]}
    compared = {(c["over"], c["system"]): c for c in record["comparisons"]}
    sizes = [cells["other", lang]["examples"] for lang in record["langs"]]
    mean = compared[ALL, "other"]
    half = percent((mean["high"] - mean["low"]) / 2).replace("-", "\N{MINUS SIGN}")
    shares = [
        sum(cells[system, lang]["malformed"] for lang in record["langs"])
        / sum(cells[system, lang]["examples"] for lang in record["langs"])
        for system in ("task-seed-1", "other")
    ]
    for text in (
        f"Dev data, {min(sizes):,} to {max(sizes):,} examples per language; if the weights",
        f"The average is known to ±{half} points of slot F1;",
        f"{record['test']['samples']:,} resamples; single languages are corrected for "
        "4 comparisons (Holm)",
        f"task-seed-1 {shares[0]:.1%}, other {shares[1]:.1%}.",
        *(f">{metric} of {lang}</p>" for metric in ("slot_f1", "chrf") for lang in record["langs"]),
        ">signature of the test</p>",
        ">run: massive dev, 4 languages</caption>",
        ">one note</p>",
        ">another note</p>",
    ):
        assert text in page, text


def test_a_mark_has_the_color_of_what_its_p_value_says(evaluated):
    """After the correction, whatever the interval is; in both plots of all systems."""
    record, _, page = evaluated
    figures = dict(re.findall(r'<figure id="([^"]+)"(.*?)</figure>', page, re.S))
    drawn = r'<svg[^>]*aria-label="[^":]*: ([^"]*)"(.*?)</svg>'
    looks = {True: "better", False: "worse", None: "reference"}
    for name in ("scores-differences", "scores-languages"):
        panels = dict(re.findall(drawn, figures[name], re.S))
        for row in record["comparisons"]:
            marks = re.findall(r"<title>([^:<]+):.*?</title>(.*?)</g>", panels[row["system"]], re.S)
            means = {label for label, shapes in marks if "<path" in shapes}
            assert means == ({"all 4", "mean of 2"} if name == "scores-differences" else set())
            found = dict(marks).get(row["over"])
            if found is not None:
                look = looks[row["difference"] > 0 if is_sure(row) else None]
                colors = re.findall(r'<line[^>]*stroke="var\(--plot-(\w+)\)"', found)
                assert colors == [look], (name, row["system"], row["over"])


def test_scores_before_and_after_are_in_the_order_of_their_numbers(evaluated):
    """In one range for all systems; the first of two marks is before."""
    record, _, page = evaluated
    (figure,) = re.findall(r'<figure id="scores-languages"(.*?)</figure>', page, re.S)
    shown = r"<title>\w+: ([\d.]+) → ([\d.]+)</title>(.*?)</g>"
    places = []
    for before, after, shapes in re.findall(shown, figure, re.S):
        spots = [float(x) for x in re.findall(r'<circle cx="([^"]+)"', shapes)]
        places += zip((float(before), float(after)), spots, strict=True)
    assert len(places) == 2 * 4 * (len(record["systems"]) - 1)
    across = [x for _, x in sorted(places)]
    assert across == sorted(across)
    assert 0 < across[0] < across[-1] < 264


def panels_of(page):
    """The texts that show on hover, by figure and the title of the panel."""
    figures = re.findall(r'<figure id="([^"]+)"(.*?)</figure>', page, re.S)
    drawn = r'<svg[^>]*aria-label="(?:[^"]*: )?([^"]*)"(.*?)</svg>'
    return {
        name: {
            title: re.findall(r"<title>([^<]+)</title>", svg)
            for title, svg in re.findall(drawn, figure, re.S)
        }
        for name, figure in figures
    }


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """The record of a retrieval analysis, and the page about it."""
    folder = tmp_path_factory.mktemp("runs")
    record = write_distinct_retrieval(folder / "run")
    report([folder / "run"], ReportSettings(out=folder / "page.html"))
    return record, (folder / "page.html").read_text(encoding="utf-8")


def test_the_numbers_of_a_page_on_retrieval_are_those_of_the_record(analyzed):
    """The middle of four blocks is layer 2, the second of the layers."""
    record, page = analyzed
    tables = {name: squeezed(rows) for name, rows in Tables(page).rows.items()}
    systems, readings = record["systems"], ["even layers", "middle layer"]
    curves = {(row["system"], row["over"]): row["accuracy"] for row in record["by_layer"]}
    means = {(a["system"], a["over"], a["reading"]): a for a in record["aggregates"]}
    overs = ["all", *record["groups"]]

    def by_layer(columns):
        return [
            ["layer", *columns],
            *(
                [str(layer), *(percent(curve[at]) for curve in columns.values())]
                for at, layer in enumerate(record["layers"])
            ),
        ]

    assert tables.pop("retrieval-aggregates") == [
        ["", *systems],
        *(
            [
                f"{over}, {reading}",
                *(f"{percent(m['accuracy'])} / {percent(m['mexa'])}"
                  for m in (means[system, over, reading] for system in systems)),
            ]
            for over in overs
            for reading in readings
        ),
    ]  # fmt: skip
    assert tables.pop("retrieval-systems-values") == by_layer(
        {system: curves[system, "all"] for system in systems}
    )
    assert tables.pop("retrieval-layers-values") == by_layer(
        {over: curves["base", over] for over in overs}
    )
    accuracy = {(p["system"], p["source"], p["target"]): p["accuracy"][1] for p in record["pairs"]}
    head, *rows = tables.pop("retrieval-pairs-values")
    assert {(row[0], name): cell for row in rows for name, cell in zip(head, row, strict=True)
            if cell and name != "source"} == {
        (source, target): percent(value - accuracy["base", source, target], "+")
        for (system, source, target), value in accuracy.items()
        if system == "merged"
    }  # fmt: skip
    of_all = [found for found in record["correlations"] if found["over"] == "all"]
    drawn = [found for found in of_all if found["reading"] == "middle layer"]
    for number, found in enumerate(drawn, start=1):
        assert tables.pop(f"retrieval-correlation-{number}-values")[1:] == [
            [point["lang"], percent(point["accuracy"]), f"{100 * point['score']:.4g}"]
            for point in found["points"]
        ]
        pearson, spearman = (
            f"{found[kind]['r']:+.2f} (p = {found[kind]['p_value']:.2g})"
            for kind in ("pearson", "spearman")
        )
        count = len(found["points"])
        assert f"all: Pearson {pearson}, Spearman {spearman}, {count} languages." in page
        assert f"Retrieval of base against the score of {found['scored']}" in page
    assert set(tables) == {"retrieval-seeds", "retrieval-correlations", "retrieval-correlations-2"}
    for name, reading in (("", readings[0]), ("-2", readings[1])):
        rows = tables[f"retrieval-correlations{name}"][1:]
        assert [row[:4] for row in rows] == [
            [c["scored"], c["over"], str(len(c["points"])), f"{c['pearson']['r']:.3f}"]
            for c in record["correlations"]
            if c["reading"] == reading
        ]
    for text in ("997 sentences of dev in 3 languages", "with 5 neighbors", "another note"):
        assert text in page


def test_curves_and_points_say_the_numbers_of_their_system_and_group(analyzed):
    record, page = analyzed
    panels = panels_of(page)
    curves = {(row["system"], row["over"]): row["accuracy"] for row in record["by_layer"]}

    def points(name, curve):
        return [
            f"{name}, {layer}: {100 * value:.4g}"
            for layer, value in zip(record["layers"], curve, strict=True)
        ]

    for system in record["systems"][1:]:
        expected = [*points("base", curves["base", "all"]), *points(system, curves[system, "all"])]
        assert panels["retrieval-systems"][system] == expected
    for group in record["groups"]:
        expected = [*points("all", curves["base", "all"]), *points(group, curves["base", group])]
        assert panels["retrieval-layers"][group] == expected
    ((found, *_),) = ([c for c in record["correlations"] if c["over"] == "all"
                       and c["reading"] == "middle layer"],)  # fmt: skip
    (hovers,) = panels["retrieval-correlation-1"].values()
    x, y = "retrieval accuracy of base (%), middle layer", "slot F1 (%)"
    assert hovers == [
        f"{p['lang']}: {x} {100 * p['accuracy']:.4g}, {y} {100 * p['score']:.4g}"
        for p in found["points"]
    ]
    assert set(*panels["retrieval-pairs"].values()) == {
        f"{p['source']} → {p['target']}: " + typeset(p["accuracy"][1] - before["accuracy"][1], "+")
        for p in record["pairs"]
        if p["system"] == "merged"
        for before in record["pairs"]
        if (before["system"], before["source"], before["target"])
        == ("base", p["source"], p["target"])
    }

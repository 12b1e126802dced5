"""Evaluations and scores as tables."""

from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING

from adaptermix.evaluation.comparison import ALL, Comparison
from adaptermix.tables import RULE, Cell, Line, Row, Table, View, noted, shown, titled

if TYPE_CHECKING:
    from adaptermix.evaluation.evaluate import EvalReport

_COUNTS = {
    "malformed answers": "malformed",
    "cut answers": "cut_answers",
    "truncated prompts": "truncated_prompts",
}


def evaluation_view(report: "EvalReport") -> View:
    """Show every system's score language by language, the averages, and the differences."""
    scores = score_table(report)
    parts: list[Table | Line] = [
        replace(scores, rows=[*scores.rows, *_counted(report)]),
        *dict.fromkeys(cell.score.signature for cell in report.cells),
    ]
    remarks = []
    if report.comparisons:
        parts.append(difference_table(report))
        remarks.append("* the interval excludes zero: paired bootstrap over 1,000 resamples")
    remarks += noted(report.notes)
    if report.reused:
        remarks.append(
            f"{report.reused:,} answers were known from earlier runs, {report.decoded:,} decoded"
        )
    return View(parts, [*remarks, f"scores and predictions: {report.out}"])


def score_table(report: "EvalReport", metric: str = "") -> Table:
    """Return every system's score language by language; of the first metric, the averages too."""
    first = report.cells[0].score.name
    metric = metric or first

    def row(name: str, values: Iterable[float]) -> Row:
        return [name, *(Cell(shown(metric, value), value) for value in values)]

    rows = []
    for lang in report.langs:
        cells = [report.cell(system, lang) for system in report.systems]
        scores = [c.score if metric == first else c.scores.get(metric, c.score) for c in cells]
        rows.append(row(lang, (score.value for score in scores)))
    if metric == first:
        averages = [*report.group_macro.items(), (ALL, report.macro)]
        rows += [RULE, *(row(name, (means[s] for s in report.systems)) for name, means in averages)]
    title = f"{report.task} {report.split}: {titled(metric)}, {report.engine} engine"
    return Table("scores", title, ["language", *report.systems], rows)


def difference_table(report: "EvalReport") -> Table:
    """Return the differences to the baseline; those whose interval excludes zero stand out."""
    metric = report.cells[0].score.name
    found = {(c.over, c.system): c for c in report.comparisons}
    systems = list(dict.fromkeys(c.system for c in report.comparisons))
    averages = [c.over for c in report.comparisons if [c.over] != c.langs]
    rows: list[Row] = []
    for over in dict.fromkeys(c.over for c in report.comparisons):
        rows += [RULE] if over in averages[:1] else []
        compared = [found.get((over, system)) for system in systems]
        rows.append([over, *(difference(c, metric, c.p_value) if c else "-" for c in compared)])
    baseline = report.comparisons[0].baseline
    note = (
        f"Differences to {baseline} with 95% intervals and p-values of the paired bootstrap; * "
        "where the interval excludes zero. P-values are not corrected for the number of "
        "comparisons."
    )
    title = f"difference to {baseline}, 95% interval, p-value"
    return Table("differences", title, ["", *systems], rows, note)


def difference(comparison: Comparison, metric: str, p_value: float | None = None) -> Cell:
    """Return a difference with its interval; a star says that this excludes zero."""
    ends = (comparison.difference, comparison.low, comparison.high)
    seen, low, high = (shown(metric, value, "+") for value in ends)
    text = f"{seen} [{low}, {high}]" + ("" if p_value is None else f" {p_value:.3f}")
    if comparison.excludes_zero:
        return Cell(f"{text} *", comparison.difference, "strong")
    return Cell(f"{text}  ", comparison.difference)  # as wide as those with a star


def count_table(report: "EvalReport") -> Table | None:
    """Count what happened to answers and prompts, where anything did."""
    counted = _counted(report)
    rows = [*counted, _sums(report, "examples", "examples")]
    title = "What happened to answers"
    return Table("counts", title, ["", *report.systems], rows) if counted else None


def _counted(report: "EvalReport") -> list[Row]:
    rows = [_sums(report, label, field) for label, field in _COUNTS.items()]
    return [row for row in rows if any(count != "0" for count in row[1:])]


def _sums(report: "EvalReport", label: str, field: str) -> Row:
    sums = (
        sum(getattr(c, field) for c in report.cells if c.system == system)
        for system in report.systems
    )
    return [label, *(f"{count:,}" for count in sums)]


def glance_table(report: "EvalReport", run: str) -> Table:
    """Return the table that compares systems in one row each."""
    metric = report.cells[0].score.name
    against = {c.system: c for c in report.comparisons if c.over == ALL}
    langs = [c for c in report.comparisons if c.over in report.langs]
    rows: list[Row] = []
    for system in report.systems:
        mine = [c for c in langs if c.system == system and c.excludes_zero]
        better = sum(c.difference > 0 for c in mine)
        score = shown(metric, report.macro[system])
        if system in against:
            counts = f"{better} / {len(mine) - better}"
            rows.append([system, score, difference(against[system], metric), counts])
        else:
            rows.append([system, score, "", "baseline"])
    columns = ["system", titled(metric), "difference, 95% interval", "languages better / worse"]
    note = (
        "Averages over languages. A language counts as better or worse where its interval excludes "
        "zero."
    )
    title = f"{run}: {report.task} {report.split}, {len(report.langs)} languages"
    return Table("glance", title, columns, rows, note)


def files_of(report: "EvalReport") -> list[Table]:
    """Return the tables that an evaluation leaves as CSV: scores, and all of the differences."""
    compared = (asdict(c) | {"langs": " ".join(c.langs)} for c in report.comparisons)
    columns = [field.name for field in fields(Comparison)]
    return [
        replace(score_table(report), columns=["lang", *report.systems]),
        Table("differences", "", columns, [list(row.values()) for row in compared]),
    ]

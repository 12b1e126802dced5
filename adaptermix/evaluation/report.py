"""The report of an evaluation, and how it is shown."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from adaptermix.adapters.systems import Baseline
from adaptermix.evaluation.comparison import ALL, Comparison, PairedTest
from adaptermix.evaluation.seeds import OverSeeds
from adaptermix.evaluation.verdict import verdicts
from adaptermix.files.outputs import NotedReport, Report
from adaptermix.settings.shared import HARNESS
from adaptermix.tables import (
    RULE,
    Cell,
    Line,
    Look,
    Row,
    Table,
    View,
    counted,
    ends_shown,
    noted,
    number_of,
    p_shown,
    pairs,
    shown,
    titled,
)
from adaptermix.tasks.metrics.metric import Score

_COUNTS = {
    "malformed answers": "malformed",
    "cut answers": "cut_answers",
    "truncated prompts": "truncated_prompts",
}


def baseline_line(report: "EvalReport") -> str:
    """Name the baseline and the reason for it, or return an empty string without comparisons."""
    if not report.comparisons:
        return ""
    reason = f", {report.baseline.reason}" if report.baseline else ""
    return f"baseline: {report.reference}{reason}"


def baseline_sentence(report: "EvalReport") -> str:
    """Return ``baseline_line`` as a sentence, for a caption or note."""
    return f"B{baseline_line(report)[1:]}." if report.comparisons else ""


def _meaning_of_stars(report: "EvalReport") -> str:
    if report.test is None:  # a record from before the correction was added
        return "the interval excludes zero"
    row = report.row_name
    return (
        f"p < 0.05, for single {row}s after Holm's correction over the {row}s; "
        f"{report.test.name}, {report.test.samples:,} resamples"
    )


def score_table(report: "EvalReport", metric: str = "") -> Table:
    """Return every system's scores by language, and for the first metric the averages too."""
    first = report.cells[0].score.name
    metric = metric or first

    def row(name: str, values: Iterable[float | None]) -> Row:
        return [name, *("-" if v is None else Cell(shown(metric, v), v) for v in values)]

    rows = []
    for lang in report.langs:
        cells = [report.cell(system, lang) for system in report.systems]
        scores = [c.score if metric == first else c.scores.get(metric) for c in cells]
        rows.append(row(lang, (None if score is None else score.value for score in scores)))
    if metric == first:
        averages = [*report.group_macro.items(), (ALL, report.macro)]
        rows += [RULE, *(row(name, (means[s] for s in report.systems)) for name, means in averages)]
    title = f"{report.task} {report.split}: {titled(metric)}, {report.engine} engine"
    columns = [report.row_name, *report.systems]
    return Table("scores", title, columns, rows, baseline_sentence(report))


def difference_table(report: "EvalReport") -> Table:
    """Return the table of differences from the baseline, with the significant ones highlighted."""
    metric = report.cells[0].score.name
    found = {(c.over, c.system): c for c in report.comparisons}
    systems = list(dict.fromkeys(c.system for c in report.comparisons))
    averages = [c.over for c in report.comparisons if [c.over] != c.langs]
    rows: list[Row] = []
    for over in dict.fromkeys(c.over for c in report.comparisons):
        rows += [RULE] if over in averages[:1] else []
        compared = [found.get((over, system)) for system in systems]
        rows.append([over, *(difference(c, metric, c.p_value) if c else "-" for c in compared)])
    baseline = report.reference
    interval = report.test.interval if report.test else "95% interval"
    note = (
        f"{baseline_sentence(report)} Differences with {interval} and uncorrected two-sided "
        f"p-value; * {_meaning_of_stars(report)}."
    )
    title = f"difference from {baseline}, {interval}, p-value; stars after Holm's correction"
    return Table("differences", title, ["", *systems], rows, note)


def difference(comparison: Comparison, metric: str, p_value: float | None = None) -> Cell:
    """Format a difference with its interval; a star marks it as significant."""
    seen = shown(metric, comparison.difference, "+")
    low, high = ends_shown(metric, comparison.low, comparison.high)
    text = f"{seen} [{low}, {high}]" + ("" if p_value is None else f" {p_shown(p_value)}")
    if comparison.is_sure:
        return Cell(f"{text} *", comparison.difference, "strong")
    return Cell(f"{text}  ", comparison.difference)  # same width as with a star


def seed_tables(report: "EvalReport") -> list[Table]:
    """Return tables of the mean and spread over seeds and of the differences, if there are any."""
    if not report.over_seeds:
        return []
    found = {(row.over, row.system): row for row in report.over_seeds}
    systems = list(dict.fromkeys(row.system for row in report.over_seeds))
    overs = list(dict.fromkeys(row.over for row in report.over_seeds))
    compared = [s for s in systems if found[overs[0], s].difference is not None]
    metric = report.cells[0].score.name
    means: list[Row] = []
    gains: list[Row] = []
    for over in overs:
        if over in (*report.group_macro, ALL) and RULE not in means:
            means.append(RULE)
            gains.append(RULE)
        means.append([over, *(_mean_cell(found[over, system], metric) for system in systems)])
        rows = [found[over, system] for system in compared]
        gains.append([over, *(_gain_cell(row, metric, report.langs) for row in rows)])
    seeds = ", ".join(f"{s}: {' '.join(map(str, found[ALL, s].seeds))}" for s in systems)
    note = (
        f"Seeds of {seeds}. Mean ± standard deviation over the seeds (n - 1), with the 95% "
        "interval of a bootstrap over seeds and examples. With few seeds, the interval is too "
        "narrow."
    )
    title = f"{titled(metric)} over seeds: mean ± standard deviation, 95% interval"
    tables = [Table("seeds", title, [report.row_name, *systems], means, note)]
    if compared:
        baseline = next(row.baseline for row in report.over_seeds if row.baseline)
        title = f"difference from {baseline} over seeds, 95% interval; * average excludes zero"
        note += f" A single {report.row_name} has no star, because its interval is not corrected."
        tables.append(Table("seed-differences", title, ["", *compared], gains, note))
    return tables


def _mean_cell(row: OverSeeds, metric: str) -> Cell:
    ends = ", ".join(shown(metric, value) for value in (row.low, row.high))
    return Cell(f"{shown(metric, row.mean)} ± {shown(metric, row.deviation)} [{ends}]", row.mean)


def _gain_cell(row: OverSeeds, metric: str, langs: Sequence[str]) -> Cell:
    gain = shown(metric, row.difference or 0.0, "+")
    low, high = ends_shown(metric, row.difference_low or 0.0, row.difference_high or 0.0)
    is_marked = row.is_sure and (len(row.langs) > 1 or len(langs) == 1)
    look: Look = "strong" if is_marked else ""
    return Cell(f"{gain} [{low}, {high}] {'*' if is_marked else ' '}", row.difference, look)


def count_table(report: "EvalReport") -> Table | None:
    """Return the counts of malformed answers and the like, or None if all are zero."""
    counted = _counted(report)
    examples = _sums(report, "examples")
    rows: list[Row] = [*counted, ["examples", *(f"{count:,}" for count in examples)]]
    title = "Problems with answers"
    note = baseline_sentence(report)
    return Table("counts", title, ["", *report.systems], rows, note) if counted else None


def _counted(report: "EvalReport") -> list[Row]:
    examples = _sums(report, "examples")
    rows: list[Row] = []
    for label, name in _COUNTS.items():
        if any(counts := _sums(report, name)):
            shares = zip(counts, examples, strict=True)
            rows.append([label, *(Cell(f"{n:,} of {total:,}", n) for n, total in shares)])
    return rows


def _sums(report: "EvalReport", name: str) -> list[int]:
    """Return a count's sum over languages, for every system."""
    return [
        sum(getattr(c, name) for c in report.cells if c.system == system)
        for system in report.systems
    ]


def glance_table(report: "EvalReport", run: str) -> Table:
    """Return the overview table with one row per system."""
    metric = report.cells[0].score.name
    against = {c.system: c for c in report.comparisons if c.over == ALL}
    langs = [c for c in report.comparisons if c.over in report.langs]
    rows: list[Row] = []
    for system in report.systems:
        mine = [c for c in langs if c.system == system and c.is_sure]
        better = sum(c.difference > 0 for c in mine)
        score = shown(metric, report.macro[system])
        if system in against:
            counts = f"{better} / {len(mine) - better}"
            rows.append([system, score, difference(against[system], metric), counts])
        else:
            rows.append([system, score, "", "baseline"])
    interval = report.test.interval if report.test else "95% interval"
    row = report.row_name
    columns = ["system", titled(metric), f"difference, {interval}", f"{row}s better / worse"]
    judged = "p < 0.05 after Holm's correction" if report.test else "its interval excludes zero"
    note = (
        f"{baseline_sentence(report)} Averages over {row}s. A {row} counts as better "
        f"or worse if {judged}."
    ).strip()
    title = f"{run}: {report.task} {report.split}, {number_of(len(report.langs), row)}"
    return Table("glance", title, columns, rows, note)


def files_of(report: "EvalReport") -> list[Table]:
    """Return the tables to write as CSV: scores, differences, and seeds if there are several."""
    compared = (asdict(c) | {"langs": " ".join(c.langs)} for c in report.comparisons)
    columns = [f.name for f in fields(Comparison)]
    seeds = (
        asdict(row) | {k: " ".join(map(str, getattr(row, k))) for k in ("seeds", "langs", "scores")}
        for row in report.over_seeds
    )
    tables = [
        replace(score_table(report), columns=["lang", *report.systems]),
        Table("differences", "", columns, [list(row.values()) for row in compared]),
        Table("seeds", "", [f.name for f in fields(OverSeeds)], [[*row.values()] for row in seeds]),
    ]
    return tables if report.over_seeds else tables[:2]


@dataclass(frozen=True)
class SystemScores:
    """The scores of one system on one language; ``score`` is the first of ``scores``."""

    system: str
    lang: str
    score: Score
    examples: int
    malformed: int
    cut_answers: int
    truncated_prompts: int
    scores: dict[str, Score]


@dataclass(frozen=True)
class EvalReport(Report):
    """Scores of all systems on all languages.

    Attributes:
        decoded: Number of prompts that the engine answered.
        reused: Number of prompts whose answers were cached.
        macro: By system, the macro average over the languages.
        groups: Tested languages by the name of their group.
        group_macro: By group and system, the macro average over the group's languages.
        comparisons: Comparisons of the systems with the baseline; empty with one system.
        baseline: The baseline and the reason for it; None in older records.
        test: The test of the comparisons; None without comparisons or in older records.
        over_seeds: Summaries of systems with several seeds.
    """

    task: str
    split: str
    engine: str
    decoded: int
    reused: int
    systems: list[str]
    langs: list[str]
    cells: list[SystemScores]
    macro: dict[str, float]
    groups: dict[str, list[str]]
    group_macro: dict[str, dict[str, float]]
    comparisons: list[Comparison]
    notes: list[str]
    out: str
    baseline: Baseline | None = None
    test: PairedTest | None = None
    over_seeds: list[OverSeeds] = field(default_factory=list)

    @property
    def row_name(self) -> str:
        """Kind of the rows in ``langs``, where lm-eval tasks take the place of languages."""
        return "task" if self.task == HARNESS else "language"

    @property
    def reference(self) -> str:
        """Name of the baseline."""
        if self.baseline is not None:
            return self.baseline.name
        return self.comparisons[0].baseline if self.comparisons else self.systems[0]

    def cell(self, system: str, lang: str) -> SystemScores:
        """Return one system's scores on one language."""
        return next(c for c in self.cells if (c.system, c.lang) == (system, lang))

    def view(self) -> View:
        """Show every system's scores by language, the averages, and the differences."""
        scores = score_table(self)
        parts: list[Table | Line] = [
            replace(scores, rows=[*scores.rows, *_counted(self)]),
            *dict.fromkeys(cell.score.signature for cell in self.cells),
        ]
        remarks = []
        if self.comparisons:
            metric = self.cells[0].score.name
            parts += [difference_table(self), baseline_line(self)]
            parts += verdicts(self.comparisons, metric, self.row_name)
            parts += [self.test.signature] if self.test else []
            remarks.append(f"* {_meaning_of_stars(self)}")
        parts += seed_tables(self)
        remarks += noted(self.notes)
        if self.reused:
            remarks.append(f"answers: {self.reused:,} from the cache, {self.decoded:,} decoded")
        return View(parts, [*remarks, f"scores and predictions: {self.out}"])

    def as_record(self) -> dict[str, Any]:
        """Return the report for JSON, without examples' scores, which are in the predictions."""
        record = super().as_record()
        for cell in record["cells"]:
            for score in (cell["score"], *cell["scores"].values()):
                del score["segments"]
        if not self.over_seeds:
            del record["over_seeds"]
        return record


@dataclass(frozen=True)
class EvalPlan(NotedReport):
    """What an evaluation would do (dry run)."""

    systems: list[str]
    examples: dict[str, int]
    longest_prompt: int
    out: str

    def view(self) -> View:
        """Return the human-readable view."""
        rows = {
            "systems": " ".join(self.systems),
            "examples": counted(self.examples),
            "longest prompt": number_of(self.longest_prompt, "token"),
            "would write": self.out,
        }
        return View([pairs(rows)])

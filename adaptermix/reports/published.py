"""Comparison of a paper's published numbers with those of runs.

The file has one TOML table per table of the paper::

    citation = "Liu and Niehues (2025)"

    [table-2]
    source = "table 2, page 5"
    metric = "slot_f1"
    over = ["supervised", "transfer"]      # languages, groups of the run, or all
    values.llama-sft = [76.6, 60.2]        # by system, in the order of over; nan is not printed
    values.llama-joint = [77.0, 61.7]
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adaptermix.adapters.seeds import SEEDED, seed_families
from adaptermix.errors import ConfigError, DataError
from adaptermix.evaluation.comparison import ALL
from adaptermix.evaluation.report import EvalReport
from adaptermix.files.text import why_no_file
from adaptermix.files.toml import line_of, read_toml
from adaptermix.reports.runs import Run, Runs
from adaptermix.retrieval.report import RetrievalReport
from adaptermix.retrieval.summary import EVEN
from adaptermix.settings.shared import complaint
from adaptermix.tables import Cell, Row, Table, number_of, printable, scaled, titled

RETRIEVAL = "retrieval"
_ALL = ("all", ALL)  # names that stand for all languages
# Functions of a system's and the baseline's scores by language.
_STATISTICS: dict[str, Callable[[list[float], list[float]], float]] = {
    "mean": lambda scores, baseline: fmean(scores),
    "gain": lambda scores, baseline: fmean(scores) - fmean(baseline),
    "sd": lambda scores, baseline: stdev(scores),
    "sd-of-gains": lambda scores, baseline: stdev(
        one - other for one, other in zip(scores, baseline, strict=True)
    ),
}
_OF_STATISTICS = {
    "mean": "",
    "gain": ", difference from {}",
    "sd": ", standard deviation over languages",
    "sd-of-gains": ", standard deviation over languages of the difference from {}",
}


class PublishedTable(BaseModel):
    """The numbers of one table of a paper.

    Attributes:
        source: Where the table is printed.
        metric: A metric of the run, or ``retrieval``.
        over: Languages, names of the run's groups, or ``all``.
        values: By system, one number per entry of ``over``; nan if none is printed.
        statistic: The mean over languages; the difference of means to the baseline; the standard
            deviation (n - 1) over languages of the scores, or of the differences from the baseline.
        baseline: The system that differences refer to.
        scale: Factor of the scores; by default 100 for shares and 1 for BLEU, chrF and COMET.
        runs: Names of the runs to compare with, or of their folders; by default all runs with the
            metric.
        reading: Name of the layer set that retrieval is averaged over.
        note: Note on the numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    metric: str
    over: list[str] = Field(min_length=1)
    values: dict[str, list[float]] = Field(min_length=1)
    statistic: Literal["mean", "gain", "sd", "sd-of-gains"] = "mean"
    baseline: str | None = None
    scale: float | None = Field(default=None, gt=0)
    runs: list[str] | None = None
    reading: str = EVEN
    note: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> "PublishedTable":
        for system, numbers in self.values.items():
            if len(numbers) != len(self.over):
                raise ValueError(
                    f"values.{system}: {number_of(len(numbers), 'number')}, but over has "
                    f"{number_of(len(self.over), 'name')}"
                )
        if self.baseline is None and self.statistic in ("gain", "sd-of-gains"):
            raise ValueError(f"statistic = '{self.statistic}' needs a baseline")
        if self.metric == RETRIEVAL and self.statistic not in ("mean", "gain"):
            raise ValueError(f"statistic = '{self.statistic}' is not for retrieval")
        return self

    @property
    def digits(self) -> int:
        """Number of printed decimal places."""
        numbers = [n for row in self.values.values() for n in row if math.isfinite(n)]
        return max([1, *(len(repr(n).partition(".")[2]) for n in numbers if n != int(n))])

    @property
    def factor(self) -> float:
        """Factor of the scores."""
        if self.scale is not None:
            return self.scale
        return 100.0 if self.metric == RETRIEVAL else scaled(self.metric, 1.0)


@dataclass(frozen=True)
class Published:
    """A file of published numbers."""

    citation: str
    tables: Mapping[str, PublishedTable]


@dataclass(frozen=True)
class ComparedCell:
    """A published number and that of a run, on the scale of the paper.

    Attributes:
        table: Name of the table in the file.
        source: Where the table is printed.
        run: Name of the run.
        metric: The metric.
        statistic: The statistic of the metric.
        system: The system, without seed if it has several.
        over: A language, a group, or ``all``.
        measured: The run's number, or the mean over several seeds.
        deviation: Standard deviation over seeds; None for a single one.
        published: The paper's number.
        difference: ``measured`` minus ``published``.
    """

    table: str
    source: str
    run: str
    metric: str
    statistic: str
    system: str
    over: str
    measured: float
    deviation: float | None
    published: float
    difference: float


def read_published(path: Path) -> Published:
    """Read a file of published numbers.

    Raises:
        ConfigError: The file is malformed; the message names file and line.
        DataError: The file does not exist.
    """
    if not path.is_file():
        raise DataError(f"--published {path}: {why_no_file(path)}")
    content = read_toml(path)
    citation = content.pop("citation", "")
    if not isinstance(citation, str):
        raise ConfigError(f"{path}:{line_of(path, None, 'citation')}: citation: expected text")
    tables = {}
    for name, table in content.items():
        if not isinstance(table, dict):
            line = line_of(path, None, name)
            hint = "begin a table of numbers with [NAME]; the only top-level key is citation"
            raise ConfigError(f"{path}:{line}: unknown top-level key '{name}'", hint=hint)
        try:
            tables[name] = PublishedTable.model_validate(table)
        except ValidationError as error:
            raise _invalid(path, name, error) from error
    return Published(printable(citation), tables)


def _invalid(path: Path, name: str, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    line = line_of(path, name, keys[0] if keys else None)
    if line == 1 and keys:  # values.SYSTEM, or a missing key
        line = line_of(path, name, None)
    where = f"{'.'.join(keys)}: " if keys else ""
    if first["type"] == "extra_forbidden":
        message = f"unknown key '{keys[0]}'"
        hint = f"the keys are {', '.join(PublishedTable.model_fields)}"
        return ConfigError(f"{path}:{line}: [{name}] {message}", hint=hint)
    return ConfigError(f"{path}:{line}: [{name}] {where}{complaint(dict(first))}")


def compare_published(runs: Runs, published: Published) -> list[ComparedCell]:
    """Return every published number for which a run has a counterpart."""
    return [
        cell
        for run in (*runs.evaluations, *runs.retrievals)
        for name, table in published.tables.items()
        if table.runs is None or {run.name, run.path.resolve().parent.name}.intersection(table.runs)
        for cell in _cells(run, name, table)
    ]


def _cells(run: Run, name: str, table: PublishedTable) -> Iterator[ComparedCell]:
    scores_of = _reader(run.report, table)
    families = seed_families(run.report.systems)
    for at, over in enumerate(table.over):
        for system, numbers in table.values.items():
            if not math.isfinite(numbers[at]):
                continue
            names = list(families.get(system, {system: system}).values())
            values = [_value(scores_of, table, member, over, families) for member in names]
            known = [value * table.factor for value in values if value is not None]
            if known and len(known) == len(names):
                mean = fmean(known)
                yield ComparedCell(
                    table=name,
                    source=table.source,
                    run=run.name,
                    metric=table.metric,
                    statistic=table.statistic,
                    system=system,
                    over=over,
                    measured=mean,
                    deviation=stdev(known) if len(known) > 1 else None,
                    published=numbers[at],
                    difference=mean - numbers[at],
                )


# Returns a system's scores by language for a language, group or ``all``; None if there are none.
_Scores = Callable[[str, str], list[float] | None]


def _value(
    scores_of: _Scores,
    table: PublishedTable,
    system: str,
    over: str,
    families: Mapping[str, Mapping[int, str]],
) -> float | None:
    """Return a system's value for a table; the baseline has the same seed, if it has seeds."""
    scores = scores_of(system, over)
    baseline: list[float] | None = []
    if table.statistic in ("gain", "sd-of-gains") and table.baseline is not None:
        seeds, found = families.get(table.baseline, {}), SEEDED.fullmatch(system)
        same = seeds.get(int(found[2])) if found else None
        of_seeds = [scores_of(name, over) for name in ([same] if same else seeds.values())]
        known = [one for one in of_seeds if one is not None]
        baseline = (
            [fmean(column) for column in zip(*known, strict=True)]
            if known
            else scores_of(table.baseline, over)
        )
    if scores is None or baseline is None:
        return None
    if table.statistic.startswith("sd") and len(scores) < 2:
        return None
    return _STATISTICS[table.statistic](scores, baseline)


def _reader(report: Any, table: PublishedTable) -> _Scores:
    """Return the function that reads a run's scores for a table."""
    if isinstance(report, RetrievalReport):
        return lambda system, over: _retrieved(report, table, system, over)
    return lambda system, over: _scored(report, table.metric, system, over)


def _retrieved(
    report: RetrievalReport, table: PublishedTable, system: str, over: str
) -> list[float] | None:
    if table.metric != RETRIEVAL:
        return None
    found = (
        a.accuracy
        for a in report.aggregates
        if (a.system, a.over, a.reading) == (system, "all" if over in _ALL else over, table.reading)
    )
    accuracy = next(found, None)
    return None if accuracy is None else [accuracy]


def _scored(report: EvalReport, metric: str, system: str, over: str) -> list[float] | None:
    langs = [over] if over in report.langs else report.groups.get(over)
    langs = report.langs if langs is None and over in _ALL else langs
    if langs is None or system not in report.systems:
        return None
    by_metric = [report.cell(system, lang).scores.get(metric) for lang in langs]
    scores = [score.value for score in by_metric if score is not None]
    return scores if len(scores) == len(langs) else None


def published_tables(published: Published, cells: Sequence[ComparedCell]) -> list[Table]:
    """Return one table per run and table of the paper: measured, published, difference."""
    tables = []
    for run, name in dict.fromkeys((cell.run, cell.table) for cell in cells):
        mine = {(c.over, c.system): c for c in cells if (c.run, c.table) == (run, name)}
        table = published.tables[name]
        systems = list(dict.fromkeys(system for _, system in mine))
        rows: list[Row] = [
            [over, *(_cell(mine.get((over, system)), table.digits) for system in systems)]
            for over in dict.fromkeys(over for over, _ in mine)
        ]
        of = _OF_STATISTICS[table.statistic].format(table.baseline)
        metric = "retrieval accuracy (%)" if table.metric == RETRIEVAL else titled(table.metric)
        note = (
            f"Measured value, value in {published.citation or 'the paper'} ({table.source}), "
            f"and difference. {_summary(list(mine.values()), table.digits)} {table.note}"
        )
        title = f"{run} beside {table.source}: {metric}{of}"
        tables.append(Table(f"published-{run}-{name}", title, ["", *systems], rows, note.strip()))
    return tables


def _cell(cell: ComparedCell | None, digits: int) -> Cell:
    if cell is None:
        return Cell("-")
    spread = "" if cell.deviation is None else f" ± {cell.deviation:.{digits}f}"
    text = f"{cell.measured:.{digits}f}{spread} vs {cell.published:.{digits}f}"
    return Cell(f"{text} ({cell.difference:+.{digits}f})", cell.measured)


def _summary(cells: Sequence[ComparedCell], digits: int) -> str:
    sizes = [abs(cell.difference) for cell in cells]
    numbers = number_of(len(cells), "number")
    return (
        f"{numbers}: mean absolute difference {fmean(sizes):.{digits}f}, "
        f"largest {max(sizes):.{digits}f}."
    )

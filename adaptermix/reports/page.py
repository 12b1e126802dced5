"""A self-contained HTML page about runs: provenance of adapters, scores, and every answer.

The page needs no network and cannot make requests: its content security policy allows only its own
script and style, by their hashes. Plots are drawn when the page is written. The template escapes
texts; examples are compressed data that the script shows as text, never as markup.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from adaptermix.adapters.inspection import inspect
from adaptermix.adapters.report import InspectReport
from adaptermix.errors import require_extra
from adaptermix.files.outputs import Report, check_output, whole_output
from adaptermix.plots.drawing import palette_css
from adaptermix.reports.published import (
    ComparedCell,
    Published,
    compare_published,
    published_tables,
    read_published,
)
from adaptermix.reports.runs import Answers, Run, Runs, find_runs, read_answers
from adaptermix.reports.sections.build import sections_of
from adaptermix.reports.sections.roles import merge_among, named_in
from adaptermix.reports.sections.section import Section
from adaptermix.settings.reports import InspectSettings, ReportSettings
from adaptermix.settings.shared import HARNESS
from adaptermix.tables import Table, View, pairs, printable
from adaptermix.tasks.metrics.equality import is_right as equals
from adaptermix.version import __version__

_PAGE = Path(__file__).with_name("assets")
_MANY_ROWS = 12  # rows of a table; longer tables are collapsed
_RIGHT, _MALFORMED, _CUT, _TRUNCATED = 1, 2, 4, 8  # flags of an answer, as in the page's script


@dataclass(frozen=True)
class ReportSummary(Report):
    """The inputs and outputs of a report.

    Attributes:
        out: Path of the page.
        export: Folder of exported plots and tables, if requested.
        task: The task of the runs.
        runs: Paths of the records that were read.
        adapters: Paths of the measured adapters, and of families.
        plots: Names of the plots.
        tables: Names of the tables.
        examples: Number of examples that can be browsed.
        bytes: Size of the page, in bytes.
        written: False for a dry run.
        published: Published numbers compared with those of the runs.
        compared: The same comparison as tables.
    """

    out: str
    export: str | None
    task: str | None
    runs: list[str]
    adapters: list[str]
    plots: list[str]
    tables: list[str]
    examples: int
    bytes: int
    written: bool
    published: list[ComparedCell] = field(default_factory=list)
    compared: list[Table] = field(default_factory=list)

    def view(self) -> View:
        """Return the human-readable view."""
        done = "report" if self.written else "would write"
        rows = [
            *(["run", run] for run in self.runs),
            *(["adapter", adapter] for adapter in self.adapters),
            ["plots", str(len(self.plots))],
            ["tables", str(len(self.tables))],
            ["examples", f"{self.examples:,}"],
            [done, f"{self.out}, {self.bytes / 1e6:.1f} MB"],
        ]
        if self.export:
            rows.append(["plots and tables" if self.written else done, self.export])
        return View([*self.compared, pairs(rows)])

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        record = super().as_record()
        del record["compared"]
        if not self.published:
            del record["published"]
        return record


def report(
    paths: Sequence[Path], settings: ReportSettings, *, force: bool = False, dry_run: bool = False
) -> ReportSummary:
    """Write a page about runs and, with ``export``, its plots and tables as files.

    Raises:
        DataError: A path is not a run, a record is damaged, or runs have different tasks.
        ArtifactError: An adapter is damaged, or an output exists.
    """
    outputs = [path for path in (settings.out, settings.export) if path is not None]
    for path in outputs:
        check_output(path, force, [*paths, *settings.inputs()])
    if settings.export is not None:
        require_extra("report")
    numbers = None if settings.published is None else read_published(settings.published)
    runs = find_runs(paths)
    inspected = None
    if runs.adapters:
        inspected = inspect(runs.adapters, InspectSettings(), may_differ=True)
    sections = [section for section in sections_of(runs, inspected) if not section.is_empty]
    cells = compare_published(runs, numbers) if numbers else []
    compared = published_tables(numbers, cells) if numbers else []
    if numbers:  # after the answer section
        place = 1 if runs.evaluations else 0
        sections.insert(place, _published_section(settings, numbers, compared))
    evaluations = runs.evaluations if settings.examples else []
    examples = [found for run in evaluations if (found := _browsable(run, inspected))["id"]]
    page = _render(settings.title, runs, sections, examples)
    if not dry_run:
        if settings.export is not None:
            _export(sections, settings.export)
        with whole_output(settings.out) as partial_page:
            partial_page.write_text(page, encoding="utf-8")
    return ReportSummary(
        out=str(settings.out),
        export=str(settings.export) if settings.export else None,
        task=runs.task,
        runs=[str(r.path) for r in (*runs.evaluations, *runs.searches, *runs.retrievals)],
        adapters=[str(path) for path in (*runs.adapters, *runs.families)],
        plots=[plot.name for section in sections for plot in section.all_plots],
        tables=[table.name for section in sections for table in section.all_tables],
        examples=sum(len(run["id"]) for run in examples),
        bytes=len(page.encode()),
        written=not dry_run,
        published=cells,
        compared=compared,
    )


def _published_section(
    settings: ReportSettings, numbers: Published, compared: Sequence[Table]
) -> Section:
    nothing = f"No number in {settings.published} belongs to these runs."
    texts = [f"Published numbers: {numbers.citation}."] if numbers.citation else []
    shown = texts if compared else [nothing]
    return Section("published", "Published numbers", shown, tables=list(compared))


def _export(sections: Sequence[Section], folder: Path) -> None:
    with whole_output(folder) as partial_folder:
        partial_folder.mkdir()
        for section in sections:
            for plot in section.all_plots:
                plot.write(partial_folder)
            for table in section.all_tables:
                table.write(partial_folder, "md", "tex")


def _browsable(run: Run, inspected: InspectReport | None) -> dict[str, Any]:
    """Return the examples of an evaluation as columns, as the page's script reads them."""
    columns: dict[str, Any] = {"lang": [], "id": [], "prompt": [], "gold": []}
    systems = run.report.systems
    answers: list[list[str]] = [[] for _ in systems]
    flags: list[list[str]] = [[] for _ in systems]
    for number, answered in enumerate(read_answers(run)):
        first = next(iter(answered.rows.values()))
        columns["lang"] += [number] * len(first)
        columns["id"] += [row["id"] for row in first]
        columns["prompt"] += [row["utterance"] for row in first]
        columns["gold"] += [_as_text(row.get("expected")) for row in first]
        _add_answers(answered, answers, flags, _judge(run, answered))
    reference = run.report.reference
    known = named_in(run.content, inspected)
    merge = merge_among(systems, reference, known) or reference
    return {
        "name": run.name,
        "systems": systems,
        "baseline": systems.index(reference),
        "merge": systems.index(merge),
        "langs": run.report.langs,
        **columns,
        "answers": answers,
        "flags": ["".join(of_system) for of_system in flags],
    }


def _judge(run: Run, answered: Answers) -> Callable[[Mapping[str, Any]], bool]:
    """Return what tells whether a record's answer is right.

    For lm-eval, it is the score if all scores of the task are between 0 and 1: what a task expects
    may be a whole solution, or the tests of a program.
    """
    settings, metric = run.content.get("settings"), run.report.cells[0].score.name
    by_offsets = isinstance(settings, dict) and settings.get("match") == "offsets"
    every = [row.get("scores") for rows in answered.rows.values() for row in rows]
    values = [scores[metric] for scores in every if isinstance(scores, dict) and metric in scores]
    numbers = [value for value in values if isinstance(value, int | float)]
    has_scores = run.report.task == HARNESS and all(0 <= number <= 1 for number in numbers)

    def is_right(row: Mapping[str, Any]) -> bool:
        scores = row.get("scores")
        score = scores.get(metric) if has_scores and isinstance(scores, dict) else None
        if isinstance(score, int | float):
            return score >= 1
        return equals(row.get("predicted"), row.get("expected"), by_offsets=by_offsets)

    return is_right


def _add_answers(
    answered: Answers,
    answers: list[list[str]],
    flags: list[list[str]],
    is_right: Callable[[Mapping[str, Any]], bool],
) -> None:
    for at, rows in enumerate(answered.rows.values()):
        answers[at] += [row["output"] for row in rows]
        flags[at] += [f"{_RIGHT * is_right(row) + _problems(row):x}" for row in rows]


def _problems(row: Mapping[str, Any]) -> int:
    return (
        _MALFORMED * bool(row.get("malformed"))
        + _CUT * bool(row.get("is_cut"))
        + _TRUNCATED * bool(row.get("is_truncated"))
    )


def _as_text(expected: Any) -> str:
    """Return the expected answer as readable text."""
    if not isinstance(expected, list):
        return "" if expected is None else str(expected)
    if all(isinstance(item, str) for item in expected):
        is_tags = all(item == "O" or item[:2] in ("B-", "I-") for item in expected)
        return (" " if is_tags else "\n").join(expected)
    return "; ".join(
        f"{item.get('type')}: {item.get('value', item.get('text'))}"
        if isinstance(item, dict)
        else str(item)
        for item in expected
    )


def _render(
    title: str, runs: Runs, sections: Sequence[Section], examples: Sequence[Mapping[str, Any]]
) -> str:
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style, script = ((_PAGE / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    style = palette_css() + style
    return environment.get_template("report.html").render(
        title=printable(title),
        version=__version__,
        task=runs.task,
        sections=sections,
        style=Markup(style),
        script=Markup(script),
        policy="; ".join(
            [
                "default-src 'none'",
                f"style-src 'sha256-{_digest(style)}'",
                f"script-src 'sha256-{_digest(script)}'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        markup=Markup,
        quote=quote,
        many_rows=_MANY_ROWS,
        count=sum(len(run["id"]) for run in examples),
        examples=_packed(examples) if examples else None,
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _packed(examples: Sequence[Mapping[str, Any]]) -> str:
    """Compress data deterministically, to letters without a meaning in HTML."""
    text = json.dumps(examples, separators=(",", ":"))  # ASCII keeps lone surrogates escaped
    return base64.b64encode(gzip.compress(text.encode("ascii"), 6, mtime=0)).decode()

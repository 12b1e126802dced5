"""The only place that writes to the terminal: tables, progress, errors.

Results go to standard output, everything else to standard error.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from adaptermix.errors import AdaptermixError

if TYPE_CHECKING:
    from adaptermix.evaluation import EvalPlan, EvalProgress, EvalReport, OnProgress
    from adaptermix.merging import MergeReport
    from adaptermix.training import OnProgress as OnTrainProgress
    from adaptermix.training import Progress as TrainProgress
    from adaptermix.training import TrainReport

results = Console(soft_wrap=True)
talk = Console(stderr=True, soft_wrap=True)


def show_error(error: AdaptermixError) -> None:
    """Print what happened on one line, and what to do next on another."""
    talk.print(f"[bold red]error:[/] {escape(_on_one_line(error.message))}", highlight=False)
    if error.hint:
        talk.print(f"[bold]hint:[/] {escape(_on_one_line(error.hint))}", highlight=False)


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def say(text: str) -> None:
    """Print a remark to standard error."""
    talk.print(escape(text), highlight=False)


def show_json(record: dict[str, Any]) -> None:
    """Print a result as JSON and nothing else."""
    results.print(
        json.dumps(record, indent=2, ensure_ascii=False), markup=False, highlight=False, emoji=False
    )


@contextmanager
def _bar(quiet: bool) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=talk, disable=quiet or not talk.is_terminal, transient=True
    ) as progress:
        yield progress


@contextmanager
def training_progress(name: str, quiet: bool) -> "Iterator[OnTrainProgress]":
    """Show training steps and the loss while they run."""
    with _bar(quiet) as bar:
        task = bar.add_task(name, total=None)

        def update(progress: "TrainProgress") -> None:
            loss = "" if progress.loss is None else f"  loss {progress.loss:.3f}"
            bar.update(task, completed=progress.step, total=progress.total, description=name + loss)

        yield update


@contextmanager
def evaluation_progress(quiet: bool) -> "Iterator[OnProgress]":
    """Show how many answers are decoded."""
    with _bar(quiet) as bar:
        task = bar.add_task("reading", total=None)

        def update(progress: "EvalProgress") -> None:
            bar.update(
                task,
                description=progress.stage,
                completed=progress.done,
                total=progress.total or None,
            )

        yield update


def show_training(report: "TrainReport") -> None:
    """Print what was trained and how it ended."""
    counts = "  ".join(f"{lang} {count:,}" for lang, count in report.examples.items())
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("examples", counts)
    if report.truncated:
        table.add_row("left out", f"{report.truncated:,} prompts longer than --max-length")
    if report.written:
        table.add_row("steps", f"{report.steps:,} of at most {report.planned_steps:,}")
        table.add_row("trained", f"{report.trainable_parameters:,} parameters")
        for name, value in report.dev.items():
            table.add_row(f"dev {name.replace('_', ' ')}", f"{value:.4f}")
        table.add_row("time", f"{report.seconds:.0f} s")
        table.add_row("log", escape(str(report.log)))
        table.add_row("adapter", escape(report.out))
    else:
        table.add_row("steps", f"at most {report.planned_steps:,}")
        table.add_row("would write", escape(report.out))
    results.print(table, highlight=False)


def show_merge(report: "MergeReport") -> None:
    """Print what was merged from what."""
    table = Table(title=None, box=None, pad_edge=False)
    for name in ("adapter", "weight", "rank", "modules"):
        table.add_column(name, justify="left" if name == "adapter" else "right")
    for source in report.sources:
        weight = f"{source.weight:.6g}"
        table.add_row(escape(source.path), weight, str(source.rank), str(source.modules))
    results.print(table, highlight=False)
    results.print(
        f"{report.method} merge of rank {report.rank} in {report.modules} modules: "
        + ("" if report.written else "would write ")
        + escape(report.out),
        highlight=False,
    )
    if rules := report.weighting.get("rules"):
        say(f"modules that a rule matches have other weights ({len(rules)} in the weights file)")
    for source in report.sources:
        if source.inactive:
            effect = (
                "the others keep full strength"
                if report.inactive == "keep"
                else "the others have their weights all the same (--inactive keep changes that)"
            )
            say(
                f"{source.path} does nothing in {source.inactive} of {report.modules} modules; "
                f"there {effect}"
            )
    if report.relative_error:
        say(
            f"differs from the exact weighted sum by {100 * report.relative_error:.2f}% of its norm"
        )
    if report.cross_term_energy:
        say(f"cross terms carry {report.cross_term_energy:.2%} of the exact sum's energy")


def show_plan(plan: "EvalPlan") -> None:
    """Print what an evaluation would do."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("systems", escape(" ".join(plan.systems)))
    table.add_row("examples", "  ".join(f"{lang} {n:,}" for lang, n in plan.examples.items()))
    table.add_row("longest prompt", f"{plan.longest_prompt:,} tokens")
    table.add_row("would write", escape(plan.out))
    results.print(table, highlight=False)


def show_evaluation(report: "EvalReport") -> None:
    """Print F1 of every system, language by language, and the mean over languages."""
    table = Table(title=f"{report.task} {report.split}: slot F1 (%), {report.engine} engine")
    table.add_column("language")
    for system in report.systems:
        table.add_column(escape(system), justify="right")
    for lang in report.langs:
        cells = [report.cell(system, lang) for system in report.systems]
        table.add_row(escape(lang), *(f"{100 * cell.score.value:.1f}" for cell in cells))
    table.add_section()
    table.add_row("macro average", *(f"{100 * report.macro[s]:.1f}" for s in report.systems))
    for name, field in (("malformed answers", "malformed"), ("cut answers", "cut_answers")):
        sums = [
            sum(getattr(c, field) for c in report.cells if c.system == s) for s in report.systems
        ]
        if any(sums):
            table.add_row(name, *(f"{count:,}" for count in sums))
    results.print(table, highlight=False)
    results.print(escape(report.cells[0].score.signature), highlight=False)
    for note in report.notes:
        say(f"note: {note}")
    say(f"scores and predictions: {report.out}")

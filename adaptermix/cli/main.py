"""The commands: gather options, build settings, call one function, show the result.

Each command's options are made from the fields of its settings class. Nothing heavy is imported
before a command runs, so that help answers at once.
"""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from adaptermix.cli import console
from adaptermix.cli.options import (
    Force,
    Json,
    Options,
    Quiet,
    Verbose,
    app,
    comet_app,
    let_libraries_talk,
    recipe_app,
    register_command,
)
from adaptermix.cli.progress import RecipeWatcher, progress_bar
from adaptermix.cli.show.adapters import show_inspection
from adaptermix.cli.show.evaluation import show_evaluation, show_plan, show_scores
from adaptermix.cli.show.machine import show_checkup, show_comet
from adaptermix.cli.show.merging import show_merge, show_search, show_search_plan
from adaptermix.cli.show.recipes import show_recipe, show_recipe_plan, show_report
from adaptermix.cli.show.retrieval import show_retrieval, show_retrieval_plan
from adaptermix.cli.show.training import show_training
from adaptermix.errors import AdaptermixError, ConfigError, ResourceError, require_extra
from adaptermix.files.outputs import Report
from adaptermix.processes import is_main_process
from adaptermix.recipes.plan import plan
from adaptermix.settings.evaluation import EvalSettings, RetrievalSettings, ScoreSettings
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings, ReportSettings
from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings, TrainTaskSettings
from adaptermix.tasks.metrics.comet_environment import install, status
from adaptermix.version import __version__

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


@register_command(TrainTaskSettings, pushes=True)
def train_task(settings: TrainTaskSettings, options: Options) -> None:
    """Fine-tune a LoRA on a task in some languages.

    The loss is on the answers only. Defaults are the paper's.

    Example: adaptermix train-task --model Qwen/Qwen2.5-7B-Instruct --langs en,de,es
    """
    from adaptermix.training import task as task_training

    with progress_bar(options.quiet, "task") as on_progress:
        report = task_training.train_task(
            settings, force=options.force, dry_run=options.dry_run, on_progress=on_progress
        )
    _show(report, show_training, options)


@register_command(TrainAlignSettings, pushes=True)
def train_align(settings: TrainAlignSettings, options: Options) -> None:
    """Train a LoRA that aligns languages at a middle layer.

    A contrastive loss pulls each sentence to its translation. Only the embeddings and the
    blocks up to the layer are loaded and run.

    Example: adaptermix train-align --pairs cy-en,sw-en
    """
    from adaptermix.training import align as align_training

    with progress_bar(options.quiet, "align") as on_progress:
        report = align_training.train_align(
            settings, force=options.force, dry_run=options.dry_run, on_progress=on_progress
        )
    _show(report, show_training, options)


@register_command(TrainJointSettings, pushes=True)
def train_joint(settings: TrainJointSettings, options: Options) -> None:
    """Train one LoRA on a task and on alignment at once.

    Both losses train the same adapter in turn: the task's through the whole model, the
    alignment's through the blocks up to the layer.

    Example: adaptermix train-joint --langs en,de,es --pairs cy-en,sw-en
    """
    from adaptermix.training import joint as joint_training

    with progress_bar(options.quiet, "joint") as on_progress:
        report = joint_training.train_joint(
            settings, force=options.force, dry_run=options.dry_run, on_progress=on_progress
        )
    _show(report, show_training, options)


@register_command(MergeSettings, pushes=True)
def merge(
    settings: MergeSettings,
    options: Options,
    adapters: Annotated[list[Path], typer.Argument(help="Adapters, in the order of weights.")],
) -> None:
    """Merge adapters into one, without a base model.

    With the default method, exact, the result's delta weight is the weighted sum of the
    adapters' delta weights. One adapter with --weights 1 can be cut to another --rank.

    Examples:
        adaptermix merge task.safetensors align.safetensors --weight 0.9

        adaptermix merge task align style --weights 0.8,0.1,0.1 --method ties -o merged

        adaptermix merge task align --search 0.5,0.7,0.9 --task massive --langs en,cy

        adaptermix merge task align --weight 0.9 --into meta-llama/Llama-3.1-8B -o model
    """
    if settings.search is not None:
        _search(settings, options, adapters)
        return
    if settings.into is not None:  # transformers comes with it: seconds that no other merge needs
        from adaptermix.merging.fold import merge_into as run
    else:
        from adaptermix.merging.merge import merge as run
    report = run(adapters, settings, force=options.force, dry_run=options.dry_run)
    _show(report, show_merge, options)


def _search(settings: MergeSettings, options: Options, adapters: list[Path]) -> None:
    from adaptermix.search import run as search

    if options.dry_run:
        plan = search.plan_search(adapters, settings, force=options.force)
        _show(plan, show_search_plan, options)
        return
    with progress_bar(options.quiet) as on_progress:
        report = search.search(adapters, settings, force=options.force, on_progress=on_progress)
    _show(report, show_search, options)


@register_command(EvalSettings)
def evaluate(settings: EvalSettings, options: Options) -> None:
    """Test the base model and adapters side by side on a task.

    Every answer is kept, one JSON record an example.

    Examples:
        adaptermix eval --task massive

        adaptermix eval --adapter task.safetensors --adapter merged.safetensors --langs en,cy

        adaptermix eval --adapter task --adapter merged --baseline task --groups "aligned=cy,sw"
    """
    if not settings.adapters:
        console.say("only the base model is tested; add adapters with --adapter PATH")
    from adaptermix.evaluation import evaluate as evaluation

    if options.dry_run:
        _show(evaluation.plan(settings, force=options.force), show_plan, options)
        return
    with progress_bar(options.quiet) as on_progress:
        report = evaluation.evaluate(settings, force=options.force, on_progress=on_progress)
    _show(report, show_evaluation, options)


@register_command(ScoreSettings, without=("force", "dry_run", "quiet"))
def score(settings: ScoreSettings, options: Options) -> None:
    """Score existing outputs of any system, without a model.

    Outputs are one line, or one JSON record with an "output" field, for each gold row.

    Examples:
        adaptermix score --task massive --lang cy --gold cy-GB.jsonl.gz --predictions answers.txt

        adaptermix score --task wmt23 --src en-de.src --ref en-de.ref --target-lang de
        --predictions out.txt --metrics bleu,chrf,comet

        adaptermix score --task uner --lang da --gold da.test.iob2 --predictions answers.jsonl
    """
    from adaptermix.evaluation import score as scoring

    report = scoring.score_files(settings)
    _show(report, show_scores, options)
    console.say_notes(report.notes)


@register_command(InspectSettings, without=("force", "dry_run", "quiet"))
def inspect_adapters(
    settings: InspectSettings,
    options: Options,
    adapters: Annotated[
        list[Path], typer.Argument(help="Adapters: files, folders, or hub names (OWNER/NAME).")
    ],
) -> None:
    """Tell what adapters are, and where two or more of them interfere.

    Rank, modules, norms of the delta weights, base and origin; for every two adapters, layer by
    layer, the cosine of their delta weights and the overlap of their subspaces. No base model is
    needed.

    Examples:
        adaptermix inspect task.safetensors

        adaptermix inspect task.safetensors align.safetensors --by kind
    """
    from adaptermix.adapters import inspection

    _show(inspection.inspect(adapters, settings), show_inspection, options)


@register_command(ReportSettings, without=("quiet",))
def report(
    settings: ReportSettings,
    options: Options,
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of eval, merge --search, retrieval; adapters; or all in one."),
    ],
) -> None:
    """Write one HTML page about runs: what was merged, how it did, and every answer.

    It needs no network: scores with intervals, before and after by language, retrieval by layer,
    weights that were tried, norms and interference of the adapters, and single examples to browse.

    Examples:
        adaptermix report eval-massive merged.search task.safetensors align.safetensors

        adaptermix report runs/demo -o demo.html --export figures
    """
    require_extra("report", "altair", "vl_convert")
    from adaptermix.reports import page as reporting

    summary = reporting.report(runs, settings, force=options.force, dry_run=options.dry_run)
    _show(summary, show_report, options)


@register_command(RetrievalSettings)
def retrieval(settings: RetrievalSettings, options: Options) -> None:
    """See where languages are aligned: translation retrieval at every layer.

    Every sentence's hidden states are averaged, and its translation is looked for among all
    sentences of another language, by LASER's margin score. For the base model and adapters.

    Examples:
        adaptermix retrieval --data flores200 --langs en,de,cy,sw

        adaptermix retrieval --adapter task.safetensors --adapter merged.safetensors
        --data flores200 --scores eval-massive
    """
    from adaptermix.retrieval import analysis

    if options.dry_run:
        plan = analysis.plan(settings, force=options.force)
        _show(plan, show_retrieval_plan, options)
        return
    with progress_bar(options.quiet) as on_progress:
        report = analysis.analyze(settings, force=options.force, on_progress=on_progress)
    _show(report, show_retrieval, options)


@app.command()
def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="New folder for everything it makes.",
            show_default="runs/demo, or runs/demo-2 and so on",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of both trainings.")] = 1,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the main job on a small corpus and model that come with the tool.

    Trains a task adapter and an alignment adapter, merges them and tests all of it, in a few
    minutes on two cores, without network or GPU. The folder it leaves is a working example: an
    adaptermix.toml, a corpus, a base model.

    Example: adaptermix demo -o runs/mine --seed 2
    """
    from adaptermix.cli import demo as demo_module

    report = demo_module.run(out, seed=seed, force=force, quiet=quiet, show=not json)
    if json:
        console.show_json(report.as_record())


@app.command("run")
def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a .toml file.")],
    only: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="Run this step, and what it needs and is not done."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model, for all steps.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Try the recipe on small slices: N examples of each language in every step, N "
            "steps a training, answers of at most 32 tokens.",
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, for all steps that have it, or STEP.KEY=VALUE; repeat it.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the outputs.",
            show_default="what the recipe says, or runs/NAME beside it",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run finished steps again; replace what is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with its costs, write nothing.")
    ] = False,
    json: Json = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, and no results of single steps.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Run the steps of a recipe: training, merging, evaluation, in one file.

    A finished step is not run again until its settings, its data or its inputs change. A run that
    was killed goes on where it was with the same line.

    Examples:
        adaptermix recipe new recipe.toml

        adaptermix run recipe.toml --dry-run

        adaptermix run recipe.toml

        adaptermix run recipe.toml --only test

        adaptermix run recipe.toml --model runs/demo/base --limit 8 -o trial

        adaptermix run recipe.toml --set seed=2 --set engine=transformers -o seed-2
    """
    if verbose:
        let_libraries_talk()
    from adaptermix.recipes import run as pipeline
    from adaptermix.recipes.recipe import read_recipe
    from adaptermix.recipes.step import Overrides

    settings = _read_values(values or []) | ({"model": model} if model is not None else {})
    read = read_recipe(recipe, out, Overrides(settings, limit))
    if dry_run:
        planned = plan(read, only=only, force=force)
        _print(planned, show_recipe_plan, json)
        _report_problems(planned.problems)
        return
    watcher = RecipeWatcher(quiet=quiet, json=json)
    report = pipeline.run(read, only=only, force=force, watcher=watcher)
    _print(report, show_recipe, json)


def _read_values(pairs: list[str]) -> dict[str, object]:
    parts = [pair.partition("=") for pair in pairs]
    for key, sign, _ in parts:
        if not key or not sign:
            raise ConfigError(f"--set {key}: no value", hint="write --set KEY=VALUE")
    return {key: value for key, _, value in parts}


def _report_problems(problems: list[AdaptermixError]) -> None:
    """Print all that would stop a run, and exit as the first of it would."""
    for problem in problems:
        console.show_error(problem)
    if problems:
        raise typer.Exit(problems[0].exit_code)


@recipe_app.command("new")
def recipe_new(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("recipe.toml"),
    force: Force = False,
) -> None:
    """Write a recipe with comments, to fill in and run.

    Example: adaptermix recipe new recipe.toml
    """
    from adaptermix.recipes.recipe import write_template

    write_template(file, force=force)
    console.say(f"wrote {file}; fill in the model and the data, then: adaptermix run {file}")


CometPath = Annotated[
    Path | None,
    typer.Option(
        "--path",
        help="Folder of the environment.",
        show_default="comet in $ADAPTERMIX_CACHE, or in adaptermix in the user's cache folder",
    ),
]


@comet_app.command("install")
def comet_install(
    path: CometPath = None,
    python: Annotated[
        str | None,
        typer.Option(help="Python to build it with.", show_default="one that suits COMET"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build it again.")] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No word on the way.")] = False,
) -> None:
    """Install COMET in a Python environment of its own.

    It cannot share one with vLLM. The environment is there whole or not at all, takes minutes and
    about 1.5 GB on a CPU, and is left as it is when it is there. pip's own configuration applies.

    Example: adaptermix comet install --python python3.12
    """
    say = (lambda text: None) if quiet else console.say
    report = install(path, python=python, force=force, say=say)
    if json:
        console.show_json(report.as_record())
        return
    show_comet(report)
    console.say(f"built in {report.seconds:.0f} s" if report.built else "it was there already")


@comet_app.command("status")
def comet_status(path: CometPath = None, json: Json = False) -> None:
    """Show whether COMET is installed, where, and which versions.

    Example: adaptermix comet status --json
    """
    found = status(path)
    _print(found, show_comet, json)


@app.command()
def doctor(json: Json = False) -> None:
    """Look at what works here, and say how to mend what does not.

    Packages and their versions, the device, vLLM, COMET, the hub, disk and memory, in seconds.
    Nothing is changed, and the token for the hub is never shown. Optional parts may be missing;
    the exit code is 6 if something is amiss that every command needs.

    Examples:
        adaptermix doctor

        adaptermix doctor --json
    """
    from adaptermix.cli import doctor as doctor_module

    report = doctor_module.examine()
    _print(report, show_checkup, json)
    if not report.is_fit:
        raise typer.Exit(ResourceError.exit_code)


def _show(report: Report, show: Callable[[Any], None], options: Options) -> None:
    if is_main_process():
        _print(report, show, options.json)


def _print(report: Report, show: Callable[[Any], None], as_json: bool) -> None:
    if as_json:
        console.show_json(report.as_record())
    else:
        show(report)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Hold the options of the program itself."""


def main() -> None:
    """Run the command line; a known error becomes its message and exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except AdaptermixError as error:
        console.show_error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        lacking = ResourceError(f"{error.filename or 'disk'}: {error.strerror}")
        console.show_error(lacking)
        sys.exit(lacking.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)

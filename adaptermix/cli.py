"""The commands: gather options, build settings, call one function, show the result.

Each command's options are made from the fields of its settings class. Nothing heavy is imported
before a command runs, so that help answers at once.
"""

import errno
import inspect
import logging
import os
import sys
import types
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from adaptermix import console
from adaptermix.errors import AdaptermixError, ConfigError, ResourceError, require_extra
from adaptermix.files.outputs import Report
from adaptermix.processes import is_main_process
from adaptermix.recipes.plan import plan
from adaptermix.settings.evaluation import EvalSettings, RetrievalSettings, ScoreSettings
from adaptermix.settings.file import load_settings
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings, ReportSettings
from adaptermix.settings.shared import Settings
from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings, TrainTaskSettings
from adaptermix.tasks.metrics.comet_environment import install, status
from adaptermix.version import __version__


def _group(name: str, purpose: str) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=purpose,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _group(
    "adaptermix", "Train, merge and evaluate LoRA adapters that carry a task across languages."
)
comet_app = _group(
    "comet", "Install COMET, in a Python environment of its own, and show what is installed."
)
recipe_app = _group("recipe", "Write a recipe for `adaptermix run`.")
app.add_typer(comet_app)
app.add_typer(recipe_app)


@dataclass(frozen=True)
class Options:
    """Options that every command has and no file sets."""

    force: bool
    json: bool
    dry_run: bool
    quiet: bool
    verbose: bool
    push_to_hub: str | None
    private: bool


Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Versions, and what the libraries have to say.")
]

_OPTIONS: dict[str, tuple[Any, object]] = {
    "config": (
        Annotated[
            Path | None,
            typer.Option(help="Settings file.", show_default="adaptermix.toml, if there is one"),
        ],
        None,
    ),
    "force": (Force, False),
    "json": (Json, False),
    "dry_run": (
        Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")],
        False,
    ),
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
    "push_to_hub": (
        Annotated[
            str | None,
            typer.Option(metavar="OWNER/NAME", help="Upload the output to the hub as well."),
        ],
        None,
    ),
    "private": (
        Annotated[bool, typer.Option("--private", help="Make a new repository private.")],
        False,
    ),
}
_OF_ADAPTERS = {"push_to_hub", "private"}  # options of commands that write one
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_SHORT = {
    "out": ("--out", "-o"),
    "adapters": ("--adapter",),
    "data_dir": ("--data-dir", "--data"),
}
_REPEATED = {"adapters", "ref", "preserve_text"}


def _command(
    kind: type[Settings], *, without: Collection[str] = (), pushes: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command whose options are the fields of its settings.

    The function takes the settings, the common options, and whatever arguments it declares
    after them. Common options that mean nothing to the command are left out by ``without``;
    ``pushes`` says that it writes an adapter to ``out``, which can go to the hub.
    """
    left_out = {*without, *(() if pushes else _OF_ADAPTERS)}
    offered = {name: option for name, option in _OPTIONS.items() if name not in left_out}

    def register(run: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(run).parameters.values())[2:]

        def entry(**given: Any) -> None:
            arguments = {parameter.name: given.pop(parameter.name) for parameter in own}
            config = given.pop("config")
            options = Options(**{n: given.pop(n, False) for n in _OPTIONS if n != "config"})
            stated = {name: value for name, value in given.items() if value not in (None, [])}
            if options.verbose:
                _let_libraries_talk()
            settings = load_settings(kind, stated, config)
            with _pushed(options, settings):
                run(settings, options, **arguments)

        fields = [_option(name, field, kind) for name, field in kind.model_fields.items()]
        common = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=value)
            for name, (hint, value) in offered.items()
        ]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        entry.__signature__ = inspect.Signature([*parameters, *fields, *common])  # type: ignore[attr-defined]
        entry.__annotations__ = {p.name: p.annotation for p in [*parameters, *fields, *common]}
        app.command(kind.section, help=inspect.getdoc(run))(entry)
        return run

    return register


def _let_libraries_talk() -> None:
    """Say which versions are at work, and let libraries log; before they are imported."""
    os.environ |= {"TRANSFORMERS_VERBOSITY": "info", "VLLM_LOGGING_LEVEL": "INFO"}
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    console.say_versions()


@contextmanager
def _pushed(options: Options, settings: Any) -> Iterator[None]:
    """Upload a command's output when it is there, where that was asked for."""
    if options.private and not options.push_to_hub:
        raise ConfigError("--private goes with --push-to-hub OWNER/NAME")
    if not options.push_to_hub:
        yield
        return
    from adaptermix import hub

    hub.check_push(options.push_to_hub)
    yield
    if not options.dry_run:
        console.say(f"uploading {settings.out} to {options.push_to_hub}")
        url = hub.push(settings.out, options.push_to_hub, private=options.private)
        console.say(f"uploaded: {url}")


def _option(name: str, field: FieldInfo, kind: type[Settings]) -> inspect.Parameter:
    """Describe one option by the settings field it fills."""
    flag = "--" + name.replace("_", "-")
    is_switch = bool in (field.annotation, *get_args(field.annotation))
    names = _SHORT.get(name, (flag,) if not is_switch else (f"{flag}/--no-{flag[2:]}",))
    default = field.default
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    option = typer.Option(
        *names,
        help=field.description,
        rich_help_panel=_panel(name, field, kind),
        show_default=False if default in (None, (), {}) or is_switch else shown,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[_option_type(name, field.annotation) | None, option],
        default=None,
    )


def _panel(name: str, field: FieldInfo, kind: type[Settings]) -> str | None:
    """Group options in the help by what they are about: a word before a colon, or their class."""
    heading, colon, _ = str(field.description).partition(": ")
    if colon and heading.split()[0] == "Search":
        return "Search"
    owner = next(cls for cls in kind.__mro__ if name in cls.__dict__.get("__annotations__", {}))
    return owner.__dict__.get("panel")


def _option_type(name: str, annotation: Any) -> Any:
    """Return the type Typer should read: lists are comma-separated text, or repeated flags."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(arg for arg in get_args(annotation) if arg is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is tuple:
        return list[str] if name in _REPEATED else str
    if get_origin(annotation) is dict:
        return str
    return annotation


@_command(TrainTaskSettings, pushes=True)
def train_task(settings: TrainTaskSettings, options: Options) -> None:
    """Fine-tune a LoRA on a task in some languages.

    The loss is on the answers only. Defaults are the paper's.

    Example: adaptermix train-task --model Qwen/Qwen2.5-7B-Instruct --langs en,de,es
    """
    from adaptermix.training import task as task_training

    with console.training_progress("task", options.quiet) as on_progress:
        report = task_training.train_task(
            settings, force=options.force, dry_run=options.dry_run, on_progress=on_progress
        )
    _show(report, console.show_training, options)


@_command(TrainAlignSettings, pushes=True)
def train_align(settings: TrainAlignSettings, options: Options) -> None:
    """Train a LoRA that aligns languages at a middle layer.

    A contrastive loss pulls each sentence to its translation. Only the embeddings and the
    blocks up to the layer are loaded and run.

    Example: adaptermix train-align --pairs cy-en,sw-en
    """
    from adaptermix.training import align as align_training

    with console.training_progress("align", options.quiet) as on_progress:
        report = align_training.train_align(
            settings, force=options.force, dry_run=options.dry_run, on_progress=on_progress
        )
    _show(report, console.show_training, options)


@_command(TrainJointSettings, pushes=True)
def train_joint(settings: TrainJointSettings, options: Options) -> None:
    """Train one LoRA on a task and on alignment at once.

    Both losses train the same adapter in turn: the task's through the whole model, the
    alignment's through the blocks up to the layer.

    Example: adaptermix train-joint --langs en,de,es --pairs cy-en,sw-en
    """
    from adaptermix.training import joint as joint_training

    with console.training_progress("joint", options.quiet) as on_progress:
        report = joint_training.train_joint(
            settings, force=options.force, dry_run=options.dry_run, on_progress=on_progress
        )
    _show(report, console.show_training, options)


@_command(MergeSettings, pushes=True)
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
    _show(report, console.show_merge, options)


def _search(settings: MergeSettings, options: Options, adapters: list[Path]) -> None:
    from adaptermix.search import run as search

    if options.dry_run:
        plan = search.plan_search(adapters, settings, force=options.force)
        _show(plan, console.show_search_plan, options)
        return
    with console.evaluation_progress(options.quiet) as on_progress:
        report = search.search(adapters, settings, force=options.force, on_progress=on_progress)
    _show(report, console.show_search, options)


@_command(EvalSettings)
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
        _show(evaluation.plan(settings, force=options.force), console.show_plan, options)
        return
    with console.evaluation_progress(options.quiet) as on_progress:
        report = evaluation.evaluate(settings, force=options.force, on_progress=on_progress)
    _show(report, console.show_evaluation, options)


@_command(ScoreSettings, without=("force", "dry_run", "quiet"))
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
    _show(report, console.show_scores, options)
    console.say_notes(report.notes)


@_command(InspectSettings, without=("force", "dry_run", "quiet"))
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

    _show(inspection.inspect(adapters, settings), console.show_inspection, options)


@_command(ReportSettings, without=("quiet",))
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
    _show(summary, console.show_report, options)


@_command(RetrievalSettings)
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
        _show(plan, console.show_retrieval_plan, options)
        return
    with console.stage_progress(options.quiet) as on_progress:
        report = analysis.analyze(settings, force=options.force, on_progress=on_progress)
    _show(report, console.show_retrieval, options)


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
    from adaptermix import demo as demo_module

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
        _let_libraries_talk()
    from adaptermix.recipes import run as pipeline
    from adaptermix.recipes.recipe import read_recipe
    from adaptermix.recipes.step import Overrides

    settings = _read_values(values or []) | ({"model": model} if model is not None else {})
    read = read_recipe(recipe, out, Overrides(settings, limit))
    if dry_run:
        plan = plan(read, only=only, force=force)
        _print(plan, console.show_recipe_plan, json)
        _report_problems(plan.problems)
        return
    watcher = console.RecipeWatcher(quiet=quiet, json=json)
    report = pipeline.run(read, only=only, force=force, watcher=watcher)
    _print(report, console.show_recipe, json)


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
    console.show_comet(report)
    console.say(f"built in {report.seconds:.0f} s" if report.built else "it was there already")


@comet_app.command("status")
def comet_status(path: CometPath = None, json: Json = False) -> None:
    """Show whether COMET is installed, where, and which versions.

    Example: adaptermix comet status --json
    """
    found = status(path)
    _print(found, console.show_comet, json)


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
    from adaptermix import doctor as doctor_module

    report = doctor_module.examine()
    _print(report, console.show_checkup, json)
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

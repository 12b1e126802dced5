"""The program: all commands of the catalog, and the commands about the tool itself.

Large packages are imported only when a command runs, so that help appears at once.
"""

import errno
import io
import os
import sys
from contextlib import redirect_stdout
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from adaptermix.cli import console
from adaptermix.cli.data import add_data
from adaptermix.cli.options import (
    CheckedCommand,
    Force,
    Group,
    Json,
    Quiet,
    Verbose,
    add_command,
    let_libraries_talk,
)
from adaptermix.cli.progress import RecipeWatcher
from adaptermix.commands.catalog import COMMANDS
from adaptermix.errors import AdaptermixError, ConfigError, ResourceError, require_extra
from adaptermix.files.outputs import DISK_FULL
from adaptermix.settings.values import check_seed
from adaptermix.version import __version__

TOUR = """Train, merge and evaluate LoRA adapters that carry a task across languages.

1. Train an adapter that aligns languages with English:
       adaptermix train-align --pairs cy-en,sw-en

2. Merge it into your task adapter:
       adaptermix merge task.safetensors align.safetensors --weight 0.9

3. Compare them and the base model, language by language:
       adaptermix eval --adapter task.safetensors --adapter merged.safetensors

To see all steps in three minutes: adaptermix demo
Every command has --help with examples.
"""
_DISK_ERRORS = (*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


def _group(name: str, purpose: str) -> typer.Typer:
    return typer.Typer(
        name=name,
        cls=Group,
        help=purpose,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


@cache
def program(only: str | None = None) -> typer.Typer:
    """Return the program with all its commands.

    Args:
        only: Leave out all other commands of the catalog. Building them takes longer than parsing.
    """
    made = _group("adaptermix", TOUR)
    made.callback()(_options)
    for command in [COMMANDS[only]] if only else COMMANDS.values():
        add_command(made, command)
    for run in (demo, run_recipe, doctor, schema):
        made.command("run" if run is run_recipe else None, cls=CheckedCommand)(run)
    add_data(data_app)
    made.add_typer(data_app)
    made.add_typer(comet_app)
    made.add_typer(recipe_app)
    return made


data_app = _group("data", "Download public data, and check what is there.")
comet_app = _group(
    "comet", "Install COMET in a separate Python environment, and show what is installed."
)
recipe_app = _group("recipe", "Write a recipe for `adaptermix run`.")


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder to write.",
            show_default="runs/demo, or runs/demo-2 and so on",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Random seed of both training runs."),
    ] = 1,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole pipeline on a small built-in corpus and model.

    Trains a task adapter and an alignment adapter, merges them, and evaluates all of them. This
    takes a few minutes on two cores, without network or GPU. The output folder is a working
    example with an adaptermix.toml, a corpus and a base model.

    Example: adaptermix demo -o runs/mine --seed 2
    """
    try:
        check_seed(seed)
    except ValueError as error:
        raise ConfigError(f"--seed: {error}, not {seed}") from error
    require_extra("eval")
    from adaptermix.cli import demo as demo_module

    report = demo_module.run(out, seed=seed, force=force, quiet=quiet, show=not json)
    if json:
        console.show_json(report.as_record())


def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a .toml file.")],
    on: Annotated[
        str | None,
        typer.Option(
            metavar="ray[://ADDRESS]",
            help="Run independent steps at the same time on a Ray cluster: the one at ADDRESS, "
            "the one that RAY_ADDRESS names, or this machine.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="STEP", help="Run only this step, and unfinished steps that it needs."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Base model for all steps.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Try the recipe on little data: N examples per language, N training steps, "
            "answers of at most 32 tokens.",
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting in all steps that have it (KEY=VALUE) or in one step "
            "(STEP.KEY=VALUE). Repeat the option for several.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder for the outputs.",
            show_default="set in the recipe, or runs/NAME next to it",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run finished steps again and replace their outputs.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with its costs; write nothing.")
    ] = False,
    json: Json = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Do not show progress or the results of steps."),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Run the steps of a recipe: training, merging and evaluation from one file.

    A finished step runs again only if its settings, its data or its inputs have changed. To resume
    a killed run, run the same command again.

    Examples:
        adaptermix recipe new recipe.toml

        adaptermix run recipe.toml --dry-run

        adaptermix run recipe.toml

        adaptermix run recipe.toml --only test

        adaptermix run recipe.toml --model runs/demo/base --limit 8 -o trial

        adaptermix run recipe.toml --set seed=2 --set engine=vllm -o seed-2

        adaptermix run recipe.toml --on ray
    """
    if verbose:
        let_libraries_talk()
    from adaptermix.recipes import run as pipeline
    from adaptermix.recipes.plan import plan
    from adaptermix.recipes.recipe import read_recipe
    from adaptermix.recipes.step import Overrides

    settings = _read_values(values or []) | ({"model": model} if model is not None else {})
    read = read_recipe(recipe, out, Overrides(settings, limit))
    if dry_run:
        with redirect_stdout(sys.stderr):  # output of libraries is not a result
            planned = plan(read, only=only, force=force)
        console.show(planned, as_json=json)
        _report_problems(planned.problems)
        return
    watcher = RecipeWatcher(quiet=quiet, json=json)
    report = pipeline.run(read, only=only, force=force, watcher=watcher, on=on)
    console.show(report, as_json=json)


def _read_values(pairs: list[str]) -> dict[str, object]:
    parts = [pair.partition("=") for pair in pairs]
    for key, sign, _ in parts:
        if not key or not sign:
            raise ConfigError(f"--set {key}: no value", hint="write --set KEY=VALUE")
    return {key: value for key, _, value in parts}


def _report_problems(problems: list[AdaptermixError]) -> None:
    """Print all problems that would stop a run, each hint once, and exit with the first's code."""
    hints: set[str | None] = set()
    for problem in {str(problem): problem for problem in problems}.values():
        hint = None if problem.hint in hints else problem.hint
        console.show_error(type(problem)(problem.message, hint=hint))
        hints.add(problem.hint)
    if problems:
        raise typer.Exit(problems[0].exit_code)


@recipe_app.command("new", cls=CheckedCommand)
def recipe_new(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("recipe.toml"),
    force: Force = False,
) -> None:
    """Write a recipe with comments, ready to edit and run.

    Example: adaptermix recipe new recipe.toml
    """
    from adaptermix.recipes.recipe import write_template

    write_template(file, force=force)
    console.say(f"wrote {file}; fill in the model and the data, then: adaptermix run {file}")


CometPath = Annotated[
    Path | None,
    typer.Option(
        "--path",
        metavar="FOLDER",
        help="Folder for the environment.",
        show_default="comet in $ADAPTERMIX_CACHE or in the user's cache folder",
    ),
]


@comet_app.command("install", cls=CheckedCommand)
def comet_install(
    path: CometPath = None,
    python: Annotated[
        str | None,
        typer.Option(
            metavar="PYTHON",
            help="Python interpreter of the environment.",
            show_default="one that COMET supports",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build the environment again.")] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.")] = False,
) -> None:
    """Install COMET in a separate Python environment.

    COMET and vLLM cannot be installed in the same environment. The installation takes a few
    minutes and about 1.5 GB on a CPU. If the environment exists, nothing changes. pip reads its
    usual configuration.

    Example: adaptermix comet install --python python3.12
    """
    say = (lambda text: None) if quiet else console.say
    from adaptermix.tasks.metrics.comet_environment import install

    report = install(path, python=python, force=force, say=say)
    console.show(report, as_json=json)


@comet_app.command("status", cls=CheckedCommand)
def comet_status(path: CometPath = None, json: Json = False) -> None:
    """Show whether COMET is installed, where, and in which version.

    Example: adaptermix comet status --json
    """
    from adaptermix.tasks.metrics.comet_environment import status

    found = status(path)
    console.show(found, as_json=json)


def doctor(json: Json = False) -> None:
    """Check what works on this machine, and print how to fix what does not.

    Checks packages and their versions, the device, vLLM, COMET, the Hub, disk and memory. Changes
    nothing, and never prints your Hub token. The exit code is 6 if something is missing that every
    command needs; optional parts may be missing.

    Examples:
        adaptermix doctor

        adaptermix doctor --json
    """
    from adaptermix.cli import doctor as doctor_module

    report = doctor_module.examine()
    console.show(report, as_json=json)
    if not report.is_fit:
        raise typer.Exit(ResourceError.exit_code)


class SchemaOf(StrEnum):
    """The files that have a schema."""

    SETTINGS = "settings"
    RECIPE = "recipe"


def schema(
    of: Annotated[
        SchemaOf,
        typer.Argument(
            metavar="settings|recipe",
            help="settings: the schema of adaptermix.toml. recipe: the schema of recipes.",
        ),
    ],
) -> None:
    """Print a JSON schema, so that editors can complete and check TOML files.

    Save it next to your files, and name it in their first line:

        #:schema recipe.schema.json

    Example: adaptermix schema recipe > recipe.schema.json
    """
    from adaptermix.commands import schema as schemas

    made = schemas.recipe_schema() if of is SchemaOf.RECIPE else schemas.settings_schema()
    console.show_json(made)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Declare the options of the program itself."""


def _end(error: AdaptermixError) -> NoReturn:
    console.show_error(error)
    sys.exit(error.exit_code)


def main() -> None:
    """Run the command line; known errors become a message and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: of names of files
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        typed = sys.argv[1] if len(sys.argv) > 1 else None
        program(typed if typed in COMMANDS else None)()
    except AdaptermixError as error:
        _end(error)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            _end(ConfigError(f"{error.filename}: {error.strerror}", hint="choose a shorter name"))
        if error.errno not in _DISK_ERRORS:
            raise
        hint = "free some space for --out, $TMPDIR and $ADAPTERMIX_CACHE"
        place = error.filename or "disk"
        _end(ResourceError(f"{place}: {error.strerror}", hint=None if error.filename else hint))
    except KeyboardInterrupt:
        sys.exit(130)

"""The options of the command line, generated from the fields of the commands' settings."""

import inspect
import logging
import os
import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from adaptermix.cli import console
from adaptermix.cli.progress import progress_bar
from adaptermix.commands.command import Call, Command
from adaptermix.commands.settings_file import load_settings, placing_errors
from adaptermix.errors import ConfigError
from adaptermix.files.hub import path_of
from adaptermix.processes import is_main_process
from adaptermix.settings.shared import Settings, complaint, flag_of, with_value


@dataclass(frozen=True)
class Options:
    """Options of all commands that cannot be set in a file."""

    force: bool
    json: bool
    dry_run: bool
    quiet: bool
    verbose: bool
    push_to_hub: str | None
    private: bool


GENERAL = "General"  # heading of the options that every command has
Force = Annotated[
    bool, typer.Option("--force", help="Replace an existing output.", rich_help_panel=GENERAL)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=GENERAL)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Do not show progress.", rich_help_panel=GENERAL)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Print versions, and the log messages of the libraries.",
        rich_help_panel=GENERAL,
    ),
]
_OPTIONS: dict[str, tuple[Any, object]] = {
    "config": (
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="Settings file.",
                show_default="adaptermix.toml, if it exists",
                rich_help_panel=GENERAL,
            ),
        ],
        None,
    ),
    "force": (Force, False),
    "json": (Json, False),
    "dry_run": (
        Annotated[
            bool,
            typer.Option(
                "--dry-run",
                help="Check all inputs and print the plan; write nothing.",
                rich_help_panel=GENERAL,
            ),
        ],
        False,
    ),
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
    "push_to_hub": (
        Annotated[
            str | None,
            typer.Option(
                metavar="OWNER/NAME",
                help="Also upload the output to this repository on the Hub.",
                rich_help_panel=GENERAL,
            ),
        ],
        None,
    ),
    "private": (
        Annotated[
            bool,
            typer.Option(
                "--private", help="Create the repository as private.", rich_help_panel=GENERAL
            ),
        ],
        False,
    ),
}
_SHORT = {
    "out": ("--out", "-o"),
    "adapters": (flag_of("adapters"),),
    "data_dir": ("--data-dir", "--data"),
}
_WIDEST = 16  # longest list of choices, in characters, that fits beside the help at 80 columns
_REPEATED = {"adapters", "on", "ref", "preserve_text"}
# What the help shows for a value, if its type says too little.
_METAVARS = {
    "adapters": "ADAPTER",
    "baseline": "SYSTEM",
    "by": "ROWS",
    "chat": "DATA",
    "columns": "NAME=COLUMN,...",
    "comet_model": "MODEL",
    "comet_python": "PYTHON",
    "data_dir": "FOLDER",
    "dev_chat": "DATA",
    "engine_args": "KEY=VALUE,...",
    "export": "FOLDER",
    "groups": "NAME=LANG,...",
    "into": "MODEL",
    "lang": "LANG",
    "langs": "LANG,...",
    "layer": "LAYER",
    "layers": "BLOCKS",
    "layers_to_transform": "BLOCKS",
    "lm_eval_path": "FOLDER",
    "model": "MODEL",
    "on": "ADAPTER,...",
    "out_dtype": "DTYPE",
    "pairs": "PAIR,...",
    "pairs_columns": "NAME=COLUMN,...",
    "pairs_dir": "FOLDER",
    "pivot": "LANG",
    "rank_pattern": "MODULE=N,...",
    "alpha_pattern": "MODULE=X,...",
    "search": "WEIGHTS",
    "server": "URL,...",
    "server_folder": "FOLDER",
    "server_label": "NAME",
    "server_model": "MODEL",
    "target_lang": "LANG",
    "task": "TASK",
    "temperature": "X,...",
    "tokenizer": "MODEL",
    "weight": "W",
    "weights": "W,...",
}
# The headings of the help in their order: what a command does before how it does it.
_PANELS = (
    "How to merge",
    "Search",
    "Data to test",
    "Comparison",
    "Analysis",
    "Alignment",
    "Task data",
    "Task and prompt",
    "LoRA and training",
    "Alternation",
    "Scoring",
    "Engine",
    "Output",
    "Model and data",
    "Adapter files without a config",
)


def flowing(text: str) -> str:
    """Join the lines of each paragraph, so that the terminal wraps them, but not examples."""
    joined = re.sub(r"(?<=\S)\n(?=\S)", " ", text)
    return re.sub(r"(\n +[^\n]+)\n(?=\n )", r"\1", joined)


class _PlainHelp:
    """Shows what a value is, as in ``ADAPTER...``, and not its type in Python."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of the command, with ``--help``."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if isinstance(param, TyperArgument):
                _name_argument(param)
            elif param.metavar is None:  # `--json <bool>` would look as if it took a value
                param.metavar = "" if param.is_flag else None
        return params


def _name_argument(argument: TyperArgument) -> None:
    """Show an argument as ``FILE``, or as ``ADAPTER...`` if it can be repeated.

    Typer would add its type, and would show ``{adapters}...`` in the usage.
    """
    name = argument.metavar or argument.name.upper()
    if argument.nargs != 1:
        name = name.removesuffix("...").removesuffix("S") + "..."
    argument.metavar = name
    usage = name if argument.required else f"[{name}]"
    for method, shown in (("display_type_rich", None), ("get_usage_pieces", [usage])):
        setattr(argument, method, partial(_shown, shown))


def _shown(shown: Any, *_: Any, **__: Any) -> Any:
    return shown


class Group(_PlainHelp, TyperGroup):
    """A command that only contains others."""


class CheckedCommand(_PlainHelp, TyperCommand):
    """A command that reports invalid values like settings files do, with the same exit code."""

    def __init__(self, *args: Any, **given: Any) -> None:
        """Accept the arguments of Typer's command."""
        super().__init__(*args, **given)
        self.help = flowing(self.help or "")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; values that cannot be parsed are reported like invalid settings.

        Raises:
            ConfigError: A value is invalid; the message names the option.
        """
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if type(error) is not typer.BadParameter or error.param is None:  # a missing argument
                raise
            name = error.param.opts[0]
            cause = error.__cause__ or error.__context__
            message = f"{name}: {error.message.removesuffix('.')}"
            if isinstance(cause, ValidationError):
                first = cause.errors()[0]
                if first["type"] == "value_error":  # its text already quotes the value
                    message = f"{name}: {complaint(first).removesuffix('.')}"
                else:
                    message = with_value(f"{name}: {complaint(first)}", first["input"])
            raise ConfigError(message) from error

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help so that its columns fit in 80 characters."""
        switches = {
            param: param.secondary_opts
            for param in self.params
            if isinstance(param, TyperOption) and param.secondary_opts
        }
        for param in self.params:
            default = getattr(param, "show_default", None)
            if isinstance(default, str):
                # Typer puts a default that is text in parentheses.
                setattr(param, "_get_default_string", partial(_shown, default))  # noqa: B010
        try:
            for switch in switches:
                switch.secondary_opts = []
            super().format_help(ctx, formatter)
        finally:
            for switch, negative in switches.items():
                switch.secondary_opts = negative


class _Help(CheckedCommand):
    """A command whose help shows only the options that are relevant for the typed ones.

    For example, ``merge`` shows the options of a search only with ``--search``.
    """

    settings: type[Settings]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Hide options that have no effect with the typed ones, then parse the arguments."""
        typed = {arg.partition("=")[0].lstrip("-"): arg for arg in args if arg.startswith("--")}
        kind = self.settings.for_keys(typed)
        unused = self.settings.model_fields.keys() - kind.model_fields.keys()
        if unused:
            unused |= {"quiet"}  # a plain merge is too fast for a progress bar
        if "push-to-hub" not in typed:
            unused |= {"private"}
        for param in self.params:
            if isinstance(param, TyperOption):
                param.hidden = param.name in unused
        takes_adapters = "adapters" in self.settings.model_fields
        ctx.allow_extra_args |= takes_adapters
        super().parse_args(ctx, args)
        if takes_adapters and ctx.args and not ctx.resilient_parsing:
            raise ConfigError(
                f"{self.name}: unexpected argument {ctx.args[0]}",
                hint="name adapters with " + " ".join(f"--adapter {arg}" for arg in ctx.args),
            )
        return list(ctx.args)


def add_command(app: typer.Typer, command: Command) -> None:
    """Add a command to the program."""
    fields = [
        _option(name, field, command.settings)
        for name, field in sorted(
            command.settings.model_fields.items(),
            key=lambda item: _place(item[0], command.settings),
        )
    ]
    parameters = [*_arguments(command), *fields, *_common_options(command)]

    def entry(**given: Any) -> None:
        _run(command, given)

    entry.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    entry.__annotations__ = {p.name: p.annotation for p in parameters}
    kind = type(f"{command.name} help", (_Help,), {"settings": command.settings})
    app.command(command.name, cls=kind, help=command.help)(entry)


def _run(command: Command, given: dict[str, Any]) -> None:
    """Run a command with the typed options."""
    argument = command.argument
    inputs = given.pop(argument.name) if argument else []
    config = given.pop("config")
    options = Options(**{n: given.pop(n, False) for n in _OPTIONS if n != "config"})
    stated = {name: value for name, value in given.items() if value not in (None, [])}
    if options.verbose:
        let_libraries_talk()
    settings = load_settings(command.settings, stated, config)
    for name in stated.keys() - type(settings).model_fields.keys():
        console.say(f"note: --{name.replace('_', '-')} has no effect without --search")
    if is_main_process() and (remark := command.remark(settings)):
        console.say(remark)
    is_silent = options.quiet or options.dry_run or not command.shows_progress
    with _pushed(options, settings), progress_bar(is_silent) as on_progress:
        call = Call(settings, inputs, options.force, options.dry_run, on_progress)
        with (
            placing_errors(settings, stated, config),
            redirect_stdout(sys.stderr),  # output of libraries is not a result
        ):
            report = command.perform(call)
        console.show(report, as_json=options.json)


def _arguments(command: Command) -> list[inspect.Parameter]:
    if command.argument is None:
        return []
    argument = typer.Argument(help=command.argument.help, parser=path_of)
    hint = Annotated[list[Path], argument]
    return [_parameter(command.argument.name, hint, inspect.Parameter.empty)]


def _common_options(command: Command) -> list[inspect.Parameter]:
    """Return the common options, except for those that do not apply to the command."""
    left_out = set()
    if "out" not in command.settings.model_fields:
        left_out |= {"force"}
    if not command.can_dry_run:
        left_out |= {"dry_run"}
    if not command.shows_progress:
        left_out |= {"quiet"}
    if command.output != "adapter":
        left_out |= {"push_to_hub", "private"}
    offered = {name: option for name, option in _OPTIONS.items() if name not in left_out}
    return [_parameter(name, hint, default) for name, (hint, default) in offered.items()]


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def let_libraries_talk() -> None:
    """Print the versions and enable the libraries' logging. Call this before importing them."""
    os.environ |= {"TRANSFORMERS_VERBOSITY": "info", "VLLM_LOGGING_LEVEL": "INFO"}
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    console.say_versions()


@contextmanager
def _pushed(options: Options, settings: Any) -> Iterator[None]:
    """Upload a command's output once it exists, if this was requested."""
    if options.private and not options.push_to_hub:
        raise ConfigError("--private needs --push-to-hub OWNER/NAME")
    if not options.push_to_hub:
        yield
        return
    from adaptermix.cli import push as hub

    hub.check_push(options.push_to_hub)
    yield
    if not options.dry_run and is_main_process():
        console.say(f"uploading {settings.out} to {options.push_to_hub}")
        url = hub.push(settings.out, options.push_to_hub, private=options.private)
        console.say(f"uploaded: {url}")


def _option(name: str, field: FieldInfo, kind: type[Settings]) -> inspect.Parameter:
    """Create an option from a settings field."""
    flag = "--" + name.replace("_", "-")
    is_switch = bool in (field.annotation, *get_args(field.annotation))
    names = _SHORT.get(name, (flag,) if not is_switch else (f"{flag}/--no-{flag[2:]}",))
    default = field.default
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    text = field.description or ""
    choices = "|".join(_choices(field.annotation))
    if len(choices) > _WIDEST:
        text += f" One of {choices.replace('|', ', ')}."
    if is_switch and default is True:
        text += f" --no-{flag[2:]} turns it off."
    option = typer.Option(
        *names,
        metavar=None if is_switch else _metavar(name, field.annotation),
        help=text,
        rich_help_panel=None if name in kind.main else _panel(name, kind),
        show_default=False if default in (None, (), {}) or is_switch else shown,
    )
    return _parameter(name, Annotated[_option_type(name, field.annotation) | None, option], None)


def _metavar(name: str, annotation: Any) -> str:
    """Return what the help shows for an option's value: its choices, or what it is."""
    choices = "|".join(_choices(annotation))
    if choices and len(choices) <= _WIDEST:
        return choices
    kinds = {Path: "PATH", int: "N", float: "X"}
    usual = name.upper() if choices else kinds.get(_option_type(name, annotation), "TEXT")
    return _METAVARS.get(name, usual)


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the choices of an option; empty if it also accepts other values."""
    while get_origin(annotation) in (Union, types.UnionType, Annotated):
        kinds = [arg for arg in get_args(annotation) if arg is not type(None)]
        if get_origin(annotation) is not Annotated and len(kinds) > 1:
            return ()
        annotation = kinds[0]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _place(name: str, kind: type[Settings]) -> tuple[int, int]:
    """Return the sort key of an option in the help: the main options come first."""
    if name in kind.main:
        return -1, kind.main.index(name)
    panel = _panel(name, kind)
    if panel is None:
        return -1, len(kind.main)
    return _PANELS.index(panel) if panel in _PANELS else len(_PANELS), 0


def _panel(name: str, kind: type[Settings]) -> str | None:
    """Return an option's help panel, which is that of the class that declares its field."""
    owner = next(cls for cls in kind.__mro__ if name in cls.__dict__.get("__annotations__", {}))
    return owner.__dict__.get("panel")


def _option_type(name: str, annotation: Any) -> Any:
    """Return the type for Typer; lists are comma-separated text or repeated flags."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [arg for arg in get_args(annotation) if arg is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else str  # such as a number or a word
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is tuple:
        return list[str] if name in _REPEATED else str
    if get_origin(annotation) is dict:
        return str
    return annotation

"""Options of the command line, made from the fields of settings."""

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

from adaptermix.cli import console
from adaptermix.errors import ConfigError
from adaptermix.settings.file import load_settings
from adaptermix.settings.shared import Settings


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


_SHORT = {
    "out": ("--out", "-o"),
    "adapters": ("--adapter",),
    "data_dir": ("--data-dir", "--data"),
}


_REPEATED = {"adapters", "ref", "preserve_text"}


def register_command(
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
                let_libraries_talk()
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


def let_libraries_talk() -> None:
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
    from adaptermix.cli import push as hub

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

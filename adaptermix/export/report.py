"""What an export returns, and how it looks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from adaptermix.files.outputs import NotedReport
from adaptermix.tables import View, noted, pairs


@dataclass(frozen=True)
class Plan:
    """An export that is known, and not yet written.

    Attributes:
        details: What the format says of the adapter, by name.
        files: Names of the files, with what each is for.
        notes: What to know of it.
        write: Writes the files to a folder.
    """

    details: dict[str, str | int | float]
    files: dict[str, str]
    notes: list[str]
    write: Callable[[Path], None] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ExportReport(NotedReport):
    """What was exported.

    Attributes:
        out: The folder.
        to: The format.
        adapter: The adapter, as it was named.
        base: Name of its base model.
        modules: Number of modules with an update.
        parameters: Numbers in their factors.
        dtype: Of the tensors that are written.
        details: What the format says of the adapter, by name.
        files: Names of the files, with what each is for.
        written: Whether the folder was written.
    """

    out: str
    to: str
    adapter: str
    base: str
    modules: int
    parameters: int
    dtype: str
    details: dict[str, str | int | float]
    files: dict[str, str]
    written: bool

    def view(self) -> View:
        """Return the human-readable view."""
        rows = {
            "adapter": self.adapter,
            "base": self.base,
            "modules": f"{self.modules}, {self.parameters:,} parameters in {self.dtype}",
            **{name: f"{value}" for name, value in self.details.items()},
            "wrote" if self.written else "would write": self.out,
            **self.files,
        }
        return View([pairs(rows)], noted(self.notes))

"""The report of an export, and how it is shown."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from adaptermix.files.outputs import NotedReport
from adaptermix.tables import View, noted, pairs


@dataclass(frozen=True)
class Plan:
    """A planned export; nothing is written yet.

    Attributes:
        details: Metadata of the adapter in the format, by name.
        files: Purpose of each file, by name.
        notes: Notes for the user.
        write: Writes the files to a folder.
    """

    details: dict[str, str | int | float]
    files: dict[str, str]
    notes: list[str]
    write: Callable[[Path], None] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ExportReport(NotedReport):
    """The result of an export.

    Attributes:
        out: The output folder.
        to: The format.
        adapter: Path of the adapter.
        base: Name of its base model.
        modules: Number of modules with an update.
        parameters: Number of parameters in the factors.
        dtype: Dtype of the written tensors.
        details: Metadata of the adapter in the format, by name.
        files: Purpose of each file, by name.
        written: False for a dry run.
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

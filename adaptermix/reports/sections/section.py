"""The sections of a report: plots, tables and sentences about runs."""

from dataclasses import dataclass, field

from adaptermix.plots import Plot
from adaptermix.tables import Table


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Its anchor, and the stem of its plots' and tables' names.
        title: Its heading.
        texts: Paragraphs.
        plots: Plots, in order.
        tables: Tables, in order.
        notes: What to mind, in small letters.
    """

    name: str
    title: str
    texts: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

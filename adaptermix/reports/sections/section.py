"""The sections of a report: plots, tables and sentences about runs."""

from dataclasses import dataclass, field

from adaptermix.plots.plot import Plot
from adaptermix.tables import Look, Table


@dataclass(frozen=True)
class Fact:
    """Something to know before the numbers are trusted.

    Attributes:
        name: What it is about.
        text: What is so.
        look: ``ok``, or ``warn`` where it asks for care.
    """

    name: str
    text: str
    look: Look = ""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Its anchor, and the stem of its plots' and tables' names.
        title: Its heading.
        texts: Paragraphs.
        plots: Plots, in order; the table of a plot stands below it.
        tables: Other tables, in order.
        notes: What to mind, in small letters.
        answer: What the section says, in a sentence or two in large letters.
        facts: What to know before the answer is trusted.
        folded: Plots that are shown on request.
    """

    name: str
    title: str
    texts: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answer: str = ""
    facts: list[Fact] = field(default_factory=list)
    folded: list[Plot] = field(default_factory=list)

    @property
    def all_plots(self) -> list[Plot]:
        """Its plots, those that are folded last."""
        return [*self.plots, *self.folded]

    @property
    def all_tables(self) -> list[Table]:
        """Its tables, those below plots first."""
        return [*(plot.values for plot in self.all_plots if plot.values), *self.tables]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.answer or self.texts or self.all_plots or self.tables)

"""The parts of a report: sections with plots, tables and sentences about runs."""

from dataclasses import dataclass, field

from adaptermix.plots.plot import Plot
from adaptermix.tables import Look, Table


@dataclass(frozen=True)
class Fact:
    """A fact about the reliability of the numbers.

    Attributes:
        name: Topic of the fact.
        text: The fact.
        look: ``ok``, ``warn`` if it calls for caution, or empty.
        brief: A few words on it, for the first sentences of the page.
    """

    name: str
    text: str
    look: Look = ""
    brief: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: Its anchor, and the prefix of its plots' and tables' names.
        title: Its heading.
        texts: Paragraphs.
        plots: Plots, in order; the table of a plot is shown below it.
        tables: Other tables, in order.
        notes: Notes, in small print.
        answer: The section's result in one or two sentences, in large print.
        facts: Facts about the reliability of the answer.
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
        """All plots of the section, folded ones last."""
        return [*self.plots, *self.folded]

    @property
    def all_tables(self) -> list[Table]:
        """All tables of the section, those below plots first."""
        return [*(plot.values for plot in self.all_plots if plot.values), *self.tables]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.answer or self.texts or self.all_plots or self.tables)

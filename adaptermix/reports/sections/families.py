"""The section about a family: the adapter of each language and the evidence for it."""

from pathlib import Path

from adaptermix.adapters.family import read_family
from adaptermix.reports.sections.section import Section
from adaptermix.tables import printable


def family_section(name: str, path: Path) -> Section:
    """Return the section about a family.

    Raises:
        ArtifactError: The family is damaged.
    """
    routes = read_family(path).content
    texts = [f"Each language uses the adapter in its row, others use {printable(routes.default)}."]
    title = f"Routes by language: {printable(path.resolve().name)}"
    return Section(name, title, texts, tables=[routes.table(name, "The adapter of each language")])

"""Settings of `inspect` and `report`."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from adaptermix.settings.shared import Settings


class InspectSettings(Settings):
    """Settings of ``inspect``."""

    section: ClassVar[str] = "inspect"

    by: Literal["layer", "module", "kind"] = Field(
        default="layer",
        description="Rows of the tables: decoder blocks, single modules, or kinds (q_proj ...).",
    )
    source_rank: int | None = Field(
        default=None, gt=0, description="Rank of bare adapter files that carry no config."
    )
    source_alpha: float | None = Field(
        default=None, gt=0, description="Alpha of bare adapter files that carry no config."
    )


class ReportSettings(Settings):
    """Settings of ``report``."""

    section: ClassVar[str] = "report"

    title: str = Field(default="adaptermix report", description="Heading of the page.")
    examples: bool = Field(
        default=True,
        description="Single examples, to be browsed in the page; they fill most of it.",
    )
    export: Path | None = Field(
        default=None,
        description="New folder for every plot as SVG and PNG, every table as Markdown and LaTeX.",
    )
    out: Path = Field(default=Path("report.html"), description="Page to write.")

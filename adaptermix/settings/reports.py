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
        description="Rows of the tables: decoder blocks, individual modules, or kinds of modules "
        "(q_proj, ...).",
    )
    source_rank: int | None = Field(
        default=None, gt=0, description="Rank of adapter files without a config."
    )
    source_alpha: float | None = Field(
        default=None, gt=0, description="Alpha of adapter files without a config."
    )


class ReportSettings(Settings):
    """Settings of ``report``."""

    section: ClassVar[str] = "report"

    title: str = Field(default="adaptermix report", description="Heading of the page.")
    examples: bool = Field(
        default=True,
        description="Include all answers, which take up most of the page's size.",
    )
    published: Path | None = Field(
        default=None,
        description="TOML file of published numbers, to show next to those of the runs with the "
        "differences.",
    )
    export: Path | None = Field(
        default=None,
        description="Also write each plot as SVG and PNG, and each table as Markdown and LaTeX, "
        "to this folder.",
    )
    out: Path = Field(default=Path("report.html"), description="Page to write.")

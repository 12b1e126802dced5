"""A plot: panels side by side, and the table of their values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptermix.plots.drawing import FONT, colored, element, text, wrapped
from adaptermix.tables import Table

_COLUMNS = 3  # panels in a row of a file
_GAP = 16
_LEGIBLE = 480  # maximum width that stays legible when shrunk to a phone
_BOLD = 1.15  # width of bold letters, relative to others
_HEADING = 17  # line height of a panel's title


@dataclass(frozen=True)
class Panel:
    """One drawing of a plot.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        marks: The drawing as SVG.
        title: Title of the panel, if there are several.
    """

    width: int
    height: float
    marks: str
    title: str = ""

    def svg(self, name: str) -> str:
        """Return the panel as SVG for a page; ``name`` is its label for screen readers."""
        box = f"0 0 {self.width} {self.height:.0f}"
        size = {"viewBox": box, "width": self.width, "height": round(self.height)}
        names = {"role": "img", "aria-label": f"{name}: {self.title}" if self.title else name}
        return element("svg", self.marks, **size, **names)


def titled_panel(title: str, panel: Panel) -> Panel:
    """Put a title above a panel."""
    lines = wrapped(title, panel.width / _BOLD)
    heading = [
        text(words, 0, 12 + _HEADING * at, font_weight="bold") for at, words in enumerate(lines)
    ]
    below = _HEADING * len(lines) + 4
    moved = element("g", panel.marks, transform=f"translate(0 {below})")
    return replace(
        panel, height=panel.height + below, marks="".join([*heading, moved]), title=title
    )


@dataclass(frozen=True)
class Plot:
    """A plot that can be drawn.

    Attributes:
        name: Stem of its file names.
        title: Heading of the plot.
        caption: Explanation of how to read it.
        panels: Its panels.
        values: Table of the plotted values.
        narrow: Separate panels for phones, if ``panels`` are for wide pages only.
        subtitle: What is plotted, with its unit.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    values: Table | None = None
    narrow: Sequence[Panel] = ()
    subtitle: str = ""

    @property
    def is_wide(self) -> bool:
        """Whether phones scroll the plot, because shrinking would make its text too small."""
        return not self.narrow and max((panel.width for panel in self.panels), default=0) > _LEGIBLE

    @property
    def drawings(self) -> Iterable[tuple[str, list[str]]]:
        """The panels as SVG by kind of page: ``wide``, ``narrow``, or empty for all pages."""
        kinds = {"wide": self.panels, "narrow": self.narrow} if self.narrow else {"": self.panels}
        for kind, panels in kinds.items():
            yield kind, [panel.svg(self.title) for panel in panels]

    def svg(self, theme: str = "light") -> str:
        """Return the whole plot as one SVG file."""
        placed, top, left, right, row = [], 0.0, 0, 0, 0.0
        for at, panel in enumerate(self.panels):
            if at and at % _COLUMNS == 0:
                top, left, row = top + row + _GAP, 0, 0.0
            move = f"translate({left + _GAP} {top + _GAP:.1f})"
            placed.append(element("g", panel.marks, transform=move))
            left += panel.width + _GAP
            right, row = max(right, left), max(row, panel.height)
        width, height = right + _GAP, round(top + row + 2 * _GAP)
        paper = element("rect", width=width, height=height, fill="paper")
        size = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
        font = {"font_family": FONT, "font_size": 12, "xmlns": "http://www.w3.org/2000/svg"}
        names = {"role": "img", "aria-label": self.title}
        drawn = element("svg", paper + "".join(placed), **font, **size, **names)
        return colored(drawn, theme) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``NAME.svg`` and ``NAME.png``."""
        import vl_convert  # a large import, needed only for PNG files

        (folder / f"{self.name}.svg").write_text(self.svg(), encoding="utf-8")
        (folder / f"{self.name}.png").write_bytes(vl_convert.svg_to_png(self.svg(), scale=2))

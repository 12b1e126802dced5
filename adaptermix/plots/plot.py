"""A plot: panels side by side that share their axes, and the table of what they show."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptermix.plots.drawing import FONT, colored, element, text, wrapped
from adaptermix.tables import Table

_COLUMNS = 3  # of panels, in a file
_GAP = 16
_LEGIBLE = 480  # width that a phone can shrink
_HEADING = 17  # height of a line of a panel's title


@dataclass(frozen=True)
class Panel:
    """One drawing of a plot.

    Attributes:
        width: In pixels.
        height: In pixels.
        marks: What is drawn, as SVG.
        title: What it is of, where it is one of several.
    """

    width: int
    height: float
    marks: str
    title: str = ""

    def svg(self, name: str) -> str:
        """Return it for a page; ``name`` is what a screen reader says of it."""
        box = f"0 0 {self.width} {self.height:.0f}"
        size = {"viewBox": box, "width": self.width, "height": round(self.height)}
        names = {"role": "img", "aria-label": f"{name}: {self.title}" if self.title else name}
        return element("svg", self.marks, **size, **names)


def titled_panel(title: str, panel: Panel) -> Panel:
    """Put a title above a panel."""
    lines = wrapped(title, panel.width)
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
        name: Stem of its files.
        title: What it shows, as a heading.
        caption: How to read it.
        panels: Its drawings.
        values: The table of what it shows.
        narrow: Its drawings for phones, where it has others for wide pages.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    values: Table | None = None
    narrow: Sequence[Panel] = ()

    @property
    def is_wide(self) -> bool:
        """Whether a phone scrolls it, since its letters would be too small."""
        return not self.narrow and max((panel.width for panel in self.panels), default=0) > _LEGIBLE

    @property
    def drawings(self) -> Iterable[tuple[str, list[str]]]:
        """Its drawings for a page, by the kind of page that they are for."""
        kinds = {"wide": self.panels, "narrow": self.narrow} if self.narrow else {"": self.panels}
        for kind, panels in kinds.items():
            yield kind, [panel.svg(self.title) for panel in panels]

    def svg(self, theme: str = "light") -> str:
        """Return all of it as one SVG file."""
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
        import vl_convert  # large, and for PNG files alone

        (folder / f"{self.name}.svg").write_text(self.svg(), encoding="utf-8")
        (folder / f"{self.name}.png").write_bytes(vl_convert.svg_to_png(self.svg(), scale=2))

"""SVG elements of a plot: text, lines and shapes, with colors named by their role.

Names come from files and may contain anything, so every text and attribute is escaped here. A color
is written as ``var(--plot-ROLE)``, so that one drawing works on light, dark and printed pages; in
standalone files, it is replaced by the color itself.
"""

import re
from collections.abc import Iterable
from html import escape
from typing import Any
from unicodedata import east_asian_width

from adaptermix.tables import printable

# By role, for light and dark. Blue and orange differ for every kind of color blindness. All colors
# have a contrast of at least 3:1 to the page, ink and faint 4.5:1; ink has 4.5:1 on gain and loss.
PALETTE: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#16181d"),
    "ink": ("#1c1f24", "#e6e8ec"),
    "faint": ("#5b626d", "#a2a9b5"),
    "grid": ("#e3e6eb", "#2e333c"),
    "reference": ("#7d838c", "#8b929d"),
    "subject": ("#1f66ad", "#6aa9e9"),
    "better": ("#1f66ad", "#6aa9e9"),
    "worse": ("#b4531a", "#f0914f"),
    "gain": ("#5b9fd4", "#2a6199"),
    "loss": ("#e08a55", "#96431a"),
}
THEMES = ("light", "dark")
FONT = "Arial, Helvetica, sans-serif"
_COLOR = re.compile(r"var\(--plot-([a-z]+)\)")


def colored(svg: str, theme: str) -> str:
    """Replace the color roles in a drawing with the colors of a theme."""
    at = THEMES.index(theme)
    return _COLOR.sub(lambda found: PALETTE[found[1]][at], svg)


def palette_css() -> str:
    """Return the style sheet with the roles' colors for light, dark and print."""
    light, dark = (
        "".join(f"--plot-{role}:{colors[at]};" for role, colors in PALETTE.items()) for at in (0, 1)
    )
    return (
        f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f"@media print{{:root{{{light}}}}}\n"
    )


def element(tag: str, content: str = "", **attributes: Any) -> str:
    """Return an SVG element; ``content`` must be SVG, attributes are escaped."""
    written = "".join(f' {name.replace("_", "-")}="{_value(v)}"' for name, v in attributes.items())
    return f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f"var(--plot-{value})" if value in PALETTE else escape(printable(value))
    return f"{value:.1f}".removesuffix(".0")


def text(content: str, x: float, y: float, **style: Any) -> str:
    """Return a line of text at a point; ``text_anchor`` sets its alignment."""
    return element("text", escape(printable(content)), x=x, y=y, **{"fill": "ink", **style})


def line(start: tuple[float, float], end: tuple[float, float], **style: Any) -> str:
    """Return a straight line."""
    (x1, y1), (x2, y2) = start, end
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **{"stroke": "ink", **style})


def path(points: Iterable[tuple[float, float]], end: str = "", **style: Any) -> str:
    """Return a path through points, or an area with ``end="Z"``."""
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element("path", d=f"M{steps}{end}", **style)


def dot(x: float, y: float, color: str, *, is_filled: bool = True) -> str:
    """Return a circle, filled or hollow."""
    inside = color if is_filled else "paper"
    return element("circle", cx=x, cy=y, r=4, fill=inside, stroke=color, stroke_width=1.75)


def mark(hover: str, *shapes: str) -> str:
    """Return shapes that show a text on hover."""
    title = element("title", escape(printable(hover)))
    return element("g", title + "".join(shapes), **{"class": "mark"})


def target(left: float, top: float, width: float, height: float) -> str:
    """Return an invisible area that makes a mark easier to hit."""
    return element("rect", x=left, y=top, width=width, height=height, fill="transparent")


def width_of(content: str, size: float = 12) -> float:
    """Return the approximate width of a text, in pixels."""
    return size * sum(1.0 if east_asian_width(sign) in "WF" else 0.56 for sign in content)


def fitted(content: str, width: float) -> str:
    """Truncate a text to a width, in pixels."""
    if width_of(content) <= width:
        return content
    while content and width_of(f"{content}…") > width:
        content = content[:-1]
    return f"{content}…"


def wrapped(content: str, width: float) -> list[str]:
    """Break a text at spaces and hyphens into lines of at most a width, in pixels."""
    lines = [""]
    for word in re.findall(r"[^\s-]*-+|[^\s-]+|\s+", content):
        longer = (lines[-1] + word).lstrip()
        if lines[-1] and width_of(longer.rstrip()) > width:
            lines.append(word.lstrip())
        else:
            lines[-1] = longer
    return [fitted(line.rstrip(), width) for line in lines]

"""Scales, which map values to pixels, and axes with round tick values."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adaptermix.plots.drawing import line, text, width_of

_MARGIN = 0.04  # share of the range added on both sides, so that marks stay inside


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels.

    Attributes:
        low: Lowest value.
        high: Highest value.
        start: Pixel of the lowest value.
        end: Pixel of the highest value.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, room: float) -> list[float]:
        """Return at least two round tick values, if possible about ``room`` pixels apart."""
        step = self.step(room)
        digits = 2 - math.floor(math.log10(step))  # more than the step has
        found = (round(at * step, digits) for at in self._multiples(step))
        return list(dict.fromkeys(found))  # steps below the precision of a number are equal

    def step(self, room: float) -> float:
        """Return the distance of the tick values: 1, 2 or 5 times a power of ten."""
        size = self.high - self.low
        most = max(2, min(8, abs(self.end - self.start) / room))
        step = self._round_step(size / most)
        # A step of at most half the range has at least two multiples in it.
        return step if len(self._multiples(step)) > 1 else self._round_step(size / 5)

    def _multiples(self, step: float) -> range:
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return range(first, last + 1)

    @staticmethod
    def _round_step(least: float) -> float:
        power: float = 10.0 ** math.floor(math.log10(least))
        enough = least * (1 - 1e-9)
        return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= enough)


def span_of(values: Iterable[float], *also: float) -> tuple[float, float]:
    """Return the axis range that fits all finite values, with a margin."""
    known = [value for value in (*values, *also) if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    margin = (high - low) * _MARGIN or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def around_zero(values: Iterable[float]) -> tuple[float, float]:
    """Return an axis range for differences, with room for a word on both sides of zero."""
    low, high = span_of(values, 0.0)
    least = 0.3 * (high - low)
    return min(low, -least), max(high, least)


@dataclass(frozen=True)
class Axis:
    """An axis with its grid.

    Attributes:
        scale: Maps values to pixels.
        title: Title of the axis.
        is_signed: Whether values above zero get a plus sign.
        values: Tick values to use instead of round numbers.
    """

    scale: Scale
    title: str
    is_signed: bool = False
    values: Sequence[float] = ()

    def horizontal(self, top: float, bottom: float, *, is_long: bool = False) -> str:
        """Draw the axis below an area, with grid lines up to the area's top.

        A long area does not fit a screen, so it also has the tick values above it.
        """
        scale, parts, free = self.scale, [], -math.inf
        for value, label in self._labels(36):
            x, half = scale(value), width_of(label) / 2
            parts.append(line((x, top), (x, bottom), stroke="grid"))
            if x - half > free:
                for y in (bottom + 15, top - 5) if is_long else (bottom + 15,):
                    parts.append(text(label, x, y, text_anchor="middle", fill="faint"))
                free = x + half + 4
        middle = (scale.start + scale.end) / 2
        place = {"text_anchor": "middle"}
        if width_of(self.title) > scale.end - scale.start:  # a wider title ends at the axis's end
            middle, place = scale.end, {"text_anchor": "end"}
        return "".join(parts) + text(self.title, middle, bottom + 33, fill="faint", **place)

    def vertical(self, left: float, right: float) -> str:
        """Draw the axis left of an area, with grid lines to its right and the title above."""
        parts = [text(self.title, 0, self.scale.end - 10, fill="faint")]
        for value, label in self._labels(28):
            y = self.scale(value)
            parts.append(line((left, y), (right, y), stroke="grid"))
            parts.append(text(label, left - 6, y + 4, text_anchor="end", fill="faint"))
        return "".join(parts)

    def _labels(self, room: float) -> list[tuple[float, str]]:
        if self.values:
            return [(value, f"{value:.4g}") for value in self.values]
        digits = max(0, -math.floor(math.log10(self.scale.step(room)) + 1e-9))
        ticks = self.scale.ticks(room)
        return [(tick, number(tick, digits, is_signed=self.is_signed)) for tick in ticks]


def number(value: float, digits: int, *, is_signed: bool = False) -> str:
    """Format a number with a typographic minus sign, which is as wide as a plus."""
    value = round(value, digits) + 0.0  # adding 0.0 turns -0.0 into 0.0
    sign = "+" if is_signed and value else ""
    return f"{value:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")

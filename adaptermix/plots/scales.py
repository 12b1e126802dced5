"""Scales and axes: from values to places, with round numbers beside them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adaptermix.plots.drawing import line, text, width_of

_MARGIN = 0.04  # of the span, on both sides, so that marks stay inside


@dataclass(frozen=True)
class Scale:
    """A straight way from values to pixels.

    Attributes:
        low: Value at the start.
        high: Value at the end.
        start: Pixel of the lowest value.
        end: Pixel of the highest.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, room: float) -> list[float]:
        """Return round values that are about so many pixels apart, or more."""
        most = max(2, min(8, abs(self.end - self.start) / room))
        step = self._step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(at * step, 12) for at in range(first, last + 1)]

    @staticmethod
    def _step(least: float) -> float:
        power: float = 10.0 ** math.floor(math.log10(least))
        return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least - 1e-12)


def span_of(values: Iterable[float], *also: float) -> tuple[float, float]:
    """Return from where to where an axis goes that shows all values that are numbers."""
    known = [value for value in (*values, *also) if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    margin = (high - low) * _MARGIN or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def around_zero(values: Iterable[float]) -> tuple[float, float]:
    """Return the span of differences: both sides of zero have room for a word."""
    low, high = span_of(values, 0.0)
    least = 0.3 * (high - low)
    return min(low, -least), max(high, least)


@dataclass(frozen=True)
class Axis:
    """An axis with its grid.

    Attributes:
        scale: Where values stand.
        title: What the values are.
        is_signed: Values above zero have a plus.
        values: What is written on it, in place of round numbers.
    """

    scale: Scale
    title: str
    is_signed: bool = False
    values: Sequence[float] = ()

    def horizontal(self, top: float, bottom: float) -> str:
        """Draw it below an area, with lines up to the area's top."""
        scale, parts, free = self.scale, [], -math.inf
        for value, label in self._labels(36):
            x, half = scale(value), width_of(label) / 2
            parts.append(line((x, top), (x, bottom), stroke="grid"))
            if x - half > free:
                parts.append(text(label, x, bottom + 15, text_anchor="middle", fill="faint"))
                free = x + half + 4
        middle = (scale.start + scale.end) / 2
        place = {"text_anchor": "middle"}
        if width_of(self.title) > scale.end - scale.start:  # what is wider ends where the axis does
            middle, place = scale.end, {"text_anchor": "end"}
        return "".join(parts) + text(self.title, middle, bottom + 33, fill="faint", **place)

    def vertical(self, left: float, right: float) -> str:
        """Draw it left of an area, with lines to the area's right; its title stands above."""
        parts = [text(self.title, 0, self.scale.end - 10, fill="faint")]
        for value, label in self._labels(28):
            y = self.scale(value)
            parts.append(line((left, y), (right, y), stroke="grid"))
            parts.append(text(label, left - 6, y + 4, text_anchor="end", fill="faint"))
        return "".join(parts)

    def _labels(self, room: float) -> list[tuple[float, str]]:
        if self.values:
            return [(value, f"{value:.4g}") for value in self.values]
        ticks = self.scale.ticks(room)
        step = min((b - a for a, b in zip(ticks, ticks[1:], strict=False)), default=1.0)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(tick, number(tick, digits, is_signed=self.is_signed)) for tick in ticks]


def number(value: float, digits: int, *, is_signed: bool = False) -> str:
    """Write a number as print does: with a minus as wide as a plus."""
    value = round(value, digits) + 0.0  # which has no minus where it is zero
    sign = "+" if is_signed and value else ""
    return f"{value:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")

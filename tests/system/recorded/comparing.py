"""Tells in what a record differs from an earlier one.

Text and whole numbers have to be the same, other numbers nearly so. Of tensors the sketches are
compared, relative to the tensor's norm and as closely as its precision allows; their bytes only
where a command is said to be exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

TENSOR_TOLERANCE = {"F64": 1e-5, "F32": 1e-5, "BF16": 2e-3, "F16": 2e-3}
_NOTHING = object()


class Difference(NamedTuple):
    """Where two records differ, and how."""

    place: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"  {self.place}\n    expected {self.expected}\n    found    {self.found}"


@dataclass(frozen=True)
class Tolerance:
    """How much numbers may differ.

    Attributes:
        relative: Relative to the number.
        absolute: Or in itself.
        tensors: Relative to a tensor's norm; by its precision where it is None.
        is_exact: Tensors have to be the same to the last bit.
    """

    relative: float = 1e-5
    absolute: float = 1e-6
    tensors: float | None = None
    is_exact: bool = False

    def differences(self, expected: Any, found: Any, place: str = "") -> Iterator[Difference]:
        """Yield the places where two JSON values differ."""
        if isinstance(expected, dict) and isinstance(found, dict):
            if "sketch" in expected and "sketch" in found:
                yield from self._of_tensors(expected, found, place)
            else:
                yield from self._of_tables(expected, found, place)
        elif isinstance(expected, list) and isinstance(found, list):
            yield from self._of_lists(expected, found, place)
        elif not self._is_same(expected, found):
            yield Difference(place, _short(expected, found), _short(found, expected))

    def _of_tables(
        self, expected: Mapping[str, Any], found: Mapping[str, Any], place: str
    ) -> Iterator[Difference]:
        for key in dict.fromkeys((*expected, *found)):
            yield from self.differences(
                expected.get(key, _NOTHING), found.get(key, _NOTHING), f"{place}/{key}"
            )
        # The order of keys is part of what is printed, so it is compared where the keys agree.
        if expected.keys() == found.keys() and list(expected) != list(found):
            yield Difference(f"{place} (order)", str(list(expected)), str(list(found)))

    def _of_lists(
        self, expected: Sequence[Any], found: Sequence[Any], place: str
    ) -> Iterator[Difference]:
        if len(expected) != len(found):
            yield Difference(f"{place} (length)", str(len(expected)), str(len(found)))
        for at, pair in enumerate(zip_longest(expected, found, fillvalue=_NOTHING)):
            yield from self.differences(*pair, f"{place}[{at}]")

    def _of_tensors(
        self, expected: Mapping[str, Any], found: Mapping[str, Any], place: str
    ) -> Iterator[Difference]:
        for key in ("shape", "dtype", *(["sha256"] if self.is_exact else [])):
            if expected[key] != found[key]:
                yield Difference(f"{place}/{key}", str(expected[key]), str(found[key]))
        precisions = expected["dtype"].split()
        relative = max(TENSOR_TOLERANCE.get(name, 0.0) for name in precisions)
        if self.tensors is not None:
            relative = self.tensors
        margin = relative * abs(expected["norm"])
        pairs = zip(_numbers(expected), _numbers(found), strict=True)
        if any(not abs(one - other) <= margin for one, other in pairs):
            told = f"(of norm and sketch; {margin:.3g} is allowed)"
            yield Difference(place, f"{_numbers(expected)} {told}", str(_numbers(found)))

    def _is_same(self, expected: Any, found: Any) -> bool:
        if type(expected) is not type(found):
            return False
        if isinstance(expected, float):
            margin = max(self.absolute, self.relative * abs(expected))
            return expected == found or abs(expected - found) <= margin
        return bool(expected == found)


def _numbers(entry: Mapping[str, Any]) -> list[float]:
    return [entry["norm"], *entry["sketch"]]


def _short(value: Any, other: Any) -> str:
    """Write a value on one line, from shortly before the first letter that differs."""
    if value is _NOTHING:
        return "nothing"
    text = value if isinstance(value, str) else repr(value)
    if not isinstance(value, str) or len(text) <= 200:
        return text[:200]
    against = other if isinstance(other, str) else ""
    same = next(
        (at for at, pair in enumerate(zip(text, against, strict=False)) if pair[0] != pair[1]), 0
    )
    start = max(0, same - 40)
    return ("..." if start else "") + text[start : start + 200]

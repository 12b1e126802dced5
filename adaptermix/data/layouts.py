"""Table layouts, which are recognized by the names of their columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar

from adaptermix.errors import ConfigError, DataError
from adaptermix.files.records import Records


@dataclass(frozen=True)
class Layout:
    """The columns of one table format.

    Attributes:
        needed: Required columns.
        optional: Optional columns.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the layout."""
        return self.needed + self.optional

    def __str__(self) -> str:
        return " and ".join(self.needed)


L = TypeVar("L", bound=Layout)


def recognize(records: Records, layouts: Sequence[L], option: str) -> L:
    """Return the only layout that fits a table's columns.

    A layout must have all columns that the user named with ``option``, which resolves ambiguity.

    Raises:
        ConfigError: ``option`` names a column that no layout has.
        DataError: No layout or several fit; the message lists the columns of the table.
    """
    known = dict.fromkeys(name for layout in layouts for name in layout.columns)
    for name in records.renamed:
        if name not in known:
            raise ConfigError(f"{option}: unknown field '{name}'", hint=f"use {', '.join(known)}")
    fitting = [
        layout
        for layout in layouts
        if {*layout.needed} <= {*records.names} and {*records.renamed} <= {*layout.columns}
    ]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(records.columns)
    accepted = "; ".join(map(str, fitting or layouts))
    if fitting:
        names = fitting[0].needed
        own = [n for n in names if not all(n in layout.needed for layout in fitting)]
        name = (own or names)[0]
        raise DataError(
            f"{records.at(1)}: ambiguous columns {found}; they match {accepted}",
            hint=f"choose by naming a column: {option} {name}={records.renamed.get(name, name)}",
        )
    nearest = _nearest(records, layouts)
    missing = [name for name in nearest.needed if name not in records.names] or nearest.needed
    raise DataError(
        f"{records.at(1)}: unknown columns {found or 'none'}; accepted: {accepted}",
        hint=f"name them: {option} "
        + ",".join(f"{name}={_like(name, records.columns) or 'COLUMN'}" for name in missing),
    )


def _like(name: str, columns: Sequence[str]) -> str | None:
    """Return the column whose name differs in case or a few letters only."""
    plain = {column.strip().casefold(): column for column in columns}
    found = get_close_matches(name.casefold(), plain, n=1, cutoff=0.8)
    return plain[found[0]] if found else None


def _nearest(records: Records, layouts: Sequence[L]) -> L:
    """Return the layout with the most columns found, or of several, the one with most columns."""
    there = {*records.names}

    def nearness(layout: L) -> tuple[int, int, int]:
        alike = sum(_like(name, records.columns) is not None for name in layout.needed)
        return len(there & {*layout.needed}), alike, len(layout.needed)

    return max(layouts, key=nearness)

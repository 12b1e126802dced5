"""Adapters that were trained on top of others: their record, and whether it matches the use.

An adapter that was trained on a base model with other adapters added is only valid if these are
added as well.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.adapters.adapter import Adapter, read_adapter
from adaptermix.settings.values import weight_of
from adaptermix.tables import printable


@dataclass(frozen=True)
class Weighted:
    """An adapter and its weight."""

    adapter: Adapter
    weight: float


def read_weighted(names: Iterable[str]) -> list[Weighted]:
    """Read adapters given as ``ADAPTER`` or ``ADAPTER=WEIGHT``.

    Raises:
        ArtifactError: An adapter cannot be read.
        ResourceError: A Hub repository cannot be downloaded.
    """
    named = map(weight_of, names)
    return [Weighted(read_adapter(path), weight) for path, weight in named]


def stack_record(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the record entry on the adapters under an adapter that is trained."""
    return [
        {
            "path": str(each.adapter.path),
            "blake3": each.adapter.weights_hash,
            "weight": each.weight,
        }
        for each in read_weighted(names)
    ]


def trained_on(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the recorded adapters under this one; other software may have written the record."""
    entries = record.get("on")
    return [
        entry
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
        and isinstance(entry.get("path"), str)
        and isinstance(entry.get("blake3"), str)
        and isinstance(entry.get("weight"), int | float)
    ]


def stack_terms(record: Mapping[str, Any], *, hashes: bool = False) -> list[str]:
    """Return the adapters that an adapter was trained on, each as ``weight x name``.

    Args:
        record: Run record of the adapter.
        hashes: Whether to add the first digits of each hash.
    """
    return [
        f"{entry['weight']:g} x {_name_of(entry['path'])}"
        + (f" (BLAKE3 {printable(entry['blake3'][:12])})" if hashes else "")
        for entry in trained_on(record)
    ]


def notes_on_company(adapters: Sequence[Adapter]) -> list[str]:
    """Return notes on adapters that were trained on others that are not given."""
    hashes = {adapter.weights_hash for adapter in adapters}
    return [
        f"{adapter.path} was trained on {entry['path']}, which is not among these adapters"
        for adapter in adapters
        for entry in trained_on(adapter.record)
        if entry["blake3"] not in hashes
    ]


def notes_on_stack(
    adapters: Sequence[Adapter], weights: Mapping[str, Sequence[float]]
) -> list[str]:
    """Return notes on adapters trained on others that are missing or have another weight.

    Args:
        adapters: The adapters that are added to one base model.
        weights: All weights of each adapter, by the hash of its weights file. They may be rounded
            differently than in the record: 1 - 0.7 is not 0.3.
    """
    notes = []
    for adapter in adapters:
        if not any(weights.get(adapter.weights_hash, ())):
            continue
        for entry in trained_on(adapter.record):
            here = weights.get(entry["blake3"])
            if here and all(math.isclose(weight, entry["weight"]) for weight in here):
                continue
            told = "is missing here" if here is None else f"has {_listed(here)} here"
            notes.append(
                f"{adapter.path} was trained on {entry['path']} at weight {entry['weight']:g}, "
                f"but it {told}"
            )
    return notes


def _name_of(path: str) -> str:
    return printable(Path(path).name.removesuffix(".safetensors"))


def _listed(weights: Sequence[float]) -> str:
    return " and ".join(dict.fromkeys(f"{weight:g}" for weight in weights))

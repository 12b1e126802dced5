"""Adapters that were trained on others: what their record says, and whether it still holds.

An adapter that was trained on a base model with other adapters added to it means what it meant in
training only where these are added as well.
"""

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
    """Read adapters that are named as ``ADAPTER`` or ``ADAPTER=WEIGHT``.

    Raises:
        ArtifactError: An adapter that cannot be read.
        ResourceError: A hub repository that cannot be had.
    """
    named = map(weight_of, names)
    return [Weighted(read_adapter(path), weight) for path, weight in named]


def stack_record(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return what the record of an adapter holds of those that it is trained on."""
    return [
        {
            "path": str(each.adapter.path),
            "blake3": each.adapter.weights_hash,
            "weight": each.weight,
        }
        for each in read_weighted(names)
    ]


def trained_on(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a record says of the adapters under this one; other hands may write anything."""
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
    """Return the adapters that one was trained on, each as ``weight x name``.

    Args:
        record: Of the adapter.
        hashes: Add the beginning of each hash.
    """
    return [
        f"{entry['weight']:g} x {_name_of(entry['path'])}"
        + (f" (BLAKE3 {printable(entry['blake3'][:12])})" if hashes else "")
        for entry in trained_on(record)
    ]


def notes_on_company(adapters: Sequence[Adapter]) -> list[str]:
    """Say which adapters were trained on others that are not among them."""
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
    """Say which adapters were trained on others that are not here, or have another weight here.

    Args:
        adapters: Those that are added to one base model.
        weights: By the hash of an adapter's weights, all weights that it has here.
    """
    notes = []
    for adapter in adapters:
        if not any(weights.get(adapter.weights_hash, ())):
            continue
        for entry in trained_on(adapter.record):
            here = weights.get(entry["blake3"])
            if here is not None and set(here) == {entry["weight"]}:
                continue
            told = "it is not here" if here is None else f"here it has {_listed(here)}"
            notes.append(
                f"{adapter.path} was trained on {entry['path']} at weight {entry['weight']:g}, "
                f"and {told}"
            )
    return notes


def _name_of(path: str) -> str:
    return printable(Path(path).name.removesuffix(".safetensors"))


def _listed(weights: Sequence[float]) -> str:
    return " and ".join(f"{weight:g}" for weight in dict.fromkeys(weights))

"""The README.md of an adapter: what it was made of and how to use it, for people and the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptermix.config import HUB_NAME
from adaptermix.tables import printable


def model_name(base: str | None) -> str:
    """Return a base model's name on the hub, or the name of its folder: no path of this machine."""
    if not base:
        return "not recorded"
    is_hubs = HUB_NAME.fullmatch(base) and not Path(base).exists()
    return printable(base if is_hubs else Path(base).name)


def made_of(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the names and weights of the adapters that a merge was made of, by its record."""
    sources = record.get("sources")
    if not isinstance(sources, list):
        return []
    return [
        (printable(Path(source["path"]).name.removesuffix(".safetensors")), float(source["weight"]))
        for source in sources
        if isinstance(source, dict)
        and isinstance(source.get("path"), str)
        and isinstance(source.get("weight"), int | float)
    ]


def data_of(record: Mapping[str, Any]) -> str:
    """Return how many examples of which languages an adapter was trained on, by its record."""
    counts = record.get("examples")
    if not isinstance(counts, dict):
        return ""
    known = {lang: count for lang, count in counts.items() if isinstance(count, int)}
    return printable(", ".join(f"{lang} {count:,}" for lang, count in known.items()))

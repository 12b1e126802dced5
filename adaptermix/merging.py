"""Merge adapters into one, adapter to adapter: no base model is loaded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from adaptermix import __version__
from adaptermix.adapters import (
    Adapter,
    adapter_hash,
    check_output,
    describe_config,
    read_adapter,
    write_adapter,
)
from adaptermix.config import MergeSettings
from adaptermix.deltas import LoraUpdate, concatenate
from adaptermix.errors import ArtifactError, ConfigError


@dataclass(frozen=True)
class MergeSource:
    """One adapter that went into a merge."""

    path: str
    sha256: str
    weight: float
    rank: int
    modules: int


@dataclass(frozen=True)
class MergeReport:
    """What was merged into what."""

    out: str
    method: str
    sources: list[MergeSource]
    rank: int
    modules: int
    modules_with_one_source: int
    written: bool

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        return asdict(self)


def merge(
    paths: Sequence[Path], settings: MergeSettings, *, force: bool = False, dry_run: bool = False
) -> MergeReport:
    """Write the weighted sum of adapters as one adapter; exact, by concatenating factors.

    For every module, the result's delta weight is sum_i w_i delta_i, where an adapter without the
    module counts as zero there: the reading of the paper's "averaging their weights" that adds
    no cross terms. The rank is the sum of the ranks, module by module.

    Raises:
        ConfigError: Fewer than two adapters, or another number of weights.
        ArtifactError: A damaged adapter, different base models or shapes, an existing output.
    """
    weights = _weights(len(paths), settings)
    check_output(settings.out, force)
    if settings.out.resolve() in [path.resolve() for path in paths]:
        raise ConfigError(f"--out {settings.out}: is one of the adapters to merge")
    adapters = [read_adapter(path, rank=settings.rank, alpha=settings.alpha) for path in paths]
    base = _common_base(adapters, settings.ignore_base)
    merged = _merge_updates(adapters, weights, settings.dtype)
    sources = [
        MergeSource(
            str(adapter.path),
            adapter_hash(adapter),
            weight,
            int(adapter.config["r"]),
            len(adapter.modules),
        )
        for adapter, weight in zip(adapters, weights, strict=True)
    ]
    report = MergeReport(
        out=str(settings.out),
        method=settings.method,
        sources=sources,
        rank=max(update.rank for update in merged.values()),
        modules=len(merged),
        modules_with_one_source=sum(
            sum(module in adapter.factors for adapter in adapters) == 1 for module in merged
        ),
        written=not dry_run,
    )
    if not dry_run:
        config = describe_config(merged, base, _covers_all_layers(adapters, merged))
        record = {"adaptermix": __version__, "command": "merge", **report.as_record()}
        record["base_fingerprint"] = _fingerprint(adapters)
        write_adapter(settings.out, merged, config, record, force=force)
    return report


def _weights(count: int, settings: MergeSettings) -> list[float]:
    if count < 2:
        raise ConfigError("a merge takes two adapters or more", hint="adaptermix merge --help")
    if settings.weight is not None:
        if count != 2:
            raise ConfigError(
                f"--weight is for two adapters, not {count}", hint="give --weights W1,W2,..."
            )
        return [settings.weight, 1 - settings.weight]
    weights = list(settings.weights or ())
    if len(weights) != count:
        raise ConfigError(f"--weights has {len(weights)} numbers for {count} adapters")
    if not any(weights):
        raise ConfigError("--weights are all zero")
    return weights


def _common_base(adapters: Sequence[Adapter], ignore: bool) -> str | None:
    """Return the base model all adapters share; compare by fingerprint, or else by name."""
    first = adapters[0]
    for other in adapters[1:]:
        prints = first.record.get("base_fingerprint"), other.record.get("base_fingerprint")
        names = first.base, other.base
        known, same = all(prints), prints[0] == prints[1]
        if not known:
            known, same = all(names), _model_name(names[0]) == _model_name(names[1])
        if known and not same and not ignore:
            raise ArtifactError(
                f"adapter {other.path} was trained on {other.base}, {first.path} on {first.base}",
                hint="merge adapters of one base model, or pass --ignore-base if you know better",
            )
    return next((adapter.base for adapter in adapters if adapter.base), None)


def _model_name(name: str | None) -> str:
    """Compare hub names whole and local paths by their folder, wherever it was mounted."""
    path = Path(name or "")
    return path.name if path.is_absolute() or len(path.parts) != 2 else str(path)


def _fingerprint(adapters: Sequence[Adapter]) -> str | None:
    prints = {adapter.record.get("base_fingerprint") for adapter in adapters}
    return prints.pop() if len(prints) == 1 else None


def _merge_updates(
    adapters: Sequence[Adapter], weights: Sequence[float], dtype: str | None
) -> dict[str, LoraUpdate]:
    merged = {}
    for module in dict.fromkeys(module for adapter in adapters for module in adapter.modules):
        present = [
            (adapter.update(module), weight)
            for adapter, weight in zip(adapters, weights, strict=True)
            if module in adapter.factors
        ]
        _check_shapes(module, adapters, [update for update, _ in present])
        if any(weight for _, weight in present):
            update = concatenate([u for u, _ in present], [w for _, w in present])
            merged[module] = _as_dtype(update, dtype)
    return merged


def _check_shapes(module: str, adapters: Sequence[Adapter], updates: Sequence[LoraUpdate]) -> None:
    shapes = {(update.b.shape[0], update.a.shape[1]) for update in updates}
    if len(shapes) > 1:
        sizes = " and ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes))
        names = ", ".join(str(adapter.path) for adapter in adapters)
        raise ArtifactError(
            f"{module} is {sizes} in the adapters {names}",
            hint="they belong to different base models",
        )


def _as_dtype(update: LoraUpdate, dtype: str | None) -> LoraUpdate:
    if dtype is None:
        return update
    kind = getattr(torch, dtype)
    return LoraUpdate(update.a.to(kind), update.b.to(kind), update.scaling)


def _covers_all_layers(adapters: Sequence[Adapter], merged: dict[str, LoraUpdate]) -> bool:
    """An adapter that names no layers was trained on all of them; does one cover the result?"""
    return any(
        adapter.config.get("layers_to_transform") is None and set(adapter.factors) >= set(merged)
        for adapter in adapters
    )

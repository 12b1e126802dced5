"""Systems under evaluation: the base model and adapters, each with a unique name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptermix.adapters.adapter import Adapter, read_adapter
from adaptermix.errors import ConfigError
from adaptermix.files.hub import hub_place
from adaptermix.settings.evaluation import EvalSettings

BASE = "base"  # the base model's name where systems are side by side


@dataclass(frozen=True)
class Baseline:
    """The system that others are compared with, and why it is this one."""

    name: str
    reason: str


def read_systems(paths: Iterable[Path]) -> dict[str, Adapter]:
    """Read adapters, and name each by its file or folder, as a system beside the base model.

    Raises:
        ArtifactError: An adapter that cannot be read.
        ConfigError: Two of one name.
        ResourceError: A hub repository that cannot be had.
    """
    given = list(paths)
    adapters = [read_adapter(path) for path in given]
    return dict(zip(system_names(given), adapters, strict=True))


def system_names(paths: Iterable[Path]) -> list[str]:
    """Return the names of adapters as systems: of their files or folders.

    Where two have one name, the names of the folders above come before it, as many as it takes
    to tell them apart: ``run1-checkpoint-200`` for ``run1/checkpoint-200``.

    Raises:
        ConfigError: The same adapter twice.
    """
    given = list(paths)
    parts = [_parts(path) for path in given]
    for at, path in enumerate(given):
        if parts[at] in parts[:at]:
            raise ConfigError(
                f"--adapter {path}: a system named '{parts[at][-1]}' is there already",
                hint="name each adapter once",
            )
    depths = [1] * len(given)
    while True:
        names = ["-".join(p[-depth:]) for p, depth in zip(parts, depths, strict=True)]
        short = [
            at
            for at, name in enumerate(names)
            if (names.count(name) > 1 or name == BASE) and depths[at] < len(parts[at])
        ]
        if not short:
            return names
        for at in short:
            depths[at] += 1


def _parts(path: Path) -> tuple[str, ...]:
    """Return the names of an adapter and of the folders above it."""
    place = None if path.exists() else hub_place(str(path))
    parts = (
        (*place.repository.split("/"), *filter(None, place.folder.split("/")))
        if place
        else path.resolve().parts[1:]
    )
    end = f"@{place.revision.replace('/', '-')}" if place and place.revision else ""
    return (*parts[:-1], parts[-1].removesuffix(".safetensors") + end)


def systems_of(settings: EvalSettings) -> list[str]:
    """Return the names of what is tested: the base model, unless it is left out, and adapters.

    Raises:
        ConfigError: Two adapters of one name, a baseline that is none of them.
    """
    adapters = system_names(map(Path, settings.adapters))
    systems = [*([] if settings.exclude_base else [BASE]), *adapters]
    if settings.baseline not in (None, *systems):
        raise ConfigError(
            f"--baseline {settings.baseline}: no such system",
            hint=f"the systems are {', '.join(systems)}",
        )
    return systems


def choose_baseline(settings: EvalSettings, adapters: Mapping[str, Adapter]) -> Baseline:
    """Return what systems are compared with.

    A merge is compared with the adapter that counts most in it, for whether the merge is better
    than that adapter is what a user has to know; beside the base model both look good.
    """
    if settings.baseline is not None:
        return Baseline(settings.baseline, "chosen by --baseline")
    for name, adapter in adapters.items():
        if (source := _main_source(adapter, adapters)) is not None:
            return Baseline(source, f"the main source of {name}")
    if not settings.exclude_base:
        return Baseline(BASE, "the base model")
    return Baseline(next(iter(adapters)), "the first system")


def _main_source(merged: Adapter, adapters: Mapping[str, Adapter]) -> str | None:
    """Return the name of the source with the largest weight, if it is among the adapters."""
    try:
        main = max(merged.record["sources"], key=lambda source: source["weight"])
        blake3 = main["blake3"]
    except (KeyError, TypeError, ValueError):  # no merge, or a record of another version
        return None
    others = {name: adapter for name, adapter in adapters.items() if adapter is not merged}
    same = (name for name, other in others.items() if other.weights_hash == blake3)
    return next(same, None)

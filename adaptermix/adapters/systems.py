"""Systems under evaluation: the base model and adapters, each with a unique name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.adapters.adapter import Adapter, adapter_hash, read_adapter
from adaptermix.adapters.family import Family, family_hash, is_family, read_family
from adaptermix.adapters.seeds import seed_families
from adaptermix.errors import ConfigError
from adaptermix.files.hub import hub_place, path_of
from adaptermix.settings.evaluation import EvalSettings

BASE = "base"  # the base model's name where systems are side by side
System = Adapter | Family


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


def read_routed_systems(paths: Iterable[Path]) -> dict[str, System]:
    """Read adapters and families, each of which is one system, as ``read_systems`` reads adapters.

    Raises:
        ArtifactError: An adapter or a family that cannot be read.
        ConfigError: Two of one name.
        ResourceError: A hub repository that cannot be had.
    """
    given = list(paths)
    read = [read_family(path) if is_family(path) else read_adapter(path) for path in given]
    return dict(zip(system_names(given), read, strict=True))


def adapters_of(systems: Mapping[str, System]) -> dict[str, Adapter]:
    """Return all adapters of the systems by the system's name, those of families as FAMILY/NAME.

    Of a family, those that are there already are left out.
    """
    found = {name: system for name, system in systems.items() if isinstance(system, Adapter)}
    hashes = {adapter_hash(adapter) for adapter in found.values()}
    for name, system in systems.items():
        for own, adapter in system.adapters.items() if isinstance(system, Family) else ():
            if adapter_hash(adapter) not in hashes:
                hashes.add(adapter_hash(adapter))
                found[f"{name}/{own}"] = adapter
    return found


def adapter_for(system: System, lang: str) -> Adapter:
    """Return the adapter that a system answers a language with."""
    return system.adapter_for(lang) if isinstance(system, Family) else system


def system_record(system: System) -> dict[str, Any]:
    """Return what a record holds of a system."""
    if isinstance(system, Adapter):
        return {"path": str(system.path), "hash": adapter_hash(system)}
    routes = {lang: route.adapter for lang, route in system.content.routes.items()}
    return {
        "path": str(system.path),
        "hash": family_hash(system),
        "default": system.content.default,
        "routes": routes,
    }


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
    adapters = system_names(map(path_of, settings.adapters))
    systems = [*([] if settings.exclude_base else [BASE]), *adapters]
    if settings.baseline not in (None, *systems, *seed_families(systems)):
        raise ConfigError(
            f"--baseline {settings.baseline}: no such system",
            hint=f"the systems are {', '.join(systems)}",
        )
    return systems


def choose_baseline(settings: EvalSettings, systems: Mapping[str, System]) -> Baseline:
    """Return what systems are compared with.

    A merge is compared with the adapter that counts most in it, for whether the merge is better
    than that adapter is what a user has to know; beside the base model both look good. A family is
    compared with its task adapter.
    """
    if settings.baseline is not None:
        seeds = seed_families(systems).get(settings.baseline)
        name = settings.baseline if seeds is None else next(iter(seeds.values()))
        return Baseline(name, "chosen by --baseline")
    for name, system in systems.items():
        if (source := _main_source(system, systems)) is not None:
            what = "task adapter" if isinstance(system, Family) else "main source"
            return Baseline(source, f"the {what} of {name}")
    if not settings.exclude_base:
        return Baseline(BASE, "the base model")
    return Baseline(next(iter(systems)), "the first system")


def _main_source(system: System, systems: Mapping[str, System]) -> str | None:
    """Return the name of the source with the largest weight, if it is among the systems."""
    try:
        if isinstance(system, Family):
            blake3 = system.default.weights_hash
        else:
            blake3 = max(system.record["sources"], key=lambda source: source["weight"])["blake3"]
    except (KeyError, TypeError, ValueError):  # no merge, or a record of another version
        return None
    others = {n: o for n, o in systems.items() if o is not system and isinstance(o, Adapter)}
    same = (name for name, other in others.items() if other.weights_hash == blake3)
    return next(same, None)

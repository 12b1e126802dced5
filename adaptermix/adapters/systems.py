"""Systems under evaluation: the base model and adapters, each with a unique name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.adapters.adapter import Adapter, adapter_hash, read_adapter
from adaptermix.adapters.family import Family, family_hash, is_family, read_family
from adaptermix.adapters.seeds import seed_families
from adaptermix.errors import ConfigError
from adaptermix.files.hub import hub_place, path_of
from adaptermix.settings.evaluation import EvalSettings

BASE = "base"  # the base model's name among systems
System = Adapter | Family


@dataclass(frozen=True)
class Baseline:
    """The system that others are compared with, and the reason for its choice."""

    name: str
    reason: str


def read_systems(paths: Iterable[Path]) -> dict[str, Adapter]:
    """Read adapters, and name each as a system (``system_names``).

    Raises:
        ArtifactError: An adapter cannot be read.
        ConfigError: An adapter is given twice.
        ResourceError: A Hub repository cannot be downloaded.
    """
    given = list(paths)
    adapters = [read_adapter(path) for path in given]
    return dict(zip(system_names(given), adapters, strict=True))


def read_routed_systems(paths: Iterable[Path]) -> dict[str, System]:
    """Read adapters and families like ``read_systems``; each family is one system.

    Raises:
        ArtifactError: An adapter or a family cannot be read.
        ConfigError: An adapter or family is given twice.
        ResourceError: A Hub repository cannot be downloaded.
    """
    given = list(paths)
    read = [read_family(path) if is_family(path) else read_adapter(path) for path in given]
    return dict(zip(system_names(given), read, strict=True))


def adapters_of(systems: Mapping[str, System]) -> dict[str, Adapter]:
    """Return all adapters by the name of their system, or FAMILY/NAME for those of families.

    Adapters of a family that are already included are left out.
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
    """Return the adapter that a system uses for a language."""
    return system.adapter_for(lang) if isinstance(system, Family) else system


def system_record(system: System) -> dict[str, Any]:
    """Return a system's entry in a record."""
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
    """Return the names of adapters as systems: those of their files or folders.

    Equal names get the names of parent folders as a prefix, as many as are needed to make them
    unique: ``run1-checkpoint-200`` for ``run1/checkpoint-200``.

    Raises:
        ConfigError: An adapter is given twice.
    """
    given = list(paths)
    parts = [_parts(path) for path in given]
    for at, path in enumerate(given):
        if parts[at] in parts[:at]:
            raise ConfigError(
                f"--adapter {path}: there is already a system named '{parts[at][-1]}'",
                hint="name each adapter once",
            )
    return distinct_names(parts, BASE)


def distinct_names(parts: Sequence[tuple[str, ...]], *taken: str) -> list[str]:
    """Join the last parts of each path, as many as make it unlike the others and those taken."""
    depths = [1] * len(parts)
    while True:
        names = ["-".join(p[-depth:]) for p, depth in zip(parts, depths, strict=True)]
        short = [
            at
            for at, name in enumerate(names)
            if (names.count(name) > 1 or name in taken) and depths[at] < len(parts[at])
        ]
        if not short:
            return names
        for at in short:
            depths[at] += 1


def _parts(path: Path) -> tuple[str, ...]:
    """Return the names of an adapter and its parent folders, adapter last."""
    place = None if path.exists() else hub_place(str(path))
    parts = (
        (*place.repository.split("/"), *filter(None, place.folder.split("/")))
        if place
        else path.resolve().parts[1:]
    )
    end = f"@{place.revision.replace('/', '-')}" if place and place.revision else ""
    return (*parts[:-1], parts[-1].removesuffix(".safetensors") + end)


def systems_of(settings: EvalSettings) -> list[str]:
    """Return the names of the evaluated systems: the base model, unless excluded, and adapters.

    Raises:
        ConfigError: An adapter is given twice, or the baseline is not one of the systems.
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
    """Return the system that others are compared with.

    For a merge, it is the source with the largest weight, because users need to know whether the
    merge is better than that adapter; compared with the base model, both look good. An adapter that
    was trained for alignment is not a baseline if another source is: any merge with a task adapter
    is better than it. For a family, it is the task adapter.
    """
    if settings.baseline is not None:
        is_system = settings.baseline in (BASE, *systems)
        seeds = None if is_system else seed_families(systems).get(settings.baseline)
        name = settings.baseline if seeds is None else next(iter(seeds.values()))
        return Baseline(name, "chosen by --baseline")
    for name, system in systems.items():
        if (source := _main_source(system, systems)) is not None:
            what = "task adapter" if isinstance(system, Family) else "main adapter"
            return Baseline(source, f"the {what} of {name}")
    if not settings.exclude_base:
        return Baseline(BASE, "the base model")
    return Baseline(next(iter(systems)), "the first system")


def _main_source(system: System, systems: Mapping[str, System]) -> str | None:
    """Return the name of the source with the largest weight, if it is among the systems.

    If an adapter trained for alignment has it, the name is that of the largest other source that is
    among the systems.
    """
    others: dict[str, str] = {}
    for name, other in systems.items():
        if other is not system and isinstance(other, Adapter):
            others.setdefault(other.weights_hash, name)
    if isinstance(system, Family):
        return others.get(system.default.weights_hash)
    try:
        sources = [
            (float(each["weight"]), str(each["blake3"])) for each in system.record["sources"]
        ]
        largest = max(weight for weight, _ in sources)
    except (KeyError, TypeError, ValueError):  # not a merge, or a record of another version
        return None
    tested = [(weight, others[blake3]) for weight, blake3 in sources if blake3 in others]
    main = [name for weight, name in tested if weight == largest]
    if not main:
        return None
    by_weight = sorted((pair for pair in tested if pair[0] > 0), key=lambda pair: -pair[0])
    tasks = [name for _, name in by_weight if not _is_for_alignment(systems[name])]
    return next(iter(tasks), main[0])


def _is_for_alignment(system: System) -> bool:
    return isinstance(system, Adapter) and system.is_for_alignment

"""Systems under evaluation: the base model and adapters, each with a unique name."""

from collections.abc import Iterable
from pathlib import Path

from adaptermix.adapters.adapter import Adapter, read_adapter
from adaptermix.errors import ConfigError
from adaptermix.settings.evaluation import EvalSettings

BASE = "base"  # the base model's name where systems are side by side


def read_systems(paths: Iterable[Path]) -> dict[str, Adapter]:
    """Read adapters, and name each by its file or folder, as a system beside the base model.

    Raises:
        ArtifactError: An adapter that cannot be read.
        ConfigError: Two of one name.
        ResourceError: A hub repository that cannot be had.
    """
    adapters = [read_adapter(path) for path in paths]
    return dict(zip(system_names(adapter.path for adapter in adapters), adapters, strict=True))


def system_names(paths: Iterable[Path]) -> list[str]:
    """Return the names of adapters as systems: of their files or folders.

    Raises:
        ConfigError: Two of one name.
    """
    names: list[str] = []
    for path in paths:
        name = path.resolve().name.removesuffix(".safetensors")
        if name in (*names, BASE):
            raise ConfigError(
                f"--adapter {path}: a system named '{name}' is there already",
                hint="rename the file, so that the table can tell them apart",
            )
        names.append(name)
    return names


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

"""Everything adaptermix says on purpose when it stops.

    AdaptermixError          base; catch this to catch them all
    ├── ConfigError          a setting is wrong                            exit 3
    ├── DataError            an input file is wrong                        exit 4
    ├── ArtifactError        a model, adapter or output does not fit       exit 5
    └── ResourceError        a package, device, network or disk lacks      exit 6

Exit code 1 is a bug of ours, 2 an unknown option or a missing argument, 130 an interruption.
This module imports nothing from adaptermix, so every module may import it.
"""

from typing import ClassVar


class AdaptermixError(Exception):
    """A failure the user can act on."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Say what happened in ``message`` and what to do next in ``hint``."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(AdaptermixError):
    """A setting is unknown, out of range, or contradicts another."""

    exit_code = 3


class DataError(AdaptermixError):
    """An input file is missing, empty or malformed."""

    exit_code = 4


class ArtifactError(AdaptermixError):
    """A model or adapter is damaged or does not fit, or an output is in the way."""

    exit_code = 5


class ResourceError(AdaptermixError):
    """A package, device, network, memory or disk is missing."""

    exit_code = 6

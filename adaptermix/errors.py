"""The errors that adaptermix raises deliberately.

    AdaptermixError          base class of all errors
    ├── ConfigError          a setting is wrong                            exit 3
    ├── DataError            an input file is wrong                        exit 4
    ├── ArtifactError        a model, adapter or output does not fit       exit 5
    ├── ResourceError        a package, device, network or disk is missing exit 6
    └── StoppedError         a signal stopped a run that can resume        exit 130 or 143

Exit code 1 is a bug in adaptermix, 2 an unknown option or a missing argument, 130 an interruption
(Ctrl-C), 143 SIGTERM.
This module imports nothing from adaptermix, so that every module can import it.
"""

import copy
import signal
from importlib.util import find_spec
from typing import Self


class AdaptermixError(Exception):
    """A failure the user can act on."""

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Create an error; ``message`` says what happened, ``hint`` what to do next."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def restated(self, message: str, *, hint: str | None) -> Self:
        """Return an error of the same type and exit code with another message."""
        other = copy.copy(self)
        other.args = (message,)
        other.message, other.hint = message, hint
        return other


class ConfigError(AdaptermixError):
    """A setting is unknown, out of range, or contradicts another."""

    exit_code: int = 3


class DataError(AdaptermixError):
    """An input file is missing, empty or malformed."""

    exit_code: int = 4


class MissingDataError(DataError):
    """A language or split has no data; the existing data is not malformed."""


class ArtifactError(AdaptermixError):
    """A model or adapter is damaged or does not fit, or an output already exists."""

    exit_code: int = 5


class ResourceError(AdaptermixError):
    """A package, device, network, memory or disk is missing."""

    exit_code: int = 6


class StoppedError(AdaptermixError):
    """A signal stopped a run, which can be resumed."""

    def __init__(
        self, message: str, *, hint: str | None = None, number: int = signal.SIGTERM
    ) -> None:
        """Create an error for signal ``number``. The exit code is 128 plus it, as in a shell."""
        super().__init__(message, hint=hint)
        self.exit_code = 128 + number


# Import names of the packages of each extra. pyproject.toml has their versions.
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("torch", "transformers", "peft", "accelerate"),
    "eval": ("torch", "transformers", "peft", "accelerate"),
    "server": ("transformers", "aiohttp"),
    "lm-eval": ("torch", "transformers", "peft", "accelerate", "datasets", "lm_eval"),
    "report": ("vl_convert",),
    "search": ("vl_convert", "optuna"),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "trackio": ("trackio",),
    "gguf": ("gguf",),
    "datasets": ("datasets",),
}


def require_extra(extra: str) -> None:
    """Check that the packages of an optional extra are installed.

    Raises:
        ResourceError: A package is not installed.
    """
    for package in EXTRAS[extra]:
        if find_spec(package) is None:
            raise ResourceError(
                f"{package} is not installed", hint=f'pip install "adaptermix[{extra}]"'
            )


def first_line(error: BaseException) -> str:
    """Return the first line of any error's message, or its class name if the message is empty.

    A line that ends with a colon has its reason in the next one.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])

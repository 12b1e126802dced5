"""The resources that a step of a recipe requests on a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

KEYS = ("cpus", "gpus", "memory")
_SIZE = TypeAdapter(ByteSize)


@dataclass(frozen=True)
class Resources:
    """The resources that a step requests; None uses the default.

    Attributes:
        cpus: Number of CPU cores.
        gpus: Number of GPUs; a fraction shares one.
        memory: Memory in bytes.
    """

    cpus: float | None = None
    gpus: float | None = None
    memory: int | None = None


def read_resources(keys: Mapping[str, Any]) -> Resources:
    """Read the resources of a step, such as ``gpus = 1`` and ``memory = "24GB"``.

    Raises:
        ValueError: A value is invalid. Its arguments are the key and the reason.
    """
    known = {key: keys[key] for key in KEYS if key in keys}
    for key in known.keys() & {"cpus", "gpus"}:
        value = known[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise ValueError(key, f"must be a number from 0, not {value!r}")
        if key == "gpus" and value > 1 and value != int(value):  # Ray shares only single ones
            raise ValueError(key, f"must be a whole number or less than 1, not {value!r}")
    if "memory" in known:
        try:
            known["memory"] = int(_SIZE.validate_python(known["memory"]))
        except ValidationError as error:
            raise ValueError(
                "memory", f"must be a size such as 24GB, not {known['memory']!r}"
            ) from error
    return Resources(**known)

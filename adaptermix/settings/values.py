"""Parsers for the values of settings: text from a flag, or text and lists from a file."""

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from adaptermix.files.hub import path_of
from adaptermix.settings import locations

R = TypeVar("R")


def _split_commas(value: object) -> object:
    """Parse ``cy-en,sw-en`` as a list; lists from the file pass unchanged."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _refuse_repeats(names: tuple[R, ...]) -> tuple[R, ...]:
    repeated = [name for at, name in enumerate(names) if name in names[:at]]
    if repeated:
        raise ValueError(f"'{repeated[0]}' is listed twice")
    return names


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_refuse_repeats)]


Tracker = Literal["wandb", "mlflow", "trackio", "tensorboard"]
Trackers = Annotated[
    tuple[Tracker, ...], BeforeValidator(_split_commas), AfterValidator(_refuse_repeats)
]


def _split_adapters(value: object) -> object:
    """Parse ``a,b`` as two adapters; items of a list pass unchanged, with their commas."""
    return locations.split_adapters(value) if isinstance(value, str) else value


AdapterNames = Annotated[Names, BeforeValidator(_split_adapters), locations.Names("adapters")]


def weight_of(named: str) -> tuple[Path, float]:
    """Parse ``ADAPTER=0.5``, or ``ADAPTER``, which has weight 1."""
    name, weight = locations.without_weight(named)
    return path_of(name), float(weight[1:] or 1)


def _check_weighted(names: tuple[str, ...]) -> tuple[str, ...]:
    for name, weight in map(locations.without_weight, names):
        if weight and not 0 < abs(float(weight[1:])) < math.inf:
            raise ValueError(f"the weight of {name} must be finite and not 0")
    _refuse_repeats(tuple(locations.without_weight(name)[0] for name in names))
    return names


WeightedAdapters = Annotated[
    tuple[str, ...],
    AfterValidator(_check_weighted),
    BeforeValidator(_split_adapters),
    locations.Names("weighted-adapters"),
]


def _split_numbers(value: object) -> object:
    """Parse ``0.1,1.0`` or one number as a list; empty items are kept, so that they are refused."""
    if isinstance(value, int | float):
        return [value]
    if isinstance(value, str):
        return value.split(",") if value.strip() else []
    return value


def _read_layer(value: object) -> object:
    """Check a layer: a block's number, a name or a fraction; numbers from the file become text."""
    text = str(value)
    if text in ("bottom", "middle", "top", "top-normed", "auto") or re.fullmatch(
        r"0*[1-9]\d*", text
    ):
        return text
    if re.fullmatch(r"\d*\.\d+", text) and 0 < float(text) <= 1:
        return text
    raise ValueError(
        "expected the number of a block (from 1), bottom, middle, top, top-normed, auto, or a "
        "fraction of the depth such as 0.5"
    )


def _read_skip(value: object) -> object:
    """Check a number of tokens, or ``auto``."""
    if value == "auto" or re.fullmatch(r"\d+", str(value)):
        return value if value == "auto" else int(str(value))
    raise ValueError("expected a number from 0, or auto")


def check_seed(seed: int) -> int:
    """Return a seed that all random generators take.

    Raises:
        ValueError: It is negative or too large.
    """
    if not 0 <= seed < 2**32:  # NumPy's limit
        raise ValueError("must be a whole number from 0 to 2^32 - 1")
    return seed


Seed = Annotated[int, AfterValidator(check_seed)]
Weights = Annotated[tuple[float, ...], BeforeValidator(_split_numbers)]
Positive = Annotated[float, Field(gt=0)]
Temperatures = Annotated[
    tuple[Positive, ...], BeforeValidator(_split_numbers), AfterValidator(_refuse_repeats)
]
Layer = Annotated[str, BeforeValidator(_read_layer)]
PoolSkip = Annotated[int | Literal["auto"], BeforeValidator(_read_skip)]


def _read_arguments(value: object) -> object:
    """Parse ``{"seed": 1}`` or ``seed=1,quantization=fp8``; tables from the file pass unchanged."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(name.strip() and sign for name, sign, _ in pairs):
        raise ValueError("expected a JSON object or key=value,key=value")
    return {name.strip(): _json_or_text(text.strip()) for name, _, text in pairs}


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _python_names(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("--").replace("-", "_"): arguments[name] for name in arguments}


def _read_columns(value: object) -> object:
    """Parse ``prompt=question,completion=answer`` or JSON; tables from the file pass unchanged."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = [part.partition("=") for part in value.split(",")]
    if not all(name.strip() and column.strip() for name, _, column in pairs):
        raise ValueError("expected NAME=COLUMN,NAME=COLUMN")
    return {name.strip(): column.strip() for name, _, column in pairs}


def _read_groups(value: object) -> object:
    """Parse ``supervised=ar,en;aligned=cy``; tables from the file pass unchanged."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(";") if part.strip()]
    if not all(name.strip() and langs.strip() for name, _, langs in pairs):
        raise ValueError("expected name=lang,lang;name=lang")
    return {name.strip(): langs for name, _, langs in pairs}


def _read_ranges(value: object) -> object:
    """Parse ``0-15,20`` as numbers; lists from the file pass unchanged."""
    if not isinstance(value, str):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise ValueError("expected blocks such as 0-15,20")
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return numbers


def _refuse_bad_patterns(patterns: dict[str, Any]) -> dict[str, Any]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"'{pattern}' is not a regular expression: {error}") from error
    return patterns


def _server_address(url: str) -> str:
    """Check a server's URL, and add ``/v1`` if it has no path."""
    if "@" in url:  # EngineSettings refuses it with a message that omits the password
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("expected an address such as http://HOST:PORT")
    if parts.query or parts.fragment:
        raise ValueError("the address of a server must not contain ? or #")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


ServerUrls = Annotated[
    tuple[Annotated[str, AfterValidator(_server_address)], ...],
    AfterValidator(_refuse_repeats),
    BeforeValidator(_split_commas),
]
Layers = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_read_ranges)]
_Patterns = (BeforeValidator(_read_arguments), AfterValidator(_refuse_bad_patterns))
Ranks = Annotated[dict[str, PositiveInt], *_Patterns]
Alphas = Annotated[dict[str, PositiveFloat], *_Patterns]
Groups = Annotated[dict[str, Names], BeforeValidator(_read_groups)]
Columns = Annotated[dict[str, str], BeforeValidator(_read_columns)]
DataPlace = Annotated[Path | None, locations.Names("data")]
EngineArgs = Annotated[
    dict[str, Any], AfterValidator(_python_names), BeforeValidator(_read_arguments)
]

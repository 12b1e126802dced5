"""Results of lm-eval's tasks on disk: one file for each system and task, whole or not there.

A key says everything that results depend on, so a file is never wrong, only unused. Any trouble
with a file ends in a note and in asking again, never in an error.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptermix.errors import AdaptermixError
from adaptermix.files.outputs import cache_folder, whole_output

_FORMAT = 1  # of the files; another number makes other keys


@dataclass(frozen=True)
class Row:
    """The result of one example.

    Attributes:
        output: What the model answered; of choices, the likeliest.
        expected: The right answer.
        predicted: What each of the task's filters made of an answer.
        values: The example's values, by lm-eval's ``METRIC,FILTER``.
    """

    output: str
    expected: str
    predicted: dict[str, str]
    values: dict[str, float]


def content_key(content: Mapping[str, Any]) -> str:
    """Return the hash of all that results depend on; of functions, their source counts."""
    text = json.dumps({"format": _FORMAT, **content}, sort_keys=True, default=_source)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _source(value: object) -> str:
    if callable(value):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)


class HarnessResults:
    """Results by key.

    Attributes:
        notes: What went wrong so far, for the user.
    """

    def __init__(self, is_on: bool) -> None:
        """Name the folder; without a cache nothing is read or written."""
        self.folder: Path | None = cache_folder() / "lm-eval" if is_on else None
        self.notes: list[str] = []

    def get(self, key: str) -> list[Row] | None:
        """Return results that are known; None if they are not, or are damaged."""
        if self.folder is None or not self._path(key).is_file():
            return None
        try:
            rows = json.loads(self._path(key).read_text("utf-8"))
            return [Row(**row) for row in rows]
        except (OSError, ValueError, TypeError) as error:
            self.notes.append(f"{self._path(key)} cannot be read and is made again: {error}")
            return None

    def put(self, key: str, rows: Sequence[Row]) -> None:
        """Keep results."""
        if self.folder is None:
            return
        try:
            with whole_output(self._path(key)) as partial:
                partial.write_text(json.dumps([asdict(row) for row in rows]), "utf-8")
        except (OSError, AdaptermixError) as error:
            self.folder = None
            self.notes.append(f"results of lm-eval's tasks cannot be kept: {error}")

    def _path(self, key: str) -> Path:
        assert self.folder is not None  # noqa: S101 - callers have looked
        return self.folder / f"{key}.json"

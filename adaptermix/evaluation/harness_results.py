"""The cache of results of lm-eval's tasks: one file per system and task, written atomically.

A key covers everything that results depend on, so a file is never stale, only unused. A problem
with a file leads to a note and a new evaluation, never to an error.
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

_FORMAT = 1  # version of the files; part of every key


@dataclass(frozen=True)
class Row:
    """The result of one example.

    Attributes:
        output: The model's answer; for multiple choice, the most likely choice.
        expected: The correct answer.
        predicted: The answer after each of the task's filters, by filter.
        values: Metric values, by lm-eval's ``METRIC,FILTER``.
    """

    output: str
    expected: str
    predicted: dict[str, str]
    values: dict[str, float]


def content_key(content: Mapping[str, Any]) -> str:
    """Return the hash of everything that results depend on; functions count by their source."""
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
    """A cache of results by key.

    Attributes:
        notes: Notes for the user about failed reads and writes.
    """

    def __init__(self, is_on: bool) -> None:
        """Set up the cache; if it is off, nothing is read or written."""
        self.folder: Path | None = cache_folder() / "lm-eval" if is_on else None
        self.notes: list[str] = []

    def get(self, key: str) -> list[Row] | None:
        """Return the cached results; None if there are none, or the file is damaged."""
        if self.folder is None or not self._path(key).is_file():
            return None
        try:
            rows = json.loads(self._path(key).read_text("utf-8"))
            return [Row(**row) for row in rows]
        except (OSError, ValueError, TypeError) as error:
            self.notes.append(f"{self._path(key)} cannot be read; evaluating again: {error}")
            return None

    def put(self, key: str, rows: Sequence[Row]) -> None:
        """Store results."""
        if self.folder is None:
            return
        try:
            with whole_output(self._path(key)) as partial:
                partial.write_text(json.dumps([asdict(row) for row in rows]), "utf-8")
        except (OSError, AdaptermixError) as error:
            self.folder = None
            self.notes.append(f"results of lm-eval's tasks cannot be cached: {error}")

    def _path(self, key: str) -> Path:
        assert self.folder is not None  # noqa: S101 - callers check it
        return self.folder / f"{key}.json"

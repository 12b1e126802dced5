"""The on-disk cache of decoded answers: one SQLite file for all models and adapters.

A key covers everything that an answer depends on (``CachedGenerator`` builds it), so an entry is
never wrong, only unused. A problem with the file leads to a note and decoding, never to an error.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from adaptermix.generation.engine import Generated

FILE_NAME = "answers-1.sqlite3"  # the number changes with the table
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, text TEXT NOT NULL, is_cut INTEGER NOT NULL, tokens INTEGER NOT NULL
) WITHOUT ROWID
"""
_KEYS_A_QUERY = 500
_PATIENCE = 30.0  # seconds to wait while another process writes
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
R = TypeVar("R")


class AnswerCache:
    """Answers by key. Safe for several processes; a kill leaves only complete groups.

    The file is opened and closed in each call, so that no connection is open when an engine
    forks. It has a rollback journal rather than a write-ahead log, which needs shared memory that
    network file systems lack.

    Attributes:
        notes: Problems so far, for the user.
    """

    def __init__(self, folder: Path) -> None:
        """Store the folder, which is created when it is first needed."""
        self.path = folder / FILE_NAME
        self.notes: list[str] = []
        self._is_on = True

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Generated]:
        """Return the cached answers of these keys."""
        found = self._try(lambda connection: _select(connection, keys))
        return found or {}

    def put(self, answers: Mapping[bytes, Generated]) -> None:
        """Store answers whose keys are new: all of them or, after a kill, none."""
        rows = [(key, a.text, a.is_truncated, a.tokens) for key, a in answers.items()]
        self._try(
            lambda connection: connection.executemany(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", rows
            )
        )

    def _try(self, work: Callable[[sqlite3.Connection], R]) -> R | None:
        """Use the file; after a problem, continue without it."""
        if not self._is_on:
            return None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as connection:
                return work(connection)
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and code & 0xFF in _DAMAGED and self._set_aside():
                return self._try(work)
            self._give_up(str(error))
        except OSError as error:
            self._give_up(error.strerror or str(error))
        return None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as connection, connection:
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_TABLE)
            yield connection

    def _set_aside(self) -> bool:
        """Rename a damaged file, once, and return whether a new one may take its place."""
        aside = self.path.with_name(f"{self.path.name}.damaged")
        if any(str(aside) in note for note in self.notes):
            return False
        try:
            self.path.replace(aside)
        except FileNotFoundError:  # another process was faster
            return True
        except OSError:
            return False
        self.notes.append(
            f"the answer cache was damaged; it was moved to {aside}, and a new one was started"
        )
        return True

    def _give_up(self, why: str) -> None:
        self._is_on = False
        self.notes.append(
            f"the answer cache {self.path} cannot be used: {why}; continuing without it"
        )


def _select(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Generated]:
    found: dict[bytes, Generated] = {}
    for part in (keys[at : at + _KEYS_A_QUERY] for at in range(0, len(keys), _KEYS_A_QUERY)):
        marks = ",".join("?" * len(part))
        rows = connection.execute(f"SELECT * FROM answers WHERE key IN ({marks})", part)
        found |= {key: Generated(text, bool(is_cut), tokens) for key, text, is_cut, tokens in rows}
    return found

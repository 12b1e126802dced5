"""Descriptions of public data: addresses, digests, licenses, and local names of files."""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GB = 1_000_000_000


@dataclass(frozen=True)
class Member:
    """A file to keep.

    Attributes:
        local: Its name in the source's folder. ``*`` stands for the same text as in ``inside``.
        inside: Its path in the archive, possibly with ``*``; empty if there is no archive.
        is_tagged: Whether to remove lines with tags such as ``<url>``, which are metadata.
    """

    local: str
    inside: str = ""
    is_tagged: bool = False


@dataclass(frozen=True)
class Remote:
    """One upstream file.

    Attributes:
        path: Its path relative to the source's address.
        members: The files to keep from it.
        size: Size in bytes, if published.
        digest: ``sha256:...``, or ``git:...`` for the git object id of the content; empty if none
            is published.
        other: Alternative to try if this file does not exist.
    """

    path: str
    members: tuple[Member, ...]
    size: int | None = None
    digest: str = ""
    other: "Remote | None" = None


@dataclass(frozen=True)
class Source:
    """Public data, pinned to a version.

    Attributes:
        name: Its name on the command line.
        title: Its title, with the version.
        folder: Its folder in the folder of all data.
        address: Common prefix of its files' URLs.
        page: URL of its description.
        license: Its license.
        citation: The publication to cite.
        by: Whether the user chooses languages or language pairs.
        known: The possible choices; empty if they are not restricted.
        default: The default choice.
        remotes: Returns the upstream files for a choice.
        limit: Maximum unpacked size of an archive, in bytes.
        notes: Notes to read before using the data.
    """

    name: str
    title: str
    folder: str
    address: str
    page: str
    license: str
    citation: str
    by: Literal["langs", "pairs"]
    known: tuple[str, ...]
    default: tuple[str, ...]
    remotes: Callable[[Sequence[str]], list[Remote]]
    limit: int = 4 * GB
    notes: tuple[str, ...] = ()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_inside(path: Path) -> str:
    """Return the SHA-256 of the content of a gzipped file, or an empty string if it is damaged."""
    try:
        with gzip.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error):
        return ""


def git_object_id(path: Path) -> str:
    """Return the git object id of a file's content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def has_digest(path: Path, digest: str) -> bool:
    """Whether a file matches a digest."""
    kind, _, value = digest.partition(":")
    return value == (git_object_id(path) if kind == "git" else sha256(path))

"""What is known of public data: addresses, digests, licenses, and where each file goes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GB = 1_000_000_000


@dataclass(frozen=True)
class Member:
    """A file to keep.

    Attributes:
        local: Its name in the folder of the source. ``*`` stands for the same as in ``inside``.
        inside: Its path in the archive, which may hold ``*``; empty where the file is no archive.
        is_tagged: Lines with tags such as ``<url>`` describe the text and are left out.
    """

    local: str
    inside: str = ""
    is_tagged: bool = False


@dataclass(frozen=True)
class Remote:
    """One file upstream.

    Attributes:
        path: Its path below the source's address.
        members: What is kept of it.
        size: Bytes, where they are published.
        digest: ``sha256:...``, or ``git:...`` for the object id that git has for the content; empty
            where nothing is published.
        other: Another name of the same data, for where the first does not exist.
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
        title: What it is, with the version.
        folder: Its folder in the folder of all data.
        address: What all its files' addresses begin with.
        page: Where it is described.
        license: Its license.
        citation: The publication to cite.
        by: Whether languages or pairs of languages are chosen.
        known: What there is to choose; empty where anything may be asked for.
        default: What is taken without a choice.
        remotes: The files upstream that hold a choice.
        limit: Bytes that an archive may unpack to.
        notes: What to know before the data is used.
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


def git_object_id(path: Path) -> str:
    """Return the object id that git gives a file of this content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def has_digest(path: Path, digest: str) -> bool:
    """Whether a file has a published digest."""
    kind, _, value = digest.partition(":")
    return value == (git_object_id(path) if kind == "git" else sha256(path))

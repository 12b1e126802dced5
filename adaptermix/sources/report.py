"""The report of ``data get``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adaptermix.files.outputs import Report
from adaptermix.tables import Cell, Line, View, noted

FileStatus = Literal["written", "there", "kept", "missing"]
RemoteStatus = Literal["downloaded", "copied", "there", "planned"]
_DID = {
    "downloaded": "downloaded",
    "copied": "copied",
    "there": "is there",
    "planned": "to download",
}


@dataclass(frozen=True)
class RemoteReport:
    """One upstream file.

    Attributes:
        address: URL where it is published.
        taken_from: Where it was read from, if not there.
        status: What was done with it.
        size: Size in bytes; the published one if it was not downloaded, None if unknown.
        sha256: Digest of the download, or else the published or recorded one, or empty.
        is_published: Whether a published digest confirms it.
    """

    address: str
    taken_from: str
    status: RemoteStatus
    size: int | None
    sha256: str
    is_published: bool


@dataclass(frozen=True)
class FileReport:
    """One local file of the data."""

    path: str
    size: int | None
    sha256: str
    status: FileStatus


@dataclass(frozen=True)
class GetReport(Report):
    """The result of getting one source."""

    source: str
    title: str
    folder: str
    page: str
    license: str
    citation: str
    downloads: Sequence[RemoteReport]
    files: Sequence[FileReport]
    notes: Sequence[str]

    def view(self) -> View:
        """Return the human-readable view."""
        lines: list[Line] = [(Cell(self.title, look="strong"), f" in {self.folder}")]
        lines += [_shown(remote) for remote in self.downloads]
        counts = [(status, self._count(status)) for status in ("written", "there", "kept")]
        told = ", ".join(f"{count} {status}" for status, count in counts if count)
        lines += [f"files: {told}"] if told else []
        lines += [f"page: {self.page}", f"license: {self.license}", f"cite: {self.citation}"]
        return View(lines, noted(self.notes))

    def _count(self, status: str) -> int:
        return sum(file.status == status for file in self.files)


def _shown(remote: RemoteReport) -> str:
    where = remote.address
    if remote.taken_from != remote.address:
        where += f" from {remote.taken_from}"
    known = [] if remote.size is None else [amount(remote.size)]
    if remote.sha256:
        known.append(f"sha256 {remote.sha256[:12]}")
    if remote.is_published:
        known.append("as published" if remote.status in ("downloaded", "copied") else "published")
    return f"{_DID[remote.status]}: {where}" + (f" ({', '.join(known)})" if known else "")


def amount(size: int) -> str:
    """Format a number of bytes with a suitable unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"

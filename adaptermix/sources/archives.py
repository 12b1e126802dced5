"""Unpack untrusted archives: no paths outside the folder, no links, no archive bombs."""

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from adaptermix.errors import DataError
from adaptermix.sources.source import Member

_MOST_MEMBERS = 100_000
_BLOCK = 1 << 20
WEB_PAGE = "it is a web page"
# Lines of IWSLT's files that describe a talk. Sentences may begin with "<" too.
_TAG = re.compile(
    rb"\s*</?(doc|url|keywords|speaker|talkid|title|description|reviewer|translator)\b"
)


@dataclass(frozen=True)
class Archive:
    """A tar or zip archive.

    Attributes:
        path: Path of the archive.
        name: Its origin, for messages.
        limit: Maximum total size after unpacking, in bytes.
    """

    path: Path
    name: str
    limit: int


@dataclass(frozen=True)
class _Entry:
    """A file in an archive: its path and the opened file."""

    path: str
    file: IO[bytes]


def unpack(archive: Archive, members: Sequence[Member], folder: Path) -> list[str]:
    """Extract the wanted members of an archive to a folder.

    All members are checked, wanted or not. An archive with a link, a device or a path outside it
    cannot be the published one, and is refused entirely. Of members with the same path, the last
    one counts, as in tar and zip programs.

    Args:
        archive: The archive.
        members: The members to extract.
        folder: Output folder; files get their local names there.

    Returns:
        The local names.

    Raises:
        DataError: The file is not an archive or damaged, has unsafe members, unpacks to too many
            bytes, or lacks a wanted member.
    """
    written: dict[str, None] = {}
    found: set[Member] = set()
    with _readable(archive):
        for entry in _entries(archive):
            for member in members:
                if fnmatchcase(entry.path, member.inside):
                    local = _local(member, entry.path)
                    _write(entry.file, folder / local, member.is_tagged)
                    written[local] = None
                    found.add(member)
    missing = [member for member in members if member not in found]
    if missing:
        raise DataError(
            f"{archive.name}: the archive does not contain {missing[0].inside}",
            hint="the data does not include this language, or the archive is a different version",
        )
    return [*written]


def seems(path: Path) -> str:
    """Describe a file that does not have the expected format."""
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    if not start:
        return "it is empty"
    return WEB_PAGE if start.startswith(b"<") else "it is incomplete or damaged"


def _local(member: Member, path: str) -> str:
    return PurePosixPath(path).name if "*" in member.inside else member.local


def _entries(archive: Archive) -> Iterator[_Entry]:
    if zipfile.is_zipfile(archive.path):
        yield from _zip_entries(archive)
    elif tarfile.is_tarfile(archive.path):
        yield from _tar_entries(archive)
    else:
        raise _unreadable(archive, seems(archive.path))


def _tar_entries(archive: Archive) -> Iterator[_Entry]:
    total = 0
    with tarfile.open(archive.path) as tar:
        for count, info in enumerate(tar):
            total += info.size
            _check_amount(archive, total, count)
            tarfile.data_filter(info, "/nowhere")  # refuses outside paths, devices and pipes
            path = _plain(archive, info.name)
            if not (info.isfile() or info.isdir()):
                raise _unsafe(archive, info.name, "a link")
            if info.isfile() and (file := tar.extractfile(info)):
                yield _Entry(path, file)


def _zip_entries(archive: Archive) -> Iterator[_Entry]:
    total = 0
    with zipfile.ZipFile(archive.path) as zipped:
        for count, info in enumerate(zipped.infolist()):
            total += info.file_size
            _check_amount(archive, total, count)
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _unsafe(archive, info.filename, "a link or a device")
            if info.flag_bits & 1:
                raise _unsafe(archive, info.filename, "encrypted")
            path = _plain(archive, info.filename)
            if not info.is_dir():
                with zipped.open(info) as file:
                    yield _Entry(path, file)


def _plain(archive: Archive, name: str) -> str:
    """Return a path without ``./``, and refuse paths that lead out of the archive."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise _unsafe(archive, name, "a path outside the archive")
    return str(path)


def _check_amount(archive: Archive, total: int, count: int) -> None:
    if total > archive.limit or count >= _MOST_MEMBERS:
        raise DataError(
            f"{archive.name}: the archive contains more than {archive.limit:,} bytes or "
            f"{_MOST_MEMBERS:,} files",
            hint="this is not the published archive; use another copy with --mirror",
        )


def _unsafe(archive: Archive, name: str, what: str) -> DataError:
    return DataError(
        f"{archive.name}: the archive was not unpacked, because {name!r} is {what}",
        hint="this is not the published archive; use another copy with --mirror",
    )


def _unreadable(archive: Archive, why: str) -> DataError:
    return DataError(
        f"{archive.name}: not readable as an archive: {why}",
        hint="run the command again; if that does not help, use another copy with --mirror",
    )


@contextmanager
def _readable(archive: Archive) -> Iterator[None]:
    """Convert errors about an archive to ``DataError``."""
    try:
        yield
    except tarfile.FilterError as error:
        raise _unsafe(archive, error.tarinfo.name, "a path outside, a link or a device") from error
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
    ) as error:
        raise _unreadable(archive, str(error)) from error
    except OSError as error:
        if error.errno is not None:  # of the file system, not of gzip or bzip2
            raise
        raise _unreadable(archive, str(error)) from error


def _write(file: IO[bytes], path: Path, is_tagged: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        if is_tagged:
            out.writelines(line for line in file if not _TAG.match(line))
        else:
            while block := file.read(_BLOCK):
                out.write(block)

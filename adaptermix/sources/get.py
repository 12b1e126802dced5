"""Get public data: download missing files, check them, unpack them, and record them."""

import os
import shutil
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adaptermix.errors import ConfigError, DataError
from adaptermix.files.outputs import whole_output
from adaptermix.progress import OnProgress, Progress, ignore
from adaptermix.sources.archives import WEB_PAGE, Archive, seems, unpack
from adaptermix.sources.download import Download, MissingUpstreamError, Patience, download
from adaptermix.sources.lock import LOCK_NAME, Lock, alone_in, read_lock
from adaptermix.sources.report import FileReport, FileStatus, GetReport, RemoteReport, RemoteStatus
from adaptermix.sources.source import GB, Member, Remote, Source, has_digest, sha256
from adaptermix.tables import number_of

_MOST = 2 * GB  # maximum bytes of a file without a published size
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Order:
    """The data to get.

    Attributes:
        source: The source.
        names: Languages or pairs, by the source's names.
        out: Folder of all data.
        mirror: Folder, file or URL with copies, used instead of the source's address.
        force: Replace existing files, and accept content that differs from the record.
    """

    source: Source
    names: tuple[str, ...]
    out: Path = Path("data")
    mirror: str | None = None
    force: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the source's files."""
        return self.out / self.source.folder

    @property
    def line(self) -> str:
        """The command line of the same order."""
        names = f" --{self.source.by} {','.join(self.names)}"
        if self.names == self.source.default:
            names = ""
        return f"adaptermix data get {self.source.name}{names} -o {self.out}"

    @property
    def hint(self) -> str:
        """What to do if the source is not available."""
        return f"use a copy (a folder, a file or an address): {self.line} --mirror COPY"


def get(
    order: Order,
    *,
    dry_run: bool = False,
    on_progress: OnProgress = ignore,
    patience: Patience | None = None,
) -> GetReport:
    """Get data of one source. Existing files are kept and not downloaded again.

    Args:
        order: The data to get.
        dry_run: Report what would be downloaded, without contacting a server.
        on_progress: Called with the progress of the downloads.
        patience: Timeouts and retries.

    Raises:
        ConfigError: The mirror is neither a folder, a file nor a URL.
        DataError: The content differs from the published or recorded one, or the archive is bad.
        ResourceError: The server cannot be reached or refuses, or it or the mirror lacks a file.
    """
    remotes = order.source.remotes(order.names)
    if order.mirror is not None:
        _check_mirror(order, remotes)
    for path in (path for remote in remotes for path in _files_of(order, remote)):
        if path.is_dir():  # writing the file would replace it
            raise DataError(f"{path}: a folder, not a file", hint="move it to another place")
    if dry_run or not _missing(order, remotes):
        return _report(order, remotes, read_lock(order.out), {})
    with alone_in(order.out) as work:
        lock = read_lock(order.out)  # read again under the lock
        getting = _Getting(order, lock, work, on_progress, patience or Patience())
        done = {}
        for remote in remotes:
            if _missing(order, [remote]):
                done[remote] = getting.get(remote)
    return _report(order, remotes, lock, done)


@dataclass(frozen=True)
class _Done:
    """The result of getting one upstream file."""

    remote: Remote
    taken_from: str
    written: tuple[str, ...]


@dataclass(frozen=True)
class _Getting:
    """Gets upstream files one after the other."""

    order: Order
    lock: Lock
    work: Path
    on_progress: OnProgress
    patience: Patience

    def get(self, remote: Remote) -> _Done:
        """Download one file, check it, and move its wanted members to their place."""
        name = remote.path.replace("/", "-")
        arrived = self.work / name
        try:
            place = _place(self.order, remote)
            self._bring(place, remote, arrived)
        except MissingUpstreamError:
            if remote.other is None:
                raise
            return self.get(remote.other)
        self._check(remote, arrived, place)
        limit = self.order.source.limit
        with _emptied(self.work / f"{name}.unpacked") as unpacked:
            written = self._lay_out(remote, Archive(arrived, str(place), limit), unpacked)
            self._record(remote, arrived, unpacked, written)
            for local in written:
                with whole_output(self.order.folder / local) as partial:
                    shutil.move(unpacked / local, partial)  # its folder may be on another disk
                (self.order.folder / f"{local}.gz").unlink(missing_ok=True)
        arrived.unlink(missing_ok=True)
        return _Done(remote, str(place), tuple(written))

    def _bring(self, place: str | Path, remote: Remote, arrived: Path) -> None:
        if isinstance(place, Path):
            shutil.copyfile(place, arrived)
            return
        stage = f"{self.order.source.name}: {Path(remote.path).name}"

        def tell(done: int, total: int | None) -> None:
            kilo = None if total is None else total // 1000
            self.on_progress(Progress(stage, done // 1000, kilo, detail="kB"))

        limit = remote.size or _MOST
        wanted = Download(place, arrived, limit, _headers(self.order, place), self.order.hint)
        download(wanted, tell, self.patience)

    def _check(self, remote: Remote, arrived: Path, place: str | Path) -> None:
        """Compare a file with the published size and digest, or else with the first download."""
        size = arrived.stat().st_size
        if remote.size is not None and size != remote.size:
            raise self._refused(
                arrived, f"{place}: {size:,} bytes, but the published file has {remote.size:,}"
            )
        if remote.digest and not has_digest(arrived, remote.digest):
            raise self._refused(
                arrived, f"{place}: the digest is not the published {remote.digest}"
            )
        if remote.path.endswith(".parquet") and not _is_parquet(arrived):
            raise self._refused(arrived, f"{place}: not a Parquet file: {seems(arrived)}")
        recorded = self.lock.downloads.get(_address(self.order.source, remote))
        if remote.digest or recorded is None or self.order.force:
            return
        if (found := sha256(arrived)) != recorded.get("sha256"):
            arrived.unlink()
            raise DataError(
                f"{place}: sha256 {found}, but {self.lock.path} recorded {recorded.get('sha256')}",
                hint="the file changed upstream, or this is another copy; --force accepts "
                "and records it",
            )

    def _refused(self, arrived: Path, message: str) -> DataError:
        what = seems(arrived)
        arrived.unlink()
        return DataError(
            f"{message}: {what}" if what == WEB_PAGE and what not in message else message,
            hint=f"the file changed upstream or was damaged during the download; {self.order.hint}",
        )

    def _lay_out(self, remote: Remote, arrived: Archive, unpacked: Path) -> list[str]:
        """Unpack or copy the wanted members that do not exist yet; return their local names."""
        members = [m for m in remote.members if self.order.force or not _is_there(self.order, m)]
        if not remote.members[0].inside:
            for member in members:
                shutil.copyfile(arrived.path, unpacked / member.local)
            return [member.local for member in members]
        try:
            return unpack(arrived, members, unpacked)
        except DataError:
            arrived.path.unlink()  # so that the next run downloads it again
            raise

    def _record(self, remote: Remote, arrived: Path, unpacked: Path, written: list[str]) -> None:
        """Record files before they are moved to their place, so that a killed run is repeated."""
        source = self.order.source
        address = _address(source, remote)
        self.lock.downloads[address] = {
            "sha256": sha256(arrived),
            "size": arrived.stat().st_size,
            "source": source.name,
            "license": source.license,
        }
        for local in written:
            self.lock.files[f"{source.folder}/{local}"] = {
                "sha256": sha256(unpacked / local),
                "size": (unpacked / local).stat().st_size,
                "from": address,
            }
        self.lock.write()


def _is_parquet(path: Path) -> bool:
    """Whether a file begins and ends like Parquet; unpacking checks the other formats."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        return start == file.read(4) == b"PAR1"


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _missing(order: Order, remotes: Sequence[Remote]) -> bool:
    """Whether any file must be written."""
    wanted = [member for remote in remotes for member in remote.members]
    return order.force or not all(_is_there(order, member) for member in wanted)


def _is_there(order: Order, member: Member) -> bool:
    return any(True for _ in _here(order, member))


def _here(order: Order, member: Member) -> Iterator[Path]:
    """Yield the local files of a member, plain or compressed."""
    for name in (member.local, f"{member.local}.gz"):
        yield from order.folder.glob(name)


def _address(source: Source, remote: Remote) -> str:
    """Return the address where a file is published, even if it is read from a mirror."""
    return source.address + remote.path


def _hub() -> str:
    """Return the Hub's address, which HF_ENDPOINT can change."""
    try:
        from huggingface_hub import constants
    except ValueError:  # it takes the address apart when it is imported
        endpoint = os.environ.get("HF_ENDPOINT", "")
    else:
        endpoint = str(constants.ENDPOINT).rstrip("/")
    if not _is_address(endpoint):
        raise ConfigError(
            f"HF_ENDPOINT={endpoint}: expected an http(s) address",
            hint="unset HF_ENDPOINT, or name the address of a copy of the Hub",
        )
    return endpoint


def _headers(order: Order, place: str) -> dict[str, str]:
    """Return headers with the mirror's password or the Hub's token, for their servers only."""
    account = urlsplit(order.mirror or "").netloc.rpartition("@")[0]
    if account:
        coded = b64encode(unquote(account).encode()).decode()
        return {"Authorization": f"Basic {coded}"}
    if not place.startswith(f"{_hub()}/"):
        return {}
    from huggingface_hub.utils import build_hf_headers

    return dict(build_hf_headers(library_name="adaptermix"))


def _place(order: Order, remote: Remote) -> str | Path:
    """Return the URL, without a password, or the local file to read."""
    if order.mirror is None:
        address = _address(order.source, remote)
        return _hub() + address.removeprefix(HUB) if address.startswith(HUB + "/") else address
    if _is_address(order.mirror):
        parts = urlsplit(order.mirror)
        server = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{server}{parts.path.rstrip('/')}/{remote.path}"
    copy = Path(order.mirror)
    name = remote.path.rpartition("/")[2]
    if copy.is_file() and (remote.other is None or copy.name == name):
        return copy
    everything = order.source.remotes(order.source.known or order.source.default)
    is_shared = sum(other.path.endswith(f"/{name}") for other in everything) > 1
    places = [copy / remote.path] if is_shared else [copy / remote.path, copy / name]
    for path in places:
        if path.is_file():
            return path
    address = _address(order.source, remote)
    raise MissingUpstreamError(f"{copy}: no {remote.path}", hint=f"put a copy of {address} there")


def _is_address(mirror: str) -> bool:
    try:
        parts = urlsplit(mirror)
        is_whole = parts.port is None or parts.port > 0
    except ValueError:  # such as an unclosed bracket, or a port that is not a number
        return False
    is_plain = mirror.isprintable() and " " not in mirror and not parts.query + parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and is_whole and is_plain


def _check_mirror(order: Order, remotes: Sequence[Remote]) -> None:
    mirror = order.mirror or ""
    if _is_address(mirror) or Path(mirror).is_dir():
        return
    if not Path(mirror).is_file():
        raise ConfigError(f"--mirror {mirror}: expected a folder, a file, or an http(s) address")
    wanted = [remote for remote in remotes if _missing(order, [remote])]
    if len(wanted) > 1:
        raise ConfigError(
            f"--mirror {mirror}: one file, but {len(wanted)} files are needed",
            hint="name the folder that contains " + ", ".join(remote.path for remote in wanted[:3]),
        )


def _report(
    order: Order, remotes: Sequence[Remote], lock: Lock, done: dict[Remote, _Done]
) -> GetReport:
    source = order.source
    files = [
        _file_report(order, lock, path, done)
        for remote in remotes
        for path in _files_of(order, done[remote].remote if remote in done else remote)
    ]
    return GetReport(
        source=source.name,
        title=source.title,
        folder=str(order.folder),
        page=source.page,
        license=source.license,
        citation=source.citation,
        downloads=[_remote_report(order, remote, lock, done.get(remote)) for remote in remotes],
        files=files,
        notes=[*source.notes, *_notes_on_kept(order, lock, files)],
    )


def _notes_on_kept(order: Order, lock: Lock, files: Sequence[FileReport]) -> Iterator[str]:
    """Yield a note on the kept files that differ from their record, and on those without one."""
    kept = [file.path for file in files if file.status == "kept"]
    others = [path for path in kept if lock.knows(_recorded_name(order, path), Path(path)) is None]
    differing = [path for path in kept if path not in others]
    told = {f"differ from {LOCK_NAME}": differing, f"are not in {LOCK_NAME}": others}
    for what, paths in told.items():
        if paths:
            yield (
                f"kept {number_of(len(paths), 'existing file')} that {what}, such as {paths[0]}; "
                "--force replaces them"
            )


def _recorded_name(order: Order, path: Path | str) -> str:
    return f"{order.source.folder}/{Path(path).relative_to(order.folder).as_posix()}"


def _files_of(order: Order, remote: Remote) -> Iterator[Path]:
    for member in remote.members:
        yield from list(_here(order, member)) or [order.folder / member.local]


def _file_report(order: Order, lock: Lock, path: Path, done: dict[Remote, _Done]) -> FileReport:
    name = os.fspath(path)
    if not path.is_file():
        return FileReport(name, None, "", "missing")
    found = sha256(path)
    local = path.relative_to(order.folder).as_posix()
    is_new = any(local in one.written for one in done.values())
    is_recorded = lock.knows(_recorded_name(order, path), path)
    status: FileStatus = "written" if is_new else "there" if is_recorded else "kept"
    return FileReport(name, path.stat().st_size, found, status)


def _remote_report(order: Order, remote: Remote, lock: Lock, done: _Done | None) -> RemoteReport:
    taken = done.remote if done else remote
    address = _address(order.source, taken)
    recorded = lock.downloads.get(address, {})
    published = taken.digest.removeprefix("sha256:") if taken.digest[:4] == "sha2" else ""
    is_copied = done is not None and not _is_address(done.taken_from)
    status: RemoteStatus = "planned" if _missing(order, [remote]) else "there"
    if done is not None:
        status = "copied" if is_copied else "downloaded"
    return RemoteReport(
        address=address,
        taken_from=done.taken_from if done else address,
        status=status,
        size=recorded.get("size", taken.size),
        sha256=str(recorded.get("sha256", published)),
        is_published=bool(taken.digest),
    )

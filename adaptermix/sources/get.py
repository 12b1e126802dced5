"""Get public data: download what is missing, check it, unpack it, and record it."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from adaptermix.errors import ConfigError, DataError
from adaptermix.files.outputs import whole_output
from adaptermix.progress import OnProgress, Progress, ignore
from adaptermix.sources.archives import Archive, unpack
from adaptermix.sources.download import Download, MissingUpstreamError, Patience, download
from adaptermix.sources.lock import LOCK_NAME, Lock, alone_in, read_lock
from adaptermix.sources.report import FileReport, FileStatus, GetReport, RemoteReport, RemoteStatus
from adaptermix.sources.source import GB, Member, Remote, Source, has_digest, sha256

_MOST = 2 * GB  # bytes of a file whose size is not published
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Order:
    """What to get.

    Attributes:
        source: Which data.
        names: Languages or pairs, as the source names them.
        out: Folder of all data.
        mirror: Where copies are: a folder, a file, or an address, in place of the source's own.
        force: Replace files that are there, and take content that is not what was recorded.
    """

    source: Source
    names: tuple[str, ...]
    out: Path = Path("data")
    mirror: str | None = None
    force: bool = False

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return self.out / self.source.folder

    @property
    def line(self) -> str:
        """The command that gets this."""
        names = f" --{self.source.by} {','.join(self.names)}"
        if self.names == self.source.default:
            names = ""
        return f"adaptermix data get {self.source.name}{names} -o {self.out}"

    @property
    def hint(self) -> str:
        """What to do where the source cannot be had."""
        return f"use a copy: {self.line} --mirror FOLDER, FILE or ADDRESS"


def get(
    order: Order,
    *,
    dry_run: bool = False,
    on_progress: OnProgress = ignore,
    patience: Patience | None = None,
) -> GetReport:
    """Get data of one source. Files that are there stay; nothing is downloaded for them.

    Args:
        order: What to get.
        dry_run: Say what would be downloaded; no server is asked.
        on_progress: Called while bytes come.
        patience: How long to wait for the server.

    Raises:
        ConfigError: A mirror that is neither a folder, a file nor an address.
        DataError: Content that is not what was published or recorded, or a bad archive.
        ResourceError: The server cannot be reached or refuses; it or the folder has no such file.
    """
    remotes = order.source.remotes(order.names)
    if order.mirror is not None:
        _check_mirror(order, remotes)
    if dry_run or not _missing(order, remotes):
        return _report(order, remotes, read_lock(order.out), {})
    with alone_in(order.out) as work:
        lock = read_lock(order.out)  # as it is now that no other process writes it
        getting = _Getting(order, lock, work, on_progress, patience or Patience())
        done = {}
        for remote in remotes:
            if _missing(order, [remote]):
                done[remote] = getting.get(remote)
    return _report(order, remotes, lock, done)


@dataclass(frozen=True)
class _Done:
    """What became of a file upstream that was wanted."""

    remote: Remote
    taken_from: str
    written: tuple[str, ...]


@dataclass(frozen=True)
class _Getting:
    """Gets one file upstream after the other."""

    order: Order
    lock: Lock
    work: Path
    on_progress: OnProgress
    patience: Patience

    def get(self, remote: Remote) -> _Done:
        """Download one file, check it, and put what is wanted of it in place."""
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
                    (unpacked / local).replace(partial)
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
        headers = _hub_headers() if place.startswith(f"{_hub()}/") else {}
        hint = self.order.hint
        wanted = Download(place, arrived, limit, headers, hint)
        download(wanted, tell, self.patience)

    def _check(self, remote: Remote, arrived: Path, place: str | Path) -> None:
        """Compare what came with what was published, or else with what came the first time."""
        size = arrived.stat().st_size
        if remote.size is not None and size != remote.size:
            raise self._refused(arrived, f"{place}: {size:,} bytes, but {remote.size:,} published")
        if remote.digest and not has_digest(arrived, remote.digest):
            raise self._refused(arrived, f"{place}: not the published {remote.digest}")
        recorded = self.lock.downloads.get(_address(self.order.source, remote))
        if remote.digest or recorded is None or self.order.force:
            return
        if (found := sha256(arrived)) != recorded.get("sha256"):
            arrived.unlink()
            raise DataError(
                f"{place}: sha256 {found}, but {self.lock.path} recorded {recorded.get('sha256')}",
                hint="it changed upstream, or is another copy; --force accepts and records it",
            )

    def _refused(self, arrived: Path, message: str) -> DataError:
        arrived.unlink()
        return DataError(
            message, hint=f"it changed upstream or was damaged on the way; {self.order.hint}"
        )

    def _lay_out(self, remote: Remote, arrived: Archive, unpacked: Path) -> list[str]:
        """Unpack or copy what is wanted and not there; return the local names."""
        members = [m for m in remote.members if self.order.force or not _is_there(self.order, m)]
        if not remote.members[0].inside:
            shutil.copyfile(arrived.path, unpacked / members[0].local)
            return [members[0].local]
        try:
            return unpack(arrived, members, unpacked)
        except DataError:
            arrived.path.unlink()  # so that the next run does not stumble over it again
            raise

    def _record(self, remote: Remote, arrived: Path, unpacked: Path, written: list[str]) -> None:
        """Record what came before it is put in place: a run that is killed between is repeated."""
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


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _missing(order: Order, remotes: Sequence[Remote]) -> bool:
    """Whether any file is to be written."""
    wanted = [member for remote in remotes for member in remote.members]
    return order.force or not all(_is_there(order, member) for member in wanted)


def _is_there(order: Order, member: Member) -> bool:
    return any(True for _ in _here(order, member))


def _here(order: Order, member: Member) -> Iterator[Path]:
    """Yield the files that stand for a member, plain or compressed."""
    for name in (member.local, f"{member.local}.gz"):
        yield from order.folder.glob(name)


def _address(source: Source, remote: Remote) -> str:
    """Return where a file is published, whatever it is read from."""
    return source.address + remote.path


def _hub() -> str:
    """Return the hub's address, which HF_ENDPOINT sets."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).rstrip("/")


def _hub_headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    return dict(build_hf_headers(library_name="adaptermix"))


def _place(order: Order, remote: Remote) -> str | Path:
    """Return the address or the local file to read."""
    if order.mirror is None:
        address = _address(order.source, remote)
        return _hub() + address.removeprefix(HUB) if address.startswith(HUB + "/") else address
    if _is_address(order.mirror):
        return f"{order.mirror.rstrip('/')}/{remote.path}"
    copy = Path(order.mirror)
    name = remote.path.rpartition("/")[2]
    if copy.is_file() and (remote.other is None or copy.name == name):
        return copy
    for path in (copy / remote.path, copy / name):
        if path.is_file():
            return path
    address = _address(order.source, remote)
    raise MissingUpstreamError(f"{copy}: no {remote.path}", hint=f"put a copy of {address} there")


def _is_address(mirror: str) -> bool:
    parts = urlsplit(mirror)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _check_mirror(order: Order, remotes: Sequence[Remote]) -> None:
    mirror = order.mirror or ""
    if _is_address(mirror) or Path(mirror).is_dir():
        return
    if not Path(mirror).is_file():
        raise ConfigError(f"--mirror {mirror}: neither a folder, a file, nor an http(s) address")
    wanted = [remote for remote in remotes if _missing(order, [remote])]
    if len(wanted) > 1:
        raise ConfigError(
            f"--mirror {mirror}: one file, but {len(wanted)} are wanted",
            hint="name the folder that holds " + ", ".join(remote.path for remote in wanted[:3]),
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
    notes = [*source.notes]
    if kept := [file.path for file in files if file.status == "kept"]:
        notes.append(
            f"{len(kept)} existing files are not recorded in {LOCK_NAME}, such as {kept[0]}: they "
            "are kept; --force replaces them"
        )
    return GetReport(
        source=source.name,
        title=source.title,
        folder=str(order.folder),
        page=source.page,
        license=source.license,
        citation=source.citation,
        downloads=[_remote_report(order, remote, lock, done.get(remote)) for remote in remotes],
        files=files,
        notes=notes,
    )


def _files_of(order: Order, remote: Remote) -> Iterator[Path]:
    for member in remote.members:
        yield from list(_here(order, member)) or [order.folder / member.local]


def _file_report(order: Order, lock: Lock, path: Path, done: dict[Remote, _Done]) -> FileReport:
    name = os.fspath(path)
    if not path.is_file():
        return FileReport(name, None, "", "missing")
    found = sha256(path)
    local = path.relative_to(order.folder).as_posix()
    recorded = lock.files.get(f"{order.source.folder}/{local}", {})
    is_new = any(local in one.written for one in done.values())
    is_recorded = recorded.get("sha256") == found
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

"""Resumable downloads to a growing file, with one-line errors.

The HTTP client is huggingface_hub's, so its settings apply: proxies, certificates, and
``HF_HUB_OFFLINE``.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptermix.errors import DataError, ResourceError, first_line

OnBytes = Callable[[int, int | None], None]


class MissingUpstreamError(ResourceError):
    """The server answers that it does not have the file."""


_LONGEST_WAIT = 60.0  # seconds, if the server says how long to wait


class _BusyError(Exception):
    """A temporary failure that is worth a retry, ``wait`` seconds later at the earliest."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = min(wait, _LONGEST_WAIT)


@dataclass(frozen=True)
class Download:
    """A file to download.

    Attributes:
        address: URL of the file.
        path: The growing local file; an earlier partial download is resumed if its content is
            still the same upstream.
        limit: Maximum size in bytes.
        headers: Additional headers of the request.
        hint: What to do if the download fails.
    """

    address: str
    path: Path
    limit: int
    headers: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""

    @property
    def note(self) -> Path:
        """File that identifies the content that the growing file is a part of."""
        return self.path.with_name(self.path.name + ".json")


@dataclass(frozen=True)
class Patience:
    """Timeouts and retries.

    Attributes:
        seconds: Timeout for a response, and for each next chunk of it, in seconds.
        tries: Maximum number of consecutive attempts without progress.
        pause: Seconds before the second attempt; doubles with every further one.
    """

    seconds: float = 30.0
    tries: int = 4
    pause: float = 1.0


def download(wanted: Download, on_bytes: OnBytes, patience: Patience) -> None:
    """Download a file, and resume where the connection broke.

    Raises:
        MissingUpstreamError: The file does not exist.
        ResourceError: There is no network or answer, the server refuses, or the connection
            keeps breaking.
        DataError: The file is larger than the limit.
    """
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    failures = 0
    while True:
        before = _size(wanted.path)
        try:
            return _attempt(wanted, on_bytes, patience.seconds)
        except OfflineModeIsEnabled as error:
            raise ResourceError(
                f"{wanted.address}: HF_HUB_OFFLINE is set, so nothing is downloaded",
                hint=f"unset HF_HUB_OFFLINE; or {wanted.hint}",
            ) from error
        except (HTTPError, _BusyError) as error:
            failures = 1 if _size(wanted.path) > before else failures + 1
            if failures >= patience.tries:
                raise ResourceError(
                    f"{wanted.address}: {_reason(error, patience)}",
                    hint=f"run the command again to continue where it stopped; or {wanted.hint}",
                ) from error
            wait = error.wait if isinstance(error, _BusyError) else 0.0
            time.sleep(max(wait, patience.pause * 2 ** (failures - 1)))


def _attempt(wanted: Download, on_bytes: OnBytes, seconds: float) -> None:
    """Request the file or its missing part, and write the response."""
    offset, validator = _begun(wanted)
    headers = {**wanted.headers, "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    with _requested(wanted, headers, seconds) as response:
        status = response.status_code
        if offset and status == 416:  # the file upstream is not longer than this part
            wanted.path.unlink()
            raise _BusyError("the file on the server has changed")
        _check_status(wanted, status, response.headers)
        body = _body(wanted, status, response.headers)
        if body.start != (offset if status == 206 else 0):
            wanted.path.unlink(missing_ok=True)
            raise _BusyError("the server sent a part that was not requested")
        done = body.start
        _check_size(wanted, body.total or 0)
        validator = "" if body.is_encoded else _validator(response.headers)
        note = {"address": wanted.address, "validator": validator}
        wanted.note.write_text(json.dumps(note), encoding="utf-8")
        with wanted.path.open("ab" if done else "wb") as file:
            for block in response.iter_bytes() if body.is_encoded else response.iter_raw():
                done += len(block)
                _check_size(wanted, done)
                file.write(block)
                on_bytes(done, body.total)
    if body.total is not None and done < body.total:
        raise _BusyError(f"the connection closed after {done:,} of {body.total:,} bytes")
    wanted.note.unlink(missing_ok=True)


@contextmanager
def _requested(wanted: Download, headers: Mapping[str, str], seconds: float) -> Iterator[Any]:
    """Send the request, and return the response, whose body is not read yet.

    Raises:
        ResourceError: The settings of this machine prevent the request: its proxies,
            certificates or token.
    """
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    try:
        session = get_session()
        request = session.build_request("GET", wanted.address, headers=headers, timeout=seconds)
        response = session.send(request, stream=True)
    except (HTTPError, OfflineModeIsEnabled):
        raise
    except (ValueError, ImportError, OSError) as error:
        raise ResourceError(
            f"{wanted.address}: the request cannot be sent: {first_line(error)}",
            hint="check the address, HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and "
            f"HF_TOKEN; or {wanted.hint}",
        ) from error
    try:
        yield response
    finally:
        response.close()


def _check_status(wanted: Download, status: int, headers: Mapping[str, str]) -> None:
    if status in (200, 206):
        return
    if status in (404, 410):
        raise MissingUpstreamError(
            f"{wanted.address}: no such file (HTTP {status})", hint=wanted.hint
        )
    if status in (401, 403):
        raise ResourceError(
            f"{wanted.address}: the server denied access (HTTP {status})",
            hint="the file may require an account or a license agreement (for the Hub: hf "
            f"auth login), or this network may be blocked; or {wanted.hint}",
        )
    if status in (408, 425, 429) or status >= 500:
        wait = _number(headers.get("retry-after", "")) or 0
        raise _BusyError(f"the server answered HTTP {status}", wait)
    raise ResourceError(f"{wanted.address}: the server answered HTTP {status}", hint=wanted.hint)


@dataclass(frozen=True)
class _Body:
    """The body of a response.

    Attributes:
        start: Offset of its first byte in the file, or None if the server does not say.
        total: Size of the whole file, if known.
        is_encoded: Whether it must be decompressed.
    """

    start: int | None
    total: int | None
    is_encoded: bool


def _body(wanted: Download, status: int, headers: Mapping[str, str]) -> _Body:
    encoding = headers.get("content-encoding", "identity").lower()
    # Some servers describe a .gz file as a compressed file of another name.
    is_gz_file = encoding in ("gzip", "x-gzip") and wanted.address.endswith((".gz", ".tgz"))
    length = _number(headers.get("content-length", ""))
    if status == 200:
        is_encoded = encoding != "identity" and not is_gz_file
        return _Body(0, None if is_encoded else length, is_encoded)
    part = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", headers.get("content-range", ""))
    if part is None or (encoding != "identity" and not is_gz_file):
        return _Body(None, None, is_encoded=False)
    rest = None if length is None else int(part[1]) + length
    return _Body(int(part[1]), rest if part[2] == "*" else int(part[2]), is_encoded=False)


def _check_size(wanted: Download, size: int) -> None:
    if size > wanted.limit:
        wanted.path.unlink(missing_ok=True)
        raise DataError(
            f"{wanted.address}: larger than the expected {wanted.limit:,} bytes",
            hint=f"the file changed upstream, or this is a different file; {wanted.hint}",
        )


def _begun(wanted: Download) -> tuple[int, str]:
    """Return the number of bytes to resume from, and the validator of their content."""
    try:
        note = json.loads(wanted.note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0, ""
    validator = note.get("validator") if isinstance(note, dict) else None
    if not validator or note.get("address") != wanted.address:
        return 0, ""
    return _size(wanted.path), str(validator)


def _validator(headers: Mapping[str, str]) -> str:
    """Return what identifies the content in ``If-Range``, which takes no weak tags."""
    etag = headers.get("etag", "")
    is_strong = etag and not etag.startswith("W/")
    return str(etag if is_strong else headers.get("last-modified", ""))


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: Any, patience: Patience) -> str:
    if "Timeout" in type(error).__name__:
        return f"no answer within {patience.seconds:g} s"
    if "Connect" in type(error).__name__:
        return f"the server cannot be reached: {first_line(error)}"
    return first_line(error)

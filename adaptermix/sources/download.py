"""Resumable downloads to a growing file, with one-line errors.

The HTTP client is huggingface_hub's, so its settings apply: proxies, certificates, and
``HF_HUB_OFFLINE``.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptermix.errors import DataError, ResourceError, first_line

OnBytes = Callable[[int, int | None], None]


class MissingUpstreamError(ResourceError):
    """The server answers that it does not have the file."""


class _BusyError(Exception):
    """A temporary failure that is worth a retry."""


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
                    hint=f"run it again to continue where it stopped; or {wanted.hint}",
                ) from error
            time.sleep(patience.pause * 2 ** (failures - 1))


def _attempt(wanted: Download, on_bytes: OnBytes, seconds: float) -> None:
    """Request the file or its missing part, and write the response."""
    from huggingface_hub.utils import get_session

    offset, validator = _begun(wanted)
    headers = {**wanted.headers, "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    request = get_session().stream("GET", wanted.address, headers=headers, timeout=seconds)
    with request as response:
        status = response.status_code
        if offset and status == 416:  # the file upstream is not longer than this part
            wanted.path.unlink()
            raise _BusyError("the file on the server has changed")
        _check_status(wanted, status)
        is_rest = status == 206 and _start(response.headers) == offset
        if status == 206 and not is_rest:
            wanted.path.unlink(missing_ok=True)
            raise _BusyError("the server sent a part that was not requested")
        done = offset if is_rest else 0
        total = _total(response.headers, done)
        _check_size(wanted, total or 0)
        wanted.note.write_text(json.dumps(_described(wanted, response.headers)), encoding="utf-8")
        with wanted.path.open("ab" if is_rest else "wb") as file:
            for block in response.iter_raw():
                done += len(block)
                _check_size(wanted, done)
                file.write(block)
                on_bytes(done, total)
    if total is not None and done < total:
        raise _BusyError(f"the connection closed after {done:,} of {total:,} bytes")
    wanted.note.unlink(missing_ok=True)


def _check_status(wanted: Download, status: int) -> None:
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
        raise _BusyError(f"the server answered HTTP {status}")
    raise ResourceError(f"{wanted.address}: the server answered HTTP {status}", hint=wanted.hint)


def _check_size(wanted: Download, size: int) -> None:
    if size > wanted.limit:
        wanted.path.unlink(missing_ok=True)
        raise DataError(
            f"{wanted.address}: larger than the expected {wanted.limit:,} bytes",
            hint=f"it changed upstream, or it is another file; {wanted.hint}",
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


def _described(wanted: Download, headers: Mapping[str, str]) -> dict[str, str]:
    etag = headers.get("etag", "")
    is_strong = etag and not etag.startswith("W/")  # weak ones are not allowed in If-Range
    validator = etag if is_strong else headers.get("last-modified", "")
    return {"address": wanted.address, "validator": validator}


def _start(headers: Mapping[str, str]) -> int | None:
    """Return the offset of a partial response."""
    span = headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(span) if span.isdecimal() else None


def _total(headers: Mapping[str, str], offset: int) -> int | None:
    length = headers.get("content-length", "")
    return offset + int(length) if length.isdecimal() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: Any, patience: Patience) -> str:
    if "Timeout" in type(error).__name__:
        return f"no answer within {patience.seconds:g} s"
    if "Connect" in type(error).__name__:
        return f"the server cannot be reached: {first_line(error)}"
    return first_line(error)

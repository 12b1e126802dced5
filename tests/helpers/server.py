"""A server of files on the loopback address, which can be told to misbehave."""

import gzip
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote


@dataclass
class Site:
    """What the server has, how it answers, and what it was asked.

    Attributes:
        files: Content by path, without the first slash.
        troubles: By path, what the next requests get; after these, all is well. A number of bytes
            after which the connection is cut, ``("weak", bytes)`` the same with a weak tag,
            ``("pause", bytes)`` and then nothing for long, ``("part", bytes)`` only a part of what
            was asked for, ``stall`` a few bytes and then nothing, ``silence``, ``gzip`` compressed,
            ``gzip file`` described as that,
            ``http NNN``, ``http NNN SECONDS`` with the time to wait, or ``no ranges``.
        asked: Paths with the range that was asked for, in order.
        accounts: The ``Authorization`` of each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    troubles: dict[str, list] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    address: str = ""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path = unquote(self.path.split("?")[0]).lstrip("/")
        self.site.asked.append((path, self.headers.get("Range", "")))
        self.site.accounts.append(self.headers.get("Authorization", ""))
        waiting = self.site.troubles.get(path)
        trouble = waiting.pop(0) if waiting else None
        if isinstance(trouble, str) and trouble.startswith("http "):
            return self.refuse(*map(int, trouble.split()[1:]))
        if path not in self.site.files:
            return self.refuse(404)
        self.answer(self.site.files[path], trouble)

    def refuse(self, status, wait=None):
        self.send_response(status)
        if wait is not None:
            self.send_header("Retry-After", str(wait))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, content, trouble):
        tag = f'"{hash(content) & 0xFFFFFFFF:x}"'
        is_weak = isinstance(trouble, tuple) and trouble[0] == "weak"
        start = self.start_of(content, tag) if trouble != "no ranges" else 0
        if start is None:
            return self.refuse(416)
        is_part = isinstance(trouble, tuple) and trouble[0] == "part"
        whole = len(content)
        content = content[: start + trouble[1]] if is_part else content
        self.send_response(206 if start or is_part else 200)
        if start or is_part:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{whole}")
        if trouble in ("gzip", "gzip file"):
            self.send_header("Content-Encoding", "gzip")
            content = gzip.compress(content) if trouble == "gzip" else content
        self.send_header("ETag", f"W/{tag}" if is_weak else tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if trouble in ("stall", "silence"):
            self.wfile.write(content[start : start + 10] if trouble == "stall" else b"")
            self.wfile.flush()
            time.sleep(2)
            self.close_connection = True
            return
        if isinstance(trouble, tuple) and not is_part:
            self.wfile.write(content[start : start + trouble[1]])
            self.wfile.flush()
            time.sleep(0 if is_weak else 20)
            self.close_connection = True
            return
        end = start + trouble if isinstance(trouble, int) else len(content)
        self.wfile.write(content[start:end])
        if end < len(content):
            self.close_connection = True

    def start_of(self, content, tag):
        wanted = self.headers.get("Range", "")
        if not wanted or self.headers.get("If-Range", tag) != tag:
            return 0
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        return start if start < len(content) else None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that went away is part of the tests."""


@contextmanager
def served(files: dict[str, bytes]) -> Iterator[Site]:
    """Serve files while the block runs."""
    site = Site(files)
    handler = type("Handler", (_Handler,), {"site": site})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()

"""HTTP requests to one server.

The key comes from the environment. It does not appear in any message, nor does the password of a
proxy.
"""

import asyncio
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from adaptermix.errors import AdaptermixError, ConfigError, ResourceError

KEYS = ("ADAPTERMIX_SERVER_KEY", "OPENAI_API_KEY")
_CONNECT = 10.0  # seconds to connect
_ASK = 30.0  # seconds for requests other than decoding and loading
_PULSE = 10.0  # seconds without an answer until the server is looked for
_LONGEST = 300  # characters of a server's message
_PROXY_HINT = "check http_proxy, https_proxy and no_proxy in the environment"
_BUSY = (408, 425, 429)
_FORBIDDEN = (401, 403)


class BusyError(Exception):
    """The server does not answer now, but may answer later.

    Attributes:
        reason: What happened.
        wait: Seconds that the server asks to wait.
        is_answer: Whether the server itself responded.
        hint: What to do, if the reason tells.
    """

    def __init__(
        self,
        reason: str,
        wait: float | None = None,
        *,
        is_answer: bool = False,
        hint: str | None = None,
    ) -> None:
        """Store what happened."""
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.is_answer = is_answer
        self.hint = hint


@dataclass(frozen=True)
class Reply:
    """An answer of the server, with any status."""

    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def is_busy(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _BUSY or self.status >= 500

    @property
    def is_redirect(self) -> bool:
        """Whether another address should be asked."""
        return 300 <= self.status < 400

    @property
    def is_forbidden(self) -> bool:
        """Whether the request needs another key, or is not allowed at all."""
        return self.status in _FORBIDDEN


class Connection:
    """Sends requests to one server; created and used in one event loop.

    Attributes:
        url: The address of its API.
    """

    def __init__(self, url: str) -> None:
        """Open a session without sending a request.

        Raises:
            ConfigError: The key cannot be sent.
        """
        self.url = url
        self._key, self._key_name = read_key()
        proxy = _proxy(url)
        self._has_proxy = proxy is not None
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
            connector=aiohttp.TCPConnector(limit=0),
            proxy=proxy,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, seconds: float = _ASK
    ) -> Reply:
        """Send a request to the API; a rejected key or a redirect ends the command.

        Raises:
            BusyError: The server does not answer.
            ConfigError: The server redirects to another address.
            ResourceError: The server rejects the key.
        """
        reply = await self._send(method, self.url + path, body, seconds)
        if reply.is_forbidden:
            raise self._refused(reply.status)
        if reply.is_redirect:
            place = self.clean(reply.headers.get("Location", "another address"))
            raise ConfigError(
                f"--server {self.url}: the server redirects to {place}",
                hint="if you trust that address, use it with --server",
            )
        return reply

    async def peek(self, path: str) -> str:
        """Return a page outside OpenAI's API, or an empty text if there is none for this client.

        Raises:
            BusyError: The server does not answer.
        """
        reply = await self._send("GET", self.url.removesuffix("/v1") + path, None, _ASK)
        return reply.text if reply.status == 200 else ""

    async def answers_to(self, path: str) -> bool:
        """Whether the API accepts requests at a path, shown by an empty request.

        Raises:
            BusyError: The server does not answer now.
        """
        reply = await self._send("POST", self.url + path, {}, _ASK)
        if reply.status in (429, 502, 503, 504):
            raise self.busy(reply)
        return reply.status in (200, 400, 422)

    async def _send(
        self, method: str, address: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Reply:
        """Send a request, and wait for the answer as long as the server accepts connections.

        vLLM's server that is stopped leaves the requests under way open, without an answer.
        """
        request = asyncio.create_task(self._exchange(method, address, body, seconds))
        try:
            while not (await asyncio.wait({request}, timeout=_PULSE))[0]:
                if not await self._is_listening():
                    raise BusyError("it stopped: it no longer accepts connections")
            return request.result()
        finally:
            request.cancel()

    async def _is_listening(self) -> bool:
        """Whether the server accepts connections; also if that cannot be told."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if self._has_proxy:
            return True
        try:
            _, writer = await asyncio.open_connection(parts.hostname, port)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        writer.close()
        return True

    async def _exchange(
        self, method: str, address: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Reply:
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT)
        try:
            async with self._session.request(
                method, address, json=body, timeout=timeout, allow_redirects=False
            ) as response:
                text = await response.text(errors="replace")
                reply = Reply(response.status, text, response.headers)
        except TimeoutError as error:
            raise BusyError(f"no answer within {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise self._failed(error) from error
        if reply.status == 407:
            raise BusyError("the proxy answered HTTP 407", hint=_PROXY_HINT)
        return reply

    def _failed(self, error: aiohttp.ClientError) -> BusyError:
        """Return why a request got no answer, without addresses, which may have a password."""
        hint = None
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            found = error.certificate_error
            said = getattr(found, "verify_message", "") or str(found)
            reason = f"its certificate is not trusted: {said}"
            hint = "set SSL_CERT_FILE to a file with the certificate that signed the server's"
        elif isinstance(error, aiohttp.ClientSSLError):
            reason = "cannot connect: it does not speak TLS"
            hint = "if the server has no certificate, write its address with http://"
        elif isinstance(error, aiohttp.ClientProxyConnectionError):
            reason = f"cannot connect to the proxy: {_of_system(error.os_error)}"
            hint = _PROXY_HINT
        elif isinstance(error, aiohttp.ClientHttpProxyError):
            reason = f"the proxy answered HTTP {error.status}"
            hint = _PROXY_HINT
        elif isinstance(error, aiohttp.ClientConnectorError):
            reason = f"cannot connect: {_of_system(error.os_error)}"
        elif isinstance(error, aiohttp.InvalidURL):
            reason = "this is not a valid address"
        elif isinstance(error, aiohttp.ClientResponseError):
            reason = f"its answer is not HTTP: {error.message}"
        else:
            reason = _of_system(error) if isinstance(error, OSError) else str(error)
        return BusyError(self.clean(reason) or "the connection was lost", hint=hint)

    def _refused(self, status: int) -> AdaptermixError:
        if self._key:
            return ResourceError(
                f"{self.url} rejected the key in {self._key_name} (HTTP {status})",
                hint=f"set {KEYS[0]} to the server's key",
            )
        return ResourceError(
            f"{self.url} requires a key (HTTP {status})",
            hint=f"set the environment variable {KEYS[0]} to the server's key",
        )

    def busy(self, reply: Reply) -> BusyError:
        """Return an answer as a failure that may pass."""
        return BusyError(self.said(reply), _wait(reply.headers), is_answer=True)

    def said(self, reply: Reply) -> str:
        """Return the status and the server's message, on one line and without the key."""
        said = self.clean(_message(reply.text))
        return f"HTTP {reply.status}{': ' if said else ''}{said}"

    def clean(self, text: str) -> str:
        """Return the first line of a server's text without the key and control characters."""
        line = next(iter(text.strip().splitlines()), "")
        if self._key:
            line = line.replace(self._key, "***")
        return "".join(c if c.isprintable() else " " for c in line).strip()[:_LONGEST]


def read_key() -> tuple[str, str]:
    """Return the key of the servers, and the name of its environment variable.

    Raises:
        ConfigError: It contains a control character, which HTTP does not allow.
    """
    for name in KEYS:
        if value := os.environ.get(name, "").strip():
            if not value.isprintable():
                raise ConfigError(f"the key in {name} has a line break or a control character")
            return value, name
    return "", ""


def _proxy(url: str) -> str | None:
    """Return the proxy from the environment; aiohttp's own lookup would also read ~/.netrc."""
    parts = urlsplit(url)
    found = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    return f"http://{found}" if found and "://" not in found else found


def _message(text: str) -> str:
    """Return the message in an answer: in the JSON of OpenAI and others, or plain text."""
    try:
        said = json.loads(text)
    except ValueError:
        return "" if text.lstrip().startswith("<") else text
    for key in ("error", "message", "detail"):
        if isinstance(said, dict):
            said = said.get(key, said)
    return str(said or "")


def _of_system(error: OSError) -> str:
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)


def _wait(headers: Mapping[str, str]) -> float | None:
    """Parse Retry-After: seconds, or a date."""
    text = headers.get("Retry-After", "")
    try:
        wait = float(text)
    except ValueError:
        try:
            wait = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, wait) if math.isfinite(wait) else None

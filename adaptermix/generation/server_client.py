"""The client of one server with OpenAI's completions API; vLLM also loads adapters at run time.

It does not need torch. The key comes from the environment and does not appear in any message.
"""

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, ResourceError, first_line
from adaptermix.settings.shared import EngineSettings

KEYS = ("ADAPTERMIX_SERVER_KEY", "OPENAI_API_KEY")
TRIES = 6  # consecutive failures after which a server is given up
PAUSE = 0.5  # seconds after the first failure; it doubles with each
_CONNECT = 10.0  # seconds to connect
_ASK = 30.0  # seconds for requests other than decoding and loading
_BUSY = (408, 425, 429)
_LOAD_HINT = (
    "start the vLLM server with --enable-lora, and set VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in "
    "its environment"
)


class BusyError(Exception):
    """The server does not answer now, but may answer later.

    Attributes:
        reason: What happened.
        wait: Seconds that the server asks to wait.
        is_answer: Whether the server itself responded.
    """

    def __init__(self, reason: str, wait: float | None = None, *, is_answer: bool = False) -> None:
        """Store what happened."""
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.is_answer = is_answer


@dataclass(frozen=True)
class Served:
    """What a server reports about itself.

    Attributes:
        url: Its address.
        model: Its name for the base model.
        root: Source of the base model, if reported.
        software: Its software, with the version if known.
        context: Maximum number of tokens of a prompt and its answer, if reported.
        started: Start time of its process, if reported.
        loads_adapters: Whether it loads adapters at run time.
    """

    url: str
    model: str
    root: str
    software: str
    context: int | None
    started: str
    loads_adapters: bool

    @property
    def is_vllm(self) -> bool:
        """Whether it is a vLLM server."""
        return self.software.startswith("vllm")

    @property
    def configuration(self) -> tuple[str, str, str]:
        """What is known about the model that answers."""
        return (self.software, self.model, self.root)

    def source(self, label: str | None) -> str:
        """Return the ID of its answers' source, from the label or from this server process."""
        process = [self.url, self.started] if label is None else label
        text = json.dumps([process, *self.configuration])
        return hashlib.sha256(text.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.url} ({self.software}, model {self.model})"


def look_at_servers(settings: EngineSettings, *, has_adapters: bool) -> list[Served]:
    """Query all servers, and check that they can do what is needed.

    Raises:
        ConfigError: An address is not that of an API, or the shared folder does not exist.
        ArtifactError: A server has another model.
        ResourceError: A server does not answer, rejects the key or cannot load adapters.
    """
    here, _ = shared_folder(settings)
    if here is not None and not here.is_dir():
        raise ConfigError(f"--server-folder {here}: no such folder")

    async def look() -> list[Served]:
        servers = [Server(url, settings) for url in settings.server]
        try:
            return list(await asyncio.gather(*(_first_look(server) for server in servers)))
        finally:
            for server in servers:
                await server.close()

    found = asyncio.run(look())
    for served in found:
        if has_adapters and not served.loads_adapters:
            raise ResourceError(
                f"{served.url} ({served.software}) cannot load adapters",
                hint=_LOAD_HINT if served.is_vllm else "use a vLLM server",
            )
    return found


async def _first_look(server: "Server") -> Served:
    """Query a server; wait only if the server itself answers that it is busy."""
    failures = 0
    while True:
        try:
            return await server.look()
        except BusyError as error:
            failures += 1
            if not error.is_answer or failures >= TRIES:
                raise ResourceError(
                    f"{server.url}: {error.reason}",
                    hint="check the address, and that the server is running with its model loaded",
                ) from error
            await asyncio.sleep(pause(error, failures))


def pause(error: BusyError, failures: int) -> float:
    """Return the seconds to wait: as the server asks, or doubled after each failure."""
    return PAUSE * 2 ** (failures - 1) if error.wait is None else error.wait


def shared_folder(settings: EngineSettings) -> tuple[Path | None, str | None]:
    """Parse ``HERE=THERE``: the path of a folder on this machine, and on the servers."""
    if settings.server_folder is None:
        return None, None
    here, _, there = settings.server_folder.partition("=")
    folder = Path(here).expanduser().absolute()
    return folder, there or str(folder)


@dataclass(frozen=True)
class _Reply:
    status: int
    text: str
    headers: Mapping[str, str]


class Server:
    """Sends requests to one server; created and used in one event loop.

    Attributes:
        url: Its address.
    """

    def __init__(self, url: str, settings: EngineSettings) -> None:
        """Open a session without sending a request."""
        self.url = url
        self.settings = settings
        self._key, self._key_name = _key()
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
            connector=aiohttp.TCPConnector(limit=0),
            proxy=_proxy(url),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def look(self) -> Served:
        """Return what the server reports about itself.

        Raises:
            BusyError: The server does not answer now.
            AdaptermixError: The server will not answer, or has another model.
        """
        cards = await self._cards()
        card = self._choose([card for card in cards if not card.get("parent")])
        software = str(card.get("owned_by") or "unknown software")
        started, loads = "", False
        if software == "vllm":
            software = f"vllm {await self._version()}"
            started = await self._start_time()
            loads = (await self._ask("POST", "/load_lora_adapter", {})).status not in (404, 405)
        context = card.get("max_model_len")
        return Served(
            url=self.url,
            model=str(card["id"]),
            root=str(card.get("root") or ""),
            software=software,
            context=context if isinstance(context, int) else None,
            started=started,
            loads_adapters=loads,
        )

    async def models(self) -> set[str]:
        """Return the names of all models and adapters.

        Raises:
            BusyError: The server does not answer now.
        """
        return {str(card.get("id")) for card in await self._cards()}

    async def load(self, name: str, path: str) -> None:
        """Load an adapter from a path that the server can read.

        Raises:
            BusyError: The server does not answer now.
            ArtifactError: The server cannot load the adapter.
            ResourceError: The path does not exist on the server.
        """
        body = {"lora_name": name, "lora_path": path}
        reply = await self._ask("POST", "/load_lora_adapter", body, self.settings.server_timeout)
        if reply.status == 200:
            return
        said = self._said(reply)
        if reply.status == 400 and "already been loaded" in said:  # its first response was lost
            return
        if reply.status == 404:
            raise ResourceError(
                f"the server at {self.url} finds no adapter in {path}",
                hint="--server-folder HERE names a folder on storage that the server shares, and "
                "HERE=THERE its path on the server",
            )
        if reply.status in _BUSY or reply.status in (502, 503, 504):
            raise self._busy(reply)
        rank = "max_lora_rank" in said or "max-lora-rank" in said
        hint = "start the server with a larger --max-lora-rank" if rank else _LOAD_HINT
        raise ArtifactError(f"{self.url} cannot load an adapter: {said}", hint=hint)

    async def unload(self, name: str) -> None:
        """Unload an adapter; a missing one is not an error.

        Raises:
            BusyError: The server does not answer now.
        """
        await self._ask("POST", "/unload_lora_adapter", {"lora_name": name})

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the first choice of a completion, with its ``usage``.

        Raises:
            BusyError: The server does not answer now, or has lost an adapter.
            ResourceError: The server rejects the prompt.
        """
        reply = await self._ask("POST", "/completions", body, self.settings.server_timeout)
        if reply.status in (404, *_BUSY) or reply.status >= 500:
            raise self._busy(reply)
        if reply.status != 200:
            raise ResourceError(
                f"{self.url} rejected a prompt: {self._said(reply)}",
                hint="see the server's log; the server must support OpenAI's /completions "
                "with token ids",
            )
        try:
            answer = json.loads(reply.text)
            return {**answer["choices"][0], "usage": answer.get("usage") or {}}
        except (ValueError, LookupError, TypeError) as error:
            raise BusyError("its answer is not a completion", is_answer=True) from error

    async def _cards(self) -> list[dict[str, Any]]:
        reply = await self._ask("GET", "/models")
        if reply.status in _BUSY or reply.status >= 500:
            raise self._busy(reply)
        try:
            cards = json.loads(reply.text)["data"]
            if reply.status == 200 and cards and all("id" in card for card in cards):
                return list(cards)
        except (ValueError, LookupError, TypeError):
            pass
        raise ConfigError(
            f"--server {self.url}: no OpenAI API at this address (GET {self.url}/models: HTTP "
            f"{reply.status})",
            hint="give the address of the API, such as http://localhost:8000/v1",
        )

    def _choose(self, cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the base model among the served models."""
        names = ", ".join(str(card["id"]) for card in cards)
        wanted = self.settings.server_model
        for card in cards:
            if wanted is not None and card["id"] == wanted:
                return card
            if wanted is None and any(
                _is_same(self.settings.model, str(name))
                for name in (card["id"], card.get("root"))
                if name
            ):
                return card
        raise ArtifactError(
            f"{self.url} serves the model {names}, not {wanted or self.settings.model}",
            hint="start the server with the model in --model; if it is the same model under "
            "another name, give that name with --server-model",
        )

    async def _version(self) -> str:
        reply = await self._ask("GET", f"{_root(self.url)}/version")
        try:
            return str(json.loads(reply.text)["version"])
        except (ValueError, LookupError, TypeError):
            return "of unknown version"

    async def _start_time(self) -> str:
        reply = await self._ask("GET", f"{_root(self.url)}/metrics")
        found = re.search(r"^process_start_time_seconds (\S+)", reply.text, re.MULTILINE)
        return found[1] if found else ""

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, seconds: float = _ASK
    ) -> _Reply:
        """Send one request; a rejected key or a redirect ends the command."""
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT)
        address = path if path.startswith("http") else self.url + path
        try:
            async with self._session.request(
                method, address, json=body, timeout=timeout, allow_redirects=False
            ) as response:
                text = await response.text(errors="replace")
                reply = _Reply(response.status, text, response.headers)
        except TimeoutError as error:
            raise BusyError(f"no answer within {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise BusyError(_reason(error)) from error
        if reply.status in (401, 403):
            raise self._refused(reply.status)
        if 300 <= reply.status < 400:
            raise ConfigError(
                f"--server {self.url}: the server redirects to "
                f"{reply.headers.get('Location', 'another address')}",
                hint="if you trust that address, use it with --server",
            )
        return reply

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

    def _busy(self, reply: _Reply) -> BusyError:
        return BusyError(self._said(reply), _wait(reply.headers), is_answer=True)

    def _said(self, reply: _Reply) -> str:
        """Return the server's error message, on one line and without the key."""
        try:
            said = json.loads(reply.text)
            said = said.get("error", said)
            said = said.get("message", said) if isinstance(said, dict) else said
        except (ValueError, AttributeError):
            said = ""
        line = next(iter(str(said).strip().splitlines()), "")[:300]
        if self._key:
            line = line.replace(self._key, "***")
        return f"HTTP {reply.status}{': ' if line else ''}{line}"


def _key() -> tuple[str, str]:
    """Return the key of the servers, and the name of its environment variable."""
    for name in KEYS:
        if value := os.environ.get(name, "").strip():
            return value, name
    return "", ""


def _proxy(url: str) -> str | None:
    """Return the proxy from the environment; aiohttp's own lookup would also read ~/.netrc."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _root(url: str) -> str:
    """Return the address without ``/v1``, for vLLM's endpoints outside OpenAI's API."""
    return url.removesuffix("/v1")


def _is_same(name: str, other: str) -> bool:
    return name == other or (
        Path(name).exists() and os.path.realpath(name) == os.path.realpath(other)
    )


def _reason(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and (number := error.os_error.errno):
        text = os.strerror(number) if number > 0 else str(error.os_error)
        return f"cannot connect: {text}"
    return first_line(error)


def _wait(headers: Mapping[str, str]) -> float | None:
    """Parse Retry-After: seconds, or a date."""
    text = headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None

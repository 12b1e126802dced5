"""The client of one server with OpenAI's completions API; vLLM also loads adapters at run time.

It does not need torch.
"""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.files.text import without_lone_surrogates
from adaptermix.generation.server_http import BusyError, Connection
from adaptermix.settings.shared import EngineSettings

TRIES = 6  # consecutive failures after which a server is given up
PAUSE = 0.5  # seconds after the first failure; it doubles with each
_WHOLE = ("stop", "length")  # how an answer ends that was not broken off
PROMPT_HINT = "see the server's log; the server must support OpenAI's /completions with token ids"
_LOAD_HINT = (
    "start the vLLM server with --enable-lora, and set VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in "
    "its environment"
)
_CHECK_HINT = "check the address, and that the server is running with its model loaded"


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
        preset: IDs of the adapters that it applies unless a request turns them off, as llama.cpp
            does.
    """

    url: str
    model: str
    root: str
    software: str
    context: int | None
    started: str
    loads_adapters: bool
    preset: tuple[int, ...] = ()

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

    def check_loading(self) -> None:
        """Check that it can load adapters.

        Raises:
            ResourceError: It cannot.
        """
        if not self.loads_adapters:
            raise ResourceError(
                f"{self.url} ({self.software}) cannot load adapters",
                hint=_LOAD_HINT if self.is_vllm else "use a vLLM server",
            )

    def __str__(self) -> str:
        return f"{self.url} ({self.software}, model {self.model})"


@dataclass(frozen=True)
class Completion:
    """An answer of a server to a prompt.

    Attributes:
        text: The text.
        token_ids: Its tokens, if the server returns them.
        is_cut: Whether it reached the maximum number of tokens.
        tokens: Number of its tokens; 0 if unknown.
        likely: Log probabilities of the likeliest first tokens, if requested.
    """

    text: str
    token_ids: list[int] | None
    is_cut: bool
    tokens: int
    likely: dict[int, float] = field(default_factory=dict)


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
    if has_adapters:
        for served in found:
            served.check_loading()
    return found


async def _first_look(server: "Server") -> Served:
    """Query a server; wait only if the server itself answers that it is busy."""
    failures = 0
    while True:
        try:
            return await server.look()
        except BusyError as error:
            failures += 1
            reason = unbearable(error, server.settings)
            if reason or not error.is_answer or failures >= TRIES:
                raise ResourceError(
                    f"{server.url}: {reason or error.reason}", hint=error.hint or _CHECK_HINT
                ) from error
            await asyncio.sleep(pause(error, failures))


def pause(error: BusyError, failures: int) -> float:
    """Return the seconds to wait: as the server asks, or doubled after each failure."""
    return PAUSE * 2 ** (failures - 1) if error.wait is None else error.wait


def unbearable(error: BusyError, settings: EngineSettings) -> str | None:
    """Return why a server is not waited for, if it asks for too long a wait."""
    if error.wait is None or error.wait <= settings.server_timeout:
        return None
    return f"it asks for a wait of {error.wait:,.0f} s, longer than --server-timeout"


def shared_folder(settings: EngineSettings) -> tuple[Path | None, str | None]:
    """Parse ``HERE=THERE``: the path of a folder on this machine, and on the servers."""
    if settings.server_folder is None:
        return None, None
    here, _, there = settings.server_folder.partition("=")
    folder = Path(here).expanduser().absolute()
    return folder, there or str(folder)


class Server:
    """One server; created and used in one event loop.

    Attributes:
        url: Its address.
        settings: Model, time-outs and maximum length of answers.
    """

    def __init__(self, url: str, settings: EngineSettings) -> None:
        """Open a session without sending a request.

        Raises:
            ConfigError: The key cannot be sent.
        """
        self.url = url
        self.settings = settings
        self._http = Connection(url)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def look(self) -> Served:
        """Return what the server reports about itself.

        Raises:
            BusyError: The server does not answer now.
            AdaptermixError: The server will not answer, or has another model.
        """
        cards = await self._cards()
        card = self._choose([card for card in cards if not card.get("parent")])
        software = self._http.clean(str(card.get("owned_by") or "")) or "unknown software"
        started, loads = "", False
        preset: tuple[int, ...] = ()
        if software == "vllm":
            software = f"vllm {await self._version()}"
            started = await self._start_time()
            loads = await self._http.answers_to("/load_lora_adapter")
        elif software == "llamacpp":
            preset = await self._preset_adapters()
        context = card.get("max_model_len")
        return Served(
            url=self.url,
            model=str(card["id"]),
            root=str(card.get("root") or ""),
            software=software,
            context=context if isinstance(context, int) else None,
            started=started,
            loads_adapters=loads,
            preset=preset,
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
        reply = await self._http.ask(
            "POST", "/load_lora_adapter", body, self.settings.server_timeout
        )
        if reply.status == 200:
            return
        said = self._http.said(reply)
        if reply.status == 400 and "already been loaded" in said:  # its first response was lost
            return
        if reply.status == 404:
            raise ResourceError(
                f"the server at {self.url} found no adapter in {path}",
                hint="pass a folder on storage shared with the server: --server-folder HERE, or "
                "HERE=THERE if its path on the server differs",
            )
        if reply.is_busy and reply.status != 500:
            raise self._http.busy(reply)
        rank = "max_lora_rank" in said or "max-lora-rank" in said
        hint = "start the server with a larger --max-lora-rank" if rank else _LOAD_HINT
        raise ArtifactError(f"{self.url} cannot load an adapter: {said}", hint=hint)

    async def unload(self, name: str) -> None:
        """Unload an adapter; a missing one is not an error.

        Raises:
            BusyError: The server does not answer now.
        """
        await self._http.ask("POST", "/unload_lora_adapter", {"lora_name": name})

    async def complete(self, body: Mapping[str, Any]) -> Completion:
        """Return the answer to a prompt.

        Raises:
            BusyError: The server does not answer now, has lost an adapter, or broke off the answer.
            ResourceError: The server rejects the prompt, or did not read or answer it in full.
        """
        reply = await self._http.ask("POST", "/completions", body, self.settings.server_timeout)
        if reply.status == 404 or reply.is_busy:
            raise self._http.busy(reply)
        if reply.status != 200:
            raise ResourceError(
                f"{self.url} rejected a prompt: {self._http.said(reply)}", hint=PROMPT_HINT
            )
        try:
            answer = json.loads(reply.text)
            (choice,) = answer["choices"]
            usage = answer.get("usage") or {}
            read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
            finish, found = choice["finish_reason"], _completion(choice, written)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            said = self._http.said(reply) if reply.text.lstrip().startswith('{"error"') else ""
            reason = f"its answer is not a completion{f': {said}' if said else ''}"
            raise BusyError(reason, is_answer=True) from error
        if finish not in _WHOLE:
            raise BusyError(f"it broke off an answer ({finish})", is_answer=True)
        prompt, limit = len(body["prompt"]), body["max_tokens"]
        if read and read != prompt:
            raise ResourceError(
                f"{self.url} counted {read:,} tokens in a prompt of {prompt:,} tokens",
                hint=PROMPT_HINT,
            )
        if found.is_cut and 0 < found.tokens < limit:
            raise ResourceError(
                f"{self.url} stopped an answer after {found.tokens:,} of {limit:,} tokens",
                hint="raise the server's token limit, or lower --max-new-tokens",
            )
        return found

    async def _cards(self) -> list[dict[str, Any]]:
        reply = await self._http.ask("GET", "/models")
        if reply.is_busy:
            raise self._http.busy(reply)
        try:
            cards = json.loads(reply.text)["data"]
            if reply.status == 200 and cards and all(card.get("id") for card in cards):
                return list(cards)
        except (ValueError, LookupError, TypeError, AttributeError):
            pass
        raise ConfigError(
            f"--server {self.url}: no OpenAI API at this address (GET {self.url}/models: HTTP "
            f"{reply.status})",
            hint="give the address of the API, such as http://localhost:8000/v1",
        )

    def _choose(self, cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the base model among the served models."""
        names = self._http.clean(", ".join(str(card["id"]) for card in cards))
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
        try:
            return self._http.clean(str(json.loads(await self._http.peek("/version"))["version"]))
        except (ValueError, LookupError, TypeError):
            return "of unknown version"

    async def _start_time(self) -> str:
        page = await self._http.peek("/metrics")
        found = re.search(r"^process_start_time_seconds (\S+)", page, re.MULTILINE)
        return found[1] if found else ""

    async def _preset_adapters(self) -> tuple[int, ...]:
        """Return the IDs of the adapters that llama.cpp's server was started with."""
        try:
            listed = json.loads(await self._http.peek("/lora-adapters"))
            return tuple(int(entry["id"]) for entry in listed)
        except (ValueError, LookupError, TypeError):
            return ()


def _completion(choice: Mapping[str, Any], written: int | None) -> Completion:
    """Read a choice; what is missing or of another type raises an error."""
    ids = choice.get("token_ids")
    text = without_lone_surrogates(choice["text"])  # half a surrogate cannot be stored
    likely = ((choice.get("logprobs") or {}).get("top_logprobs") or [{}])[0]
    return Completion(
        text,
        None if ids is None else [int(token) for token in ids],
        choice["finish_reason"] == "length",
        int(written or 0) if ids is None else len(ids),
        {int(name.removeprefix("token_id:")): float(likely[name]) for name in likely},
    )


def _is_same(name: str, other: str) -> bool:
    return name == other or (
        Path(name).exists() and os.path.realpath(name) == os.path.realpath(other)
    )

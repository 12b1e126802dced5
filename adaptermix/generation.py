"""Greedy generation from prompt ids, for the base model and any number of adapters.

Both engines know nothing about tasks: token ids go in, answers come out in the order asked for.
vLLM keeps all adapters in one engine and decodes all systems' prompts together; transformers does
one system after another.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from adaptermix.config import EvalSettings
from adaptermix.data import first_line
from adaptermix.errors import ArtifactError, ResourceError
from adaptermix.models import compute_dtype, load_model

# The sizes of LoRA slot that vLLM has kernels for.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Request:
    """One prompt for one system: the base model (``adapter`` is None) or an adapter."""

    prompt_ids: list[int]
    adapter: Path | None


@dataclass(frozen=True)
class Generated:
    """One answer; ``is_cut`` where it ran into the length limit."""

    text: str
    is_cut: bool


OnGenerated = Callable[[int], None]


class Generator(Protocol):
    """An engine that answers requests."""

    name: str

    def generate(self, requests: Sequence[Request], on_done: OnGenerated) -> list[Generated]:
        """Answer every request, in order; ``on_done`` hears how many more are answered."""


def make_generator(
    settings: EvalSettings,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    adapters: Sequence[Path],
    max_rank: int,
    max_prompt: int,
) -> Generator:
    """Return the engine that the settings ask for.

    Args:
        settings: Engine, precision and limits.
        folder: The base model.
        tokenizer: To turn answers into text.
        stop_ids: Tokens that end an answer.
        adapters: Staged PEFT directories of all adapters that requests may name.
        max_rank: The largest rank among them.
        max_prompt: Length of the longest prompt, in tokens.

    Raises:
        ResourceError: vLLM is asked for and not installed.
        ArtifactError: An adapter whose rank is above vLLM's limit.
    """
    has_vllm = find_spec("vllm") is not None
    if settings.engine == "vllm" and not has_vllm:
        raise ResourceError(
            "vLLM is not installed",
            hint='pip install "adaptermix[vllm]", or --engine transformers',
        )
    if settings.engine == "transformers" or not has_vllm:
        return TransformersGenerator(settings, folder, tokenizer, stop_ids, adapters)
    return VllmGenerator(settings, folder, tokenizer, stop_ids, adapters, max_rank, max_prompt)


class TransformersGenerator:
    """Batches by length with left padding; the base is loaded once, adapters are switched."""

    name = "transformers"

    def __init__(
        self,
        settings: EvalSettings,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        adapters: Sequence[Path],
    ) -> None:
        """Load the base model and all adapters."""
        self.settings = settings
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.model: Any = load_model(folder, settings)
        self.model.eval()
        for adapter in adapters:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(adapter), adapter_name=adapter.name)
            else:
                self.model = PeftModel.from_pretrained(
                    self.model, str(adapter), adapter_name=adapter.name
                )

    def generate(self, requests: Sequence[Request], on_done: OnGenerated) -> list[Generated]:
        """Answer one system after another, longest prompts first."""
        answers: dict[int, Generated] = {}
        for adapter in dict.fromkeys(request.adapter for request in requests):
            mine = [index for index, r in enumerate(requests) if r.adapter == adapter]
            mine.sort(key=lambda index: -len(requests[index].prompt_ids))
            size = self.settings.batch_size
            for batch in (mine[at : at + size] for at in range(0, len(mine), size)):
                prompts = [requests[index].prompt_ids for index in batch]
                answers.update(zip(batch, self._answer(prompts, adapter), strict=True))
                on_done(len(batch))
        return [answers[index] for index in range(len(requests))]

    def _answer(self, prompts: list[list[int]], adapter: Path | None) -> list[Generated]:
        if adapter is not None:
            self.model.set_adapter(adapter.name)
            return self._decode(prompts)
        if isinstance(self.model, PeftModel):
            with self.model.disable_adapter():
                return self._decode(prompts)
        return self._decode(prompts)

    def _decode(self, prompts: list[list[int]]) -> list[Generated]:
        pad = int(self.tokenizer.pad_token_id or 0)
        width = max(len(prompt) for prompt in prompts)
        ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = self.model.device
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=self.settings.max_new_tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=self.stop_ids,
                pad_token_id=pad,
                # Sampling defaults of the model's own generation config do not apply to greedy.
                temperature=None,
                top_p=None,
                top_k=None,
            )
        rows = output[:, width:].tolist()
        return [_read_answer(row, self.stop_ids, self.tokenizer) for row in rows]


class VllmGenerator:
    """All adapters in one vLLM engine, all prompts in one queue."""

    name = "vllm"

    def __init__(
        self,
        settings: EvalSettings,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        adapters: Sequence[Path],
        max_rank: int,
        max_prompt: int,
    ) -> None:
        """Start the engine."""
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)
        rank = next((size for size in VLLM_RANKS if size >= max_rank), None)
        if rank is None:
            raise ArtifactError(
                f"an adapter has rank {max_rank}, above vLLM's limit of {VLLM_RANKS[-1]}",
                hint="evaluate it with --engine transformers",
            )
        # Results own stdout, and a command's log is for its own words.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        from vllm import LLM, SamplingParams

        on_gpu = torch.cuda.is_available()
        options: dict[str, Any] = {}
        if adapters:
            options = {
                "enable_lora": True,
                "max_loras": _lora_slots(len(adapters), on_gpu),
                "max_cpu_loras": len(adapters) + 1,
                "max_lora_rank": rank,
            }
        try:
            self.llm = LLM(
                model=str(folder),
                dtype=str(compute_dtype(settings)).removeprefix("torch."),  # type: ignore[arg-type]
                trust_remote_code=settings.trust_remote_code,
                gpu_memory_utilization=settings.gpu_memory_utilization if on_gpu else 0.5,
                max_model_len=max_prompt + settings.max_new_tokens,
                enforce_eager=not on_gpu,
                seed=0,
                disable_log_stats=True,
                **options,
            )
        except (RuntimeError, ValueError) as error:
            raise _engine_stopped(error) from error
        self.sampling = SamplingParams(
            temperature=0.0, max_tokens=settings.max_new_tokens, stop_token_ids=self.stop_ids
        )

    def generate(self, requests: Sequence[Request], on_done: OnGenerated) -> list[Generated]:
        """Answer everything in one call."""
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs = self.llm.generate(
                [TokensPrompt(prompt_token_ids=request.prompt_ids) for request in requests],
                self.sampling,
                lora_request=[_lora_request(request.adapter) for request in requests],
                use_tqdm=False,
            )
        except EngineDeadError as error:
            raise _engine_stopped(error) from error
        on_done(len(requests))
        return [
            _read_answer(list(output.outputs[0].token_ids), self.stop_ids, self.tokenizer)
            for output in outputs
        ]


def _lora_slots(adapters: int, on_gpu: bool) -> int:
    """Return how many adapters may share a batch.

    vLLM marks a prompt without adapter by slot -1. Its CPU kernels (0.32) take that for the last
    slot, so the base model would answer with whatever adapter lies there: on a CPU there is one
    slot more than adapters, and the last one stays empty.
    """
    return min(adapters, 8) if on_gpu else adapters + 1


def _read_answer(
    ids: list[int], stop_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> Generated:
    """Turn generated ids into text, up to the first token that ends an answer."""
    end = next((at for at, token in enumerate(ids) if token in stop_ids), None)
    return Generated(str(tokenizer.decode(ids[:end], skip_special_tokens=True)), end is None)


def _engine_stopped(error: Exception) -> ResourceError:
    return ResourceError(
        f"the vLLM engine stopped: {first_line(error)}",
        hint="its own words are above; --engine transformers needs less",
    )


def _lora_request(adapter: Path | None) -> Any:
    """Name an adapter to vLLM by its content: it caches by name, by number and by path."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    number = int.from_bytes(hashlib.sha256(adapter.name.encode()).digest()[:4], "big") % 2**31
    return LoRARequest(adapter.name, max(1, number), str(adapter))

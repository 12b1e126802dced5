"""The transformers engine: greedy decoding with PEFT adapters."""

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.errors import ResourceError, first_line
from adaptermix.generation.engine import (
    Generated,
    OnAnswers,
    Request,
    compose_batches,
    read_answer,
    split_batch,
)
from adaptermix.models.fitting import RowLimit
from adaptermix.models.loading import AdaptedModel, load_model
from adaptermix.settings.shared import EngineSettings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class TransformersGenerator:
    """Decodes in batches sorted by length; the base model is loaded once, adapters are switched."""

    def __init__(
        self,
        settings: EngineSettings,
        folder: Path,
        tokenizer: "PreTrainedTokenizerBase",
        stop_ids: Sequence[int],
    ) -> None:
        """Load the base model."""
        self.settings = settings
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)
        self.adapted = AdaptedModel(load_model(folder, settings))
        self.limit = RowLimit(settings.batch_size)

    def generate(self, requests: Sequence[Request], on_answers: OnAnswers) -> None:
        """Answer one batch after another, and report the answers of each batch together."""
        for batch in compose_batches(requests, self.settings.batch_size):
            self.adapted.switch_to(requests[batch[0]].adapter)
            prompts = [requests[index].prompt_ids for index in batch]
            on_answers(dict(zip(batch, self._answer(prompts), strict=True)))

    def _answer(self, prompts: list[list[int]]) -> list[Generated]:
        """Answer prompts together, or in smaller parts if memory runs out."""
        parts = self.limit.parts(prompts, self._decode, no_memory_to_answer)
        return [answer for part in parts for answer in part]

    def _decode(self, prompts: Sequence[list[int]]) -> list[Generated]:
        return answer_greedily(
            self.adapted.model,
            self.tokenizer,
            self.stop_ids,
            prompts,
            self.settings.max_new_tokens,
        )


def no_memory_to_answer(rows: int, error: RuntimeError) -> ResourceError:
    """Return the error that a single prompt cannot be answered."""
    return ResourceError(
        f"not enough memory to answer one prompt: {first_line(error)}",
        hint="lower --max-new-tokens, or use --dtype bfloat16",
    )


def answer_greedily(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    stop_ids: Sequence[int],
    prompts: Sequence[list[int]],
    max_new_tokens: int,
) -> list[Generated]:
    """Answer prompts with transformers' own generation.

    They share one batch, unless the model reads padding like text (``split_batch``).
    """
    answers: dict[int, Generated] = {}
    for part in split_batch(_base_of(model).config.get_text_config().model_type, prompts):
        asked = [prompts[index] for index in part]
        made = _answer_together(model, tokenizer, stop_ids, asked, max_new_tokens)
        answers |= zip(part, made, strict=True)
    return [answers[index] for index in range(len(prompts))]


def _answer_together(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    stop_ids: Sequence[int],
    prompts: Sequence[list[int]],
    max_new_tokens: int,
) -> list[Generated]:
    """Answer prompts in one batch.

    A prefix that all prompts share, such as a system prompt, is computed once. Padding follows it.
    """
    import torch
    from transformers import GenerationConfig

    # The model's own config can contain penalties, forbidden tokens and limits.
    _base_of(model).generation_config = GenerationConfig()
    pad = int(tokenizer.pad_token_id or 0)
    width = max(len(prompt) for prompt in prompts)
    shared = 0
    if len(prompts) > 1 and _can_share(model, width + max_new_tokens):
        shared = len(os.path.commonprefix([prompt[:-1] for prompt in prompts]))
    ids, mask = [], []
    for prompt in prompts:
        gap = width - len(prompt)
        ids.append([*prompt[:shared], *[pad] * gap, *prompt[shared:]])
        mask.append([*[1] * shared, *[0] * gap, *[1] * (len(prompt) - shared)])
    with torch.inference_mode():
        rows = _continue(
            model,
            torch.tensor(ids, device=model.device),
            torch.tensor(mask, device=model.device),
            _read_once(model, prompts[0][:shared], len(prompts)),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=list(stop_ids),
            pad_token_id=pad,
        )
    return [read_answer(row, stop_ids, tokenizer) for row in rows]


def _continue(
    model: Any, ids: "Tensor", mask: "Tensor", cache: Any, max_new_tokens: int, **options: Any
) -> list[list[int]]:
    """Return the new IDs of each row.

    As soon as half of the rows have ended, the others go on without them: one answer that never
    ends would otherwise make every row of its batch as long.
    """
    import torch

    width = ids.shape[1]
    stop_ids = torch.tensor(options["eos_token_id"], device=ids.device)

    def ended(sequences: "Tensor") -> "Tensor":
        return torch.isin(sequences[:, width:], stop_ids).any(dim=1)

    def half_ended(sequences: "Tensor", _: Any) -> "Tensor":
        done = ended(sequences)
        return (2 * done.sum() >= len(done)).expand(len(done))

    answers: dict[int, list[int]] = {}
    places = torch.arange(len(ids), device=ids.device)
    while len(places):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=width + max_new_tokens - ids.shape[1],
            stopping_criteria=[half_ended] if _can_drop_rows(model) else None,
            return_dict_in_generate=True,
            **options,
        )
        ids, cache = output.sequences, output.past_key_values
        done = ended(ids) | (ids.shape[1] == width + max_new_tokens)
        answers |= zip(places[done].tolist(), ids[done, width:].tolist(), strict=True)
        left = (~done).nonzero()[:, 0]
        if len(left):
            cache.batch_select_indices(left)
        places, ids, mask = places[left], ids[left], mask[left]
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
    return [answers[place] for place in range(len(answers))]


def _base_of(model: Any) -> Any:
    """Return a model without its PEFT wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _can_share(model: Any, width: int) -> bool:
    """Whether prompts can share a prefix.

    A sliding window counts the padding between the prefix and the rest, so the whole row must fit.
    """
    window = getattr(_base_of(model).config, "sliding_window", None)
    return _can_drop_rows(model) and width <= (window or width)


def _can_drop_rows(model: Any) -> bool:
    """Whether the cache holds keys and values only, of which each row can be taken alone."""
    from adaptermix.models.packing import can_pack

    return can_pack(_base_of(model))


def _read_once(model: Any, prefix: list[int], rows: int) -> Any:
    """Return the keys and values of a prefix, repeated for all rows; None without a prefix."""
    import torch
    from transformers import DynamicCache

    if not prefix:
        return None
    base = _base_of(model)
    read = DynamicCache(config=base.config)
    base.get_decoder()(torch.tensor([prefix], device=model.device), past_key_values=read)
    read.batch_repeat_interleave(rows)
    return read

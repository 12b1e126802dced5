"""The interface of the engines: greedy decoding with the base model and any number of adapters.

Engines do not depend on tasks: token IDs go in, and answers come out when they are ready. vLLM and
servers hold all adapters and have one queue for all prompts. transformers decodes one system after
another, in batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Types of models whose classes in transformers read padding like text, so that only prompts of
# equal length can share a batch, and those whose rows may change each other in any batch.
_EQUAL_LENGTHS = frozenset({"minimax", "recurrent_gemma"})
_ONE_ROW = frozenset({"rwkv", "xlstm"})


@dataclass(frozen=True)
class Generated:
    """One answer.

    Attributes:
        text: The answer, without the token that ended it.
        is_truncated: Whether the answer reached the length limit.
        tokens: Number of decoded tokens.
        source: Identifies the server that decoded it; empty for engines in this process.
    """

    text: str
    is_truncated: bool
    tokens: int = 0
    source: str = field(default="", compare=False)


@dataclass(frozen=True)
class Request:
    """One prompt for one system.

    Attributes:
        prompt_ids: The prompt.
        adapter: None for the base model, or a PEFT directory named by its content hash, from
            ``stage_adapter``.
        group: Requests of different groups never share a batch of the transformers engine, so
            that cached answers of one group (a language) stay valid when others are added.
    """

    prompt_ids: list[int]
    adapter: Path | None
    group: str = ""


# Called with answers by the index of their request; those of a batch come together.
OnAnswers = Callable[[Mapping[int, Generated]], None]


class Generator(Protocol):
    """An engine that answers requests; it loads an adapter when a request first needs it."""

    def generate(self, requests: Sequence[Request], on_answers: OnAnswers) -> None:
        """Answer every request, in any order.

        Raises:
            ArtifactError: The engine does not apply an adapter.
            ResourceError: Not enough memory, or the engine stopped.
        """


@dataclass(frozen=True)
class Limits:
    """The capacity that an engine needs over its lifetime.

    Attributes:
        adapters: Maximum number of adapters in one call.
        rank: Maximum rank.
        prompt: Length of the longest prompt, in tokens.
        widest: Name of the adapter with the maximum rank, for messages.
        is_text: Whether a multimodal model is loaded without its encoders of images and audio, as
            the adapters allow.
    """

    adapters: int
    rank: int
    prompt: int
    widest: str = "an adapter"
    is_text: bool = True


def compose_batches(requests: Sequence[Request], size: int) -> list[list[int]]:
    """Split requests, by index, into batches of one system and group, longest prompts first.

    Only the last batch of a system and group can be smaller. Leaving out the requests of whole
    batches therefore does not change the other batches.
    """
    together: dict[tuple[Path | None, str], list[int]] = {}
    for index, request in enumerate(requests):
        together.setdefault((request.adapter, request.group), []).append(index)
    batches = []
    for indices in together.values():
        indices.sort(key=lambda index: -len(requests[index].prompt_ids))
        batches += [indices[at : at + size] for at in range(0, len(indices), size)]
    return batches


def shares_any_batch(model_type: str | None) -> bool:
    """Whether transformers answers prompts of a model type as if each were alone in its batch."""
    return model_type not in _EQUAL_LENGTHS | _ONE_ROW


def split_batch(model_type: str | None, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Split prompts, by index, into those that can share a batch of transformers."""
    if shares_any_batch(model_type):
        return [list(range(len(prompts)))]
    if model_type in _ONE_ROW:
        return [[index] for index in range(len(prompts))]
    parts: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        parts.setdefault(len(prompt), []).append(index)
    return list(parts.values())


def compose_queues(
    requests: Sequence[Request], room: int
) -> Iterator[tuple[list[Path], list[int]]]:
    """Yield queues: as many adapters as fit, and the indices of their requests.

    A queue is sorted by adapter, so that a batch has few adapters and shares prefixes, and then
    by length, longest prompts first. The base model is in the first queue.
    """
    ungrouped = [replace(request, group="") for request in requests]
    order = [index for batch in compose_batches(ungrouped, len(requests)) for index in batch]
    adapters = list(dict.fromkeys(r.adapter for r in requests if r.adapter is not None))
    room = max(1, room)
    for start in range(0, max(1, len(adapters)), room):
        queue = adapters[start : start + room]
        systems = {None, *queue} if start == 0 else set(queue)
        yield queue, [index for index in order if requests[index].adapter in systems]


def text_of(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """Decode IDs to text as it is, without special tokens.

    By default, some tokenizers of whole words or with Unigram remove spaces before punctuation.
    """
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def read_answer(
    ids: list[int], stop_ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase"
) -> Generated:
    """Decode generated IDs to text, up to the first token that ends an answer."""
    end = next((at for at, token in enumerate(ids) if token in stop_ids), None)
    text = text_of(ids[:end], tokenizer)
    return Generated(text, end is None, len(ids) if end is None else end + 1)

"""The engines: greedy generation for the base model and any number of adapters.

They know nothing about tasks: token ids go in, answers come out as they are ready. vLLM and servers
keep all adapters and have one queue for all prompts; transformers does one system after another, in
batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generated:
    """One answer.

    Attributes:
        text: The answer, without the token that ended it.
        is_truncated: It ran into the length limit.
        tokens: How many tokens were decoded for it.
        source: What identifies the server that decoded it; empty in this process.
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
        adapter: None for the base model, or a PEFT directory named by its content's hash
            (``stage_adapter`` makes them).
        group: Requests of different groups never share a batch of the transformers engine, so
            that answers already known in one group (a language) stay known when others are added.
    """

    prompt_ids: list[int]
    adapter: Path | None
    group: str = ""


# Hears of answers by the index of their request, in groups that belong together.
OnAnswers = Callable[[Mapping[int, Generated]], None]


class Generator(Protocol):
    """An engine that answers requests; it loads an adapter when it is first asked for."""

    def generate(self, requests: Sequence[Request], on_answers: OnAnswers) -> None:
        """Answer every request, in an order of its own.

        Raises:
            ArtifactError: An adapter that the engine does not apply.
            ResourceError: Not enough memory; a stopped engine.
        """


@dataclass(frozen=True)
class Limits:
    """What an engine must make room for, over its whole life.

    Attributes:
        adapters: The most adapters in one call.
        rank: The largest rank.
        prompt: Length of the longest prompt, in tokens.
        widest: What messages call the adapter of the largest rank.
    """

    adapters: int
    rank: int
    prompt: int
    widest: str = "an adapter"


def compose_batches(requests: Sequence[Request], size: int) -> list[list[int]]:
    """Split requests, by index, into batches of one system and group, longest prompts first.

    Only the last batch of a system and group is short. So when whole batches are left out of the
    requests, those that remain are composed as before.
    """
    together: dict[tuple[Path | None, str], list[int]] = {}
    for index, request in enumerate(requests):
        together.setdefault((request.adapter, request.group), []).append(index)
    batches = []
    for indices in together.values():
        indices.sort(key=lambda index: -len(requests[index].prompt_ids))
        batches += [indices[at : at + size] for at in range(0, len(indices), size)]
    return batches


def compose_queues(
    requests: Sequence[Request], room: int
) -> Iterator[tuple[list[Path], list[int]]]:
    """Yield queues: adapters, no more than there is room for, and their requests by index.

    In a queue, prompts are sorted by adapter, so that a batch has few of them and prefixes are
    shared, and the longest come first. The base model is in the first queue.
    """
    ungrouped = [replace(request, group="") for request in requests]
    order = [index for batch in compose_batches(ungrouped, len(requests)) for index in batch]
    adapters = list(dict.fromkeys(r.adapter for r in requests if r.adapter is not None))
    room = max(1, room)
    for start in range(0, max(1, len(adapters)), room):
        queue = adapters[start : start + room]
        systems = {None, *queue} if start == 0 else set(queue)
        yield queue, [index for index in order if requests[index].adapter in systems]


def read_answer(
    ids: list[int], stop_ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase"
) -> Generated:
    """Turn generated ids into text, up to the first token that ends an answer."""
    end = next((at for at, token in enumerate(ids) if token in stop_ids), None)
    text = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
    return Generated(text, end is None, len(ids) if end is None else end + 1)

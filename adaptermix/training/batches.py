"""Encode examples as batches of token IDs: prompts, answers, parallel sentences."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from adaptermix.data.chats import Chat
from adaptermix.data.pairs import ParallelPair
from adaptermix.errors import DataError, first_line
from adaptermix.generation.prompts import PromptEncoder, pad

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that PyTorch's cross-entropy ignores
_THINK, _THINK_END = "<think>", "</think>"  # around reasoning in an answer


@dataclass(frozen=True)
class EncodedExample:
    """A prompt and its answer as one sequence; only the answer has labels."""

    input_ids: list[int]
    labels: list[int]
    name: str = field(default="", repr=False)  # no part of the hash of all rows

    @property
    def largest_id(self) -> int:
        """The largest token id."""
        return max(self.input_ids)


def encode_example(
    prompt: list[int], answer: list[int], max_length: int, name: str = ""
) -> EncodedExample | None:
    """Join prompt and answer, truncated on the right; None if no answer token remains."""
    if len(prompt) >= max_length:
        return None
    ids = [*prompt, *answer][:max_length]
    labels = [*[IGNORED] * len(prompt), *answer][:max_length]
    return EncodedExample(ids, labels, name)


@dataclass(frozen=True)
class AnswerCollator:
    """Pads encoded examples on the right: ``input_ids``, ``attention_mask`` and ``labels``."""

    pad_id: int

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
        """Return one batch, each tensor of shape [batch, seq]."""
        batch = pad([example.input_ids for example in examples], self.pad_id)
        labels = pad([example.labels for example in examples], IGNORED)
        return {**batch, "labels": labels["input_ids"]}


def answer_length(row: EncodedExample) -> int:
    """Return the number of labeled tokens in an example."""
    return sum(label != IGNORED for label in row.labels)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Both sides of a parallel pair as token IDs, in arrays: lists take several times the memory.

    ``anchor_ids`` is an unrelated sentence whose hidden states are to be preserved. It goes
    through the model with the pair. Empty if there is no anchor text.
    """

    source_ids: Sequence[int]
    target_ids: Sequence[int]
    name: str = field(default="", repr=False)
    anchor_ids: Sequence[int] = ()

    @property
    def largest_id(self) -> int:
        """The largest token id."""
        return max(*self.source_ids, *self.target_ids, *self.anchor_ids)


def encode_pairs(
    pairs: Sequence[ParallelPair], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[EncodedPair]:
    """Tokenize raw sentences, with the special tokens that the tokenizer adds by default.

    Raises:
        DataError: A sentence has no tokens.
    """
    sides = [
        tokenizer([*texts], truncation=True, max_length=max_length)["input_ids"]
        for texts in ([pair.source for pair in pairs], [pair.target for pair in pairs])
    ]
    for pair, source, target in zip(pairs, *sides, strict=True):
        if not source or not target:
            text = pair.target if source else pair.source
            raise DataError(
                f"{pair.location}: the sentence {text!r} has no tokens", hint="remove the pair"
            )
    return [
        EncodedPair(array("i", source), array("i", target), pair.location)
        for pair, source, target in zip(pairs, *sides, strict=True)
    ]


def with_anchor_text(
    pairs: Sequence[EncodedPair],
    lines: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> list[EncodedPair]:
    """Give every pair an anchor line; lines are used in order and repeated as needed."""
    ids = tokenizer([*lines], truncation=True, max_length=max_length)["input_ids"]
    return [replace(pair, anchor_ids=ids[at % len(ids)]) for at, pair in enumerate(pairs)]


@dataclass(frozen=True)
class PairCollator:
    """Pads both sides of all pairs into one batch: all sources first, then all targets.

    One forward pass then serves both sides. ``input_ids`` and ``attention_mask`` have the shape
    [2 x batch, seq], plus rows of anchor text at the end, if any. The keys ([batch] each) are
    numbers that are equal for equal texts of a side.
    """

    pad_id: int

    def __call__(self, pairs: Sequence[EncodedPair]) -> dict[str, Tensor]:
        """Return one batch."""
        sources, targets = [p.source_ids for p in pairs], [p.target_ids for p in pairs]
        anchors = [p.anchor_ids for p in pairs if p.anchor_ids]
        return {
            **pad([*sources, *targets, *anchors], self.pad_id),
            "source_keys": _keys(sources),
            "target_keys": _keys(targets),
        }


def _keys(rows: Sequence[Sequence[int]]) -> Tensor:
    import torch

    return torch.tensor([hash(tuple(row)) for row in rows])  # integer hashes are reproducible


def token_count(row: EncodedExample | EncodedPair) -> int:
    """Return the number of tokens of a row; of a pair, both sides and its anchor text."""
    if isinstance(row, EncodedPair):
        return len(row.source_ids) + len(row.target_ids) + len(row.anchor_ids)
    return len(row.input_ids)


def padded_length(row: EncodedExample | EncodedPair) -> int:
    """Return the minimum padded length of a batch with this row."""
    if isinstance(row, EncodedPair):
        return max(len(row.source_ids), len(row.target_ids), len(row.anchor_ids))
    return len(row.input_ids)


def encode_chat(chat: Chat, encoder: PromptEncoder, max_length: int) -> list[EncodedExample]:
    """Encode a conversation as token IDs, with labels on the assistant's answers.

    Messages in ``chat.context`` get no labels. An answer follows the same prompt as in
    generation: the template's rendering of all earlier messages. All answers share one sequence
    as long as each prompt starts with the previous prompt and its answer. If the template later
    renders earlier messages differently (some drop old reasoning), a new sequence starts. An
    answer is its content, or its tool calls as rendered by the template, plus the end token.

    Args:
        chat: The conversation.
        encoder: Encoder with the chat template.
        max_length: Maximum length of a sequence, in tokens; the rest is cut off.

    Returns:
        The sequences that have a label within ``max_length``, possibly none.

    Raises:
        DataError: The template rejects the conversation.
    """
    end = str(encoder.tokenizer.convert_ids_to_tokens(encoder.end_id))
    sequences: list[tuple[list[int], list[int]]] = []
    text = ""
    for at, message in enumerate(chat.messages):
        is_answer = message["role"] == "assistant" and at > 0  # an opening message is no answer
        if not is_answer or at in chat.context:
            continue
        calls = message.get("tool_calls", ())
        if not calls and not message["content"].strip():
            continue
        prompt = _prompt(chat, at, encoder)
        if text and prompt.startswith(text):
            asked = encoder.text_ids(prompt.removeprefix(text))
        else:
            sequences.append(([], []))
            asked = encoder.rendered_ids(prompt)
        said = _calls(chat, at, encoder, prompt) if calls else message["content"]
        if prompt.rstrip().endswith(_THINK):
            said = said.lstrip().removeprefix(_THINK).lstrip()
        answer = encoder.answer_ids(said)
        ids, labels = sequences[-1]
        ids.extend([*asked, *answer])
        labels.extend([*[IGNORED] * len(asked), *answer])
        text = prompt + said + end
    return [
        EncodedExample(ids[:max_length], labels[:max_length], chat.location)
        for ids, labels in sequences
        if any(label != IGNORED for label in labels[:max_length])
    ]


def _prompt(chat: Chat, at: int, encoder: PromptEncoder) -> str:
    """Render the prompt of an answer; it leaves room for the answer's own reasoning or calls."""
    answer = chat.messages[at]
    prompt = _rendered(chat, at, encoder)
    is_open = _THINK_END in answer["content"] or (
        "tool_calls" in answer
        and not _rendered(chat, at + 1, encoder, is_answered=True).startswith(prompt)
    )
    return _rendered(chat, at, encoder, may_reason=True) if is_open else prompt


def _rendered(
    chat: Chat,
    count: int,
    encoder: PromptEncoder,
    *,
    is_answered: bool = False,
    may_reason: bool = False,
) -> str:
    """Render the first messages, either as a prompt or ending with an answer."""
    messages = chat.messages[:count]
    try:
        render = partial(encoder.prompt_text, messages, is_answered=is_answered)
        text = render(chat.tools, may_reason=may_reason)
        if chat.tools and text == render(may_reason=may_reason):
            encoder.note("the model's chat template omits the tools that answers may call")
    except DataError as error:
        why = first_line(error.__cause__ or error)
        raise DataError(
            f"{chat.location}: the model's chat template rejects the conversation: {why}"
        ) from error
    return text


def _calls(chat: Chat, at: int, encoder: PromptEncoder, prompt: str) -> str:
    """Return an answer with tool calls as rendered by the template, without its end token.

    Raises:
        DataError: The template omits the calls, or does not write them after its prompt.
    """
    silent = {name: value for name, value in chat.messages[at].items() if name != "tool_calls"}
    without = replace(chat, messages=[*chat.messages[:at], silent])
    whole = _rendered(chat, at + 1, encoder, is_answered=True)
    is_written = whole != _rendered(without, at + 1, encoder, is_answered=True)
    if not whole.startswith(prompt) or not is_written:
        raise DataError(f"{chat.location}: the model's chat template does not write tool calls")
    said = whole.removeprefix(prompt)
    before, found, _ = said.rpartition(str(encoder.tokenizer.convert_ids_to_tokens(encoder.end_id)))
    return before if found else said.rstrip()

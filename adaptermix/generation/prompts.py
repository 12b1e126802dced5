"""Examples with their prompts, as evaluation and search ask them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.data.chats import Message
from adaptermix.errors import ArtifactError, ConfigError, DataError
from adaptermix.files.text import Split
from adaptermix.models.files import context_length
from adaptermix.settings.shared import DecodingSettings
from adaptermix.tasks.task import Example, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class PromptEncoder:
    """Turns chat messages into prompt ids, and answers into the ids that should follow them.

    The prompt is the tokenizer's own chat template up to the assistant's turn, with its BOS
    token once. A tokenizer without a template gets the messages as paragraphs. An answer is
    tokenized by itself and ends with the template's end-of-turn token, so that training and
    generation see the very same prompt ids.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, turn_newline: bool = False) -> None:
        """Read the end-of-turn token off the template.

        Args:
            tokenizer: The base model's.
            turn_newline: Put a newline after each ``<|eot_id|>``, as the authors' data has it.

        Raises:
            ArtifactError: The tokenizer knows no token that ends an answer.
        """
        self.tokenizer = tokenizer
        self.turn_newline = turn_newline
        self.end_id = self._find_end()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the prompt, ready for the first token of the answer."""
        text = self.prompt_text(messages)
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(text)["input_ids"])
        return self.text_ids(text)

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Return the prompt as the chat template writes it."""
        if self.tokenizer.chat_template is None:
            return "".join(f"{message['content']}\n\n" for message in messages)
        text = self._render(messages, add_generation_prompt=True)
        return text.replace("<|eot_id|>", "<|eot_id|>\n") if self.turn_newline else text

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of a text as it stands, without special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer_ids(self, answer: str) -> list[int]:
        """Return the ids of an answer and its end token."""
        return [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.end_id]

    def _render(self, messages: Sequence[Message], **options: Any) -> str:
        return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options))

    def _find_end(self) -> int:
        end = self.tokenizer.eos_token_id
        if self.tokenizer.chat_template is not None:
            question = [{"role": "user", "content": "a"}]
            answered = [*question, {"role": "assistant", "content": "answer"}]
            tail = self._render(answered).rpartition("answer")[2].strip()
            ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
            end = ids[0] if ids else end
        if end is None:
            raise ArtifactError("the tokenizer has no end-of-sequence token")
        return int(end)


def pad(rows: Sequence[Sequence[int]], value: int) -> dict[str, Tensor]:
    """Pad rows on the right with a value; the mask is 1 on what was there."""
    import torch

    length = max(len(row) for row in rows)
    padded = [[*row, *[value] * (length - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}


@dataclass(frozen=True)
class PromptedExample:
    """One example with its prompt.

    Attributes:
        lang: Its language.
        example: The example.
        prompt_ids: The prompt, ready for the first token of the answer.
        is_truncated: The prompt was too long for the model, and lost tokens after the first.
    """

    lang: str
    example: Example
    prompt_ids: list[int]
    is_truncated: bool


def read_prompts(
    settings: DecodingSettings, split: Split, task: Task, encoder: PromptEncoder, folder: Path
) -> list[PromptedExample]:
    """Read the examples of all languages, in the order of languages and files.

    Raises:
        ConfigError: Answers may be as long as all that the model can read.
        DataError: Missing or malformed data, an unknown language, an id that is there twice.
    """
    room = _room_for_prompt(settings, folder)
    prompted = []
    for lang in settings.langs:
        examples = task.read(lang, split, settings.data_dir)[: settings.limit]
        ids = [example.id for example in examples]
        if len(set(ids)) < len(ids):
            raise DataError(f"{lang}: an id occurs twice in the {split} partition")
        for example in examples:
            prompt = encoder.prompt_ids(task.messages(example))
            fitting = truncate(prompt, room)
            prompted.append(PromptedExample(lang, example, fitting, len(fitting) < len(prompt)))
    return prompted


def _room_for_prompt(settings: DecodingSettings, folder: Path) -> int | None:
    """Return how many tokens of the model's context the longest answer leaves to the prompt."""
    context = context_length(folder)
    if context is not None and context <= settings.max_new_tokens:
        raise ConfigError(
            f"--max-new-tokens {settings.max_new_tokens}: the model reads {context} tokens at most"
        )
    return None if context is None else context - settings.max_new_tokens


def truncate(prompt: list[int], room: int | None) -> list[int]:
    """Leave out tokens after the first (BOS), until the prompt fits; its end asks the question."""
    if room is None or len(prompt) <= room:
        return prompt
    return [prompt[0], *prompt[len(prompt) - room + 1 :]]

"""Examples with their prompts, as evaluation and search ask them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError

from adaptermix.data.chats import Message
from adaptermix.errors import ArtifactError, ConfigError, DataError, first_line
from adaptermix.files.text import Split, numbered_lines
from adaptermix.models.files import check_tokens, context_length
from adaptermix.settings.shared import DecodingSettings, PromptSettings
from adaptermix.tasks.task import Example, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


# What a template raises where a program would, besides Jinja's own errors.
_FAULTS = (
    *(TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError),
    *(MemoryError, NotImplementedError),
)
_SYSTEM, _USER, _ANSWER = "aSystemText", "aQuestion", "anAnswer"  # no template writes these


class PromptEncoder:
    """Turns chat messages into prompt ids, and answers into the ids that should follow them.

    The prompt is the tokenizer's own chat template up to the assistant's turn, with its BOS
    token once. A tokenizer without a template gets the messages as paragraphs. An answer is
    tokenized by itself and ends with the template's end-of-turn token, so that training and
    generation see the very same prompt ids.

    Some templates refuse the system role or leave its text out (Gemma 1 and 2). Their system text
    goes into the first user turn, as the documentation of such models recommends.

    Attributes:
        tokenizer: The tokenizer.
        turn_newline: Whether a newline follows each ``<|eot_id|>``.
        end_id: The token that ends an answer.
        notes: What the user should know of prompts and answers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, turn_newline: bool = False) -> None:
        """Find out what the template does with a system text, and how it ends an answer.

        Args:
            tokenizer: The base model's.
            turn_newline: Put a newline after each ``<|eot_id|>``, as the authors' data has it.

        Raises:
            ArtifactError: The tokenizer has no token that ends an answer, or its template has an
                error or refuses a question and its answer.
        """
        self.tokenizer = tokenizer
        self.turn_newline = turn_newline
        self.notes: list[str] = []
        self._takes_system = True
        marker = ""
        if tokenizer.chat_template is not None:
            self._takes_system = self._writes_system()
            marker = self._end_marker()
        self.end_id = self._find_end(marker)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, settings: PromptSettings) -> PromptEncoder:
        """Return the encoder of a command: its chat template may come from a file.

        Raises:
            ArtifactError: The template cannot be used.
            DataError: Its file cannot be read.
        """
        if settings.chat_template is not None:
            tokenizer.chat_template = "\n".join(
                line for _, line in numbered_lines(settings.chat_template)
            )
        return cls(tokenizer, turn_newline=settings.turn_newline)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the prompt, ready for the first token of the answer.

        Raises:
            DataError: The chat template refuses the messages.
        """
        return self.rendered_ids(self.prompt_text(messages))

    def rendered_ids(self, text: str) -> list[int]:
        """Return the ids of a prompt that ``prompt_text`` has written, from its first token."""
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(text)["input_ids"])
        return self.text_ids(text)

    def prompt_text(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        is_answered: bool = False,
    ) -> str:
        """Return the prompt as the chat template writes it.

        Args:
            messages: The conversation.
            tools: What the model may call.
            is_answered: The last message is the answer, and no prompt for another follows.

        Raises:
            DataError: The chat template refuses the messages, or there is none and it takes one.
        """
        if self.tokenizer.chat_template is None:
            if tools or any("tool_calls" in message for message in messages):
                raise DataError(f"{self._name}: tools need a chat template, and there is none")
            return "".join(f"{message['content']}\n\n" for message in messages)
        if messages and messages[0]["role"] == "system" and not self._takes_system:
            messages = _system_in_user_turn(messages)
            self.note(
                "the model's chat template takes no system prompt: its text is written at the "
                "start of the first user turn"
            )
        options = {"tools": [*tools]} if tools else {}
        text = self._render(messages, add_generation_prompt=not is_answered, **options)
        return text.replace("<|eot_id|>", "<|eot_id|>\n") if self.turn_newline else text

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of a text as it stands, without special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer_ids(self, answer: str) -> list[int]:
        """Return the ids of an answer and its end token."""
        return [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.end_id]

    def note(self, text: str) -> None:
        """Keep what the user should know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _render(self, messages: Sequence[Message], **options: Any) -> str:
        """Let the template write messages; templates are programs, and fail as such do."""
        try:
            return str(
                self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
            )
        except TemplateSyntaxError as error:
            raise ArtifactError(
                f"{self._name}: the chat template is not valid: line {error.lineno}: "
                f"{first_line(error)}"
            ) from error
        except (TemplateError, *_FAULTS) as error:
            raise DataError(
                f"the model's chat template refuses the messages: {first_line(error)}"
            ) from error

    @property
    def _name(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", "") or "the tokenizer")

    def _writes_system(self) -> bool:
        messages = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _USER},
        ]
        try:
            return _SYSTEM in self._render(messages, add_generation_prompt=True)
        except DataError:
            return False

    def _end_marker(self) -> str:
        """Return what the template writes behind an answer."""
        question = [{"role": "user", "content": _USER}]
        answered = [*question, {"role": "assistant", "content": _ANSWER}]
        try:
            asked = self._render(question, add_generation_prompt=True)
            _, answer, tail = self._render(answered).rpartition(_ANSWER)
        except DataError as error:
            raise ArtifactError(f"{self._name}: {error.message}") from error
        if _USER not in asked:
            raise ArtifactError(f"{self._name}: the chat template leaves out what the user says")
        return tail.strip() if answer else ""

    def _find_end(self, marker: str) -> int:
        """Return the token that ends an answer: the template's marker, if that is one, or EOS.

        The first piece of a marker that the tokenizer splits occurs in answers as well.
        """
        ids = self.text_ids(marker)
        if len(ids) == 1 or (ids and ids[0] in self.tokenizer.added_tokens_decoder):
            return int(ids[0])
        end = self.tokenizer.eos_token_id
        split = f"the chat template ends answers with '{marker}', which is {len(ids)} tokens"
        if end is None:
            why = f"{split}, and " if marker else ""
            raise ArtifactError(f"{self._name}: {why}the tokenizer has no end-of-sequence token")
        if marker:
            self.note(f"{split}: they end with {self.tokenizer.eos_token} instead")
        return int(end)


def _system_in_user_turn(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the system text at the start of the first user turn."""
    system, *others = messages
    if not others or others[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *others]
    both = [text for text in (system["content"], others[0]["content"]) if text]
    return [{"role": "user", "content": "\n\n".join(both)}, *others[1:]]


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
    check_tokens((max(item.prompt_ids, default=0) for item in prompted), folder)
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

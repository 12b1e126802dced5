"""Encode prompts and answers with the chat template, and read examples with their prompts."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError

from adaptermix.data.chats import Message
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, DataError, first_line
from adaptermix.files.text import Split, numbered_lines
from adaptermix.generation.engine import text_of
from adaptermix.models.files import check_tokens, context_length
from adaptermix.settings.shared import DecodingSettings, PromptSettings
from adaptermix.tables import number_of
from adaptermix.tasks.task import Example, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


# Exceptions that a template, as a program, can raise besides Jinja's own.
_FAULTS = (
    *(TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError),
    *(MemoryError, NotImplementedError),
)
_SYSTEM, _USER, _ANSWER = "aSystemText", "aQuestion", "anAnswer"  # no template contains these
_QUESTION: Message = {"role": "user", "content": _USER}
_ANSWERED = [_QUESTION, {"role": "assistant", "content": _ANSWER}]
# Variables with which templates turn reasoning off.
_REASONING = ("enable_thinking", "thinking")
_REASONS = re.compile("think|thought|reason|analysis", re.IGNORECASE)
_PLAIN_TEMPLATE = "name a template for plain conversations: --chat-template FILE"
# Variables that transformers sets to None, and templates for tools and for retrieval may rely on.
_OPTIONAL = ("tools", "documents")


class PromptEncoder:
    """Encodes chat messages as prompt IDs, and answers as the IDs that should follow them.

    The prompt is the tokenizer's own chat template up to the assistant's turn, with a single BOS
    token. Without a template, the messages become paragraphs. An answer is tokenized separately
    and ends with the template's end-of-turn token, so that training and generation use identical
    prompt IDs.

    If the template lets the model reason before it answers, or writes more than the assistant's
    role before an answer, the prompt ends with what it writes before an answer without reasoning.

    Some templates reject the system role or omit its text (Gemma 1 and 2). The system text then
    goes into the first user turn, as the documentation of such models recommends. The templates of
    some vision models (SmolVLM) require a list of parts as content; they get a single text part.

    Attributes:
        tokenizer: The tokenizer.
        turn_newline: Whether a newline follows each ``<|eot_id|>``.
        end_id: The token that ends an answer.
        notes: Notes for the user about prompts and answers.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        turn_newline: bool = False,
        template: Path | None = None,
    ) -> None:
        """Determine how the template handles a system text, and how it ends an answer.

        Args:
            tokenizer: Tokenizer of the base model.
            turn_newline: Put a newline after each ``<|eot_id|>``, as in the authors' data.
            template: File of the chat template, if it is not the tokenizer's own.

        Raises:
            ArtifactError: The tokenizer has no token that ends an answer, or its template has an
                error or rejects a question with its answer.
        """
        self.tokenizer = tokenizer
        self.turn_newline = turn_newline
        self.notes: list[str] = []
        self._place = self._name if template is None else str(template)
        self._wants_parts = False
        self._no_system = ""  # why prompts cannot begin with a system text, if they cannot
        self._role = ""  # the role of an answer, if the template omits it at the end of a prompt
        self._dropped = self._opening = ""  # end of a prompt, and what replaces it
        marker = ""
        templates = tokenizer.chat_template
        if isinstance(templates, dict) and "default" not in templates:
            raise ArtifactError(
                f"{self._name}: the tokenizer has the chat templates {', '.join(templates)}, and "
                "none is the default",
                hint="copy one of them into a file, and name it with --chat-template",
            )
        if tokenizer.chat_template is not None:
            self._wants_parts = self._needs_parts()
            self._no_system = self._why_no_system()
            marker = self._end_marker()
            self._dropped, self._opening = self._find_opening()
            if not _REASONS.search(self._opening) and self._omits_role():
                self._role, self._opening = self._opening, ""
            if self._prompt() != self._prompt(may_reason=True):
                self.note(
                    "the chat template lets the model reason before it answers; prompts ask for "
                    "answers without reasoning (to change this, use --chat-template)"
                )
            if "strftime_now" in str(tokenizer.chat_template):
                self.note(
                    "the chat template can write today's date into prompts, so answers may differ "
                    "from day to day; to fix the date, use a file with --chat-template"
                )
        if turn_newline and "<|eot_id|>" not in self._answered():
            self.note("--turn-newline has no effect: prompts have no <|eot_id|>")
        self.end_id = self._find_end(marker)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, settings: PromptSettings) -> PromptEncoder:
        """Return the encoder for a command, whose chat template may come from a file.

        Raises:
            ArtifactError: The template cannot be used.
            DataError: The template file cannot be read.
        """
        if settings.chat_template is not None:
            tokenizer.chat_template = "\n".join(
                line for _, line in numbered_lines(settings.chat_template)
            )
        return cls(tokenizer, turn_newline=settings.turn_newline, template=settings.chat_template)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the IDs of the prompt, up to the start of the answer.

        Raises:
            DataError: The chat template rejects the messages.
        """
        return self.rendered_ids(self.prompt_text(messages))

    def rendered_ids(self, text: str) -> list[int]:
        """Return the IDs of a text from ``prompt_text``, as the start of a sequence."""
        if self.tokenizer.chat_template is None:
            ids = list(self.tokenizer(text)["input_ids"])
            end = self.tokenizer.eos_token_id  # some tokenizers add it to every text
            is_ended = len(ids) > 1 and ids[-1] == end and self.text_ids(text)[-1:] != [end]
            return ids[:-1] if is_ended else ids
        return self.text_ids(text)

    def prompt_text(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        is_answered: bool = False,
        may_reason: bool = False,
    ) -> str:
        """Return the prompt as rendered by the chat template.

        Args:
            messages: The conversation.
            tools: Tools that the model may call.
            is_answered: The last message is the answer, and no prompt for another follows.
            may_reason: The answer has its own reasoning, so the prompt leaves it open.

        Raises:
            DataError: The chat template rejects the messages, or tools are used without one.
        """
        if self.tokenizer.chat_template is None:
            if tools or any("tool_calls" in message for message in messages):
                raise DataError(f"{self._name}: tools need a chat template, and the model has none")
            return "".join(f"{message['content']}\n\n" for message in messages)
        if messages and messages[0]["role"] == "system" and self._no_system:
            messages = _system_in_user_turn(messages)
            self.note(
                f"{self._no_system}; the system prompt is put at the start of the first user turn"
            )
        options: dict[str, Any] = {"tools": [*tools]} if tools else {}
        if not may_reason:
            options |= self._without_reasoning()
        text = self._render(messages, add_generation_prompt=not is_answered, **options)
        if not is_answered:
            text += self._role
        if not (is_answered or may_reason) and text.endswith(self._dropped):
            text = text.removesuffix(self._dropped) + self._opening
        return text.replace("<|eot_id|>", "<|eot_id|>\n") if self.turn_newline else text

    def text_ids(self, text: str) -> list[int]:
        """Return the IDs of a text, without adding special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer_ids(self, answer: str) -> list[int]:
        """Return the IDs of an answer and its end token."""
        return [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.end_id]

    def note_on_answers(self, answers: Mapping[str, Sequence[str]]) -> None:
        """Note correct answers, by language, that the tokenizer cannot write.

        Its vocabulary may lack characters, and some tokenizers (WordPiece, SentencePiece with
        normalization) change case, accents or spaces. No model with it can then answer correctly.
        """
        lost: dict[str, list[tuple[str, str]]] = {}
        for lang, given in answers.items():
            pairs = [(answer, self._written_by_tokenizer(answer)) for answer in given]
            if found := [pair for pair in pairs if pair[0].split() != pair[1].split()]:
                lost[lang] = found
        if lost:
            count, total = sum(map(len, lost.values())), sum(map(len, answers.values()))
            answer, written = next(iter(lost.values()))[0]
            self.note(
                f"the tokenizer cannot write {count} of {number_of(total, 'correct answer')} as "
                f"they are ({', '.join(lost)}); for example, {answer[:80]!r} becomes "
                f"{written[:80]!r}"
            )

    def _written_by_tokenizer(self, text: str) -> str:
        return text_of(self.text_ids(text), self.tokenizer)

    def note(self, text: str) -> None:
        """Add a note for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _render(self, messages: Sequence[Message], **options: Any) -> str:
        """Render messages with the template, which is a program and can fail like one."""
        if self._wants_parts:
            messages = [_in_parts(m) if isinstance(m.get("content"), str) else m for m in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
            )
        except TemplateSyntaxError as error:
            raise ArtifactError(
                f"{self._place}: the chat template is not valid: line {error.lineno}: "
                f"{first_line(error)}"
            ) from error
        except (TemplateError, *_FAULTS) as error:
            if (variable := self._lacking(error, messages, options)) is not None:
                raise ArtifactError(
                    f"{self._place}: the chat template needs the variable '{variable}', which "
                    f"prompts do not have: {first_line(error)}",
                    hint=_PLAIN_TEMPLATE,
                ) from error
            raise DataError(
                f"the model's chat template rejects the messages: {first_line(error)}"
            ) from error

    def _lacking(
        self, error: Exception, messages: Sequence[Message], options: dict[str, Any]
    ) -> str | None:
        """Return the variable whose absence explains an error of the template, or None."""
        if type(error) is TemplateError:  # the template's own raise_exception
            return None
        if isinstance(error, UndefinedError):
            found = re.fullmatch(r"'(\w+)' is undefined", str(error))
            if found is not None:
                return found[1]
        for name in (each for each in _OPTIONAL if each not in options):
            try:
                given = {**options, name: [{}]}
                self.tokenizer.apply_chat_template(list(messages), tokenize=False, **given)
            except (TemplateError, *_FAULTS) as other:
                if str(other) == str(error):
                    continue
            return name
        return None

    def _omits_role(self) -> bool:
        """Whether the template writes prompts like conversations that nobody has to answer."""
        prompt, conversation = (
            self._render([_QUESTION], add_generation_prompt=asks) for asks in (True, False)
        )
        return prompt == conversation

    def _prompt(self, *, may_reason: bool = False) -> str:
        return self.prompt_text([_QUESTION], may_reason=may_reason)

    def _answered(self) -> str:
        return self.prompt_text(_ANSWERED, is_answered=True)

    def _without_reasoning(self) -> dict[str, bool]:
        """Return variables of the template that turn reasoning off."""
        template = str(self.tokenizer.chat_template)
        return {name: False for name in _REASONING if name in template}

    @property
    def _name(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", "") or "the tokenizer")

    def _why_no_system(self) -> str:
        """Return why a prompt cannot begin with a system text; empty if it can."""
        messages: list[Message] = [{"role": "system", "content": _SYSTEM}, _QUESTION]
        if self._writes(messages):
            return ""
        try:
            self._render(messages, add_generation_prompt=True)
        except ArtifactError as error:  # its system turn needs a variable, such as the tools
            return f"with a system prompt, {error.message}"
        except DataError:
            pass
        return "the model's chat template does not support a system prompt"

    def _needs_parts(self) -> bool:
        """Whether the template accepts only a list of parts as content."""
        return not self._writes([_QUESTION]) and _USER in self._written([_in_parts(_QUESTION)])

    def _writes(self, messages: Sequence[Message]) -> bool:
        """Whether the template accepts these messages, and renders the text of each."""
        written = self._written(messages)
        return all(message["content"] in written for message in messages)

    def _written(self, messages: Sequence[Message]) -> str:
        """Return the rendered messages; an empty text if the template rejects them."""
        try:
            return self._render(messages, add_generation_prompt=True)
        except AdaptermixError:  # if a question is rejected as well, _end_marker says so
            return ""

    def _end_marker(self) -> str:
        """Return what the template writes after an answer."""
        try:
            asked = self._prompt()
            _, answer, tail = self._answered().rpartition(_ANSWER)
        except DataError as error:
            raise ArtifactError(f"{self._place}: {error.message}", hint=_PLAIN_TEMPLATE) from error
        if _USER not in asked:
            raise ArtifactError(
                f"{self._place}: the chat template drops the user's message", hint=_PLAIN_TEMPLATE
            )
        return tail.strip() if answer else ""

    def _find_opening(self) -> tuple[str, str]:
        """Return the end of a prompt that an answer does not follow, and what does precede it.

        Both are empty if the template writes the same, except for whitespace, in prompts and before
        answers. They are also empty if a prompt ends with what a variable of the template wrote to
        turn reasoning off (Gemma 4, Hunyuan): without it, the model would reason.
        """
        asked = self._prompt()
        before, answer, _ = self._answered().rpartition(_ANSWER)
        common = os.path.commonprefix([asked, before])
        dropped, opening = asked[len(common) :], before[len(common) :]
        if not answer or _USER not in common or dropped.split() == opening.split():
            return "", ""
        if dropped.strip() and not _REASONS.search(dropped):  # the template forgets the role
            return "", ""
        if not self._prompt(may_reason=True).endswith(dropped):  # it turns reasoning off
            return "", ""
        return dropped, opening

    def _find_end(self, marker: str) -> int:
        """Return the token that ends an answer: the template's marker or EOS.

        The marker must be one token or start with an added token. The first piece of any other
        marker occurs in answers as well.
        """
        ids = self.text_ids(marker)
        if len(ids) == 1 or (ids and ids[0] in self.tokenizer.added_tokens_decoder):
            return int(ids[0])
        end = self.tokenizer.eos_token_id
        split = f"the chat template ends answers with '{marker}', which is {len(ids)} tokens"
        if end is None:
            why = f"{split}, and " if marker else ""
            raise ArtifactError(
                f"{self._name}: {why}the tokenizer has no end-of-sequence token",
                hint="name the token that ends an answer as eos_token in tokenizer_config.json",
            )
        if marker:
            self.note(f"{split}; answers end with {self.tokenizer.eos_token} instead")
        return int(end)


def _in_parts(message: Message) -> Message:
    """Return a message with its content as a list of one text part."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _system_in_user_turn(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the system text at the start of the first user turn."""
    system, *others = messages
    if not others or others[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *others]
    both = [text for text in (system["content"], others[0]["content"]) if text]
    return [{"role": "user", "content": "\n\n".join(both)}, *others[1:]]


def pad(rows: Sequence[Sequence[int]], value: int) -> dict[str, Tensor]:
    """Pad rows on the right with a value; the mask is 1 for the original values."""
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
        prompt_ids: IDs of the prompt, up to the start of the answer.
        is_truncated: Whether the prompt was too long and lost tokens after the first.
    """

    lang: str
    example: Example
    prompt_ids: list[int]
    is_truncated: bool


def read_prompts(
    settings: DecodingSettings, split: Split, task: Task, encoder: PromptEncoder, folder: Path
) -> list[PromptedExample]:
    """Read and encode the examples of all languages, in the order of languages and files.

    Raises:
        ConfigError: The longest answer fills the model's context.
        DataError: Missing or malformed data, an unknown language, or a duplicate ID.
    """
    room = room_for_prompt(settings.max_new_tokens, folder)
    prompted = []
    answers = {}
    for lang in settings.langs:
        examples = task.read(lang, split, settings.data_dir)[: settings.limit]
        answers[lang] = [task.answer(example) for example in examples]
        ids = [example.id for example in examples]
        if len(set(ids)) < len(ids):
            raise DataError(f"{lang}: an id occurs twice in the {split} data")
        for example in examples:
            prompt = encoder.prompt_ids(task.messages(example))
            fitting = truncate(prompt, room)
            prompted.append(PromptedExample(lang, example, fitting, len(fitting) < len(prompt)))
    check_tokens((max(item.prompt_ids, default=0) for item in prompted), folder)
    encoder.note_on_answers(answers)
    return prompted


def room_for_prompt(max_new_tokens: int, folder: Path) -> int | None:
    """Return how many tokens of context the longest answer leaves for the prompt.

    Raises:
        ConfigError: It leaves none.
    """
    context = context_length(folder)
    if context is not None and context <= max_new_tokens:
        raise ConfigError(
            f"--max-new-tokens {max_new_tokens}: the model accepts at most {context} tokens"
        )
    return None if context is None else context - max_new_tokens


def truncate(prompt: list[int], room: int | None) -> list[int]:
    """Drop tokens after the first (BOS) until the prompt fits; its end is the question."""
    if room is None or len(prompt) <= room:
        return prompt
    return [prompt[0], *prompt[len(prompt) - room + 1 :]]

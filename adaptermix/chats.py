"""Conversations of one's own, as OpenAI and TRL write them, and their tokens with labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from adaptermix.batching import IGNORED, EncodedExample, PromptEncoder
from adaptermix.errors import DataError, first_line
from adaptermix.files.text import json_rows
from adaptermix.tasks import Message


@dataclass(frozen=True)
class Chat:
    """A conversation, and the file and line it is from."""

    messages: list[Message]
    place: str


def read_chats(path: Path) -> list[Chat]:
    """Read conversations, one JSON record a line: ``{"messages": [{"role", "content"}, ...]}``.

    Roles are those that the model's chat template knows. A content may also be a list of parts
    of type ``text``, which are joined.

    Raises:
        DataError: No such file, or a malformed record, with its line.
    """
    return [_chat(row, f"{path}:{number}") for number, row in json_rows(path)]


def _chat(row: Any, place: str) -> Chat:
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{place}: no list 'messages'", hint='{"messages": [{"role": "user", ...')
    return Chat([_message(message, place) for message in messages], place)


def _message(message: Any, place: str) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataError(f"{place}: a message without 'role'")
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if None not in texts:
            content = "".join(map(str, texts))
    if not isinstance(content, str):
        raise DataError(f"{place}: the 'content' of a message must be text")
    return {"role": message["role"], "content": content}


def encode_chat(chat: Chat, encoder: PromptEncoder, max_length: int) -> list[EncodedExample]:
    """Return a conversation as token ids; the answers of the assistant, all of them, have labels.

    What precedes an answer is the very prompt that generation would have there: the template's
    rendering of all earlier messages. As long as each rendering goes on where the one before and
    its answer ended, all answers share one sequence. Where the template writes earlier messages
    differently later on (some leave out old thoughts), a new sequence begins. An answer is its
    content and the token that ends it.

    Args:
        chat: The conversation.
        encoder: Knows the template.
        max_length: Longest sequence, in tokens; what is beyond is cut off.

    Returns:
        The sequences that have a label within that length; none where no answer has a token.

    Raises:
        DataError: The template refuses the conversation.
    """
    end = str(encoder.tokenizer.convert_ids_to_tokens(encoder.end_id))
    sequences: list[tuple[list[int], list[int]]] = []
    text = ""
    for at, message in enumerate(chat.messages):
        is_answer = message["role"] == "assistant" and at > 0  # what opens a conversation is none
        if not is_answer or not message["content"].strip():
            continue
        prompt = _prompt(chat, at, encoder)
        if text and prompt.startswith(text):
            asked = encoder.text_ids(prompt.removeprefix(text))
        else:
            sequences.append(([], []))
            asked = encoder.prompt_ids(chat.messages[:at])
        answer = encoder.answer_ids(message["content"])
        ids, labels = sequences[-1]
        ids.extend([*asked, *answer])
        labels.extend([*[IGNORED] * len(asked), *answer])
        text = prompt + message["content"] + end
    return [
        EncodedExample(ids[:max_length], labels[:max_length], chat.place)
        for ids, labels in sequences
        if any(label != IGNORED for label in labels[:max_length])
    ]


def _prompt(chat: Chat, at: int, encoder: PromptEncoder) -> str:
    try:
        return encoder.prompt_text(chat.messages[:at])
    except TemplateError as error:
        raise DataError(
            f"{chat.place}: the model's chat template refuses it: {first_line(error)}"
        ) from error

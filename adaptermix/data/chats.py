"""Conversations of one's own, as OpenAI and TRL write them, and their tokens with labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.errors import DataError
from adaptermix.files.text import json_rows

Message = dict[str, str]


@dataclass(frozen=True)
class Chat:
    """A conversation, and the file and line it is from."""

    messages: list[Message]
    location: str


def read_chats(path: Path) -> list[Chat]:
    """Read conversations, one JSON record a line: ``{"messages": [{"role", "content"}, ...]}``.

    Roles are those that the model's chat template knows. A content may also be a list of parts
    of type ``text``, which are joined.

    Raises:
        DataError: No such file, or a malformed record, with its line.
    """
    return [_chat(row, f"{path}:{number}") for number, row in json_rows(path)]


def _chat(row: Any, location: str) -> Chat:
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise DataError(
            f"{location}: no list 'messages'", hint='{"messages": [{"role": "user", ...'
        )
    return Chat([_message(message, location) for message in messages], location)


def _message(message: Any, location: str) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataError(f"{location}: a message without 'role'")
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if None not in texts:
            content = "".join(map(str, texts))
    if not isinstance(content, str):
        raise DataError(f"{location}: the 'content' of a message must be text")
    return {"role": message["role"], "content": content}

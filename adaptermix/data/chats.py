"""Read the user's conversations: messages, ShareGPT, Alpaca, or prompts with completions.

The format is recognized by the columns. Lists, such as messages and tools, may be JSON text.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from adaptermix.data.layouts import Layout, recognize
from adaptermix.errors import DataError
from adaptermix.files.records import open_records
from adaptermix.files.text import json_value
from adaptermix.progress import OnProgress, ignore, tell
from adaptermix.tables import number_of

Message = dict[str, Any]
OPTION = "--columns"
_MESSAGE = 'a message is {"role": "user", "content": "..."}'
_TOOL = 'a tool is {"name": "...", "description": "...", "parameters": {...}}'
_CALL = 'a call is {"name": "...", "arguments": {...}}'
_TEXT = "write it as text, or name another column: --columns"
# Fields of reasoning, as DeepSeek's, OpenRouter's and gpt-oss' messages have them.
_REASONING = ("reasoning_content", "reasoning", "thinking")
_SYSTEM_ROLES = ("system", "developer")  # OpenAI's two names of it
# ShareGPT's speakers, with their roles in chat templates.
_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "system": "system",
}


@dataclass(frozen=True)
class Chat:
    """A conversation.

    Attributes:
        messages: Messages with ``role`` and ``content``; the assistant's may have ``tool_calls``.
        location: File and line, or row, of its source.
        tools: JSON schemas of the available tools.
        context: Indices of messages to exclude from the loss, even if they are the assistant's.
        left_out: Fields of its messages that hold reasoning, which is not read.
    """

    messages: list[Message]
    location: str
    tools: tuple[dict[str, Any], ...] = ()
    context: frozenset[int] = frozenset()
    left_out: tuple[str, ...] = ()

    def with_system(self, text: str | None) -> "Chat":
        """Return the conversation with a system prompt, unless it has its own or there is none."""
        first = self.messages[0]["role"] if self.messages else "system"
        if not text or first in _SYSTEM_ROLES:
            return self
        messages = [{"role": "system", "content": text}, *self.messages]
        context = self.context | ({0} if first == "assistant" else set())  # it answers nothing
        return replace(self, messages=messages, context=frozenset(at + 1 for at in context))


@dataclass(frozen=True)
class _Source:
    """One row: its fields, its location, and whether missing fields are null (Arrow)."""

    fields: Mapping[str, Any]
    location: str
    is_arrow: bool

    def text(self, name: str) -> str:
        """Return a text field; a missing one is empty."""
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{self.location}: '{name}' must be text", hint=f"{_TEXT} {name}=COLUMN"
            )
        return value or ""

    def needed_text(self, name: str) -> str:
        """Return a text field that must exist."""
        if self.fields.get(name) is None:
            raise DataError(
                f"{self.location}: '{name}' is missing",
                hint=f"remove the row, or name another column: {OPTION} {name}=COLUMN",
            )
        return self.text(name)

    def list_of(self, name: str) -> list[Any]:
        """Return a list field, which may be JSON text."""
        value = self.fields.get(name)
        if isinstance(value, str) and value.strip():
            value = json_value(value, f"{self.location}: '{name}'", hint=_hint_of_list(name))
        if value in (None, ""):
            return []
        if not isinstance(value, list):
            raise DataError(f"{self.location}: '{name}' must be a list", hint=_hint_of_list(name))
        return self.without_nulls(value) if self.is_arrow else value

    def without_nulls(self, value: Any) -> Any:
        """Remove null fields, because Arrow adds the fields of any object to all objects."""
        if isinstance(value, dict):
            return {k: self.without_nulls(v) for k, v in value.items() if v is not None}
        return [self.without_nulls(item) for item in value] if isinstance(value, list) else value


def _hint_of_list(name: str) -> str:
    return f"write a list; {_TOOL if name == 'tools' else _MESSAGE}"


@dataclass(frozen=True)
class _Form(Layout):
    """A layout of conversations, and the function that reads a row of it."""

    read: Callable[[_Source], Chat] = lambda source: Chat([], source.location)


def read_chats(
    place: Path,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    on_progress: OnProgress = ignore,
) -> list[Chat]:
    """Read conversations from a file or a data set of the Hub, as ``open_records`` does.

    Roles are those of the model's chat template. If a content is a list of parts with ``text``,
    they are joined.

    Args:
        place: Path of the file, or name of the data set.
        columns: The table's column names, by the names used here.
        limit: Maximum number of rows to read.
        on_progress: Called with the name of the data set, and with notes on what is left out.

    Raises:
        ConfigError: ``columns`` has an unknown name or column.
        DataError: The file does not exist, its columns fit no format, or a record is malformed;
            with its line.
        ResourceError: The format's reader is not installed, or the Hub cannot be reached.
    """
    records = open_records(place, columns, option=OPTION, on_progress=on_progress)
    form = recognize(records, _FORMS, OPTION)
    chats = [
        form.read(_Source(row, records.at(number), records.is_arrow))
        for number, row in islice(records.rows(form.columns), limit)
    ]
    left_out = Counter(name for chat in chats for name in chat.left_out)
    notes = (
        f"{records.origin}: '{name}' of {number_of(count, 'conversation')} is left out: the "
        "reasoning before an answer is not trained"
        for name, count in left_out.items()
    )
    tell(on_progress, notes)
    return chats


def _messages(source: _Source, name: str = "messages") -> Chat:
    listed = source.list_of(name)
    if not listed:
        hint = f'{_MESSAGE}; for ShareGPT, {{"from": "human", "value": "..."}}'
        raise DataError(f"{source.location}: expected a list in '{name}'", hint=hint)
    first = [{"role": "system", "content": text}] if (text := source.text("system")) else []
    messages = [*first, *(_message(message, source.location) for message in listed)]
    unweighted = [
        at for at, message in enumerate(listed, start=len(first)) if message.get("weight") == 0
    ]
    context = frozenset(unweighted)
    return Chat(messages, source.location, _tools(source), context, _reasoning_in(listed))


def _instruction(source: _Source) -> Chat:
    """Read a row in Alpaca's format: an instruction, optional input, and the output."""
    parts = [source.needed_text("instruction"), source.text("input")]
    messages = [
        {"role": "system", "content": source.text("system")},
        {"role": "user", "content": "\n\n".join(part for part in parts if part)},
        {"role": "assistant", "content": source.needed_text("output")},
    ]
    return Chat([m for m in messages if m["role"] != "system" or m["content"]], source.location)


def _completion(source: _Source) -> Chat:
    """Read prompt and completion, each a text or messages; the loss covers the completion."""
    prompt, completion = (
        [{"role": role, "content": source.needed_text(name)}]
        if not isinstance(source.fields.get(name), list)
        else source.list_of(name)
        for name, role in (("prompt", "user"), ("completion", "assistant"))
    )
    listed = [*prompt, *completion]
    messages = [_message(message, source.location) for message in listed]
    context = frozenset(range(len(prompt)))
    return Chat(messages, source.location, _tools(source), context, _reasoning_in(listed))


_FORMS = (
    _Form(("messages",), ("tools",), _messages),
    _Form(("conversations",), ("system", "tools"), partial(_messages, name="conversations")),
    _Form(("prompt", "completion"), ("tools",), _completion),
    _Form(("instruction", "output"), ("input", "system"), _instruction),
)


def _tools(source: _Source) -> tuple[dict[str, Any], ...]:
    tools = source.list_of("tools")
    for at, tool in enumerate(tools):
        if isinstance(tool, str):
            tools[at] = tool = json_value(tool, f"{source.location}: 'tools'", hint=_TOOL)
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError(f"{source.location}: a tool has no function name ('name')", hint=_TOOL)
    return tuple(
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    )


def _message(message: Any, location: str) -> Message:
    if isinstance(message, dict) and message.get("role") is None and "from" in message:
        message = _as_role(message, location)
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataError(f"{location}: a message has no 'role'", hint=_MESSAGE)
    listed = message.get("tool_calls") or []
    if not isinstance(listed, list):
        raise DataError(f"{location}: 'tool_calls' must be a list", hint=_CALL)
    calls = [_call(call, location) for call in listed]
    if message.get("weight") not in (None, 0, 1):
        raise DataError(
            f"{location}: the 'weight' of a message must be 0 or 1",
            hint="0 leaves an answer out of the loss, 1 trains it",
        )
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if None not in texts:
            content = "".join(map(str, texts))
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise DataError(
            f"{location}: the 'content' of a message must be text",
            hint="write text, or a list of parts with 'text'; only a message with tool "
            "calls can omit it",
        )
    is_tool = message["role"] == "tool"
    named = {name: message[name] for name in ("name", "tool_call_id") if message.get(name)}
    return (
        {"role": message["role"], "content": content}
        | ({"tool_calls": calls} if calls else {})
        | (named if is_tool else {})
    )


def _reasoning_in(messages: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(name for name in _REASONING if any(message.get(name) for message in messages))


def _as_role(message: dict[str, Any], location: str) -> dict[str, Any]:
    """Convert ShareGPT's message with ``from`` and ``value`` to one with role and content."""
    speaker = str(message["from"]).lower()
    if speaker not in _SPEAKERS:
        raise DataError(
            f"{location}: a message has the unknown sender '{message['from']}'",
            hint=f"use {', '.join(_SPEAKERS)}",
        )
    role, value = _SPEAKERS[speaker], message.get("value")
    if speaker != "function_call":
        return {"role": role, "content": value}
    call = json_value(str(value), f"{location}: a message from 'function_call'", hint=_CALL)
    return {"role": role, "content": "", "tool_calls": call if isinstance(call, list) else [call]}


def _call(call: Any, location: str) -> dict[str, Any]:
    """Return a tool call with its arguments as an object, which chat templates serialize."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{location}: a tool call has no function name ('name')", hint=_CALL)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json_value(
            arguments, f"{location}: 'arguments' of {function['name']}", hint=_CALL
        )
    if not isinstance(arguments, dict):
        raise DataError(
            f"{location}: 'arguments' of {function['name']} must be an object", hint=_CALL
        )
    id_ = {"id": call["id"]} if call.get("id") else {}
    return id_ | {
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }

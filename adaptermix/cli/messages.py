"""All messages that stop a command, collected from the source for the reference."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptermix import errors
from adaptermix.tables import escaped_markdown

_PACKAGE = Path(errors.__file__).parent
_KINDS = {
    name: kind.exit_code
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.AdaptermixError) and kind.exit_code > 1
}
_SETTINGS = 3  # exit code of a ValueError in the settings
_TITLES = {
    3: "A setting is wrong",
    4: "An input file is wrong",
    5: "A model, an adapter or an output does not fit",
    6: "Something is missing on this machine, or cannot be reached",
}


@dataclass(frozen=True, order=True)
class Message:
    """A message that stops a command.

    Attributes:
        exit_code: Exit code of the command.
        module: Module that raises the error.
        text: The message, with the names of values in braces.
        hint: What to do; empty without a hint.
    """

    exit_code: int
    module: str
    text: str
    hint: str


def messages() -> list[Message]:
    """Return all messages, by exit code and module."""
    found = set()
    for path in sorted(_PACKAGE.rglob("*.py")):
        module = path.relative_to(_PACKAGE).as_posix()
        found |= set(_messages_of(ast.parse(path.read_text(encoding="utf-8")), module))
    return sorted(found)


def messages_page() -> str:
    """Return a page with a table of messages for each exit code."""
    parts = [
        "# Messages\n",
        "Every message that stops a command, by [exit code](../exit-codes.md). Names in "
        "braces are placeholders for values.\n",
    ]
    every = messages()
    for code, title in _TITLES.items():
        parts.append(f"## {title} (exit code {code})\n")
        rows = ["| message | hint |", "| :-- | :-- |"]
        own = [message for message in every if message.exit_code == code]
        rows += [f"| {_cell(message.text)} | {_cell(message.hint)} |" for message in own]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return escaped_markdown(text.replace("\n", " "))


def _messages_of(tree: ast.AST, module: str) -> Iterator[Message]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        code = _exit_code(node.func, module)
        hints = [_text(keyword.value) for keyword in node.keywords if keyword.arg == "hint"]
        if code is not None and any(map(str.isalpha, _literal(node.args[0]))):
            yield Message(code, module, _text(node.args[0]), hints[0] if hints else "")


def _exit_code(called: ast.expr, module: str) -> int | None:
    """Return the exit code of the error that a call creates; None for other calls."""
    if isinstance(called, ast.Attribute):
        return _SETTINGS if called.attr == "fail" else None  # ``Draft.fail`` and the like
    name = called.id if isinstance(called, ast.Name) else ""
    if name == "ValueError" and module.startswith("settings/"):
        return _SETTINGS
    return _KINDS.get(name)


def _literal(node: ast.expr) -> str:
    """Return the literal parts of a text, without its values."""
    parts = [each for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return "".join(str(part.value) for part in parts if isinstance(part.value, str))


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value or "")
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.FormattedValue):
        return f"{{{_name(node.value)}}}"
    return f"{{{_name(node)}}}"


def _name(node: ast.expr) -> str:
    """Return a short name of a value, such as ``path`` for ``adapter.path``."""
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_")
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.Call):
        called = _name(node.func)
        if called.endswith("_of"):  # line_of(path, key)
            return called.removesuffix("_of")
        return _name(node.args[0]) if node.args else called
    return "..."

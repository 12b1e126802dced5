"""All messages that stop a command, collected from the source for the reference."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
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
_STOPPED = 130  # exit code of Ctrl-C; the messages for SIGTERM are the same
_TITLES = {
    3: "A setting is wrong (exit code 3)",
    4: "An input file is wrong (exit code 4)",
    5: "A model, an adapter or an output does not fit (exit code 5)",
    6: "Something is missing on this machine, or cannot be reached (exit code 6)",
    _STOPPED: "A signal stopped the run (exit code 130 or 143)",
}
_VARIABLES = ("hint", "message")  # local variables whose values are texts


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
        found |= set(_messages_of(_parsed(path), path.relative_to(_PACKAGE).as_posix()))
    return sorted(found)


def messages_page() -> str:
    """Return a page with a table of messages for each exit code."""
    parts = [
        "# Messages\n",
        "Every message that stops a command, by [exit code](../exit-codes.md). Names in "
        "braces are placeholders for values; ` / ` separates alternatives.\n",
    ]
    every = messages()
    for code, title in _TITLES.items():
        parts.append(f"## {title}\n")
        rows = ["| message | hint |", "| :-- | :-- |"]
        own = [message for message in every if message.exit_code == code]
        rows += [f"| {_cell(message.text)} | {_cell(message.hint)} |" for message in own]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return escaped_markdown(text.replace("\n", " "))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _messages_of(tree: ast.Module, module: str) -> Iterator[Message]:
    kinds = _KINDS | {"StoppedError": _STOPPED} | _subclasses(tree)
    for call, texts in _calls(tree, _constants(tree)):
        code = _exit_code(call.func, kinds, module)
        hints = [_text(keyword.value, texts) for keyword in call.keywords if keyword.arg == "hint"]
        text = _text(call.args[0], texts)
        if code is not None and any(map(str.isalpha, re.sub(r"{[^{}]*}", "", text))):
            yield Message(code, module, text, hints[0] if hints else "")


def _subclasses(tree: ast.Module) -> dict[str, int]:
    """Return the exit codes of the errors that a module defines."""
    return {
        node.name: _KINDS[base.id]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name) and base.id in _KINDS
    }


def _calls(node: ast.AST, texts: dict[str, str]) -> Iterator[tuple[ast.Call, dict[str, str]]]:
    """Yield all calls with arguments, each with the texts that its names stand for."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and child.args:
            yield child, texts
        is_function = isinstance(child, ast.FunctionDef)
        yield from _calls(child, texts | _variables(child, texts) if is_function else texts)


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return the texts that a module's constants stand for, its own and imported ones."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adaptermix."):
            known = _constants_of(str(node.module))
            found |= {each.name: known[each.name] for each in node.names if each.name in known}
        for name, value in _assigned(node):
            if isinstance(value, ast.Constant | ast.BinOp):
                found[name] = _text(value, found)
    return found


@cache
def _constants_of(module: str) -> dict[str, str]:
    path = _PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    return _constants(_parsed(path)) if path.exists() else {}


def _variables(function: ast.AST, texts: dict[str, str]) -> dict[str, str]:
    """Return the texts of a function's variables for messages and hints."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(function):
        for name, value in _assigned(node):
            if name in _VARIABLES:
                found.setdefault(name, []).append(_text(value, texts))
    return {name: " / ".join(dict.fromkeys(each)) for name, each in found.items()}


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the name and the value of an assigned text."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if _literal(value):
            yield name, value


def _exit_code(called: ast.expr, kinds: dict[str, int], module: str) -> int | None:
    """Return the exit code of the error that a call creates; None for other calls."""
    if isinstance(called, ast.Attribute):
        return _SETTINGS if called.attr == "fail" else None  # ``Draft.fail`` and the like
    name = called.id if isinstance(called, ast.Name) else ""
    if name == "ValueError" and module.startswith("settings/"):
        return _SETTINGS
    return kinds.get(name)


def _literal(node: ast.expr) -> str:
    """Return the literal parts of a text, without its values."""
    parts = [each for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return "".join(str(part.value) for part in parts if isinstance(part.value, str))


def _text(node: ast.expr, texts: dict[str, str]) -> str:
    """Return a text with the names of values in braces."""
    match node:
        case ast.Constant():
            return str(node.value or "")
        case ast.JoinedStr():
            return "".join(_text(part, texts) for part in node.values)
        case ast.BinOp(op=ast.Add() | ast.Div()) if _literal(node):
            between = "/" if isinstance(node.op, ast.Div) else ""  # of a path
            return between.join((_text(node.left, texts), _text(node.right, texts)))
        case ast.FormattedValue(value=ast.BoolOp() as value):
            return f"{{{_name(value.values[0])}}}"
        case ast.FormattedValue():
            return _text(node.value, texts)
    return _value(node, texts)


def _value(node: ast.expr, texts: dict[str, str]) -> str:
    match node:
        case ast.IfExp():
            return _either(node.body, node.orelse, texts)
        case ast.BoolOp(values=[one, other, *_]):
            return _either(one, other, texts)
        case ast.Name(id=name) if name in texts:
            return texts[name]
        case ast.Call(func=ast.Attribute(value=ast.Constant() as text, attr="format")):
            return str(text.value)
        case ast.Call(args=[ast.JoinedStr() as text, *_]):
            return _text(text, texts)
        case ast.Call(func=ast.Name("number_of"), args=[number, ast.Constant(value=str(noun))]):
            return f"{{{_name(number)}}} {noun}s"
    return f"{{{_name(node)}}}"


def _either(one: ast.expr, other: ast.expr, texts: dict[str, str]) -> str:
    """Return two alternatives; one that is empty or has no literal text is left out."""
    known = [each for each in (one, other) if _literal(each) or getattr(each, "id", "") in texts]
    both = [_text(each, texts) for each in known]
    return " / ".join(filter(None, both)) or f"{{{_name(other)}}}"


def _name(node: ast.expr) -> str:
    """Return a short name of a value, such as ``path`` for ``adapter.path``."""
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_")
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.BinOp):  # count - 1
        return _name(node.left)
    if isinstance(node, ast.Call):
        called = _name(node.func)
        if called.endswith("_of"):  # line_of(path, key)
            return called.removesuffix("_of")
        return _name(node.args[0]) if node.args else called
    return "..."

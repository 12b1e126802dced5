"""Generate the reference of all options and messages, and the schemas for editors.

Usage: ``python -m adaptermix.cli.reference docs/reference``.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import typer

from adaptermix.cli.main import program
from adaptermix.cli.messages import messages_page
from adaptermix.commands.schema import recipe_schema, settings_schema
from adaptermix.tables import escaped_markdown


def reference() -> dict[str, str]:
    """Return the texts of the reference's files, by name."""
    return {
        "options.md": options_page(),
        "messages.md": messages_page(),
        "adaptermix.schema.json": _as_json(settings_schema()),
        "recipe.schema.json": _as_json(recipe_schema()),
    }


def _as_json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def options_page() -> str:
    """Return a page with all commands, their options, defaults and help texts."""
    parts = [
        "# Commands and options\n",
        "In `adaptermix.toml` and in recipes, a key is the option without its two dashes.\n",
    ]
    root = typer.main.get_command(program())
    for name, command in _commands(root, "adaptermix"):
        parts += [f"## {name}\n", f"{_without_markup(command.help)}\n"]
        for panel, params in _panels(command).items():
            parts += [f"### {panel}\n" if panel != "Options" else "", _table(params)]
    return "\n".join(part for part in parts if part)


def _commands(group: Any, path: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        inner = f"{path} {name}"
        found += _commands(command, inner) if hasattr(command, "commands") else [(inner, command)]
    return found


def _without_markup(text: str | None) -> str:
    """Return a help text as Markdown, with indented lines, such as examples, as code."""
    return re.sub(r"\n(?=    )", "\n\n", (text or "").replace("\b", ""), count=1).strip()


def _panels(command: Any) -> dict[str, list[Any]]:
    panels: dict[str, list[Any]] = {}
    for param in command.params:
        name = getattr(param, "rich_help_panel", None) or "Options"
        panels.setdefault(name, []).append(param)
    return panels


def _table(params: list[Any]) -> str:
    rows = ["| option | default | what it does |", "| :-- | :-- | :-- |"]
    for param in params:
        is_option = param.param_type_name == "option"
        flags = [*param.opts, *param.secondary_opts] if is_option else [param.name]
        names = ", ".join(f"`{flag}`" for flag in flags)
        default = getattr(param, "show_default", None)
        cells = [escaped_markdown(default if isinstance(default, str) else ""), param.help or ""]
        rows.append(f"| {names} | {cells[0]} | {escaped_markdown(cells[1])} |")
    return "\n".join(rows) + "\n"


def write(folder: Path) -> None:
    """Write the files of the reference."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in reference().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

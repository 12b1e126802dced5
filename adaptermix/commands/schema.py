"""JSON schemas of ``adaptermix.toml`` and of recipes, for editors.

Editors with support for TOML schemas find the schema through the first line of a file::

    #:schema recipe.schema.json
"""

from typing import Any, get_args

from pydantic import BeforeValidator

from adaptermix.commands.catalog import COMMANDS
from adaptermix.commands.command import MANAGED
from adaptermix.settings.shared import ModelSettings, Settings

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
_RESOURCES: dict[str, Schema] = {
    "cpus": {"type": "number", "minimum": 0, "description": "CPU cores of the step (--on ray)."},
    "gpus": {"type": "number", "minimum": 0, "description": "GPUs of the step (--on ray)."},
    "memory": {
        "type": ["string", "integer"],
        "description": "Memory of the step (--on ray), such as 24GB.",
    },
}
_SEEDS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0},
    "minItems": 1,
    "uniqueItems": True,
}


def settings_schema() -> Schema:
    """Return the schema of ``adaptermix.toml``: keys for all commands, and one table for each."""
    sections = {name: _table(_keys(command.settings)) for name, command in COMMANDS.items()}
    return _document("adaptermix.toml", _keys(ModelSettings) | sections)


def recipe_schema() -> Schema:
    """Return the schema of a recipe: keys for all steps, and one table per step."""
    shared: dict[str, Schema] = {}
    for command in COMMANDS.values():
        shared = _keys(command.settings) | shared
    step = {"$ref": "#/$defs/step"}
    tops = {
        key: {"anyOf": [value, step]}  # a step may be named like a setting
        for key, value in shared.items()
        if key not in MANAGED
    } | {
        "base": _text("Another recipe, whose steps this one can use."),
        "out": _text("Folder for the outputs. Default: runs/NAME next to the recipe."),
        **_RESOURCES,
        "seeds": _SEEDS
        | {"description": "Seeds of all training steps; a step runs once per seed."},
    }
    steps = {"oneOf": [_step(name) for name in COMMANDS]}
    document = _document("adaptermix recipe", tops)
    return document | {"additionalProperties": step, "$defs": {"step": steps}}


def _step(name: str) -> Schema:
    command = COMMANDS[name]
    keys: dict[str, Schema] = {"command": {"const": name, "description": _summary(command.help)}}
    required = ["command"]
    if command.argument is not None:
        items = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        keys[command.argument.name] = items | {"description": command.argument.help}
        required.append(command.argument.name)
    own = _keys(command.settings)
    keys |= {key: value for key, value in own.items() if key not in MANAGED}
    if "seed" in keys:
        keys["seeds"] = _SEEDS | {"description": "Several seeds; the step runs once with each."}
    return _table(keys | _RESOURCES) | {"title": name, "required": required}


def _summary(text: str) -> str:
    return text.split("\n", 1)[0]


def _document(title: str, keys: dict[str, Schema]) -> Schema:
    return {"$schema": _DRAFT, "title": title} | _table(keys)


def _table(keys: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": keys, "additionalProperties": False}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _keys(kind: type[Settings]) -> dict[str, Schema]:
    """Return the schemas of all keys of a command's settings."""
    properties: dict[str, Schema] = kind.model_json_schema(by_alias=True)["properties"]
    return {
        name.replace("_", "-"): _as_written(
            properties[name.replace("_", "-")], _is_converted(field.annotation, field.metadata)
        )
        for name, field in kind.model_fields.items()
    }


def _is_converted(annotation: Any, metadata: Any = ()) -> bool:
    """Whether a value may also be given as text or a number, such as ``cy-en,sw-en``."""
    if any(isinstance(mark, BeforeValidator) for mark in metadata):
        return True
    return any(
        _is_converted(part, getattr(part, "__metadata__", ())) for part in get_args(annotation)
    )


def _as_written(schema: Schema, is_converted: bool) -> Schema:
    """Adapt a schema to TOML files, which have no null and may give some values as text."""
    about = {key: schema[key] for key in ("description", "default") if key in schema}
    about = {key: value for key, value in about.items() if value is not None}
    value = {key: v for key, v in schema.items() if key not in ("description", "default", "title")}
    choices = [choice for choice in value.pop("anyOf", [value]) if choice != {"type": "null"}]
    if is_converted:
        choices = [*choices, {"type": ["string", "number"]}]
    return about | (choices[0] if len(choices) == 1 else {"anyOf": choices})

"""The other files of a family: its routes, a serving script, and its model card."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from adaptermix.adapters.card import FILE_NAME as CARD_FILE
from adaptermix.adapters.card import hub_name, model_name
from adaptermix.adapters.family import Routes
from adaptermix.adapters.format import ROUTES_FILE
from adaptermix.tables import escaped_markdown, printable

SCRIPT_FILE = "serve.sh"
_MOST_SLOTS = 8  # maximum number of adapters in one vLLM batch; each slot takes memory
_SCRIPT = """\
#!/bin/sh
# Serves the base model with one LoRA per language. To use the adapter that {routes} selects for a
# language, send the language as "model". More vLLM options can follow: sh {script} --port 8001
set -e
cd -- "$(dirname -- "$0")"
exec {command} "$@"
"""
_CARD = """\
# {name}

LoRA adapters for {base}, one per language: {counts}.

The routes were chosen on dev data of {task}: {rule}.

{table}
The routes are in `{routes}`. Languages without a route use `{default}`.

## Use

    adaptermix eval --model BASE --adapter {plain}
    sh {script}    # serve with vLLM; the name of each LoRA is its language

The folders {folders} are PEFT adapters and also work on their own.
"""
_RULES = {
    "simpler": "a language uses a merge if its gain over the task adapter is significant "
    "(paired permutation test, p < 0.05 after Holm's correction over languages and "
    "merges)",
    "best": "each language uses the adapter with the highest score, significant or not",
}


def write_family(folder: Path, name: str, routes: Routes, command: Sequence[str]) -> None:
    """Write the family's files other than its adapters.

    Args:
        folder: Folder of the adapters.
        name: Final name of the folder.
        routes: The routes.
        command: Command that serves the family.
    """
    (folder / ROUTES_FILE).write_text(routes.as_toml(), encoding="utf-8")
    script = _SCRIPT.format(routes=ROUTES_FILE, script=SCRIPT_FILE, command=_lines(command))
    (folder / SCRIPT_FILE).write_text(script, encoding="utf-8")
    (folder / SCRIPT_FILE).chmod(0o755)
    (folder / CARD_FILE).write_text(_card(name, routes), encoding="utf-8")


def serving(model: str, routes: Routes, rank: int, options: Sequence[str] = ()) -> list[str]:
    """Return the command that serves a family with vLLM from within its folder.

    Args:
        model: The base model.
        routes: The routes.
        rank: The largest rank that vLLM must support.
        options: Additional options of vLLM.
    """
    slots = min(len(routes.routes), _MOST_SLOTS)
    return [
        *("vllm", "serve", from_anywhere(model), *options),
        *("--enable-lora", "--max-loras", str(slots), "--max-lora-rank", str(rank)),
        *("--lora-modules", *(f"{lang}={r.adapter}" for lang, r in routes.routes.items())),
    ]


def from_anywhere(place: str) -> str:
    """Make a local path absolute, because the script changes the folder; keep a name on the Hub."""
    return str(Path(place).resolve()) if Path(place).exists() else place


def _lines(command: Sequence[str]) -> str:
    """Format a command with one option per line."""
    lines: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--") or "=" in word:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n  ".join(" ".join(line) for line in lines)


def _card(name: str, routes: Routes) -> str:
    from huggingface_hub.repocard_data import ModelCardData

    data = ModelCardData(
        base_model=hub_name(routes.base),
        library_name="peft",
        language=list(routes.routes) if all(map(_is_code, routes.routes)) else None,
        tags=["lora", "adaptermix", *([Path(routes.task).stem] if routes.task else [])],
    )
    langs = {
        a: [lang for lang in routes.routes if routes.name_for(lang) == a] for a in routes.names
    }
    counts = "; ".join(f"{a} for {', '.join(of_a)}" for a, of_a in langs.items() if of_a)
    text = _CARD.format(
        name=_plain(name),
        plain=printable(name).replace("`", "'"),
        base=escaped_markdown(model_name(routes.base)),
        counts=_plain(counts),
        task=_plain(Path(routes.task or "a task").stem),
        rule=_RULES.get(routes.prefer or "", "by hand"),
        table=routes.table("routes", "").as_markdown(),
        routes=ROUTES_FILE,
        default=printable(routes.default),
        script=SCRIPT_FILE,
        folders=_plain(", ".join(routes.names)),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _plain(text: str) -> str:
    return escaped_markdown(printable(text))


def _is_code(lang: str) -> bool:
    return lang.isascii() and lang.isalpha() and 2 <= len(lang) <= 3

"""An adapter's model card (README.md): its provenance and usage, for people and the Hub.

The card is generated from the adapter's run record. It refers to models and adapters by name;
local paths and settings that may be private are left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptermix.adapters.names import has_modes
from adaptermix.adapters.stacking import trained_on
from adaptermix.files.hub import HUB_NAME
from adaptermix.tables import Table, escaped_markdown, printable

FILE_NAME = "README.md"
_SETTINGS = (
    *("rank", "alpha", "dropout", "target_modules", "lr", "schedule", "warmup_ratio", "batch_size"),
    *("epochs", "max_steps", "max_length", "seed", "layer", "temperature", "contrastive_batch"),
    "prompt",
)
_MADE_BY = "\n| made by | adaptermix "  # a row of every generated card
_USE = """## Use

    adaptermix eval --model BASE --adapter {name}

or with PEFT:

```python
from peft import PeftModel
from transformers import {kind}

model = {kind}.from_pretrained("{base}")
model = PeftModel.from_pretrained(model, "{name}")
```
"""
_USE_FILE = """## Use

The file carries its PEFT config in its header:

    adaptermix eval --model BASE --adapter {name}
    adaptermix merge {name} --weights 1 -o FOLDER    # as a PEFT folder
"""


def card_path(adapter: Path) -> Path:
    """Return the path of an adapter's card: in its folder, or next to its file."""
    if adapter.suffix != ".safetensors":
        return adapter / FILE_NAME
    return adapter.with_name(f"{adapter.stem}.{FILE_NAME}")


def can_write_card(card: Path) -> bool:
    """Whether there is no card, or one of adaptermix: one that a person wrote is kept."""
    if not card.exists():
        return True
    return card.is_file() and _MADE_BY in card.read_text(encoding="utf-8", errors="replace")


def model_card(adapter: Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Return the card of an adapter, which starts with the metadata that the Hub reads.

    Args:
        adapter: Output path of the adapter; the card contains only its name.
        config: PEFT's LoRA config.
        record: Run record of the adapter.
    """
    from huggingface_hub.repocard_data import ModelCardData

    base = config.get("base_model_name_or_path")
    is_file = adapter.suffix == ".safetensors"
    data = ModelCardData(
        base_model=hub_name(base),
        library_name="peft",
        language=languages_of(record) or None,
        tags=["lora", "adaptermix", *_task_tag(record)],
    )
    name = escaped_markdown(printable(adapter.name.removesuffix(".safetensors")))
    parts = [
        f"# {name}",
        f"A LoRA adapter for {escaped_markdown(model_name(base))}, {_what(record)}.",
        *(f"## {table.title}\n\n{table.as_markdown()}" for table in _tables(config, record)),
        (_USE_FILE if is_file else _USE).format(
            name=_plain(adapter.name), base=model_name(base), kind=_class_for(config)
        ),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts)


def _class_for(config: Mapping[str, Any]) -> str:
    """Return the transformers class whose modules the adapter updates."""
    targets = config.get("target_modules")
    modes = isinstance(targets, list) and any(map(has_modes, targets))
    return "AutoModelForImageTextToText" if modes else "AutoModelForCausalLM"


def _plain(name: str) -> str:
    return printable(name).replace("\n", " ").replace("`", "'")


def _what(record: Mapping[str, Any]) -> str:
    """Return a phrase that describes the adapter."""
    command = record.get("command")
    settings = _table(record, "settings")
    langs = ", ".join(languages_of(record))
    if command == "merge":
        parts = " + ".join(f"{weight:g} x {name}" for name, weight in made_of(record))
        return escaped_markdown(f"the {record.get('method')} merge {parts}")
    if command == "train-align":
        chosen = _table(record, "layers").get("layer")
        layer = str(chosen or settings.get("layer") or "middle")
        where = f"the {layer} layer" if layer.isalpha() else f"layer {layer}"
        return escaped_markdown(f"trained to align {langs} at {where} with a contrastive loss")
    if settings.get("chat"):  # replaces the task, which has its default value in this case
        return "fine-tuned on conversations"
    task = Path(str(settings.get("task", "a task"))).stem
    return escaped_markdown(f"fine-tuned on {printable(task)} in {langs or 'unknown languages'}")


def _tables(config: Mapping[str, Any], record: Mapping[str, Any]) -> list[Table]:
    settings = _table(record, "settings")
    facts = {
        "base model": model_name(config.get("base_model_name_or_path")),
        "base fingerprint": record.get("base_fingerprint"),
        "made by": f"adaptermix {record.get('adaptermix')}, {record.get('command')}",
        "method": record.get("method"),
        "training examples": data_of(record),
        "steps": record.get("steps"),
        "rank": record.get("rank") or config.get("r"),
        "modules": record.get("modules"),
        "inactive modules": record.get("inactive"),
    }
    tables = [
        Table("facts", "What it is", ["", "value"], _rows(facts)),
        Table("sources", "Made from", ["adapter", "weight", "rank", "BLAKE3"], _sources(record)),
        Table("on", "Trained on the base model with", ["adapter", "weight", "BLAKE3"], _on(record)),
        Table("scores", "Scores on dev data", ["score", "value"], _scores(record)),
        Table(
            "layers",
            "Retrieval by layer before training",
            ["layer", "accuracy on dev pairs", "norm of the first token / others'"],
            _layers(record),
        ),
        Table(
            "settings",
            "Settings",
            ["setting", "value"],
            _rows({n.replace("_", " "): settings.get(n) for n in _SETTINGS}),
        ),
    ]
    return [table for table in tables if table.rows]


def _rows(values: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, ", ".join(map(str, value)) if isinstance(value, list) else printable(str(value))]
        for name, value in values.items()
        if value not in (None, "", [])
    ]


def _sources(record: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            _name_of(source["path"]),
            f"{source['weight']:g}",
            str(source.get("rank")),
            printable(str(source.get("blake3", ""))[:12]),
        ]
        for source in sources_of(record)
    ]


def _on(record: Mapping[str, Any]) -> list[list[str]]:
    return [
        [_name_of(entry["path"]), f"{entry['weight']:g}", printable(entry["blake3"][:12])]
        for entry in trained_on(record)
    ]


def _scores(record: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [name.replace("_", " "), f"{value:.4f}"]
        for name, value in _table(record, "dev").items()
        if isinstance(value, int | float)
    ]
    search = record.get("search")
    if isinstance(search, dict):
        rows.append(["95% interval", f"{search['low']:.4f} to {search['high']:.4f}"])
        rows.append(["on", f"{Path(search['task']).stem}: {', '.join(search['langs'])}"])
        rows.append(["verdict", printable(search["verdict"])])
    return rows


def _layers(record: Mapping[str, Any]) -> list[list[str]]:
    """Return the evidence for the aligned layer."""
    layers = _table(record, "layers")
    curves = [layers.get(name) for name in ("accuracy", "first_token")]
    if not all(isinstance(curve, list) for curve in curves):
        return []
    return [
        [
            f"{block} (aligned)" if str(block) == layers.get("layer") else str(block),
            f"{accuracy:.1%}",
            f"{ratio:.2f}",
        ]
        for block, (accuracy, ratio) in enumerate(zip(*curves, strict=False), start=1)
    ]


def languages_of(record: Mapping[str, Any]) -> list[str]:
    """Return the language codes that an adapter or its sources were trained on."""
    names = record.get("languages") or record.get("examples")
    if not isinstance(names, list | dict):
        return []
    parts = [part for name in names for part in re.split("[-_]", str(name))]
    return list(dict.fromkeys(part for part in parts if re.fullmatch("[a-z]{2,3}", part)))


def _task_tag(record: Mapping[str, Any]) -> list[str]:
    settings = _table(record, "settings")
    task = settings.get("task")
    return [Path(task).stem] if isinstance(task, str) and not settings.get("chat") else []


def _table(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a table of a record, which other software may have written."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _is_on_hub(base: str | None) -> bool:
    return base is not None and bool(HUB_NAME.fullmatch(base)) and not Path(base).exists()


def hub_name(base: str | None) -> str | None:
    """Return a base model's name if it is on the Hub."""
    return base if _is_on_hub(base) else None


def model_name(base: str | None) -> str:
    """Return a base model's name on the Hub, or else its folder name without the local path."""
    if not base:
        return "not recorded"
    return printable(base if _is_on_hub(base) else Path(base).name)


def _name_of(path: str) -> str:
    """Return an adapter's name: OWNER/NAME on the Hub, or else that of its file or folder."""
    return printable(path if _is_on_hub(path) else Path(path).name.removesuffix(".safetensors"))


def sources_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a merge's recorded sources; other software may have written the record."""
    sources = record.get("sources")
    return [
        source
        for source in (sources if isinstance(sources, list) else ())
        if isinstance(source, dict)
        and isinstance(source.get("path"), str)
        and isinstance(source.get("weight"), int | float)
    ]


def made_of(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the recorded names and weights of a merge's sources."""
    return [(_name_of(source["path"]), source["weight"]) for source in sources_of(record)]


def data_of(record: Mapping[str, Any]) -> str:
    """Return the recorded number of training examples by language."""
    counts = _table(record, "examples")
    known = {lang: count for lang, count in counts.items() if isinstance(count, int)}
    return printable(", ".join(f"{lang} {count:,}" for lang, count in known.items()))

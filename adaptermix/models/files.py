"""Files of a base model: shapes, fingerprint and context length, without loading weights."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptermix.errors import ArtifactError
from adaptermix.files.tensors import TensorFile
from adaptermix.models.loading import load_config
from adaptermix.settings.shared import ModelSettings


def context_length(folder: Path) -> int | None:
    """Return how many tokens the model can read, where its config says so."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = config.get("text_config", config).get("max_position_embeddings")
    return int(found) if found else None


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads: those the index names, or one.

    A hub folder may hold the same weights again, under other names, for other software.

    Raises:
        ArtifactError: A damaged index, or a file that it names is not there.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{index}: not an index of weights") from error
    for name in sorted(names):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name}: no such file, but the index names it")
    return [folder / name for name in sorted(names)]


def is_tied(folder: Path) -> bool:
    """Whether the model's output embeddings are its input embeddings."""
    config = load_config(folder, ModelSettings(model=str(folder)))
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a saved model, from the files' headers alone.

    Raises:
        ArtifactError: A damaged safetensors file.
    """
    return {
        name: spec.shape
        for path in weight_files(folder)
        for name, spec in TensorFile(path).specs.items()
    }


def fingerprint(folder: Path) -> str:
    """Return a hash that tells base models apart without reading all of their weights.

    Of the config's shape-giving part, and of each safetensors file its size, header and 64
    evenly spaced samples of 4 KiB: fine-tuning changes them, moving the folder does not.
    """
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    digest.update(json.dumps(_lasting(config), sort_keys=True).encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(header, size)))
            for sample in range(64):
                file.seek(8 + header + (size - 8 - header) * sample // 64)
                digest.update(file.read(4096))
    return digest.hexdigest()


def _lasting(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if not k.startswith("_") and "version" not in k}

"""Adapters in formats other than PEFT's: converted if equivalent, otherwise refused by name.

Supported are sharded files, keys that contain PEFT's adapter name, mlx-lm's folders, and diffusers
files of one component. An mlx-lm update is ``scale * lora_a @ lora_b`` [in out].
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaptermix.adapters.format import (
    CONFIG_FILE,
    CONFIG_KEY,
    ROUTES_FILE,
    WEIGHTS_FILE,
    UpdateSpec,
    describe_config,
)
from adaptermix.adapters.names import PREFIX
from adaptermix.errors import ArtifactError
from adaptermix.files.tensors import TensorFile, Tensors, TensorSpec

MLX_WEIGHTS = "adapters.safetensors"
SHARDS = "adapter_model-*-of-*.safetensors"
_SAVED = ".modules_to_save."  # in names of whole weights, before the adapter's name
_SHARD = re.compile(r"(?P<stem>.+-)(?P<at>\d{5})-of-(?P<count>\d{5})\.safetensors")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_NAMED_FACTOR = re.compile(
    r"(?P<factor>.*\.lora_(embedding_)?[AB])\.(?!(weight|bias)$)(?P<name>[^.]+)"
    r"(?P<part>\.weight|\.bias)?"
)
# Unsupported formats: a pattern of tensor names, the format, a hint.
_IMAGE_HINT = "only adapters of language models are supported"
_FORMATS = (
    (r"lora_(unet|te\d*|transformer)_", "kohya's (sd-scripts), for image models", _IMAGE_HINT),
    (
        r".*\.lora_(down|up)\.weight$",
        "kohya's or ComfyUI's (lora_down, lora_up)",
        "convert it to PEFT's format: lora_down is lora_A, lora_up is lora_B",
    ),
    (
        r".*\.(adapter|lora_\w+_adapter|adapter_layer)\.(.*\.)?linear_(in|out)\.",
        "NeMo's or Megatron's",
        "export it to PEFT's format with Megatron Bridge",
    ),
    (r".*\.(hada|lokr)_w\d", "LyCORIS LoHa or LoKr, which is not LoRA", _IMAGE_HINT),
    (r"(unet|text_encoder\w*)\.", "diffusers', for image models", _IMAGE_HINT),
    (r".*\.(to_[qkv]|to_out\.\d+)\.lora", "diffusers', for image models", _IMAGE_HINT),
    (
        r".*\.lora_[ab]\.weight$",
        "torchtune's",
        "name the PEFT folder that torchtune's checkpointer writes",
    ),
    (
        r".*\.lora_[ab]$",
        "mlx-lm's, and the adapter_config.json with 'lora_parameters' is missing",
        "name the folder that contains both files",
    ),
    (r".*\.[AB]$", "mlx-vlm's", "fuse it into its base model with mlx-vlm instead"),
)


class ShardedTensors:
    """Several safetensors files that act as one."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Open the files.

        Raises:
            ArtifactError: A file is damaged, or a tensor is in two of them.
        """
        self._files = [TensorFile(path) for path in paths]
        self._homes: dict[str, TensorFile] = {}
        for file in self._files:
            for name in file.specs:
                if other := self._homes.get(name):
                    raise ArtifactError(f"'{name}' is in two shards, {other.path} and {file.path}")
                self._homes[name] = file
        self.specs = {name: file.specs[name] for name, file in self._homes.items()}
        self.metadata = self._files[0].metadata

    @property
    def size(self) -> int:
        """Size of all files, in bytes."""
        return sum(file.size for file in self._files)

    def hash(self) -> str:
        """Return the joined hashes of all files."""
        return "-".join(file.hash() for file in self._files)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as a view of its file."""
        return self._homes[name].tensor(name)


class RenamedTensors:
    """The tensors of a file under new names, all of them transposed or none."""

    def __init__(
        self, file: Tensors, names: Mapping[str, str], *, transposed: bool = False
    ) -> None:
        """Rename the tensors of a file.

        Args:
            file: The file.
            names: New names by the names in the file.
            transposed: Whether to transpose all tensors.
        """
        self._file, self._transposed = file, transposed
        step = -1 if transposed else 1
        self._olds = {new: old for old, new in names.items()}
        specs = ((new, file.specs[old]) for new, old in self._olds.items())
        self.specs = {new: TensorSpec(spec.dtype, spec.shape[::step]) for new, spec in specs}
        self.metadata = file.metadata

    @property
    def size(self) -> int:
        """Size of the file, in bytes."""
        return self._file.size

    def hash(self) -> str:
        """Return the hash of the file."""
        return self._file.hash()

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor: a view of the file, or a transposed copy."""
        tensor = self._file.tensor(self._olds[name])
        return np.ascontiguousarray(tensor.T) if self._transposed else tensor


def adapter_folder(folder: Path, shown: Path) -> tuple[Path, str]:
    """Return the folder of an adapter, and a note if it is a subfolder.

    For a folder that contains only checkpoints, it is the last checkpoint.

    Raises:
        ArtifactError: The folder is a family, has adapters in subfolders that are not numbered
            checkpoints, or has no adapter config.
    """
    if (folder / CONFIG_FILE).is_file():
        return folder, ""
    below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
    if (folder / ROUTES_FILE).is_file():
        raise ArtifactError(
            f"{shown}: a family of adapters ({ROUTES_FILE}), not one adapter",
            hint=f"use one of its adapters, for example {shown / (below or ['NAME'])[0]}; only "
            "eval, inspect and report accept a family",
        )
    numbers = {int(found[1]): n for n in below if (found := _CHECKPOINT.fullmatch(n))}
    if below and len(numbers) == len(below):
        last = numbers[max(numbers)]
        return folder / last, f"{shown} contains only checkpoints; using the last one, {last}"
    if below:
        raise ArtifactError(
            f"{shown}: no {CONFIG_FILE}, but there are adapters in its subfolders "
            f"{', '.join(below)}",
            hint=f"name one of them, such as {shown / below[0]}",
        )
    files = sorted(folder.glob("*.safetensors"))
    alone = f"name a PEFT adapter directory, or the file {shown / files[0].name}" if files else None
    raise ArtifactError(f"{shown}: no {CONFIG_FILE}", hint=alone or "name a PEFT adapter directory")


def weights_in(folder: Path) -> Path:
    """Return an adapter's weights file, or the first of several shards."""
    places = (*sorted(folder.glob(SHARDS)), folder / MLX_WEIGHTS)
    single = folder / WEIGHTS_FILE
    return single if single.is_file() else next(filter(Path.is_file, places), single)


def open_tensors(weights: Path) -> Tensors:
    """Open a file, or all shards if it is a shard.

    Raises:
        ArtifactError: A shard is missing or of another set, a file is damaged, or the format is
            GGUF.
    """
    if weights.suffix == ".gguf":
        raise ArtifactError(
            f"{weights}: GGUF adapters of llama.cpp are not supported",
            hint="name the PEFT adapter that it was converted from",
        )
    shard = _SHARD.fullmatch(weights.name)
    if shard is None:
        return TensorFile(weights)
    count = int(shard["count"])
    if not 0 < int(shard["at"]) <= count:
        raise ArtifactError(f"{weights}: not a valid shard number; the number of shards is {count}")
    for name in sorted(path.name for path in weights.parent.iterdir()):
        other = _SHARD.fullmatch(name)
        if other and other["stem"] == shard["stem"] and other["count"] != shard["count"]:
            raise ArtifactError(
                f"{weights} is one of {count} shards, but {name} next to it is one of "
                f"{int(other['count'])}",
                hint="remove the shards of an earlier save",
            )
    paths = [
        weights.with_name(f"{shard['stem']}{at:05}-of-{count:05}.safetensors")
        for at in range(1, count + 1)
    ]
    for path in paths:
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; it is one of {count} shards")
    return ShardedTensors(paths)


def as_peft(
    weights: Path, file: Tensors, header: Mapping[str, str], config_path: Path
) -> tuple[Tensors, Mapping[str, str]]:
    """Return the tensors under PEFT's names, and the header with a converted config, if needed.

    Raises:
        ArtifactError: The format is not supported; the message names it.
    """
    config = _read_json(config_path)
    if CONFIG_KEY not in header and config.keys() & {"lora_parameters", "fine_tune_type"}:
        return _from_mlx(weights, file, config, config_path)
    names_itself = config.get("peft_type") not in (None, "LORA")  # another kind of adapter
    for pattern, what, hint in () if names_itself else _FORMATS:
        if any(re.match(pattern, name) for name in file.specs):
            raise ArtifactError(f"{weights}: the format is {what}", hint=hint)
    file, header = _without_component(file, header)
    found = {name: match for name in file.specs if (match := _NAMED_FACTOR.fullmatch(name))}
    adapters = sorted({match["name"] for match in found.values()})
    if len(adapters) > 1:
        raise ArtifactError(
            f"{weights}: the file contains several adapters: {', '.join(adapters)}",
            hint="load it with PEFT, and save each of them in its own folder",
        )
    if adapters:
        names = {name: name for name in file.specs}
        names |= {name: f"{m['factor']}{m['part'] or ''}" for name, m in found.items()}
        own = next(iter(found.values()))["name"]
        names = {name: m.replace(f"{_SAVED}{own}.", _SAVED) for name, m in names.items()}
        first: dict[str, str] = {}
        for name, meant in names.items():
            if meant in first:
                raise ArtifactError(
                    f"{weights}: '{name}' and '{first[meant]}' name the same factor"
                )
            first[meant] = name
        file = RenamedTensors(file, names)
    return file, header


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, or an empty one if it cannot be read; ``read_config`` reports that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _from_mlx(
    weights: Path, file: Tensors, config: Mapping[str, Any], origin: Path
) -> tuple[Tensors, Mapping[str, str]]:
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise ArtifactError(
            f"{weights}: an mlx-lm adapter of type '{kind}', which is not LoRA",
            hint="fuse it into its base model with mlx_lm.fuse instead",
        )
    scale = _mlx_scale(config.get("lora_parameters"), origin)
    names, specs = {}, {}
    for name, spec in file.specs.items():
        module, _, side = name.rpartition(".lora_")
        pair = file.specs.get(f"{module}.lora_b")
        if not module or side not in ("a", "b") or len(spec.shape) != 2:
            raise ArtifactError(
                f"{weights}: '{name}' is not a factor of a linear layer",
                hint="only mlx-lm's LoRA on linear layers is supported",
            )
        if module.endswith("embed_tokens"):
            raise ArtifactError(
                f"{weights}: mlx-lm's LoRA on embeddings ({module}) is not supported"
            )
        names[name] = f"{PREFIX}{module}.lora_{side.upper()}.weight"
        if side == "a" and pair is not None:
            shape = (pair.shape[-1], *spec.shape)
            specs[module] = UpdateSpec(*shape, scaling=scale, dtype=spec.dtype)
    if not specs:
        raise ArtifactError(f"{weights}: the file contains no LoRA factors")
    base = config.get("model")
    # A conversion has its own name, but the weights of another model.
    if isinstance(base, str) and base.startswith("mlx-community/"):
        base = None
    described = describe_config(specs, base, all_layers=False)
    return RenamedTensors(file, names, transposed=True), {CONFIG_KEY: json.dumps(described)}


def _mlx_scale(options: object, origin: Path) -> float:
    table = options if isinstance(options, dict) else {}
    scale = table.get("scale")
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ArtifactError(f"{origin}: 'scale' in 'lora_parameters' is not a positive number")
    if table.get("alpha") not in (None, table.get("rank")):
        raise ArtifactError(
            f"{origin}: 'lora_parameters' has both 'alpha' and 'scale': older versions of mlx-lm "
            "multiply by scale * alpha / rank, newer ones by scale",
            hint="remove 'alpha', and set 'scale' to the factor used in training",
        )
    return float(scale)


def _without_component(
    file: Tensors, header: Mapping[str, str]
) -> tuple[Tensors, Mapping[str, str]]:
    """Remove the component of a diffusers pipeline, as in ``transformer.r``, if there is one."""
    try:
        config = json.loads(header.get(CONFIG_KEY, "{}"))
    except ValueError:
        return file, header
    if not isinstance(config, dict) or "r" in config:
        return file, header
    components = {key.partition(".")[0] for key in config if "." in key}
    start = f"{next(iter(components), '')}."
    if len(components) != 1 or not all(key.startswith(start) for key in (*config, *file.specs)):
        return file, header
    names = {name: PREFIX + name.removeprefix(start) for name in file.specs}
    text = json.dumps({key.removeprefix(start): value for key, value in config.items()})
    return RenamedTensors(file, names), {**header, CONFIG_KEY: text}

"""LoRA adapters on disk, in PEFT's formats.

An adapter is a PEFT directory (``adapter_config.json`` beside ``adapter_model.safetensors``), or
one ``.safetensors`` file whose header carries the same config as JSON under the key that diffusers
uses too, ``lora_adapter_metadata``. Both are read, and either is written, by the name of the
output. Only safetensors are opened; tensors are read one module at a time.
"""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adaptermix.deltas import LoraUpdate
from adaptermix.errors import ArtifactError, ConfigError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RECORD_FILE = "adaptermix.json"
CONFIG_KEY = "lora_adapter_metadata"
RECORD_KEY = "adaptermix"

_FACTOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight"
)
_LAYER = re.compile(r"\.(?P<layer>\d+)\.")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk: its config and the names of its tensors, checked; no tensors yet.

    Attributes:
        path: The directory or file it was read from.
        config: PEFT's LoRA config, as the dictionary that ``adapter_config.json`` holds.
        record: What adaptermix wrote about its making; empty for adapters made elsewhere.
        factors: For every module, the tensor names of its A and B.
    """

    path: Path
    config: dict[str, Any]
    record: dict[str, Any]
    factors: dict[str, tuple[str, str]] = field(repr=False)

    @property
    def modules(self) -> list[str]:
        """Names of the linear layers that have an update, as in the base model."""
        return list(self.factors)

    @property
    def weights_path(self) -> Path:
        """The safetensors file."""
        return self.path / WEIGHTS_FILE if self.path.is_dir() else self.path

    @property
    def base(self) -> str | None:
        """Name or path of the base model it was trained on, where it says so."""
        return self.config.get("base_model_name_or_path")

    def scaling(self, module: str) -> float:
        """Return what the product of the module's factors is multiplied by.

        alpha / rank, or alpha / sqrt(rank) with rsLoRA; ``rank_pattern`` and ``alpha_pattern``
        override both for the modules whose name ends with one of their keys, as in PEFT.
        """
        rank = _by_pattern(self.config.get("rank_pattern"), module, self.config["r"])
        alpha = _by_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        return float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))

    def updates(self) -> Iterator[tuple[str, LoraUpdate]]:
        """Yield every module with its update, in the order of the file's modules."""
        for module in self.factors:
            yield module, self.update(module)

    def update(self, module: str) -> LoraUpdate:
        """Read the update of one module.

        Raises:
            ArtifactError: Factors that do not fit each other or the config, NaN or infinity.
        """
        name_a, name_b = self.factors[module]
        with safe_open(self.weights_path, framework="pt") as file:
            a, b = file.get_tensor(name_a), file.get_tensor(name_b)
        rank = _by_pattern(self.config.get("rank_pattern"), module, self.config["r"])
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise ArtifactError(
                f"{self.weights_path}: the factors of {module} have shapes {list(a.shape)} and "
                f"{list(b.shape)}, which do not fit rank {rank}"
            )
        for name, tensor in ((name_a, a), (name_b, b)):
            if not torch.isfinite(tensor).all():
                raise ArtifactError(f"{self.weights_path}: {name} holds NaN or infinity")
        return LoraUpdate(a, b, self.scaling(module))


def _by_pattern(pattern: Mapping[str, float] | None, module: str, default: float) -> float:
    """Look a module up as PEFT does: the first key that ends its name, at a dot or whole."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def read_adapter(path: Path, *, rank: int | None = None, alpha: float | None = None) -> Adapter:
    """Open an adapter: a PEFT directory, or one ``.safetensors`` file.

    A file finds its config in its header, else in an ``adapter_config.json`` beside it, else in
    ``rank`` and ``alpha``.

    Raises:
        ArtifactError: No such adapter, a damaged file, a config that is not LoRA's, tensors
            that are not LoRA factors, a factor without its partner.
    """
    if path.is_dir():
        weights, config_path = path / WEIGHTS_FILE, path / CONFIG_FILE
        if not config_path.is_file():
            raise ArtifactError(f"{path}: no {CONFIG_FILE}", hint="name a PEFT adapter directory")
    else:
        weights, config_path = path, path.with_name(CONFIG_FILE)
    if not weights.is_file():
        raise ArtifactError(f"{weights}: no such file", hint=_pickle_hint(path))
    names, metadata = _read_header(weights)
    config = _read_config(weights, metadata, config_path, rank, alpha)
    _refuse_unsupported(path, config)
    record = json.loads(metadata.get(RECORD_KEY, "{}"))
    return Adapter(path, config, record, _pair_factors(weights, names))


def _pickle_hint(path: Path) -> str | None:
    if (path / "adapter_model.bin").is_file():
        return (
            "adapter_model.bin is a pickle, which is never opened here; load it with PEFT and "
            "save it again as safetensors"
        )
    return None


def _read_header(weights: Path) -> tuple[list[str], dict[str, str]]:
    try:
        with safe_open(weights, framework="pt") as file:
            return list(file.keys()), file.metadata() or {}
    except SafetensorError as error:
        raise ArtifactError(
            f"{weights}: not a whole safetensors file: {error}",
            hint="copy or download it again; other formats are not read",
        ) from error


def _read_config(
    weights: Path,
    metadata: Mapping[str, str],
    config_path: Path,
    rank: int | None,
    alpha: float | None,
) -> dict[str, Any]:
    if CONFIG_KEY in metadata:
        text, origin = metadata[CONFIG_KEY], weights
    elif config_path.is_file():
        text, origin = config_path.read_text(encoding="utf-8"), config_path
    elif rank is not None and alpha is not None:
        return {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}
    else:
        raise ArtifactError(
            f"{weights}: the file carries no LoRA config, and no {CONFIG_FILE} lies beside it",
            hint="give its rank and alpha: --rank 8 --alpha 16",
        )
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{origin}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA":
        raise ArtifactError(f"{origin}: not the config of a LoRA adapter")
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float) or config[key] <= 0:
            raise ArtifactError(f"{origin}: '{key}' is not a positive number")
    return config


def _refuse_unsupported(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse by name what is more than ``scaling * b @ a`` on linear layers."""
    if config.get("use_dora"):
        raise ArtifactError(f"{path}: a DoRA adapter; only plain LoRA is supported")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise ArtifactError(f"{path}: the adapter has biases; only plain LoRA is supported")
    if config.get("modules_to_save"):
        raise ArtifactError(
            f"{path}: the adapter replaces whole modules (modules_to_save: "
            f"{', '.join(config['modules_to_save'])}); only plain LoRA is supported"
        )


def _pair_factors(weights: Path, names: list[str]) -> dict[str, tuple[str, str]]:
    sides: dict[str, dict[str, str]] = {}
    for name in names:
        match = _FACTOR.fullmatch(name)
        if not match:
            raise ArtifactError(f"{weights}: tensor '{name}' is not a LoRA factor of a module")
        sides.setdefault(match["module"], {})[match["side"]] = name
    if not sides:
        raise ArtifactError(f"{weights}: the file holds no LoRA factors")
    for module, found in sides.items():
        if len(found) == 1:
            raise ArtifactError(
                f"{weights}: {module} has lora_{next(iter(found))}, but not the other factor"
            )
    ordered = sorted(sides, key=_layer_then_name)
    return {module: (sides[module]["A"], sides[module]["B"]) for module in ordered}


def _layer_then_name(module: str) -> tuple[int, str]:
    layer = layer_of(module)
    return (-1 if layer is None else layer, module)


def layer_of(module: str) -> int | None:
    """Return the index of the decoder block a module belongs to: 3 in ``layers.3.mlp``."""
    match = _LAYER.search(f".{module}.")
    return int(match["layer"]) if match else None


def describe_config(
    updates: Mapping[str, LoraUpdate], base: str | None, all_layers: bool
) -> dict[str, Any]:
    """Return a PEFT config under which these updates mean what they mean here.

    Ranks that differ between modules are written as ``rank_pattern`` and ``alpha_pattern``. Every
    update's alpha is its scaling times its rank.

    Args:
        updates: Module names and updates.
        base: Name or path of the base model.
        all_layers: The updates cover every decoder block; otherwise the config names the blocks.
    """
    ranks = [update.rank for update in updates.values()]
    rank = max(set(ranks), key=ranks.count)
    scalings = [update.scaling for update in updates.values()]
    scaling = max(set(scalings), key=scalings.count)
    odd = {
        module: update
        for module, update in updates.items()
        if (update.rank, update.scaling) != (rank, scaling)
    }
    suffixes = sorted({module.rsplit(".", 1)[-1] for module in updates})
    layers = sorted({layer for layer in map(layer_of, updates) if layer is not None})
    is_regular = len(suffixes) * max(1, len(layers)) == len(updates)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": _whole(scaling * rank),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": suffixes if is_regular else sorted(updates),
        "layers_to_transform": layers if is_regular and layers and not all_layers else None,
        "rank_pattern": {module: update.rank for module, update in odd.items()},
        "alpha_pattern": {key: _whole(u.scaling * u.rank) for key, u in odd.items()},
        "use_rslora": False,
    }


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number


def check_output(path: Path, force: bool) -> None:
    """Refuse an output that exists, or whose name is neither a directory's nor a file's we write.

    Raises:
        ArtifactError: Something is at ``path`` and ``force`` is not set.
        ConfigError: The name ends in another suffix of model files.
    """
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".gguf"):
        raise ConfigError(
            f"--out {path}: adapters are written as a .safetensors file or as a directory"
        )
    if (path.exists() or path.is_symlink()) and not force:
        raise ArtifactError(f"{path} exists", hint="choose another --out, or pass --force")


def write_adapter(
    path: Path,
    updates: Mapping[str, LoraUpdate],
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    force: bool = False,
) -> None:
    """Write an adapter whole or not at all: a ``.safetensors`` file, or else a PEFT directory.

    Raises:
        ArtifactError: The output exists and ``force`` is not set.
    """
    check_output(path, force)
    tensors = {}
    for module, update in updates.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = update.a.contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = update.b.contiguous()
    metadata = {
        "format": "pt",
        CONFIG_KEY: json.dumps(config, sort_keys=True),
        RECORD_KEY: json.dumps(record, sort_keys=True, default=str),
    }
    with whole_output(path) as partial:
        if path.suffix == ".safetensors":
            _save_tensors(tensors, partial, metadata)
        else:
            partial.mkdir()
            _save_tensors(tensors, partial / WEIGHTS_FILE, metadata)
            _write_json(partial / CONFIG_FILE, config)
            _write_json(partial / RECORD_FILE, record)


def _save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    save_file(tensors, path, metadata)
    mask = os.umask(0)  # safetensors makes private files; give this one the usual rights
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, default=str, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def whole_output(path: Path) -> Iterator[Path]:
    """Give a path beside the output to write to; it takes the output's place when all went well.

    What was at ``path`` is replaced, so the caller asks first. After an error nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        partial = work / path.name
        yield partial
        if path.is_dir() and not path.is_symlink():
            path.rename(work / "replaced")
        partial.replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adapter_hash(adapter: Adapter) -> str:
    """Return a hash of what the adapter does: its weights file and its config."""
    config = json.dumps(adapter.config, sort_keys=True)
    return hashlib.sha256((file_hash(adapter.weights_path) + config).encode()).hexdigest()


def stage_adapter(adapter: Adapter, folder: Path) -> Path:
    """Lay the adapter out as a PEFT directory named by its content, for PEFT and vLLM to load.

    vLLM caches by path, so a changed adapter must never reuse one.
    """
    staged = folder / adapter_hash(adapter)[:16]
    if not staged.exists():
        updates = dict(adapter.updates())
        config = adapter.config
        if "target_modules" not in config:  # a bare file, described by --rank and --alpha
            config = describe_config(updates, adapter.base, all_layers=False)
        write_adapter(staged, updates, config, adapter.record)
    return staged


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base: str) -> None:
    """Check that every update has its linear layer in the base model, with the right shape.

    Without this, a wrong key prefix makes an adapter a silent no-op in some engines.

    Args:
        adapter: The adapter.
        shapes: Shapes of the base model's weights by tensor name.
        base: Name of the base model, for the message.

    Raises:
        ArtifactError: Naming the first module that does not fit.
    """
    for module, update in adapter.updates():
        expected = shapes.get(f"{module}.weight")
        if expected is None:
            raise ArtifactError(f"{adapter.path}: {base} has no linear layer '{module}'")
        shape = (update.b.shape[0], update.a.shape[1])
        if shape != expected:
            raise ArtifactError(
                f"{adapter.path}: {module} is {shape[0]} x {shape[1]}, but {base} has "
                f"{' x '.join(map(str, expected))}",
                hint="the adapter was trained on another base model",
            )

"""LoRA adapters on disk, in PEFT's formats.

An adapter is a PEFT directory (``adapter_config.json`` and ``adapter_model.safetensors``), or one
``.safetensors`` file whose header contains the same config as JSON under ``lora_adapter_metadata``,
the key that diffusers uses too. Both can be read and written; the output's name determines which is
written. A directory may also be a repository on the Hub. Only safetensors files are opened, and
tensors are read and written one module at a time.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from adaptermix.adapters.base_names import commit_of_snapshot
from adaptermix.adapters.config import read_config, refuse_unsupported
from adaptermix.adapters.deltas import LoraUpdate, is_copy, is_finite, wider
from adaptermix.adapters.experts import split_factors
from adaptermix.adapters.foreign import (
    MLX_WEIGHTS,
    SHARDS,
    adapter_folder,
    as_peft,
    open_tensors,
    weights_in,
)
from adaptermix.adapters.format import (
    BASE_LAYER,
    CONFIG_FILE,
    FLOAT_DTYPES,
    PICKLE_HINT,
    PICKLES,
    WEIGHTS_FILE,
    ModuleTensors,
    UpdateSpec,
    by_pattern,
    is_within,
    read_run_record,
    sort_tensors,
    split_parameters,
)
from adaptermix.adapters.names import TINKER_EXPERTS
from adaptermix.adapters.targets import check_targets
from adaptermix.errors import ArtifactError
from adaptermix.files.hub import hint_of_path, hub_place, reaching_hub
from adaptermix.files.tensors import DTYPES, Tensors, TensorSpec

_GATHER = "with ZeRO-3 or FSDP, gather the parameters before saving the adapter"
# Files of a sharded training, and what makes an adapter of them.
_TRAINING_FILES = {
    "*/*.distcp": "these are FSDP's shards: accelerate merge-weights joins them",
    "global_step*/*": "these are DeepSpeed's shards: zero_to_fp32.py in this folder joins them",
}
# Weights that other programs train with a LoRA, and save next to it.
_TRAINED_BESIDE = (
    *("non_lora_trainables.bin", "non_lora_state_dict.bin"),  # LLaVA, Qwen-VL-Series-Finetune
    *("value_head.safetensors", "value_head.bin", "v_head.safetensors"),  # reward models
)
# Widened when read, because they are too narrow for sums; bfloat16 represents them exactly.
_FLOAT8_DTYPES = (DTYPES["F8_E4M3"], DTYPES["F8_E5M2"])


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter on disk: its checked config and tensor names, without loaded tensors.

    What is found out about its tensors is kept, because a search asks again for every candidate.

    Attributes:
        path: The directory or file it was read from, or its name on the Hub.
        weights_path: The safetensors file.
        config: PEFT's LoRA config, as in ``adapter_config.json``.
        record: Run record written by adaptermix; empty for adapters from other software.
        factors: Tensor names of the factors by module.
        saved: Whole weights that it replaces in the base model (trained biases,
            ``modules_to_save``, embeddings): tensor names by the base model's names.
        own_names: For renamed modules, their names in the config.
        origin: Location of the config, in words.
        notes: Notes for users of the adapter.
    """

    path: Path
    weights_path: Path
    config: dict[str, Any]
    record: dict[str, Any]
    factors: dict[str, ModuleTensors] = field(repr=False)
    saved: dict[str, str] = field(repr=False)
    file: Tensors = field(repr=False, compare=False)
    own_names: dict[str, str] = field(default_factory=dict, repr=False)
    origin: str = CONFIG_FILE
    notes: tuple[str, ...] = ()

    @property
    def modules(self) -> list[str]:
        """Names of the updated modules, as in the base model."""
        return list(self.factors)

    @cached_property
    def weights_hash(self) -> str:
        """BLAKE3 hash of the weights file; SHA-256 would take longer than a merge."""
        return self.file.hash()

    @property
    def base(self) -> str | None:
        """Name or path of the base model it was trained on, if recorded."""
        return self.config.get("base_model_name_or_path")

    @property
    def is_for_alignment(self) -> bool:
        """Whether it was trained for alignment, so that it is not the main adapter of a merge."""
        return self.record.get("command") == "train-align"

    @property
    def revision(self) -> str | None:
        """Tag, commit or branch other than ``main`` of the base model on the Hub, if recorded."""
        given = self.config.get("revision")
        return given if given not in (None, "", "main") else commit_of_snapshot(self.base or "")

    def updates(self) -> Iterator[tuple[str, LoraUpdate]]:
        """Yield every module with its update, in the order of ``factors``."""
        for module in self.factors:
            yield module, self.update(module)

    def update(self, module: str) -> LoraUpdate:
        """Read the update of one module.

        Raises:
            ArtifactError: The factors do not fit each other or the config, or they contain NaN or
                infinity.
        """
        return self._update(module, self._checked)

    def is_active(self, module: str) -> bool:
        """Whether the update of one module is not zero."""
        if module not in self._active:
            self._active[module] = self._update(module, lambda _, tensor: tensor).is_active
        return self._active[module]

    @cached_property
    def _active(self) -> dict[str, bool]:
        return {}

    def _update(self, module: str, checked: Callable[[str, np.ndarray], np.ndarray]) -> LoraUpdate:
        names = self.factors[module]
        a, b = self.file.tensor(names.a), self.file.tensor(names.b)
        if names.experts > 1:  # before the check, which would read all experts for each of them
            a, b = split_factors(a, b, names.expert, names.experts)
        bias = checked(names.bias, self.file.tensor(names.bias)) if names.bias else None
        return LoraUpdate(checked(names.a, a), checked(names.b, b), self.spec(module).scaling, bias)

    def spec(self, module: str) -> UpdateSpec:
        """Return the spec of one module's update, from the file's header alone.

        Raises:
            ArtifactError: The factors do not fit each other or the config.
        """
        if module not in self._specs:
            self._specs[module] = self._read_spec(module)
        return self._specs[module]

    @cached_property
    def _specs(self) -> dict[str, UpdateSpec]:
        return {}

    def _read_spec(self, module: str) -> UpdateSpec:
        names = self.factors[module]
        (type_a, a), (type_b, b) = self._checked_spec(names.a), self._checked_spec(names.b)
        rank = int(self._by_pattern("rank_pattern", module, self.config["r"]))
        alpha = self._by_pattern("alpha_pattern", module, self.config["lora_alpha"])
        experts = max(1, names.experts)
        if experts > 1 and len(a) == len(b) == 2 and (a[0], b[1]) == (rank * experts,) * 2:
            a, b = (rank, a[1]), (b[0], rank)
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank or 0 in (*a, *b):
            raise self._misfit(module, a, b, rank)
        if names.bias and self.file.specs[names.bias].shape != b[:1]:
            raise ArtifactError(
                f"{self.weights_path}: {names.bias} does not have {b[0]} rows, unlike its module"
            )
        return UpdateSpec(
            out_features=b[0],
            in_features=a[1],
            rank=rank,
            scaling=float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)),
            dtype=wider(type_a, type_b),
            has_bias=names.bias is not None,
            is_embedding=names.is_embedding,
            experts=names.experts,
        )

    def saved_weight(self, name: str) -> np.ndarray:
        """Read one of the adapter's whole weights."""
        return self._checked(self.saved[name], self.file.tensor(self.saved[name]))

    def saved_spec(self, name: str) -> TensorSpec:
        """Return the dtype and shape of one of the adapter's whole weights."""
        return self._checked_spec(self.saved[name])

    def has_copy(self, name: str, other: "Adapter") -> bool:
        """Whether another adapter's whole weight of this name is equal (``is_copy``)."""
        if (name, other) not in self._copies:
            pair = self.saved_weight(name), other.saved_weight(name)
            self._copies[name, other] = is_copy(*pair)
        return self._copies[name, other]

    @cached_property
    def _copies(self) -> dict[tuple[str, "Adapter"], bool]:
        return {}

    def is_frozen(self, name: str) -> bool:
        """Whether a whole weight is the base model's, which PEFT saves with LoRA on embeddings."""
        return self.saved[name].endswith(f"{BASE_LAYER}weight")

    @property
    def replaced(self) -> list[str]:
        """Whole weights that PEFT writes over the base model's: all but those of saved modules."""
        modules = self.config.get("modules_to_save") or ()
        return [name for name in self.saved if not any(is_within(name, m) for m in modules)]

    def _by_pattern(self, pattern: str, module: str, default: float) -> float:
        """Return the value of a pattern that overrides a default, as in PEFT."""
        return by_pattern(self.config.get(pattern), self.own_names.get(module, module), default)

    def _misfit(self, module: str, a: Any, b: Any, rank: int) -> ArtifactError:
        why, hint = "", "A is rank x in_features, B is out_features x rank"
        if 0 in (*a, *b):
            why = ": they are empty"
            hint = _GATHER
        elif len(a) == len(b) == 1:
            why = ": they are flattened"
            hint = _GATHER
        elif len(a) != 2 or len(b) != 2:
            why = ": only linear layers and embeddings are supported, not convolutions"
        elif a[0] == b[1] and (a[1], b[0]) != (rank, rank):
            why = f" in {self.origin}"
            hint = f"if the tensors, of rank {a[0]}, are right, correct r or rank_pattern there"
        elif rank in (a[1], b[0]):
            why = ": they are transposed"
        return ArtifactError(
            f"{self.weights_path}: the factors of {module} have shapes {list(a)} and {list(b)}, "
            f"which do not fit rank {rank}{why}",
            hint=hint,
        )

    def _checked_spec(self, name: str) -> TensorSpec:
        spec = self.file.specs[name]
        if spec.dtype in _FLOAT8_DTYPES:
            return TensorSpec(DTYPES["BF16"], spec.shape)
        if spec.dtype not in FLOAT_DTYPES:
            raise ArtifactError(
                f"{self.weights_path}: {name} has the unsupported type {spec.dtype}"
            )
        return spec

    def _checked(self, name: str, tensor: np.ndarray) -> np.ndarray:
        """Widen float8, and check the numbers of a tensor, or of one expert's part of it."""
        tensor = tensor.astype(self._checked_spec(name).dtype, copy=False)
        if not is_finite(tensor):
            raise ArtifactError(
                f"{self.weights_path}: {name} contains NaN or infinity",
                hint="the adapter is damaged, or its training diverged; train or download it again",
            )
        return tensor


def read_adapter(path: Path, *, rank: int | None = None, alpha: float | None = None) -> Adapter:
    """Open an adapter: a PEFT directory, one ``.safetensors`` file, or a repository on the Hub.

    A directory has its config in ``adapter_config.json``. For a file, the config is taken from its
    header, else from an ``adapter_config.json`` in the same folder, else from ``rank`` and
    ``alpha``.

    Raises:
        ArtifactError: The adapter does not exist, its file is damaged, its config is not a LoRA
            config, a tensor is not a LoRA factor, or one factor of a pair is missing.
        ResourceError: The Hub repository cannot be downloaded.
    """
    place, note = locate_adapter(path), ""
    if place.is_dir():
        inner, note = adapter_folder(place, path)
        hub = None if path.exists() else hub_place(str(path))
        path = Path(str(hub)) if hub else path / inner.relative_to(place)
        place = inner
        weights, config_path = weights_in(place), place / CONFIG_FILE
    else:
        weights, config_path = place, place.with_name(CONFIG_FILE)
    if not weights.is_file():
        hint = _hint_of_files(path) or hint_of_path(str(path), f"{path}@main")
        raise ArtifactError(f"{weights}: no such file", hint=hint)
    if weights.suffix in PICKLES:
        raise ArtifactError(f"{weights}: not a safetensors file", hint=PICKLE_HINT)
    file = open_tensors(weights)
    header = {} if place.is_dir() else file.metadata  # PEFT and vLLM use a folder's config file
    file, carried = as_peft(weights, file, header, config_path)
    config, origin = read_config(weights, carried, config_path, rank, alpha)
    refuse_unsupported(path, config)
    names = list(file.specs)
    if any(len(file.specs[name].shape) == 3 for name in names if TINKER_EXPERTS.search(name)):
        raise ArtifactError(
            f"{path}: Tinker LoRAs of mixtures of experts (factors with three dimensions) are "
            "not supported",
            hint="convert it to a PEFT adapter with the export tools of tinker-cookbook",
        )
    record = read_run_record(file.metadata)
    factors, saved = sort_tensors(weights, names, config)
    factors, own_names = split_parameters(
        weights, factors, lambda name: file.specs[name].shape[0], config
    )
    if any("unembed_tokens" in name for name in names) and "lm_head" in factors:
        config["target_modules"] = sorted({module.rpartition(".")[2] for module in factors})
    check_targets(weights, [module for module in factors if module not in own_names], config)
    beside = [name for name in _TRAINED_BESIDE if weights.with_name(name).is_file()]
    notes: tuple[str, ...] = (note,) if note else ()
    notes += tuple(
        f"{path} also contains {name}, weights that were trained with the LoRA; they are not read"
        for name in beside
    )
    return Adapter(
        path, weights, config, record, factors, saved, file, own_names, origin=origin, notes=notes
    )


def locate_adapter(path: Path) -> Path:
    """Return the location of an adapter: the path itself, or the folder of its download.

    Only missing paths that parse as a place on the Hub (``hub_place``) are downloaded, and only
    their config and safetensors files.

    Raises:
        ResourceError: The repository cannot be downloaded.
        ArtifactError: The repository lacks one of the two files.
    """
    place = None if path.exists() else hub_place(str(path))
    if place is None:
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    start = f"{place.folder}/" if place.folder else ""
    files = [start + name for name in (CONFIG_FILE, WEIGHTS_FILE, SHARDS, MLX_WEIGHTS)]
    failure = (
        f"{place}: no such file or folder, and no adapter of that name could be downloaded "
        "from the Hub"
    )
    hint = "name a local file or folder, or a repository on the Hub as OWNER/NAME"
    with reaching_hub(failure, hint):
        try:
            root = snapshot_download(
                place.repository, revision=place.revision, allow_patterns=files
            )
        except HFValidationError:
            return path
    folder = Path(root) / place.folder
    for file in (folder / CONFIG_FILE, weights_in(folder)):
        if not file.is_file():
            raise ArtifactError(
                f"{place}: no such file or folder, and the Hub repository has no "
                f"{start}{file.name}",
                hint="only LoRA adapters saved as safetensors are supported; pickles are "
                "never loaded",
            )
    return folder


def _hint_of_files(folder: Path) -> str | None:
    """Return what to do with the other files that a folder has instead of the weights file."""
    if (folder / "adapter_model.bin").is_file():
        return PICKLE_HINT
    found = (hint for pattern, hint in _TRAINING_FILES.items() if any(folder.glob(pattern)))
    joined = next(found, None)
    return joined and f"{joined}, then load the adapter with PEFT and save it"


def adapter_hash(adapter: Adapter) -> str:
    """Return a hash of everything that defines the update: the weights file and the config."""
    return hash_of_parts(adapter.weights_hash, adapter.config)


def hash_of_parts(weights_hash: str, config: Mapping[str, Any]) -> str:
    """Return ``adapter_hash`` from the hash of the weights file and the config."""
    text = json.dumps(config, sort_keys=True)
    return blake3((weights_hash + text).encode()).hexdigest()

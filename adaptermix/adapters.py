"""LoRA adapters on disk, in PEFT's formats.

An adapter is a PEFT directory (``adapter_config.json`` beside ``adapter_model.safetensors``), or
one ``.safetensors`` file whose header carries the same config as JSON under the key that diffusers
uses too, ``lora_adapter_metadata``. Both are read, and either is written, by the name of the
output; a directory may also be a repository on the hub. Only safetensors are opened; tensors are
read and written one module at a time.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from blake3 import blake3
from torch import Tensor

from adaptermix.deltas import LoraUpdate, as_dtype, is_finite
from adaptermix.errors import ArtifactError, ConfigError, ResourceError, first_line
from adaptermix.files.hub import HUB_NAME, hub_errors
from adaptermix.files.outputs import check_output, whole_output, write_json
from adaptermix.files.tensors import TensorFile, TensorSpec, one_thread, write_tensors
from adaptermix.model_card import FILE_NAME as CARD_FILE
from adaptermix.model_card import card_path, model_card

BASE = "base"  # the base model's name where systems are side by side
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RECORD_FILE = "adaptermix.json"
CONFIG_KEY = "lora_adapter_metadata"
RECORD_KEY = "adaptermix"
FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

PREFIX = "base_model.model."  # of every key that PEFT saves
EMBEDDINGS = ("embed_tokens", "wte", "lm_head")  # what PEFT saves whole when it was resized
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_PICKLE_HINT = "pickles are never opened here; load it with PEFT and save it as safetensors"

_ENDS = {  # of a factor's name, behind ".lora_": which part it is, and whether of an embedding
    f"{embedding}{side}{name}{part}": ("bias" if part == ".bias" else side, bool(embedding))
    for embedding in ("", "embedding_")
    for side in "AB"
    for name in ("", ".default")
    for part in ("", ".weight", ".bias")
}
_LAYER = re.compile(r"\.(?P<layer>\d+)\.")
_INPUT_EMBEDDINGS = re.compile(r"(.*\.)?(embed_tokens|wte)\.weight")
_BASE_LAYER = ".base_layer."  # in the names of weights that PEFT wraps
# Initializations that change the base model's weights, so that B A is not the whole update.
_INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class ModuleTensors(NamedTuple):
    """Names of the tensors of one module's update."""

    a: str
    b: str
    bias: str | None
    is_embedding: bool


class UpdateSpec(NamedTuple):
    """What an update is, before its factors are there."""

    out_features: int
    in_features: int
    rank: int
    scaling: float
    dtype: torch.dtype
    has_bias: bool = False
    is_embedding: bool = False


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk: its config and the names of its tensors, checked; no tensors yet.

    Attributes:
        path: The directory or file it was read from, or its name on the hub.
        weights_path: The safetensors file.
        config: PEFT's LoRA config, as the dictionary that ``adapter_config.json`` holds.
        record: What adaptermix wrote about its making; empty for adapters made elsewhere.
        factors: For every module, the tensor names of its factors.
        saved: Names of whole weights that it replaces in the base model (biases that were
            trained, ``modules_to_save``, embeddings), as in the base, with their tensor names.
        head: What was put before the names it had its modules by; its config knows the latter.
        origin: Where its config is, in words.
    """

    path: Path
    weights_path: Path
    config: dict[str, Any]
    record: dict[str, Any]
    factors: dict[str, ModuleTensors] = field(repr=False)
    saved: dict[str, str] = field(repr=False)
    file: TensorFile = field(repr=False, compare=False)
    head: str = ""
    origin: str = CONFIG_FILE

    @property
    def modules(self) -> list[str]:
        """Names of the linear layers that have an update, as in the base model."""
        return list(self.factors)

    @property
    def weights_hash(self) -> str:
        """BLAKE3 hash of the file's bytes; SHA-256 would take longer than a merge."""
        return self._scan[0]

    @property
    def largest(self) -> float:
        """Largest magnitude in the file; NaN where a number is, and where it cannot be told."""
        return self._scan[1]

    @cached_property
    def _scan(self) -> tuple[str, float]:
        return self.file.scan()

    @property
    def base(self) -> str | None:
        """Name or path of the base model it was trained on, where it says so."""
        return self.config.get("base_model_name_or_path")

    def scaling(self, module: str) -> float:
        """Return what the product of the module's factors is multiplied by.

        alpha / rank, or alpha / sqrt(rank) with rsLoRA; ``rank_pattern`` and ``alpha_pattern``
        override both for the modules whose name ends with one of their keys, as in PEFT.
        """
        rank = self._by_pattern("rank_pattern", module, self.config["r"])
        alpha = self._by_pattern("alpha_pattern", module, self.config["lora_alpha"])
        return float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))

    def is_of_other_base(self, fingerprint: str) -> bool:
        """Whether its record tells of another base model than the one with this fingerprint."""
        return self.record.get("base_fingerprint") not in (None, "", fingerprint)

    def updates(self) -> Iterator[tuple[str, LoraUpdate]]:
        """Yield every module with its update, in the order of the file's modules."""
        for module in self.factors:
            yield module, self.update(module)

    def update(self, module: str) -> LoraUpdate:
        """Read the update of one module.

        Raises:
            ArtifactError: Factors that do not fit each other or the config, NaN or infinity.
        """
        names, scaling = self.factors[module], self.spec(module).scaling
        bias = self._tensor(names.bias) if names.bias else None
        return LoraUpdate(self._tensor(names.a), self._tensor(names.b), scaling, bias)

    def is_active(self, module: str) -> bool:
        """Whether the update of one module changes anything; its first numbers mostly say so."""
        names = self.factors[module]
        if not (self.file.starts_with_zero(names.a) or self.file.starts_with_zero(names.b)):
            return True
        return self.update(module).is_active

    def spec(self, module: str) -> UpdateSpec:
        """Return what the update of one module is, from the file's header alone.

        Raises:
            ArtifactError: Factors that do not fit each other or the config.
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
        rank = self._rank(module)
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank or 0 in (*a, *b):
            raise self._misfit(module, a, b, rank)
        if names.bias and self.file.specs[names.bias].shape != b[:1]:
            raise ArtifactError(
                f"{self.weights_path}: {names.bias} has not the {b[0]} rows of its module"
            )
        return UpdateSpec(
            out_features=b[0],
            in_features=a[1],
            rank=rank,
            scaling=self.scaling(module),
            dtype=type_a if type_a == type_b else torch.promote_types(type_a, type_b),
            has_bias=names.bias is not None,
            is_embedding=names.is_embedding,
        )

    def saved_weight(self, name: str) -> Tensor:
        """Read one of the whole weights that the adapter brings."""
        return self._tensor(self.saved[name])

    def saved_spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of one of the whole weights that the adapter brings."""
        return self._checked_spec(self.saved[name])

    def is_frozen(self, name: str) -> bool:
        """Whether a whole weight is the base's own, which PEFT saves with LoRA on embeddings."""
        return self.saved[name].endswith(f"{_BASE_LAYER}weight")

    def _rank(self, module: str) -> int:
        return int(self._by_pattern("rank_pattern", module, self.config["r"]))

    def _by_pattern(self, pattern: str, module: str, default: float) -> float:
        """Look a module up as PEFT does: the first key that ends its name, at a dot or whole."""
        for key, value in (self.config.get(pattern) or {}).items():
            if re.match(_as_suffix(key), module.removeprefix(self.head)):
                return float(value)
        return default

    def _misfit(self, module: str, a: Any, b: Any, rank: int) -> ArtifactError:
        why, hint = "", "A is rank x in_features, B is out_features x rank"
        if 0 in (*a, *b):
            why = ": they are empty"
            hint = "save the adapter again, with what ZeRO-3 or FSDP holds in parts gathered first"
        elif len(a) != 2 or len(b) != 2:
            why = ": only updates of linear layers and embeddings are read, no convolutions"
        elif a[0] == b[1] and (a[1], b[0]) != (rank, rank):
            why = f" in {self.origin}"
            hint = f"correct r or rank_pattern there if the tensors, of rank {a[0]}, are right"
        elif rank in (a[1], b[0]):
            why = ": they are transposed"
        return ArtifactError(
            f"{self.weights_path}: the factors of {module} have shapes {list(a)} and {list(b)}, "
            f"which do not fit rank {rank}{why}",
            hint=hint,
        )

    def _checked_spec(self, name: str) -> TensorSpec:
        spec = self.file.specs[name]
        if spec.dtype not in FLOAT_DTYPES:
            raise ArtifactError(f"{self.weights_path}: {name} has the type {spec.dtype}")
        return spec

    def _tensor(self, name: str) -> Tensor:
        tensor = self.file.tensor(name)
        if not is_finite(tensor):
            raise ArtifactError(f"{self.weights_path}: {name} holds NaN or infinity")
        return tensor


def _as_suffix(key: str) -> str:
    return rf"(.*\.)?({key})$"


def read_adapter(path: Path, *, rank: int | None = None, alpha: float | None = None) -> Adapter:
    """Open an adapter: a PEFT directory, one ``.safetensors`` file, or a repository on the hub.

    A directory has its config in ``adapter_config.json``. A file finds it in its header, else in
    an ``adapter_config.json`` beside it, else in ``rank`` and ``alpha``.

    Raises:
        ArtifactError: No such adapter, a damaged file, a config that is not LoRA's, tensors
            that are not LoRA factors, a factor without its partner.
        ResourceError: A hub repository that cannot be had.
    """
    place = locate_adapter(path)
    if place.is_dir():
        weights, config_path = place / WEIGHTS_FILE, place / CONFIG_FILE
        if not config_path.is_file():
            raise ArtifactError(f"{path}: no {CONFIG_FILE}", hint="name a PEFT adapter directory")
    else:
        weights, config_path = place, place.with_name(CONFIG_FILE)
    if not weights.is_file():
        raise ArtifactError(f"{weights}: no such file", hint=_pickle_hint(path))
    if weights.suffix in PICKLES:
        raise ArtifactError(f"{weights}: not a safetensors file", hint=_PICKLE_HINT)
    file = TensorFile(weights)
    names, metadata = list(file.specs), file.metadata
    carried = {} if place.is_dir() else metadata  # PEFT and vLLM read a folder's config file
    config, origin = _read_config(weights, carried, config_path, rank, alpha)
    _refuse_unsupported(path, config)
    record = _read_record(metadata)
    factors, saved = _sort_tensors(weights, names, config)
    return Adapter(path, weights, config, record, factors, saved, file, origin=origin)


def locate_adapter(path: Path) -> Path:
    """Return where an adapter is: the path itself, or the folder that the hub's copy is kept in.

    The hub is asked for nothing but what is not here and reads ``owner/name``. Only the config
    and the safetensors file are fetched.

    Raises:
        ResourceError: A repository that cannot be had.
        ArtifactError: A repository that lacks one of the two files.
    """
    if path.exists() or not HUB_NAME.fullmatch(path.as_posix()):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = Path(snapshot_download(str(path), allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except HFValidationError:
        return path
    except hub_errors() as error:
        raise ResourceError(
            f"{path}: no such file or folder, and no adapter of that name can be had from the "
            f"hub: {first_line(error)}",
            hint="name a file or folder that is here, or a repository on the hub, OWNER/NAME",
        ) from error
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ArtifactError(
                f"{path}: no such file or folder, and the hub's repository has no {name}",
                hint="only LoRA adapters saved as safetensors are read; pickles are never opened",
            )
    return folder


def _read_record(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what adaptermix wrote of the adapter's making, if it did and it can be read."""
    text = metadata.get(RECORD_KEY, "{}")
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}


def _pickle_hint(path: Path) -> str | None:
    return _PICKLE_HINT if (path / "adapter_model.bin").is_file() else None


def _read_config(
    weights: Path,
    metadata: Mapping[str, str],
    config_path: Path,
    rank: int | None,
    alpha: float | None,
) -> tuple[dict[str, Any], str]:
    """Return the config, and where it was found."""
    if CONFIG_KEY in metadata:
        text, origin, place = metadata[CONFIG_KEY], weights, f"the header of {weights}"
    elif config_path.is_file():
        text, origin = config_path.read_text(encoding="utf-8", errors="replace"), config_path
        place = str(config_path)
    elif rank is not None and alpha is not None:
        return {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}, "--source-rank"
    else:
        raise ArtifactError(
            f"{weights}: the file carries no LoRA config, and no {CONFIG_FILE} lies beside it",
            hint="write one with it, from its rank and alpha: adaptermix merge FILE --weights 1 "
            "--source-rank 8 --source-alpha 16 -o DIRECTORY",
        )
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{origin}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA":
        raise ArtifactError(f"{origin}: not the config of a LoRA adapter")
    _check_numbers(origin, config)
    return config, place


def _check_numbers(origin: Path, config: Mapping[str, Any]) -> None:
    """Check every number that a scaling is made of."""
    for key, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        kinds = int if key == "r" else (int, float)
        overrides = config.get(pattern) or {}
        if not isinstance(overrides, dict):
            raise ArtifactError(f"{origin}: '{pattern}' is not a table")
        for name, value in ((key, config.get(key)), *overrides.items()):
            if not isinstance(value, kinds) or not 0 < value < math.inf:
                number = "whole number" if key == "r" else "number"
                where = f"'{name}'" if name == key else f"'{name}' in {pattern}"
                raise ArtifactError(f"{origin}: {where} is not a positive {number}")
        for name in overrides:
            try:
                re.compile(_as_suffix(name))
            except re.error as error:
                raise ArtifactError(
                    f"{origin}: '{name}' in {pattern} is no regular expression: {error}"
                ) from error


def _refuse_unsupported(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse by name what no sum of ``scaling * b @ a`` can express."""
    init = str(config.get("init_lora_weights", True)).lower()
    refused = {
        "DoRA (use_dora): its magnitudes depend on the base model": config.get("use_dora"),
        f"initialized by {init}, which changes the base model": init.startswith(
            _INITS_THAT_CHANGE_THE_BASE
        ),
        "QALoRA (use_qalora)": config.get("use_qalora"),
        "layer_replication": config.get("layer_replication"),
        "trainable_token_indices": config.get("trainable_token_indices"),
        "target_parameters": config.get("target_parameters"),
        "activated LoRA (alora_invocation_tokens)": config.get("alora_invocation_tokens"),
        "KaSA (kasa_config), which changes the base model": config.get("kasa_config"),
        "block-diagonal factors (use_bdlora)": config.get("use_bdlora"),
        "MonteCLoRA (monteclora_config)": config.get("monteclora_config"),
        "VeLoRA (velora_config)": config.get("velora_config"),
        "Arrow routing (arrow_config)": config.get("arrow_config"),
    }
    for what, is_there in refused.items():
        if is_there:
            raise ArtifactError(
                f"{path}: the adapter is no plain LoRA: {what}",
                hint="merge it into its base model with PEFT's merge_and_unload instead",
            )


def _sort_tensors(
    weights: Path, names: list[str], config: Mapping[str, Any]
) -> tuple[dict[str, ModuleTensors], dict[str, str]]:
    """Tell LoRA factors from whole weights, and join each module's tensors."""
    parts: dict[str, dict[str, str]] = {}
    embeddings, saved = set(), {}
    for name in names:
        short = name.removeprefix(PREFIX)
        module, _, end = short.rpartition(".lora_")
        if module and end in _ENDS:
            part, is_embedding = _ENDS[end]
            found = parts.setdefault(module, {})
            if part in found:
                raise ArtifactError(f"{weights}: '{name}' and '{found[part]}' are the same factor")
            found[part] = name
            if is_embedding:
                embeddings.add(module)
        elif _is_whole_weight(short, config):
            saved[short.replace(_BASE_LAYER, ".")] = name
        else:
            raise ArtifactError(f"{weights}: tensor '{name}' is not a LoRA factor of a module")
    _check_complete(weights, parts, saved, config)
    return {
        module: ModuleTensors(
            parts[module]["A"], parts[module]["B"], parts[module].get("bias"), module in embeddings
        )
        for module in sorted(parts, key=layer_then_name)
    }, saved


def _check_complete(
    weights: Path,
    parts: Mapping[str, Mapping[str, str]],
    saved: Mapping[str, str],
    config: Mapping[str, Any],
) -> None:
    if not parts:
        raise ArtifactError(f"{weights}: the file holds no LoRA factors")
    for module in config.get("modules_to_save") or ():
        if not any(is_within(name, module) for name in saved):
            raise ArtifactError(
                f"{weights}: the config has '{module}' among modules_to_save, the file has not"
            )
    for module, found in parts.items():
        for side, other in (("A", "B"), ("B", "A")):
            if side not in found:
                raise ArtifactError(f"{weights}: {module} has lora_{other}, but not lora_{side}")


def _is_whole_weight(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the adapter replaces this weight of the base model instead of adding to it."""
    if any(is_within(name, module) for module in config.get("modules_to_save") or ()):
        return True
    if any(module in name.split(".") for module in EMBEDDINGS):
        return True
    return config.get("bias", "none") != "none" and name.endswith(".bias")


def is_within(weight: str, module: str) -> bool:
    """Whether PEFT saves the weight for an entry of ``modules_to_save``: an end of a module's name.

    ``norm`` means ``model.norm``, and ``input_layernorm`` in every block as well.
    """
    return f"{module}." in weight


def layer_then_name(module: str) -> tuple[int, str]:
    """Return the key that sorts modules as the model runs them, block by block."""
    layer = layer_of(module)
    return (-1 if layer is None else layer, module)


@cache
def layer_of(module: str) -> int | None:
    """Return the index of the decoder block a module belongs to: 3 in ``layers.3.mlp``."""
    match = _LAYER.search(f".{module}.")
    return int(match["layer"]) if match else None


def named_adapters(adapters: Sequence[Adapter]) -> dict[str, Adapter]:
    """Name every adapter by its file or folder, as a system beside the base model.

    Raises:
        ConfigError: Two of one name.
    """
    return dict(zip(system_names([a.path for a in adapters]), adapters, strict=True))


def system_names(paths: Iterable[Path]) -> list[str]:
    """Return the names of adapters as systems: of their files or folders.

    Raises:
        ConfigError: Two of one name.
    """
    names: list[str] = []
    for path in paths:
        name = path.resolve().name.removesuffix(".safetensors")
        if name in (*names, BASE):
            raise ConfigError(
                f"--adapter {path}: a system named '{name}' is there already",
                hint="rename the file, so that the table can tell them apart",
            )
        names.append(name)
    return names


def describe_config(
    updates: Mapping[str, UpdateSpec], base: str | None, all_layers: bool
) -> dict[str, Any]:
    """Return a PEFT config under which these updates mean what they mean here.

    Ranks that differ between modules are written as ``rank_pattern`` and ``alpha_pattern``. Every
    update's alpha is its scaling times its rank.

    Args:
        updates: Module names and what their updates are.
        base: Name or path of the base model.
        all_layers: The updates cover every decoder block; otherwise the config names the blocks,
            or else all modules.
    """
    kinds = [(update.rank, update.scaling) for update in updates.values()]
    rank, scaling = max(set(kinds), key=kinds.count)
    odd = {
        m: update
        for m, update in updates.items()
        if (update.rank, update.scaling) != (rank, scaling)
    }
    suffixes = sorted({module.rsplit(".", 1)[-1] for module in updates})
    layers = sorted({layer for layer in map(layer_of, updates) if layer is not None})
    is_regular = len(suffixes) * max(1, len(layers)) == len(updates)
    if layers and not all_layers:  # PEFT reads a block's index only behind "NAME.layers."
        is_regular &= all(re.match(r".+?\.[^.]+\.\d+\.", module) for module in updates)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": _alpha(scaling, rank),
        "lora_dropout": 0.0,
        "lora_bias": any(update.has_bias for update in updates.values()),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": suffixes if is_regular else sorted(updates),
        "layers_to_transform": layers if is_regular and layers and not all_layers else None,
        "rank_pattern": {module: update.rank for module, update in odd.items()},
        "alpha_pattern": {module: _alpha(u.scaling, u.rank) for module, u in odd.items()},
        "use_rslora": False,
    }


def _alpha(scaling: float, rank: int) -> int | float:
    """Return the alpha that gives this scaling, to the last bit, when divided by the rank."""
    alpha = scaling * rank
    near = (round(alpha), alpha, math.nextafter(alpha, 0), math.nextafter(alpha, math.inf))
    return next((number for number in near if number / rank == scaling), alpha)


def spec_of(update: LoraUpdate, is_embedding: bool = False) -> UpdateSpec:
    """Describe an update that is there."""
    return UpdateSpec(
        update.b.shape[0],
        update.a.shape[1],
        update.rank,
        update.scaling,
        update.a.dtype,
        update.bias is not None,
        is_embedding,
    )


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
    specs = {module: spec_of(update) for module, update in updates.items()}
    stream_adapter(path, specs, updates.values(), {}, config, lambda: record, force=force)


def stream_adapter(
    path: Path,
    specs: Mapping[str, UpdateSpec],
    updates: Iterable[LoraUpdate],
    saved: Mapping[str, tuple[TensorSpec, Callable[[], Tensor]]],
    config: Mapping[str, Any],
    record: Callable[[], Mapping[str, Any]],
    *,
    force: bool = False,
) -> None:
    """Write an adapter while it is made; few modules are in memory at a time.

    An adapter with a record of its making gets a model card: in its folder, or beside its file as
    ``NAME.README.md``, where one that is there stays unless ``force`` is set.

    Args:
        path: A ``.safetensors`` file, or else a new PEFT directory.
        specs: What the updates will be, by module.
        updates: The updates, in that order.
        saved: Whole weights that the adapter brings, by their names in the base model: what
            each is, and how to get it.
        config: PEFT's LoRA config.
        record: How it was made; asked for again when everything is written.
        force: Replace what is at ``path``.

    Raises:
        ArtifactError: The output exists and ``force`` is not set.
    """
    check_output(path, force)
    layout: dict[str, TensorSpec] = {}
    for module, spec in specs.items():
        layout.update(_layout(module, spec))
    layout |= {_saved_name(name, specs): spec for name, (spec, _) in saved.items()}

    def tensors() -> Iterator[Tensor | Sequence[Tensor | memoryview]]:
        for update in updates:
            yield update.stored_rows
            yield update.b
            if update.bias is not None:
                yield update.bias
        for _, read in saved.values():
            yield read()

    def metadata() -> dict[str, str]:
        return {
            "format": "pt",
            CONFIG_KEY: json.dumps(config, sort_keys=True),
            RECORD_KEY: json.dumps(record(), sort_keys=True, default=str),
        }

    with one_thread(), whole_output(path) as unfinished:
        if path.suffix == ".safetensors":
            write_tensors(unfinished, layout, tensors(), metadata)
        else:
            unfinished.mkdir()
            write_tensors(unfinished / WEIGHTS_FILE, layout, tensors(), metadata)
            write_json(unfinished / CONFIG_FILE, config)
            write_json(unfinished / RECORD_FILE, record())
            _write_card(unfinished / CARD_FILE, path, config, record())
    if path.suffix == ".safetensors" and (force or not card_path(path).exists()):
        _write_card(card_path(path), path, config, record())


def _write_card(
    card: Path, adapter: Path, config: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Write the card of an adapter; without a record there is nothing to say."""
    if record:
        with whole_output(card) as unfinished:
            unfinished.write_text(model_card(adapter, config, record), encoding="utf-8")


def _layout(module: str, spec: UpdateSpec) -> dict[str, TensorSpec]:
    """Return the tensors of one update, under the names that PEFT gives them."""
    a, b = (
        f"{PREFIX}{module}.lora_embedding_{side}"
        if spec.is_embedding
        else f"{PREFIX}{module}.lora_{side}.weight"
        for side in "AB"
    )
    layout = {
        a: TensorSpec(spec.dtype, (spec.rank, spec.in_features)),
        b: TensorSpec(spec.dtype, (spec.out_features, spec.rank)),
    }
    if spec.has_bias:
        layout[f"{PREFIX}{module}.lora_B.bias"] = TensorSpec(spec.dtype, (spec.out_features,))
    return layout


def _saved_name(name: str, updated: Collection[str]) -> str:
    """Return PEFT's name of a whole weight; it wraps the modules that have an update as well."""
    module, _, kind = name.rpartition(".")
    return f"{PREFIX}{module}{_BASE_LAYER if module in updated else '.'}{kind}"


def adapter_hash(adapter: Adapter) -> str:
    """Return a hash of what the adapter does: its weights file and its config."""
    config = json.dumps(adapter.config, sort_keys=True)
    return blake3((adapter.weights_hash + config).encode()).hexdigest()


def stage_adapter(adapter: Adapter, folder: Path) -> Path:
    """Lay the adapter out as a PEFT directory named by its content, for PEFT and vLLM to load.

    vLLM caches by path, so a changed adapter must never reuse one.
    """
    staged = folder / adapter_hash(adapter)[:16]
    if not staged.exists():
        specs = {module: adapter.spec(module) for module in adapter.modules}
        config = adapter.config
        if "target_modules" not in config:  # a bare file, described by its rank and alpha
            config = describe_config(specs, adapter.base, all_layers=False)
        updates = (as_dtype(u, specs[module].dtype) for module, u in adapter.updates())
        saved = {
            name: (adapter.saved_spec(name), partial(adapter.saved_weight, name))
            for name in adapter.saved
        }
        stream_adapter(staged, specs, updates, saved, config, dict)
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
    for module in adapter.modules:
        spec = adapter.spec(module)
        shape = (spec.out_features, spec.in_features)
        expected = shapes.get(f"{module}.weight") or _tied_head(module, shapes)
        if spec.is_embedding or adapter.config.get("fan_in_fan_out"):  # stored the other way
            shape = shape[::-1]
        if expected is None:
            raise ArtifactError(f"{adapter.path}: {base} has no linear layer '{module}'")
        if shape != expected:
            raise ArtifactError(
                f"{adapter.path}: {module} is {shape[0]} x {shape[1]}, but {base} has "
                f"{' x '.join(map(str, expected))}",
                hint="the adapter was trained on another base model",
            )


def _tied_head(module: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the shape of an LM head that no file has, for it is the input embeddings."""
    if module != "lm_head":
        return None
    inputs = (shape for name, shape in shapes.items() if _INPUT_EMBEDDINGS.fullmatch(name))
    return next(inputs, None)


def notes_on_base(adapters: Mapping[str, Adapter], base: str, own: str) -> list[str]:
    """Say which adapters were trained on another base of the same shapes, where their record tells.

    Args:
        adapters: By their names.
        base: Name of the base model they are used on.
        own: Its fingerprint.
    """
    return [
        f"{name} was trained on {adapter.base}, whose weights are not those of {base}"
        for name, adapter in adapters.items()
        if adapter.is_of_other_base(own)
    ]

"""The file format of PEFT adapters: the names of tensors, and the config that fits them."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptermix.adapters.deltas import LoraUpdate, wider
from adaptermix.adapters.experts import Joining, expert_module, parameter_of, targets_of
from adaptermix.adapters.names import (
    EMBEDDINGS,
    PREFIX,
    has_modes,
    is_expert,
    is_of_encoder,
    without_wrappers,
)
from adaptermix.errors import ArtifactError
from adaptermix.files.tensors import DTYPES, TensorSpec

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RECORD_FILE = "adaptermix.json"
ROUTES_FILE = "routes.toml"  # in the folder of a family
CONFIG_KEY = "lora_adapter_metadata"
RECORD_KEY = "adaptermix"
TARGETING = (  # config keys that determine which modules are updated, and their scaling
    *("target_modules", "layers_to_transform", "layers_pattern", "exclude_modules"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_parameters"),
)
FLOAT_DTYPES = tuple(DTYPES[name] for name in ("F64", "F32", "F16", "BF16"))
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
PICKLE_HINT = "pickles are never loaded; load it with PEFT and save it as safetensors"
_ENDS = {  # of a factor's name, after ".lora_": the part, and whether it is of an embedding
    f"{embedding}{side}{name}{part}": ("bias" if part == ".bias" else side, bool(embedding))
    for embedding in ("", "embedding_")
    for side in "AB"
    for name in ("", ".default")
    for part in ("", ".weight", ".bias")
}
_LAYER = re.compile(r"\.(?P<layer>\d+)\.")
BASE_LAYER = ".base_layer."  # in the names of weights wrapped by PEFT
# PEFT saves embeddings in modules_to_save three times if the vocabulary was resized. The weights of
# a model in memory have the adapter's name as well.
_COPY = re.compile(r"\.(?P<kind>modules_to_save|original_module)\.(default\.)?")


class ModuleTensors(NamedTuple):
    """Names of the tensors of one module's update.

    The tensors of a parameter contain the factors of ``experts`` modules; this one has the index
    ``expert``. If ``experts`` is 0, the module is not a parameter.
    """

    a: str
    b: str
    bias: str | None
    is_embedding: bool
    expert: int = 0
    experts: int = 0


class UpdateSpec(NamedTuple):
    """The description of an update without its factors.

    Attributes:
        experts: Number of updates of its parameter; 0 if it does not belong to a parameter.
    """

    out_features: int
    in_features: int
    rank: int
    scaling: float
    dtype: np.dtype
    has_bias: bool = False
    is_embedding: bool = False
    experts: int = 0


def as_suffix(key: str) -> str:
    """Return the pattern with which PEFT matches names that end in a key."""
    return rf"(.*\.)?({key})$"


def read_run_record(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the adapter's run record, or an empty one if it is missing or unreadable."""
    text = metadata.get(RECORD_KEY, "{}")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def sort_tensors(
    weights: Path, names: list[str], config: Mapping[str, Any]
) -> tuple[dict[str, ModuleTensors], dict[str, str]]:
    """Separate LoRA factors from whole weights, and group the factors by module."""
    parts: dict[str, dict[str, str]] = {}
    embeddings, saved = set(), {}
    for name in names:
        try:
            short = without_wrappers(name)
        except ArtifactError as error:
            raise ArtifactError(f"{weights}: {error}", hint=error.hint) from error
        module, _, end = short.rpartition(".lora_")
        if module and end in _ENDS:
            part, is_embedding = _ENDS[end]
            found = parts.setdefault(module, {})
            if part in found:
                raise ArtifactError(f"{weights}: '{name}' and '{found[part]}' name the same factor")
            found[part] = name
            if is_embedding:
                embeddings.add(module)
        elif _is_whole_weight(short, config):
            copy = _COPY.search(short)
            if copy is None:
                saved[short.replace(BASE_LAYER, ".")] = name
            elif copy["kind"] == "modules_to_save":  # the other copy is the base model's weight
                saved.setdefault(short.replace(copy[0], "."), name)
        else:
            raise ArtifactError(
                f"{weights}: tensor '{name}' is not a LoRA factor of a module",
                hint=_hint_of_tensor(short),
            )
    _check_complete(weights, parts, saved, config)
    _check_biases(weights, parts, config)
    return {
        module: ModuleTensors(
            parts[module]["A"], parts[module]["B"], parts[module].get("bias"), module in embeddings
        )
        for module in sorted(parts, key=layer_then_name)
    }, saved


def _hint_of_tensor(name: str) -> str | None:
    if ".lora_magnitude_vector" in name:
        return "the adapter is a DoRA, whose config lacks use_dora"
    if ".lora_" not in name and name.endswith((".weight", ".bias")):
        return (
            "if it is a frozen weight of the base model, save the adapter without it, with PEFT's "
            "save_pretrained"
        )
    return None


def split_parameters(
    weights: Path,
    factors: Mapping[str, ModuleTensors],
    rows: Callable[[str], int],
    config: Mapping[str, Any],
) -> tuple[dict[str, ModuleTensors], dict[str, str]]:
    """Turn every expert of a fused parameter into a separate module (see ``experts``).

    Args:
        weights: The file, for messages.
        factors: The factors in the file.
        rows: Returns the number of rows of a tensor.
        config: PEFT's config.

    Returns:
        The modules, and the config's names of those that belong to parameters.

    Raises:
        ArtifactError: The parameters cannot be determined from the config, or factors do not fit.
    """
    try:
        targets = {target.stored: target for target in targets_of(factors, config)}
    except ArtifactError as error:
        raise ArtifactError(f"{weights}: {error}", hint=error.hint) from error
    split: dict[str, ModuleTensors] = {}
    own_names = {}
    for stored, tensors in factors.items():
        if stored not in targets:
            split[stored] = tensors
            continue
        module, parameter, _ = targets[stored]
        name = f"{module}.{parameter}"
        rank = int(by_pattern(config.get("rank_pattern"), name, config["r"]))
        experts, rest = divmod(rows(tensors.a), rank)
        if rest or not experts or (experts == 1 and parameter != "weight"):
            raise ArtifactError(
                f"{weights}: the factors of {name} have {rows(tensors.a)} rows, which do not "
                f"fit several experts of rank {rank}"
            )
        for expert in range(experts):
            known = module if experts == 1 else expert_module(module, parameter, expert)
            split[known] = tensors._replace(expert=expert, experts=experts)
            own_names[known] = name
    return {module: split[module] for module in sorted(split, key=layer_then_name)}, own_names


def by_pattern(pattern: Mapping[str, float] | None, name: str, default: float) -> float:
    """Look up a module as PEFT does: by the first key that matches its name or a dotted suffix."""
    value = _first_match(pattern or {}, name)
    return default if value is None else float(value)


def _first_match(pattern: Mapping[str, float], name: str) -> float | None:
    return next((value for key, value in pattern.items() if re.match(as_suffix(key), name)), None)


def without_order(config: Mapping[str, Any], specs: Mapping[str, UpdateSpec]) -> dict[str, Any]:
    """Return a config whose patterns mean the same in any order.

    Of several keys that match a module, the first applies, but JSON files are written in
    alphabetical order, by PEFT too. Several keys are therefore replaced by full names.
    """
    exact = _exact_patterns(specs)
    named = {}
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(key) or {}
        if len(pattern) > 1 and not pattern.keys() <= {*exact.values()}:
            values = {exact[name]: _first_match(pattern, name) for name in sorted(exact)}
            named[key] = {name: value for name, value in values.items() if value is not None}
    return {**config, **named}


def _exact_patterns(specs: Mapping[str, UpdateSpec]) -> dict[str, str]:
    """Return a pattern for each name in PEFT that matches no other name, though one ends in it."""
    names = {_target(module, spec) for module, spec in specs.items()}
    ends = {name[dot.end() :] for name in names for dot in re.finditer(r"\.", name)}
    return {name: f"^{name}" if name in ends else name for name in names}


def _check_complete(
    weights: Path,
    parts: Mapping[str, Mapping[str, str]],
    saved: Mapping[str, str],
    config: Mapping[str, Any],
) -> None:
    if not parts:
        raise ArtifactError(f"{weights}: the file contains no LoRA factors")
    listed = config.get("modules_to_save") or ()  # PEFT adds both names of heads to classifiers
    if listed and not any(is_within(name, module) for name in saved for module in listed):
        names = " and ".join(f"'{module}'" for module in listed)
        raise ArtifactError(
            f"{weights}: modules_to_save lists {names}, but the file has no weights for it"
        )
    for module, found in parts.items():
        for side, other in (("A", "B"), ("B", "A")):
            if side not in found:
                raise ArtifactError(f"{weights}: {module} has lora_{other}, but not lora_{side}")


def _check_biases(
    weights: Path, parts: Mapping[str, Mapping[str, str]], config: Mapping[str, Any]
) -> None:
    """Check that the config has the biases of the file; a file without PEFT's config may."""
    biased = next((module for module, found in parts.items() if "bias" in found), None)
    if biased and "target_modules" in config and not config.get("lora_bias"):
        raise ArtifactError(
            f"{weights}: {biased} has a lora_B.bias, but lora_bias in the config is not set",
            hint="PEFT ignores such a bias, but other programs apply it; correct the config, or "
            "remove the tensors",
        )


def _is_whole_weight(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the adapter replaces this weight of the base model instead of updating it."""
    if any(is_within(name, module) for module in config.get("modules_to_save") or ()):
        return True
    if any(module in name.split(".") for module in EMBEDDINGS):
        return name.endswith((".weight", ".bias"))  # others are rows of trained tokens
    return config.get("bias", "none") != "none" and name.endswith(".bias")


def is_within(weight: str, module: str) -> bool:
    """Whether PEFT saves the weight for an entry of ``modules_to_save``, a suffix of module names.

    ``norm`` matches ``model.norm``, but also ``input_layernorm`` in every block.
    """
    return f"{module}." in weight


def layer_then_name(module: str) -> tuple[int, str]:
    """Return the key that sorts modules by decoder block, then by name."""
    layer = layer_of(module)
    return (-1 if layer is None else layer, module)


@cache
def layer_of(module: str) -> int | None:
    """Return the index of a module's block in its part of the model: 3 for ``layers.3.mlp``.

    A module that ends in a number, such as ``mm_projector.2``, is no block.
    """
    match = _LAYER.search(f".{module}")
    return int(match["layer"]) if match else None


@cache
def decoder_layer_of(module: str) -> int | None:
    """Return the index of a module's decoder block; None for blocks of encoders, too."""
    return None if is_of_encoder(module) else layer_of(module)


def describe_config(
    updates: Mapping[str, UpdateSpec], base: str | None, all_layers: bool
) -> dict[str, Any]:
    """Return a PEFT config that gives these updates the same meaning in PEFT.

    Deviating ranks and scalings are written as ``rank_pattern`` and ``alpha_pattern``. Every
    update's alpha is its scaling times its rank.

    Args:
        updates: Specs of the updates by module.
        base: Name or path of the base model.
        all_layers: Whether the updates cover every decoder block. Otherwise, the config lists the
            blocks or, if that is not possible, all modules.
    """
    main = [u for m, u in updates.items() if u.experts > 1 or is_expert(m)] or updates.values()
    kinds = [(update.rank, update.scaling) for update in main]
    rank, scaling = max(set(kinds), key=kinds.count)
    exact = _exact_patterns(updates)
    odd = {
        exact[_target(m, update)]: update
        for m, update in updates.items()
        if (update.rank, update.scaling) != (rank, scaling)
    }
    modules = [module for module, update in updates.items() if not update.experts]
    parameters = {parameter_of(m, u.experts) for m, u in updates.items() if u.experts}
    suffixes = sorted({module.rsplit(".", 1)[-1] for module in modules})
    layers = sorted({layer for layer in map(layer_of, modules) if layer is not None})
    # Name suffixes would also match the layers of other modalities.
    is_regular = len(suffixes) * max(1, len(layers)) == len(modules)
    is_regular &= not any(map(has_modes, modules))
    is_regular &= not any(suffix.isdecimal() for suffix in suffixes)  # the end of a block's name
    if layers and not all_layers:  # PEFT finds a block's index only after "NAME.layers."
        is_regular &= all(re.match(r".+?\.[^.]+\.\d+\.", module) for module in modules)
    described = {
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
        "target_modules": suffixes if is_regular else sorted(modules),
        "layers_to_transform": layers if is_regular and layers and not all_layers else None,
        "rank_pattern": {name: update.rank for name, update in odd.items()},
        "alpha_pattern": {name: _alpha(u.scaling, u.rank) for name, u in odd.items()},
        "use_rslora": False,
    }
    if parameters:  # full names: PEFT matches suffixes, and cannot select layers
        described["target_parameters"] = sorted(parameters)
    return described


def _target(module: str, update: UpdateSpec) -> str:
    """Return the name with which PEFT looks up a module's rank."""
    return parameter_of(module, update.experts) if update.experts else module


def _alpha(scaling: float, rank: int) -> int | float:
    """Return the alpha that, divided by the rank, is nearest to this scaling; whole if possible."""
    alpha = scaling * rank
    whole = round(alpha)
    return whole if whole / rank == scaling else alpha


def spec_of(update: LoraUpdate, experts: int = 0) -> UpdateSpec:
    """Return the spec of an update."""
    return UpdateSpec(
        update.b.shape[0],
        update.a.shape[1],
        update.rank,
        update.scaling,
        update.a.dtype,
        update.bias is not None,
        experts=experts,
    )


def layout_of(specs: Mapping[str, UpdateSpec], joining: Joining) -> dict[str, TensorSpec]:
    """Return the specs of all updates' tensors, in the order in which updates are joined."""
    layout: dict[str, TensorSpec] = {}
    for name, modules in joining.names.items():
        parts = [specs[module] for module in modules]
        spec = parts[0]._replace(dtype=wider(*(part.dtype for part in parts)))
        layout |= _tensors_of(name, spec._replace(rank=spec.rank * max(1, spec.experts)))
    return layout


def _tensors_of(module: str, spec: UpdateSpec) -> dict[str, TensorSpec]:
    """Return the specs of one update's tensors by PEFT's names."""
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


def saved_name(name: str, updated: Collection[str]) -> str:
    """Return PEFT's name of a whole weight, which is different in modules with an update."""
    module, _, kind = name.rpartition(".")
    return f"{PREFIX}{module}{BASE_LAYER if module in updated else '.'}{kind}"

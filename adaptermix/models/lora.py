"""Add a new LoRA to a model, in the variants that PEFT supports."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils.transformers_weight_conversion import (
    _MODEL_TO_CONVERSION_PATTERN,
    _MOE_TARGET_MODULE_MAPPING,
)
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from adaptermix.adapters.format import as_suffix, decoder_layer_of, layer_of
from adaptermix.errors import ConfigError, first_line
from adaptermix.models.blocks import find_blocks
from adaptermix.settings.paper import ATTENTION_AND_MLP
from adaptermix.settings.training import TrainAlignSettings, TrainSettings

_LINEAR = (nn.Linear, Conv1D)
_FUSED_QKV = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
_QKV = ("q_proj", "k_proj", "v_proj")
_ATTENTION = (*_QKV, "o_proj")
_CONV1D = ("c_attn", "c_fc", "c_proj")
_LATENT = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
_PHI3 = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
# Names that mean an attention or MLP projection in every class of transformers, unlike out_proj,
# which is also part of Mamba blocks. A class without an entry below gets those that it has.
_PROJECTIONS = frozenset((*ATTENTION_AND_MLP, *_LATENT, *_PHI3))
_SHARED_MLP = ("input_linear", "output_linear")
# Default targets by model_type, for models with other names of such projections. Experts are
# fused parameters, not linear layers: they are trained with --target-parameters only.
_LAYOUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bloom", "falcon", "gpt_neox", "persimmon"), _FUSED_QKV),
    **dict.fromkeys(("apertus", "arcee", "nemotron"), ATTENTION_AND_MLP),
    **dict.fromkeys(("gpt_oss", "mixtral", "olmoe", "phimoe", "qwen3_moe"), ATTENTION_AND_MLP),
    **dict.fromkeys(("granitemoe", "qwen3_vl_moe_text"), ATTENTION_AND_MLP),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _LATENT),
    **dict.fromkeys(("glm", "glm4", "glm4v_text"), (*_ATTENTION, "gate_up_proj", "down_proj")),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), _CONV1D),
    **dict.fromkeys(("granitemoehybrid", "granitemoeshared"), (*_ATTENTION, *_SHARED_MLP)),
    "gpt_neo": (*_QKV, "out_proj", "c_fc", "c_proj"),
    "gptj": (*_QKV, "out_proj", "fc_in", "fc_out"),
    "lfm2": (*_QKV, "out_proj", "w1", "w2", "w3"),
    "mpt": ("Wqkv", "out_proj", "up_proj", "down_proj"),
    **dict.fromkeys(("biogpt", "opt", "xglm"), (*_QKV, "out_proj", "fc1", "fc2")),
    "phi": (*_QKV, "dense", "fc1", "fc2"),
    **dict.fromkeys(("phi3", "phi4_multimodal"), _PHI3),
    "starcoder2": (*_ATTENTION, "c_fc", "c_proj"),
}


def with_lora(model: PreTrainedModel, settings: TrainSettings, task_type: str) -> PeftModel:
    """Add a new LoRA to a model, as configured by the settings.

    Raises:
        ConfigError: The model does not have a target module.
    """
    linear = _linear_layers(model)
    targets = _targets(linear, model, settings)
    if settings.layers_to_transform:
        targets = _modules_of_layers(model, linear, targets, settings)
    elif len(linear) < sum(isinstance(module, _LINEAR) for module in model.modules()):
        # Another modality has layers of the same names, which get no LoRA.
        targets = [name for name in linear if name.rsplit(".", 1)[-1] in targets]
    parameters = _target_parameters(model, linear, settings)
    names = [*linear, *(parameters or ())]
    prefix = prefix_in_whole(model)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT also accepts floats
        lora_dropout=settings.dropout,
        target_modules=targets,
        target_parameters=parameters,
        use_rslora=settings.use_rslora,
        rank_pattern=_without_prefix(settings.rank_pattern, names, prefix),
        alpha_pattern=_without_prefix(settings.alpha_pattern, names, prefix),
        task_type=task_type,
    )
    is_empty = model.device.type == "meta"
    try:
        adapted: PeftModel = get_peft_model(model, config, low_cpu_mem_usage=is_empty)  # type: ignore[assignment]
    except ValueError as error:
        raise ConfigError(
            f"PEFT cannot add this LoRA to {type(model).__name__}: {first_line(error)}",
            hint="choose other layers with --target-modules",
        ) from error
    _check_patterns(adapted, settings, prefix)
    return adapted


def prefix_in_whole(model: PreTrainedModel) -> str:
    """Return the prefix that a class without the LM head lacks in its module names."""
    return "" if model.can_generate() else f"{model.base_model_prefix}."


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the language model's linear layers, including the output layer.

    Some decoders also contain the towers of other modalities, outside their blocks.
    """
    decoder = model.get_decoder()
    head = next((f"{name}." for name, module in model.named_modules() if module is decoder), "")
    head, output = head.lstrip("."), model.get_output_embeddings()
    blocks = f"{head}layers." if hasattr(decoder, "layers") else head
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _LINEAR)
        and (name.startswith(blocks) or name.rpartition(".")[0] == head[:-1] or module is output)
    ]


def _targets(linear: list[str], model: PreTrainedModel, settings: TrainSettings) -> list[str]:
    """Return the last name components of the layers that get a LoRA.

    If some default names do not exist, those of the model type apply (``_LAYOUTS``), else the
    projections that the blocks have.
    """
    found = {name.rsplit(".", 1)[-1] for name in linear}
    blocks = {name.rsplit(".", 1)[-1] for name in linear if layer_of(name) is not None}
    experts = _read_as_experts(found, model)
    wanted = settings.target_modules
    missing = [name for name in wanted if name not in found]
    refused = _refused_by_peft(found, model)
    if wanted == ("all-linear",) and blocks:
        return sorted(blocks - {"gate", "router"} - experts - refused)
    layout = _LAYOUTS.get(model.config.get_text_config().model_type, _projections(blocks))
    if wanted == ATTENTION_AND_MLP:
        known = blocks & set(layout) if missing else set(wanted)
        if known - experts:
            return sorted(known - experts) if missing or experts else list(wanted)
    if not missing and (fused := sorted(experts & set(wanted))):
        raise ConfigError(
            f"--target-modules: PEFT treats '{fused[0]}' as the fused experts of "
            f"{type(model).__name__}, not as a linear layer",
            hint="remove it; to train the experts, use --target-parameters",
        )
    if not missing:
        return list(wanted)
    raise ConfigError(
        f"--target-modules: {type(model).__name__} has no linear layer '{missing[0]}'",
        hint="use all-linear, or some of these: " + ", ".join(sorted(found - refused)),
    )


def _projections(names: set[str]) -> set[str]:
    """Return the names of attention and MLP projections; none if the attention's are unknown."""
    known = names & _PROJECTIONS
    has_input = known & {"q_proj", "q_b_proj", "qkv_proj", "kv_b_proj"}
    return known if has_input and "o_proj" in known else set()


def _refused_by_peft(names: set[str], model: PreTrainedModel) -> set[str]:
    """Return the names that PEFT refuses in Mamba models, whose kernels would skip a LoRA."""
    refused = set()
    for name in names:
        try:
            _check_lora_target_modules_mamba(LoraConfig(), model, name)
        except ValueError:
            refused.add(name)
    return refused


def _read_as_experts(names: set[str], model: PreTrainedModel) -> set[str]:
    """Return the linear layers' names that PEFT takes for the fused experts of a model's class.

    It does so for adapters of transformers 4, where experts were separate layers. Shared experts
    and dense layers have the same names.
    """
    kind = _MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type, "")
    return names & _MOE_TARGET_MODULE_MAPPING.get(kind, {}).keys()


def _target_parameters(
    model: PreTrainedModel, linear: list[str], settings: TrainSettings
) -> list[str] | None:
    """Return the full names of the parameters that get a LoRA.

    Raises:
        ConfigError: The blocks do not have the parameter, or it belongs to a linear layer.
    """
    if not settings.target_parameters:
        return None
    there = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim in (2, 3)
        and decoder_layer_of(name) is not None
        and name.rpartition(".")[0] not in linear
        and not name.endswith("_bias")
    ]
    layers = settings.layers_to_transform
    targets = []
    for wanted in settings.target_parameters:
        found = [name for name in there if f".{name}".endswith(f".{wanted}")]
        if not found:
            ends = dict.fromkeys(re.split(r"\.\d+\.", name)[-1] for name in there)
            raise ConfigError(
                f"--target-parameters: {type(model).__name__} has no parameter '{wanted}' "
                "outside its linear layers",
                hint="it has " + (", ".join(ends) or "none; see --target-modules"),
            )
        chosen = [name for name in found if not layers or layer_of(name) in layers]
        if not chosen:
            raise _not_in_layers("--target-parameters", wanted, found)
        targets += chosen
    return targets


def _modules_of_layers(
    model: PreTrainedModel, linear: list[str], targets: list[str], settings: TrainSettings
) -> list[str]:
    """Return the full names of target modules in the blocks that get a LoRA."""
    depth = len(find_blocks(model)) or model.config.get_text_config().num_hidden_layers
    last = max(settings.layers_to_transform)
    if last >= depth:
        which = "the blocks of the model"
        if isinstance(settings, TrainAlignSettings):  # its model ends at the aligned block
            which = f"the blocks up to --layer {settings.layer}"
        raise ConfigError(f"--layers-to-transform {last}: {which} are 0 to {depth - 1}")
    chosen = []
    for target in targets:
        found = [name for name in linear if name.rsplit(".", 1)[-1] == target]
        mine = [name for name in found if layer_of(name) in settings.layers_to_transform]
        is_named = (
            target in settings.target_modules and settings.target_modules != ATTENTION_AND_MLP
        )
        if is_named and not mine:
            raise _not_in_layers("--target-modules", target, found)
        chosen += mine
    return chosen


def _not_in_layers(flag: str, wanted: str, found: list[str]) -> ConfigError:
    """Return the error about a module or parameter that only other blocks have, or none."""
    blocks = sorted({at for name in found if (at := layer_of(name)) is not None})
    return ConfigError(
        f"{flag}: no block of --layers-to-transform has '{wanted}'",
        hint="these have it: " + ", ".join(map(str, blocks))
        if blocks
        else "it is outside the blocks: remove it, or leave out --layers-to-transform",
    )


def _without_prefix(
    patterns: Mapping[str, float], names: Sequence[str], prefix: str
) -> dict[str, Any]:
    """Return patterns for names without a prefix that match what these match with it.

    The adapter is saved with the patterns as given, which then match the names with the prefix.
    """
    if not prefix:
        return dict(patterns)
    matched: dict[str, list[str]] = {pattern: [] for pattern in patterns}
    for name in names:
        for pattern in patterns:
            if re.match(as_suffix(pattern), prefix + name):
                matched[pattern].append(re.escape(name))
                break
    return {f"^({'|'.join(mine)})": patterns[pattern] for pattern, mine in matched.items() if mine}


def _check_patterns(model: PeftModel, settings: TrainSettings, prefix: str) -> None:
    """Reject a pattern that matches nothing, because PEFT would ignore it."""
    tuner: Any = model.base_model
    found = (*tuner.targeted_module_names, *tuner.targeted_parameter_names)
    names = [prefix + name for name in found]
    for flag in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(settings, flag):
            if not any(re.match(as_suffix(pattern), name) for name in names):
                raise ConfigError(
                    f"--{flag.replace('_', '-')}: no module with a LoRA has a name that ends "
                    f"in '{pattern}'",
                    hint="for example " + ", ".join(names[:3]),
                )


def as_torch(array: np.ndarray) -> Tensor:
    """Return a tensor that shares an array's memory; torch cannot read bfloat16 arrays directly."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_numpy(tensor: Tensor) -> np.ndarray:
    """Return an array that shares the memory of a tensor, or of its copy on the CPU."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()

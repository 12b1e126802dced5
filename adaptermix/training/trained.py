"""The trained adapter of a model: its factors by the module names of the full model."""

from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import ParamWrapper
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.experts import expert_module, split_factors
from adaptermix.errors import ArtifactError
from adaptermix.models.lora import as_numpy

State = dict[str, Tensor]


def gathered_state(model: PeftModel) -> State:
    """Return the trained weights of a model that is sharded over processes."""
    trained_only = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=True
    )
    return cast(State, get_model_state_dict(model, options=trained_only))


def trained_updates(
    model: PeftModel, prefix: str, state: State | None = None
) -> dict[str, LoraUpdate]:
    """Collect the trained factors under the module names of the full model.

    Args:
        model: The trained model.
        prefix: Prefix that the names lack if only a part of the model was loaded.
        state: The trained weights, if the model has only a shard of them.
    """
    state = get_peft_model_state_dict(model, state_dict=state)
    updates = {}
    for name, a in state.items():
        if name.endswith(".lora_A.weight"):
            path = name.removesuffix(".lora_A.weight")
            module = path.removeprefix("base_model.model.")
            layer: Any = model.get_submodule(path)
            scaling = float(layer.scaling["default"])
            b = state[name.replace("lora_A", "lora_B")]
            if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise ArtifactError(
                    f"training diverged: {module} contains NaN or infinity", hint="lower --lr"
                )
            factors = as_numpy(a), as_numpy(b)
            if not isinstance(layer, ParamWrapper):
                updates[prefix + module] = LoraUpdate(*factors, scaling)
                continue
            for expert, name in enumerate(_expert_modules(layer, prefix + module)):
                own = split_factors(*factors, expert, layer.num_experts)
                updates[name] = LoraUpdate(*own, scaling)
    return updates


def experts_of(model: PeftModel, prefix: str) -> dict[str, int]:
    """Return the number of experts of the parameter that each update belongs to."""
    wrappers = {
        prefix + name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, ParamWrapper)
    }
    return {
        name: wrapper.num_experts
        for module, wrapper in wrappers.items()
        for name in _expert_modules(wrapper, module)
    }


def _expert_modules(wrapper: ParamWrapper, stored: str) -> list[str]:
    """Return the module names of a parameter's updates, one per expert."""
    module = stored.replace(".base_layer", "")
    if wrapper.num_experts == 1:
        return [module]
    experts = range(wrapper.num_experts)
    return [expert_module(module, wrapper.parameter_name, expert) for expert in experts]

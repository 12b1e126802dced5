"""Add adapters to a base model in memory, so that another one can be trained on top of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.matching import check_fits, notes_on_base, with_names_of
from adaptermix.adapters.names import is_embedding_name
from adaptermix.adapters.stacking import Weighted, notes_on_stack
from adaptermix.errors import ArtifactError
from adaptermix.models.blocks import empty_model
from adaptermix.models.files import fingerprint, is_tied, quantization_of
from adaptermix.models.lora import as_torch
from adaptermix.models.pooling import widened
from adaptermix.settings.shared import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

M = TypeVar("M", bound="PreTrainedModel")


def check_stack(folder: Path, settings: ModelSettings, stack: Sequence[Weighted]) -> list[str]:
    """Check that adapters can be added to a base model, and return notes about them.

    Raises:
        ArtifactError: An adapter does not fit the model or changes more than the weights of
            linear layers, or the model is quantized.
    """
    if not stack:
        return []
    if quantization_of(folder) is not None:
        raise ArtifactError(
            f"--on: {settings.model} is quantized; adapters cannot be added to a quantized model",
            hint="train on the model it was quantized from",
        )
    empty = empty_model(folder, settings)
    for each in stack:
        _check_adapter(each.adapter, empty, folder, settings.model)
    adapters = {str(each.adapter.path): each.adapter for each in stack}
    return [
        *(note for adapter in adapters.values() for note in adapter.notes),
        *notes_on_base(adapters, settings.model, fingerprint(folder)),
        *notes_on_stack(
            list(adapters.values()), {e.adapter.weights_hash: [e.weight] for e in stack}
        ),
    ]


def _check_adapter(adapter: Adapter, empty: "PreTrainedModel", folder: Path, base: str) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in empty.state_dict().items()}
    named = with_names_of(adapter, shapes)
    check_fits(named, shapes, base)
    modules = dict(empty.named_modules())
    kind = empty.config.get_text_config().model_type
    is_plain = not any(not named.is_frozen(name) for name in named.saved) and not any(
        named.spec(module).has_bias
        or not isinstance(modules.get(module), nn.Linear)
        or (is_embedding_name(module, kind) and is_tied(folder))
        for module in named.modules
    )
    if not is_plain:
        raise ArtifactError(
            f"--on {adapter.path}: the adapter changes embeddings, biases or whole weights; "
            "--on supports only LoRA on linear layers",
            hint=f"fold it into a copy of the model: adaptermix merge {adapter.path} --weights 1 "
            f"--into {base} -o FOLDER, and train with --model FOLDER",
        )


def add_stack(model: M, stack: Sequence[Weighted]) -> M:
    """Add the weighted delta weights of adapters to a model or to its lower blocks.

    Each weight is summed in float32 or wider and rounded once, to its own precision. Changes to
    blocks that are not loaded have no influence on the loaded ones.
    """
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    named = [Weighted(with_names_of(each.adapter, shapes), each.weight) for each in stack]
    with torch.no_grad():
        for name, module in model.named_modules():
            parts = [each for each in named if name in each.adapter.factors]
            if parts and isinstance(module, nn.Linear) and not module.weight.is_meta:
                weight = widened(module.weight)
                for each in parts:
                    weight = weight + _delta(each.adapter.update(name), each.weight, weight)
                module.weight.copy_(weight)
    return model


def _delta(update: LoraUpdate, weight: float, like: Tensor) -> Tensor:
    a, b = (as_torch(factor).to(like) for factor in (update.a, update.b))
    return (b @ a) * (weight * update.scaling)

"""Estimate the memory of a training run without reading any weights.

A model of the same shapes on torch's meta device runs one forward pass per kind of batch, and the
tensors that autograd would save for the backward pass are counted. This takes a second for a
model of 8 billion parameters, and covers any layout, precision and LoRA.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.moe import ExpertsInterface
from transformers.pytorch_utils import Conv1D

from adaptermix.models.blocks import find_blocks, lower_blocks_only, text_decoder
from adaptermix.models.loading import caps_attention
from adaptermix.settings.training import TrainSettings
from adaptermix.training.answer_loss import can_gather_answers, rows_of_part

_ATTENTION = _EXPERTS = "adaptermix_footprint"
# Bytes per trained parameter: its value, its gradient, and both Adam moments, in float32.
_TRAINED_BYTES = 16
_NF4_BYTES = 0.5625  # per weight: 4 bits, and a factor in float32 for 64 weights
_PART_BYTES = 16  # per logit: its value, its log softmax, and the gradients of both, in float32


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        rows: Number of sequences in the batch.
        length: Tokens per sequence, including padding.
        layer: Number of blocks that a whole model runs, without the loss; None for all blocks and
            the loss.
        answers: Number of answer tokens in the batch, the only ones with logits if the model
            supports that; None for all tokens.
    """

    rows: int
    length: int
    layer: int | None = None
    answers: int | None = None


@dataclass(frozen=True)
class Footprint:
    """The number of parameters, and the peak memory of a training step.

    Attributes:
        held: Number of loaded parameters of the base model.
        trained: Number of parameters of the adapter.
        memory_bytes: Bytes of both, gradients, optimizer states and activations; without the
            overhead of Python, torch and communication between processes.
    """

    held: int
    trained: int
    memory_bytes: int


def footprint(
    model: PeftModel, passes: Sequence[Pass], settings: TrainSettings | None = None
) -> Footprint:
    """Estimate the parameters and the memory of a training run.

    Args:
        model: Model with a LoRA, on the meta device.
        passes: The largest pass of each kind.
        settings: Settings of the attention, of 4-bit weights and of gradient checkpointing.
    """
    settings = settings or TrainSettings()
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    held = sum(p.numel() for p in parameters if not p.requires_grad)
    activations = max(_activation_bytes(model, each, settings) for each in passes)
    memory = _frozen_bytes(model, settings) + trained * _TRAINED_BYTES + activations
    return Footprint(held, trained, memory)


def _frozen_bytes(model: PeftModel, settings: TrainSettings) -> int:
    """Return the bytes of the base model; bitsandbytes leaves its output layer as it is."""
    base: Any = model.get_base_model()
    output = base.get_output_embeddings()
    layers = [m for m in base.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not output]
    packed = {id(layer.weight) for layer in layers} if settings.quantize else set()
    return round(
        sum(
            parameter.numel()
            * (_NF4_BYTES if id(parameter) in packed else parameter.element_size())
            for parameter in model.parameters()
            if not parameter.requires_grad
        )
    )


def _activation_bytes(model: PeftModel, each: Pass, settings: TrainSettings) -> int:
    """Return the bytes at the start of a backward pass: saved tensors and gradients in flight.

    Gradients in flight are estimated as twice the largest saved tensor. Most often, these are the
    gradients of the logits and of their log softmax. If only answer tokens have logits, these
    exist before that, one part at a time: logits, log softmax, and the gradients of both. With
    gradient checkpointing, only the inputs of the blocks are kept, and one block is computed again.
    """
    model.train()
    base: PreTrainedModel = model.get_base_model()  # type: ignore[assignment]
    is_eager = settings.attention == "eager" or caps_attention(base.config)
    base.set_attn_implementation("eager" if is_eager else _ATTENTION)
    base.set_experts_implementation(_EXPERTS)
    ids = torch.zeros((each.rows, each.length), dtype=torch.long, device="meta")
    mask = torch.ones((each.rows, 1, each.length, each.length), dtype=torch.bool, device="meta")
    if base.config._attn_implementation != _ATTENTION:  # Bloom computes its attention itself
        mask = torch.ones_like(ids)
    batch = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    part = 0
    with _counting(model) as saved, _spans(base, saved) as spans:
        if each.layer is not None:
            with lower_blocks_only(base, each.layer):
                output = model(**batch, output_hidden_states=True, logits_to_keep=ids.new_empty(0))
        elif base.get_output_embeddings() is None:
            output = model(**batch)
        elif each.answers is not None and can_gather_answers(model):
            output = text_decoder(base)(**batch)
            rows = min(each.answers, rows_of_part(base))
            part = rows * base.config.get_text_config().vocab_size * _PART_BYTES
        else:
            output = model(**batch, labels=ids)
    del output
    sizes = [storage.nbytes() for storage in saved.values()]
    in_flight = max(2 * max(sizes, default=0), part)
    if not getattr(settings, "gradient_checkpointing", False):
        return sum(sizes) + in_flight
    of_blocks = [sum(sizes[span.start : span.stop]) for span in spans]
    width = base.config.get_text_config().hidden_size
    inputs: int = len(spans) * ids.numel() * width * model.dtype.itemsize
    return sum(sizes) - sum(of_blocks) + max(of_blocks, default=0) + inputs + in_flight


class _Attention(torch.autograd.Function):
    """Saves the tensors that fused attention saves, without attention weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output)
        return output


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any
) -> tuple[Tensor, None]:
    return _Attention.apply(query, key, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attend)


class _Grouped(torch.autograd.Function):
    """Saves what a product of rows with their experts saves.

    torch has no such product on the meta device, except in bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, features: int) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return rows.new_empty(len(rows), features)


def _choose(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Stand in for the experts of a layer: [tokens features], each token in several experts."""
    tokens, features = hidden_states.shape
    rows = hidden_states.repeat_interleave(top_k_index.shape[-1], dim=0)
    first = experts.gate_up_proj if experts.has_gate else experts.up_proj
    inner = _Grouped.apply(rows, first, first.shape[-1 if experts.is_transposed else -2])
    inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
    rows = _Grouped.apply(inner, experts.down_proj, features)
    rows = rows * top_k_weights.reshape(-1, 1)
    outputs: Tensor = rows.view(tokens, -1, features).sum(dim=1).to(hidden_states.dtype)
    return outputs


ExpertsInterface.register(_EXPERTS, _choose)


@contextmanager
def _counting(model: PeftModel) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collect the storages that autograd saves, except those of the parameters."""
    own = {_storage_of(parameter) for parameter in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        if _storage_of(tensor) not in own:
            saved[_storage_of(tensor)] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield saved


@contextmanager
def _spans(model: PreTrainedModel, saved: dict[int, torch.UntypedStorage]) -> Iterator[list[slice]]:
    """Collect which of the saved storages each block has added."""
    spans: list[slice] = []
    starts: list[int] = []
    hooks = []
    for block in find_blocks(model):
        hooks.append(block.register_forward_pre_hook(lambda *_: starts.append(len(saved))))
        hooks.append(
            block.register_forward_hook(lambda *_: spans.append(slice(starts[-1], len(saved))))
        )
    try:
        yield spans
    finally:
        for hook in hooks:
            hook.remove()


def _storage_of(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage; all meta storages have the same address."""
    return int(tensor.untyped_storage()._cdata)

"""What a training will hold in memory, found out without a weight being read.

A model of the same shapes, on torch's meta device, goes forward once per kind of batch, and what
autograd would keep for the backward pass is counted, tensor by tensor. That takes a second for a
model of 8 billion parameters, and follows whatever layout, precision and LoRA the model has.
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

from adaptermix.models.blocks import lower_blocks_only, text_decoder
from adaptermix.training.answer_loss import can_gather_answers, rows_of_part

_ATTENTION = "adaptermix_footprint"
# Bytes of a trained parameter: itself, its gradient, and both moments of Adam, in float32.
_TRAINED_BYTES = 16
_PART_BYTES = 16  # of a logit: itself, its logarithm, and the gradients of both, in float32


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        rows: Sequences in the batch.
        length: Tokens of each, padding included.
        layer: Blocks that a whole model runs, when not all of them and the loss.
        answers: Answer tokens of the batch, the only ones with logits where the model allows that;
            all tokens by default.
    """

    rows: int
    length: int
    layer: int | None = None
    answers: int | None = None


@dataclass(frozen=True)
class Footprint:
    """Parameters, and the bytes they and a training step take at the peak.

    Attributes:
        held: Parameters of the base model that are loaded.
        trained: Parameters of the adapter.
        memory_bytes: Of both, gradients, optimizer and activations; without what Python and
            torch take by themselves, or several processes to talk.
    """

    held: int
    trained: int
    memory_bytes: int


def footprint(model: PeftModel, passes: Sequence[Pass]) -> Footprint:
    """Estimate what training takes.

    Args:
        model: With a LoRA, on the meta device.
        passes: The largest of each kind of pass.
    """
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    held = sum(p.numel() for p in parameters if not p.requires_grad)
    frozen = sum(p.numel() * p.element_size() for p in parameters if not p.requires_grad)
    activations = max(_activation_bytes(model, each) for each in passes)
    return Footprint(held, trained, frozen + trained * _TRAINED_BYTES + activations)


def _activation_bytes(model: PeftModel, each: Pass) -> int:
    """Return what a pass holds when it turns back: all that is saved, and what is in flight.

    Gradients in flight are taken to be twice the largest saved tensor: most often, the logits' own
    and that of their logarithmic softmax. Logits of answers alone come and go before that, a part
    at a time: the logits, their logarithmic softmax, and the gradients of both.
    """
    model.train()
    base: PreTrainedModel = model.get_base_model()  # type: ignore[assignment]
    base.set_attn_implementation(_ATTENTION)
    ids = torch.zeros((each.rows, each.length), dtype=torch.long, device="meta")
    mask = torch.ones((each.rows, 1, each.length, each.length), dtype=torch.bool, device="meta")
    batch = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    part = 0
    with _counting(model) as saved:
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
    return sum(sizes) + max(2 * max(sizes, default=0), part)


class _Attention(torch.autograd.Function):
    """Saves what fused attention saves: no weights of every token to every other."""

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


@contextmanager
def _counting(model: PeftModel) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collect the storages that autograd saves, other than the parameters' own."""
    own = {_storage_of(parameter) for parameter in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        if _storage_of(tensor) not in own:
            saved[_storage_of(tensor)] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield saved


def _storage_of(tensor: Tensor) -> int:
    """Return what tells storages apart; on the meta device all of them have the same address."""
    return int(tensor.untyped_storage()._cdata)

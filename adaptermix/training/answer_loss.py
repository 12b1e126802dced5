"""The task loss, with logits for answer tokens only, computed in parts.

Prompt and padding tokens have no targets. With a large vocabulary, their logits would take most of
the compute and memory of a step, and the logits of all answers at once still much of the memory.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from adaptermix.models.blocks import text_decoder
from adaptermix.training.batches import IGNORED

_LOGITS = 2**23  # per part: 32 tokens with Gemma's vocabulary; smaller parts are slower
_MIN_ROWS = 16

PartLoss = Callable[[Tensor, Tensor], Tensor]  # from hidden states and their target tokens


def can_gather_answers(model: Any) -> bool:
    """Whether a model's decoder and head can run separately, with the same loss.

    A mixture of experts with load balancing adds its own loss, which needs a full pass.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return (
        type(base).__name__.endswith(("ForCausalLM", "ForConditionalGeneration"))
        and "logits_to_keep" in inspect.signature(base.forward).parameters
        and text_decoder(base) is not base
        and not getattr(base.config, "output_router_logits", False)
    )


def gather_answers(model: Any) -> bool:
    """Make a model compute its loss on answer tokens only, if it gets labels.

    The loss and its gradients do not change, but the output has no logits. A model that does not
    support this is left unchanged.

    Returns:
        Whether the model supports this. Its loss is then a sum divided by ``num_items_in_batch``.
    """
    if not can_gather_answers(model):
        return False
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    whole = base.forward

    @wraps(whole)
    def forward(*args: Any, **inputs: Any) -> Any:
        if inputs.get("labels") is None:
            return whole(*args, **inputs)
        labels, items = inputs.pop("labels"), inputs.pop("num_items_in_batch", None)
        following = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        is_answer = following != IGNORED
        output = text_decoder(base)(*args, **inputs)
        states = output.last_hidden_state[is_answer]
        head = HeadLoss(base, whole, type(output), len(states) if items is None else items)
        loss: Any = loss_in_parts(base, states, following[is_answer], head)
        return CausalLMOutput(loss=loss)

    base.forward = forward
    return True


class HeadLoss:
    """The loss of decoder hidden states, computed by the model's own code.

    This includes a scale or cap of the logits, a bias, a quantized head, and a LoRA on the head.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        whole: Callable[..., Any],
        output: type[Any],
        items: Tensor | int,
    ) -> None:
        """Store the model, its own forward, its decoder's output class, and the loss divisor."""
        self.base = base
        self.whole = whole
        self.output = output
        self.items = items

    def __call__(
        self, states: Float[Tensor, "answers hidden"], targets: Int[Tensor, " answers"]
    ) -> Float[Tensor, ""]:
        """Return the contribution of these tokens to the loss."""
        decoder = text_decoder(self.base)
        own = vars(decoder).get("forward")
        decoder.forward = lambda *_, **__: self.output(last_hidden_state=states[None])
        try:
            loss: Tensor = self.whole(
                input_ids=targets[None],
                labels=targets[None],
                shift_labels=targets[None],
                num_items_in_batch=self.items,
                use_cache=False,
            ).loss
        finally:
            del decoder.forward
            if own is not None:
                decoder.forward = own
        return loss


def rows_of_part(base: PreTrainedModel) -> int:
    """Return the maximum number of answer tokens with logits at the same time."""
    vocabulary: int = base.config.get_text_config().vocab_size
    return max(_MIN_ROWS, _LOGITS // vocabulary)


def loss_in_parts(
    base: PreTrainedModel,
    states: Float[Tensor, "answers hidden"],
    targets: Int[Tensor, " answers"],
    part_loss: PartLoss,
) -> Float[Tensor, ""]:
    """Compute the loss part by part, and return the sum.

    Args:
        base: The model that the head belongs to.
        states: Inputs of the head.
        targets: Target token of each state.
        part_loss: Computes the loss of one part.
    """
    rows = rows_of_part(base)
    if not torch.is_grad_enabled() or not states.requires_grad:
        return _summed(states, targets, rows, part_loss)
    if any(parameter.requires_grad for parameter in base.get_output_embeddings().parameters()):

        def again(*part: Tensor) -> Any:
            return checkpoint(part_loss, *part, use_reentrant=False)

        return _summed(states, targets, rows, again)
    loss: Tensor = _InParts.apply(states, targets, rows, part_loss)
    return loss


def _summed(states: Tensor, targets: Tensor, rows: int, part_loss: PartLoss) -> Tensor:
    parts = zip(states.split(rows), targets.split(rows), strict=True)
    return torch.stack([part_loss(*part) for part in parts]).sum()


class _InParts(torch.autograd.Function):
    """Sums the losses of parts; computes each part's gradient before it frees the logits.

    With a frozen head, this saves the second pass through the head that checkpointing needs.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, targets: Tensor, rows: int, part_loss: PartLoss
    ) -> Tensor:
        losses, gradients = [], []
        for part, part_targets in zip(states.split(rows), targets.split(rows), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                loss = part_loss(leaf, part_targets)
            gradients += torch.autograd.grad(loss, leaf)
            losses.append(loss.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        (gradients,) = ctx.saved_tensors
        return (gradients * grad).to(gradients), None, None, None

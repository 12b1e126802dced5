"""A LoRA layer that costs little more than the layer it adapts.

PEFT's own layer draws its dropout from a stream of random numbers, one module after another. On a
CPU, this takes longer than a layer's matrix product. Here, the random number of an element is a
hash of two keys, one of the token and one of the input feature. It is cheap, needs no memory
between forward and backward, and does not depend on which tokens share a batch: a sentence loses
the same elements in a large batch and in a small one.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional

# The odd constants of MurmurHash3's finalizer and of the golden ratio, as signed 32-bit numbers.
_FIRST, _SECOND, _GOLDEN = -2048144789, -1028477387, -1640531527
_MODULE_STRIDE = 1 << 16  # more than the input features of any layer


def hashed(numbers: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Hash 32-bit integers uniformly to 32-bit integers, with MurmurHash3's finalizer."""
    mixed = numbers ^ (numbers >> 16)
    mixed.mul_(_FIRST)
    mixed.bitwise_xor_(mixed >> 13).mul_(_SECOND)
    return mixed.bitwise_xor_(mixed >> 16)


def token_keys(
    seed: int, sentences: Int[Tensor, " tokens"], positions: Int[Tensor, " tokens"]
) -> Int[Tensor, " tokens"]:
    """Return a key for every token, from the step's seed, its sentence and its position.

    Args:
        seed: Seed of the step, different in every step.
        sentences: Index of the token's sentence in the whole batch.
        positions: Position of the token in its sentence.
    """
    sentence_keys = hashed(sentences.int() * _GOLDEN + seed)
    return hashed(sentence_keys + positions.int() * _GOLDEN)


class Scratch:
    """Buffers that every layer overwrites.

    If they were allocated and freed between the tensors kept for the backward pass, they would
    leave holes in the heap, a tenth of all memory.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    def array(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Return an uninitialized array with the shape and device of another one."""
        held = self._held.get((name, dtype))
        if held is None or held.numel() < like.numel() or held.device != like.device:
            held = torch.empty(like.numel(), dtype=dtype, device=like.device)
            self._held[name, dtype] = held
        return held[: like.numel()].view(like.shape)


def kept_elements(
    tokens: Int[Tensor, " tokens"],
    features: Int[Tensor, " features"],
    rate: float,
    *,
    dtype: torch.dtype,
    scratch: Scratch | None = None,
) -> Float[Tensor, "tokens features"]:
    """Return the dropout mask: 0 with probability ``rate``, otherwise 1.

    Args:
        tokens: Key of each token.
        features: Key of each input feature.
        rate: Share of dropped elements.
        dtype: Dtype of the mask.
        scratch: Buffers to compute in; the next call overwrites the returned mask.
    """
    scratch = scratch or Scratch()
    shape = tokens[:, None].expand(-1, len(features))
    mixed = torch.bitwise_xor(shape, features, out=scratch.array("mixed", shape, torch.int32))
    mixed.mul_(_GOLDEN)
    shifted = scratch.array("shifted", shape, torch.int32)
    mixed.bitwise_xor_(torch.bitwise_right_shift(mixed, 15, out=shifted)).mul_(_FIRST)
    threshold = int(rate * 2**32) - 2**31  # a share of ``rate`` of all 32-bit integers is below it
    return torch.ge(mixed, threshold, out=scratch.array("kept", shape, dtype))


@dataclass
class Dropout:
    """The dropout state that all layers of a model share.

    Attributes:
        tokens: Keys of the tokens in the current forward pass, or None.
        scratch: Buffers for the layers' masks.
    """

    tokens: Tensor | None = None
    scratch: Scratch = field(default_factory=Scratch)


class LoraLinear(PeftLinear):
    """PEFT's LoRA layer with its own forward and backward pass.

    It falls back to PEFT's code for everything except the plain use of one adapter.
    """

    dropout: Dropout
    features: Tensor

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return base(x) + scaling B A dropout(x)."""
        if self._is_plain(args, kwargs):
            (name,) = self.active_adapters
            rate = getattr(self.lora_dropout[name], "p", 0.0) if self.training else 0.0
            tokens = self.dropout.tokens
            if rate == 0 or (tokens is not None and tokens.numel() * x.shape[-1] == x.numel()):
                return self._adapted(x, name, rate)
        return super().forward(x, *args, **kwargs)

    def _is_plain(self, args: Any, kwargs: Any) -> bool:
        names = self.active_adapters
        return (
            not (args or kwargs or self.disable_adapters or self.merged)
            and len(names) == 1
            and names[0] in self.lora_A
            and names[0] not in self.lora_variant
            and self.lora_B[names[0]].bias is None
        )

    def _adapted(self, x: Tensor, name: str, rate: float) -> Tensor:
        base = self.get_base_layer()
        weight, bias = base.weight, base.bias
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        given = (self.dropout.tokens, self.features, rate, self.dropout.scratch)
        rows, scale = x.reshape(-1, x.shape[-1]), self.scaling[name] / (1 - rate)
        with torch.autocast(kind, enabled=False):
            out: Tensor = _LoraProduct.apply(
                rows, weight, bias, a, b, scale, given if rate else None
            )
        # Outside the function: a model may add to a layer's output in place (Llama 4's experts).
        return out.view(*x.shape[:-1], -1)


_Dropped = tuple[Tensor, Tensor, float, Scratch]  # dropout: both keys, the rate, and buffers


class _LoraProduct(torch.autograd.Function):
    """x W^T + bias + scale (x * kept) A^T B^T, with gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,  # [tokens in]
        weight: Tensor,  # [out in]
        bias: Tensor | None,
        a: Tensor,  # [rank in]
        b: Tensor,  # [out rank]
        scale: float,
        dropped: _Dropped | None,
    ) -> Tensor:
        kept = _kept(dropped, rows.dtype)
        seen = rows if kept is None else kept.mul_(rows)
        low = seen @ a.to(rows.dtype).T  # [tokens rank]
        out = functional.linear(rows, weight, bias).addmm_(low, b.to(low.dtype).T, alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scale, ctx.dropped = scale, dropped
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        rows, weight, a, b, low = ctx.saved_tensors
        out = grad  # [tokens out]
        back = (out @ b.to(out.dtype)).mul_(ctx.scale)  # [tokens rank]
        kept = _kept(ctx.dropped, rows.dtype)
        grad_b = (out.T @ low).mul_(ctx.scale).to(b.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            through = back @ a.to(back.dtype)  # [tokens in]
            grad_x = through if kept is None else through.mul_(kept)
            grad_x = grad_x.addmm_(out, weight)
        seen = rows if kept is None else kept.mul_(rows)
        grad_a = (back.T @ seen).to(a.dtype)
        return grad_x, None, None, grad_a, grad_b, None, None


def _kept(dropped: _Dropped | None, dtype: torch.dtype) -> Tensor | None:
    if dropped is None:
        return None
    tokens, features, rate, scratch = dropped
    return kept_elements(tokens, features, rate, dtype=dtype, scratch=scratch)


def speed_up(model: nn.Module) -> Dropout:
    """Give the plain LoRA layers of a PEFT model this module's forward pass.

    Returns:
        The shared dropout state. Set its token keys before a forward pass with dropout; without
        them, a layer uses PEFT's own dropout.
    """
    dropout = Dropout()
    plain: list[Any] = [module for module in model.modules() if type(module) is PeftLinear]
    for number, module in enumerate(plain):
        base = module.get_base_layer()
        if type(base) is nn.Linear:  # not a quantized subclass
            module.__class__ = LoraLinear
            positions = torch.arange(base.in_features, dtype=torch.int32, device=base.weight.device)
            module.dropout = dropout  # type: ignore[assignment]
            features = hashed((positions + number * _MODULE_STRIDE) * _GOLDEN)
            module.register_buffer("features", features, persistent=False)  # moves with the module
    return dropout

"""One alignment step: sentence vectors, their loss and its gradient, within limited memory.

All sentences of a contrastive batch are compared with each other, but they need not go through
the model at once (GradCache: Gao et al. 2021, arXiv:2101.06983). A first pass computes the
vectors, part by part. The loss then gives a gradient for each vector. A second pass, again part
by part, backpropagates these gradients to the weights.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn
from transformers import PreTrainedModel

from adaptermix.errors import ConfigError, ResourceError
from adaptermix.models.fitting import RowLimit, give_back_memory, saved_gradients
from adaptermix.models.lora_linear import Dropout, speed_up, token_keys
from adaptermix.models.packing import PackedRow, attention_apart, can_pack, pack, similar_runs
from adaptermix.models.pooling import Pooling, pooling_weights, widened
from adaptermix.processes import process_count, process_rank
from adaptermix.tables import number_of

Objective = Callable[[Tensor, Tensor], Tensor]  # from all sources and all targets
TokenLoss = Callable[[PackedRow, Tensor], Tensor]  # from some sentences and their hidden states
Backward = Callable[[Tensor], Any]
NoSync = Callable[[], AbstractContextManager[None]]


class Loss(NamedTuple):
    """What a step minimizes: the loss of all pairs, and a sum over the hidden states of parts."""

    pairs: Objective
    tokens: TokenLoss | None = None


class Forward(Protocol):
    """Runs a model, wrapped or not, up to the layer to align."""

    def __call__(self, model: nn.Module, **inputs: Any) -> Float[Tensor, "rows seq hidden"]:
        """Return the hidden states for a decoder's inputs."""


def run_decoder(model: nn.Module, **inputs: Any) -> Float[Tensor, "rows seq hidden"]:
    """Run a model that ends at the layer to align."""
    states: Tensor = model(**inputs).last_hidden_state
    return states


@dataclass(frozen=True)
class Sentences:
    """A padded batch of sentences: sources, as many targets, and anchor text.

    Attributes:
        pairs: Number of sources.
        input_ids: Token IDs.
        attention_mask: 1 for real tokens, 0 for padding.
        weights: Weight of each token in its sentence's vector.
        numbers: Index of each sentence in the joint batch of all processes.
        lengths: Number of real tokens of each sentence.
        seed: Seed of the dropout masks.
    """

    pairs: int
    input_ids: Int[Tensor, "rows seq"]
    attention_mask: Int[Tensor, "rows seq"]
    weights: Float[Tensor, "rows seq"]
    numbers: Int[Tensor, " rows"]
    lengths: list[int]
    seed: int

    @classmethod
    def of(
        cls, batch: dict[str, Tensor], seed: int = 0, pooling: Pooling = "mean", skip: int = 0
    ) -> "Sentences":
        """Build from a batch of ``PairCollator``."""
        mask = batch["attention_mask"]
        rows = torch.arange(len(mask), device=mask.device)
        pairs = len(batch["source_keys"])
        side, position = rows // pairs, rows % pairs
        numbers = (side * process_count() + process_rank()) * pairs + position
        weights = pooling_weights(mask, pooling, skip)
        lengths = mask.sum(1).tolist()
        return cls(pairs, batch["input_ids"], mask, weights, numbers, lengths, seed)

    def parts(self, most: int) -> list[list[int]]:
        """Split the rows into parts of nearly equal size and token count, each sorted by length.

        Rows are dealt out in alternating directions. Otherwise the last part would get the longest
        row of every round.
        """
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        number = -(-len(order) // most)
        parts: list[list[int]] = [[] for _ in range(number)]
        for at, row in enumerate(order):
            turn, index = divmod(at, number)
            parts[index if turn % 2 == 0 else -1 - index].append(row)
        return parts


class ContrastiveStep:
    """Encodes sentences with the lower blocks of a model, and backpropagates through them.

    Attributes:
        limit: Maximum number of sentences per forward pass, halved if memory runs out.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: int,
        packing: bool | None = None,
        forward: Forward = run_decoder,
    ) -> None:
        """Speed up the model's LoRA layers, and check whether sentences can be packed.

        Args:
            model: A PEFT model.
            rows: Maximum number of sentences per forward pass.
            packing: Pack sentences; by default, if the model's attention is supported.
            forward: Runs the model up to the layer to align.

        Raises:
            ConfigError: Packing is requested, but the model's attention is not supported.
        """
        self.limit = RowLimit(rows)
        self.forward = forward
        self.dropout: Dropout = speed_up(model)
        decoder = next(m for m in model.modules() if isinstance(m, PreTrainedModel))
        if packing and not can_pack(decoder):
            raise ConfigError(
                f"--packing does not support the attention of {type(decoder).__name__}",
                hint="remove --packing; sentences are then sorted by length and padded",
            )
        self.packed = can_pack(decoder) if packing is None else packing
        self.decoder = decoder

    def vectors(self, model: nn.Module, sentences: Sentences) -> Float[Tensor, "rows hidden"]:
        """Return the pooled vector of every sentence, in float32 or wider."""
        vectors, _ = self.encode(model, sentences)
        return vectors

    def encode(
        self, model: nn.Module, sentences: Sentences, token_loss: TokenLoss | None = None
    ) -> tuple[Float[Tensor, "rows hidden"], Float[Tensor, ""]]:
        """Return the pooled vector of every sentence, and the summed token loss."""
        parts = sentences.parts(self.limit.rows)
        vectors, added = [], []
        for part in parts:
            states = self.states(model, sentences, part)
            vectors.append(self._pooled(states, sentences))
            added.append(token_loss(*states) if token_loss else vectors[-1].new_zeros(()))
        return torch.cat(vectors)[_inverse(parts)], torch.stack(added).sum()

    def backpropagate(
        self,
        model: nn.Module,
        sentences: Sentences,
        loss: Loss,
        backward: Backward,
        no_sync: NoSync = nullcontext,
    ) -> Float[Tensor, ""]:
        """Add the gradient of a contrastive batch to the model, and return the loss.

        Each process has its own pairs. All vectors are compared with each other, and the mean of
        the processes' gradients is the gradient of the loss over all pairs. If memory runs out,
        the sentences go through the model in smaller parts, which changes neither the loss nor
        the gradient.

        Args:
            model: The model to run, wrapped if several processes train it.
            sentences: The pairs of this process.
            loss: The loss, from the sources and targets of all processes.
            backward: Called with scalars whose gradients sum to the gradient of the loss.
            no_sync: Context of all backward passes but the last.

        Raises:
            ResourceError: A single sentence does not fit, or one of several processes runs out of
                memory.
        """
        return self.limit.run(
            len(sentences.lengths),
            lambda _: self._gradient(model, sentences, loss, backward, no_sync),
            _refusal,
            undo=saved_gradients(model) if process_count() == 1 else None,
        )

    def _gradient(
        self,
        model: nn.Module,
        sentences: Sentences,
        loss: Loss,
        backward: Backward,
        no_sync: NoSync,
    ) -> Tensor:
        parts = sentences.parts(self.limit.rows)
        random, added = [], []
        vectors = torch.empty(0)
        # Trim before each graph, loss and backward pass. A single part's holes serve the next step.
        give_back = give_back_memory if len(parts) > 1 else lambda: None
        for part in parts:  # the last part keeps its graph and needs no second pass
            random.append(_random_state())
            if part is parts[-1]:
                give_back()
            with torch.set_grad_enabled(part is parts[-1]):
                states = self.states(model, sentences, part)
                pooled = self._pooled(states, sentences)
                added.append(loss.tokens(*states) if loss.tokens else pooled.new_zeros(()))
            if not len(vectors):
                vectors = pooled.new_empty(len(sentences.lengths), pooled.shape[1])
            vectors[part] = pooled.detach()
        del states
        give_back()
        value, slopes = _loss_and_slopes(loss.pairs, vectors, sentences.pairs)
        del vectors
        after = _random_state()
        for at in reversed(range(len(parts))):
            with nullcontext() if at == 0 else no_sync():
                if at < len(parts) - 1:
                    give_back()
                    _set_random_state(random[at])
                    states = self.states(model, sentences, parts[at])
                    pooled = self._pooled(states, sentences)
                    if loss.tokens:
                        added[at] = loss.tokens(*states)
                    del states
                give_back()
                backward((pooled * slopes[parts[at]]).sum() + added[at])
            pooled = pooled.detach()  # free the graph
            added[at] = added[at].detach()
        _set_random_state(after)
        return value + sum(added)

    def states(
        self, model: nn.Module, sentences: Sentences, chosen: Sequence[int]
    ) -> tuple[PackedRow, Float[Tensor, "tokens hidden"]]:
        """Return the last hidden states of some sentences, concatenated by sentence.

        Args:
            model: The model to run.
            sentences: The batch.
            chosen: Rows of the batch, shortest first.
        """
        row = pack(sentences.input_ids, sentences.attention_mask, chosen, sentences.lengths)
        try:
            if self.packed:
                self._set_keys(sentences, row.batch_rows, row.positions)
                with attention_apart(self.decoder):
                    packed = self.forward(
                        model,
                        input_ids=row.input_ids[None],
                        position_ids=row.positions[None],
                        use_cache=False,
                        groups=row.groups,
                    )
                return row, packed[0]
            buckets = similar_runs([sentences.lengths[at] for at in chosen])
            states = [self._padded_states(model, sentences, chosen[run]) for run in buckets]
            return row, torch.cat(states)
        finally:
            self.dropout.tokens = None

    def _padded_states(
        self, model: nn.Module, sentences: Sentences, chosen: Sequence[int]
    ) -> Float[Tensor, "tokens hidden"]:
        rows = torch.tensor(chosen, device=sentences.input_ids.device)
        mask = sentences.attention_mask[rows]
        used = mask.any(0)
        ids, mask = sentences.input_ids[rows][:, used], mask[:, used]
        positions = mask.cumsum(1) - 1
        self._set_keys(sentences, rows[:, None].expand_as(mask).flatten(), positions.flatten())
        states = self.forward(model, input_ids=ids, attention_mask=mask, use_cache=False)
        return states[mask.bool()]

    def _set_keys(self, sentences: Sentences, rows: Tensor, positions: Tensor) -> None:
        self.dropout.tokens = token_keys(sentences.seed, sentences.numbers[rows], positions)

    @staticmethod
    def _pooled(
        states: tuple[PackedRow, Float[Tensor, "tokens hidden"]], sentences: Sentences
    ) -> Float[Tensor, "chosen hidden"]:
        """Sum each sentence's weighted hidden states with a matrix product."""
        row, values = states
        values = widened(values)
        weights = sentences.weights[row.batch_rows, row.batch_columns].to(values.dtype)
        shares = values.new_zeros(sum(g.sentences for g in row.groups), len(values))
        shares[row.sentences, torch.arange(len(values), device=values.device)] = weights
        return shares @ values


def _refusal(rows: int, error: RuntimeError) -> ResourceError:
    return ResourceError(
        f"not enough memory for a forward pass of {number_of(rows, 'sentence')}",
        hint="lower --micro-batch-size or --max-length",
    )


def _loss_and_slopes(
    objective: Objective, vectors: Float[Tensor, "rows hidden"], pairs: int
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows hidden"]]:
    """Return the loss of all processes' pairs, and its gradient for this process's vectors."""
    vectors.requires_grad_()
    loss = objective(*gathered(vectors[: 2 * pairs]).chunk(2))
    (slopes,) = torch.autograd.grad(loss * process_count(), vectors)
    return loss.detach(), slopes


def gathered(local: Float[Tensor, "rows ..."]) -> Float[Tensor, "all ..."]:
    """Return the rows of all processes: all sources, then all targets.

    Gradient flows to this process's rows only. Every process computes the same loss, so the other
    processes compute the gradients of their own rows.
    """
    if process_count() == 1:
        return local
    everyones = [torch.empty_like(local) for _ in range(process_count())]
    distributed.all_gather(everyones, local.detach().contiguous())
    everyones[process_rank()] = local
    sides = zip(*(rows.chunk(2) for rows in everyones), strict=True)
    return torch.cat([rows for side in sides for rows in side])


def mean_over_processes(number: float, device: torch.device) -> float:
    """Return the mean of a number over all processes."""
    if process_count() == 1:
        return number
    total = torch.tensor(number, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.item() / process_count()


def _inverse(parts: Sequence[Sequence[int]]) -> list[int]:
    """Return the position of each row of the batch among the rows of the parts."""
    order = [row for part in parts for row in part]
    return sorted(range(len(order)), key=order.__getitem__)


def _random_state() -> tuple[Tensor, list[Tensor]]:
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if on_gpu else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])

"""Choose the block to align, and whether pooling skips the first token, before training.

The dev pairs go through the model once. After every block, each sentence is retrieved among the
translations of its language, and the norm of the first token's state is compared with the others'.

The paper aligns the middle block, where Llama 3 and Qwen 2.5 retrieve translations best (figure
1a). Aligning the bottom block, at a quarter of the depth, was worse than any other choice (table
3). Of the blocks above the bottom one that are not significantly worse than the best, the nearest
to the middle is therefore chosen (`choose_block`).
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptermix.files.outputs import whole_output, write_json
from adaptermix.models.blocks import find_blocks, lower_blocks_only, text_decoder
from adaptermix.models.files import layer_index
from adaptermix.models.pooling import pooling_weights, retrieval_hits, widened
from adaptermix.progress import OnProgress, Progress
from adaptermix.settings.training import (
    AlignmentSettings,
    TrainAlignSettings,
    TrainJointSettings,
    TrainSettings,
)
from adaptermix.training.alignment import AlignSettings
from adaptermix.training.batches import EncodedPair, PairCollator
from adaptermix.training.checkpoints import work_folder
from adaptermix.training.contrastive import ContrastiveStep, Sentences
from adaptermix.training.report import TrainingData

S = TypeVar("S", TrainAlignSettings, TrainJointSettings)

SINK = 2.0  # ratio of the first token's norm to the others'; near 1 without a sink
_LEVEL = 0.05  # significance level of the one-sided test, for all blocks together
_PAIRS = 8  # per forward pass, which holds the states of all blocks
_FILE = "layers.json"  # in the work folder of a training run


@dataclass(frozen=True)
class Curve:
    """Measurements of dev pairs after each block of a model.

    Attributes:
        hits: For every block and pair, the share of the two sides that retrieve the other,
            without the tokens that pooling skips.
        hits_without_first: The same without the first token.
        first_token: After every block, the norm of the first token's state relative to the median
            norm of the sentence's other tokens; the median over sentences.
    """

    hits: Float[Tensor, "blocks pairs"]
    hits_without_first: Float[Tensor, "blocks pairs"]
    first_token: list[float]


@dataclass(frozen=True)
class LayerChoice:
    """The chosen block and pooling, with the measurements behind the choice.

    Attributes:
        layer: The layer, as a value of ``--layer``.
        pool_skip: Number of initial tokens that pooling skips.
        accuracy: Retrieval accuracy after every measured block, starting with the first.
        first_token: Relative norm of the first token's state after every block, as in ``Curve``.
        pairs: Number of dev pairs.
        notes: The choice and its reason, or advice on the settings.
    """

    layer: str
    pool_skip: int
    accuracy: list[float]
    first_token: list[float]
    pairs: int
    notes: list[str]

    @property
    def settled_by(self) -> tuple[str, int]:
        """The part of the choice that the training depends on."""
        return self.layer, self.pool_skip

    def settled(self, settings: S) -> S:
        """Return the settings with the choice filled in."""
        return settings.model_copy(update={"layer": self.layer, "pool_skip": self.pool_skip})

    def as_record(self) -> dict[str, Any]:
        """Return the choice as stored in an adapter's record."""
        record = asdict(self)
        del record["notes"]
        return record


def is_measured(settings: TrainSettings) -> bool:
    """Whether the layer or the pooling is ``auto``, that is, measured."""
    if not isinstance(settings, AlignmentSettings):
        return False
    return "auto" in (settings.layer, settings.pool_skip)


def read_choice(folder: Path) -> LayerChoice | None:
    """Return the choice that is stored in a run's folder, or None."""
    path = folder / _FILE
    return LayerChoice(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def known_choice(settings: AlignSettings, shared: Path | None = None) -> LayerChoice | None:
    """Return an earlier choice: of the run to resume, or of the runs that share one."""
    if shared is not None:
        return read_choice(shared)
    return read_choice(work_folder(settings.out)) if settings.resume else None


def write_choice(folder: Path, choice: LayerChoice) -> None:
    """Store a choice in the folder of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_output(folder / _FILE) as partial:
        write_json(partial, asdict(choice))


def measure(
    model: PreTrainedModel,
    settings: AlignSettings,
    data: TrainingData,
    collator: PairCollator,
    on_progress: OnProgress,
) -> Curve:
    """Measure the dev pairs after all blocks of a model.

    Args:
        model: Model without a LoRA: the whole model, or its lower blocks.
        settings: Settings of pooling and packing.
        data: The pairs. Retrieval is within a language pair.
        collator: Collates the pairs.
        on_progress: Called after every batch.
    """
    packing = getattr(settings, "packing", None)
    step = ContrastiveStep(model.eval(), 2 * _PAIRS, packing, forward=_all_blocks)
    skip = 0 if settings.pool_skip == "auto" else settings.pool_skip
    hits: list[list[Tensor]] = [[], []]
    norms: list[Tensor] = []
    done = 0
    for group in _groups(data):
        pooled: list[list[Tensor]] = [[], []]
        keys: list[Tensor] = []
        for start in range(0, len(group), _PAIRS):
            batch = collator(group[start : start + _PAIRS])
            tensors = {name: values.to(model.device) for name, values in batch.items()}
            vectors, ratios = _states(step, model, tensors, settings.pooling, (skip, 1))
            norms.append(ratios)
            keys.append(torch.stack([batch["source_keys"], batch["target_keys"]]))
            for kept, vector in zip(pooled, vectors, strict=True):
                kept.append(vector)
            done += min(_PAIRS, len(group) - start)
            on_progress(Progress("measuring layers", 0, None, f"{done} of {len(data.dev)} pairs"))
        for found, parts in zip(hits, pooled, strict=True):
            found.append(_hits(torch.cat(parts, dim=2), torch.cat(keys, dim=1)))
    first_token = torch.cat(norms, dim=1).nanmedian(dim=1).values.nan_to_num(1.0)
    return Curve(torch.cat(hits[0], 1), torch.cat(hits[1], 1), first_token.tolist())


def _groups(data: TrainingData) -> Iterator[Sequence[EncodedPair]]:
    """Yield the dev pairs of each language pair, which are contiguous."""
    start = 0
    for count in filter(None, data.dev_examples.values()):
        yield data.dev[start : start + count]
        start += count


def _all_blocks(model: nn.Module, **inputs: Any) -> Float[Tensor, "rows seq blocks_hidden"]:
    """Return the concatenated states after all blocks; the last ones precede the final norm."""
    decoder = text_decoder(model)
    with lower_blocks_only(model, len(find_blocks(model))):  # type: ignore[arg-type]
        output = decoder(**inputs, output_hidden_states=True)
    return torch.cat(output.hidden_states[1:], dim=-1)


@torch.no_grad()
def _states(
    step: ContrastiveStep,
    model: PreTrainedModel,
    batch: dict[str, Tensor],
    pooling: Any,
    skips: Sequence[int],
) -> tuple[list[Float[Tensor, "blocks sides pairs hidden"]], Float[Tensor, "blocks sentences"]]:
    """Return a batch's vectors for every value of skip, and the first tokens' relative norms."""
    sentences = Sentences.of(batch)
    rows = 2 * sentences.pairs  # anchor text follows them
    chosen = sorted(range(rows), key=sentences.lengths.__getitem__)
    row, states = step.states(model, sentences, chosen)
    width = text_decoder(model).config.hidden_size
    states = widened(states).unflatten(-1, (-1, width))  # [tokens blocks hidden]
    vectors = []
    for skip in skips:
        weights = pooling_weights(batch["attention_mask"], pooling, skip)
        shares = weights[row.batch_rows, row.batch_columns].to(states.dtype)
        pooled = states.new_zeros(rows, *states.shape[1:])
        pooled.index_add_(0, row.batch_rows, states * shares[:, None, None])
        vectors.append(pooled.unflatten(0, (2, -1)).permute(2, 0, 1, 3).cpu())
    norms = states.norm(dim=-1).cpu()  # [tokens blocks]
    own = [norms[(row.batch_rows == at).cpu()] for at in range(rows)]
    ratios = [
        each[0] / each[1:].median(dim=0).values if len(each) > 1 else each[0] * math.nan
        for each in own
    ]
    return vectors, torch.stack(ratios, dim=1)


def _hits(
    vectors: Float[Tensor, "blocks sides pairs hidden"], keys: Int[Tensor, "sides pairs"]
) -> Float[Tensor, "blocks pairs"]:
    found = []
    for sources, targets in vectors:
        there = retrieval_hits(sources, targets, keys[1]).double()
        found.append((there + retrieval_hits(targets, sources, keys[0])) / 2)
    return torch.stack(found)


def choose(settings: AlignSettings, curve: Curve, depth: int) -> LayerChoice:
    """Choose what is ``auto`` in the settings, and note where the others look wrong.

    Args:
        settings: Settings of the alignment.
        curve: Measurements of all blocks, or of those up to the layer in the settings.
        depth: Number of blocks of the model.
    """
    hits, skips = curve.hits, [settings.pool_skip] * len(curve.hits)
    if settings.pool_skip == "auto":
        skips = [int(ratio >= SINK) for ratio in curve.first_token]
        is_skipped = torch.tensor(skips, dtype=torch.bool)
        hits = torch.where(is_skipped[:, None], curve.hits_without_first, hits)
    accuracy = hits.mean(dim=1).tolist()
    layer, notes = settings.layer, []
    if layer == "auto":
        middle = layer_index("middle", depth)
        block, best = choose_block(hits, middle)
        layer = str(block)
        notes.append(f"--layer auto: {_why(block, best, middle, accuracy)}")
    else:
        block = layer_index(layer, depth)
        if layer == "middle":
            notes += _note_on_middle(hits, depth)
    ratio = curve.first_token[block - 1]
    skip = int(skips[block - 1])
    length = f"after block {block}, its norm is {ratio:.1f} times the norm of the other tokens"
    if settings.pool_skip == "auto":
        told = "left out" if skip else "kept"
        notes.append(f"--pool-skip auto: the first token is {told}: {length}")
    elif not skip and ratio >= SINK and settings.pooling != "last":
        notes.append(f"the first token dominates the mean: {length}; try --pool-skip auto")
    accuracy, norms = _rounded(accuracy), _rounded(curve.first_token)
    return LayerChoice(layer, skip, accuracy, norms, hits.shape[1], notes)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def choose_block(hits: Float[Tensor, "blocks pairs"], middle: int) -> tuple[int, int | None]:
    """Return the block to align and the best block, or None for the best if the curve is flat.

    The candidates are the blocks above the bottom one. Those that are not significantly worse
    than the best count as equally good. Of these, the nearest to the middle is chosen; of two
    equally near, the upper one. The curve is flat if the best is not significantly better than
    any candidate, with a correction for all pairs of candidates.
    """
    candidates = _candidates(len(hits), middle)  # these include the middle
    best = _best(hits, candidates)
    others = len(candidates) - 1
    if not any(_beats(hits, best, block, others * (others + 1) // 2) for block in candidates):
        return middle, None
    good = [block for block in candidates if not _beats(hits, best, block, others)]
    return min(good, key=lambda block: (abs(block - middle), -block)), best


def _best(hits: Float[Tensor, "blocks pairs"], blocks: Sequence[int]) -> int:
    return max(blocks, key=lambda block: hits[block - 1].mean().item())


def _candidates(depth: int, middle: int) -> list[int]:
    return list(range(min(layer_index("bottom", depth) + 1, middle), depth + 1))


def _beats(hits: Float[Tensor, "blocks pairs"], best: int, block: int, tests: int) -> bool:
    """Whether a block retrieves significantly more: a paired z-test, Bonferroni-corrected."""
    gains = (hits[best - 1] - hits[block - 1]).double()
    if len(gains) < 2 or not gains.any():
        return False
    error = gains.std().item() / math.sqrt(len(gains))
    limit = NormalDist().inv_cdf(1 - _LEVEL / max(1, tests))
    return gains.mean().item() > limit * error


def _why(block: int, best: int | None, middle: int, accuracy: Sequence[float]) -> str:
    def told(number: int) -> str:
        return f"block {number} ({accuracy[number - 1]:.1%})"

    if best is None:
        return (
            f"chose the middle, {told(block)}: retrieval of dev pairs is flat, and no block is "
            "significantly better"
        )
    if block == middle:
        return (
            f"chose the middle, {told(block)}: no block is significantly better, not even "
            f"{told(best)}"
        )
    also = "" if block == best else f" of those not significantly worse than {told(best)}"
    return (
        f"chose {told(block)}, the closest to the middle{also}; the middle, {told(middle)}, is "
        "significantly worse"
    )


def _note_on_middle(hits: Float[Tensor, "blocks pairs"], depth: int) -> list[str]:
    """Return a note if a measured block is significantly better than the middle one."""
    middle = layer_index("middle", depth)
    candidates = _candidates(depth, middle)[: len(hits) - depth or None]  # may lack upper ones
    best = _best(hits, candidates)
    if not _beats(hits, best, middle, len(candidates) - 1):
        return []
    return [
        f"retrieval accuracy of dev pairs is {hits[best - 1].mean():.1%} after block {best}, "
        f"and {hits[middle - 1].mean():.1%} after the middle block, {middle}; try --layer auto"
    ]

"""Which block is aligned, and whether its first token counts: measured before training starts.

The dev pairs go through the model once. After every block, each sentence is retrieved among the
translations of its language, and the state of the first token is compared with the others'.

The paper aligns the middle block, where Llama 3 and Qwen 2.5 retrieve translations best (figure
1a), and aligning the bottom one, at a quarter of the depth, was worse than any other choice (table
3). So the block that is chosen is the nearest to the middle of those, above the bottom one, that
are not worse than the best by more than chance (`choose_block`).
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptermix.files.outputs import whole_output, write_json
from adaptermix.models.blocks import lower_blocks_only, text_decoder
from adaptermix.models.files import layer_index
from adaptermix.models.pooling import cosine_similarities, pooling_weights, widened
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

SINK = 2.0  # times the norm of other tokens; without a sink, the ratio is near 1
_LEVEL = 0.05  # of the one-sided test, for all blocks together
_PAIRS = 8  # in one forward pass, whose states of all blocks are held
_FILE = "layers.json"  # in the folder of a training


@dataclass(frozen=True)
class Curve:
    """What a model makes of pairs after each of its blocks.

    Attributes:
        hits: For every block and pair, how many of its two sides find the other, halved; without
            the tokens that pooling skips.
        hits_without_first: The same without the first token.
        first_token: After every block, the norm of the first token's state relative to the median
            of the others', in the median sentence.
    """

    hits: Float[Tensor, "blocks pairs"]
    hits_without_first: Float[Tensor, "blocks pairs"]
    first_token: list[float]


@dataclass(frozen=True)
class LayerChoice:
    """The block to align and the pooling, with what they were chosen by.

    Attributes:
        layer: As ``--layer`` takes it.
        pool_skip: Tokens to leave out.
        accuracy: Retrieval accuracy after every block that was measured, from the first.
        first_token: Norm of the first token's state after every block, as in ``Curve``.
        pairs: Number of dev pairs.
        notes: What was chosen and why, or what the settings should perhaps be.
    """

    layer: str
    pool_skip: int
    accuracy: list[float]
    first_token: list[float]
    pairs: int
    notes: list[str]

    @property
    def settled_by(self) -> tuple[str, int]:
        """What the training depends on."""
        return self.layer, self.pool_skip

    def settled(self, settings: S) -> S:
        """Return the settings with what was chosen in them."""
        return settings.model_copy(update={"layer": self.layer, "pool_skip": self.pool_skip})

    def as_record(self) -> dict[str, Any]:
        """Return what the record of an adapter holds of the choice."""
        record = asdict(self)
        del record["notes"]
        return record


def is_measured(settings: TrainSettings) -> bool:
    """Whether the settings leave the layer or the pooling to a measurement."""
    if not isinstance(settings, AlignmentSettings):
        return False
    return "auto" in (settings.layer, settings.pool_skip)


def read_choice(folder: Path) -> LayerChoice | None:
    """Return the choice that a run has made before, if it has."""
    path = folder / _FILE
    return LayerChoice(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def known_choice(settings: AlignSettings, shared: Path | None = None) -> LayerChoice | None:
    """Return the choice that was made before: by the run to resume, or for all that share one."""
    if shared is not None:
        return read_choice(shared)
    return read_choice(work_folder(settings.out)) if settings.resume else None


def write_choice(folder: Path, choice: LayerChoice) -> None:
    """Keep a choice in the folder of a run."""
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
    """Run the dev pairs through all blocks that a model has.

    Args:
        model: Without a LoRA; a whole one, or its lower blocks.
        settings: Pooling and packing.
        data: The pairs. Translations are looked for among those of their languages.
        collator: Makes a batch of pairs.
        on_progress: Told after every batch.
    """
    packing = getattr(settings, "packing", None)
    step = ContrastiveStep(model.eval(), 2 * _PAIRS, packing, forward=_all_blocks)
    skip = 0 if settings.pool_skip == "auto" else settings.pool_skip
    hits: list[list[Tensor]] = [[], []]
    norms: list[Tensor] = []
    done = 0
    for group in _groups(data):
        pooled: list[list[Tensor]] = [[], []]
        for start in range(0, len(group), _PAIRS):
            batch = collator(group[start : start + _PAIRS])
            tensors = {name: values.to(model.device) for name, values in batch.items()}
            vectors, ratios = _states(step, model, tensors, settings.pooling, (skip, 1))
            norms.append(ratios)
            for kept, vector in zip(pooled, vectors, strict=True):
                kept.append(vector)
            done += min(_PAIRS, len(group) - start)
            on_progress(Progress("measuring layers", 0, None, f"{done} of {len(data.dev)} pairs"))
        for found, parts in zip(hits, pooled, strict=True):
            found.append(_hits(torch.cat(parts, dim=2)))
    first_token = torch.cat(norms, dim=1).nanmedian(dim=1).values.nan_to_num(1.0)
    return Curve(torch.cat(hits[0], 1), torch.cat(hits[1], 1), first_token.tolist())


def _groups(data: TrainingData) -> Iterator[Sequence[EncodedPair]]:
    """Yield the dev pairs of each two languages, which follow each other."""
    start = 0
    for count in filter(None, data.dev_examples.values()):
        yield data.dev[start : start + count]
        start += count


def _all_blocks(model: nn.Module, **inputs: Any) -> Float[Tensor, "rows seq blocks_hidden"]:
    """Return the states after all blocks, side by side; the last one before the final norm."""
    decoder = text_decoder(model)
    with lower_blocks_only(model, len(decoder.layers)):  # type: ignore[arg-type]
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
    """Return the vectors of a batch for every way to skip, and the first tokens' relative norms."""
    sentences = Sentences.of(batch)
    rows = 2 * sentences.pairs  # anchor text comes after them
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


def _hits(vectors: Float[Tensor, "blocks sides pairs hidden"]) -> Float[Tensor, "blocks pairs"]:
    found = []
    for sources, targets in vectors:
        cosines = cosine_similarities(sources, targets)
        own = torch.arange(len(cosines))
        found.append(((cosines.argmax(1) == own).double() + (cosines.argmax(0) == own)) / 2)
    return torch.stack(found)


def choose(settings: AlignSettings, curve: Curve, depth: int) -> LayerChoice:
    """Choose what the settings leave open, and say where they look wrong for the model.

    Args:
        settings: Of the alignment.
        curve: Of all blocks of the model, or of those up to the one that the settings name.
        depth: Blocks of the model.
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
    length = f"the state of the first token after block {block} is {ratio:.1f} times as long as "
    if settings.pool_skip == "auto":
        told = "left out" if skip else "kept"
        notes.append(f"--pool-skip auto: the first token is {told}: {length}the others'")
    elif not skip and ratio >= SINK and settings.pooling != "last":
        notes.append(f"{length}the others', and hides them in the mean: see --pool-skip auto")
    accuracy, norms = _rounded(accuracy), _rounded(curve.first_token)
    return LayerChoice(layer, skip, accuracy, norms, hits.shape[1], notes)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def choose_block(hits: Float[Tensor, "blocks pairs"], middle: int) -> tuple[int, int | None]:
    """Return the number of the block to align, and of the best one; None where the curve is flat.

    Of the blocks above the bottom one, those that the best does not beat by more than chance are
    as good as it; of these, the nearest to the middle is taken, and of two the upper one. The
    curve is flat where the best beats none of them, whichever two are compared.
    """
    candidates = _candidates(len(hits), middle)  # the middle among them
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
    """Whether a block retrieves more than another: a paired test, with Bonferroni's correction."""
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
            f"the middle, {told(block)}, is aligned: retrieval of dev pairs is flat, no block is "
            "better by more than chance"
        )
    if block == middle:
        return f"the middle, {told(block)}, is aligned: it retrieves as well as {told(best)}"
    also = "" if block == best else f", of those as good as {told(best)}"
    return (
        f"{told(block)} is aligned, the nearest to the middle{also}; the middle, {told(middle)}, "
        "retrieves less"
    )


def _note_on_middle(hits: Float[Tensor, "blocks pairs"], depth: int) -> list[str]:
    """Say that a block which was measured is clearly better than the middle one."""
    middle = layer_index("middle", depth)
    candidates = _candidates(depth, middle)[: len(hits) - depth or None]  # upper ones may lack
    best = _best(hits, candidates)
    if not _beats(hits, best, middle, len(candidates) - 1):
        return []
    return [
        f"dev pairs find each other after block {best} in {hits[best - 1].mean():.1%}, after the "
        f"middle one, {middle}, in {hits[middle - 1].mean():.1%}: see --layer auto"
    ]

"""Align tokens instead of sentence vectors, for comparison with `adaptermix train-align`.

    python examples/gemma/align_tokens.py MODEL PAIRS_DIR OUT PAIR... [--layer N] [--limit N]

A sentence vector says nothing about single words, and slots are words. Here the similarity of two
sentences is the mean over the tokens of one of their largest cosine with a token of the other (late
interaction: Khattab & Zaharia 2020, arXiv:2004.12832), averaged over both directions. Everything
else is as in `train-align`: the contrastive loss, the LoRA, the optimizer and its schedule, and the
initial token that is left out. OUT is an adapter folder as PEFT writes it.
"""

import argparse
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_scheduler,
)

from adaptermix.data.pairs import PairPlace, read_clean_pairs
from adaptermix.settings.training import ATTENTION_AND_MLP

TEMPERATURE = 0.1
SKIP = 1  # BOS is an attention sink in this model
Pair = tuple[str, str]


def main() -> None:
    """Train the adapter, and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("pairs", nargs="+")
    parser.add_argument("--layer", type=int, default=11)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.out.exists():
        raise SystemExit(f"error: {given.out} exists; name another folder")
    torch.manual_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    tokenizer.padding_side = "right"
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=list(ATTENTION_AND_MLP))
    cut_after(model, given.layer)
    adapted = get_peft_model(model, lora)
    pairs = [row for pair in given.pairs for row in read(pair, given.pairs_dir, given.limit)]
    batches = list(batched(pairs, given))
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=given.lr, weight_decay=0)
    warmup = max(1, round(0.03 * len(batches)))
    schedule = get_scheduler("inverse_sqrt", optimizer, warmup)
    adapted.train()
    for number, batch in enumerate(batches, start=1):
        sides = [token_vectors(model, tokenizer, texts) for texts in zip(*batch, strict=True)]
        logits = late_interaction(*sides[0], *sides[1]) / TEMPERATURE
        loss = functional.cross_entropy(logits, torch.arange(len(batch)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(f"step {number}/{len(batches)}: loss {loss.item():.3f}", flush=True)
    adapted.save_pretrained(given.out)


def cut_after(model: PreTrainedModel, layer: int) -> None:
    """Remove the blocks above a layer and the final norm, whose outputs the loss does not read."""
    model.model.layers = model.model.layers[:layer]
    model.model.norm = torch.nn.Identity()
    model.config.num_hidden_layers = layer


def read(pair: str, folder: Path, limit: int) -> list[Pair]:
    """Return the first clean pairs of a language."""
    clean = read_clean_pairs(
        pair, PairPlace(folder), several_sentences=False, check_script=True
    ).kept
    return [(row.source, row.target) for row in islice(clean, limit)]


def batched(pairs: list[Pair], given: argparse.Namespace) -> Iterator[list[Pair]]:
    """Yield the batches of all epochs, each epoch in another order, without incomplete batches."""
    rng = random.Random(given.seed)
    for _ in range(given.epochs):
        rng.shuffle(pairs)
        for at in range(0, len(pairs) - given.batch_size + 1, given.batch_size):
            yield pairs[at : at + given.batch_size]


def token_vectors(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Return the normalized hidden states [batch seq hidden], and the mask of the real tokens."""
    batch = tokenizer(list(texts), return_tensors="pt", padding=True)
    states = model.model(**batch, use_cache=False).last_hidden_state
    mask = batch["attention_mask"].bool()
    mask[:, :SKIP] = False
    return functional.normalize(states.float(), dim=-1), mask


def late_interaction(
    sources: Tensor, source_mask: Tensor, targets: Tensor, target_mask: Tensor
) -> Tensor:
    """Return the similarity of every source with every target, [sources targets].

    Args:
        sources: Normalized token vectors, [batch seq hidden].
        source_mask: True for the tokens that count; at least one per sentence.
        targets: The same for the targets.
        target_mask: The same for the targets.
    """
    cosines = torch.einsum("ish,jth->ijst", sources, targets)
    both = source_mask[:, None, :, None] & target_mask[None, :, None, :]
    cosines = cosines.masked_fill(~both, -2)
    forward = masked_mean(cosines.amax(dim=3), source_mask[:, None])
    backward = masked_mean(cosines.amax(dim=2), target_mask[None])
    return (forward + backward) / 2


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the last dimension of the values where the mask is true."""
    return (values * mask).sum(dim=-1) / mask.sum(dim=-1)


if __name__ == "__main__":
    main()

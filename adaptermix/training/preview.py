"""The first training examples as the model reads them, with the trained tokens marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from adaptermix.tables import Cell, Line, number_of, printable
from adaptermix.training.batches import IGNORED, EncodedExample, EncodedPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adaptermix.settings.training import AlignmentSettings

COUNT = 3
_MOST = 1200  # maximum number of characters shown per stretch of text


@dataclass(frozen=True)
class Previewed:
    """An example, or one side of a sentence pair.

    Attributes:
        name: Origin of the example.
        side: Side of the pair, or None.
        tokens: Texts of the tokens; concatenated, they are the full text. If several tokens make
            one character, the last of them has it.
        trained: 1 for each token with a label or, in a pair, for each token in the sentence vector.
    """

    name: str
    side: Literal["source", "target"] | None
    tokens: list[str]
    trained: list[int]


def preview(
    rows: Sequence[EncodedExample | EncodedPair],
    tokenizer: PreTrainedTokenizerBase,
    settings: AlignmentSettings | None = None,
) -> list[Previewed]:
    """Return the first rows with different names.

    Args:
        rows: Training rows.
        tokenizer: Tokenizer of the rows.
        settings: Settings that determine which tokens of a sentence are pooled.
    """
    first = list({row.name: row for row in reversed(rows[: 10 * COUNT])}.values())[::-1][:COUNT]
    return [shown for row in first for shown in _previewed(row, tokenizer, settings)]


def _previewed(
    row: EncodedExample | EncodedPair,
    tokenizer: PreTrainedTokenizerBase,
    settings: AlignmentSettings | None,
) -> Iterator[Previewed]:
    if isinstance(row, EncodedExample):
        trained = [int(label != IGNORED) for label in row.labels]
        yield Previewed(row.name, None, token_texts(row.input_ids, tokenizer), trained)
        return
    pooled = (_pooled(len(ids), settings) for ids in (row.source_ids, row.target_ids))
    yield Previewed(row.name, "source", token_texts(row.source_ids, tokenizer), next(pooled))
    yield Previewed(row.name, "target", token_texts(row.target_ids, tokenizer), next(pooled))


def _pooled(count: int, settings: AlignmentSettings | None) -> list[int]:
    """Return 1 for each token in a sentence's vector, as far as the settings determine it."""
    if settings is not None and settings.pooling == "last":
        return [0] * (count - 1) + [1]
    skipped = settings.pool_skip if settings is not None else 0
    left_out = min(skipped if isinstance(skipped, int) else 0, count - 1)
    return [0] * left_out + [1] * (count - left_out)


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Return the text that each token adds to the text before it.

    A token is decoded together with the tokens just before it, because some tokenizers write a
    space or a split character only in context.
    """

    def decoded(first: int, end: int) -> str:
        return str(tokenizer.decode(list(ids[first:end]), clean_up_tokenization_spaces=False))

    texts = [""] * len(ids)
    start = read = 0  # tokens from start to read are decoded already
    for at in range(1, len(ids) + 1):
        before, now = decoded(start, read), decoded(start, at)
        is_whole = not now.endswith("\N{REPLACEMENT CHARACTER}") or at == len(ids)
        if is_whole and len(now) > len(before):
            texts[at - 1] = now[len(before) :]
            start, read = read, at
    return texts


def preview_lines(examples: Sequence[Previewed]) -> list[Line]:
    """Return the lines to print: for each example, a heading and its text."""
    lines: list[Line] = []
    for example in examples:
        count, trained = len(example.tokens), sum(example.trained)
        what = "in the sentence vector" if example.side else "trained"
        name = " ".join(filter(None, (example.name, example.side)))
        heading = Cell(f"{name}: {number_of(count, 'token')}, {trained:,} {what}", look="strong")
        stretches = groupby(zip(example.tokens, example.trained, strict=True), key=lambda t: t[1])
        parts = [("".join(text for text, _ in tokens), is_on) for is_on, tokens in stretches]
        lines += [
            "",
            heading,
            tuple(Cell(_cut(printable(t)), look="trained" if on else "") for t, on in parts if t),
        ]
    return lines


def _cut(text: str) -> str:
    """Return a text, without its middle if it is long."""
    if len(text) <= _MOST:
        return text
    half = _MOST // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"

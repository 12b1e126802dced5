"""Print the cost of the paper's experiments, as in README.md: calculated from shapes, not measured.

    python examples/paper/costs.py

Per token, a frozen weight costs 2 FLOPs forward and 2 for the gradient of its input. Logits are
computed only for answer tokens. Attention scores and LoRA are ignored: below 1% at these lengths.
Sentences are assumed to have the lengths below.
"""

from collections.abc import Iterator
from dataclasses import dataclass

PEAK = 312e12  # FLOP/s of an A100 in bfloat16, without sparsity
USED = 0.4  # share of it for many tokens at once: trainings, prompts, retrieval
DECODING = 0.1  # share of it for decoding token by token
SLOT_PROMPT, SLOT_ANSWER = 110, 10  # tokens; mostly the system prompt of the authors' code
TATOEBA, NEWS, FLORES = 16, 40, 45  # tokens per sentence
MT_PROMPT = 25  # tokens of the prompt without the sentence
EPOCHS = 5


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, from its config."""

    blocks: int
    width: int
    keys: int  # width of keys, and of values
    inner: int
    vocabulary: int

    @property
    def block(self) -> int:
        """Number of weights in the linear layers of a block."""
        return self.width * (2 * self.width + 2 * self.keys + 3 * self.inner)

    @property
    def head(self) -> int:
        """Number of weights in the LM head."""
        return self.width * self.vocabulary

    def trained(self, tokens: int, answers: int = 0, blocks: int | None = None) -> float:
        """Return the FLOPs of training on a number of tokens, some of them answer tokens."""
        through = self.blocks if blocks is None else blocks
        return 4.0 * (tokens * through * self.block + answers * self.head)

    def read(self, tokens: int, answers: int = 0) -> float:
        """Return the FLOPs of a forward pass over ``tokens``, with logits for ``answers``."""
        return 2.0 * (tokens * self.blocks * self.block + answers * self.head)


LLAMA = Shape(32, 4096, 1024, 14336, 128256)
QWEN = Shape(28, 3584, 512, 18944, 152064)


def rows(shape: Shape) -> Iterator[tuple[str, str, float, float]]:
    """Yield the name, size, FLOPs and seconds of each experiment."""
    middle = shape.blocks // 2
    slots, mt = 5 * 11_514 * EPOCHS, 117_404 * EPOCHS
    task = shape.trained(slots * (SLOT_PROMPT + SLOT_ANSWER), slots * SLOT_ANSWER)
    yield _row("slot filling adapter", f"{slots:,} examples", task)
    joint = task + shape.trained(2 * slots * TATOEBA, blocks=middle)
    yield _row("slot filling, joint with alignment", "and as many pairs", joint)
    task = shape.trained(mt * (MT_PROMPT + 2 * NEWS), mt * NEWS)
    yield _row("translation adapter", f"{mt:,} examples", task)
    joint = task + shape.trained(2 * mt * NEWS, blocks=middle)
    yield _row("translation, joint with alignment", "and as many pairs", joint)
    align = shape.trained(2 * 100_000 * TATOEBA, blocks=middle)
    yield _row("alignment alone", "a pass over 100,000 pairs", align)
    asked, told = 20 * 2_974 * SLOT_PROMPT, 20 * 2_974 * SLOT_ANSWER
    yield _row("slot filling test", "59,480 answers", shape.read(asked), shape.read(told, told))
    asked, told = 31_000 * (MT_PROMPT + NEWS), 31_000 * NEWS
    yield _row("translation test", "31,000 answers", shape.read(asked), shape.read(told, told))
    yield _row("retrieval, 35 languages", "34,895 sentences", shape.read(35 * 997 * FLORES))


def _row(name: str, size: str, many: float, single: float = 0.0) -> tuple[str, str, float, float]:
    """Return a row; decoding single tokens achieves fewer FLOP/s."""
    return name, size, many + single, many / PEAK / USED + single / PEAK / DECODING


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| one seed, one system | at most | Llama 3 8B, PFLOP | time | Qwen 2.5 7B, PFLOP | time |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for llama, qwen in zip(rows(LLAMA), rows(QWEN), strict=True):
        costs = (f"{flops / 1e15:,.0f} | {_time(seconds)}" for *_, flops, seconds in (llama, qwen))
        lines.append(f"| {llama[0]} | {llama[1]} | {' | '.join(costs)} |")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"


if __name__ == "__main__":
    print(table())

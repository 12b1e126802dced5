"""Print the cost of the paper's experiments, as in README.md: calculated from shapes, not measured.

    python examples/paper/costs.py

``adaptermix run RECIPE --dry-run`` estimates the same for local data. Here, sentences are assumed
to have the lengths below.
"""

from collections.abc import Iterator

from adaptermix.recipes.compute import Shape, Work, shown_hours

SLOT_PROMPT, SLOT_ANSWER = 110, 10  # tokens; mostly the system prompt of the authors' code
TATOEBA, NEWS, FLORES = 16, 40, 45  # tokens per sentence
MT_PROMPT = 25  # tokens of the prompt without the sentence
EPOCHS = 5


def _shape(blocks: int, width: int, keys: int, inner: int, vocabulary: int) -> Shape:
    """Return the shape of a model; ``keys`` is the width of keys, and of values."""
    return Shape(blocks, width * (2 * width + 2 * keys + 3 * inner), width * vocabulary)


LLAMA = _shape(32, 4096, 1024, 14336, 128256)
QWEN = _shape(28, 3584, 512, 18944, 152064)


def rows(shape: Shape) -> Iterator[tuple[str, str, Work]]:
    """Yield the name, size and work of each experiment."""
    middle = shape.blocks // 2
    slots, mt = 5 * 11_514 * EPOCHS, 117_404 * EPOCHS
    task = shape.trained(slots * (SLOT_PROMPT + SLOT_ANSWER), slots * SLOT_ANSWER)
    yield "slot filling adapter", f"{slots:,} examples", Work(task)
    joint = task + shape.trained(2 * slots * TATOEBA, blocks=middle)
    yield "slot filling, joint with alignment", "and as many pairs", Work(joint)
    task = shape.trained(mt * (MT_PROMPT + 2 * NEWS), mt * NEWS)
    yield "translation adapter", f"{mt:,} examples", Work(task)
    joint = task + shape.trained(2 * mt * NEWS, blocks=middle)
    yield "translation, joint with alignment", "and as many pairs", Work(joint)
    align = shape.trained(2 * 100_000 * TATOEBA, blocks=middle)
    yield "alignment alone", "a pass over 100,000 pairs", Work(align)
    asked, told = 20 * 2_974 * SLOT_PROMPT, 20 * 2_974 * SLOT_ANSWER
    test = Work(shape.read(asked), shape.read(told, told))
    yield "slot filling test", "59,480 answers", test
    asked, told = 31_000 * (MT_PROMPT + NEWS), 31_000 * NEWS
    yield "translation test", "31,000 answers", Work(shape.read(asked), shape.read(told, told))
    yield "retrieval, 35 languages", "34,895 sentences", Work(shape.read(35 * 997 * FLORES))


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| one seed, one system | at most | Llama 3 8B, PFLOP | time | Qwen 2.5 7B, PFLOP | time |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for llama, qwen in zip(rows(LLAMA), rows(QWEN), strict=True):
        works = [work for *_, work in (llama, qwen)]
        costs = (f"{work.flops / 1e15:,.0f} | {shown_hours(work.hours)}" for work in works)
        lines.append(f"| {llama[0]} | {llama[1]} | {' | '.join(costs)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

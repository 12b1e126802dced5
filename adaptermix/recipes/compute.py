"""Estimated cost of a recipe's steps: FLOPs from the model's config, and hours on a GPU.

Per token, a frozen weight costs 2 FLOPs forward and 2 for the gradient of its input; it has no
gradient of its own. Logits are computed only for answer tokens, and alignment runs the blocks up to
its layer. Attention scores and LoRA are ignored: each adds less than 1% for sentences and models
with billions of weights.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.commands import examples
from adaptermix.models.files import config_parts, layer_index
from adaptermix.settings.shared import harness_tasks

PEAK = 312e12  # FLOP/s of an A100 in bfloat16, without sparsity
USED = 0.4  # share of the peak for many tokens at once: training, prompts, retrieval
DECODING = 0.1  # share of the peak for decoding token by token
BYTES = 4  # bytes of text per token; the core has no tokenizer
ASSUMED = (
    "FLOPs are estimated from the model's config, with 4 bytes of text per token; hours are for an "
    "A100 (312 TFLOP/s) at 40%, and at 10% for decoding; training may stop early"
)
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")


@dataclass(frozen=True)
class Work:
    """Floating-point operations.

    Attributes:
        many: FLOPs for many tokens at once.
        single: FLOPs for decoding token by token.
    """

    many: float
    single: float = 0.0

    @property
    def flops(self) -> float:
        """Total number of FLOPs."""
        return self.many + self.single

    @property
    def hours(self) -> float:
        """Time under the assumptions in ``ASSUMED``."""
        return (self.many / USED + self.single / DECODING) / PEAK / 3600


@dataclass(frozen=True)
class Shape:
    """The sizes of a model with gated feed-forward layers and no experts.

    Attributes:
        blocks: Number of blocks.
        block: Number of weights in the linear layers of a block.
        head: Number of weights in the LM head.
    """

    blocks: int
    block: int
    head: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape | None":
        """Return the shape of a model from its ``config.json``; None for other kinds of models."""
        found = config_parts(config)[0]
        if any(found.get(name) for name in _EXPERTS):
            return None
        sizes = [found.get(name) for name in (*_SIZES, "vocab_size")]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            return None
        blocks, width, heads, inner, vocabulary = (int(size or 0) for size in sizes)
        of_head = found.get("head_dim") or width // heads
        both = heads + (found.get("num_key_value_heads") or heads)  # queries, and keys or values
        return cls(blocks, width * (2 * both * of_head + 3 * inner), width * vocabulary)

    def trained(self, tokens: float, answers: float = 0, blocks: int | None = None) -> float:
        """Return the FLOPs of training on a number of tokens, some of them answer tokens."""
        through = self.blocks if blocks is None else blocks
        return 4.0 * (tokens * through * self.block + answers * self.head)

    def read(self, tokens: float, answers: float = 0) -> float:
        """Return the FLOPs of a forward pass over ``tokens``, with logits for ``answers``."""
        return 2.0 * (tokens * self.blocks * self.block + answers * self.head)


def shown_flops(flops: float) -> str:
    """Format FLOPs with a unit that fits."""
    for unit, factor in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if flops >= factor:
            return f"{flops / factor:,.0f} {unit}"
    return "under 1 GFLOP"


def shown_hours(hours: float) -> str:
    """Format a time in hours, or in minutes if it is shorter."""
    if hours < 1 / 60:
        return "under 1 min"
    return f"{hours:.1f} h" if hours >= 1 else f"{round(hours * 60)} min"


def work_of(command: str, settings: Any, known: Mapping[str, Any]) -> Work | None:
    """Return the work of a step; None if the model's shape or the texts are unknown.

    Args:
        command: Name of the step's command.
        settings: The command's settings.
        known: Size of the step in the plan: examples, planned steps, answers.
    """
    is_counted = known.get("examples") and getattr(settings, "chat", None) is None
    is_harness = bool(harness_tasks(getattr(settings, "task", None)))  # texts unknown
    shape = _shape(settings) if is_counted and not is_harness else None
    if shape is None:
        return None
    if command.startswith("train-"):
        return Work(_trained(command, settings, shape, known))
    if command == "retrieval":
        systems = len(settings.adapters) + (not settings.exclude_base)
        texts = systems * sum(known["examples"].values())
        return Work(shape.read(texts * _tokens(examples.first_sentences(settings))))
    if answers := known.get("answers"):
        asked, told = _asked_and_told(settings, known, getattr(settings, "split", "dev"))
        return Work(shape.read(answers * asked), shape.read(answers * told, answers * told))
    return None


def _trained(command: str, settings: Any, shape: Shape, known: Mapping[str, Any]) -> float:
    rows, flops = known["planned_steps"] * settings.batch_size, 0.0
    if command == "train-joint":
        rows /= 2  # half of them are pairs
    if command != "train-align":
        asked, told = _asked_and_told(settings, known, "train")
        again = 1.5 if getattr(settings, "gradient_checkpointing", False) else 1.0
        flops += again * shape.trained(rows * (asked + told), rows * told)
    if command != "train-task":
        layer = "middle" if settings.layer == "auto" else settings.layer
        pairs = examples.first_pairs(settings)
        tokens = 2 * _tokens(side for pair in pairs for side in (pair.source, pair.target))
        again = 1 + _forward_again(settings) / 2  # a forward pass is half of a pass in training
        flops += again * shape.trained(rows * tokens, blocks=layer_index(layer, shape.blocks))
    return flops


def _forward_again(settings: Any) -> float:
    """Return the number of forward passes of an alignment without a gradient.

    All parts of a contrastive batch but the last run twice, and ``--preserve`` runs the base model.
    """
    size: int = settings.contrastive_batch
    parts = -(-size // (getattr(settings, "micro_batch_size", None) or size))
    return 1 - 1 / float(parts) + bool(getattr(settings, "preserve", 0.0))


def _asked_and_told(settings: Any, known: Mapping[str, Any], split: str) -> tuple[float, float]:
    """Return the mean number of tokens of a prompt and of an answer."""
    langs = [lang for lang in settings.langs if known["examples"].get(lang)]
    task, rows = examples.first_of_task(settings, langs, split)
    asked = ("".join(str(m["content"]) for m in task.messages(row)) for row in rows)
    return _tokens(asked), _tokens(task.answer(row) for row in rows)


def _tokens(texts: Iterable[str]) -> float:
    sizes = [len(text.encode("utf-8", "replace")) for text in texts]
    return sum(sizes) / BYTES / max(len(sizes), 1)


def _shape(settings: Any) -> Shape | None:
    """Return the shape of a model in a local folder or in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, revision = getattr(settings, "model", None), getattr(settings, "revision", None)
    path: Any = Path(str(name)) / "config.json"
    if not path.is_file():
        try:
            path = try_to_load_from_cache(str(name), "config.json", revision=revision)
        except HFValidationError:
            return None
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # missing, or malformed: the step itself reports that
        return None
    return Shape.of(config) if isinstance(config, dict) else None

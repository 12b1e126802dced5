"""Settings of the training commands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from adaptermix.settings.paper import ATTENTION_AND_MLP
from adaptermix.settings.shared import (
    ModelSettings,
    PromptSettings,
    Settings,
    notes_on_languages,
    notes_on_unused_keys,
)
from adaptermix.settings.values import (
    Alphas,
    Columns,
    DataPlace,
    Layer,
    Layers,
    Names,
    PoolSkip,
    Ranks,
    Seed,
    Temperatures,
    Trackers,
    WeightedAdapters,
)


class TrainSettings(ModelSettings):
    """Settings that all training runs share."""

    panel: ClassVar[str | None] = "LoRA and training"

    rank: int = Field(default=8, gt=0, description="LoRA rank.")
    alpha: float = Field(default=16.0, gt=0, description="LoRA alpha; the scaling is alpha / rank.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="LoRA dropout probability.")
    target_modules: Names = Field(
        default=ATTENTION_AND_MLP,
        description="Linear layers that get a LoRA, comma-separated; all-linear selects all of "
        "them. If the model has none of the default layers, the default for its "
        "architecture is used.",
    )
    target_parameters: Names = Field(
        default=(),
        description="Parameters that get a LoRA although they are not linear layers, such as the "
        "fused experts mlp.experts.gate_up_proj and mlp.experts.down_proj. Requires "
        "--dropout 0.",
    )
    use_rslora: bool = Field(
        default=False, description="Use rsLoRA: the scaling is alpha / sqrt(rank)."
    )
    rank_pattern: Ranks = Field(
        default={}, description="Ranks of individual modules, such as down_proj=16,3.mlp.up_proj=4."
    )
    alpha_pattern: Alphas = Field(
        default={}, description="Alphas of individual modules, such as down_proj=32."
    )
    layers_to_transform: Layers = Field(
        default=(), description="Blocks that get a LoRA, such as 0-15,20. Default: all."
    )
    on: WeightedAdapters = Field(
        default=(),
        description="Adapters to train on top of: they are added to the base model and "
        "frozen. Comma-separated; ADAPTER=0.5 sets the weight (default 1).",
    )
    quantize: Literal["nf4"] | None = Field(
        default=None, description="Store the base model in 4 bits (bitsandbytes)."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        default=None,
        description="Attention implementation of the base model. Default: the one that "
        "transformers chooses, or eager for Gemma 2. If it is set, alignment does not pack "
        "sentences.",
    )
    lr: float = Field(default=5e-4, gt=0, description="Peak learning rate.")
    schedule: Literal["inverse_sqrt", "linear", "cosine", "constant_with_warmup"] = Field(
        default="inverse_sqrt", description="Learning rate schedule."
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, lt=1, description="Fraction of the steps used for warm-up."
    )
    batch_size: int = Field(
        default=128, gt=0, description="Examples per optimizer step (the effective batch size)."
    )
    epochs: float = Field(default=5.0, gt=0, description="Maximum number of passes over the data.")
    max_steps: int | None = Field(
        default=None, gt=0, description="Maximum number of optimizer steps; overrides --epochs."
    )
    eval_steps: int = Field(
        default=200, gt=0, description="Optimizer steps between evaluations on dev data."
    )
    patience: int = Field(
        default=5, gt=0, description="Stop after this many evaluations without improvement."
    )
    max_length: int = Field(default=2048, gt=1, description="Maximum sequence length, in tokens.")
    seed: Seed = Field(default=1, ge=0, description="Random seed.")
    workers: int = Field(
        default=0,
        ge=0,
        description="Number of processes that prepare batches. The result does not depend on it.",
    )
    tensorboard: bool = Field(default=False, description="Also write TensorBoard logs.")
    report_to: Trackers = Field(
        default=(),
        description="Also send the log to these trackers, comma-separated: wandb, mlflow, "
        "trackio, tensorboard.",
    )
    resume: bool = Field(
        default=False, description="Continue an interrupted run from its last checkpoint."
    )
    out: Path = Field(
        default=Path("adapter.safetensors"),
        description="Adapter to write: a .safetensors file, or a new PEFT folder.",
    )

    @classmethod
    def without_effect(cls, keys: Mapping[str, Any]) -> dict[str, str]:
        """Return the keys that have no effect with the others, and why."""
        unused = (
            (("task", "prompt", "langs"), "with --chat", keys.get("chat")),
            (("max-new-tokens",), "without --stop-on score", keys.get("stop-on") != "score"),
            (("pool-skip",), "with --pooling last", keys.get("pooling") == "last"),
            (("stop-gradient",), "with --preserve", keys.get("preserve")),
        )
        own = {name: why for names, why, applies in unused if applies for name in names}
        return super().without_effect(keys) | own

    @model_validator(mode="after")
    def _parameters_have_no_dropout(self) -> Self:
        if self.target_parameters and self.dropout:
            raise ValueError(
                "--target-parameters needs --dropout 0: PEFT does not support dropout on parameters"
            )
        return self

    @model_validator(mode="after")
    def _a_quantized_base_takes_no_adapters(self) -> Self:
        if self.on and self.quantize:
            raise ValueError(
                f"--on cannot add adapters to a quantized base model (--quantize {self.quantize})"
            )
        return self


class TaskDataSettings(PromptSettings):
    """The data of task training, alone or joint with alignment."""

    panel: ClassVar[str | None] = "Task data"

    langs: Names = Field(
        default=("ar", "en", "es", "ru", "zh"),
        min_length=1,
        description="Languages to train on, comma-separated.",
    )
    chat: DataPlace = Field(
        default=None,
        description="Train on your own conversations instead of a task: a CSV, TSV, Parquet, JSON "
        "or JSON Lines file, or a data set on the Hub, OWNER/NAME[:CONFIG][:SPLIT]. "
        "--system-prompt is put before conversations without one.",
    )
    dev_chat: DataPlace = Field(
        default=None,
        description="Dev conversations. By default, a tenth of --chat is held out, at most 100.",
    )
    columns: Columns = Field(
        default={},
        description="Columns of --chat, if they have other names: NAME=COLUMN, comma-separated, "
        "such as prompt=question,completion=answer.",
    )
    limit: int | None = Field(
        default=None, gt=0, description="Use the first N training examples of each language."
    )
    dev_limit: int | None = Field(
        default=None, gt=0, description="Use the first N dev examples of each language."
    )

    @model_validator(mode="after")
    def _dev_chat_belongs_to_chat(self) -> Self:
        if self.dev_chat is not None and self.chat is None:
            raise ValueError("--dev-chat needs --chat")
        if self.columns and self.chat is None:
            raise ValueError("--columns needs --chat")
        return self


class TrainTaskSettings(TrainSettings, TaskDataSettings):
    """Settings of ``train-task``."""

    section: ClassVar[str] = "train-task"
    panel: ClassVar[str | None] = "LoRA and training"
    main: ClassVar[tuple[str, ...]] = ("model", "langs", "data_dir", "task", "out")

    micro_batch_size: int = Field(
        default=32, gt=0, description="Examples per forward pass; must divide --batch-size."
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Keep only the input of each block, and compute the rest again in the "
        "backward pass: less memory, a third more time, the same gradient.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the blocks with torch.compile. The first steps take minutes, and "
        "the adapter differs by rounding.",
    )
    liger: bool = Field(
        default=False,
        description="Use Liger's Triton kernels for norms, rotations and MLPs. Requires a GPU.",
    )
    out: Path = Field(
        default=Path("task.safetensors"),
        description="Adapter to write: a .safetensors file, or a new PEFT folder.",
    )

    @model_validator(mode="after")
    def _liger_is_not_compiled(self) -> Self:
        if self.liger and self.compile:
            raise ValueError("--liger and --compile replace the same code; choose one")
        return self

    @model_validator(mode="after")
    def _liger_has_its_own_experts(self) -> Self:
        if self.liger and self.target_parameters:
            raise ValueError(
                "--liger replaces the experts that --target-parameters would train; "
                "remove one of them"
            )
        return self


class AlignmentSettings(Settings):
    """The data and loss of alignment, alone or joint with a task."""

    panel: ClassVar[str | None] = "Alignment"

    pairs: Names = Field(
        default=("cy-en", "ja-en", "jv-en", "sw-en", "tl-en"),
        min_length=1,
        description="Language pairs to align, comma-separated. Each sentence is pulled toward "
        "the right-hand language.",
    )
    pairs_dir: DataPlace = Field(
        default=None,
        description="Folder with the parallel text, a table with a column for each language, or a "
        "data set on the Hub, OWNER/NAME[:CONFIG][:SPLIT]. Default: --data-dir.",
    )
    pairs_columns: Columns = Field(
        default={},
        description="Columns of tables of pairs, if they have other names: NAME=COLUMN, "
        "comma-separated, such as cy=welsh_text,en=english_text.",
    )
    layer: Layer = Field(
        default="middle",
        description="Block whose output is aligned: a number, bottom, middle, top, a fraction of "
        "the depth (0.5), top-normed (after the final norm), or auto (chosen before "
        "training by retrieval of the dev pairs).",
    )
    pooling: Literal["mean", "weighted", "last"] = Field(
        default="mean",
        description="Sentence vector: the mean of the tokens, the mean weighted by position, or "
        "the last token.",
    )
    pool_skip: PoolSkip = Field(
        default=0,
        description="Leave the first N tokens (including BOS) out of the mean. auto leaves out "
        "the first token if it is an attention sink: its norm is at least twice "
        "that of the others.",
    )
    temperature: Temperatures = Field(
        default=(0.1,),
        min_length=1,
        description="Temperature of the contrastive loss (the paper: 0.1 for Llama 3, 1.5 for "
        "Qwen 2.5). With several values, comma-separated, train-align keeps the "
        "adapter with the best dev retrieval accuracy.",
    )
    directions: Literal["one", "both"] = Field(
        default="one", description="Contrast left with right sentences (one), or both ways (both)."
    )
    stop_gradient: bool = Field(
        default=False, description="Send no gradient through the right-hand (English) sentences."
    )
    mask_duplicates: bool = Field(
        default=False, description="Pairs that share a sentence are not negatives of each other."
    )
    contrastive_batch: int = Field(
        default=32,
        gt=1,
        description="Number of pairs contrasted with each other; must divide --batch-size.",
    )
    dev_pairs: int = Field(
        default=100,
        gt=0,
        description="Pairs held out per language as dev data; at most a tenth of the pairs.",
    )
    resample: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Resampling exponent: each language's share is its size to this power. 0 "
        "gives all languages the same share, as in the paper; 1 changes nothing.",
    )
    several_sentences: bool = Field(
        default=False,
        description="Keep pairs with several sentences per side; the paper drops them.",
    )
    check_script: bool = Field(
        default=True, description="Drop sentences that are not in the script of their language."
    )


class TrainAlignSettings(TrainSettings, AlignmentSettings):
    """Settings of ``train-align``."""

    section: ClassVar[str] = "train-align"
    panel: ClassVar[str | None] = "Alignment"
    main: ClassVar[tuple[str, ...]] = ("model", "pairs", "pairs_dir", "layer", "temperature", "out")

    preserve: float = Field(
        default=0.0,
        ge=0,
        description="Weight of a penalty that keeps hidden states close to the base model's; "
        "sentences are then pulled toward the base model's English vectors. 0 turns it off.",
    )
    preserve_text: tuple[Path, ...] = Field(
        default=(),
        description="More text for --preserve, one sentence per line. Repeat the option for "
        "several files, one per language of the task.",
    )
    micro_batch_size: int | None = Field(
        default=None,
        gt=0,
        description="Pairs per forward pass. Saves memory; the gradient is the same. Default: "
        "the whole contrastive batch.",
    )
    packing: bool | None = Field(
        default=None,
        description="Pack sentences into one row without padding. Default: on, if the model's "
        "architecture allows it; --no-packing turns it off.",
    )
    limit: int | None = Field(
        default=None, gt=0, description="Use the first N pairs of each language."
    )
    out: Path = Field(
        default=Path("align.safetensors"),
        description="Adapter to write: a .safetensors file, or a new PEFT folder.",
    )

    @model_validator(mode="after")
    def _packing_has_its_own_attention(self) -> "TrainAlignSettings":
        if self.packing and self.attention:
            raise ValueError(
                "--packing uses its own attention and cannot be combined with --attention "
                f"{self.attention}"
            )
        return self

    @model_validator(mode="after")
    def _held_text_has_a_weight(self) -> "TrainAlignSettings":
        if self.preserve_text and not self.preserve:
            raise ValueError("--preserve-text has no effect without --preserve WEIGHT")
        return self


class TrainJointSettings(TrainSettings, TaskDataSettings, AlignmentSettings):
    """Settings of ``train-joint``."""

    section: ClassVar[str] = "train-joint"
    panel: ClassVar[str | None] = "Alternation"
    main: ClassVar[tuple[str, ...]] = ("model", "langs", "pairs", "data_dir", "out")

    alternate: Literal["paper-code", "steps"] = Field(
        default="paper-code",
        description="Alternate between task and alignment by micro-batch within each optimizer "
        "step, as in the authors' code (paper-code), or by whole steps, as in the "
        "paper's text (steps).",
    )
    contrastive_batch: int = Field(
        default=32, gt=1, description="Pairs, or task examples, per micro-batch."
    )
    limit: int | None = Field(
        default=None,
        gt=0,
        description="Use the first N training examples of each language, and the first N pairs of "
        "each language pair.",
    )
    align_weight: float = Field(default=1.0, gt=0, description="Weight of the alignment loss.")
    stop_on: Literal["loss", "sum", "retrieval", "score"] = Field(
        default="sum",
        description="Which adapter to keep, by its result on dev data: the lowest task loss "
        "(loss), the lowest sum of both losses (sum), the highest retrieval accuracy (retrieval) "
        "or the highest task score (score).",
    )
    max_new_tokens: int = Field(
        default=128,
        gt=0,
        description="Maximum length of dev answers, in tokens, with --stop-on score.",
    )
    out: Path = Field(
        default=Path("joint.safetensors"),
        description="Adapter to write: a .safetensors file, or a new PEFT folder.",
    )

    @model_validator(mode="after")
    def _one_temperature(self) -> Self:
        if len(self.temperature) > 1:
            raise ValueError("--temperature: only train-align accepts several values")
        return self

    @model_validator(mode="after")
    def _a_score_needs_a_task(self) -> Self:
        if self.stop_on == "score" and self.chat is not None:
            raise ValueError("--stop-on score needs a task that is scored; --chat has no score")
        return self


_HIGH_RATE = 1e-2  # twenty times the paper's


def notes_on_training(settings: TrainSettings) -> list[str]:
    """Return notes on settings that are allowed but look like mistakes."""
    notes = []
    if settings.lr > _HIGH_RATE:
        notes.append(
            f"the learning rate {settings.lr:g} is high; for LoRA, values above 0.01 rarely work"
        )
    if isinstance(settings, AlignmentSettings):
        notes += [
            f"{pair} pulls English toward the other language, because each pair is pulled "
            f"toward its right side; {pair.partition('-')[2]}-en does the reverse"
            for pair in settings.pairs
            if pair.startswith("en-")
        ]
    if isinstance(settings, TaskDataSettings) and settings.chat is None:
        notes += notes_on_languages(settings)
    return notes + notes_on_unused_keys(settings)

"""Settings of the training commands."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from adaptermix.settings.paper import ATTENTION_AND_MLP
from adaptermix.settings.shared import ModelSettings, PromptSettings, Settings, notes_on_languages
from adaptermix.settings.values import (
    Alphas,
    Layer,
    Layers,
    Names,
    PoolSkip,
    Ranks,
    Temperatures,
    WeightedAdapters,
)


class TrainSettings(ModelSettings):
    """What both kinds of training share."""

    rank: int = Field(default=8, gt=0, description="LoRA rank.")
    alpha: float = Field(default=16.0, gt=0, description="LoRA alpha; scaling is alpha / rank.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="LoRA dropout probability.")
    target_modules: Names = Field(
        default=ATTENTION_AND_MLP,
        description="Linear layers that get a LoRA, comma-separated; all-linear for all of the "
        "blocks. Where these names do not exist, the default is that of the model's class.",
    )
    target_parameters: Names = Field(
        default=(),
        description="Parameters that get a LoRA though they are no linear layers, such as the "
        "fused experts mlp.experts.gate_up_proj,mlp.experts.down_proj; needs --dropout 0.",
    )
    use_rslora: bool = Field(default=False, description="Scaling is alpha / sqrt(rank): rsLoRA.")
    rank_pattern: Ranks = Field(
        default={}, description="Other ranks of some modules, as down_proj=16,3.mlp.up_proj=4."
    )
    alpha_pattern: Alphas = Field(
        default={}, description="Other alphas of some modules, as down_proj=32."
    )
    layers_to_transform: Layers = Field(
        default=(), description="Blocks that get a LoRA, as 0-15,20; all by default."
    )
    on: WeightedAdapters = Field(
        default=(),
        description="Adapters to train on: their delta weights are added to the base model and "
        "stay as they are. Comma-separated; ADAPTER=0.5 has the weight 0.5.",
    )
    quantize: Literal["nf4"] | None = Field(
        default=None, description="Hold the base model in 4 bits (bitsandbytes)."
    )
    lr: float = Field(default=5e-4, gt=0, description="Peak learning rate.")
    schedule: Literal["inverse_sqrt", "linear", "cosine", "constant_with_warmup"] = Field(
        default="inverse_sqrt", description="Learning rate schedule."
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, lt=1, description="Share of all steps that warm up."
    )
    batch_size: int = Field(
        default=128, gt=0, description="Examples in one optimizer step (the effective batch)."
    )
    epochs: float = Field(default=5.0, gt=0, description="Passes over the data, at most.")
    max_steps: int | None = Field(
        default=None, gt=0, description="Optimizer steps, at most; overrides epochs."
    )
    eval_steps: int = Field(
        default=200, gt=0, description="Optimizer steps between two evaluations on dev data."
    )
    patience: int = Field(
        default=5, gt=0, description="Stop after this many evaluations without a better dev loss."
    )
    max_length: int = Field(default=2048, gt=1, description="Longest sequence, in tokens.")
    seed: int = Field(default=1, ge=0, description="Seed of everything random.")
    workers: int = Field(
        default=0, ge=0, description="Processes that prepare batches; the adapter is the same."
    )
    tensorboard: bool = Field(default=False, description="Also write TensorBoard logs.")
    resume: bool = Field(
        default=False, description="Go on from the last checkpoint of a run that was killed."
    )
    out: Path = Field(
        default=Path("adapter.safetensors"),
        description="Adapter to write: one .safetensors file, or a new PEFT directory.",
    )

    @model_validator(mode="after")
    def _parameters_have_no_dropout(self) -> Self:
        if self.target_parameters and self.dropout:
            raise ValueError("--target-parameters needs --dropout 0: PEFT has no dropout there")
        return self

    @model_validator(mode="after")
    def _a_quantized_base_takes_no_adapters(self) -> Self:
        if self.on and self.quantize:
            raise ValueError(f"--on cannot add adapters to a base in {self.quantize} (--quantize)")
        return self


class TaskDataSettings(PromptSettings):
    """What a task is learned from: alone and beside an alignment."""

    panel: ClassVar[str | None] = "Task data"

    langs: Names = Field(
        default=("ar", "en", "es", "ru", "zh"),
        min_length=1,
        description="Languages with task data, comma-separated.",
    )
    chat: Path | None = Field(
        default=None,
        description="Conversations of your own in place of a task and its --langs: JSONL with "
        "'messages'.",
    )
    dev_chat: Path | None = Field(
        default=None, description="Dev conversations; by default a tenth of --chat, 100 at most."
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
        return self


class TrainTaskSettings(TrainSettings, TaskDataSettings):
    """Settings of ``train-task``."""

    section: ClassVar[str] = "train-task"

    micro_batch_size: int = Field(
        default=32, gt=0, description="Examples in one forward pass; divides the batch size."
    )
    out: Path = Field(
        default=Path("task.safetensors"),
        description="Adapter to write: one .safetensors file, or a new PEFT directory.",
    )


class AlignmentSettings(Settings):
    """What is aligned and how: the same alone and beside a task."""

    panel: ClassVar[str | None] = "Alignment"

    pairs: Names = Field(
        default=("cy-en", "ja-en", "jv-en", "sw-en", "tl-en"),
        min_length=1,
        description="Language pairs to align, comma-separated; each is pulled to its right side.",
    )
    pairs_dir: Path | None = Field(
        default=None, description="Folder of the parallel text; the data folder by default."
    )
    layer: Layer = Field(
        default="middle",
        description="Align hidden states after this block: its number, bottom, middle or top, a "
        "fraction of the depth (0.5), top-normed: after the final norm, or auto: chosen by "
        "retrieval of the dev pairs in the model before training.",
    )
    pooling: Literal["mean", "weighted", "last"] = Field(
        default="mean",
        description="A sentence's vector: mean of its tokens, mean weighted by position, or its "
        "last token.",
    )
    pool_skip: PoolSkip = Field(
        default=0,
        description="Leave out the first N tokens of a sentence (BOS is one); auto leaves out the "
        "first one where its state is twice as long as the others'.",
    )
    temperature: Temperatures = Field(
        default=(0.1,),
        min_length=1,
        description="Divides the cosines; the paper has 0.1 for Llama 3. train-align tries "
        "several, comma-separated, and keeps the best by dev retrieval accuracy.",
    )
    directions: Literal["one", "both"] = Field(
        default="one", description="Contrast left with right sides, or both ways."
    )
    stop_gradient: bool = Field(
        default=False, description="No gradient to the right (English) sides."
    )
    mask_duplicates: bool = Field(
        default=False, description="Pairs that share a text are not each other's negatives."
    )
    contrastive_batch: int = Field(
        default=32, gt=1, description="Pairs contrasted with each other; divides the batch size."
    )
    dev_pairs: int = Field(
        default=100, gt=0, description="Pairs held out per language, a tenth of it at most."
    )
    resample: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="A language's share grows with its pairs to this power: 0 is the same share "
        "for all, as in the paper, 1 leaves them as they are.",
    )
    several_sentences: bool = Field(
        default=False, description="Keep pairs with several sentences; the paper drops them."
    )
    check_script: bool = Field(
        default=True, description="Drop sentences that are not in their language's script."
    )


class TrainAlignSettings(TrainSettings, AlignmentSettings):
    """Settings of ``train-align``."""

    section: ClassVar[str] = "train-align"

    preserve: float = Field(
        default=0.0,
        ge=0,
        description="Pull to the base's own English, and hold hidden states where the base has "
        "them, with this weight; 0 is off.",
    )
    preserve_text: tuple[Path, ...] = Field(
        default=(),
        description="Text to hold beside the right sides of the pairs, one sentence a line; "
        "repeat the flag, one file a language of the task.",
    )
    micro_batch_size: int | None = Field(
        default=None,
        gt=0,
        description="Pairs in one forward pass: saves memory and changes nothing else; the whole "
        "contrastive batch by default.",
    )
    packing: bool | None = Field(
        default=None,
        description="Pack sentences into one row without padding; where the model allows it, by "
        "default.",
    )
    limit: int | None = Field(
        default=None, gt=0, description="Use the first N pairs of each language."
    )
    out: Path = Field(
        default=Path("align.safetensors"),
        description="Adapter to write: one .safetensors file, or a new PEFT directory.",
    )

    @model_validator(mode="after")
    def _held_text_has_a_weight(self) -> "TrainAlignSettings":
        if self.preserve_text and not self.preserve:
            raise ValueError("--preserve-text does nothing without --preserve WEIGHT")
        return self


class TrainJointSettings(TrainSettings, TaskDataSettings, AlignmentSettings):
    """Settings of ``train-joint``."""

    section: ClassVar[str] = "train-joint"

    alternate: Literal["paper-code", "steps"] = Field(
        default="paper-code",
        description="What alternates between task and alignment: the micro-batches of every "
        "optimizer step, as the authors run it, or whole steps, as the paper's text says.",
    )
    contrastive_batch: int = Field(
        default=32, gt=1, description="Pairs, or task examples, of a micro-batch."
    )
    align_weight: float = Field(default=1.0, gt=0, description="Weight of the alignment loss.")
    stop_on: Literal["loss", "sum", "retrieval", "score"] = Field(
        default="sum",
        description="What the best adapter has on dev data: the lowest task loss, the lowest sum "
        "of both losses, the highest retrieval accuracy, or the highest score of its answers.",
    )
    max_new_tokens: int = Field(
        default=128, gt=0, description="Longest dev answer, in tokens, with --stop-on score."
    )
    out: Path = Field(
        default=Path("joint.safetensors"),
        description="Adapter to write: one .safetensors file, or a new PEFT directory.",
    )

    @model_validator(mode="after")
    def _one_temperature(self) -> Self:
        if len(self.temperature) > 1:
            raise ValueError("--temperature: only train-align tries several")
        return self

    @model_validator(mode="after")
    def _a_score_needs_a_task(self) -> Self:
        if self.stop_on == "score" and self.chat is not None:
            raise ValueError("--stop-on score needs a task that is scored; --chat has no score")
        return self


_HIGH_RATE = 1e-2  # twenty times the paper's


def notes_on_training(settings: TrainSettings) -> list[str]:
    """Name what is allowed and looks like a slip."""
    notes = []
    if settings.lr > _HIGH_RATE:
        notes.append(f"the learning rate {settings.lr:g} is high: LoRA rarely takes above 0.01")
    if isinstance(settings, AlignmentSettings):
        notes += [
            f"{pair} pulls English to the other language, for each is pulled to its right side: "
            f"{pair.partition('-')[2]}-en does the reverse"
            for pair in settings.pairs
            if pair.startswith("en-")
        ]
    if isinstance(settings, TaskDataSettings) and settings.chat is None:
        notes += notes_on_languages(settings)
    return notes

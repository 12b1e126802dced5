"""Settings a user may write, as flags or in ``adaptermix.toml``.

A setting is declared once, as a field: its default (the paper's, where the paper has one), its
limits and its help text. The command line is generated from the fields, and a key in the file is
the flag without its two dashes. Flags override the file, which overrides the defaults.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from adaptermix.option_values import (
    Alphas,
    EngineArgs,
    Groups,
    Layer,
    Layers,
    Names,
    Ranks,
    Temperatures,
    Weights,
)

PAPER_MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"


ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


# The paper's: languages with task data, languages that are aligned to English, and others.
PAPER_GROUPS: dict[str, tuple[str, ...]] = {
    "supervised": ("ar", "en", "es", "ru", "zh"),
    "transfer-aligned": ("cy", "ja", "jv", "sw", "tl"),
    "transfer-other": ("af", "az", "de", "el", "fr", "hi", "is", "th", "tr", "ur"),
}


# The 35 languages of its initial analysis (section 2, appendix C), and those of them that are
# low-resource as NLLB (2022) has it: fewer than 1M pairs of public bitext, by the counts in its
# code (fairseq, examples/nllb/modeling/evaluation/train_example_count/flores200_public.py).
PAPER_LANGS = (
    *(lang for group in PAPER_GROUPS.values() for lang in group),
    *"cs he uk am bn it hu hy id kn ka mn km ko lv".split(),
)


LOW_RESOURCE = ("am", "az", "cy", "hy", "jv", "ka", "km", "kn", "mn", "ur")


Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Settings(BaseModel):
    """Base of every command's settings: immutable, and strict about unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
    )
    section: ClassVar[str] = ""
    panel: ClassVar[str | None] = None  # heading of its options in the help

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, field: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(field.field_name)].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError("a number or text is wanted")
        return value


class ModelSettings(Settings):
    """The base model and the data; written at the top of ``adaptermix.toml``, for all commands."""

    panel: ClassVar[str | None] = "Model and data"

    model: str = Field(default=PAPER_MODEL, description="Base model: a folder, or a hub name.")
    revision: str | None = Field(default=None, description="Revision of a hub model.")
    dtype: Dtype = Field(
        default="auto", description="Precision of the base model; auto is bfloat16 on a GPU."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run code that comes with the model. Know whose it is."
    )
    data_dir: Path | None = Field(
        default=None, description="Folder of the task data; without it, data comes from the hub."
    )
    threads: int | None = Field(default=None, gt=0, description="CPU threads for torch.")


TASKS = ("massive", "wmt23", "uner")


# What a task's own defaults are where they are not those of MASSIVE; the paper's.
_TRAINED: dict[str, dict[str, Any]] = {
    "wmt23": {
        "langs": tuple(f"{a}-en" for a in ("cs", "de", "is", "ru", "zh"))
        + tuple(f"en-{a}" for a in ("cs", "de", "is", "ru", "zh"))
    },
    "uner": {"langs": ("en", "pt", "zh")},
}


_TASK_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "train-task": _TRAINED,
    "train-joint": _TRAINED,
    "eval": {
        "wmt23": {
            "langs": ("he-en", "ja-en", "uk-en", "en-he", "en-ja", "en-uk"),
            "max-new-tokens": 512,
        },
        "uner": {
            "langs": ("en", "pt", "zh", "da", "hr", "sk", "sr", "sv"),
            "max-new-tokens": 512,
        },
    },
}


def _known_task(name: str) -> str:
    if name not in TASKS and not name.endswith(".toml"):
        raise ValueError(f"it is one of {', '.join(TASKS)}, or a .toml file")
    return name


TaskName = Annotated[str, AfterValidator(_known_task)]


class PromptSettings(ModelSettings):
    """The task and how it is asked: the same in training and in evaluation."""

    panel: ClassVar[str | None] = "Task and prompt"

    task: TaskName = Field(
        default="massive", description="massive, wmt23, uner, or the .toml file of your own task."
    )
    prompt: Literal["paper", "authors-code", "zero-shot"] = Field(
        default="paper",
        description="System prompt of massive: the paper's appendix D.2, the longer one of its "
        "code, or the paper's for models that were not trained on the task.",
    )
    system_prompt: str | None = Field(
        default=None, description="A system prompt of your own; overrides --prompt."
    )
    turn_newline: bool = Field(
        default=False,
        description="Newline after each <|eot_id|>, as the authors trained Llama 3.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        task = given.get("task", "massive")
        defaults = _TASK_DEFAULTS.get(cls.section, {}).get(str(task), {})
        if cls.section == "eval" and task != "massive":
            defaults = defaults | {"out": Path(f"eval-{Path(str(task)).stem}")}
        missing = {k: v for k, v in defaults.items() if not {k, k.replace("-", "_")} & given.keys()}
        return missing | given


class ScorerSettings(Settings):
    """How outputs become scores."""

    panel: ClassVar[str | None] = "Scoring"

    scorer: Literal["strict", "paper"] = Field(
        default="strict",
        description="Slot F1 over types and values, or as the paper's own script counts.",
    )
    match: Literal["text", "offsets"] = Field(
        default="text", description="Entities agree by type and text, or by type and offsets."
    )
    metrics: Names = Field(
        default=(), description="Metrics, comma-separated: bleu,chrf,comet for translation."
    )
    tokenize: Literal[
        "auto", "13a", "zh", "ja-mecab", "ko-mecab", "char", "intl", "flores200", "none"
    ] = Field(
        default="auto",
        description="BLEU's tokenizer; auto is zh for Chinese, ja-mecab for Japanese, else 13a.",
    )
    src: Path | None = Field(
        default=None, description="Source sentences of a translation, one a line."
    )
    ref: tuple[Path, ...] = Field(
        default=(), description="Reference translations; repeat the flag for several sets."
    )
    comet_model: str = Field(
        default="Unbabel/wmt22-comet-da", description="COMET: a hub name, or a checkpoint file."
    )
    comet_python: Path | None = Field(
        default=None, description="Python of the environment that COMET is installed in."
    )


class TrainSettings(ModelSettings):
    """What both kinds of training share."""

    rank: int = Field(default=8, gt=0, description="LoRA rank.")
    alpha: float = Field(default=16.0, gt=0, description="LoRA alpha; scaling is alpha / rank.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="LoRA dropout probability.")
    target_modules: Names = Field(
        default=ATTENTION_AND_MLP, description="Linear layers that get a LoRA, comma-separated."
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
        "fraction of the depth (0.5), or top-normed: after the final norm.",
    )
    pooling: Literal["mean", "weighted", "last"] = Field(
        default="mean",
        description="A sentence's vector: mean of its tokens, mean weighted by position, or its "
        "last token.",
    )
    pool_skip: int = Field(
        default=0, ge=0, description="Leave out the first N tokens of a sentence (BOS is one)."
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


class EngineSettings(ModelSettings):
    """How answers are decoded: wherever prompts are answered, not only in ``eval``."""

    panel: ClassVar[str | None] = "Engine"

    engine: Literal["auto", "vllm", "transformers"] = Field(
        default="auto", description="auto is vLLM where it is installed, else transformers."
    )
    max_new_tokens: int = Field(default=128, gt=0, description="Longest answer, in tokens.")
    batch_size: int = Field(
        default=64, gt=0, description="Prompts in one batch of the transformers engine."
    )
    cache: bool = Field(
        default=True, description="Take answers that were decoded before from the cache."
    )
    tensor_parallel_size: int = Field(
        default=1, gt=0, description="GPUs that share one copy of the model (vLLM)."
    )
    data_parallel_size: int = Field(
        default=1, gt=0, description="Copies of the model that share the prompts (vLLM)."
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of GPU memory that vLLM may take."
    )
    max_lora_rank: int | None = Field(
        default=None, gt=0, description="Largest rank vLLM makes room for; the adapters' own."
    )
    engine_args: EngineArgs = Field(
        default={}, description="More arguments of the vLLM engine: JSON, or key=value,key=value."
    )


class DecodingSettings(EngineSettings, PromptSettings):
    """What is decoded, in which languages: in tests, and on dev data in a search."""

    panel: ClassVar[str | None] = "Data to test"

    langs: Names = Field(
        default=tuple(lang for group in PAPER_GROUPS.values() for lang in group),
        min_length=1,
        description="Languages to test, comma-separated.",
    )
    limit: int | None = Field(
        default=None, gt=0, description="Use the first N examples of each language."
    )


class MergeSettings(DecodingSettings, ScorerSettings):
    """Settings of ``merge``."""

    section: ClassVar[str] = "merge"

    weight: float | None = Field(
        default=None, description="Weight of the first of two adapters; the second gets 1 - W."
    )
    weights: Weights | None = Field(
        default=None, description="One weight per adapter, comma-separated."
    )
    weights_file: Path | None = Field(
        default=None, description="TOML file with weights of layer ranges and modules."
    )
    method: Literal[
        "exact",
        "factor-average",
        "peft-linear",
        "peft-cat",
        "peft-svd",
        "magnitude",
        "ties",
        "dare",
        "dare-ties",
        "della",
        "knots",
        "tsv",
        "iso-c",
    ] = Field(default="exact", description="exact: the weighted sum of the delta weights.")
    rank: int | None = Field(
        default=None, gt=0, description="Cut the result to its best approximation of this rank."
    )
    inactive: Literal["average", "keep"] = Field(
        default="average",
        description="Where an adapter does nothing: average with zero as the paper does, or keep "
        "the others at full strength.",
    )
    density: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of entries kept by magnitude, ties, dare, dare-ties, della and knots.",
    )
    epsilon: float = Field(
        default=0.1, ge=0, lt=1, description="della: width of the window around the density."
    )
    isotropic: bool = Field(
        default=False, description="Set all singular values of the result to their mean."
    )
    seed: int = Field(default=1, ge=0, description="Seed of dare, dare-ties and della.")
    out_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="Precision of the result; by default, module by module the widest of the "
        "inputs.",
    )
    ignore_base: bool = Field(
        default=False, description="Merge adapters of different base models whose shapes agree."
    )
    into: str | None = Field(
        default=None,
        description="Base model, folder or hub name: write it with the merge added to its weights.",
    )
    search: str | None = Field(
        default=None,
        description="Find the weights on dev data: weights of the first adapter to try "
        "(0.5,0.7,0.9), all weights of each merge (1:0.2,1:0.5), auto, or learn.",
    )
    exhaustive: bool = Field(
        default=False, description="Search: decode all dev examples with every candidate."
    )
    prefer: Literal["simpler", "best"] = Field(
        default="simpler",
        description="Search: of candidates that cannot be told apart, take the simplest, or the "
        "one with the best score.",
    )
    layer_groups: int = Field(
        default=1, gt=0, description="Search auto: groups of layers with weights of their own."
    )
    trials: int = Field(
        default=30, gt=0, description="Search auto: weights to try where a grid is too large."
    )
    sampler: Literal["tpe", "cma"] = Field(
        default="tpe", description="Search auto: Optuna's sampler for these trials."
    )
    learn_per: Literal["layer", "module"] = Field(
        default="layer", description="Search learn: what gets a weight of its own."
    )
    learn_steps: int = Field(default=100, gt=0, description="Search learn: gradient steps.")
    learn_lr: float = Field(default=0.02, gt=0, description="Search learn: learning rate.")
    learn_penalty: float = Field(
        default=1.0,
        ge=0,
        description="Search learn: pull towards the best scalar weights, times the mean squared "
        "difference.",
    )
    source_rank: int | None = Field(
        default=None, gt=0, description="Rank of bare adapter files that carry no config."
    )
    source_alpha: float | None = Field(
        default=None, gt=0, description="Alpha of bare adapter files that carry no config."
    )
    out: Path = Field(
        default=Path("merged.safetensors"),
        description="Adapter to write: one .safetensors file, or a new PEFT directory.",
    )

    @model_validator(mode="after")
    def _one_way_to_weigh(self) -> "MergeSettings":
        ways = (self.weight, self.weights, self.weights_file, self.search)
        if sum(way is not None for way in ways) != 1:
            raise ValueError(
                "give one of --weight W, --weights W1,W2,..., --weights-file FILE and --search GRID"
            )
        return self

    @model_validator(mode="after")
    def _options_fit_the_method(self) -> "MergeSettings":
        if self.method in ("factor-average", "peft-linear") and (self.rank or self.isotropic):
            raise ValueError(f"--method {self.method} takes neither --rank nor --isotropic")
        if not self.density - self.epsilon / 2 > 0 and self.method == "della":
            raise ValueError("della needs a density of more than half its epsilon")
        return self


class EvalSettings(DecodingSettings, ScorerSettings):
    """Settings of ``eval``."""

    section: ClassVar[str] = "eval"

    adapters: Names = Field(
        default=(), description="Adapters to test beside the base model; repeat the flag."
    )
    split: Literal["test", "dev"] = Field(default="test", description="Part of the data.")
    exclude_base: bool = Field(default=False, description="Test the adapters only.")
    baseline: str | None = Field(
        default=None, description="System the others are compared with; the first by default."
    )
    groups: Groups | None = Field(
        default=None,
        description="Languages to average, as name=cy,sw;other=ja; the paper's by default.",
    )
    out: Path = Field(
        default=Path("eval-massive"), description="New directory for scores and predictions."
    )

    @model_validator(mode="after")
    def _something_to_test(self) -> "EvalSettings":
        if self.exclude_base and not self.adapters:
            raise ValueError("--exclude-base leaves nothing to test; add --adapter PATH")
        return self

    @model_validator(mode="after")
    def _files_are_of_one_pair(self) -> "EvalSettings":
        if (self.src is None) != (not self.ref):
            raise ValueError("give --src and --ref together")
        if self.src is not None and (len(self.langs) != 1 or self.task != "wmt23"):
            raise ValueError("--src is of one pair: --task wmt23 --langs en-de")
        return self


class RetrievalSettings(ModelSettings):
    """Settings of ``retrieval``."""

    section: ClassVar[str] = "retrieval"

    data_dir: Path | None = Field(
        default=None,
        description="Folder of the parallel text, one file a language: eng_Latn.dev, or en.txt.",
    )
    adapters: Names = Field(
        default=(), description="Adapters to analyze beside the base model; repeat the flag."
    )
    exclude_base: bool = Field(default=False, description="Analyze the adapters only.")
    langs: Names = Field(
        default=PAPER_LANGS,
        min_length=2,
        description="Languages, comma-separated: short codes, or FLORES-200's.",
    )
    split: str = Field(
        default="dev",
        pattern=r"^[\w-]+$",
        description="Part of the data: the ending of its files, dev or devtest in FLORES-200.",
    )
    pivot: str = Field(
        default="all", description="All pairs of languages, or only those with this language."
    )
    layers: Layers | None = Field(
        default=None,
        min_length=1,
        description="Layers, as 0,8-16; 0 is the embeddings. All by default.",
    )
    limit: int | None = Field(
        default=None, gt=1, description="Use the first N sentences of each language."
    )
    groups: Groups | None = Field(
        default=None,
        description="Languages to average, as name=cy,sw;other=ja; the paper's by default.",
    )
    scores: Path | None = Field(
        default=None,
        description="Folder, or scores.json, of an eval: correlate the base model's retrieval "
        "with its task scores over languages.",
    )
    pooling: Literal["mean", "weighted"] = Field(
        default="mean",
        description="Mean over the tokens, or with weights 1, 2, 3, ... as MEXA has it.",
    )
    pool_skip: int = Field(
        default=0,
        ge=0,
        description="Leave out the first N tokens of a sentence: an attention sink says nothing.",
    )
    neighbors: int = Field(default=4, gt=0, description="Neighbors of the margin score; xsim's.")
    batch_size: int = Field(default=32, gt=0, description="Sentences in one forward pass.")
    cache: bool = Field(
        default=True, description="Keep representations, and take those kept before."
    )
    out: Path = Field(
        default=Path("retrieval"), description="New directory for the record and the tables."
    )

    @model_validator(mode="after")
    def _something_to_analyze(self) -> "RetrievalSettings":
        if self.exclude_base and not self.adapters:
            raise ValueError("--exclude-base leaves nothing to analyze; add --adapter PATH")
        if self.exclude_base and self.scores:
            raise ValueError("--scores is about the base model; leave --exclude-base out")
        return self


class ScoreSettings(ScorerSettings):
    """Settings of ``score``."""

    section: ClassVar[str] = "score"

    task: TaskName = Field(
        default="massive", description="massive, wmt23, uner, or the .toml file of your own task."
    )
    predictions: Path | None = Field(
        default=None, description="Outputs to score: one line, or one JSON record, for each row."
    )
    gold: Path | None = Field(
        default=None, description="What is right: a MASSIVE .jsonl, a UNER .iob2, your records."
    )
    lang: str | None = Field(default=None, description="Language of the gold file.")
    split: Literal["test", "dev", "train"] = Field(
        default="test", description="Part of a MASSIVE file."
    )
    target_lang: str | None = Field(
        default=None, description="Language that was translated to; it decides BLEU's tokenizer."
    )


class TaskFile(Settings):
    """A task of one's own, as a ``.toml`` file.

    Templates hold fields of the records in braces. ``files`` has one pattern for each part;
    ``{lang}`` in it stands for the language, and it is relative to the file, or to --data-dir::

        name = "intent"
        metrics = ["exact-match"]
        system = "Name the intent of the command."
        prompt = "{utt}"
        answer = "intent"
        id = "id"

        [files]
        train = "{lang}.train.jsonl"
        dev = "{lang}.dev.jsonl"
        test = "{lang}.test.jsonl"
    """

    name: str = Field(min_length=1)
    metrics: tuple[Literal["slots", "entities", "exact-match", "bleu", "chrf", "comet"], ...]
    system: str = ""
    prompt: str
    answer: str
    id: str = ""
    target_lang: str = ""
    files: dict[Literal["train", "dev", "test"], str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind_of_metric(self) -> "TaskFile":
        if not self.metrics or (len(self.metrics) > 1 and {"slots", "entities"} & {*self.metrics}):
            raise ValueError("metrics: slots or entities alone, or text metrics, at least one")
        return self


class InspectSettings(Settings):
    """Settings of ``inspect``."""

    section: ClassVar[str] = "inspect"

    by: Literal["layer", "module", "kind"] = Field(
        default="layer",
        description="Rows of the tables: decoder blocks, single modules, or kinds (q_proj ...).",
    )
    source_rank: int | None = Field(
        default=None, gt=0, description="Rank of bare adapter files that carry no config."
    )
    source_alpha: float | None = Field(
        default=None, gt=0, description="Alpha of bare adapter files that carry no config."
    )


class ReportSettings(Settings):
    """Settings of ``report``."""

    section: ClassVar[str] = "report"

    title: str = Field(default="adaptermix report", description="Heading of the page.")
    examples: bool = Field(
        default=True,
        description="Single examples, to be browsed in the page; they fill most of it.",
    )
    export: Path | None = Field(
        default=None,
        description="New folder for every plot as SVG and PNG, every table as Markdown and LaTeX.",
    )
    out: Path = Field(default=Path("report.html"), description="Page to write.")


COMMANDS: tuple[type[Settings], ...] = (
    TrainTaskSettings,
    TrainAlignSettings,
    TrainJointSettings,
    MergeSettings,
    EvalSettings,
    ScoreSettings,
    InspectSettings,
    RetrievalSettings,
    ReportSettings,
)

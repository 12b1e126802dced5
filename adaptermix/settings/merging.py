"""Settings of `merge` and its search."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from adaptermix.settings import locations
from adaptermix.settings.scored import ScoredSettings
from adaptermix.settings.shared import Settings, harness_tasks
from adaptermix.settings.values import Seed, Weights


class SourceSettings(Settings):
    """Rank and alpha of adapter files without a config."""

    panel: ClassVar[str | None] = "Adapter files without a config"

    source_rank: int | None = Field(
        default=None, gt=0, description="Rank of adapter files without a config."
    )
    source_alpha: float | None = Field(
        default=None, gt=0, description="Alpha of adapter files without a config."
    )


class MergeSettings(SourceSettings):
    """Settings of ``merge``."""

    section: ClassVar[str] = "merge"
    panel: ClassVar[str | None] = "How to merge"
    main: ClassVar[tuple[str, ...]] = ("weight", "weights", "search", "method", "into", "out")

    weight: float | None = Field(
        default=None, description="Weight W of the first of two adapters; the second gets 1 - W."
    )
    weights: Weights | None = Field(
        default=None, description="One weight per adapter, comma-separated."
    )
    weights_file: Path | None = Field(
        default=None, description="TOML file with weights by layer and module."
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
    ] = Field(
        default="exact", description="Merge method. exact is the weighted sum of the delta weights."
    )
    rank: int | None = Field(
        default=None,
        gt=0,
        description="Truncate the result to its best approximation of this rank.",
    )
    inactive: Literal["average", "keep"] = Field(
        default="average",
        description="In modules that an adapter does not have: average with zero, as in the "
        "paper (average), or keep the other adapters at full strength (keep).",
    )
    density: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Fraction of the entries that magnitude, ties, dare, dare-ties, della and "
        "knots keep.",
    )
    epsilon: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="della: width of the range of keep probabilities around --density.",
    )
    isotropic: bool = Field(
        default=False, description="Set all singular values of the result to their mean."
    )
    compact: bool = Field(
        default=False,
        description="Allow different ranks and scalings per module. The file is smaller, but "
        "only loaders that read rank_pattern and alpha_pattern (PEFT, vLLM) apply it "
        "correctly.",
    )
    seed: Seed = Field(default=1, ge=0, description="Random seed of dare, dare-ties and della.")
    out_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="Precision of the result. Default: for each module, the widest of the inputs.",
    )
    ignore_base: bool = Field(
        default=False, description="Allow adapters of different base models, if their shapes match."
    )
    into: Annotated[str | None, locations.Names("model")] = Field(
        default=None,
        description="Add the merge to the weights of this base model, and write a complete model.",
    )
    search: str | None = Field(
        default=None,
        description="Search for the weights on dev data. Takes weights of the first adapter "
        "(0.5,0.7,0.9), all weights of each merge (1:0.2,1:0.5), auto, or learn.",
    )
    out: Path = Field(
        default=Path("merged.safetensors"),
        description="Adapter to write: a .safetensors file, or a new PEFT folder.",
    )

    @model_validator(mode="after")
    def _one_way_to_weigh(self) -> "MergeSettings":
        ways = (self.weight, self.weights, self.weights_file, self.search)
        if sum(way is not None for way in ways) != 1:
            raise ValueError(
                "give exactly one of --weight W, --weights W1,W2,..., --weights-file FILE and "
                "--search GRID"
            )
        return self

    @model_validator(mode="after")
    def _options_fit_the_method(self) -> "MergeSettings":
        if self.method in ("factor-average", "peft-linear") and (self.rank or self.isotropic):
            raise ValueError(f"--method {self.method} supports neither --rank nor --isotropic")
        if not self.density - self.epsilon / 2 > 0 and self.method == "della":
            raise ValueError("--method della needs a --density greater than half of --epsilon")
        return self


class SearchSettings(MergeSettings, ScoredSettings):
    """Settings of ``merge --search``: those of a merge, and those for testing candidates."""

    panel: ClassVar[str | None] = "Search"
    # src and ref of a test are no dev data, and the rank of a training is not to truncate to.
    own: ClassVar[tuple[str, ...]] = ("src", "ref", "rank")

    exhaustive: bool = Field(
        default=False,
        description="Decode all dev examples with every candidate, instead of "
        "dropping the worse half early.",
    )
    prefer: Literal["simpler", "best"] = Field(
        default="simpler",
        description="Among candidates that are not significantly different from the best, choose "
        "the simplest (simpler) or the one with the highest score (best). With --per-language, "
        "choose a merge only if its gain is significant (simpler), or the highest score (best).",
    )
    per_language: bool = Field(
        default=False,
        description="Choose for each language: the first adapter alone, or a merge of it with "
        "another adapter. Writes a folder of adapters with routes.",
    )
    layer_groups: int = Field(
        default=1, gt=0, description="auto: number of layer groups with separate weights."
    )
    trials: int = Field(
        default=30,
        gt=0,
        description="auto: number of weight sets that Optuna tries if a grid would be too large.",
    )
    sampler: Literal["tpe", "cma"] = Field(default="tpe", description="auto: Optuna's sampler.")
    learn_per: Literal["layer", "module"] = Field(
        default="layer", description="learn: unit that gets its own weight."
    )
    learn_steps: int = Field(default=100, gt=0, description="learn: number of gradient steps.")
    learn_lr: float = Field(default=0.02, gt=0, description="learn: learning rate.")
    learn_penalty: float = Field(
        default=1.0,
        ge=0,
        description="learn: weight of the penalty for the mean squared distance from the best "
        "scalar weights.",
    )

    @model_validator(mode="after")
    def _per_language_fits(self) -> "SearchSettings":
        if self.per_language and self.search in ("auto", "learn"):
            raise ValueError(
                f"--per-language needs a grid of weights, for example --search 0.5,0.7,0.9, not "
                f"--search {self.search}"
            )
        if self.per_language and self.into is None and self.out.suffix == ".safetensors":
            raise ValueError(
                f"--out {self.out}: --per-language writes a folder, for example -o family"
            )
        return self

    @model_validator(mode="after")
    def _learned_weights_fit(self) -> "SearchSettings":
        if self.search == "learn" and self.inactive == "keep":
            raise ValueError(
                "--search learn finds weights that do not add up to 1, but --inactive keep needs "
                "weights that do; use --inactive average, or --search auto"
            )
        return self

    @model_validator(mode="after")
    def _tasks_of_lm_eval_fit(self) -> "SearchSettings":
        if not harness_tasks(self.task):
            return self
        if self.per_language:
            raise ValueError(
                "--per-language: lm-eval tasks have no language; search for one merge on all of "
                "them, or run one search for each task"
            )
        if self.search == "learn":
            raise ValueError(
                "--search learn trains on correct answers, which lm-eval tasks do not provide as "
                "text; use auto or a grid of weights"
            )
        return self

    @classmethod
    def for_keys(cls, keys: Mapping[str, object]) -> type[Settings]:
        """Return the settings class for ``merge``; only ``search`` needs those of decoding."""
        return MergeSettings if keys.get("search") is None else cls

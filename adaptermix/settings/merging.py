"""Settings of `merge` and its search."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from adaptermix.settings import locations
from adaptermix.settings.shared import DecodingSettings, ScorerSettings, Settings
from adaptermix.settings.values import Weights


class SourceSettings(Settings):
    """What is known of adapter files that carry no config."""

    panel: ClassVar[str | None] = "Bare adapter files"

    source_rank: int | None = Field(
        default=None, gt=0, description="Rank of bare adapter files that carry no config."
    )
    source_alpha: float | None = Field(
        default=None, gt=0, description="Alpha of bare adapter files that carry no config."
    )


class MergeSettings(SourceSettings):
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
    compact: bool = Field(
        default=False,
        description="Let ranks and scalings differ between modules: a smaller file, which only "
        "loaders that read rank_pattern and alpha_pattern apply rightly.",
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
    into: Annotated[str | None, locations.Names("model")] = Field(
        default=None,
        description="Base model, folder or hub name: write it with the merge added to its weights.",
    )
    search: str | None = Field(
        default=None,
        description="Find the weights on dev data: weights of the first adapter to try "
        "(0.5,0.7,0.9), all weights of each merge (1:0.2,1:0.5), auto, or learn.",
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


class SearchSettings(MergeSettings, DecodingSettings, ScorerSettings):
    """Settings of ``merge --search``: those of a merge, and how candidates are tested."""

    panel: ClassVar[str | None] = "Search"

    exhaustive: bool = Field(
        default=False, description="Decode all dev examples with every candidate."
    )
    prefer: Literal["simpler", "best"] = Field(
        default="simpler",
        description="Of candidates that cannot be told apart, take the simplest, or the "
        "one with the best score.",
    )
    layer_groups: int = Field(
        default=1, gt=0, description="auto: groups of layers with weights of their own."
    )
    trials: int = Field(
        default=30, gt=0, description="auto: weights to try where a grid is too large."
    )
    sampler: Literal["tpe", "cma"] = Field(
        default="tpe", description="auto: Optuna's sampler for these trials."
    )
    learn_per: Literal["layer", "module"] = Field(
        default="layer", description="learn: what gets a weight of its own."
    )
    learn_steps: int = Field(default=100, gt=0, description="learn: gradient steps.")
    learn_lr: float = Field(default=0.02, gt=0, description="learn: learning rate.")
    learn_penalty: float = Field(
        default=1.0,
        ge=0,
        description="learn: pull towards the best scalar weights, times the mean squared "
        "difference.",
    )

    @classmethod
    def for_keys(cls, keys: Mapping[str, object]) -> type[Settings]:
        """Return the settings that ``merge`` needs: without ``search`` nothing is decoded."""
        return MergeSettings if keys.get("search") is None else cls

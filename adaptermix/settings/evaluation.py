"""Settings of `eval`, `retrieval` and `score`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from adaptermix.settings.paper import PAPER_LANGS
from adaptermix.settings.scored import ScoredSettings
from adaptermix.settings.shared import (
    HARNESS,
    ModelSettings,
    ScorerSettings,
    TaskName,
    harness_tasks,
)
from adaptermix.settings.values import AdapterNames, Groups, Layers, Names

_AVERAGES = ("macro average", "all")  # names of rows in the tables of eval and retrieval


def clash_of_groups(
    groups: Mapping[str, Sequence[str]] | None, langs: Sequence[str], row: str = "language"
) -> str | None:
    """Say which group has the name of another row in the results, if one has."""
    for name in groups or ():
        if name in langs or name in _AVERAGES:
            what = f"a {row}" if name in langs else "the average"
            return f"--groups: '{name}' is the name of {what}; give the group another name"
    return None


class EvalSettings(ScoredSettings):
    """Settings of ``eval``."""

    section: ClassVar[str] = "eval"
    panel: ClassVar[str | None] = "Comparison"
    main: ClassVar[tuple[str, ...]] = ("model", "adapters", "task", "langs", "out")

    adapters: AdapterNames = Field(
        default=(), description="Adapter to evaluate. Repeat the option for several."
    )
    split: Literal["test", "dev"] = Field(default="test", description="Split of the data.")
    exclude_base: bool = Field(default=False, description="Do not evaluate the base model.")
    baseline: str | None = Field(
        default=None,
        description="System that the others are compared with. Default: the main adapter of a "
        "merge if it is tested too, otherwise the base model.",
    )
    test: Literal["bootstrap", "ar"] = Field(
        default="bootstrap",
        description="Significance test: paired bootstrap, or paired approximate randomization "
        "(ar). For BLEU and chrF, both are sacreBLEU's.",
    )
    groups: Groups | None = Field(
        default=None,
        description='Groups of languages to average, such as "name=cy,sw;other=ja". Default: the '
        "paper's for massive, none for other tasks.",
    )
    out: Path = Field(
        default=Path("eval-massive"), description="Folder to write: scores and predictions."
    )

    @classmethod
    def without_effect(cls, keys: Mapping[str, Any]) -> dict[str, str]:
        """Return the keys that have no effect with the others, and why."""
        of_files = {"split": "with --src"} if keys.get("src") else {}
        return super().without_effect(keys) | of_files

    @model_validator(mode="before")
    @classmethod
    def _out_of_lm_eval(cls, given: Any) -> Any:
        is_harness = isinstance(given, dict) and harness_tasks(given.get("task"))
        return {"out": Path(f"eval-{HARNESS}")} | given if is_harness else given

    @model_validator(mode="after")
    def _something_to_test(self) -> "EvalSettings":
        if self.exclude_base and not self.adapters:
            raise ValueError("--exclude-base leaves nothing to evaluate; add --adapter PATH")
        return self

    @model_validator(mode="after")
    def _groups_have_own_names(self) -> "EvalSettings":
        if clash := clash_of_groups(self.groups, self.langs):
            raise ValueError(clash)
        return self


class RetrievalSettings(ModelSettings):
    """Settings of ``retrieval``."""

    section: ClassVar[str] = "retrieval"
    panel: ClassVar[str | None] = "Analysis"
    main: ClassVar[tuple[str, ...]] = ("model", "adapters", "data_dir", "langs", "out")

    data_dir: Path | None = Field(
        default=None,
        description="Folder with the parallel text, one file per language: eng_Latn.dev, or "
        "en.txt.",
    )
    adapters: AdapterNames = Field(
        default=(), description="Adapter to analyze. Repeat the option for several."
    )
    exclude_base: bool = Field(default=False, description="Do not analyze the base model.")
    langs: Names = Field(
        default=PAPER_LANGS,
        min_length=2,
        description="Languages, comma-separated: short codes, or FLORES-200's.",
    )
    split: str = Field(
        default="dev",
        pattern=r"^[\w-]+$",
        description="Split of the data: the suffix of its files, such as dev or devtest in "
        "FLORES-200.",
    )
    pivot: str = Field(
        default="all",
        description="Analyze all pairs of languages, or only pairs with this language.",
    )
    layers: Layers | None = Field(
        default=None,
        min_length=1,
        description="Layers, such as 0,8-16; 0 is the embeddings. Default: all.",
    )
    limit: int | None = Field(
        default=None, gt=1, description="Use the first N sentences of each language."
    )
    groups: Groups | None = Field(
        default=None,
        description='Groups of languages to average, such as "name=cy,sw;other=ja". Default: the '
        "paper's.",
    )
    scores: Path | None = Field(
        default=None,
        description="Output folder (or scores.json) of eval: correlate the base model's "
        "retrieval with the task scores over languages.",
    )
    pooling: Literal["mean", "weighted"] = Field(
        default="mean",
        description="Sentence vector: the mean of the tokens, or the mean with weights 1, 2, 3, "
        "... as in MEXA.",
    )
    pool_skip: int = Field(
        default=0,
        ge=0,
        description="Leave the first N tokens out of the mean; the first one is often an "
        "attention sink.",
    )
    neighbors: int = Field(
        default=4, gt=0, description="Number of neighbors in the margin score; xsim uses 4."
    )
    batch_size: int = Field(default=32, gt=0, description="Sentences per forward pass.")
    cache: bool = Field(default=True, description="Store representations, and reuse stored ones.")
    out: Path = Field(
        default=Path("retrieval"), description="Folder to write: the record and the tables."
    )

    @model_validator(mode="after")
    def _something_to_analyze(self) -> "RetrievalSettings":
        if self.exclude_base and not self.adapters:
            raise ValueError("--exclude-base leaves nothing to analyze; add --adapter PATH")
        if self.exclude_base and self.scores:
            raise ValueError("--scores needs the base model; remove --exclude-base")
        return self

    @model_validator(mode="after")
    def _groups_have_own_names(self) -> "RetrievalSettings":
        if clash := clash_of_groups(self.groups, self.langs):
            raise ValueError(clash)
        return self


class ScoreSettings(ScorerSettings):
    """Settings of ``score``."""

    section: ClassVar[str] = "score"
    main: ClassVar[tuple[str, ...]] = ("task", "lang", "gold", "predictions", "metrics")

    task: TaskName = Field(
        default="massive",
        description="Task: massive, wmt23, uner, or the .toml file of your own task.",
    )
    predictions: Path | None = Field(
        default=None, description="Outputs to score: one line or one JSON record per gold row."
    )
    gold: Path | None = Field(
        default=None, description="Gold file: MASSIVE's .jsonl, UNER's .iob2, or your own records."
    )
    lang: str | None = Field(default=None, description="Language of the gold file.")
    split: Literal["test", "dev", "train"] = Field(
        default="test", description="Split of a MASSIVE file."
    )
    target_lang: str | None = Field(
        default=None, description="Target language of the translation; selects BLEU's tokenizer."
    )

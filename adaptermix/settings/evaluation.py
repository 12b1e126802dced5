"""Settings of `eval`, `retrieval` and `score`."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from adaptermix.settings.paper import PAPER_LANGS
from adaptermix.settings.shared import DecodingSettings, ModelSettings, ScorerSettings, TaskName
from adaptermix.settings.values import AdapterNames, Groups, Layers, Names


class EvalSettings(DecodingSettings, ScorerSettings):
    """Settings of ``eval``."""

    section: ClassVar[str] = "eval"

    adapters: AdapterNames = Field(
        default=(), description="Adapters to test beside the base model; repeat the flag."
    )
    split: Literal["test", "dev"] = Field(default="test", description="Part of the data.")
    exclude_base: bool = Field(default=False, description="Test the adapters only.")
    baseline: str | None = Field(
        default=None,
        description="System the others are compared with; by default the main source of a merge, "
        "if it is tested too, else the base model.",
    )
    test: Literal["bootstrap", "ar"] = Field(
        default="bootstrap",
        description="Test of differences: paired bootstrap, or sacreBLEU's paired approximate "
        "randomization.",
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
    adapters: AdapterNames = Field(
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

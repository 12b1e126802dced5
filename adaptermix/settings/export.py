"""Settings of `export`."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from adaptermix.settings import locations
from adaptermix.settings.merging import SourceSettings


class ExportSettings(SourceSettings):
    """Settings of ``export``."""

    section: ClassVar[str] = "export"
    panel: ClassVar[str | None] = "Output"
    main: ClassVar[tuple[str, ...]] = ("to", "model", "out")

    to: Literal["gguf", "mlx"] = Field(
        default="gguf", description="Format: gguf for llama.cpp and Ollama, mlx for mlx-lm."
    )
    model: Annotated[str | None, locations.Names("model")] = Field(
        default=None,
        description="Base model. Names and shapes are read from its config. Default: the model "
        "that the adapter names.",
    )
    ignore_base: bool = Field(
        default=False,
        description="Allow a base model that the adapter was not trained on, if the shapes match.",
    )
    out_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Precision of the result."
    )
    out: Path = Field(default=Path("export"), description="New folder to write.")

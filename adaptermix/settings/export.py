"""Settings of `export`."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from adaptermix.settings import locations
from adaptermix.settings.merging import SourceSettings


class ExportSettings(SourceSettings):
    """Settings of ``export``."""

    section: ClassVar[str] = "export"
    panel: ClassVar[str | None] = "What to write"
    main: ClassVar[tuple[str, ...]] = ("to", "model", "out")

    to: Literal["gguf", "mlx"] = Field(
        default="gguf", description="Format: of llama.cpp and Ollama (gguf), or of mlx-lm (mlx)."
    )
    model: Annotated[str | None, locations.Names("model")] = Field(
        default=None,
        description="Base model: its config tells names and shapes. Default: the model that the "
        "adapter names.",
    )
    out_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Precision of the result."
    )
    out: Path = Field(default=Path("export"), description="New folder to write.")

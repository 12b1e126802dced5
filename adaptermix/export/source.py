"""The adapter to export, with the config of its base model."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.deltas import is_finite, scaled
from adaptermix.adapters.format import UpdateSpec
from adaptermix.errors import ArtifactError


@dataclass(frozen=True)
class Source:
    """The adapter to export.

    Attributes:
        adapter: The adapter, which the format can represent.
        base: Name of its base model.
        config: The base model's config; for a multimodal model, with its text part's values.
        dtype: Dtype of the written tensors.
        tied: Whether the base model ties its input and output embeddings.
        notes: Notes on the adapter and its base model.
    """

    adapter: Adapter
    base: str
    config: dict[str, Any] = field(repr=False)
    dtype: np.dtype
    tied: bool
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the adapter."""
        return self.adapter.path.resolve().name.removesuffix(".safetensors")

    @property
    def specs(self) -> dict[str, UpdateSpec]:
        """Descriptions of the updates, by module."""
        return {module: self.adapter.spec(module) for module in self.adapter.modules}

    @property
    def depth(self) -> int:
        """Number of blocks of the base model."""
        depth = self.config.get("num_hidden_layers")
        if not isinstance(depth, int):
            raise ArtifactError(f"the config of {self.base} has no num_hidden_layers")
        return depth

    def factors(self, module: str, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Return A and ``share`` times B, in the output dtype.

        Raises:
            ArtifactError: A number is too large for this dtype.
        """
        update = self.adapter.update(module)
        with np.errstate(over="ignore"):
            a, b = scaled(update.a, 1, self.dtype), scaled(update.b, share, self.dtype)
        if not (is_finite(a) and is_finite(b)):
            raise ArtifactError(
                f"{self.adapter.path}: {module} is too large for {self.dtype}",
                hint="export with --out-dtype float32 or bfloat16",
            )
        return a, b

"""Translation retrieval by margin score, and MEXA's score, from one similarity matrix. Torch only.

The margin score is Artetxe and Schwenk's (2019, equation 2): the cosine of two sentences, divided
by the mean of the cosines that both have with their ``k`` nearest neighbors on the other side. As
in LASER's xsim, a sentence's candidates are its ``k`` nearest neighbors, and the one with the
largest margin score is retrieved.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from adaptermix.models.pooling import widened

NEIGHBORS = 4  # xsim's default
_CELLS = 1 << 24  # cells of the similarity matrix in memory at a time: 64 MB in float32


class Neighbors(NamedTuple):
    """Nearest neighbors of each sentence on one side, nearest first; ties in index order."""

    cosines: Float[Tensor, "queries k"]
    indices: Int[Tensor, "queries k"]


@dataclass(frozen=True)
class Retrieval:
    """The result of retrieval between two sides.

    Attributes:
        targets: Index of the target retrieved by each source.
        sources: Index of the source retrieved by each target.
        mexa: Share of pairs whose cosine is strictly above all others of their row and column.
    """

    targets: Int[Tensor, " src"]
    sources: Int[Tensor, " tgt"]
    mexa: float

    @property
    def forward_accuracy(self) -> float:
        """Share of sources that retrieve their translation: 1 minus xsim's error rate."""
        return _share_of_translations(self.targets)

    @property
    def backward_accuracy(self) -> float:
        """Share of targets that retrieve their translation."""
        return _share_of_translations(self.sources)


def normalized(vectors: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
    """Return the vectors with unit length, in float32 or wider, as ``retrieve`` needs them."""
    return functional.normalize(widened(vectors), dim=1)


def retrieve(
    sources: Float[Tensor, "rows hidden"],
    targets: Float[Tensor, "rows hidden"],
    neighbors: int = NEIGHBORS,
    *,
    cells: int = _CELLS,
) -> Retrieval:
    """Retrieve translations in both directions from one similarity matrix.

    The matrix is computed in blocks of rows. If there are fewer sentences than neighbors, all are
    candidates.

    Args:
        sources: Unit vectors; row i is a translation of row i of ``targets``.
        targets: Unit vectors.
        neighbors: k.
        cells: Maximum number of cells of the matrix in memory at a time.

    Raises:
        ValueError: There are no sentences.
    """
    kept = max(neighbors, 2)  # MEXA's score needs the second nearest
    rows: list[Neighbors] = []
    columns: Neighbors | None = None
    for start, block in _blocks(sources, targets, cells):
        rows.append(nearest(block, kept))
        found = nearest(block.mT, kept)
        found = Neighbors(found.cosines, found.indices + start)
        columns = found if columns is None else _merged(columns, found, kept)
    if columns is None:
        raise ValueError("there are no sentences")
    forward, backward = Neighbors(*map(torch.cat, zip(*rows, strict=True))), columns
    own, other = (side.cosines[:, :neighbors].mean(dim=1) for side in (forward, backward))
    return Retrieval(
        targets=_best(forward, own, other, neighbors),
        sources=_best(backward, other, own, neighbors),
        mexa=(_is_alone(forward) & _is_alone(backward)).double().mean().item(),
    )


def nearest(similarities: Float[Tensor, "queries candidates"], count: int) -> Neighbors:
    """Return the ``count`` largest cosines of each row, or all if there are fewer.

    ``topk`` does not define the order of ties, so rows with ties are sorted again.
    """
    size = similarities.shape[1]
    cosines, indices = similarities.topk(min(count + 1, size), dim=1)
    tied = (cosines[:, 1:] == cosines[:, :-1]).any(dim=1)
    if tied.any():
        values, order = similarities[tied].sort(dim=1, descending=True, stable=True)
        cosines[tied] = values[:, : cosines.shape[1]]
        indices[tied] = order[:, : cosines.shape[1]]
    return Neighbors(cosines[:, :count], indices[:, :count])


def _blocks(sources: Tensor, targets: Tensor, cells: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the similarity matrix in blocks of rows, each with the index of its first row."""
    height = max(1, cells // max(1, len(targets)))
    for start in range(0, len(sources), height):
        yield start, sources[start : start + height] @ targets.mT


def _merged(earlier: Neighbors, later: Neighbors, count: int) -> Neighbors:
    """Merge neighbors found among earlier rows with those found among later rows."""
    cosines = torch.cat([earlier.cosines, later.cosines], dim=1)
    indices = torch.cat([earlier.indices, later.indices], dim=1)
    cosines, order = cosines.sort(dim=1, descending=True, stable=True)
    return Neighbors(cosines[:, :count], indices.gather(1, order)[:, :count])


def _best(found: Neighbors, own: Tensor, other: Tensor, neighbors: int) -> Tensor:
    """Return each row's candidate with the largest margin score."""
    candidates = found.indices[:, :neighbors]
    scale = (own.unsqueeze(1) + other[candidates]) / 2  # [queries k]
    best = (found.cosines[:, :neighbors] / scale).argmax(dim=1, keepdim=True)
    return candidates.gather(1, best).squeeze(1)


def _is_alone(found: Neighbors) -> Tensor:
    """Whether each row's translation is strictly nearer than all other sentences."""
    is_nearest = found.indices[:, 0] == _indices(found.indices)
    if found.cosines.shape[1] == 1:
        return is_nearest
    return is_nearest & (found.cosines[:, 0] > found.cosines[:, 1])


def _share_of_translations(retrieved: Tensor) -> float:
    return (retrieved == _indices(retrieved)).double().mean().item()


def _indices(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device)

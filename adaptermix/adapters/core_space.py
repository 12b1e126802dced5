"""The low-dimensional space that contains all updates of one layer.

The delta weights of N updates of one layer span at most R directions on either side, where R is the
sum of their ranks. With orthonormal bases U [out R_b] of all columns of the B_i, and V [in R_a] of
all rows of the A_i, every update is

    delta_i = U core_i V^T,   core_i = U^T (s_i B_i A_i) V   [R_b R_a],

without loss. An SVD or norm of full matrices can be computed from the cores at the cost of R x R
matrices; no out x in matrix is ever formed. The bases are the singular vectors of [B_1 ... B_N] and
of [A_1; ...; A_N], computed from their R x R Gram matrices in float64: the reference bases of Core
Space merging (Panariello et al. 2025). Directions whose singular value is zero to working precision
are dropped, so that an untrained B has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adaptermix.adapters.deltas import LoraUpdate, widened

if TYPE_CHECKING:
    from jaxtyping import Float

NEGLIGIBLE = 1e-6  # singular values below this share of the largest are rounding errors


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis, kept as a product so that only results have the long dimension.

    Attributes:
        stacked: The vectors that it spans, in float64 because their sizes may differ widely.
        combinations: The basis vectors as linear combinations of the columns of ``stacked``.
    """

    stacked: Float[np.ndarray, "side stacked"]
    combinations: Float[np.ndarray, "stacked directions"]

    @property
    def vectors(self) -> Float[np.ndarray, "side directions"]:
        """The basis as a matrix."""
        vectors: np.ndarray = self.stacked @ self.combinations
        return vectors

    def rows(
        self, coordinates: Float[np.ndarray, "... n directions"]
    ) -> Float[np.ndarray, "... n side"]:
        """Return the vectors with these coordinates, as rows."""
        rows: np.ndarray = (coordinates @ self.combinations.T) @ self.stacked.T
        return rows

    def columns(
        self, coordinates: Float[np.ndarray, "directions n"]
    ) -> Float[np.ndarray, "side n"]:
        """Return the vectors with these coordinates, as columns."""
        return self.rows(coordinates.T).T


@dataclass(frozen=True)
class CoreSpace:
    """Bases of one layer's updates, and the updates' coordinates in them.

    Attributes:
        left: U, the basis of the columns of all B.
        right: V, the basis of the rows of all A.
        cores: One matrix per update, including its scaling, in float64.
    """

    left: Basis
    right: Basis
    cores: Float[np.ndarray, "updates left right"]


def weighted_sum(
    matrices: Float[np.ndarray, "n rows columns"], weights: Sequence[float]
) -> Float[np.ndarray, "rows columns"]:
    """Return sum_i w_i M_i."""
    return np.tensordot(np.asarray(weights, matrices.dtype), matrices, axes=1)


def core_space(updates: Sequence[LoraUpdate]) -> CoreSpace:
    """Return the bases and cores of the updates of one layer."""
    left, columns = _basis([update.b for update in updates])
    right, rows = _basis([update.a.T for update in updates])
    cores = [u.scaling * (b @ a.T) for u, b, a in zip(updates, columns, rows, strict=True)]
    return CoreSpace(left, right, np.stack(cores))


def subspaces(
    update: LoraUpdate,
) -> tuple[Float[np.ndarray, "out directions"], Float[np.ndarray, "in directions"]]:
    """Return orthonormal bases of a delta weight's column space and row space.

    The bases are the singular vectors, largest singular value first. Those with a singular value of
    zero to working precision are dropped, so that unused rank and cancelling terms do not count.
    The bases of a zero delta weight are empty.
    """
    space = core_space([update])
    u, values, vt = np.linalg.svd(space.cores[0], full_matrices=False)
    a, b = widened(update.a), widened(update.b)
    # Rounding errors are relative to this size.
    size = abs(update.scaling) * float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    kept = values > 4 * np.finfo(b.dtype).eps * size
    return space.left.columns(u[:, kept]), space.right.columns(vt[kept].T)


def subspace_overlap(one: Float[np.ndarray, "side m"], other: Float[np.ndarray, "side n"]) -> float:
    """Return the mean squared cosine of the principal angles between two subspaces.

    This is ||U^T V||_F^2 / min(m, n) for orthonormal bases U and V, the similarity with which Hu et
    al. (2021, section 7.2) compare LoRA factors. At 1, the smaller subspace lies in the larger one;
    at 0, they are orthogonal.
    """
    return float(np.square(one.T @ other).sum()) / min(len(one.T), len(other.T))


def random_overlap(one: Float[np.ndarray, "side m"], other: Float[np.ndarray, "side n"]) -> float:
    """Return the expected overlap of random subspaces: max(m, n) / side.

    The squared cosine of a random direction with a given one has the mean 1 / side, and
    ||U^T V||_F^2 is the sum of m n of them.
    """
    return max(len(one.T), len(other.T)) / len(one)


def _basis(blocks: Sequence[Float[np.ndarray, "side _"]]) -> tuple[Basis, list[np.ndarray]]:
    """Return a basis of the columns of all blocks, and each block's coordinates in it."""
    stacked = np.concatenate(blocks, axis=1, dtype=np.float64)
    is_wide = any(block.dtype == np.float64 for block in blocks)
    values, vectors = (_by_qr if is_wide else _by_squares)(stacked)
    coordinates = (vectors * values).T  # [directions R]
    ends = np.cumsum([block.shape[1] for block in blocks])
    return Basis(stacked, vectors / values), np.split(coordinates, ends[:-1], axis=1)


def _by_squares(
    stacked: Float[np.ndarray, "side stacked"],
) -> tuple[Float[np.ndarray, " directions"], Float[np.ndarray, "stacked directions"]]:
    """Return the nonzero singular values, largest first, and their right singular vectors.

    The eigenvectors of the Gram matrix take a fraction of the time of a QR decomposition. They
    resolve directions down to 1e-7 of the largest, which suffices for factors of at most float32.
    """
    noise = 4 * min(stacked.shape) * np.finfo(np.float64).eps
    squares, vectors = np.linalg.eigh(-(stacked.T @ stacked))  # negated: largest first
    kept = int(np.sum(squares < squares[:1] * noise))
    return np.sqrt(-squares[:kept]), vectors[:, :kept]


def _by_qr(
    stacked: Float[np.ndarray, "side stacked"],
) -> tuple[Float[np.ndarray, " directions"], Float[np.ndarray, "stacked directions"]]:
    """Return the same for float64 factors, whose directions may be much smaller."""
    noise = 4 * min(stacked.shape) * np.finfo(np.float64).eps
    triangle = np.linalg.qr(stacked, mode="r")
    _, values, transposed = np.linalg.svd(triangle, full_matrices=False)
    kept = int(np.sum(values > values[:1] * noise))
    return values[:kept], transposed[:kept].T


def truncate(
    core: Float[np.ndarray, "left right"], rank: int, *, isotropic: bool = False
) -> tuple[Float[np.ndarray, "left rank"], Float[np.ndarray, "right rank"]]:
    """Return the factors of the best approximation of the core with rank ``rank``.

    ``core ~ left @ right.T`` by truncated SVD (Eckart and Young 1936). Each factor contains the
    square root of the singular values, so that both fit the range of half precision. If the core
    has fewer than ``rank`` directions, the remaining columns are zeros.

    Args:
        core: A matrix.
        rank: Number of columns of either factor.
        isotropic: Replace the kept singular values with their mean (Iso-C, Marczak et al. 2025).
            Zeros are excluded from the mean, which over the full matrix would include thousands of
            directions that no update has.
    """
    u, values, vt = np.linalg.svd(core, full_matrices=False)
    values = values[:rank]
    if isotropic:
        is_there = values > values[:1] * NEGLIGIBLE
        values = is_there * values.sum() / max(1, is_there.sum())
    roots = np.sqrt(values)
    missing = ((0, 0), (0, rank - len(roots)))
    return np.pad(u[:, :rank] * roots, missing), np.pad(vt[:rank].T * roots, missing)


def update_in(
    space: CoreSpace,
    left: Float[np.ndarray, "left rank"],
    right: Float[np.ndarray, "right rank"],
    dtype: np.dtype,
    bias: Float[np.ndarray, " out"] | None = None,
) -> LoraUpdate:
    """Return the update whose core is ``left @ right.T``, with scaling 1."""
    a, b = space.right.rows(right.T), space.left.columns(left)
    return LoraUpdate(a.astype(dtype), b.astype(dtype), 1.0, bias)

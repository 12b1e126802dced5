"""The small space in which all updates of one layer live.

The delta weights of N updates of one layer span at most R = sum of their ranks directions on
either side. With orthonormal bases U [out R_b] of all columns of the B_i, and V [in R_a] of all
rows of the A_i, every update is

    delta_i = U core_i V^T,   core_i = U^T (s_i B_i A_i) V   [R_b R_a],

without loss. What is done to full matrices by an SVD or by their norm can be done to the cores at
the cost of R x R; no out x in matrix is ever formed. The bases are the singular vectors of
[B_1 ... B_N] and of [A_1; ...; A_N], found by their R x R Gram matrices in float64: the reference
bases of Core Space merging (Panariello et al. 2025). Directions whose singular value is zero to
working precision are left out, so that an untrained B takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adaptermix.adapters.deltas import LoraUpdate, widened

if TYPE_CHECKING:
    from jaxtyping import Float

NEGLIGIBLE = 1e-6  # a singular value of this share of the largest is rounding, no direction


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis that is left as a product: no long matrix is made but the result.

    Attributes:
        stacked: What it is a basis of, in float64: its directions may differ much in size.
        combinations: The basis in terms of the columns of ``stacked``.
    """

    stacked: Float[np.ndarray, "side stacked"]
    combinations: Float[np.ndarray, "stacked directions"]

    @property
    def vectors(self) -> Float[np.ndarray, "side directions"]:
        """The basis itself."""
        vectors: np.ndarray = self.stacked @ self.combinations
        return vectors

    def rows(
        self, coordinates: Float[np.ndarray, "... n directions"]
    ) -> Float[np.ndarray, "... n side"]:
        """Return the vectors that have these coordinates as rows."""
        rows: np.ndarray = (coordinates @ self.combinations.T) @ self.stacked.T
        return rows

    def columns(
        self, coordinates: Float[np.ndarray, "directions n"]
    ) -> Float[np.ndarray, "side n"]:
        """Return them as columns."""
        return self.rows(coordinates.T).T


@dataclass(frozen=True)
class CoreSpace:
    """Bases of one layer's updates, and the updates in them.

    Attributes:
        left: U, of the columns of all B.
        right: V, of the rows of all A.
        cores: One matrix per update, its scaling included, in float64.
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

    They are its singular vectors, largest singular value first; those whose value is zero to
    working precision are left out, so that neither a rank that is not used nor terms that cancel
    count. Nothing is left of a delta weight of zero.
    """
    space = core_space([update])
    u, values, vt = np.linalg.svd(space.cores[0], full_matrices=False)
    a, b = widened(update.a), widened(update.b)
    # What rounding errors are relative to.
    size = abs(update.scaling) * float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    kept = values > 4 * np.finfo(b.dtype).eps * size
    return space.left.columns(u[:, kept]), space.right.columns(vt[kept].T)


def subspace_overlap(one: Float[np.ndarray, "side m"], other: Float[np.ndarray, "side n"]) -> float:
    """Return the mean squared cosine of the principal angles between two subspaces.

    ||U^T V||_F^2 / min(m, n) for orthonormal bases U and V: the similarity by which Hu et al.
    (2021, section 7.2) compare LoRA factors. At 1 the smaller subspace lies in the larger, at 0
    they are orthogonal.
    """
    return float(np.square(one.T @ other).sum()) / min(len(one.T), len(other.T))


def random_overlap(one: Float[np.ndarray, "side m"], other: Float[np.ndarray, "side n"]) -> float:
    """Return the overlap to expect of random subspaces: max(m, n) / side.

    Every squared cosine of a random direction with a given one has the mean 1 / side, and there
    are m n of them in ||U^T V||_F^2.
    """
    return max(len(one.T), len(other.T)) / len(one)


def _basis(blocks: Sequence[Float[np.ndarray, "side _"]]) -> tuple[Basis, list[np.ndarray]]:
    """Return a basis of the columns of several blocks, and each block's coordinates in it."""
    stacked = np.concatenate(blocks, axis=1, dtype=np.float64)
    is_wide = any(block.dtype == np.float64 for block in blocks)
    values, vectors = (_by_qr if is_wide else _by_squares)(stacked)
    coordinates = (vectors * values).T  # [directions R]
    ends = np.cumsum([block.shape[1] for block in blocks])
    return Basis(stacked, vectors / values), np.split(coordinates, ends[:-1], axis=1)


def _by_squares(
    stacked: Float[np.ndarray, "side stacked"],
) -> tuple[Float[np.ndarray, " directions"], Float[np.ndarray, "stacked directions"]]:
    """Return singular values that are not zero, the largest first, with their right vectors.

    The eigenvectors of the Gram matrix take a fraction of a QR's time. They tell directions of
    1e-7 of the largest, which is all that factors of float32 or less have.
    """
    noise = 4 * min(stacked.shape) * np.finfo(np.float64).eps
    squares, vectors = np.linalg.eigh(-(stacked.T @ stacked))  # its negative: the largest first
    kept = int(np.sum(squares < squares[0] * noise))
    return np.sqrt(-squares[:kept]), vectors[:, :kept]


def _by_qr(
    stacked: Float[np.ndarray, "side stacked"],
) -> tuple[Float[np.ndarray, " directions"], Float[np.ndarray, "stacked directions"]]:
    """Return the same, of factors whose directions may be much smaller."""
    noise = 4 * min(stacked.shape) * np.finfo(np.float64).eps
    triangle = np.linalg.qr(stacked, mode="r")
    _, values, transposed = np.linalg.svd(triangle, full_matrices=False)
    kept = int(np.sum(values > values[0] * noise))
    return values[:kept], transposed[:kept].T


def truncate(
    core: Float[np.ndarray, "left right"], rank: int, *, isotropic: bool = False
) -> tuple[Float[np.ndarray, "left rank"], Float[np.ndarray, "right rank"]]:
    """Return the sides of the best approximation of the core by a product of rank ``rank``.

    ``core ~ left @ right.T`` by the SVD (Eckart and Young 1936). Each side takes the root of the
    singular values, so that neither is hard to hold in half precision. Where the core has fewer
    than ``rank`` directions, the rest are zeros.

    Args:
        core: A matrix.
        rank: Number of columns of either side.
        isotropic: Replace the singular values that are kept by their mean (Iso-C, Marczak et al.
            2025). Those that are zero have no direction, and stay out of the mean: in the full
            matrix it would be taken over thousands of directions that no update has.
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

"""The small space in which all updates of one layer live. Torch only.

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

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from adaptermix.adapters.deltas import LoraUpdate, widened

NEGLIGIBLE = 1e-6  # a singular value of this share of the largest is rounding, no direction


_GRADED = 1e-2  # where singular values differ more, combinations are made in float64


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis that is left as a product: no long matrix is made but the result.

    Attributes:
        stacked: What it is a basis of, in float64 where its directions differ much in size.
        combinations: The basis in terms of the columns of ``stacked``, in float64.
    """

    stacked: Float[Tensor, "side stacked"]
    combinations: Float[Tensor, "stacked directions"]

    @property
    def vectors(self) -> Float[Tensor, "side directions"]:
        """The basis itself."""
        return self.stacked @ self.combinations.to(self.stacked.dtype)

    def rows(self, coordinates: Float[Tensor, "... n directions"]) -> Float[Tensor, "... n side"]:
        """Return the vectors that have these coordinates as rows, in the dtype of ``stacked``."""
        combined = coordinates.to(self.combinations.dtype) @ self.combinations.mT
        return combined.to(self.stacked.dtype) @ self.stacked.mT

    def columns(self, coordinates: Float[Tensor, "directions n"]) -> Float[Tensor, "side n"]:
        """Return them as columns."""
        return self.rows(coordinates.mT).mT


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
    cores: Float[Tensor, "updates left right"]


def weighted_sum(
    matrices: Float[Tensor, "n rows columns"], weights: Sequence[float]
) -> Float[Tensor, "rows columns"]:
    """Return sum_i w_i M_i."""
    row = torch.tensor(weights, dtype=matrices.dtype) @ matrices.flatten(1)
    return row.view(matrices.shape[1:])


def core_space(updates: Sequence[LoraUpdate]) -> CoreSpace:
    """Return the bases and cores of the updates of one layer."""
    ranks = [update.rank for update in updates]
    left, columns = _basis(widened(torch.cat([update.b for update in updates], dim=1)), ranks)
    right, rows = _basis(widened(torch.cat([update.a for update in updates])).mT, ranks)
    cores = torch.stack(
        [update.scaling * (b @ a.mT) for update, b, a in zip(updates, columns, rows, strict=True)]
    )
    return CoreSpace(left, right, cores)


def subspaces(
    update: LoraUpdate,
) -> tuple[Float[Tensor, "out directions"], Float[Tensor, "in directions"]]:
    """Return orthonormal bases of a delta weight's column space and row space.

    They are its singular vectors, largest singular value first; those whose value is zero to
    working precision are left out, so that neither a rank that is not used nor terms that cancel
    count. Nothing is left of a delta weight of zero.
    """
    space = core_space([update])
    u, values, vt = torch.linalg.svd(space.cores[0], full_matrices=False)
    factors = (widened(factor).norm().item() for factor in (update.a, update.b))
    size = abs(update.scaling) * math.prod(factors)  # what rounding errors are relative to
    kept = values > 4 * torch.finfo(widened(update.b).dtype).eps * size
    return space.left.columns(u[:, kept]), space.right.columns(vt[kept].mT)


def subspace_overlap(one: Float[Tensor, "side m"], other: Float[Tensor, "side n"]) -> float:
    """Return the mean squared cosine of the principal angles between two subspaces.

    ||U^T V||_F^2 / min(m, n) for orthonormal bases U and V: the similarity by which Hu et al.
    (2021, section 7.2) compare LoRA factors. At 1 the smaller subspace lies in the larger, at 0
    they are orthogonal.
    """
    return float((one.mT @ other).square().sum()) / min(one.shape[1], other.shape[1])


def random_overlap(one: Float[Tensor, "side m"], other: Float[Tensor, "side n"]) -> float:
    """Return the overlap to expect of random subspaces: max(m, n) / side.

    Every squared cosine of a random direction with a given one has the mean 1 / side, and there
    are m n of them in ||U^T V||_F^2.
    """
    return max(one.shape[1], other.shape[1]) / one.shape[0]


def _basis(stacked: Float[Tensor, "side stacked"], widths: list[int]) -> tuple[Basis, list[Tensor]]:
    """Return a basis of the columns of several blocks, and each block's coordinates in it."""
    values, vectors = _right_singular_vectors(stacked)
    coordinates = (vectors * values).mT  # [directions R]
    if len(values) and values[-1].item() < _GRADED * values[0].item():
        stacked = stacked.double()
    return Basis(stacked, vectors / values), list(coordinates.split(widths, dim=1))


def _right_singular_vectors(
    stacked: Float[Tensor, "side stacked"],
) -> tuple[Float[Tensor, " directions"], Float[Tensor, "stacked directions"]]:
    """Return singular values that are not zero, the largest first, with their right vectors.

    Those of a float32 matrix are found by the eigenvectors of its Gram matrix in float64, which
    takes half as long as a QR in float32 and sees directions of 1e-7 of the largest. A float64
    matrix needs the QR.
    """
    noise = 4 * min(stacked.shape) * torch.finfo(torch.float64).eps
    if stacked.dtype == torch.float64:
        triangle = torch.linalg.qr(stacked, mode="r").R
        _, values, transposed = torch.linalg.svd(triangle, full_matrices=False)
        kept = int((values > values[0] * noise).sum())
        return values[:kept], transposed[:kept].mT
    wide = stacked.double()
    squares, vectors = torch.linalg.eigh(-(wide.mT @ wide))  # of its negative: the largest first
    kept = int((squares < squares[0] * noise).sum())
    return squares[:kept].neg().sqrt(), vectors[:, :kept]


def truncate(
    core: Float[Tensor, "left right"], rank: int, *, isotropic: bool = False
) -> tuple[Float[Tensor, "left rank"], Float[Tensor, "right rank"]]:
    """Return the sides of the best approximation of the core by a product of rank ``rank``.

    ``core ~ left @ right.mT`` by the SVD (Eckart and Young 1936). Each side takes the root of the
    singular values, so that neither is hard to hold in half precision. Where the core has fewer
    than ``rank`` directions, the rest are zeros.

    Args:
        core: A matrix.
        rank: Number of columns of either side.
        isotropic: Replace the singular values that are kept by their mean (Iso-C, Marczak et al.
            2025). Those that are zero have no direction, and stay out of the mean: in the full
            matrix it would be taken over thousands of directions that no update has.
    """
    u, values, vt = torch.linalg.svd(core, full_matrices=False)
    values = values[:rank]
    if isotropic:
        is_there = values > values[:1] * NEGLIGIBLE
        values = is_there * values.sum() / is_there.sum().clamp_min(1)
    roots = values.sqrt()
    missing = rank - len(roots)
    left, right = u[:, :rank] * roots, vt[:rank].mT * roots
    if missing > 0:
        left, right = (torch.nn.functional.pad(side, (0, missing)) for side in (left, right))
    return left, right


def update_in(
    space: CoreSpace,
    left: Float[Tensor, "left rank"],
    right: Float[Tensor, "right rank"],
    dtype: torch.dtype,
    bias: Float[Tensor, " out"] | None = None,
) -> LoraUpdate:
    """Return the update whose core is ``left @ right.mT``, with scaling 1."""
    a, b = space.right.rows(right.mT), space.left.columns(left)
    return LoraUpdate(a.to(dtype), b.to(dtype), 1.0, bias)

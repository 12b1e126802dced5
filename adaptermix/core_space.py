"""The small space in which all updates of one layer live. Torch only.

The delta weights of N updates of one layer span at most R = sum of their ranks directions on
either side. With orthonormal bases U [out R_b] of all columns of the B_i, and V [in R_a] of all
rows of the A_i, every update is

    delta_i = U core_i V^T,   core_i = U^T (s_i B_i A_i) V   [R_b R_a],

without loss. What is done to full matrices by an SVD or by their norm can be done to the cores at
the cost of R x R; no out x in matrix is ever formed. The bases are the singular vectors of
[B_1 ... B_N] and of [A_1; ...; A_N], found by one QR per side and an SVD of the R x R triangle:
the reference bases of Core Space merging (Panariello et al. 2025). Directions whose singular
value is zero to working precision are left out, so that an untrained B takes no part.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from adaptermix.deltas import LoraUpdate, widened

NEGLIGIBLE = 1e-6  # a singular value of this share of the largest is rounding, no direction


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis that is left as a product: its only long matrix is formed once less.

    Attributes:
        frame: Orthonormal columns.
        rotation: Orthonormal columns in those, in float64.
    """

    frame: Float[Tensor, "side stacked"]
    rotation: Float[Tensor, "stacked directions"]

    @property
    def vectors(self) -> Float[Tensor, "side directions"]:
        """The basis itself."""
        return self.frame @ self.rotation.to(self.frame.dtype)

    def rows(self, coordinates: Float[Tensor, "... n directions"]) -> Float[Tensor, "... n side"]:
        """Return the vectors that have these coordinates as rows, in the frame's dtype."""
        turned = coordinates.to(self.rotation.dtype) @ self.rotation.mT
        return turned.to(self.frame.dtype) @ self.frame.mT

    def columns(self, coordinates: Float[Tensor, "directions n"]) -> Float[Tensor, "side n"]:
        """Return them as columns; a QR stores its frame so that the rows are faster to make."""
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
    return torch.einsum("n,nij->ij", torch.tensor(weights, dtype=matrices.dtype), matrices)


def core_space(updates: Sequence[LoraUpdate]) -> CoreSpace:
    """Return the bases and cores of the updates of one layer."""
    ranks = [update.rank for update in updates]
    left, columns = _basis(torch.cat([widened(update.b) for update in updates], dim=1), ranks)
    right, rows = _basis(torch.cat([widened(update.a) for update in updates]).mT, ranks)
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
    kept = values > 4 * torch.finfo(space.left.frame.dtype).eps * size
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
    frame, triangle = torch.linalg.qr(stacked)  # [side R], [R columns]
    rotation, values, columns = torch.linalg.svd(triangle.double(), full_matrices=False)
    noise = 4 * len(values) * torch.finfo(stacked.dtype).eps
    kept = int((values > values[:1] * noise).sum())
    coordinates = values[:kept, None] * columns[:kept]  # [R columns]
    return Basis(frame, rotation[:, :kept]), list(coordinates.split(widths, dim=1))


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
    left, right = (
        torch.nn.functional.pad(side[:, :rank] * roots, (0, missing)) for side in (u, vt.mT)
    )
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

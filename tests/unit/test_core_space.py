"""The small space against dense singular value decompositions in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.adapters.core_space import core_space, truncate, update_in, weighted_sum
from adaptermix.adapters.deltas import LoraUpdate

# Sampled, because Hypothesis otherwise draws small numbers most of the time.
SIDES = st.sampled_from([1, 2, 5, 17, 40, 70])
RANKS = st.sampled_from([1, 2, 3, 4, 8, 16, 31, 64])


def random_update(rank, out, inn, scaling, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inn, generator=generator, dtype=torch.float64)
    b = torch.randn(out, rank, generator=generator, dtype=torch.float64)
    return LoraUpdate(a.to(dtype), b.to(dtype), scaling)


def dense(update):
    """The delta weight, [out in], in float64."""
    return update.scaling * (update.b.double() @ update.a.double())


@st.composite
def layers(draw, dtype=torch.float64):
    """The updates of one layer: 1, 2, 3 or 8 of them, of any shape and of ranks 1 to 64."""
    out, inn = draw(SIDES), draw(SIDES)
    seed = draw(st.integers(0, 10_000))
    count = draw(st.sampled_from([1, 2, 3, 8]))
    return [
        random_update(draw(RANKS), out, inn, draw(st.floats(0.1, 4)), 10 * seed + at, dtype)
        for at in range(count)
    ]


@given(layers())
def test_cores_lose_nothing_and_bases_are_orthonormal(updates):
    space = core_space(updates)
    for basis in (space.left.vectors, space.right.vectors):
        eye = torch.eye(basis.shape[1], dtype=torch.float64)
        torch.testing.assert_close(basis.mT @ basis, eye)
    for update, core in zip(updates, space.cores, strict=True):
        torch.testing.assert_close(
            space.left.vectors @ core @ space.right.vectors.mT, dense(update), rtol=1e-9, atol=1e-9
        )


@given(layers())
def test_bases_are_the_singular_vectors_of_the_stacked_factors(updates):
    space = core_space(updates)
    stacks = (torch.cat([u.b for u in updates], 1), torch.cat([u.a for u in updates]).mT)
    for stack, basis in zip(stacks, (space.left.vectors, space.right.vectors), strict=True):
        vectors = torch.linalg.svd(stack, full_matrices=False)[0]
        assert basis.shape == vectors.shape
        torch.testing.assert_close(  # each is that vector, or its negative
            (basis * vectors).sum(dim=0).abs(), torch.ones(basis.shape[1], dtype=torch.float64)
        )


@given(layers(), st.integers(1, 70))
def test_truncation_is_the_best_approximation_of_its_rank(updates, rank):
    space = core_space(updates)
    delta = sum(dense(update) for update in updates)
    left, right = truncate(weighted_sum(space.cores, [1.0] * len(updates)), rank)
    assert left.shape[1] == right.shape[1] == rank
    found = update_in(space, left, right, torch.float64)
    u, values, vt = torch.linalg.svd(delta, full_matrices=False)
    best = (u * values)[:, :rank] @ vt[:rank]
    error = torch.linalg.norm(dense(found) - delta)
    torch.testing.assert_close(error, values[rank:].norm(), rtol=1e-7, atol=1e-7)
    if rank >= len(values) or values[rank - 1] - values[rank] > 1e-3 * values[0]:
        torch.testing.assert_close(dense(found), best, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(data=st.data())
def test_narrower_factors_lose_nothing_either(dtype, data):
    updates = data.draw(layers(dtype))
    space = core_space(updates)
    left, right = (basis.vectors.double() for basis in (space.left, space.right))
    for basis in (left, right):
        eye = torch.eye(basis.shape[1], dtype=torch.float64)
        torch.testing.assert_close(basis.mT @ basis, eye, rtol=0, atol=1e-4)
    for update, core in zip(updates, space.cores, strict=True):
        size = update.scaling * update.b.double().norm() * update.a.double().norm()
        assert (left @ core @ right.mT - dense(update)).norm() < 1e-6 * size


def test_narrower_factors_are_mostly_worked_on_in_float32():
    first, second = (random_update(rank, 40, 30, 2.0, rank, torch.bfloat16) for rank in (4, 8))
    assert core_space([first, second]).left.vectors.dtype == torch.float32
    tiny = LoraUpdate(second.a, second.b * 1e-4, 2.0)
    assert core_space([first, tiny]).left.vectors.dtype == torch.float64


@pytest.mark.parametrize("apart", [1e-1, 1e-3, 1e-5, 1e-6])
def test_what_two_updates_differ_by_is_kept_however_little_it_is(apart):
    """Two checkpoints of one training, one taken from the other."""
    first, other = (random_update(8, 70, 60, 2.0, seed, torch.float32) for seed in (1, 2))
    second = LoraUpdate(first.a + apart * other.a, first.b + apart * other.b, 2.0)
    difference = dense(second) - dense(first)
    space = core_space([first, second])
    sides = truncate(weighted_sum(space.cores, [-1.0, 1.0]), 16)
    found = dense(update_in(space, *sides, torch.float64))
    assert (found - difference).norm() < 1e-6 * difference.norm()


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e6])
def test_small_factors_count_with_the_size_of_their_product(size):
    first, second = (random_update(8, 70, 60, 2.0, seed, torch.float32) for seed in (1, 2))
    second = LoraUpdate(second.a / size, second.b * size, 2.0)
    space = core_space([first, second])
    for update, core in zip((first, second), space.cores, strict=True):
        sides = truncate(core, 8)
        found = dense(update_in(space, *sides, torch.float64))
        assert (found - dense(update)).norm() < 1e-6 * dense(update).norm()


def test_an_untrained_update_takes_no_direction_on_the_left():
    trained, untrained = random_update(3, 20, 30, 1.0, 1), random_update(5, 20, 30, 1.0, 2)
    space = core_space([trained, LoraUpdate(untrained.a, untrained.b * 0, 1.0)])
    assert space.left.vectors.shape == (20, 3)
    assert space.right.vectors.shape == (30, 8)
    assert not space.cores[1].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_directions_that_updates_share_are_counted_once(dtype):
    update = random_update(4, 20, 30, 2.0, 1, dtype)
    space = core_space([update, update, update])
    assert space.cores.shape == (3, 4, 4)


def test_nothing_but_untrained_updates_leaves_an_empty_space():
    update = LoraUpdate(torch.ones(2, 5), torch.zeros(4, 2), 1.0)
    space = core_space([update])
    assert space.left.vectors.shape == (4, 0)
    left, right = truncate(weighted_sum(space.cores, [1.0]), 2)
    assert not dense(update_in(space, left, right, torch.float32)).any()

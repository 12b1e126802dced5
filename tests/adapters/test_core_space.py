"""The small space against dense singular value decompositions in float64."""

import numpy as np
import pytest
from helpers.updates import BFLOAT16, assert_close, dense, layers, norm, random_update
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.adapters.core_space import (
    core_space,
    subspaces,
    truncate,
    update_in,
    weighted_sum,
)
from adaptermix.adapters.deltas import LoraUpdate


@given(layers())
def test_cores_lose_nothing_and_bases_are_orthonormal(updates):
    space = core_space(updates)
    for basis in (space.left.vectors, space.right.vectors):
        eye = np.eye(basis.shape[1])
        assert_close(basis.T @ basis, eye)
    for update, core in zip(updates, space.cores, strict=True):
        assert_close(
            space.left.vectors @ core @ space.right.vectors.T, dense(update), rtol=1e-9, atol=1e-9
        )


@given(layers())
def test_bases_are_the_singular_vectors_of_the_stacked_factors(updates):
    space = core_space(updates)
    stacks = (np.concatenate([u.b for u in updates], 1), np.concatenate([u.a for u in updates]).T)
    for stack, basis in zip(stacks, (space.left.vectors, space.right.vectors), strict=True):
        vectors = np.linalg.svd(stack, full_matrices=False)[0]
        assert basis.shape == vectors.shape
        assert_close(  # each is that vector, or its negative
            np.abs((basis * vectors).sum(axis=0)), np.ones(basis.shape[1])
        )


@given(layers(), st.integers(1, 70))
def test_truncation_is_the_best_approximation_of_its_rank(updates, rank):
    space = core_space(updates)
    delta = sum(dense(update) for update in updates)
    left, right = truncate(weighted_sum(space.cores, [1.0] * len(updates)), rank)
    assert left.shape[1] == right.shape[1] == rank
    found = update_in(space, left, right, np.float64)
    u, values, vt = np.linalg.svd(delta, full_matrices=False)
    best = (u * values)[:, :rank] @ vt[:rank]
    error = np.linalg.norm(dense(found) - delta)
    assert_close(error, np.linalg.norm(values[rank:]))
    if rank >= len(values) or values[rank - 1] - values[rank] > 1e-3 * values[0]:
        assert_close(dense(found), best, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, np.float16])
@given(data=st.data())
def test_narrower_factors_lose_nothing_either(dtype, data):
    updates = data.draw(layers(dtype))
    space = core_space(updates)
    left, right = (basis.vectors.astype(float) for basis in (space.left, space.right))
    for basis in (left, right):
        eye = np.eye(basis.shape[1])
        assert_close(basis.T @ basis, eye, rtol=0, atol=1e-4)
    for update, core in zip(updates, space.cores, strict=True):
        size = update.scaling * norm(update.b.astype(float)) * norm(update.a.astype(float))
        assert norm(left @ core @ right.T - dense(update)) < 1e-6 * size


@pytest.mark.parametrize("apart", [1e-1, 1e-3, 1e-5, 1e-6])
def test_what_two_updates_differ_by_is_kept_however_little_it_is(apart):
    """Two checkpoints of one training, one taken from the other."""
    first, other = (random_update(8, 70, 60, 2.0, seed, np.float32) for seed in (1, 2))
    second = LoraUpdate(first.a + apart * other.a, first.b + apart * other.b, 2.0)
    difference = dense(second) - dense(first)
    space = core_space([first, second])
    sides = truncate(weighted_sum(space.cores, [-1.0, 1.0]), 16)
    found = dense(update_in(space, *sides, np.float64))
    assert norm(found - difference) < 1e-7 * norm(difference)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e6])
def test_small_factors_count_with_the_size_of_their_product(size):
    first, second = (random_update(8, 70, 60, 2.0, seed, np.float32) for seed in (1, 2))
    second = LoraUpdate(second.a / size, second.b * size, 2.0)
    space = core_space([first, second])
    for update, core in zip((first, second), space.cores, strict=True):
        sides = truncate(core, 8)
        found = dense(update_in(space, *sides, np.float64))
        assert norm(found - dense(update)) < 1e-7 * norm(dense(update))


def test_an_untrained_update_takes_no_direction_on_the_left():
    trained, untrained = random_update(3, 20, 30, 1.0, 1), random_update(5, 20, 30, 1.0, 2)
    space = core_space([trained, LoraUpdate(untrained.a, untrained.b * 0, 1.0)])
    assert space.left.vectors.shape == (20, 3)
    assert space.right.vectors.shape == (30, 8)
    assert not space.cores[1].any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, BFLOAT16])
def test_directions_that_updates_share_are_counted_once(dtype):
    update = random_update(4, 20, 30, 2.0, 1, dtype)
    space = core_space([update, update, update])
    assert space.cores.shape == (3, 4, 4)


@pytest.mark.parametrize("rank", [2, 0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nothing_but_untrained_updates_leaves_an_empty_space(rank, dtype):
    update = LoraUpdate(np.ones((rank, 5), dtype), np.zeros((4, rank), dtype), 1.0)
    space = core_space([update])
    assert space.left.vectors.shape == (4, 0)
    left, right = truncate(weighted_sum(space.cores, [1.0]), 2)
    assert not dense(update_in(space, left, right, np.float32)).any()


@pytest.mark.parametrize("scaling", [1e-12, 1.0, -2.0, 1e12])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_counts_as_a_direction_depends_on_no_unit(scaling, size, dtype):
    """Not on the scaling, its sign, or how a size is shared out between the factors."""
    update = random_update(3, 20, 30, 1.0, 1, dtype)
    a, b = (update.a * size).astype(dtype), update.b
    left, right = subspaces(LoraUpdate(a, b, scaling))
    assert (left.shape, right.shape) == ((20, 3), (30, 3))
    twice, cancelled = np.concatenate([a, a]), np.concatenate([b, -b], axis=1)
    assert subspaces(LoraUpdate(twice, cancelled, scaling))[0].shape == (20, 0)
    a, b = (update.a / size).astype(dtype), (update.b * size).astype(dtype)
    assert subspaces(LoraUpdate(a, b, scaling))[0].shape == (20, 3)

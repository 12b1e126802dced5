from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.deltas import (
    LoraUpdate,
    concatenate,
    inner_product,
    is_finite,
    norm,
    weighted_bias,
)

WEIGHTS = st.floats(-2, 2).map(lambda number: round(number, 3))


def random_update(rank, out=6, inn=5, scaling=2.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inn, generator=generator, dtype=torch.float64)
    b = torch.randn(out, rank, generator=generator, dtype=torch.float64)
    return LoraUpdate(a.to(dtype), b.to(dtype), scaling)


@st.composite
def weighted_updates(draw):
    count = draw(st.integers(1, 4))
    updates = [
        random_update(draw(st.integers(1, 4)), scaling=draw(st.floats(0.1, 4)), seed=seed)
        for seed in range(count)
    ]
    weights = draw(st.lists(WEIGHTS, min_size=count, max_size=count).filter(any))
    return updates, weights


@given(weighted_updates())
def test_concatenation_adds_delta_weights_exactly(case):
    updates, weights = case
    merged = concatenate(updates, weights)
    dense = torch.zeros(6, 5, dtype=torch.float64)
    for update, weight in zip(updates, weights, strict=True):
        dense += weight * update.scaling * (update.b @ update.a)
    torch.testing.assert_close(merged.delta_weight(), dense)
    assert merged.rank == sum(u.rank for u, w in zip(updates, weights, strict=True) if w)


def test_one_adapter_at_weight_one_keeps_its_delta():
    update = random_update(3)
    torch.testing.assert_close(concatenate([update], [1.0]).delta_weight(), update.delta_weight())


def test_weight_zero_removes_an_adapter():
    update, other = random_update(2, seed=1), random_update(3, seed=2)
    assert concatenate([update, other], [1.0, 0.0]).rank == 2


def test_adding_factors_is_not_adding_updates():
    first, second = random_update(2, seed=1), random_update(2, seed=2)
    factors = LoraUpdate(first.a + second.a, first.b + second.b, 2.0)
    merged = concatenate([first, second], [1.0, 1.0])
    assert not torch.allclose(factors.delta_weight(), merged.delta_weight())


@pytest.mark.parametrize("rank", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_counts_most_is_kept_and_the_rest_is_rounded_once(dtype, rank):
    first, second = (random_update(rank, seed=seed, dtype=dtype) for seed in (1, 2))
    for weights, factor in (((0.9, -0.1), -0.1 / 0.9), ((0.5, 0.5), 1.0)):
        merged = concatenate([first, second], weights)
        assert merged.b.dtype == dtype
        assert merged.scaling == 2 * weights[0]
        expected = torch.cat([first.b, (second.b.double() * factor).to(dtype)], dim=1)
        assert torch.equal(merged.b, expected)
        assert torch.equal(merged.a, torch.cat([first.a, second.a]))


def test_factors_that_lie_elsewhere_are_joined_all_the_same():
    """Columns of a wider matrix, and rows that begin in the middle of 16 bytes."""
    wide, flat = torch.randn(6, 16).bfloat16(), torch.randn(49).bfloat16()
    first = LoraUpdate(torch.ones(8, 5).bfloat16(), wide[:, 4:12], 1.0)
    second = LoraUpdate(torch.ones(8, 5).bfloat16(), flat[1:].view(6, 8), 1.0)
    merged = concatenate([first, second], [1.0, 1.0])
    assert torch.equal(merged.b, torch.cat([first.b, second.b], dim=1))


def test_mixed_dtypes_give_the_widest():
    half, single = random_update(2, dtype=torch.bfloat16), random_update(2, dtype=torch.float32)
    assert concatenate([half, single], [0.5, 0.5]).a.dtype == torch.float32


def test_a_lone_update_keeps_its_factors_to_the_last_bit():
    update, other = random_update(2, seed=1, scaling=0.3), random_update(3, seed=2)
    for weight in (1.0, 0.7):
        kept = concatenate([other, update], [0.0, weight])
        assert torch.equal(kept.a, update.a)
        assert torch.equal(kept.b, update.b)
        assert kept.scaling == weight * update.scaling


def test_a_negative_weight_turns_the_factor_and_leaves_the_scaling_positive():
    update = replace(random_update(2), bias=torch.arange(6.0, dtype=torch.float64))
    turned = concatenate([update], [-0.5])
    assert turned.scaling == 1.0
    torch.testing.assert_close(turned.delta_weight(), -0.5 * update.delta_weight())
    torch.testing.assert_close(turned.scaling * turned.bias, -0.5 * update.scaling * update.bias)


@given(weighted_updates())
def test_norms_and_inner_products_need_no_delta_weight(case):
    updates, _ = case
    first, last = updates[0], updates[-1]
    products = float((first.delta_weight() * last.delta_weight()).sum())
    assert inner_product(first, last) == pytest.approx(products, rel=1e-9, abs=1e-9)
    assert norm(first) == pytest.approx(float(first.delta_weight().norm()), rel=1e-9, abs=1e-6)


def test_biases_are_added_with_weight_and_scaling():
    first, second = (
        replace(random_update(2, seed=seed, scaling=seed), bias=torch.full((6,), 10.0**seed))
        for seed in (1, 2)
    )
    bias = weighted_bias([first, second, random_update(1)], [0.5, -1.0, 3.0], torch.float32)
    assert bias.tolist() == [0.5 * 1 * 10 - 1 * 2 * 100] * 6
    assert weighted_bias([first, second], [0.0, 0.0], torch.float32) is None
    assert weighted_bias([random_update(1)], [1.0], torch.float32) is None


@pytest.mark.parametrize(
    ("at", "active"), [(None, False), ((0, 0), True), ((5, 1), True), ("bias", True)]
)
def test_an_update_is_active_when_anything_is_added(at, active):
    bias = torch.zeros(6)
    update = LoraUpdate(torch.ones(2, 5), torch.zeros(6, 2), 1.0, bias)
    if at == "bias":
        bias[3] = 1
    elif at:
        update.b[at] = 1e-20
    assert update.is_active is active


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_is_told_from_a_sum_that_overflows(dtype):
    largest = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
    assert is_finite(largest)
    assert is_finite(torch.empty(0, dtype=dtype))
    for wrong in (float("nan"), float("inf"), -float("inf")):
        largest[1] = wrong
        assert not is_finite(largest)

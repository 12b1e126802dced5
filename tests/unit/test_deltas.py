from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.adapters.deltas import (
    LoraUpdate,
    inner_product,
    is_finite,
    norm,
    side_by_side,
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


def test_factors_that_lie_elsewhere_are_joined_all_the_same():
    """Columns of a wider matrix, and rows that begin in the middle of 16 bytes."""
    wide, flat = torch.randn(6, 16).bfloat16(), torch.randn(49).bfloat16()
    blocks = [wide[:, 4:12], flat[1:].view(6, 8)]
    assert torch.equal(side_by_side(blocks), torch.cat(blocks, dim=1))


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("place", [0, 2, 4, 8])
@pytest.mark.parametrize("layers", [1, 4])
def test_factors_are_joined_wherever_they_lie_in_memory(rows, place, layers):
    """A file's header may end anywhere; torch crashes on wide numbers at such places."""
    raw = bytearray(16 * 2 * layers * rows + place)
    flat = torch.frombuffer(raw, dtype=torch.bfloat16, offset=place)
    stacked = flat.copy_(torch.randn(len(flat))).view(layers, 2, rows, 8)
    for blocks in (stacked.unbind(dim=1), stacked[0].unbind()):
        assert torch.equal(side_by_side(blocks), torch.cat(blocks, dim=-1))


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

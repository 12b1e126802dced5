import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.deltas import LoraUpdate, concatenate

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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    first, second = (random_update(2, seed=seed, dtype=dtype) for seed in (1, 2))
    merged = concatenate([first, second], [0.9, 0.1])
    assert merged.b.dtype == dtype
    expected = torch.cat([first.b.double() * 1.8, second.b.double() * 0.2], dim=1).to(dtype)
    assert torch.equal(merged.b, expected)


def test_mixed_dtypes_give_the_widest():
    half, single = random_update(2, dtype=torch.bfloat16), random_update(2, dtype=torch.float32)
    assert concatenate([half, single], [0.5, 0.5]).a.dtype == torch.float32

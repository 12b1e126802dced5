from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from helpers.updates import random_update, weighted_updates
from hypothesis import given

from adaptermix.adapters.deltas import (
    LoraUpdate,
    inner_product,
    is_finite,
    norm,
    weighted_bias,
    wider,
)


@given(weighted_updates())
def test_norms_and_inner_products_need_no_delta_weight(case):
    updates, _ = case
    first, last = updates[0], updates[-1]
    products = float((first.delta_weight() * last.delta_weight()).sum())
    assert inner_product(first, last) == pytest.approx(products, rel=1e-9, abs=1e-9)
    assert norm(first) == pytest.approx(np.linalg.norm(first.delta_weight()), rel=1e-9, abs=1e-6)


def test_biases_are_added_with_weight_and_scaling():
    first, second = (
        replace(random_update(2, seed=seed, scaling=seed), bias=np.full(6, 10.0**seed, np.float32))
        for seed in (1, 2)
    )
    bias = weighted_bias([first, second, random_update(1)], [0.5, -1.0, 3.0], np.float32)
    assert bias.tolist() == [0.5 * 1 * 10 - 1 * 2 * 100] * 6
    assert weighted_bias([first, second], [0.0, 0.0], np.float32) is None
    assert weighted_bias([random_update(1)], [1.0], np.float32) is None


@pytest.mark.parametrize(
    ("at", "active"), [(None, False), ((0, 0), True), ((5, 1), True), ("bias", True)]
)
def test_an_update_is_active_when_anything_is_added(at, active):
    bias = np.zeros(6)
    update = LoraUpdate(np.ones((2, 5)), np.full((6, 2), -0.0), 1.0, bias)
    if at == "bias":
        bias[3] = 1
    elif at:
        update.b[at] = 1e-20
    assert update.is_active is active


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_finite_is_told_from_the_largest_numbers(dtype):
    largest = np.full(3, ml_dtypes.finfo(dtype).max, dtype)
    assert is_finite(largest)
    assert is_finite(np.empty(0, dtype))
    for wrong in (float("nan"), float("inf"), -float("inf")):
        largest[1] = wrong
        assert not is_finite(largest)


FLOATS = [np.dtype(kind) for kind in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)]


@pytest.mark.parametrize("one", FLOATS)
@pytest.mark.parametrize("other", FLOATS)
def test_the_wider_type_holds_every_number_of_both(one, other):
    found = wider(one, other)
    assert found == wider(other, one)
    assert found == one if one == other else found in FLOATS[:2]
    for dtype in (one, other):
        for number in (ml_dtypes.finfo(dtype).max, 1 + ml_dtypes.finfo(dtype).eps):
            assert float(np.asarray(number, dtype).astype(found)) == float(number)

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from helpers.updates import random_update, weighted_updates
from hypothesis import given

from adaptermix.adapters.deltas import (
    LoraUpdate,
    as_dtype,
    inner_product,
    is_finite,
    norm,
    scaled,
    sum_scaling,
    weighted_bias,
    widened,
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
    assert isinstance(found, np.dtype)  # NumPy takes None for float64
    assert found == wider(other, one)
    both = {one, other}
    largest = FLOATS[0] if FLOATS[0] in both else FLOATS[1]
    assert found == (one if one == other else largest)
    for dtype in both:
        for number in (ml_dtypes.finfo(dtype).max, 1 + ml_dtypes.finfo(dtype).eps):
            assert float(np.asarray(number, dtype).astype(found)) == float(number)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("wanted", FLOATS)
def test_an_update_changes_its_type_with_its_bias(dtype, wanted):
    bias = np.arange(6).astype(dtype)
    update = replace(random_update(2, dtype=dtype), bias=bias)
    found = as_dtype(update, wanted)
    assert [part.dtype for part in found.parts] == [wanted] * 3
    assert found.scaling == update.scaling
    for part, own in zip(found.parts, update.parts, strict=True):
        assert np.array_equal(part, own.astype(wanted))
        assert (part is own) == (dtype == wanted)  # no second copy in memory


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_factor_is_widened_to_float32_and_no_further(dtype):
    factor = np.ones((2, 3), dtype)
    assert widened(factor).dtype == (dtype if dtype in FLOATS[:2] else np.float32)
    assert (widened(factor) is factor) == (dtype in FLOATS[:2])


@pytest.mark.parametrize("share", [1, 2, -0.3])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("wanted", FLOATS)
def test_a_scaled_factor_is_rounded_once(dtype, wanted, share):
    factor = random_update(2, dtype=dtype).a
    found = scaled(factor, share, wanted)
    assert found.dtype == wanted
    exact = factor.astype(float) * share
    # Half a step of the result's type, and a little for the product in float32.
    step = float(ml_dtypes.finfo(wanted).eps) / 2 * 1.01
    narrow = FLOATS[0] not in (dtype, wanted) and share != 1
    np.testing.assert_allclose(found.astype(float), exact, rtol=step + narrow * 2**-23)


def test_a_factor_that_needs_no_scaling_is_not_copied():
    factor = random_update(2, dtype=np.float32).a
    assert scaled(factor, 1, factor.dtype) is factor


def test_a_large_factor_is_scaled_before_it_is_narrowed():
    large = np.full(3, 2.0**40, ml_dtypes.bfloat16)  # the largest float16 is below 2**16
    assert scaled(large, 2.0**-40, np.dtype(np.float16)).tolist() == [1, 1, 1]


def test_the_scaling_of_a_sum_is_the_largest_in_size():
    assert sum_scaling([-3.0, 2.0]) == 3
    assert sum_scaling([0.5, -0.25]) == 0.5

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.retrieval.correlation import pearson, spearman

ACCURACY = [0.41, 0.05, 0.22, 0.31, 0.18, 0.18, 0.4]
SCORE = [0.7, 0.44, 0.41, 0.65, 0.52, 0.6, 0.58]


# What SciPy 1.17.1's pearsonr and spearmanr give; odd and even degrees of freedom, with ties.
@pytest.mark.parametrize(
    ("count", "linear", "ranked"),
    [
        (7, (0.709895699951, 0.073922782335), (0.612637474633, 0.143588575301)),
        (6, (0.771136188131, 0.072574178468), (0.637748139218, 0.173071110241)),
        (3, (0.833308391296, 0.372887721836), (0.500000000000, 0.666666666667)),
    ],
)
def test_coefficients_and_p_values_are_those_of_scipy(count, linear, ranked):
    for correlate, expected in ((pearson, linear), (spearman, ranked)):
        found = correlate(ACCURACY[:count], SCORE[:count])
        assert (found.r, found.p_value) == pytest.approx(expected, abs=1e-9)


@given(
    count=st.integers(3, 25),
    seed=st.integers(0, 1000),
    scale=st.floats(0.1, 10),
    shift=st.floats(-5, 5),
)
def test_units_do_not_matter_and_order_is_all_that_ranks_see(count, seed, scale, shift):
    first, second = np.random.default_rng(seed).normal(size=(2, count))
    plain = pearson(first, second)
    moved = pearson(scale * first + shift, -second)
    assert moved.r == pytest.approx(-plain.r)
    assert moved.p_value == pytest.approx(plain.p_value, abs=1e-9)
    assert spearman(np.exp(first), second) == spearman(first, second)


def test_what_does_not_vary_correlates_with_nothing():
    assert pearson([0.1, 0.1, 0.1], [1, 2, 3]).r is None
    assert spearman([1, 2, 3], [5, 5, 5]).p_value is None
    with pytest.raises(ValueError, match="three"):
        pearson([1, 2], [1, 2])


def test_a_perfect_line_is_no_chance():
    found = pearson(range(10), range(10))
    assert found.r == pytest.approx(1)
    assert found.p_value == pytest.approx(0, abs=1e-9)

"""Random low-rank updates, and dense matrices to compare with."""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from adaptermix.adapters.deltas import LoraUpdate

# Sampled, because Hypothesis otherwise draws small numbers most of the time.
SIDES = st.sampled_from([1, 2, 5, 17, 40, 70])
RANKS = st.sampled_from([1, 2, 3, 4, 8, 16, 31, 64])
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def random_update(rank, out=6, inn=5, scaling=2.0, seed=0, dtype=np.float64):
    generator = np.random.default_rng(seed)
    a, b = generator.standard_normal((rank, inn)), generator.standard_normal((out, rank))
    return LoraUpdate(a.astype(dtype), b.astype(dtype), scaling)


def dense(update):
    """The delta weight, [out in], in float64."""
    return update.scaling * (update.b.astype(float) @ update.a.astype(float))


norm = np.linalg.norm


def assert_close(found, wanted, rtol=1e-7, atol=1e-7):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


@st.composite
def layers(draw, dtype=np.float64):
    """The updates of one layer: 1, 2, 3 or 8 of them, of any shape and of ranks 1 to 64."""
    out, inn = draw(SIDES), draw(SIDES)
    seed = draw(st.integers(0, 10_000))
    count = draw(st.sampled_from([1, 2, 3, 8]))
    return [
        random_update(draw(RANKS), out, inn, draw(st.floats(0.1, 4)), 10 * seed + at, dtype)
        for at in range(count)
    ]


WEIGHTS = st.floats(-2, 2).map(lambda number: round(number, 3))


@st.composite
def weighted_updates(draw):
    count = draw(st.integers(1, 4))
    updates = [
        random_update(draw(st.integers(1, 4)), scaling=draw(st.floats(0.1, 4)), seed=seed)
        for seed in range(count)
    ]
    weights = draw(st.lists(WEIGHTS, min_size=count, max_size=count).filter(any))
    return updates, weights

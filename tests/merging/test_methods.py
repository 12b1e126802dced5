"""Every method against a plain reference on dense matrices in float64.

The references know neither factors nor the core space of the package: they form out x in
matrices and take full decompositions.
"""

import ml_dtypes
import numpy as np
import pytest
from helpers.updates import BFLOAT16, assert_close, dense, layers, norm, random_update
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.merging.methods import (
    METHODS,
    MethodOptions,
    drop_and_rescale,
    elect_and_merge,
    keep_largest,
    magnitude_density,
    merge_updates,
    merged_rank,
)
from adaptermix.settings.merging import MergeSettings

ADDERS_OF_FACTORS = ("factor-average", "peft-linear")
WEIGHTS = st.floats(-2, 2).map(lambda number: round(number, 2)).filter(bool)


@st.composite
def weighted_layers(draw, one_rank=False):
    updates = draw(layers())
    if one_rank:
        rank = min(update.rank for update in updates)
        updates = [LoraUpdate(u.a[:rank], u.b[:, :rank], u.scaling) for u in updates]
    count = len(updates)
    return updates, draw(st.lists(WEIGHTS, min_size=count, max_size=count))


OPTIONS = st.builds(
    MethodOptions,
    density=st.floats(0.2, 1),
    epsilon=st.floats(0, 0.3),
    isotropic=st.booleans(),
)


def dense_sum(updates, weights):
    return sum(weight * dense(update) for update, weight in zip(updates, weights, strict=True))


def svd(matrix):
    """The singular triplets of a matrix that are not zero."""
    u, values, vt = np.linalg.svd(matrix, full_matrices=False)
    kept = values > 1e-6 * values[0]
    return u[:, kept], values[kept], vt[kept]  # of the zero matrix: none


def cut(matrix, rank):
    u, values, vt = svd(matrix)
    return (u[:, :rank] * values[:rank]) @ vt[:rank]


def flat(matrix):
    u, values, vt = svd(matrix)
    return u @ vt * values.sum() / max(1, len(values))


def bases(updates):
    """The reference bases of Core Space merging, by dense decompositions of the stacks."""
    left = svd(np.concatenate([u.b for u in updates], axis=1))[0]
    right = svd(np.concatenate([u.a for u in updates]))[2].T
    return left, right


def trimmed(matrix, density):
    """Keep what is among the largest, by sorting all magnitudes."""
    count = max(1, int(density * matrix.size))
    smallest_kept = np.sort(np.abs(matrix), axis=None)[-count]
    return matrix * (np.abs(matrix) >= smallest_kept * (1 - 1e-6))


def dropped(cores, density, seed):
    """Keep where a uniform number, drawn for all cores in order, is below the probability."""
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.random((len(cores), *cores[0].shape))
    return [
        core / probability * (number < probability)
        for core, number, probability in zip(cores, drawn, density, strict=True)
    ]


def probabilities(core, density, epsilon):
    rows = []
    for row in np.abs(core).tolist():
        places = [sum(other < entry for other in row) for entry in row]
        rows.append([density + epsilon * (at / max(1, len(row) - 1) - 0.5) for at in places])
    return np.array(rows).clip(max=1.0)


def elected(matrices, weights):
    """TIES by a double loop: at each entry, the mean over those that have the sum's sign."""
    rows, total_weight = [], sum(map(abs, weights))
    for same_row in zip(*(matrix.tolist() for matrix in matrices), strict=True):
        row = []
        for entries in zip(*same_row, strict=True):
            votes = [w * entry for w, entry in zip(weights, entries, strict=True)]
            winners = [at for at, vote in enumerate(votes) if vote * sum(votes) > 0]
            share = sum(abs(weights[at]) for at in winners)
            row.append(sum(votes[at] for at in winners) / share * total_weight if winners else 0.0)
        rows.append(row)
    return np.array(rows)


def in_core(updates, weights, options, merge_cores):
    left, right = bases(updates)
    merged = merge_cores([left.T @ dense(update) @ right for update in updates])
    return left @ merged @ right.T


def weighted(matrices, weights):
    return sum(w * m for w, m in zip(weights, matrices, strict=True))


def magnitude(updates, weights, options, seed):
    return in_core(
        updates,
        weights,
        options,
        lambda cores: weighted([trimmed(c, options.density) for c in cores], weights),
    )


def ties(updates, weights, options, seed):
    return in_core(
        updates,
        weights,
        options,
        lambda cores: elected([trimmed(c, options.density) for c in cores], weights),
    )


def dare(updates, weights, options, seed):
    shares = [options.density] * len(updates)
    return in_core(
        updates, weights, options, lambda cores: weighted(dropped(cores, shares, seed), weights)
    )


def dare_ties(updates, weights, options, seed):
    shares = [options.density] * len(updates)
    return in_core(
        updates, weights, options, lambda cores: elected(dropped(cores, shares, seed), weights)
    )


def della(updates, weights, options, seed):
    def merge_cores(cores):
        shares = [probabilities(core, options.density, options.epsilon) for core in cores]
        return elected(dropped(cores, shares, seed), weights)

    return in_core(updates, weights, options, merge_cores)


def tsv(updates, weights, options, seed):
    """TSV-M on full matrices: all triplets side by side, sides replaced by their polar factors."""
    triplets = [svd(dense(update)) for update in updates]
    sides = (
        np.concatenate([t[0] for t in triplets], 1),
        np.concatenate([t[2] for t in triplets]).T,
    )
    left, right = (u @ vt for u, _, vt in map(svd, sides))
    values = np.concatenate([w * t[1] for w, t in zip(weights, triplets, strict=True)])
    return left @ np.diag(values) @ right.T


def iso_c(updates, weights, options, seed):
    return flat(dense_sum(updates, weights))


def knots(updates, weights, options, seed):
    """KnOTS on full matrices: one SVD of all delta weights side by side."""
    u, values, vt = svd(np.concatenate([dense(update) for update in updates], axis=1))
    parts = np.split(vt, len(updates), axis=1)
    return u * values @ elected([trimmed(part, options.density) for part in parts], weights)


def exact(updates, weights, options, seed):
    return dense_sum(updates, weights)


def peft_svd(updates, weights, options, seed):
    rank = options.rank or max(update.rank for update in updates)
    return cut(dense_sum(updates, weights), rank)


REFERENCES = {
    "exact": exact,
    "peft-cat": exact,
    "peft-svd": peft_svd,
    "magnitude": magnitude,
    "ties": ties,
    "dare": dare,
    "dare-ties": dare_ties,
    "della": della,
    "tsv": tsv,
    "iso-c": iso_c,
    "knots": knots,
}


def relative(result, wanted):
    return float(norm(result - wanted) / max(norm(wanted), 1e-9))


def test_every_method_has_a_reference():
    assert set(REFERENCES) | set(ADDERS_OF_FACTORS) == set(METHODS)


@pytest.mark.parametrize("method", REFERENCES)
@settings(max_examples=16)
@given(case=weighted_layers(), options=OPTIONS, seed=st.integers(0, 2**40))
def test_methods_equal_their_dense_references(method, case, options, seed):
    updates, weights = case
    found = merge_updates(method, updates, weights, options, seed)
    wanted = REFERENCES[method](updates, weights, options, seed)
    if options.isotropic:
        wanted = flat(wanted)
    assert relative(dense(found.update), wanted) < 1e-6
    ranks, shape = [u.rank for u in updates], tuple(wanted.shape)
    assert found.update.rank == merged_rank(method, ranks, shape, options)
    assert found.cross_energy == 0
    if found.sum_energy:
        total = dense_sum(updates, weights)
        assert found.sum_energy == pytest.approx(float(np.square(total).sum()), rel=1e-7)
        lost = float(np.square(wanted - total).sum())
        assert found.lost_energy == pytest.approx(lost, rel=1e-5, abs=1e-7 * found.sum_energy)


def test_twins_are_kept_or_dropped_together():
    """The right singular vectors of a 2 x 2 matrix have each size twice, up to rounding."""
    turned = np.array([[0.6, 0.8], [-0.8, 0.6 * (1 + 1e-12)]])
    assert np.count_nonzero(keep_largest(turned, 0.75)) == 4
    assert np.count_nonzero(keep_largest(turned, 0.5)) == 2


@pytest.mark.parametrize("method", ["exact", "peft-cat", "peft-svd", "tsv", "iso-c", "knots"])
@settings(max_examples=12)
@given(case=weighted_layers(), rank=st.sampled_from([1, 2, 5, 16]), isotropic=st.booleans())
def test_a_rank_cuts_to_the_best_approximation_and_the_loss_is_told(method, case, rank, isotropic):
    updates, weights = case
    options = MethodOptions(rank=rank, isotropic=isotropic)
    found = merge_updates(method, updates, weights, options, 0)
    whole = REFERENCES["exact" if method == "iso-c" else method](updates, weights, options, 0)
    values = svd(whole)[1]
    assume(len(values) <= rank or values[rank - 1] > 1.001 * values[rank])
    wanted = cut(whole, rank)
    if isotropic or method == "iso-c":
        wanted = flat(wanted)
    ranks, shape = [u.rank for u in updates], tuple(whole.shape)
    assert found.update.rank == merged_rank(method, ranks, shape, options) <= rank
    assert relative(dense(found.update), wanted) < 1e-6
    lost = float(np.square(wanted - dense_sum(updates, weights)).sum())
    assert found.lost_energy == pytest.approx(lost, rel=1e-5, abs=1e-7 * found.sum_energy)


@pytest.mark.parametrize("method", ADDERS_OF_FACTORS)
@given(case=weighted_layers(one_rank=True))
def test_added_factors_and_their_cross_terms(method, case):
    updates, weights = case
    found = merge_updates(method, updates, weights, MethodOptions(), 0)
    wanted, cross = np.zeros_like(dense(updates[0])), np.zeros_like(dense(updates[0]))
    for i, (one, w_i) in enumerate(zip(updates, weights, strict=True)):
        for j, (other, w_j) in enumerate(zip(updates, weights, strict=True)):
            if method == "factor-average":
                factor = w_i * one.scaling * w_j
            else:
                factor = (abs(w_i) * one.scaling * abs(w_j) * other.scaling) ** 0.5
                factor *= 1 if w_j > 0 else -1
            term = factor * (one.b @ other.a)
            wanted += term
            cross += term if i != j else 0
    assert relative(dense(found.update), wanted) < 1e-9
    assert found.update.rank == updates[0].rank
    total = dense_sum(updates, weights)
    energy = float(np.square(total).sum())
    largest = max(energy, float(np.square(wanted).sum()))
    lost = float(np.square(wanted - total).sum())
    assert found.sum_energy == pytest.approx(energy, abs=1e-9 * largest)
    assert found.lost_energy == pytest.approx(lost, abs=1e-9 * largest)
    assert found.cross_energy == pytest.approx(float(np.square(cross).sum()), abs=1e-9 * largest)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, np.float16])
def test_narrow_factors_lose_no_more_than_their_own_rounding(method, dtype):
    """Sums are in float32 or wider; what is lost is the rounding of the two factors written."""
    updates = [random_update(4, 48, 36, 2.0, seed, dtype) for seed in range(3)]
    weights, options = [0.6, 0.3, -0.2], MethodOptions(density=0.7)
    wide = [LoraUpdate(u.a.astype(float), u.b.astype(float), u.scaling) for u in updates]
    found = merge_updates(method, updates, weights, options, 3)
    wanted = merge_updates(method, wide, weights, options, 3)
    assert found.update.a.dtype == found.update.b.dtype == dtype
    assert (
        relative(dense(found.update), dense(wanted.update))
        < 2 * float(ml_dtypes.finfo(dtype).eps) + 3e-6
    )
    energies = (found.sum_energy, found.lost_energy, found.cross_energy)
    for energy, exact_energy in zip(energies, wanted[1:], strict=True):
        assert energy == pytest.approx(exact_energy, rel=1e-2, abs=1e-5 * wanted.sum_energy)


@pytest.mark.parametrize("method", METHODS)
def test_one_update_at_weight_one_is_given_back(method):
    """True of every method that drops nothing and flattens nothing."""
    update = random_update(3, 20, 30, 2.0, 5)
    found = merge_updates(method, [update], [1.0], MethodOptions(density=1.0, epsilon=0.0), 0)
    wanted = flat(dense(update)) if method == "iso-c" else dense(update)
    assert relative(dense(found.update), wanted) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_biases_are_added_with_weight_and_scaling(method):
    updates = [random_update(3, 20, 30, 2.0 * seed, seed) for seed in (1, 2)]
    biases = [np.random.default_rng(seed).standard_normal(20) for seed in (1, 2)]
    updates = [
        LoraUpdate(u.a, u.b, u.scaling, bias) for u, bias in zip(updates, biases, strict=True)
    ]
    found = merge_updates(method, updates, [0.5, -1.0], MethodOptions(), 0).update
    wanted = 0.5 * 2.0 * biases[0] - 1.0 * 4.0 * biases[1]
    assert_close(found.bias * found.scaling, wanted)


@pytest.mark.parametrize("method", METHODS)
def test_a_bias_has_the_precision_of_its_factors(method):
    updates = [random_update(2, dtype=np.float32) for _ in range(2)]
    updates = [LoraUpdate(u.a, u.b, 2.0, np.ones(6, np.float32)) for u in updates]
    found = merge_updates(method, updates, [0.5, 0.3], MethodOptions(), 3).update
    assert found.bias.dtype == found.b.dtype == np.float32


@pytest.mark.parametrize("method", ["tsv", "iso-c", "knots", "ties"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_directions_without_size_do_not_decide(method, dtype):
    """The same update twice spans one space: noise in the other directions is not blown up."""
    update = random_update(4, 30, 20, 2.0, 7, dtype)
    # Directions that TSV makes orthonormal share their size where they coincide.
    weights = [1.0, 1.0] if method == "tsv" else [0.5, 0.5]
    found = merge_updates(method, [update, update], weights, MethodOptions(density=1.0), 0)
    single = merge_updates(method, [update], [1.0], MethodOptions(density=1.0), 0)
    assert relative(dense(found.update), dense(single.update)) < 1e-5


@pytest.mark.parametrize("method", ["exact", "magnitude", "tsv", "iso-c"])
def test_an_update_of_zeros_changes_nothing(method):
    """Its singular vectors are arbitrary: TSV would make the others' orthogonal to them."""
    update, options = random_update(3, 20, 30, 2.0, 5), MethodOptions(density=1.0)
    zero = LoraUpdate(update.a, np.zeros_like(update.b), update.scaling)
    found = merge_updates(method, [update, zero], [0.7, 0.3], options, 0)
    single = merge_updates(method, [update], [0.7], options, 0)
    assert relative(dense(found.update), dense(single.update)) < 1e-9


def test_a_cancelled_direction_is_not_flattened():
    kept, cancelled = random_update(2, 20, 30, 1.0, 1), random_update(3, 20, 30, 1.0, 2)
    updates = [kept, cancelled, cancelled]
    found = merge_updates("iso-c", updates, [1.0, 1.0, -1.0], MethodOptions(), 0)
    assert relative(dense(found.update), flat(dense(kept))) < 1e-6


RANDOM = ("dare", "dare-ties", "della")


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_and_only_for_random_methods(method):
    updates = [random_update(4, 20, 30, 2.0, seed) for seed in (1, 2)]
    first, again, other = (
        dense(merge_updates(method, updates, [0.6, 0.4], MethodOptions(), seed).update)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (method not in RANDOM)


def test_the_global_generator_is_left_alone():
    updates = [random_update(4, 20, 30, 2.0, seed) for seed in (1, 2)]
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    for method in RANDOM:
        merge_updates(method, updates, [0.6, 0.4], MethodOptions(), 1)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_dare_is_right_on_average():
    """Its expected value is the exact sum: over n seeds the error falls with the root of n."""
    updates = [random_update(3, 12, 10, 1.0, seed) for seed in (1, 2)]
    weights, density = [0.7, -0.4], 0.4
    total = dense_sum(updates, weights)
    runs = np.stack(
        [
            dense(merge_updates("dare", updates, weights, MethodOptions(density=density), s).update)
            for s in range(150)
        ]
    )
    # Each entry m of a core has the variance m^2 (1 - p) / p; bases are orthonormal.
    variance = sum(
        np.square(w * dense(u)).sum() * (1 - density) / density
        for u, w in zip(updates, weights, strict=True)
    )
    spread = np.square(runs - total).sum(axis=(1, 2)).mean()
    assert spread == pytest.approx(float(variance), rel=0.1)
    error = norm(runs.mean(axis=0) - total)
    assert error < 1.5 * (variance / len(runs)) ** 0.5
    assert spread**0.5 > 7 * error


@given(st.floats(0.01, 1), st.integers(1, 300), st.integers(0, 1000))
def test_the_largest_entries_are_kept_and_their_number_is_right(density, size, seed):
    values = np.random.default_rng(seed).standard_normal(size)
    kept = keep_largest(values, density)
    assert int((kept != 0).sum()) == max(1, int(density * size))
    assert np.array_equal(kept[kept != 0], values[kept != 0])
    if 0 in kept:
        assert np.abs(kept[kept != 0]).min() >= np.abs(values[kept == 0]).max()


def test_dare_keeps_its_share_and_rescales_what_it_keeps():
    kept = drop_and_rescale(np.ones((200, 200)), 0.3, seed=1)
    assert np.mean(kept != 0) == pytest.approx(0.3, abs=0.01)
    assert np.unique(kept).tolist() == pytest.approx([0.0, 1 / 0.3])


def test_della_keeps_large_entries_more_often():
    values = np.tile(np.linspace(0.1, 1, 11), (4000, 1))
    share = magnitude_density(values, 0.5, 0.4)
    assert_close(share[0], np.linspace(0.3, 0.7, 11))
    assert_close(magnitude_density(np.array([[-3.0, 2.0]]), 0.5, 0.4), [[0.7, 0.3]])
    kept = (drop_and_rescale(values, share, seed=1) != 0).mean(axis=0)
    assert_close(kept, share[0], rtol=0, atol=0.03)


@pytest.mark.parametrize(("density", "epsilon"), [(0.05, 0.2), (0.5, 0.4), (1.0, 0.4), (0.9, 0.9)])
def test_every_entry_may_be_kept(density, epsilon):
    """A probability of 0 would divide by it; one above 1 would scale what is always kept."""
    share = magnitude_density(np.array([[0.1, 3.0, -2.0, 1.0]]), density, epsilon)
    assert 0 < share.min() <= max(1e-3, density - epsilon / 2)
    assert share.max() <= 1
    assert (np.diff(share[0, [0, 3, 2, 1]]) >= 0).all(), "the smallest first"


def test_the_options_have_the_defaults_of_the_command():
    given = MergeSettings(weight=1)
    chosen = MethodOptions(given.rank, given.density, given.epsilon, given.isotropic)
    assert MethodOptions() == chosen


def test_ties_by_hand():
    """Yadav et al. 2023, their figure: trimmed values, the elected sign, the disjoint mean."""
    values = np.array([[[3.0, -1.0, 0.0, 2.0]], [[-1.0, -3.0, 4.0, -2.0]]])
    found = elect_and_merge(values, [0.5, 0.5])  # lambda / N with lambda 1
    assert found.tolist() == [[3.0, -2.0, 4.0, 0.0]]
    weighted_votes = elect_and_merge(values, [0.2, 0.8])
    assert_close(weighted_votes, np.array([[-1.0, -2.6, 4.0, -2.0]]))
    assert elect_and_merge(values.astype(np.float32), [0.5, 0.5]).dtype == np.float32


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("asked", "isotropic"), [(None, False), (2, False), (50, False), (9, True)]
)
def test_the_rank_of_a_result_is_no_larger_than_it_must_be(method, asked, isotropic):
    """A larger one would be filled with zeros, and nothing else would show it."""
    options = MethodOptions(rank=asked, isotropic=isotropic)
    for ranks, shape in (([4, 8], (40, 30)), ([4, 8], (10, 30)), ([4, 8], (40, 6)), ([3], (5, 5))):
        rank = merged_rank(method, ranks, shape, options)
        if method in ADDERS_OF_FACTORS:
            largest = max(ranks)
        elif method in ("exact", "peft-cat") and asked is None:
            assert rank == sum(ranks), "the factors stay as they are"
            continue
        else:
            largest = min(sum(ranks), *shape)
        default = max(ranks) if method == "peft-svd" else largest
        assert rank == min(largest, default if asked is None else asked)

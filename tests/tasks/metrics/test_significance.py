import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.tasks.metrics.f1 import f1_value
from adaptermix.tasks.metrics.significance import (
    macro_score,
    paired_difference,
    resample_counts,
    resampled_scores,
)

REFERENCES = ["the cat sat on the mat", "a dog barks at night", "it rains", "we go home now"] * 6
BETTER = ["the cat sat on the mat", "a dog barks at noon", "it rains", "we go home"] * 6
WORSE = ["the cat is on a mat", "the dog barked at night", "rain", "we went home now"] * 6


def test_bleu_differences_equal_sacrebleus():
    """The same resamples, p-value and mean as sacreBLEU's own paired bootstrap."""
    from sacrebleu.metrics import BLEU
    from sacrebleu.significance import PairedTest

    metric = BLEU(references=[REFERENCES])
    test = PairedTest(
        [("worse", WORSE), ("better", BETTER)], {"BLEU": metric}, None, "bs", n_samples=300
    )
    _, scores = test()
    expected = scores["BLEU"][1]

    def value(sums):
        flat = sums.reshape(-1, sums.shape[-1])
        results = [metric._compute_score_from_stats(row.tolist()).score for row in flat]
        return np.array(results).reshape(sums.shape[:-1])

    plain = BLEU()
    statistics = {
        name: [np.array(plain._extract_corpus_statistics(lines, [REFERENCES]), dtype=float)]
        for name, lines in (("better", BETTER), ("worse", WORSE))
    }
    counts = resample_counts([len(REFERENCES)], samples=300)
    found = paired_difference(statistics["better"], statistics["worse"], value, counts)
    assert found.p_value == expected.p_value
    drawn = resampled_scores(statistics["better"], value, counts)
    assert drawn.mean() == pytest.approx(expected.mean)
    assert found.interval.value == pytest.approx(expected.score - scores["BLEU"][0].score)


ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12
)


@given(ROWS, st.integers(0, 9))
def test_resampled_scores_equal_a_plain_loop(rows, seed):
    statistics = np.array([(min(row), row[1], row[2]) for row in rows], dtype=float)
    (counts,) = resample_counts([len(rows)], samples=5, seed=seed)
    drawn = np.random.default_rng(seed).choice(len(rows), size=(5, len(rows)), replace=True)
    expected = []
    for sample in drawn:
        correct = sum(statistics[i][0] for i in sample)
        total = sum(statistics[i][1] + statistics[i][2] for i in sample)
        expected.append(2 * correct / total if total else 1.0)
    assert resampled_scores([statistics], f1_value, [counts]) == pytest.approx(expected)


def test_a_system_does_not_differ_from_itself():
    rows = [np.array([[1.0, 2.0, 2.0]] * 10)]
    found = paired_difference(rows, rows, f1_value)
    assert (found.interval.value, found.interval.low, found.interval.high) == (0, 0, 0)
    assert not found.interval.excludes_zero
    assert found.p_value == 1


def test_a_clear_difference_excludes_zero_and_a_faint_one_does_not():
    rng = np.random.default_rng(0)

    def system(share):
        hits = (rng.random(200) < share).astype(float)
        return [np.stack([hits, np.ones(200), np.ones(200)], axis=1)]

    good, bad = system(0.9), system(0.5)
    assert paired_difference(good, bad, f1_value).interval.excludes_zero
    assert paired_difference(good, bad, f1_value).p_value < 0.01
    assert not paired_difference(system(0.5), bad, f1_value).interval.excludes_zero


def test_groups_are_averaged_whatever_their_size():
    small, large = np.array([[1.0, 1.0, 1.0]]), np.array([[0.0, 1.0, 1.0]] * 99)
    assert macro_score([small, large], f1_value) == 0.5
    counts = resample_counts([1, 99], samples=7)
    assert [drawn.sum(axis=1).tolist() for drawn in counts] == [[1] * 7, [99] * 7]
    assert resampled_scores([small, large], f1_value, counts).tolist() == [0.5] * 7


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Of 200 repeated experiments, about 95% of intervals hold the true difference of 0.2."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        one, other = (rng.random(150) < share for share in (0.7, 0.5))
        rows = [
            [np.stack([hits.astype(float), np.ones(150), np.ones(150)], axis=1)]
            for hits in (one, other)
        ]
        counts = resample_counts([150], samples=200, seed=int(rng.integers(1 << 30)))
        found = paired_difference(*rows, f1_value, counts).interval
        covered += found.low <= 0.2 <= found.high
    assert 178 <= covered <= 199

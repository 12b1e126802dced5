import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adaptermix.tasks.metrics.f1 import f1_value
from adaptermix.tasks.metrics.metric import Outcome, mean_of
from adaptermix.tasks.metrics.significance import (
    Difference,
    Interval,
    bootstrap_samples,
    differing,
    holm,
    macro_score,
    paired_difference,
    percentile,
    randomization,
    resample_counts,
    resampled_scores,
    sacrebleu_bootstrap,
    sacrebleu_randomization,
    swapped_scores,
    with_least_p,
)
from adaptermix.tasks.metrics.text import SacreMetric

REFERENCES = ["the cat sat on the mat", "a dog barks at night", "it rains", "we go home now"] * 6
GOLD = [[line] for line in REFERENCES]
BETTER = ["the cat sat on the mat", "a dog barks at noon", "it rains", "we go home"] * 6
WORSE = ["the cat is on a mat", "the dog barked at night", "rain", "we went home now"] * 6


@pytest.mark.parametrize(("kind", "samples"), [("bs", 300), ("ar", 500)])
@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_p_values_of_bleu_and_chrf_are_sacrebleus(name, kind, samples):
    """sacreBLEU's own paired tests on the same texts, resamples and seed."""
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    theirs = (BLEU if name == "bleu" else CHRF)(references=[REFERENCES])
    named = [("worse", WORSE), ("better", BETTER)]
    test = PairedTest(named, {name: theirs}, None, kind, n_samples=samples)
    _, scores = test()
    worse, better = next(value for key, value in scores.items() if key != "System")
    metric = SacreMetric(name, "13a")
    rows = {
        system: metric.statistics([Outcome(*pair) for pair in zip(lines, GOLD, strict=True)])
        for system, lines in named
    }
    seen = better.score - worse.score
    if kind == "ar":
        first, second = swapped_scores(rows["better"], rows["worse"], metric.value, samples)
        found = sacrebleu_randomization(seen, first - second)
    else:
        counts = resample_counts([len(REFERENCES)], samples)
        drawn = [resampled_scores([rows[n]], metric.value, counts) for n in ("better", "worse")]
        assert drawn[0].mean() == pytest.approx(better.mean)
        found = sacrebleu_bootstrap(seen, drawn[0] - drawn[1])
    assert found.p_value == better.p_value
    assert 0 < better.p_value < 1


PROCEDURES = pytest.mark.parametrize(
    "procedure", [percentile, sacrebleu_bootstrap, randomization, sacrebleu_randomization]
)
SCORES = st.integers(-8, 8) | st.floats(-1, 1)
DRAWN = st.lists(SCORES, min_size=20, max_size=130).map(lambda values: np.array(values, float))


@PROCEDURES
@given(seen=SCORES, drawn=DRAWN)
@example(seen=1.0, drawn=np.array([1.0] * 40))
@example(seen=0.0, drawn=np.array([0.0] * 39 + [1.0]))
@example(seen=1.0, drawn=np.array([0.0] * 25 + [1.0] * 975))
@example(seen=1.0, drawn=np.array([0.0] * 26 + [1.0] * 974))
def test_p_is_below_five_percent_exactly_where_the_interval_excludes_zero(procedure, seen, drawn):
    found = procedure(float(seen), drawn)
    assert (found.p_value < 0.05) == found.interval.excludes_zero
    assert 0 < found.p_value <= 1
    assert found.interval.low <= found.interval.high


@PROCEDURES
@given(seen=SCORES, drawn=DRAWN)
def test_no_system_is_favored_by_its_place(procedure, seen, drawn):
    there, back = procedure(float(seen), drawn), procedure(-float(seen), -drawn)
    assert there.p_value == back.p_value
    assert (there.interval.low, there.interval.high) == (-back.interval.high, -back.interval.low)


def test_the_interval_of_a_test_is_as_wide_as_what_the_test_allows():
    drawn = np.arange(1.0, 1000.0)  # p of 951 is 49 / 1,000, or 50 / 1,000 if ties count
    for procedure in (randomization, sacrebleu_randomization):
        found = procedure(5000.0, drawn).interval
        assert (found.low, found.value, found.high) == (5000 - 951, 5000, 5000 + 951)
        below, above = procedure(950.5, drawn), procedure(951.5, drawn)
        assert below.p_value == 0.05 > above.p_value
        assert not below.interval.excludes_zero
        assert above.interval.excludes_zero
        few = procedure(1.0, drawn[:19]).interval  # no p is below 0.05
        assert (few.low, few.high) == (1 - 19, 1 + 19)


def test_the_least_p_widens_an_interval_to_zero_and_no_further():
    found = Difference(Interval(-0.2, -0.3, -0.1), 0.01)
    assert with_least_p(found, 4) == Difference(Interval(-0.2, -0.3, 0.0), 0.125)
    assert with_least_p(found, 6) == Difference(found.interval, 1 / 32)
    found = Difference(Interval(0.2, 0.1, 0.3), 0.01)
    assert with_least_p(found, 4) == Difference(Interval(0.2, 0.0, 0.3), 0.125)


def test_many_comparisons_take_more_resamples():
    assert [bootstrap_samples(number) for number in (1, 25, 26, 100)] == [1000, 1000, 1040, 4000]


ROWS_OF_TWO = st.lists(
    st.tuples(*[st.integers(0, 2)] * 4).map(lambda row: np.array(row, float)),
    min_size=2,
    max_size=15,
)


@given(ROWS_OF_TWO, st.integers(0, 9))
def test_p_and_interval_of_f1_agree_on_any_answers(rows, seed):
    """Rows: two systems' counts of correct and predicted items, beside two expected ones."""
    two = np.stack(rows)
    systems = [
        [
            np.stack(
                [np.minimum(two[:, at], two[:, at + 1]), two[:, at + 1], two[:, at + 1] * 0 + 2], 1
            )
        ]
        for at in (0, 2)
    ]
    counts = resample_counts([len(rows)], samples=80, seed=seed)
    found = paired_difference(*systems, f1_value, counts)
    assert (found.p_value < 0.05) == found.interval.excludes_zero


def test_p_of_the_bootstrap_is_two_sided():
    """In 10 of 1,000 resamples the system is worse: 2 times 10 of 1,001."""
    drawn = np.array([-1.0] * 10 + [1.0] * 990)
    assert percentile(1.0, drawn).p_value == pytest.approx(20 / 1001)
    assert percentile(1.0, np.ones(1000)).p_value == pytest.approx(1 / 1001)


def test_holms_correction_of_known_p_values():
    """By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 0.04, which may not be below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holms_correction_only_raises_p_values_and_keeps_their_order(p_values):
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[at] for at in order] == sorted(corrected)
    if p_values:
        assert min(corrected) == min(1, len(p_values) * min(p_values))


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


def right_answers(better, worse, examples=50):
    """Two systems' exact matches: one is right alone so often, the other so often."""
    both = np.zeros((2, examples))
    both[0, :better] = both[1, better : better + worse] = 1
    return [np.stack([rows, np.ones(examples)], axis=1) for rows in both]


def exact_p(better, worse):
    """The sign test: two-sided, of examples that only one system has right."""
    least, examples = min(better, worse), better + worse
    tail = sum(math.comb(examples, k) for k in range(least + 1)) / 2**examples
    return min(1.0, 2 * tail)


@pytest.mark.parametrize("better", range(1, 6))
@pytest.mark.parametrize("turned", [False, True])
def test_few_answers_that_differ_are_no_evidence(better, turned):
    """A percentile bootstrap says p = 0.038 for four of 50 that only one system has right."""
    systems = right_answers(better, 0)
    found = paired_difference(*([rows] for rows in (systems[::-1] if turned else systems)), mean_of)
    assert found.p_value == exact_p(better, 0) >= 0.05
    assert not found.interval.excludes_zero
    assert found.interval.low <= found.interval.value <= found.interval.high


def test_enough_answers_that_differ_are_evidence():
    found = paired_difference(*([rows] for rows in right_answers(6, 0)), mean_of)
    assert found.p_value == exact_p(6, 0) == 2 / 64
    assert found.interval.excludes_zero


def test_examples_differ_by_any_of_their_statistics():
    one, other = np.zeros((4, 3)), np.zeros((4, 3))
    other[1, 2] = other[3, 0] = other[3, 1] = 1
    assert differing([one, one], [other, one]) == 2


@given(ROWS_OF_TWO, st.integers(0, 20))
def test_the_least_p_keeps_p_and_interval_together(rows, examples):
    drawn = np.stack(rows)[:, 0] - np.stack(rows)[:, 1]
    found = with_least_p(percentile(float(drawn.mean()), np.tile(drawn, 20)), examples)
    assert (found.p_value < 0.05) == found.interval.excludes_zero
    assert min(1.0, 2 / 2**examples) <= found.p_value <= 1


def test_swaps_are_those_of_the_seed():
    answers = right_answers(6, 1)
    first, again = (swapped_scores(*answers, mean_of, trials=50, seed=1)[0] for _ in range(2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != swapped_scores(*answers, mean_of, trials=50, seed=2)[0].tolist()


@pytest.mark.parametrize(("better", "worse"), [(3, 0), (4, 0), (6, 0), (6, 1), (8, 1), (12, 4)])
def test_randomization_of_right_answers_is_the_sign_test(better, worse):
    """Trials as extreme as what was seen count: here most differences are seen many times."""
    first, second = swapped_scores(*right_answers(better, worse), mean_of)
    seen = (better - worse) / 50
    found = randomization(seen, first - second)
    assert found.p_value == pytest.approx(exact_p(better, worse), abs=0.01)
    assert sacrebleu_randomization(seen, first - second).p_value < exact_p(better, worse) / 1.5
    assert (found.p_value < 0.05) == found.interval.excludes_zero

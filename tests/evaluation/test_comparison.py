import numpy as np
import pytest

from adaptermix.evaluation.comparison import ALL, compare
from adaptermix.tasks.metrics.significance import SAMPLES, SEED, interval, paired_difference


def mean(sums):
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def made_up(rights, sizes, seed=0):
    """Answers that are right with some probability: rows of (right, 1)."""
    rng = np.random.default_rng(seed)
    return {
        lang: np.stack([rng.random(size) < right, np.ones(size)], axis=1).astype(float)
        for (lang, size), right in zip(sizes.items(), rights, strict=True)
    }


SIZES = {"en": 40, "cy": 30, "sw": 50}


@pytest.fixture
def statistics():
    return {
        "base": made_up((0.2, 0.3, 0.4), SIZES, 1),
        "good": made_up((0.9, 0.3, 0.4), SIZES, 2),
        "same": made_up((0.2, 0.3, 0.4), SIZES, 1),
    }


def found(statistics, baseline="base", groups=None):
    groups = groups or {"pair": ["en", "cy"]}
    return {(c.system, c.over): c for c in compare(statistics, mean, baseline, groups)}


def test_every_system_is_compared_with_the_baseline_on_languages_groups_and_all(statistics):
    rows = found(statistics)
    overs = ("en", "cy", "sw", "pair", ALL)
    assert list(rows) == [(system, over) for over in overs for system in ("good", "same")]
    assert rows["good", "pair"].langs == ["en", "cy"]
    assert rows["good", ALL].langs == ["en", "cy", "sw"]
    assert {row.baseline for row in rows.values()} == {"base"}


def test_averages_against_a_plain_loop(statistics):
    """Resample each language apart, average the scores, subtract, take the bounds."""
    row = found(statistics)["good", "pair"]
    draws = {}
    for at, lang in enumerate(("en", "cy")):
        rng = np.random.default_rng(SEED + 1 + at)
        draws[lang] = rng.choice(SIZES[lang], size=(SAMPLES, SIZES[lang]), replace=True)
    differences = []
    for sample in range(SAMPLES):
        macro = {"base": 0.0, "good": 0.0}
        for system in macro:
            for lang, drawn in draws.items():
                rights = [statistics[system][lang][i][0] for i in drawn[sample]]
                macro[system] += sum(rights) / len(rights) / 2
        differences.append(macro["good"] - macro["base"])
    score, reference = (
        np.mean([statistics[system][lang][:, 0].mean() for lang in ("en", "cy")])
        for system in ("good", "base")
    )
    expected = interval(score - reference, np.array(differences))
    assert (row.score, row.baseline_score) == pytest.approx((score, reference))
    assert (row.difference, row.low, row.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


def test_a_language_is_judged_as_if_it_were_alone(statistics):
    alone = {system: {"cy": rows["cy"]} for system, rows in statistics.items()}
    assert found(alone, groups={"none": ["cy"]})["good", "cy"] == found(statistics)["good", "cy"]
    plain = paired_difference([statistics["good"]["cy"]], [statistics["base"]["cy"]], mean)
    row = found(statistics)["good", "cy"]
    assert (row.low, row.high, row.p_value) == (
        plain.interval.low,
        plain.interval.high,
        plain.p_value,
    )


def test_a_large_difference_is_sure_and_no_difference_is_not(statistics):
    rows = found(statistics)
    assert rows["good", "en"].excludes_zero
    assert rows["good", "en"].p_value < 0.01
    for over in ("en", ALL):
        same = rows["same", over]
        assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
        assert not same.excludes_zero


def test_other_answers_of_the_same_score_are_no_difference(statistics):
    """Both systems have nothing right, in different ways."""
    wrong = {lang: rows * [0, 1] for lang, rows in statistics["base"].items()}
    more = {lang: rows * [1, 2] for lang, rows in wrong.items()}
    for row in found({"base": wrong, "other": more}).values():
        assert (row.difference, row.p_value) == (0, 1)


def test_another_baseline_turns_the_difference_around(statistics):
    there, back = found(statistics)["good", ALL], found(statistics, "good")["base", ALL]
    assert back.difference == pytest.approx(-there.difference)
    assert back.p_value == there.p_value

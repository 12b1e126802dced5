from dataclasses import replace

import numpy as np
import pytest

from adaptermix.evaluation.comparison import ALL, PairedTest, compare
from adaptermix.tasks.metrics.f1 import SLOT_F1
from adaptermix.tasks.metrics.metric import Outcome
from adaptermix.tasks.metrics.significance import (
    SAMPLES,
    SEED,
    holm,
    interval,
    paired_difference,
    percentile,
    resample_counts,
)
from adaptermix.tasks.metrics.text import SacreMetric
from adaptermix.version import __version__


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


TESTS = pytest.mark.parametrize("test", ["bootstrap", "ar"])


@pytest.fixture
def statistics():
    return {
        "base": made_up((0.2, 0.3, 0.4), SIZES, 1),
        "good": made_up((0.9, 0.3, 0.4), SIZES, 2),
        "same": made_up((0.2, 0.3, 0.4), SIZES, 1),
    }


def found(statistics, baseline="base", groups=None, test="bootstrap"):
    groups = groups or {"pair": ["en", "cy"]}
    test = PairedTest.of(test, SLOT_F1, len(SIZES))
    return {(c.system, c.over): c for c in compare(statistics, mean, baseline, groups, test)}


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
    one = found(alone, groups={"none": ["cy"]})["good", "cy"]
    assert replace(one, p_holm=None) == replace(found(statistics)["good", "cy"], p_holm=None)
    plain = paired_difference([statistics["good"]["cy"]], [statistics["base"]["cy"]], mean)
    row = found(statistics)["good", "cy"]
    assert (row.low, row.high, row.p_value) == (
        plain.interval.low,
        plain.interval.high,
        plain.p_value,
    )


@TESTS
def test_a_large_difference_is_sure_and_no_difference_is_not(statistics, test):
    rows = found(statistics, test=test)
    assert rows["good", "en"].excludes_zero
    assert rows["good", "en"].is_sure
    assert rows["good", "en"].p_value < 0.01
    for over in ("en", ALL):
        same = rows["same", over]
        assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
        assert not same.excludes_zero


@TESTS
def test_few_answers_that_differ_are_not_sure(test):
    """Four of 50 in one language: a sign test has p = 0.125, and eight in both have 0.008."""
    rows = {lang: np.stack([np.zeros(50), np.ones(50)], axis=1) for lang in ("en", "cy", "sw")}
    other = {lang: given.copy() for lang, given in rows.items()}
    other["en"][:4, 0] = other["cy"][:4, 0] = 1
    compared = found({"base": rows, "other": other}, test=test)
    for lang in ("en", "cy"):
        row = compared["other", lang]
        assert row.p_value == pytest.approx(0.125, abs=0.02)
        assert row.low <= 0 < row.high and not row.excludes_zero
    assert compared["other", "pair"].p_value < 0.02
    assert compared["other", "pair"].excludes_zero
    assert compared["other", "sw"].p_value == 1


@TESTS
def test_answers_without_effect_on_the_score_are_no_evidence_in_an_average(test):
    """Four answers of one language decide; those of the other are wrong in different ways."""
    wrong = np.stack([np.zeros(50), np.ones(50)], axis=1)
    some = wrong.copy()
    some[:4, 0] = 1
    others = {"base": {"en": wrong, "cy": wrong}, "other": {"en": some, "cy": wrong * [1, 2]}}
    compared = found(others, test=test)
    for over in ("en", ALL):
        assert compared["other", over].p_value == pytest.approx(0.125, abs=0.02)
        assert not compared["other", over].excludes_zero


@TESTS
@pytest.mark.parametrize("examples", [1, 3, 5])
def test_sacrebleus_tests_need_six_answers_that_differ(test, examples):
    """sacreBLEU has p = 0.001 for one example, because all its resamples are the same."""
    bleu = SacreMetric("bleu")
    texts = [f"sentence {n} is about the weather of today" for n in range(8)]
    worse = [*(["not at all"] * examples), *texts[examples:]]
    rows = [
        {
            "cy": bleu.statistics(
                [Outcome(s, [t], lang="cy") for s, t in zip(side, texts, strict=True)]
            )
        }
        for side in (texts, worse)
    ]
    paired = PairedTest.of(test, bleu, 1)
    row, *_ = compare({"base": rows[0], "other": rows[1]}, bleu.value, "base", {}, paired)
    assert row.difference < 0
    assert row.p_value >= 0.05
    assert not row.is_sure
    assert row.low < 0 <= row.high


@TESTS
def test_other_answers_of_the_same_score_are_no_difference(statistics, test):
    """Both systems have nothing right, in different ways."""
    wrong = {lang: rows * [0, 1] for lang, rows in statistics["base"].items()}
    more = {lang: rows * [1, 2] for lang, rows in wrong.items()}
    for row in found({"base": wrong, "other": more}, test=test).values():
        assert (row.difference, row.p_value) == (0, 1)


def test_a_resample_in_which_languages_cancel_is_no_difference():
    """Rounding leaves 1e-17 of it, on one side of zero."""
    names, size = ("en", "cy", "sw"), 100
    base, other = ({lang: np.ones((size, 2)) for lang in names} for _ in range(2))
    differing = np.random.default_rng(6).choice(3 * size, 17, replace=False)
    for at, number in enumerate(differing):
        (base if at < 12 else other)[names[number // size]][number % size, 0] = 0
    gains = [(other[lang] - base[lang])[:, 0] for lang in names]

    def p_of(counts):
        """Sums of whole numbers are exact."""
        return percentile(1, sum(c @ gain for c, gain in zip(counts, gains, strict=True))).p_value

    apart = [resample_counts([size], SAMPLES, SEED + 1 + at)[0] for at in range(3)]
    row = found({"base": base, "other": other})["other", ALL]
    assert row.p_value == p_of(apart)
    assert row.difference == pytest.approx(7 / 300, abs=1e-12)
    drawn_together = resample_counts([size] * 3)
    test = paired_difference(list(other.values()), list(base.values()), mean)
    assert test.p_value == p_of(drawn_together)


def test_another_baseline_turns_the_difference_around(statistics):
    there, back = found(statistics)["good", ALL], found(statistics, "good")["base", ALL]
    assert back.difference == pytest.approx(-there.difference)
    assert back.p_value == there.p_value


@TESTS
def test_stars_are_given_after_holms_correction_over_the_languages_of_a_system(test):
    """Fifteen languages, in one of which the system is better by chance."""
    sizes = {f"l{at}": 60 for at in range(15)}
    rng = np.random.default_rng(5)
    base = {lang: np.stack([rng.random(60) < 0.5, np.ones(60)], axis=1) * 1.0 for lang in sizes}
    other = {lang: rows.copy() for lang, rows in base.items()}
    wrong = np.flatnonzero(base["l0"][:, 0] == 0)
    other["l0"][wrong[:6], 0] = 1
    made = {"base": base, "other": other}
    test = PairedTest.of(test, SLOT_F1, len(sizes))
    rows = {c.over: c for c in compare(made, mean, "base", {}, test)}
    row = rows["l0"]
    assert row.p_value < 0.05 and row.excludes_zero
    assert row.p_holm == pytest.approx(min(1.0, 15 * row.p_value))
    assert row.is_sure == (row.p_holm < 0.05)
    assert rows["l1"].p_holm == 1
    assert rows[ALL].p_holm is None


def test_the_correction_is_over_the_languages_of_one_system(statistics):
    """Neither over those of other systems, nor over groups and averages."""
    made = statistics | {"also": made_up((0.6, 0.8, 0.5), SIZES, 3)}
    rows = found(made, groups={"pair": ["en", "cy"], "alone": ["sw"]})
    for system in ("good", "also", "same"):
        p_values = [rows[system, lang].p_value for lang in SIZES]
        assert min(p_values) < 0.02 or system == "same"
        assert [rows[system, lang].p_holm for lang in SIZES] == holm(p_values)
        assert {rows[system, over].p_holm for over in ("pair", ALL)} == {None}


def test_a_group_is_judged_as_if_its_languages_were_all_there_are(statistics):
    """One language as that language, and several as their average."""
    rows = found(statistics, groups={"pair": ["en", "cy"], "alone": ["sw"]})
    alone = {system: {lang: of[lang] for lang in ("en", "cy")} for system, of in statistics.items()}
    few = found(alone, groups={"none": ["en"]})
    for system in ("good", "same"):
        assert replace(rows[system, "pair"], over=ALL) == few[system, ALL]
        assert replace(rows[system, "alone"], over="sw") == rows[system, "sw"]


@TESTS
def test_a_group_of_one_language_has_a_star_if_the_language_has_one(test):
    """The same difference, twice in one table."""
    rows = {lang: np.stack([np.zeros(50), np.ones(50)], axis=1) for lang in ("en", "cy", "sw")}
    other = {lang: given.copy() for lang, given in rows.items()}
    other["sw"][:6, 0] = 1
    compared = found({"base": rows, "other": other}, groups={"alone": ["sw"]}, test=test)
    for over in ("sw", "alone"):
        assert compared["other", over].p_value < 0.05
        assert not compared["other", over].is_sure


def test_resamples_suffice_for_a_star_in_every_language():
    """With 1,000 of them, none of 60 languages could ever have p < 0.05 after the correction."""
    for langs in (1, 6, 20, 60, 200):
        test = PairedTest.of("bootstrap", SLOT_F1, langs)
        assert langs / (test.samples + 1) < 0.05
    assert PairedTest.of("bootstrap", SLOT_F1, 20).samples == SAMPLES


@pytest.mark.parametrize(
    ("test", "metric", "kind", "parts"),
    [
        ("bootstrap", SLOT_F1, "bootstrap", ("bs:1000", "seed:12345")),
        ("bootstrap", SacreMetric("bleu"), "sacrebleu-bootstrap", ("bs:1000", "by:sacrebleu")),
        ("ar", SLOT_F1, "randomization", ("slot_f1", "ar:10000", f"version:{__version__}")),
        ("ar", SacreMetric("chrf"), "sacrebleu-randomization", ("chrf", "ar:10000")),
    ],
)
def test_the_signature_names_the_test(test, metric, kind, parts):
    made = PairedTest.of(test, metric, 3)
    assert made.kind == kind
    assert {*parts, "correction:holm"} <= set(made.signature.split("|"))

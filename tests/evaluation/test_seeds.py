"""Means and intervals over seeds and examples, against plain loops and by laws."""

from dataclasses import replace

import numpy as np
import pytest

from adaptermix.evaluation.comparison import ALL
from adaptermix.evaluation.seeds import over_seeds
from adaptermix.tasks.metrics.significance import SAMPLES, SEED, interval

LANGS = {"en": 40, "cy": 30}


def mean(sums):
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def answers(right, seed):
    """Return by language, answers that are right with some probability: rows of (right, 1)."""
    rng = np.random.default_rng(seed)
    return {
        lang: np.stack([rng.random(size) < right, np.ones(size)], axis=1).astype(float)
        for lang, size in LANGS.items()
    }


@pytest.fixture
def statistics():
    return {
        "base": answers(0.2, 1),
        **{f"task-seed-{seed}": answers(0.4 + seed / 20, seed) for seed in (1, 2, 3)},
        **{f"merged-seed-{seed}": answers(0.6 + seed / 20, 9 + seed) for seed in (1, 2, 3)},
    }


def summed(statistics, baseline, groups=None):
    return {(r.system, r.over): r for r in over_seeds(statistics, mean, baseline, groups or {})}


def macro(rows, langs=tuple(LANGS)):
    return float(np.mean([rows[lang][:, 0].mean() for lang in langs]))


def test_mean_and_spread_are_over_the_seeds(statistics):
    found = summed(statistics, "base", {"first": ["en"]})
    assert list(found) == [
        (system, over) for over in ("en", "cy", "first", ALL) for system in ("task", "merged")
    ]
    row = found["task", ALL]
    scores = [macro(statistics[f"task-seed-{seed}"]) for seed in (1, 2, 3)]
    assert row.scores == pytest.approx(scores)
    assert row.mean == pytest.approx(np.mean(scores))
    assert row.deviation == pytest.approx(np.std(scores, ddof=1))
    assert (row.seeds, row.langs) == ([1, 2, 3], ["en", "cy"])
    assert row.baseline == "base"
    assert row.difference == pytest.approx(np.mean(scores) - macro(statistics["base"]))
    for system in ("task", "merged"):
        assert replace(found[system, "first"], over="en") == found[system, "en"]


def test_a_group_is_summed_up_as_if_its_languages_were_all_there_are(statistics):
    """Its means, intervals and differences do not depend on the other languages."""
    more = {name: {**rows, "sw": answers(0.3, at)["en"]}
            for at, (name, rows) in enumerate(statistics.items())}  # fmt: skip
    for baseline in ("base", "task-seed-1"):
        rows = summed(more, baseline, {"two": ["en", "cy"]})
        few = summed(statistics, baseline)
        for system in ("task", "merged"):
            assert replace(rows[system, "two"], over=ALL) == few[system, ALL]
            assert rows[system, ALL].mean != rows[system, "two"].mean


def test_a_resample_draws_seeds_and_examples(statistics):
    """One after the other: the seeds of a resample, and its examples of every language."""
    row = summed(statistics, "task-seed-1")["merged", ALL]
    seeds = np.random.default_rng([SEED, 1, 2, 3]).integers(3, size=(SAMPLES, 3))
    examples = [
        np.random.default_rng(SEED + 1 + at).choice(size, size=(SAMPLES, size), replace=True)
        for at, size in enumerate(LANGS.values())
    ]
    drawn, means = [], []
    for number in range(SAMPLES):
        gains, values = [], []
        for at in seeds[number]:
            pair = [statistics[f"{name}-seed-{at + 1}"] for name in ("merged", "task")]
            scores = [
                np.mean(
                    [
                        rows[lang][chosen[number], 0].mean()
                        for lang, chosen in zip(LANGS, examples, strict=True)
                    ]
                )
                for rows in pair
            ]
            gains.append(scores[0] - scores[1])
            values.append(scores[0])
        drawn.append(np.mean(gains))
        means.append(np.mean(values))
    expected = interval(row.difference, np.array(drawn))
    assert row.difference_low == pytest.approx(expected.low)
    assert row.difference_high == pytest.approx(expected.high)
    assert row.baseline == "task"
    expected = interval(row.mean, np.array(means))
    assert (row.low, row.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_seeds_that_do_not_differ_add_nothing_to_the_interval(statistics):
    """The interval is then that of the examples, and wider where seeds differ more."""
    same = {"base": statistics["base"]} | {f"s-seed-{n}": statistics["base"] for n in (1, 2, 3)}
    row = summed(same, "base")["s", ALL]
    assert row.deviation == 0
    assert (row.difference, row.difference_low, row.difference_high) == (0, 0, 0)
    assert not row.is_sure
    apart = {"base": statistics["base"]}
    apart |= {f"s-seed-{n}": answers(right, 5) for n, right in ((1, 0.05), (2, 0.5), (3, 0.95))}
    wide = summed(apart, "base")["s", ALL]
    assert wide.high - wide.low > 3 * (row.high - row.low)
    assert wide.low >= min(wide.scores) - 0.1
    assert wide.high <= max(wide.scores) + 0.1


def test_systems_of_the_same_seeds_are_compared_seed_by_seed(statistics):
    """A constant gain on top of seeds that differ much has a narrow interval."""
    rng = np.random.default_rng(0)
    paired = {}
    for seed, right in ((1, 0.1), (2, 0.5), (3, 0.8)):
        rows = answers(right, seed)
        paired[f"task-seed-{seed}"] = rows
        better = {lang: table.copy() for lang, table in rows.items()}
        for table in better.values():
            table[rng.permutation(np.flatnonzero(table[:, 0] == 0))[:3], 0] = 1
        paired[f"merged-seed-{seed}"] = better
    row = summed(paired, "task-seed-1")["merged", ALL]
    assert row.is_sure
    assert row.difference_high - row.difference_low < 0.3 * (row.high - row.low)
    other = {name.replace("task-seed-3", "task-seed-4"): rows for name, rows in paired.items()}
    apart = summed(other, "task-seed-1")["merged", ALL]
    assert apart.difference == pytest.approx(row.difference)
    assert apart.difference_high - apart.difference_low > 2 * (
        row.difference_high - row.difference_low
    )


def test_a_baseline_without_a_seed_is_compared_with_seeds_of_its_name(statistics):
    alone = {"task": statistics["base"], **statistics}
    row = summed(alone, "task")["task", ALL]
    assert row.baseline == "task"
    assert row.difference == pytest.approx(summed(statistics, "base")["task", ALL].difference)


def test_the_order_of_the_systems_does_not_matter(statistics):
    turned = dict(reversed(statistics.items()))
    assert summed(turned, "base") == summed(statistics, "base")


def test_nothing_is_summed_up_without_several_seeds(statistics):
    assert over_seeds({}, mean, "base", {}) == []
    few = {name: statistics[name] for name in ("base", "task-seed-1", "merged-seed-2")}
    assert over_seeds(few, mean, "base", {}) == []

import math

import numpy as np
import pytest

from adaptermix.search.routes import choose_routes, permutation_p_values
from adaptermix.tasks.metrics.significance import Interval


def mean(sums):
    return sums[..., 0] / sums[..., 1]


def rows(right):
    return np.stack([np.asarray(right, dtype=float), np.ones(len(right))], axis=1)


def answers(rng, examples, gain):
    """Return a task adapter's answers and those of a merge that rights or spoils some of them."""
    task = rng.random(examples) < 0.5
    luck = rng.random(examples)
    merge = np.where(task, luck > 0.05, luck < 0.05 + 2 * gain)
    return rows(task), rows(merge)


@pytest.mark.parametrize("wins", [1, 4, 8])
def test_the_p_value_is_the_exact_sign_tests(wins):
    task = rows([0] * 50)
    merge = rows([1] * wins + [0] * (50 - wins))
    (p_value,) = permutation_p_values([merge], task, mean, trials=40_000)
    assert p_value == pytest.approx(2 / 2**wins, rel=0.2)


def test_equal_systems_have_p_one():
    task = rows([0, 1, 1])
    assert permutation_p_values([task], task, mean) == [1.0]


def test_a_real_gain_is_taken_and_no_other():
    rng = np.random.default_rng(1)
    task, merges = {}, {"0.7": {}, "0.9": {}}
    for lang, gain in (("cy", 0.15), ("en", 0.0), ("sw", 0.0)):
        task[lang], merges["0.7"][lang] = answers(rng, 600, gain)
        merges["0.9"][lang] = task[lang]
    routes = choose_routes(task, merges, mean, "simpler")
    assert {lang: route.chosen for lang, route in routes.items()} == {
        "cy": "0.7",
        "en": None,
        "sw": None,
    }
    best = routes["cy"].evidence[0]
    assert isinstance(best.difference.interval, Interval)
    assert best.difference.interval.value == pytest.approx(best.score - routes["cy"].task_score)
    assert best.p_holm >= best.difference.p_value


def test_the_best_mean_is_taken_where_it_is_asked_for():
    task = {"cy": rows([0, 1, 0, 1])}
    merges = {"0.7": {"cy": rows([1, 1, 0, 1])}, "0.9": {"cy": rows([0, 0, 0, 1])}}
    assert choose_routes(task, merges, mean, "simpler")["cy"].chosen is None
    assert choose_routes(task, merges, mean, "best")["cy"].chosen == "0.7"
    assert choose_routes(task, {"0.9": merges["0.9"]}, mean, "best")["cy"].chosen is None


def test_a_language_without_dev_data_gets_the_task_adapter():
    task = {"cy": rows([0, 1]), "ja": rows([])}
    merges = {"0.7": {"cy": rows([1, 1]), "ja": rows([])}}
    for prefer in ("simpler", "best"):
        route = choose_routes(task, merges, mean, prefer)["ja"]
        assert (route.chosen, route.task_score, route.examples) == (None, None, 0)


def test_choosing_the_best_of_several_merges_is_paid_for():
    """Among merges that gain nothing, one in twenty searches at most takes any."""
    rng = np.random.default_rng(2)
    wrong, searches = 0, 60
    for _ in range(searches):
        task = {lang: rows(rng.random(100) < 0.5) for lang in ("en", "cy", "sw")}
        merges = {str(at): {lang: rows(rng.random(100) < 0.5) for lang in task} for at in range(4)}
        routes = choose_routes(task, merges, mean, "simpler")
        wrong += any(route.chosen for route in routes.values())
    assert wrong / searches <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / searches)


def test_a_sure_gain_outlives_the_correction_for_many_comparisons(monkeypatch):
    monkeypatch.setattr("adaptermix.search.routes.TRIALS", 20)  # too few for eight comparisons
    task = {lang: rows([0] * 30) for lang in ("cy", "sw")}
    merges = {name: {lang: rows([1] * 30) for lang in task} for name in "abcd"}
    routes = choose_routes(task, merges, mean, "simpler")
    assert [route.chosen for route in routes.values()] == ["a", "a"]

import math
from itertools import product

import numpy as np
import pytest

from adaptermix.search.routes import choose_routes, permutation_p_values
from adaptermix.tasks.metrics.f1 import f1_value
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


def counts_of_items(rng, examples=7):
    predicted, expected = rng.integers(4, size=(2, examples))
    return np.stack([rng.integers(np.minimum(predicted, expected) + 1), predicted, expected], 1)


@pytest.mark.parametrize("seed", range(5))
def test_the_p_values_of_f1_are_those_of_all_swaps(seed):
    """F1 is no mean: its difference depends on which system's counts are added."""
    rng = np.random.default_rng(seed)
    task, *merges = (counts_of_items(rng).astype(float) for _ in range(3))
    swaps = np.array([*product([0, 1], repeat=len(task))])
    exact = []
    for merge in merges:
        one, other = swaps @ task + (1 - swaps) @ merge, swaps @ merge + (1 - swaps) @ task
        differences = np.abs(f1_value(one) - f1_value(other))
        exact.append(float(np.mean(differences >= differences[0] - 1e-9)))
    found = permutation_p_values(merges, task, f1_value, trials=20_000)
    assert found == pytest.approx(exact, abs=0.015)
    assert found == permutation_p_values(merges, task, f1_value, trials=20_000)


@pytest.mark.parametrize("trials", [1, 999, 1500])
def test_equal_systems_have_p_one(trials):
    task = rows([0, 1, 1])
    assert permutation_p_values([task], task, mean, trials) == [1.0]


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
    as_good = {"0.9": {"cy": rows([1, 0, 1, 0])}}
    assert choose_routes(task, as_good, mean, "best")["cy"].chosen is None


def test_a_clear_loss_is_no_reason_for_a_merge():
    task, merge = rows([1] * 60), rows([1] * 30 + [0] * 30)
    (route,) = choose_routes({"cy": task}, {"m": {"cy": merge}}, mean, "simpler").values()
    assert route.evidence[0].p_holm < 0.05
    assert route.chosen is None


def test_a_merge_with_the_same_score_is_not_the_best():
    task = {"cy": rows([0, 1])}
    assert choose_routes(task, {"0.7": task}, mean, "best")["cy"].chosen is None


@pytest.mark.parametrize("prefer", ["simpler", "best"])
def test_the_best_of_several_gains_is_taken_and_all_are_recorded(prefer):
    task = {"cy": rows([0] * 30)}
    right = {"little": 10, "most": 30, "some": 20, "none": 0}
    merges = {name: {"cy": rows([1] * n + [0] * (30 - n))} for name, n in right.items()}
    route = choose_routes(task, merges, mean, prefer)["cy"]
    assert (route.chosen, route.task_score, route.examples) == ("most", 0.0, 30)
    assert [found.candidate for found in route.evidence] == ["most", "some", "little", "none"]
    assert [found.score for found in route.evidence] == [1.0, 20 / 30, 10 / 30, 0.0]
    p_values = permutation_p_values([of["cy"] for of in merges.values()], task["cy"], mean)
    assert {e.candidate: e.difference.p_value for e in route.evidence} == dict(
        zip(merges, p_values, strict=True)
    )


def test_a_language_without_dev_data_gets_the_task_adapter():
    task = {"cy": rows([0, 1]), "ja": rows([])}
    merges = {"0.7": {"cy": rows([1, 1]), "ja": rows([])}}
    for prefer in ("simpler", "best"):
        route = choose_routes(task, merges, mean, prefer)["ja"]
        assert (route.chosen, route.task_score, route.examples) == (None, None, 0)
        assert route.evidence == []


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
    trials = 40 * 8  # the least p-value, 1 / (trials + 1), is below 0.05 / 8
    for route in routes.values():
        assert [found.difference.p_value for found in route.evidence] == [1 / (trials + 1)] * 4

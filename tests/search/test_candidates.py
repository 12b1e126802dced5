"""Candidates of a search: their weights, names and order."""

from types import SimpleNamespace

import pytest
from helpers.adapters import peft_adapter

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ConfigError
from adaptermix.merging.plan import Tally, open_adapters, plan_merge
from adaptermix.merging.weights import Rule, Weighting
from adaptermix.search.candidates import (
    Candidate,
    first_candidates,
    folder_names,
    layer_groups,
    merges_with_first,
    names_of,
    plan_candidate,
)
from adaptermix.settings.merging import MergeSettings, SearchSettings

NAMES = ["task", "align"]


def grid(text, **changes):
    return SearchSettings(search=text, **changes)


@pytest.mark.parametrize(
    ("weights", "rules", "complexity"),
    [
        ((1.0, 0.0), [], (1, 1)),
        ((0.0, -0.5), [], (1, 1)),
        ((1.0, -0.5), [], (2, 1)),  # an adapter that is taken away counts
        ((1.0, 0.0), [(1.0, 0.0), (0.5, 0.5)], (2, 2)),  # as many as in the fullest module
        ((1.0, 0.0), [(0.5, 0.0)], (1, 2)),
        ((0.2, 0.3, 0.5), [(1.0, 0.0, 0.0), (0.0, 0.5, 0.5)], (3, 3)),
    ],
)
def test_complexity_counts_adapters_in_use_then_mixtures(weights, rules, complexity):
    weighting = Weighting(weights, tuple(Rule(mixture, modules="x") for mixture in rules))
    assert Candidate("c", weighting).complexity == complexity


@pytest.mark.parametrize(
    "changes", [{"method": "ties", "density": 0.3}, {"method": "dare"}, {"rank": 1}]
)
def test_one_adapter_alone_is_scaled_and_nothing_else(tmp_path, model_dir, changes):
    """The control of a search: a method would trim, drop or flatten it."""
    for seed, name in enumerate(NAMES):
        peft_adapter(model_dir, tmp_path / name, seed=seed)
    settings = grid("0.5,0.7", **changes)
    adapters = open_adapters([tmp_path / name for name in NAMES], settings)
    for weight in (1.0, 0.7):
        plan = plan_candidate(adapters, adapters, Weighting((weight, 0.0)), settings)
        for module, source in adapters[0].updates():
            update = plan.update(module, Tally())
            assert (update.a == source.a).all() and (update.b == source.b).all()
            assert update.scaling == weight * source.scaling
    merged = plan_candidate(adapters, adapters, Weighting((0.5, 0.5)), settings)
    assert merged.method == settings.method and merged.options.rank == settings.rank


def test_a_grid_may_begin_and_end_with_one_adapter_alone():
    weights = [c.weighting.weights for c in first_candidates(NAMES, grid("0,0.5,1"))]
    assert weights == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]


def test_each_candidate_has_its_own_name():
    names = [c.name for c in first_candidates(NAMES, grid("0.3333333,0.33333334,0.5,1:0.10"))]
    assert names[:4] == ["0.3333333", "0.33333334", "0.5", "1:0.1"]


@pytest.mark.parametrize(("weight", "pair"), [("1.25", "1.25:-0.25"), ("-0.5", "-0.5:1.5")])
def test_a_weight_outside_the_range_is_refused_with_the_pair_that_is_meant(weight, pair):
    with pytest.raises(ConfigError, match=f"the weight {weight} is not between 0 and 1") as error:
        first_candidates(NAMES, grid(f"0.5,{weight}"))
    assert error.value.hint == f"if you mean it, write both weights: {pair}"
    first_candidates(NAMES, grid(f"0.5,{pair}"))


def test_auto_begins_with_a_grid_of_even_steps_in_which_each_point_has_neighbors():
    for names in (NAMES, [*NAMES, "style"]):
        found = [c.weighting.weights for c in first_candidates(names, grid("auto"))]
        assert [weights[0] for weights in found[: -len(names)]] == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        assert all(sum(weights) == pytest.approx(1) for weights in found)
        assert [sorted(weights) for weights in found[-len(names) :]] == [
            [*[0.0] * (len(names) - 1), 1.0]
        ] * len(names)


def test_of_two_ways_to_write_one_merge_the_first_names_it():
    merges = merges_with_first(NAMES, grid("0.7,0.7:0.3,1:0.5", per_language=True, out="f"))
    assert [merge.name for merge in merges] == ["align-0.7", "align-1_0.5"]
    assert len({merge.weighting for merge in merges}) == 2


def test_every_folder_has_a_name_that_is_one():
    names = folder_names(["...", "-rf", ".hidden", "日本", "***"])
    assert len(set(names)) == len(names)
    assert all(name and name[0] not in ".-*" for name in names)


def test_an_adapter_is_named_by_its_folder_wherever_it_is_named_from(
    tmp_path, model_dir, monkeypatch
):
    folder = tmp_path / "task"
    peft_adapter(model_dir, folder)
    monkeypatch.chdir(folder)
    assert names_of([read_adapter(folder.relative_to(folder))]) == ["task"]


@pytest.mark.parametrize("layers", [[0, 1, 2, 3], [1, 3], [0, 3], [2]])
def test_groups_hold_the_layers_that_the_adapters_have(tmp_path, model_dir, layers):
    for seed, name in enumerate(NAMES):
        peft_adapter(model_dir, tmp_path / name, seed=seed, layers_to_transform=layers)
    settings = MergeSettings(weight=0.5)
    adapters = open_adapters([tmp_path / name for name in NAMES], settings)
    plan = plan_merge(adapters, Weighting((0.5, 0.5)), settings)
    for count in range(1, len(layers) + 1):
        groups = layer_groups(plan, count)
        assert [layer for group in groups for layer in sorted(group)] == layers
        sizes = [len(group) for group in groups]
        assert len(sizes) == count
        assert max(sizes) - min(sizes) <= 1
    with pytest.raises(ConfigError, match=rf"have only {len(layers)} layers?$"):
        layer_groups(plan, len(layers) + 1)


def test_adapters_of_one_name_are_numbered(tmp_path):
    """Two candidates of one name would be one candidate, with the answers of the first."""

    def named(*paths):
        return names_of([SimpleNamespace(path=tmp_path / path) for path in paths])

    assert named("a/task", "align.safetensors") == ["task", "align"]
    assert named("a/task", "b/task", "align") == ["task (1)", "task (2)", "align"]
    same = named("a/task", "b/task", "task (1)")
    assert same == ["task (1)", "task (2)", "task (1) (3)"]

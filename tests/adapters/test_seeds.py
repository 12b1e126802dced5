"""Names of systems that were made with several seeds."""

from adaptermix.adapters.seeds import seed_families, several_seeds, with_seed


def test_systems_of_one_name_and_several_seeds_are_a_family():
    names = ["base", with_seed("task", 2), with_seed("task", 10), "task", "a-seed-1", "b-seed-x"]
    assert several_seeds(names) == {"task": {2: "task-seed-2", 10: "task-seed-10"}}
    assert seed_families(names) == several_seeds(names) | {"a": {1: "a-seed-1"}}
    nested = [with_seed("x-seed-1", seed) for seed in (1, 2)]
    assert several_seeds(nested).keys() == {"x-seed-1"}

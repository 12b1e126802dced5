"""Names of systems that were made with several seeds."""

from adaptermix.adapters.seeds import seed_families, with_seed


def test_systems_of_one_name_and_several_seeds_are_a_family():
    names = ["base", with_seed("task", 2), with_seed("task", 10), "task", "a-seed-1", "b-seed-x"]
    assert seed_families(names) == {"task": {2: "task-seed-2", 10: "task-seed-10"}}
    assert seed_families([with_seed("x-seed-1", 1), with_seed("x-seed-1", 2)]).keys() == {
        "x-seed-1"
    }

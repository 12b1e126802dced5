"""What a step asks of a machine of a cluster."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.commands.schema import recipe_schema
from adaptermix.errors import ConfigError
from adaptermix.recipes.keys import step_key
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.resources import Resources, read_resources

STEP = """
[merged]
command = "merge"
adapters = ["a", "b"]
weight = 0.5
"""


def resources_of(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    (step,) = read_recipe(path).steps
    return step.resources


def test_keys_of_a_step_come_before_those_at_the_top(tmp_path):
    assert resources_of(tmp_path, STEP) == Resources()
    assert resources_of(tmp_path, f"cpus = 2\ngpus = 1\n{STEP}") == Resources(cpus=2, gpus=1)
    text = f'cpus = 2\ngpus = 1\n{STEP}gpus = 0\nmemory = "24GB"\n'
    assert resources_of(tmp_path, text) == Resources(cpus=2, gpus=0, memory=24_000_000_000)


@given(st.integers(0, 10**13))
def test_memory_is_bytes_or_a_size(size):
    assert read_resources({"memory": size}).memory == size
    assert read_resources({"memory": f"{size % 1000}GiB"}).memory == (size % 1000) * 2**30


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gpus = -1", "gpus: must be a number from 0, not -1"),
        ("gpus = 1.5", "gpus: must be a whole number or less than 1, not 1.5"),
        ("cpus = true", "cpus: must be a number from 0, not True"),
        ('memory = "much"', "memory: must be a size such as 24GB, not 'much'"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path, line, words):
    with pytest.raises(ConfigError) as raised:
        resources_of(tmp_path, f"{STEP}{line}\n")
    assert raised.value.message == f"{tmp_path / 'recipe.toml'}:6: [merged] {words}"
    with pytest.raises(ConfigError) as raised:
        resources_of(tmp_path, f"{line}\n{STEP}")
    assert raised.value.message == f"{tmp_path / 'recipe.toml'}:1: {words}"


def test_resources_are_in_the_schema_and_no_part_of_the_key(tmp_path):
    path = tmp_path / "recipe.toml"
    keys = []
    for text in (STEP, f"{STEP}gpus = 1\n"):
        path.write_text(text)
        (step,) = read_recipe(path).steps
        keys.append(step_key(step, Path("runs")))
    assert keys[0] == keys[1]
    assert {"cpus", "gpus", "memory"} <= recipe_schema()["properties"].keys()

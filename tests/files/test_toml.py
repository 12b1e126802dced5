"""TOML files that cannot be read, and where the fault is."""

import pytest

from adaptermix.errors import ConfigError
from adaptermix.files.toml import read_toml


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('task = "uner"\n\n[task]\ncommand = "train-task"\n', 3),
        ('[a]\ncommand = "eval"\n[a]\n', 3),
        ("seed = 1\nseed = 2\nlr = 0.1\n", 2),
    ],
)
def test_a_name_that_occurs_twice_gets_a_hint(tmp_path, text, line):
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"recipe\.toml:{line}: not valid TOML") as caught:
        read_toml(tmp_path / "recipe.toml")
    assert "a step of a recipe cannot have the name of a setting" in caught.value.hint


def test_other_faults_have_no_such_hint(tmp_path):
    (tmp_path / "recipe.toml").write_text("seed = = 1\n")
    with pytest.raises(ConfigError, match=r"recipe\.toml:1: not valid TOML") as caught:
        read_toml(tmp_path / "recipe.toml")
    assert caught.value.hint is None


def test_a_number_of_too_many_digits_is_told(tmp_path):
    (tmp_path / "a.toml").write_text("seed = " + "9" * 5000)
    with pytest.raises(ConfigError, match=r"a\.toml:1: not valid TOML: Exceeds the limit"):
        read_toml(tmp_path / "a.toml")

"""Weights by layer and module, and the file that holds them."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.errors import ConfigError
from adaptermix.merging.weights import Rule, Weighting, read_weighting, read_weights
from adaptermix.search.candidates import scalar_candidate
from adaptermix.settings.merging import MergeSettings

GOOD = "weights = [0.9, 0.1]\n"
UP, Q, HEAD = "model.layers.3.mlp.up_proj", "model.layers.12.self_attn.q_proj", "lm_head"


def read(tmp_path, text, adapters=2):
    (tmp_path / "weights.toml").write_text(text, encoding="utf-8")
    return read_weighting(tmp_path / "weights.toml", adapters)


def test_rules_choose_by_layer_and_module_and_the_last_one_wins(tmp_path):
    weighting = read(
        tmp_path,
        """
weights = [0.9, 0.1]

[[rule]]
layers = "0-3, 12"
weights = [0.8, 0.2]

[[rule]]
modules = "mlp\\\\."
weights = [1, 0]

[[rule]]
layers = 12
modules = "[qk]_proj$"
weights = [0.5, -0.5]
""",
    )
    assert weighting.of(UP) == (1.0, 0.0)
    assert weighting.of(Q) == (0.5, -0.5)
    assert weighting.of("model.layers.12.self_attn.v_proj") == (0.8, 0.2)
    assert weighting.of("model.layers.4.self_attn.v_proj") == (0.9, 0.1)
    assert weighting.of(HEAD) == (0.9, 0.1)
    for encoder in ("model.visual.blocks", "vision_tower.encoder.layers", "audio_tower.layers"):
        assert weighting.of(f"{encoder}.12.attn.v_proj") == (0.9, 0.1)
    assert weighting.of("bert.encoder.layer.12.attn.v_proj") == (0.8, 0.2)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ('"0-3"', {0, 1, 2, 3}),
        ('"2"', {2}),
        ("2", {2}),
        ("100000", {100_000}),
        ('"0-1, 5 - 6,9"', {0, 1, 5, 6, 9}),
    ],
)
def test_ranges_of_layers_include_both_ends(tmp_path, layers, expected):
    rule = read(tmp_path, f"weights=[1]\n[[rule]]\nlayers={layers}\nweights=[2]", 1).rules[0]
    assert rule.layers == expected


def test_the_largest_numbers_are_weights(tmp_path):
    largest = sys.float_info.max
    assert read(tmp_path, f"weights = [{largest}, {-largest}]").weights == (largest, -largest)


def test_the_settings_have_one_weight_for_two_or_all_or_a_file(tmp_path):
    assert read_weights(2, MergeSettings(weight=0.75)) == Weighting((0.75, 0.25))
    for weight in (0.9, 0.7, 0.1):  # to the last digit, so that merges in float64 are equal too
        searched = scalar_candidate(weight, 2).weighting
        assert read_weights(2, MergeSettings(weight=weight)) == searched
    assert read_weights(3, MergeSettings(weights=(1, 2, -3))) == Weighting((1, 2, -3))
    (tmp_path / "weights.toml").write_text(GOOD)
    given = MergeSettings(weights_file=tmp_path / "weights.toml")
    assert read_weights(2, given) == Weighting((0.9, 0.1))


@pytest.mark.parametrize(
    ("adapters", "given", "message", "hint"),
    [
        (
            3,
            {"weight": 0.9},
            "--weight is for two adapters, not 3",
            "give --weights W1,W2,...",
        ),
        (1, {"weights": (1, 2)}, "--weights has 2 numbers for 1 adapter", None),
        (2, {"weights": (1,)}, "--weights has 1 number for 2 adapters", None),
    ],
)
def test_a_wrong_number_of_weights_is_told(adapters, given, message, hint):
    with pytest.raises(ConfigError, match=f"^{message}$") as caught:
        read_weights(adapters, MergeSettings(**given))
    assert caught.value.hint == hint


numbers = st.floats(allow_nan=False, allow_infinity=False)
regexes = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).map(
    lambda text: "".join(char if char.isalnum() else rf"\{char}" for char in text)
)


@st.composite
def weightings(draw):
    count = draw(st.integers(1, 4))
    weights = st.lists(numbers, min_size=count, max_size=count).map(tuple)
    layers = st.none() | st.frozensets(st.integers(0, 99), min_size=1)
    rules = st.builds(Rule, weights, layers, st.none() | regexes)
    return Weighting(draw(weights), tuple(draw(st.lists(rules, max_size=4))))


@given(weighting=weightings())
def test_what_is_written_as_toml_is_read_back(tmp_path_factory, weighting):
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    path.write_text(weighting.as_toml(), encoding="utf-8", newline="")
    assert read_weighting(path, len(weighting.weights)) == weighting


@pytest.mark.parametrize("modules", ["'''", "a'", '"', "\\", "\x7f", "\n", "é😀"])
def test_quotes_and_controls_survive_the_file(tmp_path, modules):
    rule = Rule((1.0,), None, modules if modules != "\\" else r"\\")
    weighting = Weighting((1.0,), (rule,))
    assert read(tmp_path, weighting.as_toml(), 1) == weighting


def test_a_record_says_what_the_file_says():
    rules = (Rule((0.8, 0.2), frozenset({8, 2, 33})), Rule((1.0, 0.0), modules="mlp"))
    assert Weighting((0.9, 0.1), rules).as_record() == {
        "weights": [0.9, 0.1],
        "rules": [
            {"weights": [0.8, 0.2], "layers": [2, 8, 33]},
            {"weights": [1.0, 0.0], "modules": "mlp"},
        ],
    }
    assert Weighting((1.0,)).as_record() == {"weights": [1.0]}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "'weights' must be a list of finite numbers"),
        ("\n\nweights = 0.9\n", 3, "'weights' must be a list of finite numbers"),
        ("\nweights = [0.9, 'x']\n", 2, "'weights' must be a list of finite numbers"),
        ("weights = [0.9, true]\n", 1, "'weights' must be a list of finite numbers"),
        ("weights = [0.9, nan]\n", 1, "'weights' must be a list of finite numbers"),
        ("weights = [0.9, -inf]\n", 1, "'weights' must be a list of finite numbers"),
        (f"weights = [0.9, 1{'0' * 400}]\n", 1, "'weights' must be a list of finite numbers"),
        ("# a remark\nweights = [1]\n", 2, "1 weight for 2 adapters"),
        ("[[rule]]\nweights = [1, 2]\n", 1, "'weights' must be a list of finite numbers"),
        ("\ufeff[[rule]]\nweights = [1, 2]\n", 1, "'weights' must be a list of finite numbers"),
        (GOOD + "wieghts = [1, 2]\n", 2, "unknown key 'wieghts'"),
        (GOOD + "\n[[rule]]\nlayer = 3\nweights = [1, 2]\n", 4, "unknown key 'layer'"),
        (GOOD + "[[rule]]\nlayers = '0'\n", 2, "'weights' must be a list of finite numbers"),
        (GOOD + "[[rule]]\nlayers='0'\nweights = [1]\n", 4, "1 weight for 2 adapters"),
        (GOOD + "[[rule]]\nweights = [1, 2]\nlayers = 'low'\n", 4, "layers: 'low' is not a range"),
        (GOOD + "[[rule]]\nweights = [1, 2]\nlayers = '5-3'\n", 4, "layers: '5-3' is not a range"),
        (GOOD + "[[rule]]\nweights = [1, 2]\nlayers = '-1'\n", 4, "layers: '-1' is not a range"),
        (GOOD + "[[rule]]\nweights = [1, 2]\nlayers = 100001\n", 4, "layers: '100001' is not a"),
        (GOOD + "[[rule]]\nweights = [1, 2]\nlayers = '0-999999999999'\n", 4, "layers: '0-9{12}'"),
        (GOOD + "[[rule]]\nweights = [1, 2]\nlayers = ''\n", 4, "layers: '' is not a range"),
        (
            GOOD + "[[rule]]\nweights = [1, 2]\n[[ rule ]]\nmodules = '('\nweights = [1, 2]\n",
            5,
            "modules: not a regular expression",
        ),
        (GOOD + "[[rule]]\nmodules = 3\nweights = [1, 2]\n", 3, "modules: not a regular expr"),
        (GOOD + "[rule]\nweights = [1, 2]\n", 1, r"write rules as \[\[rule\]\]"),
        (GOOD + "rule = [{ weights = [1] }]\n", 1, "1 weight for 2 adapters"),
        (GOOD + "rule = 3\n", 2, r"write rules as \[\[rule\]\]"),
        (GOOD + "\nx = = 2\n", 3, "not valid TOML"),
        (GOOD + "[[rule]]\nweights = [1,", 3, "not valid TOML"),
    ],
)
def test_every_mistake_has_its_file_and_line(tmp_path, text, line, message):
    with pytest.raises(ConfigError, match=rf"weights\.toml:{line}: {message}"):
        read(tmp_path, text)


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no such file") as caught:
        read_weighting(tmp_path / "weights.toml", 2)
    assert caught.value.hint == "check --weights-file"
    with pytest.raises(ConfigError, match="a folder, not a file"):
        read_weighting(tmp_path, 2)
    (tmp_path / "weights.toml").write_bytes(b"weights = [1]\n\n# \xff\xfe")
    with pytest.raises(ConfigError, match=r"weights\.toml:3: not UTF-8"):
        read_weighting(tmp_path / "weights.toml", 2)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("other = 1\n" + GOOD, "the keys are weights, rule"),
        (GOOD + "[[rule]]\nweights = [1, 0]\nlayer = 1\n", "the keys are weights, layers, modules"),
        (GOOD + "[[rule]]\nweights = [1, 0]\nlayers = '3-1'\n", 'write "0-15" or "0-3,8"'),
        ("weights = 1\n", None),
    ],
)
def test_a_mistake_says_what_to_write_where_that_is_known(tmp_path, text, hint):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, 2)
    assert caught.value.hint == hint

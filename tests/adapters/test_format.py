"""How PEFT's patterns are read."""

from itertools import permutations

import numpy as np
import pytest
from peft.utils.other import get_pattern_key

from adaptermix.adapters.format import UpdateSpec, by_pattern, describe_config, without_order

PATTERNS = {"q_proj": 2, r"1\.self_attn\.q_proj": 3, ".*attn.*": 4, "proj": 5, "layers.1.*": 6}


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.proj", "mlp.up_proj"])
def test_of_several_patterns_the_one_that_peft_takes_counts(layer, name):
    """The first that matches, in whatever order they are given."""
    module = f"model.layers.{layer}.{name}"
    for order in permutations(PATTERNS):
        patterns = {key: PATTERNS[key] for key in order}
        expected = patterns.get(get_pattern_key(order, module), 1)
        assert by_pattern(patterns, module, 1) == expected


@pytest.mark.parametrize("is_described", [False, True])
def test_a_name_that_ends_another_has_its_own_values(is_described):
    """As of a decoder without a prefix, beside a tower; files have alphabetical order."""
    text = "layers.0.self_attn.q_proj"
    ranks = {f"model.visual.{text}": 3, text: 2, "layers.1.self_attn.q_proj": 4}
    specs = {name: UpdateSpec(8, 8, rank, 1.0, np.dtype("f4")) for name, rank in ranks.items()}
    config = {"r": 4, "rank_pattern": {"visual.*q_proj": 3, "layers.0.self_attn.q_proj": 2}}
    if is_described:
        config = describe_config(specs, None, True)
    pattern = dict(sorted(without_order(config, specs)["rank_pattern"].items()))
    for name, rank in ranks.items():
        assert pattern.get(get_pattern_key(pattern, name), config["r"]) == rank
        assert by_pattern(pattern, name, config["r"]) == rank

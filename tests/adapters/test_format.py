"""How PEFT's patterns are read."""

from itertools import permutations

import pytest
from peft.utils.other import get_pattern_key

from adaptermix.adapters.format import by_pattern

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

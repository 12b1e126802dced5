"""Notes on adapters that were trained on others."""

from types import SimpleNamespace

import pytest

from adaptermix.adapters.stacking import notes_on_stack

ON = {"on": [{"path": "task", "blake3": "t", "weight": 0.5}]}
UPPER = SimpleNamespace(path="upper", weights_hash="u", record=ON)
LOWER = SimpleNamespace(path="task", weights_hash="t", record={})


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"u": [1.0], "t": [0.5]}, None),
        ({"u": [0.3, 0.7], "t": [0.5, 0.5]}, None),
        ({"u": [0.0], "t": [1.0]}, None),  # it is not used
        ({"u": [1.0], "t": [1 - 0.3 - 0.2]}, None),  # not quite 0.5
        ({"u": [1.0], "t": [0.2, 1 - 0.8]}, "has 0.2 here"),
        ({"u": [1.0]}, "is missing here"),
        ({"u": [1.0], "t": [1.0]}, "has 1 here"),
        ({"u": [1.0], "t": [0.5, 0.2]}, "has 0.5 and 0.2 here"),  # in other layers
        ({"u": [0.0, 1.0], "t": [0.0]}, "has 0 here"),
    ],
)
def test_an_adapter_needs_what_it_was_trained_on_at_its_weight_in_all_layers(weights, told):
    notes = notes_on_stack([UPPER, LOWER], weights)
    start = "upper was trained on task at weight 0.5, but it "
    assert notes == ([] if told is None else [start + told])

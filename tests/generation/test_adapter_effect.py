"""When an adapter counts as ignored, and a server's base model as another one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.writing import write_adapter
from adaptermix.generation.adapter_effect import (
    CANARIES,
    IgnoredAdapterError,
    canaries,
    check_effect,
    is_another_model,
)
from adaptermix.generation.engine import Request

BASE = [{7: -0.5, 8: -1.5}, {9: -0.25}]  # log probabilities of first tokens, for two prompts
NOISE = 0.01


def moved(by, at=0):
    """Return the same tokens, one of which has another log probability."""
    changed = [dict(tokens) for tokens in BASE]
    changed[at][next(iter(changed[at]))] += by
    return changed


def adapter(folder, *, a=1.0, b=1.0, first_b=None):
    """Write an adapter of two modules whose factors have one value each."""
    names = [f"model.layers.{at}.self_attn.q_proj" for at in range(2)]
    values = [b if first_b is None else first_b, b]
    updates = {
        name: LoraUpdate(np.full((2, 6), a), np.full((4, 2), value), 0.5)
        for name, value in zip(names, values, strict=True)
    }
    specs = {name: spec_of(update) for name, update in updates.items()}
    write_adapter(folder, updates, describe_config(specs, "somebody/tiny", all_layers=False), {})
    return folder


@given(count=st.integers(1, 30))
def test_canaries_are_spread_over_all_requests(count):
    prompts = [[number] for number in range(count)]
    chosen = canaries([Request(prompt, None) for prompt in prompts])
    assert len(chosen) == min(count, CANARIES)
    gaps = {later[0] - earlier[0] for earlier, later in zip(chosen, chosen[1:], strict=False)}
    assert gaps <= {max(1, count // CANARIES)}


def test_an_adapter_that_moves_less_than_noise_is_ignored(tmp_path):
    path = adapter(tmp_path / "a")
    again = moved(NOISE)
    for others in (BASE, moved(NOISE / 2), moved(-NOISE / 2, at=1)):
        with pytest.raises(IgnoredAdapterError, match="starting with model.layers.0") as caught:
            check_effect([path], BASE, again, [others])
        assert (caught.value.path, caught.value.module.split(".")[2]) == (path, "0")
    for others in (moved(2 * NOISE), moved(-2 * NOISE, at=1), [{7: -0.5, 5: -1.5}, BASE[1]]):
        check_effect([path], BASE, again, [others])


def test_a_tie_between_two_runs_is_no_noise(tmp_path):
    """The fifth of the likeliest tokens may then be another one, also without an adapter."""
    path = adapter(tmp_path / "a")
    base, again = ([tokens | {last: -3.0} for tokens in BASE] for last in (1, 2))
    check_effect([path], base, again, [moved(2 * NOISE)])
    for others in (base, again):
        with pytest.raises(IgnoredAdapterError):
            check_effect([path], base, again, [others])


def test_every_new_adapter_is_checked(tmp_path):
    paths = [adapter(tmp_path / name) for name in "ab"]
    check_effect(paths, BASE, BASE, [moved(1.0), moved(1.0)])
    with pytest.raises(IgnoredAdapterError) as caught:
        check_effect(paths, BASE, BASE, [moved(1.0), BASE])
    assert caught.value.path == paths[1]


@pytest.mark.parametrize("zero", [{"a": 0.0}, {"b": 0.0}])
def test_an_adapter_whose_update_is_zero_may_change_nothing(tmp_path, zero):
    check_effect([adapter(tmp_path / "a", **zero)], BASE, BASE, [BASE])


def test_the_module_that_is_named_has_an_update(tmp_path):
    path = adapter(tmp_path / "a", first_b=0.0)
    with pytest.raises(IgnoredAdapterError, match="starting with model.layers.1"):
        check_effect([path], BASE, BASE, [BASE])


@pytest.mark.parametrize(
    ("noise", "difference", "expected"),
    [(0.0, 0.04, False), (0.0, 0.06, True), (0.1, 0.15, False), (0.1, 0.25, True)],
)
def test_a_model_is_another_one_if_it_differs_by_more_than_twice_the_noise(
    noise, difference, expected
):
    """And by more than rounding. Tokens that are not among the likeliest of both do not count."""
    assert is_another_model(BASE, moved(noise), moved(difference, at=1)) == expected
    beside = [tokens | {3: -9.0} for tokens in moved(difference)]
    assert is_another_model(BASE, moved(noise), beside) == expected


def test_a_model_without_a_common_token_is_another_one():
    assert is_another_model(BASE, BASE, [{1: -0.5}, BASE[1]])

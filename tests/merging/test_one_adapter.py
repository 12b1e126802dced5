"""Merges of one adapter alone."""

import numpy as np
import pytest
import torch
from helpers.merging import ATTENTION, check_merge, trained
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings


def assert_same_adapter(path, other):
    one, two = read_adapter(path), read_adapter(other)
    assert one.modules == two.modules
    for module in one.modules:
        a, b = one.update(module), two.update(module)
        assert np.array_equal(a.a, b.a)
        assert np.array_equal(a.b, b.b)
        assert a.scaling == b.scaling
        assert (a.bias is None) == (b.bias is None)
        assert a.bias is None or np.array_equal(a.bias, b.bias)
    assert set(one.saved) == set(two.saved)
    for name in one.saved:
        assert np.array_equal(one.saved_weight(name), two.saved_weight(name))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": torch.bfloat16},
        {"use_rslora": True, "r": 6, "lora_alpha": 7},
        {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"layers.1.mlp.down_proj": 5}, "r": 3},
        {"lora_bias": True, **ATTENTION},
        {"bias": "all", **ATTENTION},
        {"modules_to_save": ["lm_head"], **ATTENTION},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
)
@pytest.mark.parametrize("out", ["m", "m.safetensors"])
def test_one_adapter_at_weight_one_is_itself(tmp_path, qwen_dir, options, out):
    path = trained(qwen_dir, tmp_path / "a", 1, **options)
    merge([path], MergeSettings(weights=(1,), out=tmp_path / out, compact=True))
    assert_same_adapter(tmp_path / out, path)
    other = trained(qwen_dir, tmp_path / "b", 2, r=5, target_modules=["up_proj"])
    for weights in ((0, 1), (0.0, 1.0)):
        settings = MergeSettings(weights=weights, out=tmp_path / out, compact=True)
        report = merge([other, path], settings, force=True)
        assert_same_adapter(tmp_path / out, path)
        assert report.relative_error == 0


@given(alpha=st.integers(1, 600) | st.floats(0.001, 1000), rank=st.integers(1, 512))
def test_every_scaling_survives_the_config_to_the_last_bit(alpha, rank):
    update = LoraUpdate(np.ones((rank, 1)), np.ones((1, rank)), alpha / rank)
    config = describe_config({"model.layers.0.x": spec_of(update)}, None, all_layers=True)
    assert config["lora_alpha"] / config["r"] == update.scaling


def test_a_negative_weight_alone_turns_the_factor(tmp_path, model_dir):
    path = trained(model_dir, tmp_path / "a", 1)
    check_merge(tmp_path, model_dir, [path], (-0.5,))
    merged = read_adapter(tmp_path / "merged")
    assert merged.config["lora_alpha"] == 4

"""Exact sums: adapters of one module go through files, as the command has them."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import pytest
from helpers.updates import assert_close, dense, random_update, weighted_updates
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.inspection import inspect
from adaptermix.adapters.writing import write_adapter
from adaptermix.files.tensors import TensorSpec, write_tensors
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings

MODULE = "model.layers.0.mlp.up_proj"
SHAPES = {"mlp.up_proj": (6, 5), "mlp.gate_proj": (6, 5), "self_attn.q_proj": (8, 8)}


def narrow(factor):
    return factor.astype(ml_dtypes.bfloat16)


def summed(updates, weights, **settings):
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{at}.safetensors" for at in range(len(updates))]
        for path, update in zip(paths, updates, strict=True):
            config = describe_config({MODULE: spec_of(update)}, None, True)
            write_adapter(path, {MODULE: update}, config, {})
        out = Path(folder) / "sum.safetensors"
        merge(paths, MergeSettings(weights=tuple(weights), out=out, **settings))
        ((module, update),) = read_adapter(out).updates()
        assert module == MODULE
        return update


@given(weighted_updates())
def test_a_sum_is_that_of_the_delta_weights(case):
    updates, weights = case
    merged = summed(updates, weights)
    dense = np.zeros((6, 5))
    for update, weight in zip(updates, weights, strict=True):
        dense += weight * update.scaling * (update.b @ update.a)
    assert_close(merged.delta_weight(), dense)
    assert merged.rank == sum(u.rank for u, w in zip(updates, weights, strict=True) if w)


@st.composite
def adapters(draw):
    """Two or three adapters of one model, each with modules of its own, in an order of its own."""
    names = [f"model.layers.{at}.{end}" for at in range(draw(st.integers(1, 12))) for end in SHAPES]
    found = []
    for seed in range(draw(st.integers(2, 3))):
        modules = draw(st.sampled_from([names, names[::-1], sorted(names), names[1:], names[::2]]))
        ranks = draw(st.sampled_from([(2,), (8,), (1, 2)]))
        found.append(
            {
                module: random_update(
                    ranks[at % len(ranks)], *SHAPES[module.split(".", 3)[3]], seed=100 * seed + at
                )
                for at, module in enumerate(modules)
            }
        )
    return found


@given(adapters())
def test_the_sum_of_a_model_is_the_sum_of_every_module(sources):
    weights = (0.7, -0.2, 0.5)[: len(sources)]
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{at}.safetensors" for at in range(len(sources))]
        for path, updates in zip(paths, sources, strict=True):
            specs = {module: spec_of(update) for module, update in updates.items()}
            write_adapter(path, updates, describe_config(specs, None, False), {})
        out = Path(folder) / "sum.safetensors"
        merge(paths, MergeSettings(weights=weights, out=out))
        merged = dict(read_adapter(out).updates())
    assert merged.keys() == set().union(*sources)
    for module, update in merged.items():
        held = [(s[module], w) for s, w in zip(sources, weights, strict=True) if module in s]
        expected = sum(w * source.delta_weight() for source, w in held)
        assert_close(update.delta_weight(), expected)


def test_modules_of_one_shape_may_differ_in_what_is_narrow(tmp_path):
    """Their updates are float32 all the same: of each module, one of the factors is."""
    wide = random_update(8, 16, 16, dtype=np.float32)
    tensors, modules = {}, [f"model.layers.{at}.mlp.up_proj" for at in range(2)]
    for at, module in enumerate(modules):
        a, b = (wide.a, narrow(wide.b)) if at else (narrow(wide.a), wide.b)
        tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["up_proj"]}
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    for path in paths:
        save_file(tensors, path, {"lora_adapter_metadata": json.dumps(config)})
    merge(paths, MergeSettings(weights=(0.5, 0.25), out=tmp_path / "m.safetensors"))
    merged, source = read_adapter(tmp_path / "m.safetensors"), read_adapter(paths[0])
    for module in modules:
        kept = source.update(module)
        kept = 0.75 * kept.scaling * (kept.b.astype(float) @ kept.a.astype(float))
        found = merged.update(module)
        assert_close(found.scaling * (found.b.astype(float) @ found.a.astype(float)), kept)


@pytest.mark.parametrize("rank", [2, 8])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_what_counts_most_is_kept_and_the_rest_is_rounded_once(dtype, rank):
    first, second = (random_update(rank, seed=seed, dtype=dtype) for seed in (1, 2))
    for weights, factor in (((0.9, -0.1), -0.1 / 0.9), ((0.5, 0.5), 1.0)):
        merged = summed([first, second], weights)
        assert merged.b.dtype == dtype
        assert merged.scaling == 2 * weights[0]
        expected = np.concatenate(
            [first.b, (second.b.astype(float) * factor).astype(dtype)], axis=1
        )
        assert np.array_equal(merged.b, expected)
        assert np.array_equal(merged.a, np.concatenate([first.a, second.a]))


def test_what_counts_most_is_kept_where_its_weight_is_negative():
    first, second = (random_update(2, seed=seed, dtype=np.float32) for seed in (1, 2))
    merged = summed([first, second], (0.1, -0.9))
    assert merged.scaling == 2 * 0.9
    assert np.array_equal(merged.b[:, 2:], -second.b)


def test_small_factors_lose_nothing_where_half_precision_needs_one_rank(tmp_path):
    sizes = {"model.layers.0.mlp.up_proj": 2, "model.layers.1.mlp.up_proj": 4}
    updates = {module: random_update(rank, scaling=1e-3) for module, rank in sizes.items()}
    updates = {
        module: LoraUpdate(u.a.astype(np.float16), (1e-3 * u.b).astype(np.float16), u.scaling)
        for module, u in updates.items()
    }
    config = describe_config({module: spec_of(u) for module, u in updates.items()}, None, True)
    write_adapter(tmp_path / "a", updates, config, {})
    merge([tmp_path / "a"], MergeSettings(weights=(0.5,), out=tmp_path / "m"))
    merged = read_adapter(tmp_path / "m")
    assert not merged.config["rank_pattern"]
    for module, update in updates.items():
        assert_close(dense(merged.update(module)), 0.5 * dense(update), rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize("out", [None, "float32", "bfloat16"])
def test_mixed_dtypes_give_the_widest_or_the_one_asked_for(out):
    half, single = random_update(2, dtype=ml_dtypes.bfloat16), random_update(2, dtype=np.float32)
    merged = summed([half, single], [0.5, 0.25], out_dtype=out)
    dtype = ml_dtypes.bfloat16 if out == "bfloat16" else np.float32
    assert merged.a.dtype == merged.b.dtype == dtype
    assert np.array_equal(
        merged.b, np.concatenate([half.b.astype(dtype), (single.b / 2).astype(dtype)], axis=1)
    )
    assert np.array_equal(merged.a, np.concatenate([half.a.astype(dtype), single.a.astype(dtype)]))


def test_a_lone_update_keeps_its_factors_to_the_last_bit():
    update, other = random_update(2, seed=1, scaling=0.3), random_update(3, seed=2)
    for weight in (1.0, 0.7):
        kept = summed([other, update], [0.0, weight])
        assert np.array_equal(kept.a, update.a)
        assert np.array_equal(kept.b, update.b)
        assert kept.scaling == weight * update.scaling


def test_a_negative_weight_turns_the_factor_and_leaves_the_scaling_positive():
    update = replace(random_update(2), bias=np.arange(6.0))
    turned = summed([update], [-0.5])
    assert turned.scaling == 1.0
    assert_close(turned.delta_weight(), -0.5 * update.delta_weight())
    assert_close(turned.scaling * turned.bias, -0.5 * update.scaling * update.bias)


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_what_two_checkpoints_differ_by_is_kept_when_the_rank_is_cut():
    first, other = (random_update(8, 70, 60, seed=seed, dtype=np.float32) for seed in (1, 2))
    near = LoraUpdate(first.a + np.float32(1e-5) * other.a, first.b, 2.0)
    merged = summed([near, first], [1.0, -1.0], rank=16)
    assert relative(dense(merged), dense(near) - dense(first)) < 1e-7


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_a_small_factor_beside_a_large_one_loses_nothing_when_the_rank_is_cut(size):
    first, second = (random_update(8, 70, 60, seed=seed, dtype=np.float32) for seed in (1, 2))
    second = LoraUpdate(second.a / np.float32(size), second.b * np.float32(size), 2.0)
    merged = summed([first, second], [0.7, 0.3], rank=16)
    assert relative(dense(merged), 0.7 * dense(first) + 0.3 * dense(second)) < 1e-7


FLOAT8 = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


@pytest.mark.parametrize("one", [*FLOAT8, ml_dtypes.bfloat16])
@pytest.mark.parametrize("other", FLOAT8)
@pytest.mark.parametrize("out", [None, "float32"])
def test_float8_is_merged_in_bfloat16_or_what_is_asked_for(tmp_path, one, other, out):
    sources, paths = [], []
    for seed, dtype in enumerate((one, other)):
        update = random_update(4, 10, 12, dtype=dtype, seed=seed)
        tensors = {f"{MODULE}.lora_A.weight": update.a, f"{MODULE}.lora_B.weight": update.b}
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["up_proj"]}
        paths.append(tmp_path / f"{seed}.safetensors")
        specs = {name: TensorSpec(t.dtype, t.shape) for name, t in tensors.items()}
        metadata = {"lora_adapter_metadata": json.dumps(config)}
        write_tensors(paths[-1], specs, tensors.values(), lambda told=metadata: told)
        sources.append(update)
    merge(paths, MergeSettings(weights=(0.75, 0.3), out=tmp_path / "m", out_dtype=out))
    merged = read_adapter(tmp_path / "m").update(MODULE)
    assert merged.a.dtype == merged.b.dtype == (out or "bfloat16")
    wanted = 0.75 * dense(sources[0]) + 0.3 * dense(sources[1])
    assert relative(dense(merged), wanted) < (1e-7 if out else 4e-3)
    (adapter,) = inspect([paths[0]], InspectSettings()).adapters
    assert adapter.dtypes == [np.dtype(one).name]
    assert adapter.norm == pytest.approx(np.linalg.norm(dense(sources[0])))

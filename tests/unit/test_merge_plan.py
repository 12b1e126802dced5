"""Exact sums: adapters of one module go through files, as the command has them."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_deltas import random_update, weighted_updates

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.writing import write_adapter
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings

MODULE = "model.layers.0.mlp.up_proj"
SHAPES = {"mlp.up_proj": (6, 5), "mlp.gate_proj": (6, 5), "self_attn.q_proj": (8, 8)}


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
    dense = torch.zeros(6, 5, dtype=torch.float64)
    for update, weight in zip(updates, weights, strict=True):
        dense += weight * update.scaling * (update.b @ update.a)
    torch.testing.assert_close(merged.delta_weight(), dense)
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
        torch.testing.assert_close(update.delta_weight(), expected)


def test_modules_of_one_shape_may_differ_in_what_is_narrow(tmp_path):
    """Their updates are float32 all the same: of each module, one of the factors is."""
    wide = random_update(8, 16, 16, dtype=torch.float32)
    tensors, modules = {}, [f"model.layers.{at}.mlp.up_proj" for at in range(2)]
    for at, module in enumerate(modules):
        a, b = (wide.a, wide.b.bfloat16()) if at else (wide.a.bfloat16(), wide.b)
        tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["up_proj"]}
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    for path in paths:
        save_file(tensors, path, {"lora_adapter_metadata": json.dumps(config)})
    merge(paths, MergeSettings(weights=(0.5, 0.25), out=tmp_path / "m.safetensors"))
    merged, source = read_adapter(tmp_path / "m.safetensors"), read_adapter(paths[0])
    for module in modules:
        kept = source.update(module)
        kept = 0.75 * kept.scaling * (kept.b.double() @ kept.a.double())
        found = merged.update(module)
        torch.testing.assert_close(found.scaling * (found.b.double() @ found.a.double()), kept)


@pytest.mark.parametrize("rank", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_counts_most_is_kept_and_the_rest_is_rounded_once(dtype, rank):
    first, second = (random_update(rank, seed=seed, dtype=dtype) for seed in (1, 2))
    for weights, factor in (((0.9, -0.1), -0.1 / 0.9), ((0.5, 0.5), 1.0)):
        merged = summed([first, second], weights)
        assert merged.b.dtype == dtype
        assert merged.scaling == 2 * weights[0]
        expected = torch.cat([first.b, (second.b.double() * factor).to(dtype)], dim=1)
        assert torch.equal(merged.b, expected)
        assert torch.equal(merged.a, torch.cat([first.a, second.a]))


@pytest.mark.parametrize("out", [None, "float32", "bfloat16"])
def test_mixed_dtypes_give_the_widest_or_the_one_asked_for(out):
    half, single = random_update(2, dtype=torch.bfloat16), random_update(2, dtype=torch.float32)
    merged = summed([half, single], [0.5, 0.25], out_dtype=out)
    dtype = torch.bfloat16 if out == "bfloat16" else torch.float32
    assert merged.a.dtype == merged.b.dtype == dtype
    assert torch.equal(merged.b, torch.cat([half.b.to(dtype), (single.b / 2).to(dtype)], dim=1))
    assert torch.equal(merged.a, torch.cat([half.a.to(dtype), single.a.to(dtype)]))


def test_a_lone_update_keeps_its_factors_to_the_last_bit():
    update, other = random_update(2, seed=1, scaling=0.3), random_update(3, seed=2)
    for weight in (1.0, 0.7):
        kept = summed([other, update], [0.0, weight])
        assert torch.equal(kept.a, update.a)
        assert torch.equal(kept.b, update.b)
        assert kept.scaling == weight * update.scaling


def test_a_negative_weight_turns_the_factor_and_leaves_the_scaling_positive():
    update = replace(random_update(2), bias=torch.arange(6.0, dtype=torch.float64))
    turned = summed([update], [-0.5])
    assert turned.scaling == 1.0
    torch.testing.assert_close(turned.delta_weight(), -0.5 * update.delta_weight())
    torch.testing.assert_close(turned.scaling * turned.bias, -0.5 * update.scaling * update.bias)

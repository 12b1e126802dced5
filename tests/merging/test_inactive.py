"""Adapters that do nothing in some modules."""

import numpy as np
import pytest
import torch
from helpers.adapters import logits_through_peft
from helpers.merging import our_deltas, sum_of_folded_models, trained, untrained_above

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ConfigError
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings


@pytest.mark.parametrize("lacking", ["B is zero", "A is zero", "absent"])
@pytest.mark.parametrize("inactive", ["average", "keep"])
def test_layers_where_an_adapter_does_nothing(tmp_path, model_dir, inactive, lacking):
    task = trained(model_dir, tmp_path / "task", 1)
    if lacking != "absent":
        align = untrained_above(trained(model_dir, tmp_path / "align", 2), 2, lacking[0])
    else:
        align = trained(model_dir, tmp_path / "align", 2, layers_to_transform=[0, 1])
    settings = MergeSettings(weight=0.8, inactive=inactive, out=tmp_path / "m", compact=True)
    report = merge([task, align], settings)
    assert [source.inactive for source in report.sources] == [0, 4]
    assert report.inactive == inactive
    task_deltas, align_deltas, merged = map(our_deltas, (task, align, tmp_path / "m"))
    for name, delta in merged.items():
        if int(name.split(".")[2]) < 2:
            wanted = 0.8 * task_deltas[name] + 0.2 * align_deltas[name]
        else:
            wanted = (1.0 if inactive == "keep" else 0.8) * task_deltas[name]
        torch.testing.assert_close(delta, wanted, rtol=1e-5, atol=1e-6)
    if inactive == "keep":  # to the last bit
        module = "model.layers.3.mlp.down_proj"
        kept, own = (read_adapter(path).update(module) for path in (tmp_path / "m", task))
        assert np.array_equal(kept.a, own.a)
        assert np.array_equal(kept.b, own.b)
        assert kept.scaling == own.scaling


@pytest.mark.parametrize("method", ["ties", "dare-ties", "della", "knots"])
def test_an_update_of_zero_is_like_none_for_methods_that_elect_signs(tmp_path, model_dir, method):
    task = trained(model_dir, tmp_path / "task", 1)
    zero = untrained_above(trained(model_dir, tmp_path / "zero", 2), 2)
    none = trained(model_dir, tmp_path / "none", 2, layers_to_transform=[0, 1])
    options = {"weight": 0.8, "method": method, "density": 1.0, "epsilon": 0.0}
    for other in (zero, none):
        merge([task, other], MergeSettings(out=tmp_path / f"m-{other.name}", **options))
    module = "model.layers.3.mlp.down_proj"
    wanted = 0.8 * our_deltas(task)[module]
    for other in (zero, none):
        found = our_deltas(tmp_path / f"m-{other.name}")[module]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_kept_weights_are_shared_among_the_active(tmp_path, model_dir):
    paths = [trained(model_dir, tmp_path / str(seed), seed) for seed in range(2)]
    paths.append(untrained_above(trained(model_dir, tmp_path / "2", 2), 1))
    settings = MergeSettings(weights=(0.6, 0.2, 0.2), inactive="keep", out=tmp_path / "m")
    report = merge(paths, settings)
    assert [source.inactive for source in report.sources] == [0, 0, 6]
    deltas = [our_deltas(path) for path in paths]
    for name, delta in our_deltas(tmp_path / "m").items():
        weights = (0.6, 0.2, 0.2) if ".0." in name else (0.75, 0.25, 0)
        wanted = sum(w * d[name] for w, d in zip(weights, deltas, strict=True))
        torch.testing.assert_close(delta, wanted, rtol=1e-5, atol=1e-6)


def test_keep_needs_weights_that_can_be_shared_out(tmp_path, model_dir):
    task = trained(model_dir, tmp_path / "task", 1)
    align = trained(model_dir, tmp_path / "align", 2, layers_to_transform=[0])
    settings = {"inactive": "keep", "out": tmp_path / "m"}
    with pytest.raises(ConfigError, match=r"1\.0, 0\.1 do not add up to 1"):
        merge([task, align], MergeSettings(weights=(1, 0.1), **settings))
    with pytest.raises(ConfigError, match="add up to -1"):
        merge([align, task], MergeSettings(weights=(2, -1), **settings))


def test_a_module_in_which_nobody_does_anything_is_left_out(tmp_path, model_dir):
    paths = [
        untrained_above(trained(model_dir, tmp_path / str(seed), seed), 2) for seed in range(2)
    ]
    settings = MergeSettings(weight=0.5, inactive="keep", out=tmp_path / "m")
    assert merge(paths, settings).modules == 4
    torch.testing.assert_close(
        logits_through_peft(model_dir, tmp_path / "m"),
        sum_of_folded_models(model_dir, paths, (0.5, 0.5)),
        rtol=2e-4,
        atol=2e-3,
    )

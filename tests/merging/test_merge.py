import json

import numpy as np
import pytest
import torch
from helpers.adapters import IDS, logits_through_peft, peft_adapter
from helpers.merging import check_merge, our_deltas, trained
from helpers.models import SHAPE, save_model
from helpers.updates import BFLOAT16, assert_close, dense
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError
from adaptermix.merging.merge import merge
from adaptermix.models.lora import as_torch
from adaptermix.settings.merging import MergeSettings


def wide_delta(adapter, module):
    """Return a delta weight in float64; zero where the adapter has none."""
    if module not in adapter.factors:
        return torch.zeros((), dtype=torch.float64)
    return torch.from_numpy(dense(adapter.update(module)))


def dense_logits(model_dir, paths, weights):
    """Add the weighted delta weights to the base's weights in float64, one product at a time."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for path, weight in zip(paths, weights, strict=True):
            adapter = read_adapter(path)
            for module in adapter.modules:
                parameters[f"{module}.weight"] += weight * wide_delta(adapter, module)
    return model(IDS).logits.detach().float()


@pytest.fixture
def adapters(tmp_path, model_dir):
    """Three adapters that differ in rank, alpha, modules, layers and kind of scaling."""
    variants = [
        {},
        {"r": 2, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 1]},
        {"r": 8, "lora_alpha": 3, "use_rslora": True, "target_modules": ["down_proj"]},
    ]
    paths = [tmp_path / name for name in ("task", "align", "style")]
    for seed, (path, options) in enumerate(zip(paths, variants, strict=True)):
        peft_adapter(model_dir, path, seed=seed, **options)
    return paths


def test_an_adapter_taken_away_alone_can_be_read_again(tmp_path, adapters):
    merge(adapters[:1], MergeSettings(weights=(-0.5,), out=tmp_path / "half"))
    negated = dict(read_adapter(tmp_path / "half").updates())
    for module, update in read_adapter(adapters[0]).updates():
        assert_close(dense(negated[module]), -0.5 * dense(update))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", ["merged", "merged.safetensors"])
def test_a_merge_gives_the_logits_of_the_weighted_sum(tmp_path, model_dir, adapters, count, name):
    weights = (0.7, 0.5, -0.3)[:count]
    report = merge(adapters[:count], MergeSettings(weights=weights, out=tmp_path / name))
    merged = read_adapter(tmp_path / name)
    assert report.modules == len(merged.modules)
    folder = tmp_path / name
    if folder.suffix:
        folder = stage_adapter(merged, tmp_path / "stage")
    expected = dense_logits(model_dir, adapters[:count], weights)
    torch.testing.assert_close(
        logits_through_peft(model_dir, folder), expected, rtol=1e-4, atol=1e-4
    )
    one = dense_logits(model_dir, adapters[:1], weights[:1])
    assert not torch.allclose(one, expected, atol=1e-2)


def test_one_weight_gives_the_rest_to_the_second(tmp_path, adapters):
    report = merge(adapters[:2], MergeSettings(weight=0.9, out=tmp_path / "m"))
    assert [source.weight for source in report.sources] == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("narrow", ["lora_A", "lora_B"])
def test_the_factors_of_one_adapter_may_differ_in_precision(tmp_path, adapters, narrow):
    weights = adapters[0] / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({k: t.bfloat16() if narrow in k else t for k, t in tensors.items()}, weights)
    merge(adapters[:2], MergeSettings(weight=0.9, out=tmp_path / "merged"))
    merged, first, second = (read_adapter(path) for path in (tmp_path / "merged", *adapters[:2]))
    for module in first.modules:
        deltas = [wide_delta(adapter, module) for adapter in (merged, first, second)]
        expected = 0.9 * deltas[1] + 0.1 * deltas[2]
        torch.testing.assert_close(deltas[0], expected, rtol=1e-5, atol=1e-6)


def test_ranks_add_up_module_by_module(tmp_path, adapters):
    report = merge(adapters[:2], MergeSettings(weight=0.9, out=tmp_path / "m", compact=True))
    merged = read_adapter(tmp_path / "m")
    assert report.rank == 6
    assert merged.update("model.layers.0.self_attn.q_proj").rank == 6
    assert merged.update("model.layers.3.self_attn.q_proj").rank == 4
    assert merged.update("model.layers.0.mlp.up_proj").rank == 2
    assert [source.inactive for source in report.sources] == [2, report.modules - 4]


def test_all_weight_on_one_adapter_gives_it_back(tmp_path, model_dir, adapters):
    report = merge(adapters[:2], MergeSettings(weight=1.0, out=tmp_path / "m"))
    assert report.sources[1].inactive
    assert f"{adapters[1]} has no effect" not in str(report.view())
    expected = logits_through_peft(model_dir, adapters[0])
    torch.testing.assert_close(logits_through_peft(model_dir, tmp_path / "m"), expected)
    assert set(read_adapter(tmp_path / "m").modules) == set(read_adapter(adapters[0]).modules)


def test_the_result_says_how_it_was_made(tmp_path, adapters):
    merge(adapters[:2], MergeSettings(weight=0.9, out=tmp_path / "m.safetensors"))
    record = read_adapter(tmp_path / "m.safetensors").record
    assert record["method"] == "exact"
    assert [source["weight"] for source in record["sources"]] == pytest.approx([0.9, 0.1])
    assert len(record["sources"][0]["blake3"]) == 64


def test_a_dry_run_writes_nothing(tmp_path, adapters):
    report = merge(adapters[:2], MergeSettings(weight=0.9, out=tmp_path / "m"), dry_run=True)
    assert not report.written
    assert not (tmp_path / "m").exists()


def test_a_narrower_dtype_can_be_asked_for(tmp_path, adapters):
    settings = MergeSettings(weight=0.9, out=tmp_path / "m", out_dtype="bfloat16")
    merge(adapters[:2], settings)
    assert {u.b.dtype for _, u in read_adapter(tmp_path / "m").updates()} == {BFLOAT16}


def rename_base(path, name):
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": name})
    )


def test_adapters_of_different_bases_are_refused(tmp_path, adapters):
    rename_base(adapters[0], "meta-llama/Llama-3.1-8B")
    rename_base(adapters[1], "Qwen/Qwen2.5-7B")
    settings = MergeSettings(weight=0.9, out=tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"was trained on Qwen/Qwen2.5-7B, .* on meta-llama"):
        merge(adapters[:2], settings)
    rename_base(adapters[2], None)
    three = MergeSettings(weights=(0.8, 0.1, 0.1), out=tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"was trained on Qwen/Qwen2.5-7B, .* on meta-llama"):
        merge([adapters[2], *adapters[:2]], three)
    assert merge(adapters[:2], settings.model_copy(update={"ignore_base": True})).written


def test_one_base_in_two_places_is_one_base(tmp_path, adapters):
    rename_base(adapters[0], "/data/models/Llama-3.1-8B")
    rename_base(adapters[1], "/home/me/Llama-3.1-8B")
    assert merge(adapters[:2], MergeSettings(weight=0.9, out=tmp_path / "m")).written


def test_different_shapes_are_refused(tmp_path, adapters):
    SHAPE["intermediate_size"] *= 2
    try:
        other = save_model(tmp_path / "wide")
    finally:
        SHAPE["intermediate_size"] //= 2
    peft_adapter(other, tmp_path / "other")
    settings = MergeSettings(weight=0.9, out=tmp_path / "m", ignore_base=True)
    with pytest.raises(ArtifactError, match="down_proj has different shapes, 64 x 96 and 64 x 192"):
        merge([adapters[0], tmp_path / "other"], settings)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (1, {"weight": 0.9}, "--weight is for two adapters, not 1"),
        (3, {"weight": 0.9}, "--weight is for two adapters, not 3"),
        (3, {"weights": (0.5, 0.5)}, "2 numbers for 3 adapters"),
        (2, {"weights": (0.0, 0.0)}, "all weights are zero"),
    ],
)
def test_weights_must_fit_the_adapters(tmp_path, adapters, count, settings, message):
    with pytest.raises(ConfigError, match=message):
        merge(adapters[:count], MergeSettings(**settings, out=tmp_path / "m"))


def test_an_input_is_never_the_output(adapters):
    with pytest.raises(AdaptermixError, match="one of the inputs"):
        merge(adapters[:2], MergeSettings(weight=0.9, out=adapters[0]), force=True)


VARIANTS = {
    "ranks, alphas and targets": (
        {},
        {"r": 16, "lora_alpha": 3, "target_modules": ["up_proj", "q_proj"]},
        {"r": 1, "target_modules": ["o_proj"]},
    ),
    "rsLoRA beside plain": ({"use_rslora": True, "r": 9, "lora_alpha": 2}, {"lora_alpha": 1}),
    "patterns": (
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers.1.mlp.down_proj": 5}},
        {
            "rank_pattern": {r".*layers\.[02]\..*": 3, "down_proj": 6},
            "alpha_pattern": {"q_proj": 1},
            "use_rslora": True,
        },
    ),
    "layers": (
        {"layers_to_transform": [0, 1]},
        {"layers_to_transform": 3, "layers_pattern": "layers"},
    ),
    "layers that no rule describes": (
        {"target_modules": r".*layers\.(0|2)\.mlp\.(up|gate)_proj"},
        {"target_modules": ["layers.1.self_attn.q_proj", "model.layers.2.mlp.up_proj"]},
    ),
    "all linear layers, some left out": (
        {"target_modules": "all-linear"},
        {"exclude_modules": r".*layers\.1\..*"},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_peft_made_is_merged_rightly(tmp_path, model_dir, variant):
    paths = [
        trained(model_dir, tmp_path / str(seed), seed, **options)
        for seed, options in enumerate(VARIANTS[variant])
    ]
    check_merge(tmp_path, model_dir, paths, (0.6, -0.5, 1.3)[: len(paths)])


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.bfloat16, torch.bfloat16), torch.bfloat16),
        ((torch.float16, torch.float16), torch.float16),
        ((torch.bfloat16, torch.float16), torch.float32),
        ((torch.bfloat16, torch.float32), torch.float32),
    ],
)
def test_precisions_are_mixed_and_sums_are_in_float32(tmp_path, model_dir, dtypes, expected):
    paths = [
        trained(model_dir, tmp_path / str(seed), seed, dtype, r=4 + seed)
        for seed, dtype in enumerate(dtypes)
    ]
    tolerance = 2e-4 if expected == torch.float32 else 3e-2 if expected == torch.bfloat16 else 4e-3
    check_merge(tmp_path, model_dir, paths, (0.9, 0.1), tolerance)
    merged = read_adapter(tmp_path / "merged")
    assert {as_torch(update.b).dtype for _, update in merged.updates()} == {expected}
    module = merged.modules[0]
    first, second = (read_adapter(path).update(module) for path in paths)
    factor = 0.1 * second.scaling / (0.9 * first.scaling)
    exact = np.hstack([first.b.astype(float), factor * second.b.astype(float)])
    found, rounded_once = as_torch(merged.update(module).b), torch.from_numpy(exact).to(expected)
    torch.testing.assert_close(found, rounded_once, rtol=1e-6, atol=0)
    assert torch.equal(found[:, : first.rank], as_torch(first.b).to(expected))


def test_a_wider_result_is_not_rounded_on_the_way(tmp_path, model_dir):
    paths = [trained(model_dir, tmp_path / str(seed), seed, torch.bfloat16) for seed in (1, 2)]
    settings = MergeSettings(weight=0.9, out=tmp_path / "merged", out_dtype="float32")
    merge(paths, settings)
    module = "model.layers.0.self_attn.q_proj"
    first, second = (read_adapter(path).update(module) for path in paths)
    expected = np.hstack([first.b.astype(float), second.b.astype(float) * (0.1 / 0.9)])
    found = read_adapter(tmp_path / "merged").update(module).b
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rules_of_a_file_reach_their_modules(tmp_path, model_dir):
    paths = [trained(model_dir, tmp_path / str(seed), seed) for seed in range(2)]
    (tmp_path / "w.toml").write_text(
        "weights = [0.9, 0.1]\n[[rule]]\nlayers = '0-1'\nweights = [0.5, 0.25]\n"
        "[[rule]]\nmodules = 'down_proj'\nlayers = '1-3'\nweights = [0, -1]\n"
    )
    report = merge(paths, MergeSettings(weights_file=tmp_path / "w.toml", out=tmp_path / "m"))
    assert report.weighting["rules"][0] == {"weights": [0.5, 0.25], "layers": [0, 1]}
    first, second, merged = map(our_deltas, (*paths, tmp_path / "m"))
    for name, delta in merged.items():
        layer = int(name.split(".")[2])
        low = (0.5, 0.25) if layer < 2 else (0.9, 0.1)
        weights = (0, -1) if "down_proj" in name and layer > 0 else low
        wanted = weights[0] * first[name] + weights[1] * second[name]
        torch.testing.assert_close(delta, wanted, rtol=1e-5, atol=1e-6)


def test_a_rule_that_matches_nothing_is_a_slip(tmp_path, adapters):
    path = tmp_path / "weights.toml"
    path.write_text('weights = [0.9, 0.1]\n[[rule]]\nlayers = "40-50"\nweights = [1, 0]\n')
    with pytest.raises(ConfigError, match="rule 1 matches no module"):
        merge(adapters[:2], MergeSettings(weights_file=path, out=tmp_path / "m"))


TARGETS = {
    "all layers and one": ({}, {"target_modules": ["up_proj"], "layers_to_transform": [1]}),
    "some layers": ({"layers_to_transform": [1, 2]},) * 2,
    "all but one": ({"exclude_modules": ["model.layers.0.self_attn.q_proj"]},) * 2,
    "names with and without a layer": ({"target_modules": ["q_proj", "layers.1.mlp.up_proj"]},) * 2,
    "one module": ({"target_modules": ["layers.3.mlp.up_proj"]}, {"target_modules": ["q_proj"]}),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_the_config_of_a_merge_targets_its_modules_and_no_others(tmp_path, model_dir, kind):
    paths = [tmp_path / "one", tmp_path / "other"]
    for path, options in zip(paths, TARGETS[kind], strict=True):
        peft_adapter(model_dir, path, **options)
    merge(paths, MergeSettings(weight=0.5, out=tmp_path / "merged"))
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    loaded = PeftModel.from_pretrained(model, str(tmp_path / "merged"))
    targeted = {
        name.removeprefix("base_model.model.")
        for name, layer in loaded.named_modules()
        if hasattr(layer, "lora_A")
    }
    assert targeted == set(read_adapter(tmp_path / "merged").modules)


OPTIONS = {  # two values each, and with what they count
    "density": ("0.25", "0.75", {"method": "magnitude"}),
    "epsilon": ("0.05", "0.8", {"method": "della"}),
    "isotropic": (False, True, {}),
    "rank": (1, 2, {}),
    "seed": (1, 2, {"method": "dare"}),
    "inactive": ("average", "keep", {}),
    "out_dtype": ("float32", "bfloat16", {}),
    "compact": (False, True, {"weights_file": "weights.toml"}),
    "method": ("exact", "factor-average", {}),
    "weight": (0.5, 0.6, {}),
    "source_alpha": (8, 9, {}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_two_values_of_an_option_are_two_merges(tmp_path, monkeypatch, model_dir, name):
    monkeypatch.chdir(tmp_path)
    paths = [tmp_path / "one", tmp_path / "other"]
    layers = {"layers_to_transform": [0, 1]} if name == "inactive" else {}
    for seed, (path, options) in enumerate(zip(paths, ({}, layers), strict=True)):
        peft_adapter(model_dir, path, seed=seed, **options)
    (tmp_path / "weights.toml").write_text(
        'weights = [1, 0.5]\n[[rule]]\nlayers = "1"\nweights = [1, 0]\n'
    )
    one, other, more = OPTIONS[name]
    more = more | ({} if "weights_file" in more or name == "weight" else {"weight": 0.7})
    if name.startswith("source"):
        more |= {"source_rank": 4}
        for path in paths:
            (path / "adapter_model.safetensors").rename(path.with_suffix(".safetensors"))
        paths = [path.with_suffix(".safetensors") for path in paths]
    found = []
    for value in (one, other, one):
        out = tmp_path / f"merged{len(found)}"
        merge(paths, MergeSettings(**{name: value}, **more, out=out))
        merged = read_adapter(out)
        updates = [(m, u.a.tolist(), u.b.tolist(), u.scaling) for m, u in merged.updates()]
        found.append((updates, [str(merged.spec(m).dtype) for m in merged.modules]))
    assert found[0] == found[2]
    assert found[0] != found[1]

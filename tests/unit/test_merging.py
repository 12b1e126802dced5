import json

import pytest
import torch
from conftest import save_model
from test_adapters import IDS, logits_through_peft, peft_adapter
from transformers import AutoModelForCausalLM

from adaptermix.adapters import read_adapter
from adaptermix.config import MergeSettings
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError
from adaptermix.merging import merge


def dense_logits(model_dir, paths, weights):
    """Add the weighted delta weights to the base's weights in float64, one product at a time."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for path, weight in zip(paths, weights, strict=True):
            for module, update in read_adapter(path).updates():
                product = update.b.double() @ update.a.double()
                parameters[f"{module}.weight"] += weight * update.scaling * product
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
        torch.testing.assert_close(negated[module].delta_weight(), -0.5 * update.delta_weight())


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", ["merged", "merged.safetensors"])
def test_a_merge_gives_the_logits_of_the_weighted_sum(tmp_path, model_dir, adapters, count, name):
    weights = (0.7, 0.5, -0.3)[:count]
    report = merge(adapters[:count], MergeSettings(weights=weights, out=tmp_path / name))
    merged = read_adapter(tmp_path / name)
    assert report.modules == len(merged.modules)
    folder = tmp_path / name
    if folder.suffix:
        from adaptermix.adapters import stage_adapter

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


def test_ranks_add_up_module_by_module(tmp_path, adapters):
    report = merge(adapters[:2], MergeSettings(weight=0.9, out=tmp_path / "m"))
    merged = read_adapter(tmp_path / "m")
    assert report.rank == 6
    assert merged.update("model.layers.0.self_attn.q_proj").rank == 6
    assert merged.update("model.layers.3.self_attn.q_proj").rank == 4
    assert merged.update("model.layers.0.mlp.up_proj").rank == 2
    assert [source.inactive for source in report.sources] == [2, report.modules - 4]


def test_all_weight_on_one_adapter_gives_it_back(tmp_path, model_dir, adapters):
    merge(adapters[:2], MergeSettings(weight=1.0, out=tmp_path / "m"))
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
    assert {u.b.dtype for _, u in read_adapter(tmp_path / "m").updates()} == {torch.bfloat16}


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
    assert merge(adapters[:2], settings.model_copy(update={"ignore_base": True})).written


def test_one_base_in_two_places_is_one_base(tmp_path, adapters):
    rename_base(adapters[0], "/data/models/Llama-3.1-8B")
    rename_base(adapters[1], "/home/me/Llama-3.1-8B")
    assert merge(adapters[:2], MergeSettings(weight=0.9, out=tmp_path / "m")).written


def test_different_shapes_are_refused(tmp_path, adapters):
    from conftest import SHAPE

    SHAPE["intermediate_size"] *= 2
    try:
        other = save_model(tmp_path / "wide")
    finally:
        SHAPE["intermediate_size"] //= 2
    peft_adapter(other, tmp_path / "other")
    settings = MergeSettings(weight=0.9, out=tmp_path / "m", ignore_base=True)
    with pytest.raises(ArtifactError, match="down_proj is 64 x 96 and 64 x 192"):
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
    with pytest.raises(AdaptermixError, match="one of the adapters"):
        merge(adapters[:2], MergeSettings(weight=0.9, out=adapters[0]), force=True)

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from helpers.adapters import IDS, logits_through_peft, peft_adapter
from helpers.cards import ALIGNED, write
from helpers.merging import ATTENTION, CONV1D, base_model, rewrite, sum_of_folded_models, trained
from helpers.models import SHAPE, save_model
from helpers.updates import BFLOAT16, assert_close, dense
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.inspection import inspect
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError
from adaptermix.merging.fold import merge_into
from adaptermix.merging.merge import merge
from adaptermix.models.lora import as_torch
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings


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


# --- adapters as PEFT makes them, against the sum of models that PEFT itself has folded them into


def reconfigure(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def check_merge(tmp_path, model_dir, paths, weights, tolerance=2e-4):
    """Merge, load the result with PEFT, without a word from it, and compare logits."""
    merge(paths, MergeSettings(weights=weights, out=tmp_path / "merged"))
    expected = sum_of_folded_models(model_dir, paths, weights)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected|Unexpected).*")
        found = logits_through_peft(model_dir, tmp_path / "merged")
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * 10)
    plain = base_model(model_dir)(IDS).logits.float()
    for path, weight in zip(paths, weights, strict=True):  # every part of the sum matters
        alone = sum_of_folded_models(model_dir, [path], [weight])
        assert (alone - plain).abs().max() > 20 * tolerance
        assert len(paths) == 1 or (alone - expected).abs().max() > 20 * tolerance


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


WHOLE = {
    "biases of the updates": {"lora_bias": True, **ATTENTION},
    "all biases": {"bias": "all", **ATTENTION},
    "biases beside updates": {"bias": "lora_only", **ATTENTION},
    "a whole LM head": {"modules_to_save": ["lm_head"], **ATTENTION},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "the LM head": {"target_modules": ["lm_head", "q_proj"]},
    "embeddings and head": {"modules_to_save": ["embed_tokens", "lm_head"], **ATTENTION},
}

FROZEN = ("embeddings", "the LM head")  # LoRA, beside a copy of the base's own weight


@pytest.mark.parametrize("variant", WHOLE)
def test_whole_weights_are_averaged_when_weights_add_up_to_one(tmp_path, qwen_dir, variant):
    paths = [
        trained(qwen_dir, tmp_path / str(seed), seed, **WHOLE[variant], r=2 + seed)
        for seed in range(2)
    ]
    check_merge(tmp_path, qwen_dir, paths, (0.7, 0.3))


def test_an_adapter_of_weight_zero_adds_no_whole_module(tmp_path, qwen_dir):
    head = trained(qwen_dir, tmp_path / "a", 1, modules_to_save=["lm_head"])
    both = trained(qwen_dir, tmp_path / "b", 2, modules_to_save=["lm_head", "embed_tokens"])
    merge([head, both], MergeSettings(weights=(1, 0), out=tmp_path / "m"))
    assert read_adapter(tmp_path / "m").config["modules_to_save"] == ["lm_head"]


def test_biases_beside_updates_of_different_modules_are_averaged(tmp_path, qwen_dir):
    paths = [
        trained(qwen_dir, tmp_path / name, seed, bias="all", target_modules=[name])
        for seed, name in enumerate(["q_proj", "v_proj"])
    ]
    check_merge(tmp_path, qwen_dir, paths, (0.7, 0.3))


@pytest.mark.parametrize("weights", [(0.9, 0.4), (-0.5, 1.0)])
@pytest.mark.parametrize("variant", FROZEN)
def test_lora_on_embeddings_merges_with_an_adapter_that_has_none(
    tmp_path, qwen_dir, variant, weights
):
    """PEFT saves the base's own weight with it, and that is no part of the sum."""
    paths = [
        trained(qwen_dir, tmp_path / "a", 1, **WHOLE[variant]),
        trained(qwen_dir, tmp_path / "b", 2, r=3),
    ]
    copies = read_adapter(paths[0]).saved
    assert copies
    check_merge(tmp_path, qwen_dir, paths, weights)
    assert not inspect([paths[0]], InspectSettings()).notes  # they replace nothing
    merged = read_adapter(tmp_path / "merged")
    for name in copies:
        assert np.array_equal(merged.saved_weight(name), read_adapter(paths[0]).saved_weight(name))
    # Another base's weight is not passed over.
    rewrite(
        paths[0],
        lambda tensors: {k: t + 1 if "base_layer" in k else t for k, t in tensors.items()},
    )
    other = trained(qwen_dir, tmp_path / "c", 3, **WHOLE[variant])
    with pytest.raises(ArtifactError, match="whole weight"):
        merge([paths[0], other], MergeSettings(weights=weights, out=tmp_path / "m"))


@pytest.mark.parametrize("module", ["norm", "model.norm", "1.input_layernorm"])
def test_whole_modules_are_named_by_the_end_of_their_names(tmp_path, qwen_dir, module):
    paths = [
        trained(qwen_dir, tmp_path / str(seed), seed, modules_to_save=[module], **ATTENTION)
        for seed in range(2)
    ]
    check_merge(tmp_path, qwen_dir, paths, (0.7, 0.3))


def test_whole_weights_whose_sum_overflows_are_refused(tmp_path, qwen_dir):
    paths = []
    for seed, number in enumerate((40000.0, -40000.0)):
        path = trained(qwen_dir, tmp_path / str(seed), modules_to_save=["lm_head"], **ATTENTION)
        rewrite(
            path,
            lambda tensors, number=number: {
                k: torch.full_like(t, number).half() if "lm_head" in k else t.half()
                for k, t in tensors.items()
            },
        )
        paths.append(path)
    with pytest.raises(
        ArtifactError, match=r"'lm_head\.weight': the merge is too large for float16"
    ):
        merge(paths, MergeSettings(weights=(3, -2), out=tmp_path / "m"))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "variant", [name for name in WHOLE if name not in (*FROZEN, "biases of the updates")]
)
def test_whole_weights_are_refused_by_name_where_the_sum_is_not_known(tmp_path, qwen_dir, variant):
    paths = [trained(qwen_dir, tmp_path / str(seed), seed, **WHOLE[variant]) for seed in range(2)]
    plain = trained(qwen_dir, tmp_path / "plain", 3, **ATTENTION)
    names = "|".join(read_adapter(paths[0]).saved)
    for sources, weights, why in (
        (paths, (1.0, 0.1), r"the weights add up to 1\.1"),
        (paths, (0.7, 0.301), r"the weights add up to 1\.001"),
        ([paths[0], plain], (0.9, 0.1), "plain does not"),
    ):
        with pytest.raises(ArtifactError, match=rf"whole weight '({names})', but .*{why}"):
            merge(sources, MergeSettings(weights=weights, out=tmp_path / "m"), dry_run=True)
    # An adapter of weight zero brings nothing.
    report = merge([plain, paths[0]], MergeSettings(weights=(1, 0), out=tmp_path / "m"))
    assert report.written
    torch.testing.assert_close(
        logits_through_peft(qwen_dir, tmp_path / "m"), logits_through_peft(qwen_dir, plain)
    )


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_a_whole_weight_beside_an_update_of_it_is_refused_but_folded(tmp_path, qwen_dir, module):
    """Each is right by itself, and PEFT cannot load both: it looks for one of the two names."""
    paths = [
        trained(qwen_dir, tmp_path / "a", 1, target_modules=[module, "q_proj"]),
        trained(qwen_dir, tmp_path / "b", 2, modules_to_save=[module], **ATTENTION),
    ]
    settings = {"weights": (0.7, 0.3), "out": tmp_path / "m"}
    for dry_run in (True, False):
        with pytest.raises(ArtifactError, match=rf"replaces '.*{module}' whole .* another has a"):
            merge(paths, MergeSettings(**settings), dry_run=dry_run)
    assert not (tmp_path / "m").exists()
    merge_into(paths, MergeSettings(**settings, into=str(qwen_dir)))
    torch.testing.assert_close(
        base_model(tmp_path / "m")(IDS).logits.float(),
        sum_of_folded_models(qwen_dir, paths, (0.7, 0.3)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_some_modules_with_a_bias_and_some_without(tmp_path, qwen_dir):
    """Where an update has no bias it gets a zero: PEFT wants one in all modules or in none."""
    paths = [
        trained(qwen_dir, tmp_path / "a", 1, lora_bias=True, target_modules=["q_proj"]),
        trained(qwen_dir, tmp_path / "b", 2, target_modules=["q_proj", "v_proj"]),
    ]
    check_merge(tmp_path, qwen_dir, paths, (0.7, 0.4))


def test_the_heads_of_names_may_differ(tmp_path, model_dir):
    """An adapter of the bare decoder, and one whose keys name the adapter ``default``."""
    task = trained(model_dir, tmp_path / "task", 1)
    align = trained(model_dir, tmp_path / "align", 2, target_modules=["q_proj", "up_proj"])
    expected = sum_of_folded_models(model_dir, [task, align], (0.6, 0.5))
    rewrite(
        align,
        lambda ts: {k.replace("model.model.model.", "model.model."): t for k, t in ts.items()},
    )
    rewrite(task, lambda ts: {k.replace(".weight", ".default.weight"): t for k, t in ts.items()})
    bare = trained(model_dir, tmp_path / "bare", 2, kind=AutoModel)
    assert read_adapter(bare).modules[0] == read_adapter(align).modules[
        0
    ] == "layers.0.mlp.up_proj" or (read_adapter(bare).modules[0].startswith("layers.0."))
    for order in ((0, 1), (1, 0)):
        paths, weights = [task, align], [0.6, 0.5]
        merge(
            [paths[at] for at in order],
            MergeSettings(weights=tuple(weights[at] for at in order), out=tmp_path / str(order)),
        )
        found = logits_through_peft(model_dir, tmp_path / str(order))
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-3)


def test_patterns_know_modules_by_the_names_they_were_trained_with(tmp_path, model_dir):
    """One of the bare decoder is renamed for the merge; its ``^layers`` is still what it was."""
    name = "layers.1.mlp.down_proj"
    task = trained(model_dir, tmp_path / "task", 1)
    patterns = {"rank_pattern": {f"^{name}": 7}, "alpha_pattern": {f"^{name}": 21}}
    bare = trained(model_dir, tmp_path / "bare", 2, kind=AutoModel, **patterns)
    merge([task, bare], MergeSettings(weights=(0.6, 0.5), out=tmp_path / "m"))
    sources = [read_adapter(task).update(f"model.{name}"), read_adapter(bare).update(name)]
    assert sources[1].scaling == 3
    expected = 0.6 * dense(sources[0]) + 0.5 * dense(sources[1])
    found = dense(read_adapter(tmp_path / "m").update(f"model.{name}"))
    assert_close(found, expected, atol=1e-6)


def test_adapters_of_the_bare_decoder_stay_so(tmp_path, model_dir):
    """Some layers only, too: PEFT cannot tell layers by index when nothing stands before them."""
    paths = [
        trained(
            model_dir,
            tmp_path / str(seed),
            seed,
            kind=AutoModel,
            target_modules=[f"layers.{seed}.mlp.up_proj"],
        )
        for seed in (1, 2)
    ]
    merge(paths, MergeSettings(weights=(1, 0.5), out=tmp_path / "m"))
    states = []
    for sources in (paths, [tmp_path / "m"]):
        model = AutoModel.from_pretrained(model_dir)
        base = {name: weight.clone() for name, weight in model.state_dict().items()}
        for path, weight in zip(sources, (1, 0.5), strict=False):
            folded = PeftModel.from_pretrained(AutoModel.from_pretrained(model_dir), str(path))
            for name, value in folded.merge_and_unload().state_dict().items():
                model.state_dict()[name] += weight * (value - base[name])
        states.append(model(IDS).last_hidden_state.detach())
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-4)


def test_transposed_layers_are_merged(tmp_path, gpt2_dir):
    paths = [
        trained(gpt2_dir, tmp_path / str(seed), seed, **CONV1D, r=2 + seed) for seed in range(2)
    ]
    check_merge(tmp_path, gpt2_dir, paths, (0.6, 0.7))
    assert read_adapter(tmp_path / "merged").config["fan_in_fan_out"] is True


# --- what PEFT's own merge does


def peft_merge(model_dir, paths, weights, kind, rank=None):
    """Delta weights of PEFT's ``add_weighted_adapter``, by module."""
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_dir), str(paths[0]), adapter_name="0"
    )
    for number, path in enumerate(paths[1:], 1):
        model.load_adapter(str(path), adapter_name=str(number))
    names = [str(number) for number in range(len(paths))]
    model.add_weighted_adapter(names, list(weights), "merged", combination_type=kind, svd_rank=rank)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("merged")
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def our_deltas(path):
    return {name: torch.from_numpy(dense(u)).float() for name, u in read_adapter(path).updates()}


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.2, -0.4)])
@pytest.mark.parametrize("kind", ["cat", "linear", "svd"])
def test_peft_methods_are_pefts(tmp_path, model_dir, kind, weights):
    paths = [
        trained(model_dir, tmp_path / str(seed), seed, lora_alpha=4 + seed) for seed in range(2)
    ]
    report = merge(paths, MergeSettings(weights=weights, method=f"peft-{kind}", out=tmp_path / "m"))
    theirs, ours = peft_merge(model_dir, paths, weights, kind), our_deltas(tmp_path / "m")
    assert set(theirs) == set(ours)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    assert report.rank == (8 if kind == "cat" else 4)


@pytest.mark.parametrize("rank", [2, 6, 8])
def test_the_rank_of_peft_svd_is_pefts_svd_rank(tmp_path, model_dir, rank):
    paths = [trained(model_dir, tmp_path / str(seed), seed) for seed in range(2)]
    settings = MergeSettings(weights=(0.7, 0.3), method="peft-svd", rank=rank, out=tmp_path / "m")
    assert merge(paths, settings).rank == rank
    theirs, ours = peft_merge(model_dir, paths, (0.7, 0.3), "svd", rank), our_deltas(tmp_path / "m")
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["cat", "linear", "svd"])
def test_rslora_has_its_own_scaling_here_and_not_in_peft(tmp_path, model_dir, kind):
    """PEFT 0.21.2 gives a merge of rsLoRA adapters the square root of the rank too much."""
    path = trained(model_dir, tmp_path / "a", 1, use_rslora=True, r=4)
    merge([path], MergeSettings(weights=(1,), method=f"peft-{kind}", out=tmp_path / "m"))
    ours, wanted = our_deltas(tmp_path / "m"), our_deltas(path)
    theirs = peft_merge(model_dir, [path], (1.0,), kind)
    for name in wanted:
        torch.testing.assert_close(ours[name], wanted[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(theirs[name], 2 * wanted[name], rtol=1e-4, atol=1e-5)


def test_dora_is_refused_where_peft_forgets_the_magnitudes(tmp_path, model_dir):
    path = trained(model_dir, tmp_path / "a", 1, use_dora=True)
    peft_merge(model_dir, [path], (1.0,), "cat")  # goes through without a word
    with pytest.raises(ArtifactError, match=r"DoRA \(use_dora\): its magnitudes"):
        merge([path], MergeSettings(weights=(1,), out=tmp_path / "m"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_lora_weights": "pissa"}, "initialized by pissa, which changes the base model"),
        ({"init_lora_weights": "olora"}, "initialized by olora, which changes the base model"),
        ({"kasa_config": KasaConfig()}, "KaSA"),
        (
            {"target_modules": ["o_proj"], "use_bdlora": BdLoraConfig(["o_proj"], nblocks=2)},
            "block-diagonal factors",
        ),
        ({"monteclora_config": MontecloraConfig()}, "MonteCLoRA"),
        ({"velora_config": VeloraConfig()}, "VeLoRA"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication"),
    ],
)
def test_what_is_no_plain_update_is_refused_by_name(tmp_path, model_dir, options, words):
    path = trained(model_dir, tmp_path / "a", 1, **options)
    for sources, weights in (
        ([path], (1.0,)),
        ([trained(model_dir, tmp_path / "b"), path], (1, 0)),
    ):
        with pytest.raises(ArtifactError, match=words):
            merge(sources, MergeSettings(weights=weights, out=tmp_path / "m"))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("init", ["lora_ga", "corda", "loftq"])
def test_starts_that_change_the_base_are_refused_by_name(tmp_path, model_dir, init):
    path = trained(model_dir, tmp_path / "a", 1)
    config = json.loads((path / "adapter_config.json").read_text()) | {"init_lora_weights": init}
    (path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=f"initialized by {init}, which changes the base"):
        merge([path], MergeSettings(weights=(1,), out=tmp_path / "m"))


def test_convolutions_are_refused_by_name(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
    model = get_peft_model(model, LoraConfig(target_modules=["0"], r=2))
    model.save_pretrained(tmp_path / "a")
    with pytest.raises(ArtifactError, match="not convolutions"):
        merge([tmp_path / "a"], MergeSettings(weights=(1,), out=tmp_path / "m"))


# --- one adapter


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


# --- adapters that do nothing in some modules


@pytest.mark.parametrize("out", ["m", "m.safetensors"])
def test_the_sources_are_told_in_the_report_and_in_the_record(tmp_path, model_dir, out):
    paths = [
        trained(model_dir, tmp_path / "task", 1),
        untrained_above(trained(model_dir, tmp_path / "align", 2), 2),
    ]
    report = merge(paths, MergeSettings(weight=0.8, out=tmp_path / out))
    files = [(path / "adapter_model.safetensors").read_bytes() for path in paths]
    assert [source.blake3 for source in report.sources] == [blake3(f).hexdigest() for f in files]
    assert [source.inactive for source in report.sources] == [0, 4]
    record = read_adapter(tmp_path / out).record
    assert record["sources"] == report.as_record()["sources"]


def untrained_above(path, layer, side="B"):
    """Zero the B of all layers from one on, as a loss on a middle layer leaves them.

    Where training starts from singular vectors in B (MiCA), it leaves zeros in A.
    """

    def change(tensors):
        for name, tensor in tensors.items():
            if f"lora_{side}" in name and int(name.split("layers.")[1].split(".")[0]) >= layer:
                tensor.zero_()
        return tensors

    rewrite(path, change)
    return path


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


# --- what is told of a merge


METHODS = ["exact", "peft-svd", "factor-average", "peft-linear", "ties", "dare", "knots", "tsv"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dry_run", [False, True])
def test_the_reported_error_is_that_of_the_whole_adapter(tmp_path, model_dir, method, dry_run):
    paths = [
        trained(model_dir, tmp_path / str(seed), seed, lora_alpha=4 * seed + 4) for seed in (0, 1)
    ]
    settings = MergeSettings(weight=0.7, method=method, out=tmp_path / "m")
    report = merge(paths, settings, dry_run=dry_run)
    assert report.written == (tmp_path / "m").exists() == (not dry_run)
    if dry_run:
        merge(paths, settings)
    first, second, merged = map(our_deltas, (*paths, tmp_path / "m"))
    lost = total = crossed = 0.0
    factors = [dict(read_adapter(path).updates()) for path in paths]
    for name, delta in merged.items():
        exact = 0.7 * first[name].double() + 0.3 * second[name].double()
        lost += float((delta - exact).square().sum())
        total += float(exact.square().sum())
        a, b = (updates[name] for updates in factors)
        roots = (0.7 * 0.3 * a.scaling * b.scaling) ** 0.5
        u, v = (roots, roots) if method == "peft-linear" else (0.21 * a.scaling, 0.21 * b.scaling)
        crossed += float(np.square(u * a.b @ b.a + v * b.b @ a.a).sum())
    assert report.relative_error == pytest.approx((lost / total) ** 0.5, rel=1e-4, abs=1e-6)
    has_cross_terms = method in ("factor-average", "peft-linear")
    assert report.cross_term_energy == pytest.approx(
        crossed / total if has_cross_terms else 0, rel=1e-4
    )


# --- bad input: one clear error, nothing half-written


@pytest.fixture
def two(tmp_path, model_dir):
    return [trained(model_dir, tmp_path / name, seed) for seed, name in enumerate("ab")]


LAST_B = "base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight"


def poke(value):
    def change(tensors):
        tensors[LAST_B][-1, -1] = value
        return tensors

    return change


def without(name):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poke(math.nan), "q_proj.lora_B.weight contains NaN or infinity"),
        (poke(-math.inf), "q_proj.lora_B.weight contains NaN or infinity"),
        (without(LAST_B), "layers.3.self_attn.q_proj has lora_A, but not lora_B"),
        (lambda t: t | {"extra": torch.ones(1)}, "tensor 'extra' is not a LoRA factor"),
        (lambda t: t | {LAST_B: t[LAST_B].mT.contiguous()}, "they are transposed"),
        (lambda t: {k: v[:0] if "A" in k else v[:, :0] for k, v in t.items()}, "they are empty"),
        (lambda t: {k: v[:, :0] if "A" in k else v for k, v in t.items()}, "they are empty"),
        (lambda t: t | {LAST_B: t[LAST_B].int()}, "has the unsupported type int32"),
        (lambda t: t | {LAST_B: t[LAST_B][0]}, "do not fit rank 4"),
        (
            lambda t: t | {LAST_B.replace("B.weight", "B.default.weight"): t[LAST_B] * 2},
            "name the same factor",
        ),
        (
            lambda t: t | {LAST_B.replace("weight", "bias"): torch.ones(3)},
            "lora_B.bias does not have 64 rows",
        ),
    ],
)
def test_damaged_tensors_leave_nothing(tmp_path, two, change, message):
    rewrite(two[1], change)
    before = sorted(tmp_path.iterdir())
    for weights, method in (((0.9, 0.1), "exact"), ((0.1, 0.9), "exact"), ((0.9, 0.1), "ties")):
        with pytest.raises(ArtifactError, match=message):
            merge(two, MergeSettings(weights=weights, method=method, out=tmp_path / "m"))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": math.nan}, "'r' is not a positive whole number"),
        ({"r": 4.5}, "'r' is not a positive whole number"),
        ({"lora_alpha": math.inf}, "'lora_alpha' is not a positive number"),
        ({"lora_alpha": -8}, "'lora_alpha' is not a positive number"),
        ({"rank_pattern": {"q_proj": 0}}, "'q_proj' in rank_pattern is not a positive whole"),
        ({"alpha_pattern": {"q_proj": "x"}}, "'q_proj' in alpha_pattern is not a positive number"),
        ({"alpha_pattern": {"(": 1}}, "is not a regular expression"),
        ({"alpha_pattern": [1]}, "'alpha_pattern' is not a table"),
        ({"rank_pattern": {"q_proj": 3}}, r"do not fit rank 3 in .*a.adapter_config\.json$"),
        ({"r": 8}, r"do not fit rank 8 in .*a.adapter_config\.json$"),
        ({"peft_type": "LOHA"}, "not the config of a LoRA adapter"),
    ],
)
def test_damaged_configs_are_told(tmp_path, two, changes, message):
    reconfigure(two[0], **changes)
    with pytest.raises(ArtifactError, match=message):
        merge(two, MergeSettings(weight=0.9, out=tmp_path / "m"))


def test_files_that_are_not_safetensors_are_refused_unread(tmp_path, two):
    weights = two[0] / "adapter_model.safetensors"
    settings = MergeSettings(weight=0.9, out=tmp_path / "m")
    data = weights.read_bytes()
    for damage in (data[:-10], data[:5], b"", b"PK\x03\x04" + data):
        weights.write_bytes(damage)
        with pytest.raises(ArtifactError, match="not a valid safetensors file"):
            merge(two, settings)
    weights.unlink()
    (two[0] / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    for path in (two[0], two[0] / "adapter_model.bin"):
        with pytest.raises(ArtifactError, match="no such file|not a safetensors file") as caught:
            merge([path, two[1]], settings)
        assert "pickle" in caught.value.hint
    (two[0] / "adapter_config.json").write_bytes(b"\xff\xfe{")
    (two[0] / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match="adapter_config.json:1: not JSON"):
        merge(two, settings)


def test_a_file_without_permission_is_said_to_be_one(two, monkeypatch):
    """For the tests may run as root, whom nothing is forbidden."""

    def forbid(*_, **__):
        raise PermissionError

    def miss(*_, **__):  # what safetensors says of it
        raise FileNotFoundError

    monkeypatch.setattr("adaptermix.files.tensors.safe_open", miss)
    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(PermissionError):
        read_adapter(two[0] / "adapter_model.safetensors")


def test_links_in_a_circle_are_no_input_and_no_output(tmp_path, two):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for paths, out, message in (
        ([loop, two[1]], tmp_path / "m", "loop: no such file"),
        (two, loop, "loop exists"),
        (two, loop / "m", "loop is not a folder"),
    ):
        with pytest.raises(AdaptermixError, match=message):
            merge(paths, MergeSettings(weight=0.9, out=out))


def test_an_output_never_takes_an_input_along(tmp_path, two, monkeypatch):
    (tmp_path / "link").symlink_to(two[0])
    monkeypatch.chdir(two[0])
    for out, words in (
        (two[0], "one of the inputs"),
        (tmp_path / "link", "one of the inputs"),
        (two[0] / "new" / "m", "inside the input"),
        (tmp_path, "contains the input"),
        (Path(".."), "contains the input"),
        (Path("inside"), "inside the input"),
    ):
        with pytest.raises(ConfigError, match=words):
            merge(two, MergeSettings(weight=0.9, out=out), force=True)
    assert (two[0] / "adapter_model.safetensors").exists()


def test_an_existing_output_is_replaced_with_force_only(tmp_path, two):
    settings = MergeSettings(weight=0.9, out=tmp_path / "m")
    (tmp_path / "m").write_text("kept")
    with pytest.raises(ArtifactError, match="m exists"):
        merge(two, settings)
    assert (tmp_path / "m").read_text() == "kept"
    assert merge(two, settings, force=True).written
    assert read_adapter(tmp_path / "m").record["method"] == "exact"


@pytest.mark.parametrize("method", ["factor-average", "peft-linear"])
def test_factors_of_different_ranks_cannot_be_added(tmp_path, model_dir, two, method):
    other = trained(model_dir, tmp_path / "c", 3, rank_pattern={"layers.2.mlp.down_proj": 6})
    settings = MergeSettings(weight=0.9, method=method, out=tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"layers\.2\.mlp\.down_proj has ranks 4, 6"):
        merge([two[0], other], settings)


def test_a_result_that_overflows_is_refused(tmp_path, two):
    for options, error in (
        ({"weights": (1e6, 1.0), "out_dtype": "float16"}, ConfigError),
        ({"weights": (1e300, 1.0)}, ConfigError),
        ({"weights": (1e12, 1.0), "out_dtype": "float16", "method": "ties"}, ArtifactError),
        ({"weights": (1.7e308, 0.0)}, ConfigError),
        ({"weights": (1.7e308, 0.0), "out_dtype": "float16"}, ConfigError),
        ({"weights": (1e-323, 0.0)}, ConfigError),
    ):
        before = sorted(tmp_path.iterdir())
        for path in two:
            reconfigure(path, lora_alpha=64 if options["weights"][0] > 1 else 1)
        with pytest.raises(error, match="too large"):
            merge(two, MergeSettings(**options, out=tmp_path / "m"))
        assert sorted(tmp_path.iterdir()) == before


def test_large_numbers_that_do_not_overflow_are_merged(tmp_path, two):
    """Their bound is above float16's largest number; the sum itself is not."""
    for path in two:
        rewrite(path, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
        reconfigure(path, lora_alpha=4)

    largest = torch.finfo(torch.float16).max

    def grow(tensors):
        name = next(name for name in tensors if "lora_A" in name)
        tensors[name][0, 0] = largest
        return tensors

    rewrite(two[0], grow)
    merge(two, MergeSettings(weights=(1.5, 0.5), out=tmp_path / "m"))
    merged = dict(read_adapter(tmp_path / "m").updates())
    assert max(update.a.max() for update in merged.values()) == largest


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_biases_that_are_no_numbers_are_refused(tmp_path, qwen_dir, value):
    for name, seed in (("a", 1), ("b", 2)):
        trained(qwen_dir, tmp_path / name, seed, lora_bias=True, **ATTENTION)

    def spoil(tensors):
        name = next(name for name in tensors if name.endswith("lora_B.bias"))
        return tensors | {name: torch.full_like(tensors[name], value)}

    rewrite(tmp_path / "b", spoil)
    with pytest.raises(ArtifactError, match=r"lora_B.bias contains NaN or infinity"):
        merge([tmp_path / "a", tmp_path / "b"], MergeSettings(weight=0.9, out=tmp_path / "m"))


@pytest.mark.parametrize("weights", ["a,b", "nan,1", "inf,0", "0.5;0.5"])
def test_weights_that_are_no_numbers_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        MergeSettings(weights=weights)


@pytest.mark.parametrize("weights", ["", "1"])
def test_weights_that_are_too_few_are_refused(tmp_path, two, weights):
    with pytest.raises(ConfigError, match="numbers for 2 adapters"):
        merge(two, MergeSettings(weights=weights, out=tmp_path / "m"))


def test_a_rule_that_matches_nothing_is_a_slip(tmp_path, adapters):
    path = tmp_path / "weights.toml"
    path.write_text('weights = [0.9, 0.1]\n[[rule]]\nlayers = "40-50"\nweights = [1, 0]\n')
    with pytest.raises(ConfigError, match="rule 1 matches no module"):
        merge(adapters[:2], MergeSettings(weights_file=path, out=tmp_path / "m"))


def test_what_looks_like_a_slip_is_noted(tmp_path, model_dir):
    paths = [tmp_path / name for name in ("task", "align", "copy")]
    for seed, path in zip((1, 2, 1), paths, strict=True):
        peft_adapter(model_dir, path, seed=seed)

    def notes(*chosen, **settings):
        return merge(chosen, MergeSettings(out=tmp_path / "out", **settings), dry_run=True).notes

    task, align, copy = paths
    assert notes(task, align, weight=0.9) == []
    assert notes(task, align, weights="1,-0.5") == [
        f"the weight -0.5 of {align} is not between 0 and 1"
    ]
    assert notes(task, copy, weight=0.9) == [f"{task} and {copy} are the same adapter"]
    aligned = tmp_path / "aligned.safetensors"
    write(aligned, ALIGNED)
    (note,) = notes(aligned, aligned, weight=0.9)[:1]
    assert "was trained for alignment and has the largest weight" in note


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

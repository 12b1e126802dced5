"""Merges as PEFT's own ``add_weighted_adapter`` makes them, and what of PEFT is no plain update."""

import json

import pytest
import torch
from helpers.adapters import IDS, logits_through_peft
from helpers.merging import our_deltas, trained
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ArtifactError
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings


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


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"use_dora": True}, "merge_and_unload"),
        ({"kasa_config": KasaConfig()}, "merge_and_unload"),
        ({"monteclora_config": MontecloraConfig()}, "merge_and_unload"),
        ({"trainable_token_indices": [1, 2]}, "merge_and_unload"),
        ({"alora_invocation_tokens": [20, 30]}, "PEFT cannot merge it"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "PEFT cannot merge it"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
    ],
)
def test_the_hint_of_a_refusal_works(tmp_path, model_dir, options, hint):
    """merge_and_unload gives the logits of the adapter exactly where the hint names it."""

    def made():
        model = AutoModelForCausalLM.from_pretrained(model_dir)
        options_of_lora = {"r": 4, "target_modules": ["q_proj", "down_proj"], **options}
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options_of_lora))

    torch.manual_seed(1)
    model = made().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.1
    model.save_pretrained(tmp_path / "a")
    with torch.no_grad():
        expected = model(IDS).logits
    with pytest.raises(ArtifactError) as refused:
        read_adapter(tmp_path / "a")
    assert hint in refused.value.hint

    base = AutoModelForCausalLM.from_pretrained(model_dir)
    try:
        merged = PeftModel.from_pretrained(base, str(tmp_path / "a")).merge_and_unload().eval()
        with torch.no_grad():
            works = torch.allclose(merged(IDS).logits, expected, rtol=1e-3, atol=1e-3)
    except NotImplementedError:
        works = False
    assert works == (hint == "merge_and_unload")


def test_a_converted_pissa_adapter_is_read(tmp_path, model_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights="pissa_niter_4")
    model = get_peft_model(model, config).eval()
    model.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.1
        expected = model(IDS).logits
    place = str(tmp_path / "start")
    model.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=place)
    merge([tmp_path / "a"], MergeSettings(weights=(1,), out=tmp_path / "m"))
    given = logits_through_peft(model_dir, tmp_path / "m")
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3)


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

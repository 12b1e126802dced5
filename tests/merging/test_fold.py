"""A full model with a merge folded into it, against the base with the adapter through PEFT."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.merging import ATTENTION, CONV1D, check_fold, our_deltas, reconfigure, rewrite, trained
from helpers.models import save_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
)

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.writing import write_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.merging import fold as folding
from adaptermix.merging.fold import fold, merge_into
from adaptermix.merging.merge import merge
from adaptermix.models.files import fingerprint
from adaptermix.settings.merging import MergeSettings


def test_a_folded_model_is_the_base_with_the_merged_adapter(tmp_path, model_dir):
    paths = [
        trained(model_dir, tmp_path / "task", 1),
        trained(model_dir, tmp_path / "align", 2, r=2, target_modules=["up_proj"]),
    ]
    check_fold(tmp_path, model_dir, paths, (0.9, -0.4))
    AutoTokenizer.from_pretrained(tmp_path / "model")
    record = json.loads((tmp_path / "model" / "adaptermix.json").read_text())
    assert [source["weight"] for source in record["sources"]] == [0.9, -0.4]
    before, after = (load_file(p / "model.safetensors") for p in (model_dir, tmp_path / "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kinds = {name.split(".")[-2] for name in changed}
    assert kinds == {"q_proj", "down_proj", "up_proj"}
    assert set(before) == set(after)


@pytest.mark.parametrize("method", ["ties", "dare", "tsv", "knots", "factor-average"])
def test_every_method_folds_to_what_it_merges_to(tmp_path, model_dir, method):
    paths = [trained(model_dir, tmp_path / str(seed), seed) for seed in (1, 2)]
    check_fold(tmp_path, model_dir, paths, (0.7, 0.3), method=method, inactive="keep")


def test_rules_and_random_draws_go_by_the_names_of_a_merge(tmp_path, model_dir):
    """Those of the bare decoder here, while the base model's files have the whole model's."""
    options = {"kind": AutoModel, "target_modules": ["up_proj"]}
    paths = [trained(model_dir, tmp_path / str(seed), seed, **options) for seed in (1, 2)]
    rules = tmp_path / "weights.toml"
    rules.write_text('weights = [0.7, 0.3]\n[[rule]]\nmodules = "^layers.1"\nweights = [0.2, 1]\n')
    settings = MergeSettings(weights_file=rules, method="dare", out=tmp_path / "m")
    merge(paths, settings)
    into = {"into": str(model_dir), "out": tmp_path / "model"}
    merge_into(paths, settings.model_copy(update=into))
    before, after = (load_file(p / "model.safetensors") for p in (model_dir, tmp_path / "model"))
    deltas = our_deltas(tmp_path / "m")
    assert len(deltas) == 4
    for module, delta in deltas.items():
        name = f"model.{module}.weight"
        torch.testing.assert_close(after[name] - before[name], delta, rtol=1e-4, atol=1e-5)


def test_a_bias_is_folded_beside_modules_that_have_none(tmp_path, qwen_dir):
    """The merge has zeros there, and needs no bias of the base to add them to."""
    paths = [
        trained(qwen_dir, tmp_path / "a", 1, lora_bias=True, target_modules=["q_proj"]),
        trained(qwen_dir, tmp_path / "b", 2, target_modules=["q_proj", "down_proj"]),
    ]
    check_fold(tmp_path, qwen_dir, paths, (0.7, 0.4))


def test_transposed_layers_are_folded(tmp_path, gpt2_dir):
    paths = [trained(gpt2_dir, tmp_path / str(seed), seed, **CONV1D) for seed in (1, 2)]
    check_fold(tmp_path, gpt2_dir, paths, (0.7, 0.5))


@pytest.mark.parametrize("targets", [["attn.c_proj", "lm_head"], ["c_attn", "c_fc", "lm_head"]])
def test_each_layer_is_folded_as_it_is_stored(tmp_path, targets):
    torch.manual_seed(0)
    shape = {"vocab_size": 400, "n_embd": 48, "n_layer": 2, "n_head": 2, "n_positions": 64}
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(
        GPT2Config(**shape, tie_word_embeddings=False)
    ).save_pretrained(base)
    # PEFT saves the value of the last layer, the head, which is stored as out x in.
    path = trained(base, tmp_path / "a", 1, target_modules=targets)
    assert read_adapter(path).config["fan_in_fan_out"] is False
    check_fold(tmp_path, base, [path, path], (0.7, 0.5))


def test_a_head_is_folded_under_its_name_in_the_files(tmp_path):
    base = tmp_path / "base"
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = GPTNeoXConfig(**shape, vocab_size=64, num_attention_heads=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    assert "embed_out.weight" in load_file(base / "model.safetensors")
    targets = {"target_modules": ["query_key_value", "lm_head"]}
    paths = [trained(base, tmp_path / str(seed), seed, **targets) for seed in (1, 2)]
    check_fold(tmp_path, base, paths, (0.7, 0.5))


def test_an_orientation_that_no_layer_of_the_class_has_is_ignored(tmp_path, model_dir):
    """PEFT ignores ``fan_in_fan_out`` for linear layers; q_proj is square, so its shape is none."""
    path = trained(model_dir, tmp_path / "a", 1)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"fan_in_fan_out": True}))
    check_fold(tmp_path, model_dir, [path], (0.7,))


def test_a_head_that_the_files_have_not_is_refused(tmp_path, model_dir):
    """An untied model without its head, such as one that was saved as a bare decoder."""
    base = shutil.copytree(model_dir, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    path = trained(model_dir, tmp_path / "a", 1, target_modules=["lm_head"])
    rewrite(path, lambda tensors: {k: t for k, t in tensors.items() if "lora_" in k})
    settings = MergeSettings(weights=(1,), into=str(base), out=tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"has no weight 'lm_head\.weight'"):
        merge_into([path], settings, dry_run=True)


def test_a_bias_that_the_base_has_not_is_refused(tmp_path, model_dir):
    path = trained(model_dir, tmp_path / "a", 1, lora_bias=True)
    settings = MergeSettings(weights=(1,), into=str(model_dir), out=tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"has no weight '.*down_proj\.bias'"):
        merge_into([path], settings)
    assert not (tmp_path / "model").exists()


def test_tied_embeddings_are_kept_and_never_changed_at_both_ends(tmp_path, gpt2_dir):
    """An adapter on the input embeddings leaves the output as it is; a folded weight cannot."""
    check_fold(tmp_path, gpt2_dir, [trained(gpt2_dir, tmp_path / "a", 1, **CONV1D)], (1.0,))
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    settings = MergeSettings(weights=(1,), into=str(gpt2_dir), out=tmp_path / "other")
    for module in ("transformer.wte", "lm_head"):
        both = trained(gpt2_dir, tmp_path / module, 2, target_modules=[module])
        with pytest.raises(ArtifactError, match=f"ties its .* adapters change '{module}'"):
            merge_into([both], settings)
        assert not (tmp_path / "other").exists()


def in_shards(model_dir, folder, dtype=None, size="40KB"):
    """The same model in several files with an index, and files that must not be copied."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype or torch.float32)
    model.save_pretrained(folder, max_shard_size=size)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder)
    (folder / "README.md").write_text("mine")
    (folder / "chat.jinja").write_text("{{ x }}")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    save_file({"layers.0.wq": torch.ones(2)}, folder / "consolidated.safetensors")
    return folder


def test_shards_stay_shards_and_other_files_are_copied(tmp_path, model_dir):
    base = in_shards(model_dir, tmp_path / "base")
    shards = sorted(path.name for path in base.glob("model-*.safetensors"))
    assert len(shards) > 3
    templates = base / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool_use.jinja").write_text("{{ tools }}")
    path = trained(model_dir, tmp_path / "a", 1)
    check_fold(tmp_path, base, [path], (0.8,))
    copied = tmp_path / "model" / templates.name
    assert [file.name for file in copied.iterdir()] == ["tool_use.jinja"]
    shutil.rmtree(templates)
    shutil.rmtree(copied)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    own = {path.name for path in base.iterdir()}
    left = {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors"}
    assert names == own - left | {"adaptermix.json"}
    for name in own - left - set(shards):
        assert (tmp_path / "model" / name).read_bytes() == (base / name).read_bytes()


def test_the_header_of_a_folded_model_knows_its_weights(tmp_path, model_dir):
    """A fingerprint reads only samples of the weights, where two merges may be the same."""
    path = trained(model_dir, tmp_path / "a", 1)

    def header(name, weight, base=model_dir):
        into = {"into": str(base), "ignore_base": base != model_dir}
        merge_into([path], MergeSettings(**into, out=tmp_path / name, weights=(weight,)))
        return safe_open(tmp_path / name / "model.safetensors", "np").metadata()["adaptermix"]

    first = header("first", 0.8)
    assert json.loads(first)["weights"] == [0.8]
    assert header("again", 0.8) == first
    other = header("other", 0.7)
    records = [
        json.loads(text) for text in (first, other, header("twice", 0.8, tmp_path / "other"))
    ]
    assert len({record["blake3"] for record in records}) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_rounded_once(tmp_path, model_dir, dtype, adapter_dtype):
    base = in_shards(model_dir, tmp_path / "base", dtype)
    paths = [trained(model_dir, tmp_path / str(seed), seed, adapter_dtype) for seed in (1, 2)]
    merge_into(paths, MergeSettings(weights=(0.9, 0.1), into=str(base), out=tmp_path / "model"))
    before, after = ({}, {})
    for folder, weights in ((base, before), (tmp_path / "model", after)):
        for shard in folder.glob("model-*.safetensors"):
            weights.update(load_file(shard))
    assert {weight.dtype for weight in after.values()} == {dtype}
    assert set(before) == set(after)
    for name, weight in after.items():
        wanted = before[name].double()
        module = name.removesuffix(".weight")
        for path, share in zip(paths, (0.9, 0.1), strict=True):
            factors = load_file(path / "adapter_model.safetensors")
            key = f"base_model.model.{module}.lora_"
            if f"{key}A.weight" in factors:
                a, b = (factors[f"{key}{side}.weight"].double() for side in "AB")
                wanted = wanted + share * 2 * b @ a
        # Off by the last place where float32 and float64 fall on two sides of a tie.
        wrong = (weight != wanted.to(dtype)).double().mean()
        assert wrong < 2e-3
        torch.testing.assert_close(weight.double(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_a_whole_weight_that_half_precision_cannot_hold_is_refused(tmp_path, model_dir):
    path = trained(model_dir, tmp_path / "a", 1, modules_to_save=["lm_head"], **ATTENTION)
    rewrite(path, lambda ts: {k: t * 1e6 if "lm_head" in k else t for k, t in ts.items()})
    base = in_shards(model_dir, tmp_path / "base", torch.float16)
    settings = MergeSettings(weights=(1,), into=str(base), out=tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"lm_head\.weight: the merged weight is too large"):
        merge_into([path], settings)
    assert not (tmp_path / "m").exists()


def test_rows_are_folded_in_blocks(monkeypatch):
    generator = np.random.default_rng(0)
    weight, a, b = (
        generator.standard_normal(shape, np.float32) for shape in ((33, 20), (4, 20), (33, 4))
    )
    monkeypatch.setattr(folding, "_ROWS", 8)
    found = fold(weight, LoraUpdate(a, b, 1.5))
    np.testing.assert_allclose(found, weight + 1.5 * b @ a, rtol=1e-5, atol=1e-6)


def test_a_base_that_does_not_fit_is_refused(tmp_path, model_dir, qwen_dir):
    path = trained(model_dir, tmp_path / "a", 1, target_modules=["k_proj", "down_proj"])
    config = AutoModelForCausalLM.from_pretrained(model_dir).config.to_dict()
    narrow = LlamaConfig(**{**config, "intermediate_size": 32})
    AutoModelForCausalLM.from_config(narrow).save_pretrained(tmp_path / "narrow")
    out = tmp_path / "model"
    for into, words in (
        (tmp_path / "narrow", r"is 64 x 96, but .* has 64 x 32"),
        (path, "no config.json"),
    ):
        with pytest.raises(ArtifactError, match=words):
            merge_into([path], MergeSettings(weights=(1,), into=str(into), out=out))
    headless = trained(qwen_dir, tmp_path / "b", 1, modules_to_save=["lm_head"], **ATTENTION)
    factors = load_file(headless / "adapter_model.safetensors")
    factors = {k: t[:-3] if "lm_head" in k else t for k, t in factors.items()}
    save_file(
        {k: t.contiguous() for k, t in factors.items()}, headless / "adapter_model.safetensors"
    )
    with pytest.raises(ArtifactError, match=r"'lm_head.weight' is \d+ x 64 in the adapters"):
        merge_into([headless], MergeSettings(weights=(1,), into=str(qwen_dir), out=out))
    assert not out.exists()


def test_another_model_of_the_same_shape_is_refused(tmp_path, model_dir):
    """An adapter made here says which weights it was trained on."""
    made = dict(read_adapter(trained(model_dir, tmp_path / "a", 1)).updates())
    config = describe_config({m: spec_of(u) for m, u in made.items()}, "base", all_layers=True)
    record = {"base_fingerprint": fingerprint(model_dir)}
    write_adapter(tmp_path / "ours", made, config, record)
    other = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        other.model.embed_tokens.weight.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    settings = MergeSettings(weights=(1,), into=str(tmp_path / "other"), out=tmp_path / "model")
    with pytest.raises(ArtifactError, match="whose weights are not those of"):
        merge_into([tmp_path / "ours"], settings)
    assert not (tmp_path / "model").exists()
    for change in ({"ignore_base": True}, {"into": str(model_dir), "out": tmp_path / "right"}):
        assert merge_into([tmp_path / "ours"], settings.model_copy(update=change)).written


def test_a_folder_of_another_name_and_another_revision_are_told(tmp_path, monkeypatch, model_dir):
    """The owner of a folder chooses its name, so it is no proof."""
    path = trained(model_dir, tmp_path / "a", 1)
    settings = MergeSettings(weights=(1,), into=str(model_dir), out=tmp_path / "model")
    reconfigure(path, base_model_name_or_path="mistralai/Mistral-7B-v0.3")
    (note,) = merge_into([path], settings, dry_run=True).notes
    assert note.endswith(f"v0.3, which by its name is not {model_dir}")
    forced = settings.model_copy(update={"ignore_base": True})
    assert merge_into([path], forced, dry_run=True).notes == []
    reconfigure(path, base_model_name_or_path="x/llama", revision="v2")
    (note,) = merge_into([path], settings, dry_run=True).notes
    assert note.startswith(f"{path} was trained on revision v2 of x/llama")
    reconfigure(path, base_model_name_or_path="x/llama", revision=None)
    monkeypatch.chdir(model_dir.parents[1])
    relative = str(model_dir.relative_to(model_dir.parents[1]))  # not a name on the Hub
    settings = settings.model_copy(update={"into": relative})
    assert merge_into([path], settings, dry_run=True).notes == []


def test_outputs_that_cannot_be_are_refused(tmp_path, model_dir):
    path = trained(model_dir, tmp_path / "a", 1)
    for options, words in (
        ({}, "a full model is written as a folder"),
        ({"out": tmp_path / "m.safetensors"}, "a full model is written as a folder"),
        ({"out": model_dir}, "is one of the inputs"),
        ({"out": model_dir / "new"}, "inside the input"),
        ({"out": tmp_path / "m", "out_dtype": "float16"}, "--out-dtype"),
    ):
        with pytest.raises(ConfigError, match=words):
            merge_into(
                [path], MergeSettings(weights=(1,), into=str(model_dir), **options), force=True
            )


def test_a_dry_run_finds_what_is_damaged_and_writes_nothing(tmp_path, model_dir):
    path = trained(model_dir, tmp_path / "a", 1)
    settings = MergeSettings(weights=(1,), into=str(model_dir), out=tmp_path / "m")
    report = merge_into([path], settings, dry_run=True)
    assert not report.written
    assert not (tmp_path / "m").exists()
    factors = load_file(path / "adapter_model.safetensors")
    next(iter(factors.values()))[0, 0] = torch.nan
    save_file(factors, path / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="contains NaN"):
        merge_into([path], settings, dry_run=True)


def test_a_quantized_layer_is_refused_and_others_are_copied(tmp_path, model_dir):
    base = save_model(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    index = base / "model.safetensors.index.json"
    index.write_text("{}")
    into = {"weights": (1,), "into": str(base), "out": tmp_path / "m"}
    with pytest.raises(ArtifactError, match="adapters cannot be folded into a quantized model"):
        merge_into([trained(model_dir, tmp_path / "a", 1)], MergeSettings(**into))
    assert not (tmp_path / "m").exists()
    merge_into(
        [trained(model_dir, tmp_path / "b", 1, target_modules=["q_proj"])], MergeSettings(**into)
    )
    assert not (tmp_path / "m" / index.name).exists(), "of other files"
    copied = load_file(tmp_path / "m" / "model.safetensors")[name]
    assert copied.dtype == torch.float8_e4m3fn
    assert torch.equal(copied.view(torch.uint8), weights[name].view(torch.uint8))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq"])
def test_a_quantized_base_is_refused_for_what_it_is(tmp_path, model_dir, method):
    path = trained(model_dir, tmp_path / "a", 1)
    base = shutil.copytree(model_dir, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (base / "config.json").write_text(json.dumps(config))
    settings = MergeSettings(weights=(1,), into=str(base), out=tmp_path / "o", ignore_base=True)
    with pytest.raises(ArtifactError, match=rf"is quantized \({method}\)"):
        merge_into([path], settings)
    given = config.pop("quantization_config")  # as in models of several modes, and in none
    (base / "config.json").write_text(
        json.dumps(config | {"text_config": {"quantization_config": given}})
    )
    with pytest.raises(ArtifactError, match=rf"is quantized \({method}\)"):
        merge_into([path], settings)
    (base / "config.json").write_text(json.dumps(config | {"quantization": {"bits": 4}}))  # MLX
    with pytest.raises(ArtifactError, match=r"is quantized \(quantization\)"):
        merge_into([path], settings)
    (base / "config.json").write_text(json.dumps(config))
    end = {"bitsandbytes": "weight.absmax", "gptq": "qweight"}[method]
    weights = load_file(base / "model.safetensors")
    weights = {name.removesuffix("weight") + end: weight for name, weight in weights.items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=rf"is quantized \({end}\)"):
        merge_into([path], settings)


def test_a_failure_midway_leaves_nothing(tmp_path, model_dir):
    base = in_shards(model_dir, tmp_path / "base")
    path = trained(model_dir, tmp_path / "a", 1)
    factors = load_file(path / "adapter_model.safetensors")
    factors["base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"][0, 0] = torch.nan
    save_file(factors, path / "adapter_model.safetensors")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ArtifactError, match="contains NaN"):
        merge_into([path], MergeSettings(weights=(1,), into=str(base), out=tmp_path / "model"))
    assert sorted(tmp_path.iterdir()) == before


def test_a_template_or_vocabulary_beside_an_adapter_is_told_and_the_bases_are_written(
    tmp_path, model_dir
):
    adapter = trained(model_dir, tmp_path / "a")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_dir / name, adapter / name)
    into = {"weights": (1,), "into": str(model_dir)}
    assert merge_into([adapter], MergeSettings(out=tmp_path / "same", **into)).notes == []
    (note,) = merge_into(
        [adapter], MergeSettings(out=tmp_path / "c", compact=True, **into), dry_run=True
    ).notes
    assert note == "--compact has no effect with --into, which writes no adapter"
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (note,) = merge_into([adapter], MergeSettings(out=tmp_path / "m", **into)).notes
    assert note.startswith(f"the folder of {adapter} has a different chat template than the base")
    template = (tmp_path / "m" / "chat_template.jinja").read_text()
    assert template == (model_dir / "chat_template.jinja").read_text()
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(adapter)
    settings = MergeSettings(out=tmp_path / "n", **into)
    (note,) = merge_into([adapter], settings, dry_run=True).notes
    assert "has a different vocabulary and chat template than" in note

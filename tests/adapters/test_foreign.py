"""Adapters in other formats mean what PEFT reads from the same tensors, or are named."""

import json
import shutil
from dataclasses import fields

import pytest
import torch
from helpers.adapters import logits_through_peft, peft_adapter
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.config import KNOWN_FIELDS
from adaptermix.adapters.format import CONFIG_KEY
from adaptermix.adapters.inspection import inspect
from adaptermix.errors import ArtifactError
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings

PREFIX = "base_model.model."


@pytest.fixture
def made(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "made")
    return tmp_path / "made"


def parts(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    return load_file(folder / "adapter_model.safetensors"), config


def put(folder, tensors, config=None, name="adapter_model.safetensors", header=None):
    folder.mkdir(exist_ok=True)
    tensors = {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
    save_file(tensors, folder / name, {"format": "pt"} | (header or {}))
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def bare(name):
    return name.removeprefix(PREFIX)


def mlx(made, folder, **changes):
    """What mlx-lm's trainer saves: factors transposed, with a scale of their product."""
    tensors, _ = parts(made)
    config = {
        "fine_tune_type": "lora",
        "num_layers": 4,
        "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": 2.0},
        "model": "mlx-community/tiny-4bit",
    }
    renamed = {
        bare(k).replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b"): t.T
        for k, t in tensors.items()
    }
    return put(folder, renamed, config | changes, "adapters.safetensors")


def shards(made, folder):
    tensors, config = parts(made)
    names = sorted(tensors)
    for at in (1, 2):
        half = {name: tensors[name] for name in names[at - 1 :: 2]}
        put(folder, half, config, f"adapter_model-{at:05}-of-00002.safetensors")
    return folder


def named(made, folder):
    tensors, config = parts(made)
    return put(
        folder, {k.replace(".weight", ".french.weight"): t for k, t in tensors.items()}, config
    )


def diffusers(made, folder):
    tensors, config = parts(made)
    header = {f"transformer.{key}": value for key, value in config.items()}
    renamed = {f"transformer.{bare(k)}": t for k, t in tensors.items()}
    put(folder, renamed, name="lora.safetensors", header={CONFIG_KEY: json.dumps(header)})
    return folder / "lora.safetensors"


def mlx_file(made, folder):
    return mlx(made, folder) / "adapters.safetensors"


def shard_file(made, folder):
    return shards(made, folder) / "adapter_model-00002-of-00002.safetensors"


@pytest.mark.parametrize("form", [mlx, mlx_file, shards, shard_file, named, diffusers])
def test_other_forms_of_an_adapter_mean_the_same(tmp_path, model_dir, made, form):
    path = form(made, tmp_path / "other")
    merge([path], MergeSettings(weights=(1.0,), out=tmp_path / "merged"))
    torch.testing.assert_close(
        logits_through_peft(model_dir, tmp_path / "merged"), logits_through_peft(model_dir, made)
    )
    report = inspect([path, made], InspectSettings())
    assert report.total.comparisons[0].cosine == pytest.approx(1)
    assert report.total.norms[0] == pytest.approx(report.total.norms[1])
    assert not report.notes
    folder = path.parent if path.is_file() else path
    assert report.adapters[0].bytes == sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def test_whole_weights_in_memory_have_the_name_of_the_adapter(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "made", modules_to_save=["lm_head"])
    tensors, config = parts(tmp_path / "made")
    renamed = {
        key.replace(".lm_head.", ".lm_head.modules_to_save.french.")
        if "lm_head" in key
        else key.replace(".weight", ".french.weight"): tensor
        for key, tensor in tensors.items()
    }
    found = read_adapter(put(tmp_path / "other", renamed, config))
    assert (
        found.saved_weight("lm_head.weight") == tensors[f"{PREFIX}lm_head.weight"].numpy()
    ).all()
    assert list(found.saved) == ["lm_head.weight"]


def test_the_last_of_checkpoints_is_read_and_named(tmp_path, made):
    for step in (90, 100):
        shutil.copytree(made, tmp_path / "run" / f"checkpoint-{step}")
    report = inspect([tmp_path / "run"], InspectSettings())
    assert report.adapters[0].path == str(tmp_path / "run" / "checkpoint-100")
    assert report.notes == [
        f"{tmp_path / 'run'} contains only checkpoints; using the last one, checkpoint-100"
    ]
    settings = MergeSettings(weights=(1,), out=tmp_path / "merged")
    assert report.notes[0] in merge([tmp_path / "run"], settings).notes
    shutil.copytree(made, tmp_path / "run" / "checkpoint-best")
    with pytest.raises(ArtifactError, match=r"folders checkpoint-100, checkpoint-90, .*-best"):
        read_adapter(tmp_path / "run")


def test_weights_that_were_trained_with_a_lora_are_told(tmp_path, made):
    (made / "non_lora_trainables.bin").write_bytes(b"")
    (note,) = read_adapter(made).notes
    assert "also contains non_lora_trainables.bin" in note
    assert merge([made], MergeSettings(weights=(1,), out=tmp_path / "m")).notes == [note]


def test_the_known_fields_are_pefts():
    assert {field.name for field in fields(LoraConfig)} == KNOWN_FIELDS


def test_a_variant_that_is_not_known_is_refused_by_name(made):
    path = made / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"newlora_config": {}, "some_new_field": None}))
    read_adapter(made)
    path.write_text(json.dumps(config | {"use_newlora": True}))
    with pytest.raises(ArtifactError, match="not a plain LoRA: its config sets 'use_newlora'"):
        read_adapter(made)


FACTOR = torch.ones(4, 4)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_unet_down_blocks_0_proj.lora_down.weight": FACTOR}, "kohya's"),
        ({"lora_te1_text_model_q.alpha": FACTOR}, "kohya's"),
        ({"model.layers.0.self_attn.q_proj.lora_down.weight": FACTOR}, "kohya's or ComfyUI's"),
        ({"decoder.layers.0.mlp.linear_fc1.adapter.linear_in.weight": FACTOR}, "NeMo's or Mega"),
        ({"encoder.layers.0.adapter_layer.lora_kqv_adapter.linear_out.weight": FACTOR}, "NeMo's"),
        ({"blocks_0.hada_w1_a": FACTOR}, "LyCORIS LoHa"),
        ({"unet.mid_block.attentions.0.proj_in.lora_A.weight": FACTOR}, "diffusers', for image"),
        ({"transformer.blocks.0.attn.to_q.lora_A.weight": FACTOR}, "diffusers', for image"),
        ({"layers.0.attn.q_proj.lora_a.weight": FACTOR}, "torchtune's"),
        ({"model.layers.0.self_attn.q_proj.lora_a": FACTOR}, "'lora_parameters' is missing"),
        ({"language_model.model.layers.0.self_attn.q_proj.A": FACTOR}, "mlx-vlm's"),
        ({f"layers.0.q.lora_{x}": FACTOR for x in ("A.ref", "A.own")}, "adapters: own, ref$"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, tensors, words):
    folder = put(tmp_path / "a", tensors, name="lora.safetensors")
    with pytest.raises(ArtifactError, match=words):
        read_adapter(folder / "lora.safetensors")


def test_other_mistakes_in_foreign_folders_are_named(tmp_path, made):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for place, name in (("left", "1-of-00003"), ("zero", "1-of-00000"), ("twice", "2-of-00002")):
        first = shards(made, tmp_path / place) / "adapter_model-00001-of-00002.safetensors"
        shutil.copy(first, first.with_name(f"adapter_model-0000{name}.safetensors"))
    (shards(made, tmp_path / "torn") / "adapter_model-00002-of-00002.safetensors").unlink()
    both = {"rank": 4, "alpha": 8, "scale": 2.0}
    cases = {
        tmp_path / "x.gguf": "GGUF adapters of llama.cpp are not supported",
        tmp_path / "left": "is one of 2 shards, but adapter_model-00001-of-00003.safetensors next",
        tmp_path / "zero": "not a valid shard number; the number of shards is 0",
        tmp_path / "twice": "is in two shards",
        tmp_path / "torn": "00002-of-00002.safetensors: no such file; it is one of 2 shards",
        mlx(made, tmp_path / "dora", fine_tune_type="dora"): "of type 'dora', which is not LoRA",
        mlx(made, tmp_path / "old", lora_parameters=both): "both 'alpha' and 'scale'",
        mlx(made, tmp_path / "none", lora_parameters=None): "'scale' in 'lora_parameters' is not",
    }
    for path, words in cases.items():
        with pytest.raises(ArtifactError) as caught:
            read_adapter(path)
        assert words in caught.value.message


@pytest.mark.parametrize("kind", ["LOHA", "LOKR"])
def test_another_kind_of_pefts_adapters_is_named_by_its_config(tmp_path, kind):
    key = "base_model.model.model.layers.0.self_attn.q_proj."
    name = {"LOHA": "hada_w1_a", "LOKR": "lokr_w1"}[kind]
    folder = put(tmp_path / "a", {key + name: FACTOR})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": kind, "r": 4}))
    with pytest.raises(ArtifactError, match=f"not the config of a LoRA .* is {kind}"):
        read_adapter(folder)

"""What an export takes, and what it refuses before it writes anything."""

import json
import shutil

import numpy as np
import pytest
from helpers.adapters import peft_adapter
from helpers.experts import CONFIGS, FUSED
from helpers.merging import rewrite
from helpers.models import save_model
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.writing import write_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.export.export import export
from adaptermix.models.files import fingerprint
from adaptermix.settings.export import ExportSettings


def settings(tmp_path, **changes):
    return ExportSettings(**{"to": "mlx", "out": tmp_path / "out", **changes})


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("exported") / "adapter"
    peft_adapter(model_dir, folder)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"modules_to_save": ["input_layernorm"]},
            "whole weights, such as model.layers.0.input_layernorm",
        ),
        ({"target_modules": ["embed_tokens"]}, "a LoRA on embeddings, model.embed_tokens"),
        ({"lora_bias": True}, "a LoRA with a bias"),
        ({"use_dora": True}, r"DoRA \(use_dora\)"),
    ],
)
def test_what_no_format_holds_is_refused(tmp_path, model_dir, options, message):
    peft_adapter(model_dir, tmp_path / "adapter", **options)
    for to in ("gguf", "mlx"):
        with pytest.raises(ArtifactError, match=message):
            export([tmp_path / "adapter"], settings(tmp_path, to=to))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["gguf", "mlx"])
def test_two_names_of_one_head_are_refused(tmp_path, to):
    base = save_model(tmp_path / "base", "qwen2")
    path = tmp_path / "adapter"
    peft_adapter(base, path, target_modules=["lm_head"])
    rewrite(
        path,
        lambda ts: ts | {k.replace("lm_head", "model.lm_head"): t + 0 for k, t in ts.items()},
    )
    with pytest.raises(ArtifactError, match="lm_head' are two names of one module"):
        export([path], settings(tmp_path, to=to))


def test_fused_experts_are_refused(tmp_path):
    model = AutoModelForCausalLM.from_config(CONFIGS["mixtral"]())
    model.save_pretrained(tmp_path / "base")
    targets = {"target_modules": ["q_proj"], "target_parameters": list(FUSED)}
    get_peft_model(model, LoraConfig(r=2, lora_dropout=0.0, **targets)).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(ArtifactError, match="updates of single experts, such as model.layers.0"):
        export([tmp_path / "adapter"], settings(tmp_path, model=str(tmp_path / "base")))


def test_an_adapter_of_another_base_is_refused(tmp_path, adapter, model_dir):
    shutil.copytree(model_dir, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights = {name: np.ascontiguousarray(tensor[..., :32]) for name, tensor in weights.items()}
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"mlp.down_proj is 64 x 96, but .* has 64 x 32"):
        export([adapter], settings(tmp_path, model=str(tmp_path / "base")))


def test_a_quantized_base_has_no_shapes_to_compare(tmp_path, adapter, model_dir):
    base = shutil.copytree(model_dir, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    quantized = {"quantization_config": {"quant_method": "bitsandbytes"}}
    (base / "config.json").write_text(json.dumps(config | quantized))
    weights = load_file(base / "model.safetensors")
    packed = {name: tensor.reshape(-1, 1) for name, tensor in weights.items()}
    save_file(packed, base / "model.safetensors", {"format": "pt"})
    assert export([adapter], settings(tmp_path, model=str(base))).written


def test_numbers_that_float16_does_not_hold_are_refused(tmp_path, adapter):
    shutil.copytree(adapter, tmp_path / "large")
    file = tmp_path / "large" / "adapter_model.safetensors"
    save_file({name: tensor * 1e6 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ArtifactError, match="too large for float16"):
        export([tmp_path / "large"], settings(tmp_path, out_dtype="float16"))
    assert not (tmp_path / "out").exists()


def test_the_config_of_the_base_is_enough(tmp_path, adapter, model_dir):
    (tmp_path / "base").mkdir()
    shutil.copy(model_dir / "config.json", tmp_path / "base")
    report = export([adapter], settings(tmp_path, model=str(tmp_path / "base")))
    assert report.base == str(tmp_path / "base")
    record = json.loads((tmp_path / "out" / "adaptermix.json").read_text())
    assert record["command"] == "export"
    assert record["sources"][0]["path"] == str(adapter)


def test_a_dry_run_writes_nothing(tmp_path, adapter):
    report = export([adapter], settings(tmp_path), dry_run=True)
    assert not report.written
    assert list(tmp_path.iterdir()) == []


def test_slips_are_named(tmp_path, adapter):
    with pytest.raises(ConfigError, match="one adapter, not 2"):
        export([adapter, adapter], settings(tmp_path))
    for name in ("a.safetensors", "a.gguf"):
        with pytest.raises(ConfigError, match="a folder, not a single file"):
            export([adapter], settings(tmp_path, out=tmp_path / name))
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        export([adapter], settings(tmp_path, model=str(tmp_path)))
    nameless = tmp_path / "nameless"
    shutil.copytree(adapter, nameless)
    config = json.loads((nameless / "adapter_config.json").read_text())
    (nameless / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": None})
    )
    with pytest.raises(ConfigError, match="does not name its base model"):
        export([nameless], settings(tmp_path))
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="exists"):
        export([adapter], settings(tmp_path))


def test_force_replaces_neither_the_adapter_nor_its_base(tmp_path, adapter, model_dir):
    own = shutil.copytree(adapter, tmp_path / "runs" / "task")
    named = {"model": str(model_dir)}
    for out, changes in (
        (own, {}),
        (own.parent, {}),
        (model_dir, {}),
        (model_dir.parent, named),
    ):
        with pytest.raises(ConfigError, match="is one of the inputs|contains the input"):
            export([own], settings(tmp_path, out=out, **changes), force=True)
    assert (own / "adapter_config.json").is_file()


def shown(report):
    (table,) = report.view().shown
    return {str(name): str(value) for name, value in table.rows}


def test_what_is_shown_is_what_was_written(tmp_path, adapter):
    """Its names and numbers, the notes on the adapter, and where it is."""
    (tmp_path / "runs").mkdir()
    shutil.copytree(adapter, tmp_path / "runs" / "checkpoint-3")
    options = {"out_dtype": "float16", "to": "mlx"}
    report = export([tmp_path / "runs"], settings(tmp_path, **options))
    tensors = load_file(tmp_path / "out" / "adapters.safetensors")
    assert report.modules == len(tensors) / 2 == 8
    assert report.parameters == sum(tensor.size for tensor in tensors.values())
    rows = shown(report)
    assert rows["modules"] == f"8, {report.parameters:,} parameters in float16"
    assert (rows["wrote"], rows["base"]) == (str(tmp_path / "out"), report.base)
    assert (rows["rank"], rows["scale"]) == ("4", "2.0")
    assert any("using the last one, checkpoint-3" in line for line in report.view().remarks)
    record = json.loads((tmp_path / "out" / "adaptermix.json").read_text())
    assert "out" not in record["settings"]
    assert record["settings"]["out_dtype"] == "float16"
    assert record["sources"][0]["hash"] == adapter_hash(read_adapter(adapter))
    again = export([adapter], settings(tmp_path), dry_run=True, force=True)
    assert shown(again)["would write"] == str(tmp_path / "out")


def test_the_base_that_is_named_counts_and_has_the_weights_of_the_training(
    tmp_path, adapter, model_dir
):
    base = shutil.copytree(model_dir, tmp_path / "base")
    read = read_adapter(adapter)
    record = {"base_fingerprint": fingerprint(model_dir)}
    write_adapter(tmp_path / "ours", dict(read.updates()), read.config, record)
    chosen = settings(tmp_path, model=str(base))
    assert export([tmp_path / "ours"], chosen, dry_run=True).base == str(base)
    weights = load_file(base / "model.safetensors")
    moved = {name: tensor + 1 for name, tensor in weights.items()}
    save_file(moved, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match="whose weights are not those of"):
        export([tmp_path / "ours"], chosen)
    other = shutil.copytree(base, tmp_path / "qwen")
    (note,) = export([adapter], settings(tmp_path, model=str(other)), dry_run=True).notes
    assert note.endswith(f"llama, which by its name is not {other}")
    forced = settings(tmp_path, model=str(other), ignore_base=True)
    assert export([adapter], forced, dry_run=True).notes == []
    assert export([adapter], chosen, dry_run=True).base == str(base), "it does not say which"


def test_a_bare_file_is_exported_with_the_rank_and_alpha_that_are_given(
    tmp_path, adapter, model_dir
):
    bare = tmp_path / "bare.safetensors"
    shutil.copy(adapter / "adapter_model.safetensors", bare)
    given = {"model": str(model_dir), "source_rank": 4, "source_alpha": 6}
    report = export([bare], settings(tmp_path, **given))
    assert report.details == {"rank": 4, "scale": 1.5}


def test_a_copy_of_the_bases_own_weight_is_no_obstacle(tmp_path):
    """PEFT saves one beside a LoRA on the head, and it changes nothing."""
    base = save_model(tmp_path / "base", "llama")
    peft_adapter(base, tmp_path / "adapter", target_modules=["lm_head", "q_proj"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    head = load_file(base / "model.safetensors")["lm_head.weight"]
    save_file(tensors | {"base_model.model.lm_head.base_layer.weight": head}, file)
    assert export([tmp_path / "adapter"], settings(tmp_path), dry_run=True).modules == 5

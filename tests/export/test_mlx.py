"""A folder of mlx-lm, read back as mlx-lm multiplies it: scale * lora_a @ lora_b."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from helpers.adapters import peft_adapter
from safetensors.numpy import load_file, save_file

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.inspection import inspect
from adaptermix.errors import ArtifactError
from adaptermix.export.export import export
from adaptermix.settings.export import ExportSettings
from adaptermix.settings.reports import InspectSettings

MLX = {"to": "mlx"}


def test_every_delta_weight_is_in_the_folder(tmp_path, layout_dir):
    """Other ranks and alphas included: there is one rank and one scale."""
    peft_adapter(
        layout_dir,
        tmp_path / "adapter",
        target_modules=["q_proj", "k_proj", "down_proj"],
        rank_pattern={"down_proj": 6},
        alpha_pattern={"q_proj": 3},
        layers_to_transform=[1, 2],
    )
    report = export([tmp_path / "adapter"], ExportSettings(out=tmp_path / "out", **MLX))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "out" / "adapters.safetensors")
    options = config["lora_parameters"]
    assert (config["fine_tune_type"], config["num_layers"]) == ("lora", 4)
    assert (options["rank"], options["dropout"]) == (6, 0.0)
    assert options["keys"] == ["mlp.down_proj", "self_attn.k_proj", "self_attn.q_proj"]
    assert report.notes == [
        "padded 4 modules of lower rank with zeros to rank 6",
        "rescaled lora_b in 4 modules with another scale",
    ]
    adapter = read_adapter(tmp_path / "adapter")
    assert len(tensors) == 2 * len(adapter.modules)
    for module, update in adapter.updates():
        a, b = (tensors[f"{module}.lora_{side}"].astype(np.float64) for side in "ab")
        assert (a.shape[1], b.shape[0]) == (6, 6)
        found = options["scale"] * (a @ b).T
        expected = update.scaling * (update.b.astype(np.float64) @ update.a.astype(np.float64))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_it_is_read_as_the_adapter_that_it_was(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "adapter")
    export([tmp_path / "adapter"], ExportSettings(out=tmp_path / "out", **MLX))
    met = inspect([tmp_path / "adapter", tmp_path / "out"], InspectSettings()).total.comparisons[0]
    assert met.cosine == pytest.approx(1, abs=1e-12)
    assert read_adapter(tmp_path / "out").base == str(model_dir)


@pytest.mark.parametrize("inner", ["model.model.", "model.model.language_model."])
@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("llama", "model."),
        ("gemma3", "language_model.model."),
        ("qwen2_vl", "language_model.model."),
        ("nemotron_h", "backbone."),
    ],
)
def test_modules_have_the_names_of_the_base_model(tmp_path, model_dir, kind, prefix, inner):
    """mlx-lm leaves out what has another name, and the adapter may be of another class."""
    peft_adapter(model_dir, tmp_path / "adapter", target_modules=["q_proj"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    renamed = {name.replace("model.model.", inner): t for name, t in load_file(file).items()}
    save_file(renamed, file)
    (tmp_path / "base").mkdir()
    config = json.loads((model_dir / "config.json").read_text()) | {"model_type": kind}
    if kind == "gemma3":
        config = {"model_type": kind, "text_config": config}
    elif kind == "qwen2_vl":  # of transformers 4
        config["vision_config"] = {}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    settings = ExportSettings(out=tmp_path / "out", model=str(tmp_path / "base"), **MLX)
    export([tmp_path / "adapter"], settings)
    names = load_file(tmp_path / "out" / "adapters.safetensors")
    assert f"{prefix}layers.0.self_attn.q_proj.lora_a" in names


def test_a_tied_head_is_refused(tmp_path, model_dir):
    """mlx-lm has no such module, and loads no adapter with one."""
    peft_adapter(model_dir, tmp_path / "adapter", target_modules=["lm_head", "q_proj"])
    (tmp_path / "base").mkdir()
    config = json.loads((model_dir / "config.json").read_text())
    settings = ExportSettings(out=tmp_path / "out", model=str(tmp_path / "base"), **MLX)
    for is_tied in (False, True):
        text = json.dumps(config | {"tie_word_embeddings": is_tied})
        (tmp_path / "base" / "config.json").write_text(text)
        with pytest.raises(ArtifactError, match="tied") if is_tied else nullcontext():
            export([tmp_path / "adapter"], settings, force=True)
    names = load_file(tmp_path / "out" / "adapters.safetensors")
    assert "lm_head.lora_a" in names

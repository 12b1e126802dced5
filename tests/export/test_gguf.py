"""A GGUF file of a LoRA, read back by the package gguf: names, alpha, and every delta weight."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.adapters import peft_adapter

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ArtifactError
from adaptermix.export.export import export
from adaptermix.export.gguf import _reordered
from adaptermix.settings.export import ExportSettings

gguf = pytest.importorskip("gguf")

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def text(reader, key):
    return bytes(reader.fields[key].parts[-1]).decode()


def number(reader, key):
    return reader.fields[key].parts[-1][0]


def llama_row(row, heads, rows):
    """Where llama.cpp has a row of queries or keys: row i of a half beside row i of the other."""
    size = rows // heads
    head, at = divmod(row, size)
    half, pair = divmod(at, size // 2)
    return head * size + 2 * pair + half


def test_every_delta_weight_is_in_the_file(tmp_path, layout_dir):
    """Other ranks, alphas and rsLoRA included: there is one alpha, the rest is in B."""
    kind = layout_dir.name
    peft_adapter(
        layout_dir,
        tmp_path / "adapter",
        target_modules=ALL,
        rank_pattern={"down_proj": 6},
        alpha_pattern={"v_proj": 3},
        use_rslora=True,
    )
    export([tmp_path / "adapter"], ExportSettings(out=tmp_path / "out"))
    reader = gguf.GGUFReader(tmp_path / "out" / "adapter.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert text(reader, "general.type") == "adapter"
    assert text(reader, "adapter.type") == "lora"
    assert text(reader, "general.architecture") == ARCHITECTURES.get(kind, kind)
    alpha = number(reader, "adapter.lora.alpha")
    config = json.loads((layout_dir / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    adapter = read_adapter(tmp_path / "adapter")
    assert len(tensors) == 2 * len(adapter.modules) == 2 * 7 * 4
    for module, update in adapter.updates():
        _, _, block, part = module.split(".", 3)
        name = f"blk.{block}.{NAMES[part]}.weight"
        a, b = (tensors[f"{name}.lora_{side}"].astype(np.float64) for side in "ab")
        assert a.shape == update.a.shape
        found = alpha / len(a) * (b @ a)  # as llama.cpp scales
        expected = update.scaling * (update.b.astype(np.float64) @ update.a.astype(np.float64))
        last = module.rpartition(".")[2]
        if ARCHITECTURES.get(kind) == "llama" and last in heads:
            rows = len(expected)
            moved = np.empty_like(expected)
            for row in range(rows):
                moved[llama_row(row, heads[last], rows)] = expected[row]
            assert not np.allclose(moved, expected)
            expected = moved
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_factors_of_one_alpha_are_the_same_bits(tmp_path, layout_dir):
    peft_adapter(layout_dir, tmp_path / "adapter", target_modules=["v_proj"])
    export([tmp_path / "adapter"], ExportSettings(out=tmp_path / "out"))
    reader = gguf.GGUFReader(tmp_path / "out" / "adapter.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert number(reader, "adapter.lora.alpha") == 8
    for module, update in read_adapter(tmp_path / "adapter").updates():
        name = f"blk.{module.split('.')[2]}.attn_v.weight"
        assert np.array_equal(tensors[f"{name}.lora_a"], update.a)
        assert np.array_equal(tensors[f"{name}.lora_b"], update.b)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(tmp_path, model_dir, dtype):
    import ml_dtypes

    kind = np.dtype({"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype])
    peft_adapter(model_dir, tmp_path / "adapter", target_modules=["down_proj"])
    export([tmp_path / "adapter"], ExportSettings(out=tmp_path / "out", out_dtype=dtype))
    reader = gguf.GGUFReader(tmp_path / "out" / "adapter.gguf")
    raw = {tensor.name: np.ascontiguousarray(tensor.data).view(kind) for tensor in reader.tensors}
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {
        {"float16": "F16", "bfloat16": "BF16"}[dtype]
    }
    update = read_adapter(tmp_path / "adapter").update("model.layers.3.mlp.down_proj")
    assert np.array_equal(raw["blk.3.ffn_down.weight.lora_b"], update.b.astype(kind))


def test_an_unknown_architecture_is_refused(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "adapter")
    (tmp_path / "base").mkdir()
    config = json.loads((model_dir / "config.json").read_text()) | {"model_type": "falcon"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    settings = ExportSettings(out=tmp_path / "out", model=str(tmp_path / "base"))
    with pytest.raises(ArtifactError, match="does not support models of type 'falcon'"):
        export([tmp_path / "adapter"], settings)


def test_a_module_outside_the_text_model_is_refused(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "adapter")
    (tmp_path / "base").mkdir()
    config = json.loads((model_dir / "config.json").read_text()) | {"num_hidden_layers": 2}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    settings = ExportSettings(out=tmp_path / "out", model=str(tmp_path / "base"))
    with pytest.raises(ArtifactError, match="no name in GGUF files of llama with 2 blocks"):
        export([tmp_path / "adapter"], settings)


def test_a_tied_head_is_refused(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "adapter", target_modules=["lm_head", "q_proj"])
    (tmp_path / "base").mkdir()
    config = json.loads((model_dir / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    settings = ExportSettings(out=tmp_path / "out", model=str(tmp_path / "base"))
    with pytest.raises(ArtifactError, match="input and output embeddings are tied"):
        export([tmp_path / "adapter"], settings)


def test_the_modelfile_names_both_files(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "adapter")
    report = export([tmp_path / "adapter"], ExportSettings(out=tmp_path / "out"))
    lines = (tmp_path / "out" / "Modelfile").read_text().splitlines()
    assert lines[-2:] == ["FROM ./base.gguf", "ADAPTER ./adapter.gguf"]
    assert str(model_dir) in lines[1]
    assert report.details == {"architecture": "llama", "alpha": 8.0}


def test_the_file_names_the_adapter_its_base_and_its_precision(tmp_path, model_dir, monkeypatch):
    """Without the path of either."""
    peft_adapter(model_dir, tmp_path / "task")
    monkeypatch.chdir(tmp_path / "task")
    kinds = {"float32": 0, "float16": 1, "bfloat16": 32}  # llama.cpp's numbers
    for dtype, kind in kinds.items():
        out = tmp_path / dtype
        export([Path()], ExportSettings(out=out, out_dtype=dtype))
        reader = gguf.GGUFReader(out / "adapter.gguf")
        assert text(reader, "general.name") == "task"
        assert text(reader, "general.base_model.0.name") == model_dir.name
        assert number(reader, "general.base_model.count") == 1
        assert number(reader, "general.file_type") == kind


def test_the_alpha_of_most_modules_is_kept_and_others_are_noted(tmp_path, model_dir):
    targets = {"target_modules": ["q_proj", "k_proj", "down_proj"]}
    for name, alpha in (("large", 40), ("small", 3)):
        peft_adapter(model_dir, tmp_path / name, alpha_pattern={"q_proj": alpha}, **targets)
        report = export([tmp_path / name], ExportSettings(out=tmp_path / f"{name}-out"))
        assert report.details["alpha"] == 8
        assert report.notes == ["rescaled B in 4 modules with another alpha"]
        options = ExportSettings(out=tmp_path / f"{name}-mlx", to="mlx")
        assert export([tmp_path / name], options).details["scale"] == 2
    peft_adapter(model_dir, tmp_path / "even", **targets)
    assert export([tmp_path / "even"], ExportSettings(out=tmp_path / "even-out")).notes == []


def test_a_model_without_heads_is_told():
    with pytest.raises(ArtifactError, match="16 rows cannot be divided among 0 heads"):
        _reordered(np.ones((16, 4)), "layers.0.self_attn.q_proj", {"num_attention_heads": 0})

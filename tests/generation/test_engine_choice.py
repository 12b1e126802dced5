"""Which engine ``auto`` is."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from helpers.adapters import adapter_files
from helpers.evaluation import eval_settings
from safetensors.torch import save_file

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.writing import write_adapter
from adaptermix.errors import ArtifactError, ResourceError
from adaptermix.generation import cached
from adaptermix.generation.cached import check_engine, choose_engine, notes_on_engine
from adaptermix.generation.vllm_engine import engine_stopped
from adaptermix.settings.shared import SERVER_OPTIONS, flag_of


@pytest.fixture
def machine(monkeypatch):
    """Make the machine one with or without a GPU and vLLM."""

    def make(*, has_gpu, has_vllm):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
        monkeypatch.setattr(cached, "find_spec", lambda name: name if has_vllm else None)

    return make


def settings(engine="auto", **options):
    return eval_settings("model", "data", "out", engine=engine, **options)


@pytest.mark.parametrize(
    ("has_gpu", "has_vllm", "expected"),
    [
        (True, True, "vllm"),
        (True, False, "transformers"),
        (False, True, "transformers"),
        (False, False, "transformers"),
    ],
)
def test_auto_is_vllm_on_a_gpu(machine, has_gpu, has_vllm, expected):
    machine(has_gpu=has_gpu, has_vllm=has_vllm)
    assert choose_engine(settings()) == expected


@pytest.mark.parametrize(
    "option",
    [
        {"engine_args": {"max_num_seqs": 64}},
        {"data_parallel_size": 2},
        {"tensor_parallel_size": 2},
        {"max_lora_rank": 64},
        {"gpu_memory_utilization": 0.5},
    ],
    ids=lambda option: next(iter(option)),
)
def test_an_option_of_vllm_asks_for_vllm(machine, option):
    machine(has_gpu=False, has_vllm=True)
    assert choose_engine(settings(**option)) == "vllm"
    assert notes_on_engine(settings(**option), "vllm") == []
    assert choose_engine(settings("transformers", **option)) == "transformers"
    flag = "--" + next(iter(option)).replace("_", "-")
    told = [f"{flag} has no effect with the transformers engine"]
    assert notes_on_engine(settings("transformers", **option), "transformers") == told
    machine(has_gpu=False, has_vllm=False)
    assert choose_engine(settings(**option)) == "transformers"


@pytest.mark.parametrize("option", sorted(SERVER_OPTIONS))
def test_an_option_of_servers_is_noted_without_one(option):
    value = 2 if option in ("server_requests", "server_timeout") else "a"
    given = settings(**{option: value})
    assert notes_on_engine(given, "vllm") == [
        f"{flag_of(option)} has no effect with the vllm engine"
    ]
    assert notes_on_engine(given, "server") == []


@pytest.mark.parametrize(
    ("weight", "has_gpu", "adapters", "is_refused"),
    [
        ("model.layers.0.mlp.experts.3.up_proj.weight", False, 1, True),
        ("model.layers.0.mlp.experts.gate_up_proj", False, 1, True),
        ("model.layers.0.mlp.experts.gate_up_proj", False, 0, False),
        ("model.layers.0.mlp.experts.gate_up_proj", True, 1, False),
        ("model.layers.0.block_sparse_moe.input_linear.weight", False, 1, True),
        ("model.layers.0.mlp.up_proj.weight", False, 1, False),
    ],
)
def test_experts_with_adapters_are_refused_on_a_cpu(
    tmp_path, machine, weight, has_gpu, adapters, is_refused
):
    machine(has_gpu=has_gpu, has_vllm=True)
    save_file({weight: torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    adapter_files(tmp_path / "adapter")
    given = [read_adapter(tmp_path / "adapter")] * adapters
    expected = (
        pytest.raises(ResourceError, match="mixture of experts") if is_refused else nullcontext()
    )
    with expected:
        check_engine(settings("vllm"), tmp_path, given)


@pytest.mark.parametrize(
    ("config", "module", "is_refused"),
    [
        ({"model_type": "llama4", "text_config": {"model_type": "llama4_text"}}, "q_proj", True),
        ({"model_type": "llama4_text"}, "k_proj", True),
        ({"model_type": "llama4_text"}, "v_proj", False),
        ({"model_type": "llama"}, "q_proj", False),
    ],
)
@pytest.mark.parametrize("prefix", ["model", "language_model.model", "vision_model.model"])
def test_layers_of_llama_4_that_vllm_reorders_are_refused(
    tmp_path, machine, config, module, is_refused, prefix
):
    """vLLM 0.32 gave wrong answers. Encoders of images have no effect on text."""
    machine(has_gpu=True, has_vllm=True)
    (tmp_path / "config.json").write_text(json.dumps(config))
    updates = {f"{prefix}.layers.1.self_attn.{module}": LoraUpdate(*np.ones((2, 2, 2)), 1.0)}
    write_adapter(tmp_path / "adapter", updates, {"r": 2, "lora_alpha": 2}, {})
    given = [read_adapter(tmp_path / "adapter")]
    is_refused = is_refused and prefix != "vision_model.model"
    expected = pytest.raises(ArtifactError, match="reorders") if is_refused else nullcontext()
    with expected:
        check_engine(settings("vllm"), tmp_path, given)


@pytest.mark.parametrize(
    ("dtype", "has_gpu", "is_refused"),
    [("auto", False, True), ("float32", False, True), ("bfloat16", False, False)]
    + [("float32", True, False)],
)
def test_linear_attention_is_refused_on_a_cpu_but_in_bfloat16(
    tmp_path, machine, dtype, has_gpu, is_refused
):
    machine(has_gpu=has_gpu, has_vllm=True)
    weight = "model.language_model.layers.0.linear_attn.in_proj_qkv.weight"
    save_file({weight: torch.zeros(1)}, tmp_path / "model.safetensors")
    expected = (
        pytest.raises(ResourceError, match="only in bfloat16") if is_refused else nullcontext()
    )
    with expected:
        check_engine(settings("vllm", dtype=dtype), tmp_path, [])


def test_an_engine_that_is_named_is_taken(machine):
    machine(has_gpu=False, has_vllm=True)
    assert choose_engine(settings("vllm")) == "vllm"
    machine(has_gpu=True, has_vllm=True)
    assert choose_engine(settings("transformers")) == "transformers"
    machine(has_gpu=True, has_vllm=False)
    with pytest.raises(ResourceError, match="vLLM is not installed"):
        choose_engine(settings("vllm"))


@pytest.mark.parametrize("found", [None, "torchvision"])
def test_a_refusal_of_vllm_has_its_reason(monkeypatch, found):
    monkeypatch.setattr("adaptermix.generation.vllm_engine.find_spec", lambda name: found)
    refusal = ValueError(
        "1 validation error for ModelConfig\n"
        "  Value error, Model architectures ['A'] failed to be inspected. [type=value_error, ...]\n"
    )
    error = engine_stopped(refusal)
    assert error.message == (
        "vLLM rejects the model or an argument: Model architectures ['A'] failed to be inspected."
    )
    assert "memory" not in error.hint
    assert ("need torchvision, which is not installed" in error.hint) == (found is None)
    assert "memory" in engine_stopped(RuntimeError("Engine core failed")).hint

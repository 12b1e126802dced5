"""The arguments that vLLM's engine is started with. No engine is started."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.adapters import peft_adapter
from helpers.evaluation import eval_settings
from helpers.experts import fused_adapter, save_experts

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.generation import vllm_engine
from adaptermix.generation.adapter_effect import RefusedAdapterError
from adaptermix.generation.engine import Limits, Request
from adaptermix.generation.vllm_engine import VLLM_RANKS, _vllm_options, vllm_lacks

LIMITS = Limits(adapters=3, rank=12, prompt=40)


def options(limits=LIMITS, **changes):
    usual = {"engine": "vllm", "dtype": "float32", "max_new_tokens": 8}
    return _vllm_options(eval_settings("m", "d", "o", **usual | changes), Path("m"), limits)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tensor_parallel_size": 2}, {"tensor_parallel_size": 2}),
        ({"data_parallel_size": 3}, {"data_parallel_size": 3}),
        ({"gpu_memory_utilization": 0.4}, {"gpu_memory_utilization": 0.4}),
        ({"trust_remote_code": True}, {"trust_remote_code": True}),
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ({"tokenizer": "other"}, {"tokenizer": "other"}),
        ({"max_new_tokens": 9}, {"max_model_len": 49}),
        ({"max_lora_rank": 33}, {"max_lora_rank": 64}),
        ({"engine_args": {"seed": 5, "max_num_seqs": 2}}, {"seed": 5, "max_num_seqs": 2}),
        ({"limits": Limits(3, 12, 60)}, {"max_model_len": 68}),
        ({"limits": Limits(3, 20, 40)}, {"max_lora_rank": 32}),
        ({"limits": Limits(20, 12, 40)}, {"max_loras": 8, "max_cpu_loras": 21}),
        ({"limits": replace(LIMITS, is_text=False)}, {"language_model_only": False}),
    ],
    ids=lambda value: "-".join(value),
)
def test_a_setting_changes_its_own_argument_and_no_other(monkeypatch, changes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    usual = options()
    changed = options(**changes)
    assert {k: v for k, v in changed.items() if v != usual.get(k)} == expected
    assert usual.keys() <= changed.keys()


def test_on_a_cpu_a_slot_stays_empty_and_half_of_the_memory_is_free(monkeypatch):
    """vLLM's CPU kernels answer for the base model with whatever adapter is in the last slot."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_gpu = options(gpu_memory_utilization=0.8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = options(gpu_memory_utilization=0.8)
    assert {
        name: (on_gpu[name], on_cpu[name]) for name in on_gpu if on_gpu[name] != on_cpu[name]
    } == {
        "max_loras": (3, 4),
        "gpu_memory_utilization": (0.8, 0.5),
        "enforce_eager": (False, True),
    }


@pytest.mark.parametrize("rank", [1, 2, 8, 9, 64, 65, 512])
def test_slots_hold_the_rank_and_are_of_the_next_size(rank):
    """As the adapters need, or as is asked for; a limit equal to the rank is enough."""
    size = min(size for size in VLLM_RANKS if size >= rank)
    limits = Limits(2, rank, 40, widest="big")
    assert options(limits)["max_lora_rank"] == size
    assert options(limits, max_lora_rank=rank)["max_lora_rank"] == size
    assert options(limits, engine_args={"max_lora_rank": size})["max_lora_rank"] == size
    if rank > 1:
        for changes in ({"max_lora_rank": rank - 1}, {"engine_args": {"max_lora_rank": rank - 1}}):
            with pytest.raises(ArtifactError, match=f"big has rank {rank}, above --max-lora-rank"):
                options(limits, **changes)


def test_ranks_beyond_vllms_are_refused():
    with pytest.raises(
        ArtifactError, match="big has rank 513, above vLLM's limit of 512"
    ) as caught:
        options(Limits(2, 513, 40, widest="big"))
    assert "transformers" in caught.value.hint
    with pytest.raises(ConfigError, match="--max-lora-rank 513: vLLM's limit is 512"):
        options(max_lora_rank=513)


def test_adapters_of_fused_experts_are_left_to_the_other_engine(tmp_path):
    base = save_experts(tmp_path / "base", "qwen3_moe")
    peft_adapter(base, tmp_path / "plain", target_modules=["q_proj"])
    assert vllm_lacks(read_adapter(tmp_path / "plain")) is None
    experts = read_adapter(fused_adapter(base, tmp_path / "experts", 1))
    assert "experts" in vllm_lacks(experts)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "Call to add_lora method failed: While loading /s/c0, expected target modules in "
            "{'q_proj', 'up_proj'} but received ['language_model.lm_head', 'x']. Please verify",
            "vLLM's class of the model has no LoRA layer for language_model.lm_head",
        ),
        ("Call to add_lora method failed: no room\nand more", "no room"),
        ("out of memory", "out of memory"),
    ],
)
def test_an_adapter_is_refused_when_it_is_loaded_and_the_engine_lives_on(monkeypatch, said, why):
    """With a prompt, vLLM would load it too, and its engine would stop."""
    monkeypatch.setitem(
        sys.modules, "vllm.v1.engine.exceptions", SimpleNamespace(EngineDeadError=OSError)
    )

    def refuse(adapter):
        loaded.append(adapter)
        raise Exception(said)

    loaded = []
    generator = object.__new__(vllm_engine.VllmGenerator)
    generator.capacity, generator.loaded, generator.checked = 2, [], set()
    generator.copies = SimpleNamespace(load=refuse)
    with pytest.raises(RefusedAdapterError) as caught:
        generator.generate([Request([1], Path("c0"))], print)
    assert (caught.value.path, caught.value.why) == (Path("c0"), why)
    assert loaded == [Path("c0")]


def test_a_file_that_vllm_misses_is_an_error_of_one_line(monkeypatch):
    """In the command's own process, vLLM reads files of the model beside its weights."""
    for name in ("vllm", "vllm.sampling_params"):
        monkeypatch.setitem(
            sys.modules, name, SimpleNamespace(SamplingParams=0, RequestOutputKind=0)
        )
    monkeypatch.setattr(vllm_engine, "_start_guard", lambda generator: None)

    def missing(options):
        raise OSError("Can't load image processor for 'm'.\nIf you were trying ...")

    monkeypatch.setattr(vllm_engine, "_OneCopy", missing)
    settings = eval_settings("m", "d", "o", engine="vllm")
    with pytest.raises(
        ArtifactError, match=r"start: Can't load image processor for 'm'\.$"
    ) as caught:
        vllm_engine.VllmGenerator(settings, Path("m"), None, [1], LIMITS)
    assert "--engine transformers" in caught.value.hint


def test_arguments_for_adapters_are_given_only_with_adapters():
    without = options(Limits(0, 1, 40))
    assert options().keys() - without.keys() == {
        *("enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank")
    }

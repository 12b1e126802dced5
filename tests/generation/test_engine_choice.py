"""Which engine ``auto`` is."""

import pytest
import torch
from helpers.evaluation import eval_settings

from adaptermix.errors import ResourceError
from adaptermix.generation import cached
from adaptermix.generation.cached import choose_engine
from adaptermix.generation.vllm_engine import engine_stopped


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
    assert choose_engine(settings("transformers", **option)) == "transformers"
    machine(has_gpu=False, has_vllm=False)
    assert choose_engine(settings(**option)) == "transformers"


def test_an_engine_that_is_named_is_taken(machine):
    machine(has_gpu=False, has_vllm=True)
    assert choose_engine(settings("vllm")) == "vllm"
    machine(has_gpu=True, has_vllm=True)
    assert choose_engine(settings("transformers")) == "transformers"
    machine(has_gpu=True, has_vllm=False)
    with pytest.raises(ResourceError, match="vLLM is not installed"):
        choose_engine(settings("vllm"))


def test_a_refusal_of_vllm_has_its_reason():
    refusal = ValueError(
        "1 validation error for ModelConfig\n"
        "  Value error, Model architectures ['A'] failed to be inspected. [type=value_error, ...]\n"
    )
    error = engine_stopped(refusal)
    assert error.message == (
        "vLLM refuses the model or an argument: Model architectures ['A'] failed to be inspected."
    )
    assert "memory" not in error.hint
    assert "memory" in engine_stopped(RuntimeError("Engine core failed")).hint

"""The arguments that vLLM's engine is started with. No engine is started."""

from pathlib import Path

import pytest
import torch
from helpers.evaluation import eval_settings

from adaptermix.generation.engine import Limits
from adaptermix.generation.vllm_engine import _vllm_options

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
        ({"max_new_tokens": 9}, {"max_model_len": 49}),
        ({"max_lora_rank": 33}, {"max_lora_rank": 64}),
        ({"engine_args": {"seed": 5, "max_num_seqs": 2}}, {"seed": 5, "max_num_seqs": 2}),
        ({"limits": Limits(3, 12, 60)}, {"max_model_len": 68}),
        ({"limits": Limits(3, 20, 40)}, {"max_lora_rank": 32}),
        ({"limits": Limits(20, 12, 40)}, {"max_loras": 8, "max_cpu_loras": 21}),
    ],
    ids=lambda value: "-".join(value),
)
def test_a_setting_changes_its_own_argument_and_no_other(monkeypatch, changes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    usual = options()
    changed = options(**changes)
    assert {k: v for k, v in changed.items() if v != usual.get(k)} == expected
    assert usual.keys() <= changed.keys()


def test_arguments_for_adapters_are_given_only_with_adapters():
    without = options(Limits(0, 1, 40))
    assert options().keys() - without.keys() == {
        *("enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank")
    }

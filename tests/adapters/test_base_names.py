"""Names of base models are compared: the same model, a copy, another one, or no conclusion."""

import pytest

from adaptermix.adapters.base_names import is_copy, is_one_base, is_quantized_name

HUB = "/home/u/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("Qwen/Qwen3-8B", f"{HUB}b968826d9c46dd6066d109eabc6255188de91218", True),
        ("qwen/qwen3-8b/", f"{HUB}0123", True),
        ("Qwen/Qwen3-8B", "/content/drive/Qwen3-8B", True),
        ("Qwen/Qwen3-8B", "./models/Qwen3-8B", True),
        ("/data/Qwen3-8B", "/mnt/Qwen3-8B", True),
        ("/data/merged", "/data/merged/", True),
        ("other/Qwen3-8B", f"{HUB}0123", False),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-4B", False),
        ("/data/Qwen3-8B", "/mnt/Llama-3", False),
        ("/runs/french/merged", "/runs/coder/merged", None),
        ("/runs/a/checkpoint-123", "/runs/b/checkpoint-123", None),
        ("Qwen/Qwen3-8B", "/runs/final", None),
        ("/a/b968826d9c46", "/b/b968826d9c46", None),
    ],
)
def test_names_of_bases_are_evidence_or_none(one, other, expected):
    assert is_one_base(one, other) is expected
    assert is_one_base(other, one) is expected


@pytest.mark.parametrize(
    ("copy", "original", "expected"),
    [
        ("unsloth/Qwen3-8B-bnb-4bit", "Qwen/Qwen3-8B", True),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "unsloth/Qwen3-8B", True),
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "meta-llama/Llama-3.1-8B", True),
        ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B", True),
        ("NousResearch/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf", True),
        ("mlx-community/Mistral-7B-Instruct-v0.3-4bit", "mistralai/Mistral-7B-Instruct-v0.3", True),
        ("TheBloke/Mistral-7B-Instruct-v0.2-GPTQ", "mistralai/Mistral-7B-Instruct-v0.2", True),
        ("RedHatAI/Llama-3.1-8B-Instruct-FP8-dynamic", "/m/Llama-3.1-8B-Instruct", True),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct", True),
        ("/data/gemma-2-9b-it-4bit", "google/gemma-2-9b-it", True),
        ("somebody/Qwen3-8B-bnb-4bit", "Qwen/Qwen3-8B", False),
        ("unsloth/Qwen3-8B-Base-bnb-4bit", "Qwen/Qwen3-8B", False),
        ("unsloth/Qwen3-4B-bnb-4bit", "Qwen/Qwen3-8B", False),
        ("Qwen/Qwen3-8B", "/data/Qwen3-8B", False),
    ],
)
def test_copies_of_a_model_are_recognized(copy, original, expected):
    assert is_copy(copy, original) is is_copy(original, copy) is expected
    assert not is_quantized_name(original)

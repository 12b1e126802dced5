"""Names of base models are compared: the same model, a copy, another one, or no conclusion."""

import pytest

from adaptermix.adapters.base_names import (
    commit_of_snapshot,
    has_owner,
    is_copy,
    is_one_base,
    is_quantized_name,
)

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
        ("x/one", "x/oneX", False),
        ("/runs/french/merged", "/runs/coder/merged", None),
        ("/runs/a/checkpoint-123", "/runs/b/checkpoint-123", None),
        ("Qwen/Qwen3-8B", "/runs/final", None),
        ("/a/b968826d9c46", "/b/b968826d9c46", None),
        ("Qwen/Qwen3-8B", "/Qwen3-8B", True),
        ("Qwen/Qwen3-8B", "~/Qwen3-8B", True),
        ("Qwen/Qwen3-8B", r"C:\models\Qwen3-8B", True),
        ("Qwen/Qwen2.5-7B", "/root/.cache/modelscope/hub/models/Qwen/Qwen2___5-7B", True),
        ("Qwen/Qwen3-8B", "./", None),
        ("~/a", "~/b", False),
        ("Qwen/merged", "other/merged", False),  # on the Hub, it is a name like others
        ("Qwen/Qwen3-8B", "models--Qwen--Qwen3-8B", False),
    ],
)
def test_names_of_bases_are_evidence_or_none(one, other, expected):
    assert is_one_base(one, other) is expected
    assert is_one_base(other, one) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("models/base", "Qwen/Qwen3-8B", None),
        ("models/Qwen3-8B", "Qwen/Qwen3-8B", True),
        ("saved_models_2/Qwen3-4B", "Qwen/Qwen3-8B", False),
        ("outputs/checkpoint-100", "outputs/checkpoint-200", None),
        ("huggingface/CodeBERTa", "other/CodeBERTa", False),
        ("1024/Qwen3-8B", "Qwen/Qwen3-8B", False),
        ("work/base", "Qwen/Qwen3-8B", False),  # may be on the Hub
    ],
)
def test_names_of_two_parts_may_be_folders(one, other, expected):
    assert is_one_base(one, other) is expected
    assert is_one_base(other, one) is expected
    is_named = one.startswith(("huggingface", "1024", "work"))
    assert has_owner(one) is is_named


def test_names_of_folders_that_exist_are_no_hub_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("work/base", "Qwen/Qwen3-8B"):
        (tmp_path / name).mkdir(parents=True)
    assert is_one_base("work/base", "Qwen/Qwen3-4B") is None
    assert is_one_base("work/base", str(tmp_path / "work" / "base")) is True
    assert is_one_base("Qwen/Qwen3-8B", "other/Qwen3-8B") is True
    assert not has_owner("work/base")
    assert has_owner(f"work/{'b' * 300}")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "merged",
            "base-model",
            "saved",
            "weights_v2",
            "sft",
            "model-hf-2",
            "global_step10",
            "12",
        ),
        *("checkpoint-100-merged", "mlx_model", "actor/huggingface", "final_merged_checkpoint"),
        *("merged_16bit", "checkpoint-best", "iter_0001000_hf", "model_final", "lora-merged"),
    ],
)
def test_names_that_many_folders_have_are_no_evidence(name):
    assert is_one_base(f"/runs/{name}", "Qwen/Qwen3-8B") is None
    assert is_one_base(f"/runs/{name}x", "Qwen/Qwen3-8B") is False


@pytest.mark.parametrize(
    ("copy", "original", "expected"),
    [
        ("unsloth/Qwen3-8B-bnb-4bit", "Qwen/Qwen3-8B", True),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "unsloth/Qwen3-8B", True),
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "meta-llama/Llama-3.1-8B", True),
        ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B", True),
        ("NousResearch/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf", True),
        ("mlx-community/Mistral-7B-Instruct-v0.3-4bit", "mistralai/Mistral-7B-Instruct-v0.3", True),
        ("NousResearch/Llama-2-7b-hf", "meta-llama/Llama-2-7b", True),
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


def test_the_name_of_a_quantized_copy_says_so():
    for name in ("unsloth/Qwen3-8B-bnb-4bit", "/data/gemma-2-9b-it-4bit", "x/Llama-3-8B-FP8"):
        assert is_quantized_name(name)
    assert not is_quantized_name("unsloth/Qwen3-8B")


def test_a_commit_is_that_of_a_snapshot():
    assert commit_of_snapshot(f"{HUB}0123") == commit_of_snapshot(f"{HUB}0123/") == "0123"
    assert commit_of_snapshot("Qwen/Qwen3-8B") is None
    assert commit_of_snapshot(HUB.removesuffix("snapshots/")) is None

"""Bad adapters, outputs and weights of a merge: one clear error, and nothing half-written."""

import codecs
import json
import math
from pathlib import Path

import pytest
import torch
from helpers.merging import ATTENTION, reconfigure, rewrite, trained

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings


@pytest.fixture
def two(tmp_path, model_dir):
    return [trained(model_dir, tmp_path / name, seed) for seed, name in enumerate("ab")]


TOKENS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
LAST_B = "base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight"


def poke(value):
    def change(tensors):
        tensors[LAST_B][-1, -1] = value
        return tensors

    return change


def without(name):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poke(math.nan), "q_proj.lora_B.weight contains NaN or infinity"),
        (poke(-math.inf), "q_proj.lora_B.weight contains NaN or infinity"),
        (without(LAST_B), "layers.3.self_attn.q_proj has lora_A, but not lora_B"),
        (lambda t: t | {"extra": torch.ones(1)}, "tensor 'extra' is not a LoRA factor"),
        (lambda t: t | {TOKENS: torch.ones(2, 64)}, "trainable_tokens_delta' is not a LoRA factor"),
        (lambda t: t | {LAST_B: t[LAST_B].mT.contiguous()}, "they are transposed"),
        (lambda t: {k: v[:0] if "A" in k else v[:, :0] for k, v in t.items()}, "they are empty"),
        (lambda t: {k: v[:, :0] if "A" in k else v for k, v in t.items()}, "they are empty"),
        (lambda t: {k: v.flatten() for k, v in t.items()}, "they are flattened"),
        (lambda t: t | {LAST_B: t[LAST_B].int()}, "has the unsupported type int32"),
        (lambda t: t | {LAST_B: t[LAST_B][0]}, "do not fit rank 4"),
        (
            lambda t: t | {LAST_B.replace("B.weight", "B.default.weight"): t[LAST_B] * 2},
            "name the same factor",
        ),
        (
            lambda t: t | {LAST_B.replace("weight", "bias"): torch.ones(3)},
            r"has a lora_B.bias, but lora_bias in the config is not set",
        ),
    ],
)
def test_damaged_tensors_leave_nothing(tmp_path, two, change, message):
    rewrite(two[1], change)
    before = sorted(tmp_path.iterdir())
    for weights, method in (((0.9, 0.1), "exact"), ((0.1, 0.9), "exact"), ((0.9, 0.1), "ties")):
        with pytest.raises(ArtifactError, match=message):
            merge(two, MergeSettings(weights=weights, method=method, out=tmp_path / "m"))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("tensor", "hint"),
    [
        ("model.layers.0.input_layernorm.weight", "frozen weight of the base model"),
        ("model.layers.0.self_attn.q_proj.base_layer.weight", "frozen weight of the base model"),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "lacks use_dora"),
    ],
)
def test_other_tensors_are_told_for_what_they_are(tmp_path, two, tensor, hint):
    rewrite(two[1], lambda tensors: tensors | {f"base_model.model.{tensor}": torch.ones(64)})
    with pytest.raises(ArtifactError, match="is not a LoRA factor") as caught:
        read_adapter(two[1])
    assert hint in str(caught.value.hint)


def test_an_alpha_of_zero_is_known_from_verl(two):
    reconfigure(two[0], lora_alpha=0)
    with pytest.raises(ArtifactError, match="'lora_alpha' is not a positive number") as caught:
        read_adapter(two[0])
    assert "verl" in str(caught.value.hint)


def test_a_config_may_begin_with_a_byte_order_mark(tmp_path, two):
    config = two[0] / "adapter_config.json"
    config.write_bytes(codecs.BOM_UTF8 + config.read_bytes())
    merge(two[:1], MergeSettings(weights=(1.0,), out=tmp_path / "m"))
    json.loads((tmp_path / "m" / "adapter_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": math.nan}, "'r' is not a positive whole number"),
        ({"r": 4.5}, "'r' is not a positive whole number"),
        ({"lora_alpha": math.inf}, "'lora_alpha' is not a positive number"),
        ({"lora_alpha": -8}, "'lora_alpha' is not a positive number"),
        ({"rank_pattern": {"q_proj": 0}}, "'q_proj' in rank_pattern is not a positive whole"),
        ({"alpha_pattern": {"q_proj": "x"}}, "'q_proj' in alpha_pattern is not a positive number"),
        ({"alpha_pattern": {"(": 1}}, "is not a regular expression"),
        ({"alpha_pattern": [1]}, "'alpha_pattern' is not a table"),
        ({"rank_pattern": {"q_proj": 3}}, r"do not fit rank 3 in .*a.adapter_config\.json$"),
        ({"r": 8}, r"do not fit rank 8 in .*a.adapter_config\.json$"),
        ({"lora_alpha": 10**400}, "'lora_alpha' is not a positive number"),
        ({"rank_pattern": {"q_proj": 10**400}}, "'q_proj' in rank_pattern is not a positive whole"),
        (
            {"layers_pattern": "layers("},
            r"'layers\(' in layers_pattern is not a regular expression",
        ),
        ({"layers_pattern": ["h", "("]}, r"'\(' in layers_pattern is not a regular expression"),
        ({"layers_pattern": 3}, "'layers_pattern' is not a list of names or a pattern"),
        ({"modules_to_save": ["lm_head("]}, "in modules_to_save is not a regular expression"),
        ({"peft_type": "LOHA"}, "not the config of a LoRA adapter"),
    ],
)
def test_damaged_configs_are_told(tmp_path, two, changes, message):
    reconfigure(two[0], **changes)
    with pytest.raises(ArtifactError, match=message):
        merge(two, MergeSettings(weight=0.9, out=tmp_path / "m"))


def test_files_that_are_not_safetensors_are_refused_unread(tmp_path, two):
    weights = two[0] / "adapter_model.safetensors"
    settings = MergeSettings(weight=0.9, out=tmp_path / "m")
    data = weights.read_bytes()
    for damage in (data[:-10], data[:5], b"", b"PK\x03\x04" + data):
        weights.write_bytes(damage)
        with pytest.raises(ArtifactError, match="not a valid safetensors file"):
            merge(two, settings)
    weights.unlink()
    (two[0] / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    for path in (two[0], two[0] / "adapter_model.bin"):
        with pytest.raises(ArtifactError, match="no such file|not a safetensors file") as caught:
            merge([path, two[1]], settings)
        assert "pickle" in caught.value.hint
    (two[0] / "adapter_model.safetensors").write_bytes(data)
    for text in (b"[" * 100_000, b"9" * 5000):
        (two[0] / "adapter_config.json").write_bytes(text)
        with pytest.raises(ArtifactError, match="adapter_config.json: not JSON"):
            merge(two, settings)
    (two[0] / "adapter_config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ArtifactError, match="adapter_config.json:1: not JSON"):
        merge(two, settings)


def test_a_pointer_of_git_lfs_is_named(tmp_path, two):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1024\n"
    (two[0] / "adapter_model.safetensors").write_bytes(pointer)
    with pytest.raises(ArtifactError, match="a Git LFS pointer, not the file itself") as caught:
        merge(two, MergeSettings(weight=0.9, out=tmp_path / "m"))
    assert "git lfs pull" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("pytorch_model_fsdp_0/__0_0.distcp", "accelerate merge-weights"),
        ("global_step10/mp_rank_00_model_states.pt", "zero_to_fp32.py"),
    ],
)
def test_weights_of_a_sharded_training_are_named(tmp_path, two, name, command):
    (two[0] / "adapter_model.safetensors").unlink()
    (two[0] / name).parent.mkdir()
    (two[0] / name).write_bytes(b"x")
    with pytest.raises(ArtifactError, match="no such file") as caught:
        merge(two, MergeSettings(weight=0.9, out=tmp_path / "m"))
    assert command in caught.value.hint


def test_a_file_without_permission_is_said_to_be_one(two, monkeypatch):
    """For the tests may run as root, whom nothing is forbidden."""

    def forbid(*_, **__):
        raise PermissionError

    def miss(*_, **__):  # what safetensors says of it
        raise FileNotFoundError

    monkeypatch.setattr("adaptermix.files.tensors.safe_open", miss)
    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(PermissionError):
        read_adapter(two[0] / "adapter_model.safetensors")


def test_links_in_a_circle_are_no_input_and_no_output(tmp_path, two):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for paths, out, message in (
        ([loop, two[1]], tmp_path / "m", "loop: no such file"),
        (two, loop, "loop exists"),
        (two, loop / "m", "loop is not a folder"),
    ):
        with pytest.raises(AdaptermixError, match=message):
            merge(paths, MergeSettings(weight=0.9, out=out))


def test_an_output_never_takes_an_input_along(tmp_path, two, monkeypatch):
    (tmp_path / "link").symlink_to(two[0])
    monkeypatch.chdir(two[0])
    for out, words in (
        (two[0], "one of the inputs"),
        (tmp_path / "link", "one of the inputs"),
        (two[0] / "new" / "m", "inside the input"),
        (tmp_path, "contains the input"),
        (Path(".."), "contains the input"),
        (Path("inside"), "inside the input"),
    ):
        with pytest.raises(ConfigError, match=words):
            merge(two, MergeSettings(weight=0.9, out=out), force=True)
    assert (two[0] / "adapter_model.safetensors").exists()


def test_an_existing_output_is_replaced_with_force_only(tmp_path, two):
    settings = MergeSettings(weight=0.9, out=tmp_path / "m")
    (tmp_path / "m").write_text("kept")
    with pytest.raises(ArtifactError, match="m exists"):
        merge(two, settings)
    assert (tmp_path / "m").read_text() == "kept"
    assert merge(two, settings, force=True).written
    assert read_adapter(tmp_path / "m").record["method"] == "exact"


@pytest.mark.parametrize("method", ["factor-average", "peft-linear"])
def test_factors_of_different_ranks_cannot_be_added(tmp_path, model_dir, two, method):
    other = trained(model_dir, tmp_path / "c", 3, rank_pattern={"layers.2.mlp.down_proj": 6})
    settings = MergeSettings(weight=0.9, method=method, out=tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"layers\.2\.mlp\.down_proj has ranks 4, 6"):
        merge([two[0], other], settings)


def test_a_result_that_overflows_is_refused(tmp_path, two):
    for options, error in (
        ({"weights": (1e6, 1.0), "out_dtype": "float16"}, ConfigError),
        ({"weights": (1e300, 1.0)}, ConfigError),
        ({"weights": (1e12, 1.0), "out_dtype": "float16", "method": "ties"}, ArtifactError),
        ({"weights": (1.7e308, 0.0)}, ConfigError),
        ({"weights": (1.7e308, 0.0), "out_dtype": "float16"}, ConfigError),
        ({"weights": (1e-323, 0.0)}, ConfigError),
    ):
        before = sorted(tmp_path.iterdir())
        for path in two:
            reconfigure(path, lora_alpha=64 if options["weights"][0] > 1 else 1)
        with pytest.raises(error, match="too large"):
            merge(two, MergeSettings(**options, out=tmp_path / "m"))
        assert sorted(tmp_path.iterdir()) == before


def test_large_numbers_that_do_not_overflow_are_merged(tmp_path, two):
    """Their bound is above float16's largest number; the sum itself is not."""
    for path in two:
        rewrite(path, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
        reconfigure(path, lora_alpha=4)

    largest = torch.finfo(torch.float16).max

    def grow(tensors):
        name = next(name for name in tensors if "lora_A" in name)
        tensors[name][0, 0] = largest
        return tensors

    rewrite(two[0], grow)
    merge(two, MergeSettings(weights=(1.5, 0.5), out=tmp_path / "m"))
    merged = dict(read_adapter(tmp_path / "m").updates())
    assert max(update.a.max() for update in merged.values()) == largest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bias: bias * math.nan, r"lora_B.bias contains NaN or infinity"),
        (lambda bias: bias + math.inf, r"lora_B.bias contains NaN or infinity"),
        (lambda bias: bias[1:], r"lora_B.bias does not have \d+ rows"),
    ],
)
def test_damaged_biases_are_refused(tmp_path, qwen_dir, change, message):
    for name, seed in (("a", 1), ("b", 2)):
        trained(qwen_dir, tmp_path / name, seed, lora_bias=True, **ATTENTION)

    def spoil(tensors):
        name = next(name for name in tensors if name.endswith("lora_B.bias"))
        return tensors | {name: change(tensors[name])}

    rewrite(tmp_path / "b", spoil)
    with pytest.raises(ArtifactError, match=message):
        merge([tmp_path / "a", tmp_path / "b"], MergeSettings(weight=0.9, out=tmp_path / "m"))


@pytest.mark.parametrize("weights", ["a,b", "nan,1", "inf,0", "0.5;0.5"])
def test_weights_that_are_no_numbers_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        MergeSettings(weights=weights)


@pytest.mark.parametrize("weights", ["", "1"])
def test_weights_that_are_too_few_are_refused(tmp_path, two, weights):
    with pytest.raises(ConfigError, match="numbers? for 2 adapters"):
        merge(two, MergeSettings(weights=weights, out=tmp_path / "m"))

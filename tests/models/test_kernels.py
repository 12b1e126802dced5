"""Compiled blocks and Liger's kernels; tests/system/test_kernels.py trains with them."""

import sys

import pytest
import torch
from helpers.models import save_model
from helpers.training import task_settings
from torch._inductor.utils import fresh_cache
from transformers import GPT2Config, GPT2LMHeadModel

from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.models.kernels import (
    check_kernels,
    compile_blocks,
    compiler_errors,
    liger_kernels,
)
from adaptermix.models.loading import load_model
from adaptermix.models.lora import with_lora


@pytest.mark.parametrize("option", ["compile", "liger"])
def test_sharded_models_have_neither(monkeypatch, option):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=f"--{option} does not work with FSDP"):
        check_kernels(task_settings("x", None, "x", **{option: True}))
    check_kernels(task_settings("x", None, "x"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compile": True}, "--liger and --compile replace the same code"),
        ({"target_parameters": ("mlp.experts.down_proj",), "dropout": 0}, "--liger replaces"),
    ],
)
def test_liger_is_not_combined_with_what_it_replaces(changes, message):
    with pytest.raises(ValueError, match=message):
        task_settings("x", None, "x", liger=True, **changes)


def adapted(folder):
    settings = task_settings(folder, None, "x")
    return with_lora(load_model(folder, settings), settings, "CAUSAL_LM")


def test_compiled_blocks_keep_the_names_of_their_modules(model_dir):
    model = adapted(model_dir)
    names = [name for name, _ in model.named_modules()]
    keys = list(model.state_dict())
    compile_blocks(model)
    blocks = model.get_base_model().model.layers
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert [name for name, _ in model.named_modules()] == names
    assert list(model.state_dict()) == keys


def gpt2(folder):
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return adapted(folder)


def test_blocks_are_found_under_other_names(tmp_path):
    model = gpt2(tmp_path)
    compile_blocks(model)
    blocks = model.get_base_model().transformer.h
    assert all(block._compiled_call_impl is not None for block in blocks)


def test_a_model_without_blocks_is_not_compiled(tmp_path):
    model = gpt2(tmp_path)
    del model.get_base_model().transformer.h
    with pytest.raises(ArtifactError, match="--compile: GPT2LMHeadModel has no list of blocks"):
        compile_blocks(model)


@pytest.mark.slow
def test_a_compiler_that_fails_is_named(tmp_path):
    """The real one of torch, with a C++ compiler that writes nothing."""
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo 1 && exit\nexit 1\n')
    broken.chmod(0o755)
    double = torch.compile(lambda x: x * 2, options={"cpp.cxx": (None, str(broken))})
    with (
        fresh_cache(),
        pytest.raises(ArtifactError, match="--compile: torch cannot compile Some: C"),
        compiler_errors("Some"),
    ):
        double(torch.ones(3))


MLPS = {"llama": "LigerSwiGLUMLP", "qwen2": "LigerSwiGLUMLP", "gemma2": "LigerGEGLUMLP"}


@pytest.mark.slow
@pytest.mark.parametrize("layout", MLPS)
def test_liger_replaces_norms_rotations_and_mlps(tmp_path, layout):
    """With the real package, which is imported without a GPU but cannot run there."""
    pytest.importorskip("liger_kernel")
    model = adapted(save_model(tmp_path, layout))
    base = model.get_base_model()
    code = sys.modules[type(base).__module__]
    before = dict(vars(code))
    count = sum("RMSNorm" in type(module).__name__ for module in model.modules())
    forward = base.forward
    with liger_kernels(model):
        replaced = [module._get_name() for module in model.modules()]
        assert replaced.count("LigerRMSNorm") == count
        assert replaced.count(MLPS[layout]) == 4
        assert code.apply_rotary_pos_emb.__name__ == "liger_rotary_pos_emb"
        assert base.forward == forward  # the loss is ours
        assert vars(code) != before
    assert vars(code) == before  # the next model of the process has the code of transformers


def test_liger_has_no_kernels_for_some_models(tmp_path):
    pytest.importorskip("liger_kernel")
    message = r"--liger: Liger has no kernels for GPT2LMHeadModel \(gpt2\)"
    with pytest.raises(ArtifactError, match=message), liger_kernels(gpt2(tmp_path)):
        pass

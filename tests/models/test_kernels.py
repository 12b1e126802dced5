"""What --compile and --liger need; tests/system/test_kernels.py trains with them."""

import sys
from importlib.machinery import ModuleSpec

import pytest
import torch
from helpers.models import save_model
from helpers.training import task_settings
from torch._inductor.utils import fresh_cache
from transformers import GPT2Config, GPT2LMHeadModel

from adaptermix.cli.doctor import kernel_checks
from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.models import kernels
from adaptermix.models.kernels import (
    check_kernels,
    compile_blocks,
    compiler_errors,
    liger_kernels,
    why_no_compile,
    why_no_liger,
)
from adaptermix.models.loading import load_model
from adaptermix.models.lora import with_lora
from adaptermix.training.task import train_task


@pytest.fixture
def no_tools(monkeypatch):
    """No compiler is on the path."""
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


def executable(path):
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def found(monkeypatch, *packages):
    spec = {name: ModuleSpec(name, None) for name in packages}
    monkeypatch.setattr(kernels, "find_spec", spec.get)


def test_compilation_needs_a_compiler_of_the_devices_language(no_tools, monkeypatch, tmp_path):
    found(monkeypatch, "triton")
    monkeypatch.setattr(sys, "platform", "linux")
    on_cpu, on_gpu = why_no_compile(False), why_no_compile(True)
    assert on_cpu.message == "--compile needs a C++ compiler: g++ is not installed"
    assert on_gpu.message == "--compile needs a C compiler: gcc or clang is not installed"
    monkeypatch.setenv("CXX", executable(tmp_path / "own"))
    assert why_no_compile(False) is None
    monkeypatch.setenv("CXX", "gone")
    assert "gone is not installed" in why_no_compile(False).message
    executable(tmp_path / "clang")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_no_compile(True) is None
    found(monkeypatch)
    assert why_no_compile(True).hint == "pip install triton"


def test_liger_needs_a_gpu_and_its_package(monkeypatch):
    assert why_no_liger(False).message.startswith("--liger needs a GPU")
    found(monkeypatch)
    assert why_no_liger(True).hint == 'pip install "adaptermix[liger]"'
    found(monkeypatch, "liger_kernel")
    assert why_no_liger(True) is None


@pytest.mark.parametrize("option", ["compile", "liger"])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_doctor_says_what_the_training_says(no_tools, monkeypatch, tmp_path, option, has_gpu):
    found(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    (check,) = (c for c in kernel_checks(has_gpu) if c.name == f"train-task --{option}")
    settings = task_settings(tmp_path / "no-model", None, tmp_path / "x", **{option: True})
    with pytest.raises(ResourceError) as refused:  # before the model is looked for
        train_task(settings)
    assert (check.state, check.found, check.fix) == (
        "missing",
        refused.value.message,
        refused.value.hint,
    )


def test_doctor_says_that_both_work(monkeypatch, tmp_path):
    found(monkeypatch, "triton", "liger_kernel")
    monkeypatch.setenv("CC", executable(tmp_path / "cc"))
    assert [(check.state, check.fix) for check in kernel_checks(True)] == [("ok", "")] * 2


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


def test_plans_need_neither_compiler_nor_gpu(no_tools, model_dir, corpus_dir, tmp_path):
    settings = task_settings(model_dir, corpus_dir, tmp_path / "x", compile=True)
    assert train_task(settings, dry_run=True).planned_steps == 12


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

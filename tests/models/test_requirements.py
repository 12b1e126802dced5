"""What --compile and --liger need, as doctor and the training say it."""

import sys
from importlib.machinery import ModuleSpec

import pytest
import torch
from helpers.training import task_settings

from adaptermix.cli.doctor import kernel_checks
from adaptermix.errors import ResourceError
from adaptermix.models import requirements
from adaptermix.models.requirements import why_no_compile, why_no_liger
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
    monkeypatch.setattr(requirements, "find_spec", spec.get)


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


def test_plans_need_neither_compiler_nor_gpu(no_tools, model_dir, corpus_dir, tmp_path):
    settings = task_settings(model_dir, corpus_dir, tmp_path / "x", compile=True)
    assert train_task(settings, dry_run=True).planned_steps == 12

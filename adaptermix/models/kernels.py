"""Faster code for a model's blocks in training: torch.compile, and Liger's Triton kernels."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from adaptermix.errors import ArtifactError, ConfigError, first_line
from adaptermix.models.blocks import find_blocks
from adaptermix.models.requirements import why_no_compile, why_no_liger
from adaptermix.processes import shards_model
from adaptermix.settings.training import TrainTaskSettings

# Liger's own losses would replace the loss on answers only.
_KEPT_LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}


def check_kernels(settings: TrainTaskSettings) -> None:
    """Check that this machine can compile or run Liger's kernels, if requested.

    Raises:
        ConfigError: The model is sharded over several processes.
        ResourceError: A compiler, a package or a GPU is missing.
    """
    if not (settings.compile or settings.liger):
        return
    flag, why = ("--compile", why_no_compile) if settings.compile else ("--liger", why_no_liger)
    if shards_model():
        raise ConfigError(f"{flag} does not work with FSDP", hint=f"train without {flag}")
    if (error := why(torch.cuda.is_available())) is not None:
        raise error


@contextmanager
def faster_blocks(model: Any, settings: TrainTaskSettings) -> Iterator[None]:
    """Compile a model's blocks, or let them use Liger's kernels, as the settings request.

    Raises:
        ArtifactError: The model's class has no blocks or no Liger kernels, or torch cannot
            compile its blocks.
    """
    if settings.liger:
        with liger_kernels(model):
            yield
    elif settings.compile:
        compile_blocks(model)
        with compiler_errors(type(model.get_base_model()).__name__):
            yield
    else:
        yield


def compile_blocks(model: Any) -> None:
    """Compile each block of a PEFT model's decoder, in place.

    All blocks share their code and differ in their weights only, so they share what is compiled:
    a pass for training, for the first block, and for evaluation. The model's own forward pass is
    left alone, and no module gets another name.

    Raises:
        ArtifactError: The decoder has no list of blocks.
    """
    base = model.get_base_model()
    blocks = find_blocks(base)
    if not blocks:
        raise ArtifactError(
            f"--compile: {type(base).__name__} has no list of blocks",
            hint="train without --compile",
        )
    for block in blocks:
        # With torch's own random numbers, dropout drops what it drops without compilation.
        block.compile(dynamic=True, options={"fallback_random": True})


@contextmanager
def compiler_errors(name: str) -> Iterator[None]:
    """Turn the exceptions of torch's compiler into a one-line error."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        raise ArtifactError(
            f"--compile: torch cannot compile {name}: {first_line(cause)}",
            hint="train without --compile",
        ) from error


@contextmanager
def liger_kernels(model: Any) -> Iterator[None]:
    """Let a PEFT model's norms, rotations and MLPs use Liger's kernels within a context.

    Liger also replaces functions and classes in the modules of transformers, for all models of
    the process. They are restored at the end.

    Raises:
        ArtifactError: Liger has no kernels for the model's class.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers.integrations.liger import apply_liger_kernel

    base = model.get_base_model()
    if base.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ArtifactError(
            f"--liger: Liger has no kernels for {type(base).__name__} ({base.config.model_type})",
            hint="train without --liger",
        )
    logging.getLogger("liger_kernel").setLevel(logging.ERROR)  # warns of backends it can do without
    before = {
        module: dict(vars(module))
        for name, module in sys.modules.items()
        if name.startswith("transformers.models.") and ".modeling_" in name
    }
    try:
        apply_liger_kernel(model, _KEPT_LOSSES)
        yield
    finally:
        for module, held in before.items():
            vars(module).update(held)

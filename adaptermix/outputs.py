"""Files and folders that appear whole or not at all, and safetensors written tensor by tensor."""

import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptermix.errors import ArtifactError, ConfigError, ResourceError

# The names that the safetensors format has for them.
DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_SLACK = 4096  # bytes that metadata may grow by while tensors are written


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor will be, before it is there."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.dtype.itemsize * int(torch.Size(self.shape).numel())


def write_tensors(
    path: Path,
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[Tensor],
    metadata: Callable[[], Mapping[str, str]],
) -> None:
    """Write a safetensors file while its tensors are being made; few are in memory at a time.

    One tensor is written in a second thread while the next is made. The header comes last, into
    room left for it, so that the metadata may tell of what was written.

    Args:
        path: New file.
        specs: All tensors, in the order they will come in.
        tensors: The tensors.
        metadata: Called before and after; the second answer is kept. It may be a few thousand
            bytes longer than the first.
    """
    entries: dict[str, Any] = {}
    offset = 0
    for name, spec in specs.items():
        entries[name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.size],
        }
        offset += spec.size
    room = (len(_header(metadata(), entries)) + _SLACK) // 8 * 8
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
        file.seek(8 + room)
        writing: Future[None] | None = None
        for spec, tensor in zip(specs.values(), tensors, strict=True):
            if (tensor.dtype, tuple(tensor.shape)) != (spec.dtype, spec.shape):
                raise ValueError(f"expected {spec}, got {tensor.dtype} {list(tensor.shape)}")
            if writing:
                writing.result()
            writing = pool.submit(_write, file, tensor)
        if writing:
            writing.result()
        header = _header(metadata(), entries)
        if len(header) > room:
            raise AssertionError(f"metadata grew by more than {_SLACK} bytes")
        file.seek(0)
        file.write(struct.pack("<Q", room) + header.ljust(room))


def _header(metadata: Mapping[str, str], entries: Mapping[str, Any]) -> bytes:
    header = {"__metadata__": dict(metadata), **entries}
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()


def _write(file: Any, tensor: Tensor) -> None:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    while data:  # an unbuffered file may take a part only
        data = data[file.write(data) :]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that people can read as well."""
    text = json.dumps(content, indent=2, sort_keys=True, default=str, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def check_output(path: Path, force: bool) -> None:
    """Refuse an output that exists, or whose name can be no directory's nor file's we write.

    Raises:
        ArtifactError: Something is at ``path`` and ``force`` is not set.
        ConfigError: The name ends in another suffix of model files, lies inside a file, or is
            the current folder or one above it.
    """
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".gguf"):
        raise ConfigError(
            f"--out {path}: adapters are written as a .safetensors file or as a directory"
        )
    if (path.exists() or path.is_symlink()) and not force:
        raise ArtifactError(f"{path} exists", hint="choose another --out, or pass --force")
    if not path.name or Path.cwd().is_relative_to(path.resolve()):
        raise ConfigError(f"--out {path}: holds the folder you are in")
    for parent in path.parents:
        if (parent.exists() or parent.is_symlink()) and not parent.is_dir():
            raise ConfigError(f"--out {path}: {parent} is no folder")


@contextmanager
def whole_output(path: Path) -> Iterator[Path]:
    """Give a path beside the output to write to; it takes the output's place when all went well.

    What was at ``path`` is replaced, so the caller asks first. After an error nothing is left,
    and what was there is there again.

    Raises:
        ResourceError: The folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ResourceError(f"{path.parent}: cannot be written to: {error.strerror}") from error
    partial, replaced = work / path.name, work / "replaced"
    try:
        yield partial
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder or (partial.is_dir() and (path.exists() or path.is_symlink())):
            path.rename(replaced)  # a folder neither replaces nor is replaced in one step
        partial.replace(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)

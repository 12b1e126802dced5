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

from adaptermix.errors import ArtifactError, ConfigError

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
}
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
        metadata: Called before and after; the second answer is kept.
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
    """Refuse an output that exists, or whose name is neither a directory's nor a file's we write.

    Raises:
        ArtifactError: Something is at ``path`` and ``force`` is not set.
        ConfigError: The name ends in another suffix of model files.
    """
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".gguf"):
        raise ConfigError(
            f"--out {path}: adapters are written as a .safetensors file or as a directory"
        )
    if (path.exists() or path.is_symlink()) and not force:
        raise ArtifactError(f"{path} exists", hint="choose another --out, or pass --force")


@contextmanager
def whole_output(path: Path) -> Iterator[Path]:
    """Give a path beside the output to write to; it takes the output's place when all went well.

    What was at ``path`` is replaced, so the caller asks first. After an error nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        partial = work / path.name
        yield partial
        if path.is_dir() and not path.is_symlink():
            path.rename(work / "replaced")
        partial.replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)

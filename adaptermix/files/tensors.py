"""Safetensors files: memory-mapped and written one tensor at a time."""

import errno
import json
import math
import os
import re
import struct
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np
from blake3 import blake3
from safetensors import SafetensorError, safe_open

from adaptermix.errors import ArtifactError

_LFS = b"version https://git-lfs."  # start of a pointer file
DTYPES: dict[str, np.dtype] = {  # by their names in the safetensors format
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "C64": np.dtype(np.complex64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_CHUNK = 1 << 20  # bytes hashed at a time
_SAMPLE = 4096  # bytes of a layer's tensor that are read at one place
_STRIDE = 1 << 20  # bytes between these places: less than an expert or a projection in large models
_IN_LAYER = re.compile(r"\.\d+\.")
_SLACK = 4096  # bytes by which metadata may grow while tensors are written


class TensorSpec(NamedTuple):
    """The dtype and shape of a tensor."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


class Tensors(Protocol):
    """Named tensors that are read one at a time."""

    specs: dict[str, TensorSpec]
    metadata: dict[str, str]

    @property
    def size(self) -> int:
        """Number of bytes on disk."""

    def hash(self) -> str:
        """Return a hash of all tensors."""

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor by name."""


class TensorFile:
    """A safetensors file, checked by the safetensors library.

    Every tensor is mapped separately for as long as it is referenced, so that the pages that were
    read do not count as this process's memory permanently.

    Attributes:
        path: The file.
        specs: Specs of its tensors by name.
        metadata: Metadata strings in its header.
    """

    def __init__(self, path: Path) -> None:
        """Open and check the file.

        Raises:
            ArtifactError: The file is not a complete safetensors file, or it has an unknown dtype.
        """
        self._file = path.open("rb")  # safe_open reports "no such file" for missing permissions
        weakref.finalize(self, self._file.close)
        try:
            with safe_open(path, framework="numpy") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                parts = [(name, file.get_slice(name)) for name in file.offset_keys()]
                listed = [(name, part.get_dtype(), part.get_shape()) for name, part in parts]
        except SafetensorError as error:
            if self._file.read(len(_LFS)) == _LFS:
                raise ArtifactError(
                    f"{path}: a Git LFS pointer, not the file itself",
                    hint="run `git lfs pull` in its folder to download the file",
                ) from error
            raise ArtifactError(
                f"{path}: not a valid safetensors file: {error}",
                hint="copy or download it again; only safetensors is supported",
            ) from error
        self.path = path
        self.specs: dict[str, TensorSpec] = {}
        self._starts: dict[str, int] = {}
        end = 8 + struct.unpack("<Q", self._file.read(8))[0]
        for name, dtype, shape in listed:  # contiguous, without gaps
            if dtype not in DTYPES:
                raise ArtifactError(f"{path}: {name} has the unsupported type {dtype}")
            self.specs[name] = TensorSpec(DTYPES[dtype], tuple(shape))
            self._starts[name], end = end, end + self.specs[name].size

    @property
    def size(self) -> int:
        """Number of bytes on disk."""
        return self.path.stat().st_size

    def hash(self) -> str:
        """Return the BLAKE3 hash of all bytes."""
        digest = blake3()
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()

    def sampled_hash(self) -> str:
        """Return the BLAKE3 hash of samples of all layers, and of all bytes of other tensors.

        The rows of a few tokens may be all that differs in embeddings. A layer's tensor differs as
        a whole, or in parts, such as an expert or the keys of a projection.
        """
        digest = blake3()
        for name, spec in self.specs.items():
            length, step = (_SAMPLE, _STRIDE) if _IN_LAYER.search(name) else (_CHUNK, _CHUNK)
            last = max(spec.size - length, 0)
            for at in (*range(0, last, step), last // 2, last):
                self._file.seek(self._starts[name] + at)
                digest.update(self._file.read(min(spec.size, length)))
        return digest.hexdigest()

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as a copy-on-write view of the file."""
        dtype, shape = self.specs[name]
        if 0 in shape:
            return np.empty(shape, dtype)
        mapped = np.memmap(self._file, dtype, "c", self._starts[name], shape or (1,))
        return np.asarray(mapped).reshape(shape)


def write_tensors(
    path: Path,
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[np.ndarray],
    metadata: Callable[[], Mapping[str, str]],
) -> None:
    """Write a safetensors file while its tensors are produced, with one in memory at a time.

    The header is written last, into space reserved for it, so that the metadata may describe what
    was written.

    Args:
        path: The new file.
        specs: Specs of all tensors, in the order of ``tensors``.
        tensors: The tensors.
        metadata: Called before and after writing. The second result is written, and may be a few
            thousand bytes longer than the first.
    """
    entries: dict[str, Any] = {}
    end = 0
    for name, spec in specs.items():
        start, end = end, end + spec.size
        entries[name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": spec.shape,
            "data_offsets": (start, end),
        }
    listed = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
    room = (len(_header(metadata(), listed)) + _SLACK) // 8 * 8
    with path.open("wb") as file:
        _reserve(file.fileno(), 8 + room + end)
        file.seek(8 + room)
        for spec, tensor in zip(specs.values(), tensors, strict=True):
            if (tensor.dtype, tensor.shape) != spec:
                raise ValueError(f"expected {spec}, got {tensor.dtype} {list(tensor.shape)}")
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
        header = _header(metadata(), listed)
        if len(header) > room:
            raise AssertionError(f"metadata grew by more than {_SLACK} bytes")
        file.seek(0)
        file.write(struct.pack("<Q", room) + header.ljust(room))


def _reserve(file: int, size: int) -> None:
    """Reserve the file's disk space in advance, so that a full disk fails before any work."""
    if sys.platform != "linux":  # elsewhere Python has no such call, or one that writes zeros
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not supported by the file system
            raise


def _header(metadata: Mapping[str, str], listed: str) -> bytes:
    """Return the header: the metadata, followed by the tensor list in JSON."""
    told = json.dumps({"__metadata__": dict(metadata)}, ensure_ascii=False)
    return (told if listed == "{}" else f"{told[:-1]},{listed[1:]}").encode()

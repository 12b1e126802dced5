"""Safetensors files: mapped into memory tensor by tensor, written tensor by tensor."""

import errno
import json
import math
import os
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

DTYPES: dict[str, np.dtype] = {  # by the names that the safetensors format has for them
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
_CHUNK = 1 << 20  # bytes that are hashed at a time
_SLACK = 4096  # bytes that metadata may grow by while tensors are written


class TensorSpec(NamedTuple):
    """What a tensor will be, before it is there."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


class Tensors(Protocol):
    """Named tensors that are read one at a time."""

    specs: dict[str, TensorSpec]
    metadata: dict[str, str]

    @property
    def size(self) -> int:
        """Number of bytes on disk."""

    def hash(self) -> str:
        """Return a hash of all of them."""

    def tensor(self, name: str) -> np.ndarray:
        """Return one of them."""


class TensorFile:
    """A safetensors file, checked by the safetensors library.

    Every tensor is mapped by itself, for as long as it is held, so that what was read does not
    count as this process's memory for good.

    Attributes:
        path: The file.
        specs: Its tensors.
        metadata: Strings in its header.
    """

    def __init__(self, path: Path) -> None:
        """Open and check the file.

        Raises:
            ArtifactError: Not a whole safetensors file, or one with types that are not known.
        """
        self._file = path.open("rb")  # safe_open says of one without permission "no such file"
        weakref.finalize(self, self._file.close)
        try:
            with safe_open(path, framework="numpy") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                parts = [(name, file.get_slice(name)) for name in file.offset_keys()]
                listed = [(name, part.get_dtype(), part.get_shape()) for name, part in parts]
        except SafetensorError as error:
            raise ArtifactError(
                f"{path}: not a whole safetensors file: {error}",
                hint="copy or download it again; other formats are not read",
            ) from error
        self.path = path
        self.specs: dict[str, TensorSpec] = {}
        self._starts: dict[str, int] = {}
        end = 8 + struct.unpack("<Q", self._file.read(8))[0]
        for name, dtype, shape in listed:  # one after the other, without holes
            if dtype not in DTYPES:
                raise ArtifactError(f"{path}: {name} has the type {dtype}")
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

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor, a view of the file; changing it does not change the file."""
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
    """Write a safetensors file while its tensors are being made; one at a time is in memory.

    The header comes last, into room left for it, so that the metadata may tell of what was
    written.

    Args:
        path: New file.
        specs: All tensors, in the order they will come in.
        tensors: The tensors.
        metadata: Called before and after; the second answer is kept. It may be a few thousand
            bytes longer than the first.
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
    """Ask for the file's room at once: a full disk is told before anything is made."""
    if sys.platform != "linux":  # elsewhere Python has no call for it, or one that writes zeros
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
            raise


def _header(metadata: Mapping[str, str], listed: str) -> bytes:
    """Put the metadata before the list of tensors, which is JSON already."""
    told = json.dumps({"__metadata__": dict(metadata)}, ensure_ascii=False)
    return (told if listed == "{}" else f"{told[:-1]},{listed[1:]}").encode()

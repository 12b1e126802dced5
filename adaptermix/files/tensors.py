"""Safetensors files: mapped into memory for reading, written tensor by tensor."""

import errno
import json
import math
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adaptermix.errors import ArtifactError

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


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by width in bytes


_CHUNK = 16 << 20  # bytes; smaller ones have threads wait for each other


_BATCH = 3 << 19  # bytes that are written at a time: what was made is still in a core's cache


_BUFFERS = 512  # tensors, at most; the system takes 1024 in one call


_SLACK = 4096  # bytes that metadata may grow by while tensors are written


class TensorSpec(NamedTuple):
    """What a tensor will be, before it is there."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


class TensorFile:
    """A safetensors file whose tensors are views of the mapped file: nothing is copied.

    The file is checked by the safetensors library. Its own tensors cost 30 microseconds each,
    half of the time of a merge of hundreds of small ones.

    Attributes:
        path: The file.
        specs: Its tensors.
        metadata: Strings in its header.
    """

    def __init__(self, path: Path) -> None:
        """Open, check and map the file.

        Raises:
            ArtifactError: Not a whole safetensors file, or one with types that torch lacks.
        """
        with path.open(
            "rb"
        ) as raw:  # first: safe_open says of one without permission "no such file"
            try:
                with safe_open(path, framework="pt") as file:
                    self.metadata: dict[str, str] = file.metadata() or {}
                    parts = [(name, file.get_slice(name)) for name in file.offset_keys()]
                    listed = [(name, part.get_dtype(), part.get_shape()) for name, part in parts]
            except SafetensorError as error:
                raise ArtifactError(
                    f"{path}: not a whole safetensors file: {error}",
                    hint="copy or download it again; other formats are not read",
                ) from error
            self._bytes = memoryview(mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_COPY))
        self.path = path
        self.specs: dict[str, TensorSpec] = {}
        self._places: dict[str, tuple[int, int]] = {}  # the first byte, and the one after the last
        self._views: dict[torch.dtype, Tensor] = {}
        self._start = end = 8 + struct.unpack("<Q", self._bytes[:8])[0]
        for name, dtype, shape in listed:  # one after the other, without holes
            if dtype not in DTYPES:
                raise ArtifactError(f"{path}: {name} has the type {dtype}")
            self.specs[name] = TensorSpec(DTYPES[dtype], tuple(shape))
            start, end = end, end + self.specs[name].size
            self._places[name] = start, end

    def scan(self) -> tuple[str, float]:
        """Hash the file, and find the largest of its numbers while they are at hand.

        Returns:
            The BLAKE3 hash of all bytes; and the largest magnitude, which is NaN where a number
            is, and where the tensors are not of one floating-point type.
        """
        everything, digest = self._bytes, blake3()
        digest.update(everything[: self._start])
        dtype, *others = {spec.dtype for spec in self.specs.values()} or {torch.bool}
        is_one = not others and dtype.is_floating_point and dtype.itemsize > 1
        integers = np.dtype(f"i{dtype.itemsize}") if is_one else None
        largest = 0
        for at in range(self._start, len(everything), _CHUNK):
            chunk = everything[at : at + _CHUNK]
            digest.update(chunk)
            if integers is not None:
                largest = max(largest, _largest_bits(np.frombuffer(chunk, integers)))
        if integers is None:
            return digest.hexdigest(), math.nan
        bits = torch.tensor(largest, dtype=getattr(torch, integers.name))
        return digest.hexdigest(), bits.view(dtype).item()

    def starts_with_zero(self, name: str) -> bool:
        """Whether the first number of a tensor is zero; the tensor takes ten times as long."""
        start = self._places[name][0]
        *others, last = self._bytes[start : start + self.specs[name].dtype.itemsize]
        return not any(others) and last in (0, 0x80)

    def stored(self, name: str, dtype: torch.dtype) -> Tensor | memoryview:
        """Return a tensor in a dtype: if it is its own, the bytes where they lie."""
        if self.specs[name].dtype != dtype:
            return self.tensor(name).to(dtype)
        start, end = self._places[name]
        return self._bytes[start:end]

    def tensor(self, name: str) -> Tensor:
        """Return a tensor; it must not be changed in place."""
        dtype, shape = self.specs[name]
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        (start, end), width = self._places[name], dtype.itemsize
        if start % width:  # an odd header; such numbers cannot be used where they lie
            copied = bytearray(self._bytes[start:end])
            return torch.frombuffer(copied, dtype=dtype).view(shape)
        return self._numbers(dtype).as_strided(shape, _strides(shape), start // width)

    def stack(self, names: Sequence[str]) -> Tensor:
        """Return tensors of one shape as one; it must not be changed in place.

        The layers of a model lie at equal distances in most files, and then this is a view too.
        """
        first, spec = self.tensor(names[0]), self.specs[names[0]]
        if len(names) == 1:
            return first[None]
        starts = [self._places[name][0] for name in names]
        step, *others = {after - start for start, after in pairwise(starts)}
        width = spec.dtype.itemsize
        is_even = not others and step > 0 and step % width == 0 and starts[0] % width == 0
        if not is_even or any(self.specs[name] != spec for name in names):
            return torch.stack([self.tensor(name) for name in names])
        strides = (step // width, *_strides(spec.shape))
        return first.as_strided((len(names), *spec.shape), strides, first.storage_offset())

    def _numbers(self, dtype: torch.dtype) -> Tensor:
        """Return all of the file as numbers of a type.

        A view of it costs half of what a tensor made anew from the file does.
        """
        if dtype not in self._views:
            count = len(self._bytes) // dtype.itemsize
            self._views[dtype] = torch.frombuffer(self._bytes, dtype=dtype, count=count)
        return self._views[dtype]


def write_tensors(
    path: Path,
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[Tensor | Sequence[Tensor | memoryview]],
    metadata: Callable[[], Mapping[str, str]],
) -> None:
    """Write a safetensors file while its tensors are being made; few are in memory at a time.

    The header comes last, into room left for it, so that the metadata may tell of what was
    written.

    Args:
        path: New file.
        specs: All tensors, in the order they will come in.
        tensors: The tensors. One whose rows lie in several places need not be joined: a sequence is
            written part after part, each of them rows or their bytes.
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
    with path.open("wb", buffering=0) as file:
        _reserve(file.fileno(), 8 + room + end)
        file.seek(8 + room)
        for batch in _batches(specs.values(), tensors):
            _write(file, batch)
        header = _header(metadata(), listed)
        if len(header) > room:
            raise AssertionError(f"metadata grew by more than {_SLACK} bytes")
        file.seek(0)
        file.write(struct.pack("<Q", room) + header.ljust(room))


def _reserve(file: int, size: int) -> None:
    """Ask for the file's room at once: writing is faster, and a full disk is told before it."""
    if sys.platform != "linux":  # elsewhere Python has no call for it, or one that writes zeros
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
            raise


def _largest_bits(bits: np.ndarray) -> int:
    """Return the bits of the largest number without its sign: a larger one has larger bits.

    Infinity's are larger than those of any number, and NaN's larger than infinity's.
    """
    unsigned = bits.view(bits.dtype.str.replace("i", "u"))
    without_sign = int(unsigned.max()) & int(np.iinfo(bits.dtype).max)
    return max(int(bits.max()), without_sign)


@cache
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread for a while: on small factors more of them cost time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(
    specs: Iterable[TensorSpec], tensors: Iterable[Tensor | Sequence[Tensor | memoryview]]
) -> Iterator[list[np.ndarray | memoryview]]:
    """Gather the bytes of small tensors, so that writing them takes few calls."""
    batch: list[np.ndarray | memoryview] = []
    size = 0
    for spec, tensor in zip(specs, tensors, strict=True):
        parts = (tensor,) if isinstance(tensor, Tensor) else tensor
        nbytes = _checked_size(spec, parts)
        if nbytes:
            as_integers = _INTEGERS[spec.dtype.itemsize]
            batch += [
                part
                if isinstance(part, memoryview)
                else part.contiguous().view(as_integers).numpy()
                for part in parts
            ]
        size += nbytes
        if size >= _BATCH or len(batch) >= _BUFFERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _checked_size(spec: TensorSpec, parts: Sequence[Tensor | memoryview]) -> int:
    size = 0
    for part in parts:
        size += part.nbytes
        if isinstance(part, memoryview):
            continue
        shape = spec.shape if len(parts) == 1 else (len(part), *spec.shape[1:])
        if part.dtype != spec.dtype or part.shape != shape:
            raise ValueError(f"expected {spec}, got {part.dtype} {list(part.shape)}")
    if size != spec.size:
        raise ValueError(f"expected {spec} of {spec.size} bytes, got {size}")
    return size


def _header(metadata: Mapping[str, str], listed: str) -> bytes:
    """Put the metadata before the list of tensors, which is JSON already."""
    told = json.dumps({"__metadata__": dict(metadata)}, ensure_ascii=False)
    return (told if listed == "{}" else f"{told[:-1]},{listed[1:]}").encode()


def _write(file: Any, buffers: list[Any]) -> None:
    """Write all bytes, in one call unless the system takes a part only."""
    while buffers:
        written = os.writev(file.fileno(), buffers)
        while buffers and written >= buffers[0].nbytes:
            written -= buffers.pop(0).nbytes
        if written:
            buffers[0] = memoryview(buffers[0]).cast("B")[written:]

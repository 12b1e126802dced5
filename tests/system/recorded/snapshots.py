"""What a command said and left behind, as values that can be compared with those of another day.

Paths of the working folder, versions, times and dates become placeholders. JSON is read, text is
kept line by line. A tensor is kept as its shape, its precision, a hash of its bytes, and a sketch:
its Frobenius norm and four numbers that come out the same, up to rounding, whatever wrote it. Of a
LoRA update the sketch is that of the delta weight, scaling B A, and so does not depend on the signs
or the bases of its factors.
"""

import csv
import hashlib
import io
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

CONFIG_KEY = "lora_adapter_metadata"
# Keys of records whose values are another every time, or in every environment.
VERSIONS = (
    "adaptermix numpy torch transformers peft python accelerate transformers_version peft_version "
    "vllm sacrebleu"
).split()
TIMES = re.compile(r"(.*_)?(seconds|time|started|finished|runtime|per_second|memory_bytes)")
LONGEST = 100_000  # characters of a file that is kept as it is
_TEXT = (".txt", ".toml", ".md", ".tex", ".jinja", ".log")
_HASH = re.compile(r"\b[0-9a-f]{64}\b")


# Text --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """What is replaced by placeholders.

    Attributes:
        places: Folders by their placeholders.
        volatile_hashes: Hashes of files that hold versions or times differ everywhere.
    """

    places: Mapping[str, Path]
    volatile_hashes: bool = False

    def text(self, text: str) -> str:
        """Return a text without what changes from run to run."""
        for name, path in self.places.items():
            text = text.replace(str(path), f"<{name}>")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "<escape>", text)
        text = re.sub(r"(?<=version:)\d+(\.\w+)+", "<version>", text)  # in sacreBLEU's signatures
        text = re.sub(r"\A\d+\.\d+\.\d+\w*\n\Z", "<version>\n", text)
        text = re.sub(r"(?<=adaptermix )\d+\.\d+\.\d+\w*", "<version>", text)
        # What libraries say of a failure is told behind our words.
        text = re.sub(r"(?<=deserializing header: ).*", "<reason>", text)
        text = re.sub(r"(?<=from the Hub: ).*", "<reason>", text)
        text = re.sub(r"(?m)^decoding .*tokens/s .*\n?", "", text)  # where a second has passed
        text = re.sub(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?", "<date>", text)
        if self.volatile_hashes:
            text = _HASH.sub("<hash>", text)
        return "\n".join(map(_without_seconds, text.split("\n")))

    def value(self, value: Any, key: str = "") -> Any:
        """Return a JSON value without what changes from run to run."""
        if isinstance(value, dict):
            return {self.text(str(k)): self.value(v, str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [self.value(item, key) for item in value]
        if key in VERSIONS and isinstance(value, str):
            return "<version>"
        if TIMES.fullmatch(key) and isinstance(value, int | float):
            return "<time>"
        return self.text(value) if isinstance(value, str) else value

    def lines(self, text: str) -> list[str]:
        """Return the lines of a text."""
        return self.text(text).splitlines()


def _without_seconds(line: str) -> str:
    """Replace times; a column of them is as wide as the longest, so spaces go as well."""
    replaced = re.sub(r"\b[\d,]+(\.\d+)? s\b", "<time>", line)
    return line if replaced == line else re.sub(r" {2,}", "  ", replaced).rstrip()


def words(text: str) -> list[str]:
    """Return what stands in boxes of help, without the boxes."""
    plain = (re.sub(r"[│╭╮╰╯─]", " ", line) for line in text.splitlines())
    return [line for line in (" ".join(part.split()) for part in plain) if line]


def shape_of(value: Any) -> Any:
    """Return the keys of a JSON value and the types of what they hold."""
    if isinstance(value, dict):
        return {key: shape_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        kinds = {json.dumps(shape_of(item), sort_keys=True) for item in value}
        return [json.loads(kind) for kind in sorted(kinds)]
    return type(value).__name__


# Files -------------------------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return what tells whether a file is still the same, for all files below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            stat = path.stat()
            found[path.relative_to(folder).as_posix()] = (
                stat.st_size,
                stat.st_mtime_ns,
                stat.st_ino,
            )
    return found


def describe(path: Path, rules: Rules) -> Any:
    """Return what a file holds, by its name."""
    end = path.suffix
    if end == ".safetensors":
        return _tensor_file(path, rules)
    if end in (".png", ".sqlite3") or path.name.startswith("events.out"):
        return {"kind": end or "events", "empty": path.stat().st_size == 0}
    try:
        return _describe_text(path.read_text(encoding="utf-8"), end, rules)
    except UnicodeDecodeError:
        return {"bytes": path.stat().st_size, "sha256": _short_hash(path.read_bytes())}


def _describe_text(text: str, end: str, rules: Rules) -> Any:
    if end in (".html", ".svg"):
        return {"words": [rules.text(word) for word in words_of_page(text)]}
    if len(text) > LONGEST:  # a tokenizer, which is a copy
        return {"bytes": len(text.encode()), "sha256": _short_hash(text.encode())}
    if end == ".json":
        return {"json": rules.value(json.loads(text))}
    if end == ".jsonl":
        return {"rows": [rules.value(json.loads(line)) for line in text.splitlines()]}
    if end == ".csv":
        return {"rows": [[_number(cell) for cell in row] for row in csv.reader(io.StringIO(text))]}
    return {"lines": rules.lines(text)} if end in _TEXT else {"bytes": len(text)}


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _number(cell: str) -> Any:
    try:
        return int(cell) if re.fullmatch(r"-?\d+", cell) else float(cell)
    except ValueError:
        return cell


class _Page(HTMLParser):
    """Gathers the text of a page that is seen; that of scripts and styles is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self.hidden and data.strip():
            self.words.append(" ".join(data.split()))


def words_of_page(text: str) -> list[str]:
    """Return the texts of an HTML page or a drawing, in their order."""
    page = _Page()
    page.feed(text)
    return page.words


# Tensors -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def values(self) -> np.ndarray:
        """The numbers, in float64."""
        if self.dtype == "BF16":
            bits = np.frombuffer(self.data, "<u2").astype("<u4") << 16
            flat = bits.view("<f4")
        else:
            kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
            flat = np.frombuffer(self.data, kinds[self.dtype])
        return flat.astype(np.float64).reshape(self.shape)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Stored]]:
    """Return metadata and tensors of a safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + at for at in entry["data_offsets"])
        tensors[name] = Stored(entry["dtype"], tuple(entry["shape"]), content[start:end])
    return metadata, tensors


def _tensor_file(path: Path, rules: Rules) -> dict[str, Any]:
    metadata, tensors = read_tensors(path)
    told = {key: rules.value(_json_or_text(value), key) for key, value in metadata.items()}
    beside = path.with_name("adapter_config.json")
    config = None
    if CONFIG_KEY in metadata:
        config = json.loads(metadata[CONFIG_KEY])
    elif beside.is_file():
        config = json.loads(beside.read_text(encoding="utf-8"))
    return {"metadata": told, "tensors": dict(sorted(_sketches(tensors, config)))}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _sketches(
    tensors: Mapping[str, Stored], config: Mapping[str, Any] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield LoRA updates by module, and other tensors by name."""
    left = dict(tensors)
    for name in tensors:
        if config is None or not re.search(r"\.lora_A\.weight$", name):
            continue
        module = name.removesuffix(".lora_A.weight")
        a = left.pop(name)
        b = left.pop(f"{module}.lora_B.weight")
        short = module.removeprefix("base_model.model.")
        y = _delta(a.values, b.values, _scaling(short, config))
        yield short, _entry((a, b), *y)
    for name, tensor in left.items():
        values = tensor.values.ravel()
        norm = float(np.linalg.norm(values))
        yield name, _entry((tensor,), norm, values * _noise(values.size, 1) * 2)


def _scaling(module: str, config: Mapping[str, Any]) -> float:
    def look_up(pattern: str, default: float) -> float:
        for key, value in (config.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return float(value)
        return float(default)

    rank = look_up("rank_pattern", config["r"])
    alpha = look_up("alpha_pattern", config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _delta(a: np.ndarray, b: np.ndarray, scaling: float) -> tuple[float, np.ndarray]:
    """Return the norm of scaling B A, and its product with random vectors, row by row."""
    energy = float(np.sum((b.T @ b) * (a @ a.T)))
    rows = scaling * (b @ (a @ _noise(a.shape[1], 2)))
    return abs(scaling) * math.sqrt(max(0.0, energy)), rows * _noise(len(b), 3) * 2


def _entry(parts: tuple[Stored, ...], norm: float, weighted: np.ndarray) -> dict[str, Any]:
    """Four sums over every fourth entry; each is about as large as the norm."""
    return {
        "shape": " ".join("x".join(map(str, part.shape)) for part in parts),
        "dtype": " ".join(dict.fromkeys(part.dtype for part in parts)),
        "sha256": _short_hash(b"".join(part.data for part in parts)),
        "norm": _digits(norm),
        "sketch": [_digits(float(weighted[at::4].sum())) for at in range(4)],
    }


def _digits(value: float) -> float:
    return float(f"{value:.9g}")


@cache
def _noise(size: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(size)

"""Sentence representations of every layer, extracted once and cached on disk.

A file holds one system's representations of one language's sentences in all layers: the hidden
states as transformers returns them, with layer 0 the embeddings and the last layer after the final
norm, pooled over tokens in float32. The file name is a hash of everything that they depend on, so a
file never becomes stale.
"""

import hashlib
import json
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from adaptermix.adapters.adapter import Adapter, adapter_hash
from adaptermix.adapters.systems import BASE
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import ArtifactError, DataError, ResourceError, first_line
from adaptermix.files.outputs import cache_folder, whole_output
from adaptermix.files.tensors import TensorFile, TensorSpec, write_tensors
from adaptermix.generation.prompts import pad
from adaptermix.models.blocks import check_hidden_states, check_states, text_decoder
from adaptermix.models.files import check_tokens, context_length, weights_hash
from adaptermix.models.fitting import RowLimit
from adaptermix.models.loading import (
    AdaptedModel,
    compute_dtype,
    load_config,
    load_model,
)
from adaptermix.models.pooling import pool, pooling_weights
from adaptermix.progress import OnProgress, Progress, ignore
from adaptermix.settings.evaluation import RetrievalSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = "representations-1"  # in the cache; the number changes with the layout
TENSOR = "representations"  # [layers sentences hidden]


@dataclass(frozen=True)
class Text:
    """One language's sentences as token IDs, including BOS and other special tokens."""

    lang: str
    ids: list[list[int]]
    truncated: int


def encode_texts(
    texts: Mapping[str, Sequence[str]], tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> list[Text]:
    """Tokenize sentences as they are, with the special tokens that the tokenizer adds to any text.

    Sentences longer than the model's context are truncated.

    Raises:
        DataError: A sentence has no tokens.
    """
    limit = context_length(folder)
    encoded = []
    for lang, sentences in texts.items():
        whole = tokenizer([*sentences], verbose=False)["input_ids"]  # truncation is reported below
        if empty := [at for at, ids in enumerate(whole, start=1) if not ids]:
            raise DataError(
                f"sentence {empty[0]} in '{lang}' has no tokens",
                hint="remove this line from the files of all languages",
            )
        cut = sum(limit is not None and len(ids) > limit for ids in whole)
        check_tokens((max(ids) for ids in whole), folder)
        encoded.append(Text(lang, [list(ids[:limit]) for ids in whole], cut))
    return encoded


def layers_and_width(folder: Path, settings: RetrievalSettings) -> tuple[int, int]:
    """Return the number of layers of hidden states, including the embeddings, and their width.

    Raises:
        ArtifactError: The model's config does not contain them, or the model does not have one
            hidden state per token after every block.
    """
    config = load_config(folder, settings).get_text_config()
    check_hidden_states(config)
    depth, width = (getattr(config, n, None) for n in ("num_hidden_layers", "hidden_size"))
    if not depth or not width:
        raise ArtifactError(
            f"{folder / 'config.json'}: num_hidden_layers or hidden_size is missing"
        )
    return depth + 1, width


class Extractor:
    """Provides representations by system and language, from the cache or else from the model.

    The model is loaded when the first representations are missing.

    Attributes:
        extracted: Number of (system, language) combinations that were computed.
        reused: Number of combinations that were in the cache.
    """

    def __init__(
        self,
        settings: RetrievalSettings,
        folder: Path,
        pad_id: int,
        adapters: Mapping[str, Adapter],
        scratch: Path,
    ) -> None:
        """Store the inputs; no model is loaded yet.

        Args:
            settings: Precision, pooling, batch size, and whether the cache is used.
            folder: Folder of the base model.
            pad_id: ID of the padding token.
            adapters: Adapters by the names of their systems.
            scratch: Folder for temporary files, which are all files if the cache is off.
        """
        self.settings = settings
        self.folder = folder
        self.pad_id = pad_id
        self.adapters = adapters
        self.scratch = scratch
        self.layers, self.width = layers_and_width(folder, settings)
        self.extracted = 0
        self.reused = 0
        self._context = self._hash_context()
        self._limit = RowLimit(settings.batch_size)
        self._model: AdaptedModel | None = None

    def missing(self, systems: Sequence[str], texts: Sequence[Text]) -> list[tuple[str, Text]]:
        """Return the combinations that are not in the cache."""
        return [(s, t) for s in systems for t in texts if not self._path(s, t).is_file()]

    def extract(
        self,
        systems: Sequence[str],
        texts: Sequence[Text],
        on_progress: OnProgress = ignore,
    ) -> dict[tuple[str, str], Path]:
        """Return the file of every system and language, after computing the missing ones.

        Writes are atomic, so a killed run resumes with the language that it was extracting.

        Raises:
            ArtifactError: The model, with or without an adapter, produces non-finite numbers.
            ResourceError: Memory or disk space is insufficient.
        """
        missing = self.missing(systems, texts)
        self.reused += len(systems) * len(texts) - len(missing)
        self._check_room(missing)
        total = sum(len(text.ids) for _, text in missing)
        done = 0
        for system, text in missing:
            stage = f"{system} {text.lang}"
            on_progress(Progress(stage, done, total))
            model = self._switched_to(system)
            with whole_output(self._path(system, text)) as whole:
                for rows in self._write(whole, model, system, text):
                    done += rows
                    on_progress(Progress(stage, done, total))
            self.extracted += 1
        return {(s, t.lang): self._path(s, t) for s in systems for t in texts}

    def size(self, text: Text) -> int:
        """Return the size of one system's representations of a text, in bytes."""
        return 4 * self.layers * len(text.ids) * self.width

    def _check_room(self, missing: Sequence[tuple[str, Text]]) -> None:
        if not missing:
            return
        folder = self._store()
        folder.mkdir(parents=True, exist_ok=True)
        # One extra file, because a text's representations are collected in a temporary file first.
        needed = sum(self.size(text) for _, text in missing)
        needed += max(self.size(text) for _, text in missing)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ResourceError(
                f"{folder}: representations need {needed / 1e9:,.1f} GB, but only "
                f"{free / 1e9:,.1f} GB are free",
                hint="set $ADAPTERMIX_CACHE to a folder on a larger disk, or use fewer --langs",
            )

    def _store(self) -> Path:
        return cache_folder() / FOLDER if self.settings.cache else self.scratch / FOLDER

    def _hash_context(self) -> bytes:
        context = {
            "base": weights_hash(self.folder),
            "transformers": version("transformers"),
            "dtype": str(compute_dtype(self.settings)),
            "pooling": (self.settings.pooling, self.settings.pool_skip),
        }
        return hashlib.sha256(json.dumps(context, sort_keys=True).encode()).digest()

    def _path(self, system: str, text: Text) -> Path:
        """Return a file's path, named by a hash of the model, the adapter and the token IDs."""
        digest = hashlib.sha256(self._context)
        adapter = "" if system == BASE else adapter_hash(self.adapters[system])
        digest.update(f"{adapter}\0{len(text.ids)}".encode())
        for ids in text.ids:
            digest.update(array("q", [len(ids), *ids]).tobytes())
        return self._store() / f"{digest.hexdigest()}.safetensors"

    def _switched_to(self, system: str) -> Any:
        """Return the model with the system's adapter, or without one for the base model."""
        if self._model is None:
            base = load_model(self.folder, self.settings)
            check_states(base)
            self._model = AdaptedModel(base)
        adapter = self.adapters.get(system)
        self._model.switch_to(None if adapter is None else stage_adapter(adapter, self.scratch))
        return self._model.model

    def _write(self, path: Path, model: Any, system: str, text: Text) -> Iterator[int]:
        """Write a text's representations, and yield the number of rows after each batch.

        Batches are sorted by length, so the rows are collected in a file, not in memory.
        """
        shape = (self.layers, len(text.ids), self.width)
        with tempfile.TemporaryFile(dir=path.parent) as scratch:
            scratch.truncate(self.size(text))
            gathered = np.memmap(scratch, np.float32, "r+", shape=shape)
            for rows, pooled in self._batches(model, text):
                gathered[:, rows] = pooled.cpu().numpy()
                yield len(rows)
            _check_finite(gathered, system, text)
            spec = TensorSpec(gathered.dtype, shape)
            write_tensors(path, {TENSOR: spec}, [gathered], dict)

    def _batches(self, model: Any, text: Text) -> Iterator[tuple[list[int], Tensor]]:
        """Yield rows and their representations [layers rows hidden], longest sentences first.

        If a batch does not fit into memory, it is halved.
        """
        order = sorted(range(len(text.ids)), key=lambda row: -len(text.ids[row]))

        def attempt(rows: Sequence[int]) -> tuple[list[int], Tensor]:
            return list(rows), self._pooled(model, [text.ids[row] for row in rows])

        return self._limit.parts(order, attempt, _refusal)

    def _pooled(self, model: Any, rows: list[list[int]]) -> Float[Tensor, "layers rows hidden"]:
        """Run one batch through all blocks, without the LM head, and pool every layer."""
        batch = {name: ids.to(model.device) for name, ids in pad(rows, self.pad_id).items()}
        pooling, skip = self.settings.pooling, self.settings.pool_skip
        weights = pooling_weights(batch["attention_mask"], pooling, skip)
        with torch.inference_mode():
            output = text_decoder(model)(**batch, output_hidden_states=True, use_cache=False)
            return torch.stack([pool(h, weights) for h in output.hidden_states])


def _refusal(rows: int, error: RuntimeError) -> ResourceError:
    return ResourceError(
        f"not enough memory for one sentence: {first_line(error)}",
        hint="use --dtype bfloat16, which needs less memory than float32",
    )


def _check_finite(gathered: np.ndarray, system: str, text: Text) -> None:
    for layer, values in enumerate(gathered):
        if not np.isfinite(values).all():
            raise ArtifactError(
                f"{system}: layer {layer} has values that are not finite, for '{text.lang}'",
                hint="use --dtype bfloat16 or float32, which have a larger range than float16",
            )


def read_layer(path: Path, layer: int) -> Float[Tensor, "sentences hidden"]:
    """Return the representations of one layer as a view of their file.

    The file stays mapped only as long as the view is referenced. With permanent mappings, all pages
    ever read, and finally all representations, would count as this process's memory.
    """
    return torch.from_numpy(TensorFile(path).tensor(TENSOR)[layer])
